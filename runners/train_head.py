"""--mode=train_head: covariance heads on the frozen network, trained on the training split, calibrated on the validation split.

Every random number of a step is a function of (seed, step), so an interrupted run continues to the identical result.
"""

from __future__ import annotations

import math
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from score_sde_analytic.covariance.head_calibration import calibrate, held_out_draws, transition_bits
from score_sde_analytic.covariance.head_networks import Head
from score_sde_analytic.covariance.head_training import Draw, HeadTrainer, Recipe, draw, new_head
from score_sde_analytic.covariance.heads import covariance_of
from score_sde_analytic.files import atomic, differences

from . import build
from .experiment import Experiment, markdown

CHECKPOINT = "head_state.pt"
#: Settings that training does not depend on.
AFTERWARDS = ("calibrate", "calibrate_knots", "held_out_draws")
#: Steps of the chain, even in log-SNR, whose held-out bits are reported.
REPORTED_STEPS = 10


def recipe(config: ConfigDict) -> Recipe:
    """config.head's part that says how heads are trained."""
    settings = config.head
    names = (
        "steps",
        "batch_size",
        "learning_rate",
        "warmup",
        "weight_decay",
        "log_snr",
        "loss",
        "step",
        "chain",
        "chain_steps",
    )
    return Recipe(**{name: settings[name] for name in names})


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train, or go on training, calibrate, and write the heads' directory; returns what was written."""
    if not config.head.kinds:
        raise ValueError("head.kinds is empty: name heads to train, as in --config.head.kinds=\"('npr',)\"")
    experiment = Experiment(config, workdir)
    how = recipe(config)
    trainer = _trainer(experiment, how)
    identity = {"model": experiment.model.fingerprint()} | _settings(config)
    for name in AFTERWARDS:
        del identity["head"][name]
    checkpoint = workdir / CHECKPOINT
    if checkpoint.exists():
        trainer.restore(_read(checkpoint, identity, experiment.device))
    _train(trainer, checkpoint, identity, config.head.checkpoint_seconds)
    return [*_finish(experiment, trainer, how), checkpoint]


def _settings(config: ConfigDict) -> dict[str, Any]:
    """What was trained on what."""
    settings = {"head": config.head.to_dict(), "data": config.data.to_dict(), "seed": config.seed}
    for part, name in (("head", "checkpoint_seconds"), ("head", "path"), ("data", "directory")):  # where and when, not what
        del settings[part][name]
    return settings


def _trainer(experiment: Experiment, how: Recipe) -> HeadTrainer:
    settings, model = experiment.config.head, experiment.model
    x_0 = experiment.splits.train.to(experiment.device)
    architectures = {"features": True, "separate": False}
    reads_features = build.choose(architectures, settings.architecture, "architecture of heads")
    if isinstance(model.net, torch.nn.Module):
        model.net.requires_grad_(False)
    features = _feature_channels(experiment, how) if reads_features else 0
    shape = {"features": features, "hidden": settings.hidden, "blocks": settings.blocks, "position": settings.position}
    seed = experiment.config.seed
    heads = {kind: new_head(kind, model, x_0[:1], how, seed, **shape) for kind in settings.kinds}
    return HeadTrainer(heads, model, x_0, how, seed)


def _feature_channels(experiment: Experiment, how: Recipe) -> int:
    x_0 = experiment.splits.train[:1].to(experiment.device)
    generator = torch.Generator().manual_seed(0)
    extra = draw(experiment.model, x_0, how.within(experiment.schedule), generator, probe=False).prediction.extra
    if extra is None or extra.shape[2:] != x_0.shape[2:]:
        raise ValueError("this network gives no features; use --config.head.architecture=separate")
    return extra.shape[1]


def _train(trainer: HeadTrainer, checkpoint: Path, identity: dict[str, Any], every: float) -> None:
    saved, average = time.monotonic(), dict.fromkeys(trainer.heads, math.nan)
    with tqdm(total=trainer.recipe.steps, initial=trainer.step, desc="train heads", unit="step") as bar:
        while trainer.step < trainer.recipe.steps:
            for name, value in trainer.advance().items():
                average[name] = value if math.isnan(average[name]) else 0.99 * average[name] + 0.01 * value
            bar.set_postfix({name: f"{value:.4f}" for name, value in average.items()}, refresh=False)
            bar.update()
            if time.monotonic() - saved > every or trainer.step == trainer.recipe.steps:
                with atomic(checkpoint) as temporary:
                    torch.save(trainer.state() | {"identity": identity}, temporary)
                saved = time.monotonic()


def _read(path: Path, identity: dict[str, Any], device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged ({reason}); delete it to train from the start") from error
    lines = differences(state["identity"], identity)
    if lines:
        raise ValueError(f"{path} belongs to another training run ({'; '.join(lines)}); use another --workdir")
    return state


def _finish(experiment: Experiment, trainer: HeadTrainer, how: Recipe) -> list[Path]:
    """Calibrate and save; held-out bits with and without."""
    config, target, written = experiment.config, experiment.workdir / "heads", []
    validation = experiment.splits.validation.to(experiment.device)
    draws = tqdm(
        held_out_draws(
            experiment.model, validation, how, config.head.held_out_draws, config.estimate.batch_size, config.seed + 1
        ),
        desc="held-out draws",
        unit="batch",
        leave=False,
    )
    held_out = list(draws)
    bits = {"uncalibrated": _bits(experiment, trainer.heads, held_out)}
    if config.head.calibrate:
        for head in tqdm(trainer.heads.values(), desc="calibrate", unit="head", leave=False):
            calibrate(head, held_out, how, experiment.schedule, config.head.calibrate_knots)
        bits["calibrated"] = _bits(experiment, trainer.heads, held_out)
    for name, head in trainer.heads.items():
        facts = {"held_out_transition_bits": {"steps": REPORTED_STEPS} | {key: found[name] for key, found in bits.items()}}
        written += head.save(target, {"trained": _settings(config), "schedule": experiment.schedule.config()} | facts)
    rows = [
        [name, sum(p.numel() for p in head.parameters()), *(f"{found[name]:.4f}" for found in bits.values())]
        for name, head in trainer.heads.items()
    ]
    print("\n" + markdown(["head", "weights", *bits], rows))
    print(f"bits/dim of the transitions of {REPORTED_STEPS} steps even in log-SNR, on the validation split")
    report = experiment.record("heads", {"held_out_transition_bits": bits, "steps": REPORTED_STEPS})
    return [target, *written, report]


def _bits(experiment: Experiment, heads: dict[str, Head], draws: list[Draw]) -> dict[str, float]:
    low, high = experiment.schedule.log_snr_range
    ends = low, min(experiment.config.grid.log_snr_max, high)
    covariances = {name: covariance_of(head.eval()) for name, head in heads.items()}
    return transition_bits(covariances, draws, experiment.schedule, ends, REPORTED_STEPS)
