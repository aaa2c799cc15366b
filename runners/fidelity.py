"""What the samples of --mode=compare are compared by: the metrics that fit a data set, with what tables say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.metrics import (
    KID,
    ClassifierFeatures,
    Coefficients,
    Features,
    Frechet,
    Measured,
    Metric,
    Pixels,
    Precision,
    Recall,
    Reference,
    SlicedWasserstein,
    evaluate,
    mixture_metrics,
)

from . import build
from .experiment import Experiment


@dataclass(frozen=True)
class Column:
    """A metric as tables present it."""

    name: str
    label: str
    better: str
    unit: str
    about: str


@dataclass(frozen=True)
class Fidelity:
    """The metrics of one data set.

    Attributes:
        columns: the first is the one that pictures show.
        identity: plain data that decide the values, the samples apart.
        examples: of the reference.
        measure: samples (n, *dims) -> values by name of column.
    """

    columns: tuple[Column, ...]
    identity: Mapping[str, Any]
    examples: int
    measure: Callable[[Tensor], dict[str, Measured]]

    def described(self) -> list[dict[str, str]]:
        return [asdict(column) for column in self.columns]


def displayed(x: Tensor, declared: DataRange) -> Tensor:
    """Samples of discrete data as the images they stand for: confined to the range, at the nearest level."""
    if declared.levels is None:
        return x
    return declared.lo + declared.index(x.clamp(declared.lo, declared.hi)).to(x) * declared.bin_width


#: The classifier shipped for a data set; other images are compared in the coefficients of a basis.
CLASSIFIERS = {"digits": "digits_classifier", "mnist": "mnist_classifier"}


def features(experiment: Experiment, name: str) -> Features:
    """Features by name: "pixels", a basis, or a classifier's folder; empty for those that suit the data."""
    config = experiment.config
    name = name or CLASSIFIERS.get(config.data.name, "colour_dct")
    if name == "pixels":
        return Pixels()
    if name in build.BASES:
        return Coefficients(build.BASES[name](experiment.splits.train, config.covariance.pca_rank or None))
    return ClassifierFeatures.load(name)


def check_features(name: str) -> None:
    """Refuse features that do not exist.

    Raises:
        ValueError: neither "pixels" nor a basis nor a classifier's name or folder.
    """
    if name and name != "pixels" and name not in build.BASES and not (Path(name).is_dir() or (build.ASSETS / name).is_dir()):
        shipped = ", ".join(sorted(CLASSIFIERS.values()))
        raise ValueError(
            f"unknown features {name!r}; choose pixels, {', '.join(build.BASES)}, {shipped}, or a classifier's folder"
        )


def of(experiment: Experiment, settings: ConfigDict) -> Fidelity:
    """The metrics of the experiment's data; settings: config.compare, complete."""
    make = _mixture if experiment.config.data.name == "mixture" else _images
    return make(experiment, settings)


def _images(experiment: Experiment, settings: ConfigDict) -> Fidelity:
    splits = experiment.splits
    found, declared = features(experiment, settings.features), splits.data_range
    data = torch.cat([getattr(splits, part) for part in settings.reference])[: settings.reference_examples]
    metrics: dict[str, tuple[Column, Metric]] = {
        "frechet": (
            Column("frechet", "Frechet distance", "lower", "", f"of Gaussians fitted to {found.name}, bias removed"),
            Frechet(groups=settings.groups),
        ),
        "kid": (Column("kid", "KID", "lower", "", f"kernel distance of {found.name}, unbiased"), KID()),
        "precision": (
            Column("precision", "precision", "higher", "", f"share of samples among the data's neighbours, {found.name}"),
            Precision(),
        ),
        "recall": (
            Column("recall", "recall", "higher", "", f"share of data among the samples' neighbours, {found.name}"),
            Recall(),
        ),
        "sliced_wasserstein": (
            Column("sliced_wasserstein", "sliced W2^2", "lower", "data units^2", "of pixels, bias removed"),
            SlicedWasserstein(groups=settings.groups),
        ),
    }
    device = experiment.device
    deep, pixels = Reference.of(data, found, device=device), Reference.of(data, Pixels(), device=device)
    inside: dict[str, Metric] = {name: metric for name, (_, metric) in metrics.items() if name != "sliced_wasserstein"}

    def measure(x: Tensor) -> dict[str, Measured]:
        shown = displayed(x, declared)
        flat: dict[str, Metric] = {"sliced_wasserstein": metrics["sliced_wasserstein"][1]}
        return evaluate(inside, shown, deep) | evaluate(flat, shown, pixels)

    identity = {
        "features": found.config(),
        "metrics": {name: repr(metric) for name, (_, metric) in metrics.items()},
        "reference": digest(data.double().sum().item(), data.double().square().sum().item(), tuple(data.shape)),
    }
    return Fidelity(tuple(column for column, _ in metrics.values()), identity, len(data), measure)


#: name in `mixture_metrics` -> column.
MIXTURE = {
    "energy distance": Column("energy_distance", "energy distance", "lower", "data units", "to exact draws, unbiased"),
    "KL": Column("kl", "KL divergence", "lower", "nats", "from the exact density, entropy by nearest neighbours"),
    "cross-entropy gap": Column(
        "cross_entropy_gap",
        "cross-entropy gap",
        "lower",
        "nats",
        "how much less likely samples are than data; < 0: crowded",
    ),
    "Frechet": Column("frechet", "Frechet distance", "lower", "data units^2", "to the exact mean and covariance, bias removed"),
    "mean": Column("mean", "error of the mean", "lower", "data units^2", "squared norm, bias removed"),
    "covariance": Column("covariance", "error of the covariance", "lower", "data units^4", "squared norm, bias removed"),
    "mode distance": Column("mode_distance", "mode distance", "lower", "", "total variation of the shares of modes"),
}


def _mixture(experiment: Experiment, settings: ConfigDict) -> Fidelity:
    exact = build.mixture(experiment.config)
    options = {"count": settings.reference_examples, "seed": experiment.config.seed, "groups": settings.groups}

    def measure(x: Tensor) -> dict[str, Measured]:
        found = mixture_metrics(x.cpu(), exact, **options)
        return {column.name: found[name] for name, column in MIXTURE.items()}

    identity = {"metrics": sorted(MIXTURE), "options": options}
    return Fidelity(tuple(MIXTURE.values()), identity, settings.reference_examples, measure)
