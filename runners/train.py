"""--mode=train: fit a UNet2DModel to the training split; an interrupted run continues to the identical result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.fourier import fourier_of
from score_sde_analytic.models.network_training import NetworkRecipe, NetworkTrainer
from score_sde_analytic.models.networks import save_unet
from score_sde_analytic.models.training import Checkpoint, train
from score_sde_analytic.models.training_log import HeldOut
from score_sde_analytic.report import drawing
from score_sde_analytic.uncertainty import Estimate

from . import build, datasets, networks

RECIPE = ("predicts", "steps", "batch_size", "learning_rate", "warmup", "ema", "classes", "drop_labels", "mirror")
BOUND = ("loss", "times", "precision", "log_every", "validate_every")


def recipe(config: ConfigDict) -> NetworkRecipe:
    """config.train's part that says how networks are trained."""
    settings = config.train
    named = {name: settings[name] for name in (*RECIPE, *BOUND)}
    return NetworkRecipe(
        settings.unet.to_dict(), tuple(settings.log_snr), **named, grid=_grid(config), fourier=_fourier(config)
    )


def _grid(config: ConfigDict) -> tuple[float, ...]:
    """Log-SNRs of the steps of the loss "discrete"."""
    settings = config.train
    if settings.loss != "discrete":
        return ()
    low, high = settings.log_snr
    if not settings.grid:
        return tuple(np.linspace(low, high, settings.grid_steps + 1).tolist())
    schedule = networks.configured(config)
    if schedule is None:
        raise InputError("train.grid holds times of config.schedule: set schedule.name to the one it was made for")
    return tuple(float(schedule.log_snr(t)) for t in Grid.load(settings.grid).times if t > 0.0)


def _fourier(config: ConfigDict) -> dict[str, Any]:
    count = config.train.fourier
    return fourier_of(datasets.data_range(config), count) if count else {}


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train, or go on training, and write the network directory; returns what was written."""
    device = build.device(config)
    how = recipe(config)
    pictures = drawing("training", user="the picture of --mode=train")
    examples = datasets.splits(config)
    labels = datasets.labels(config) if how.classes else (None, None, None)
    held_out = HeldOut(examples.validation, labels[1], config.train.validate_draws)
    log = workdir / "training.jsonl"
    try:
        trainer = NetworkTrainer(how, examples.train, config.seed, device, labels[0], held_out, log)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"diffusers makes no network of config.train.unet ({error}); see its UNet2DModel") from error
    data = datasets.data_identity(config)
    identity = {"train": build.without(config.train, "checkpoint_seconds"), "seed": config.seed, "data": data}
    checkpoint = Checkpoint(workdir / "train_state.safetensors", identity, config.train.checkpoint_seconds)
    train(trainer, checkpoint, device)
    net = trainer.network()
    facts = {"steps": trainer.step, "seed": config.seed, "train": config.train.to_dict(), "data": data}
    save_unet(net, workdir / "network", how.wiring | {"recipe": facts})
    last = trainer.log.rows[-1]
    reached = Estimate(last["validation_bits"], last["validation_stderr"] or math.nan)
    print(f"Transitions of the bound between the trained levels: {reached} bits/dim on the validation split.")
    picture = pictures.training(workdir / "training.png", trainer.log.rows)
    return [workdir / "network", checkpoint.path, log, picture]
