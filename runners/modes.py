"""The modes check, estimate and demo."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from score_sde_analytic.data.examples import as_dataset, batches
from score_sde_analytic.data.portions import batch_by_bytes
from score_sde_analytic.measure.answers import reached
from score_sde_analytic.report import figures
from score_sde_analytic.uncertainty import Estimate

from . import covariances, evaluate, sampling
from .experiment import Experiment


def check(experiment: Experiment) -> list[Path]:
    """Whatever can be refused before any work; the network is asked once, about one example."""
    splits = experiment.splits
    parts = {name: as_dataset(splits.some(name), splits.data_range) for name in ("train", "validation", "test")}
    for part in parts.values():
        for x in batches(part, range(len(part)), batch_by_bytes(part.first.numel())):
            splits.data_range.check(x)
    sizes = ", ".join(f"{len(x)} {name}" for name, x in parts.items())
    one = parts["validation"].batch([0])
    level = experiment.schedule.level_at(0.0)
    x_t = level.diffuse(one.x_0, torch.zeros_like(one.x_0)).to(experiment.device)
    experiment.network.predict(x_t, level, **one.conditions)
    print(f"The config is right: {sizes} examples; model {experiment.network.fingerprint()}")
    return []


def estimate(experiment: Experiment) -> list[Path]:
    """Moments -> curves, calibration report and the pictures of both."""
    work = experiment.workdir
    moments = experiment.study.moments
    written = [experiment.moments_path]
    for source, curve in experiment.study.curves.items():
        curve.save(work / f"curve_{source}.safetensors")
        written.append(work / f"curve_{source}.safetensors")
    table = experiment.study.calibration
    content = {
        "network_evaluations": moments.evaluations,
        "network_calls": moments.cost.calls,
        "reached": reached(moments),
        "groups": moments.groups,
        "knots": table,
        "remarks": experiment.study.remarks,
        "y": {source: curve.y_at(moments.log_snr) for source, curve in experiment.study.curves.items()},
        "upper_bound_on_residual": experiment.study.cap(moments.log_snr),
    }
    report = experiment.record("moments", content)
    difference, size = moments.calibration()
    worst = int(np.abs(difference).argmax())
    print(f"\nMoments: {moments.evaluations} network evaluations at {len(moments.log_snr)} noise levels; {reached(moments)}.")
    print(
        f"Calibration: 1 - Lambda and R differ most at log-SNR {moments.log_snr[worst]:.1f},"
        f" by {difference[worst]:+.4f} ({size[worst]:+.1f} standard errors)."
    )
    written += [*_recalibration(experiment), *_overfitting(experiment), *_condition(experiment)]
    written += covariances.write(experiment)
    study = experiment.study
    written.append(figures.curve(work / "curve.png", moments, study.curves, study.cap, study.linear))
    written.append(_variance_figure(experiment))
    return [*written, report]


def _recalibration(experiment: Experiment) -> list[Path]:
    """Keep the shares of a network that was stacked with what is free, and say what they gain."""
    if experiment.recalibration is None:
        return []
    better, found = experiment.recalibration
    print(f"Recalibration: {found}.")
    experiment.record("recalibration", found.content())
    return better.save(experiment.workdir / "recalibration")


def _overfitting(experiment: Experiment) -> list[Path]:
    """Compare R on training and on held-out data; a warning where they differ beyond error."""
    train = experiment.training
    if train is None:
        return []
    ratio, error = train.residual_over(experiment.study.moments)
    size = (ratio - 1.0) / error
    worst = int(np.abs(size).argmax())
    text = f"R on training data is {Estimate(ratio[worst], error[worst]):.2f} of that on held-out data at log-SNR"
    text += f" {train.log_snr[worst]:.1f}, where they differ most."
    # The largest of m differences exceeds 4 standard errors by chance with probability m * 6e-5.
    if abs(size[worst]) > 4.0:
        warnings.warn(
            f"{text} Variances fitted to training data would be wrong; these are fitted to held-out data", stacklevel=1
        )
    else:
        print(f"Overfitting: {text}")
    content = {
        "log_snr": train.log_snr,
        "train_over_held_out": ratio,
        "stderr": error,
        "in_standard_errors": size,
        "cost": vars(train.cost),
    }
    experiment.record("overfitting", content | {"cost": vars(train.cost)})
    return [experiment.workdir / "moments_train.safetensors"]


def _condition(experiment: Experiment) -> list[Path]:
    """Say what the condition is worth by the network, what it can be worth, and what guidance costs."""
    measured = experiment.condition
    if measured is None:
        return []
    difference, size = measured.calibration()
    worst = int(np.abs(difference).argmax())
    content = measured.content()
    gap, errors = (Estimate(**content[f"information_{by}"]) for by in ("gap", "difference"))
    print(
        f"Condition: worth {gap} bits/dim by the gap of both branches, {errors} by their errors, at most"
        f" {measured.ceiling:.3f}; these differ most at log-SNR {measured.log_snr[worst]:.1f}, by {difference[worst]:+.4f}"
        f" ({size[worst]:+.1f} standard errors). Guidance of scale 1 + w costs w^2 times {measured.price(2.0)}."
    )
    experiment.record("condition", content)
    return [experiment.workdir / "moments_condition.safetensors"]


def _variance_figure(experiment: Experiment) -> Path:
    """The paper's Figure 1 for an even grid of many steps."""
    study, path = experiment.study, experiment.workdir / "variance.png"
    names = experiment.covariances(experiment.config.evaluate.variances)
    covariances = {str(name): study.covariance(name) for name in names}
    isotropic = {name: covariance for name, covariance in covariances.items() if covariance.isotropic}
    return figures.variances(path, experiment.schedule, study.grid(25, "even", "residual"), study.curve, isotropic)


def demo(experiment: Experiment) -> list[Path]:
    """The whole: estimate -> curve -> grids -> samples -> bits/dim."""
    return list(dict.fromkeys([*estimate(experiment), *sampling.run(experiment), *evaluate.run(experiment)]))
