"""--mode=train: fit a UNet2DModel to the training split; an interrupted run continues to the identical result."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from score_sde_analytic.errors import InputError
from score_sde_analytic.models.network_training import NetworkRecipe, NetworkTrainer
from score_sde_analytic.models.networks import save_unet
from score_sde_analytic.models.training import Checkpoint, train

from . import build, datasets

RECIPE = ("predicts", "steps", "batch_size", "learning_rate", "warmup", "ema", "classes", "drop_labels", "mirror")


def recipe(config: ConfigDict) -> NetworkRecipe:
    """config.train's part that says how networks are trained."""
    settings = config.train
    named = {name: settings[name] for name in RECIPE}
    return NetworkRecipe(settings.unet.to_dict(), tuple(settings.log_snr), **named)


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train, or go on training, and write the network directory; returns what was written."""
    device = build.device(config)
    how = recipe(config)
    examples = datasets.splits(config).train
    labels = datasets.labels(config)[0] if how.classes else None
    try:
        trainer = NetworkTrainer(how, examples, config.seed, device, labels)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"diffusers makes no network of config.train.unet ({error}); see its UNet2DModel") from error
    data = datasets.data_identity(config)
    identity = {"train": build.without(config.train, "checkpoint_seconds"), "seed": config.seed, "data": data}
    checkpoint = Checkpoint(workdir / "train_state.safetensors", identity, config.train.checkpoint_seconds)
    train(trainer, checkpoint, device)
    net = trainer.network()
    facts = {"steps": trainer.step, "seed": config.seed, "train": config.train.to_dict(), "data": data}
    save_unet(net, workdir / "network", how.wiring | {"recipe": facts})
    return [workdir / "network", checkpoint.path]
