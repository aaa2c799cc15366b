"""--mode=train_head: covariance heads on the frozen network, trained on the training split, calibrated on the validation split.

Every random number of a step is a function of (seed, step), so an interrupted run continues to the identical result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from score_sde_analytic.covariance.head_calibration import calibrate, held_out_draws, transition_bits
from score_sde_analytic.covariance.head_networks import Head
from score_sde_analytic.covariance.head_training import Draw, HeadTrainer, Recipe, draw, new_head
from score_sde_analytic.covariance.heads import covariance_of
from score_sde_analytic.errors import InputError
from score_sde_analytic.interruption import noted
from score_sde_analytic.models.training import Checkpoint, train
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.study.names import choose

from . import build, datasets
from .experiment import Experiment

CHECKPOINT = "head_state.safetensors"
#: Whether a head reads the input of the network's last layer.
ARCHITECTURES = {"features": True, "separate": False}
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
        raise InputError("head.kinds is empty: name heads to train, as in --config.head.kinds=\"('npr',)\"")
    experiment = Experiment(config, workdir)
    how = recipe(config)
    trainer = _trainer(experiment, how)
    read = next(iter(trainer.heads.values())).identity
    identity = {"model": experiment.model.fingerprint() | read} | _settings(config, *AFTERWARDS)
    checkpoint = Checkpoint(workdir / CHECKPOINT, identity, config.head.checkpoint_seconds)
    train(trainer, checkpoint, experiment.device, "train heads")
    with noted(lambda: f"trained heads are in {checkpoint.path}, and their calibration begins anew"):
        return [*_finish(experiment, trainer, how), checkpoint.path]


def _settings(config: ConfigDict, *others: str) -> dict[str, Any]:
    """What was trained on what: all settings but where, when, and others."""
    head = build.without(config.head, "checkpoint_seconds", "path", *others)
    return {"head": head, "data": datasets.data_identity(config), "seed": config.seed}


def _trainer(experiment: Experiment, how: Recipe) -> HeadTrainer:
    settings, model = experiment.config.head, experiment.model
    x_0 = experiment.splits.held("train").to(experiment.device)
    reads_features = choose(ARCHITECTURES, settings.architecture, "architecture of heads")
    if isinstance(model.net, torch.nn.Module):
        model.net.requires_grad_(False)
    features = _feature_channels(experiment, how) if reads_features else 0
    shape = {"features": features, "hidden": settings.hidden, "blocks": settings.blocks, "position": settings.position}
    seed = experiment.config.seed
    heads = {kind: new_head(kind, model, x_0[:1], how, seed, **shape) for kind in settings.kinds}
    return HeadTrainer(heads, model, x_0, how, seed, experiment.splits.conditions("train"))


def _feature_channels(experiment: Experiment, how: Recipe) -> int:
    x_0 = experiment.splits.held("train", 1).to(experiment.device)
    generator = torch.Generator().manual_seed(0)
    given = experiment.splits.conditions("train", 1)
    recipe = how.within(experiment.schedule)
    extra = draw(experiment.model, x_0, recipe, generator, probe=False, conditions=given).prediction.extra
    if extra is None or extra.shape[2:] != x_0.shape[2:]:
        raise InputError(
            "this network gives no features; name its last layer, as in --config.network.features=conv_out, or use"
            " --config.head.architecture=separate"
        )
    return extra.shape[1]


def _finish(experiment: Experiment, trainer: HeadTrainer, how: Recipe) -> list[Path]:
    """Calibrate and save; held-out bits with and without."""
    config, target, written = experiment.config, experiment.workdir / "heads", []
    validation = experiment.splits.held("validation").to(experiment.device)
    draws = tqdm(
        held_out_draws(
            experiment.model,
            validation,
            how,
            config.head.held_out_draws,
            config.estimate.batch_size,
            config.seed + 1,
            experiment.splits.conditions("validation"),
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
    report = experiment.record("heads", {"held_out_transition_bits": bits, "steps": REPORTED_STEPS, "cost": vars(trainer.cost)})
    return [target, *written, report]


def _bits(experiment: Experiment, heads: dict[str, Head], draws: list[Draw]) -> dict[str, float]:
    low, high = experiment.schedule.finite_range
    ends = low, min(experiment.config.grid.log_snr_max, high)
    covariances = {name: covariance_of(head.eval()) for name, head in heads.items()}
    return transition_bits(covariances, draws, experiment.schedule, ends, REPORTED_STEPS)
