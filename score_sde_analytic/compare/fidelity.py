"""What samples are compared by: the metrics that fit a data set, with what tables say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.compare.examples import Examples
from score_sde_analytic.data.bases import BASES
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
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
    energy_distance,
    evaluate,
    mixture_metrics,
)
from score_sde_analytic.metrics.classifier import ASSETS
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.mixture import GaussianMixture


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
        judge: samples -> the value of the first column alone.
    """

    columns: tuple[Column, ...]
    identity: Mapping[str, Any]
    examples: int
    measure: Callable[[Tensor], dict[str, Measured]]
    judge: Callable[[Tensor], float]

    def described(self) -> list[dict[str, str]]:
        return [asdict(column) for column in self.columns]


def displayed(x: Float[Tensor, " n *dims"], declared: DataRange) -> Float[Tensor, " n *dims"]:
    """Samples of discrete data as the images they stand for: confined to the range, at the nearest level.

    >>> displayed(torch.tensor([[0.1, 0.6, 2.0]]), DataRange(0.0, 1.0, levels=3))
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    if declared.levels is None:
        return x
    return declared.lo + declared.index(x.clamp(declared.lo, declared.hi)).to(x) * declared.bin_width


#: The classifier shipped for a data set.
CLASSIFIERS = {"digits": "digits_classifier", "mnist": "mnist_classifier", "fashion_mnist": "fashion_mnist_classifier"}
PIXELS = "pixels"


def usual_features(examples: Examples) -> str:
    """The name of the features that suit the data: a classifier's, the coefficients of a basis of images, or pixels."""
    return CLASSIFIERS.get(examples.name, "colour_dct" if len(examples.shape) == 3 else PIXELS)


def features(name: str, train: Float[Tensor, " n *dims"], rank: int | None = None) -> Features:
    """Features by name: "pixels", a basis, or a classifier's name or folder.

    Args:
        train: data that a basis is fitted to.
        rank: of the basis "pca"; None for all components.
    """
    if name == PIXELS:
        return Pixels()
    if name in BASES:
        return Coefficients(BASES[name](train, rank))
    return ClassifierFeatures.load(name)


def check_features(name: str) -> None:
    """Refuse features that do not exist.

    Raises:
        InputError: neither "pixels" nor a basis nor a classifier's name or folder.
    """
    if name != PIXELS and name not in BASES and not (Path(name).is_dir() or (ASSETS / name).is_dir()):
        shipped = ", ".join(sorted(CLASSIFIERS.values()))
        raise InputError(f"unknown features {name!r}; choose pixels, {', '.join(BASES)}, {shipped}, or a classifier's folder")


def _metrics(features_name: str, groups: int) -> Sequence[tuple[Column, Metric]]:
    """Of one map of features, the main one first."""
    return (
        (
            Column("frechet", "Frechet distance", "lower", "", f"of Gaussians fitted to {features_name}, bias removed"),
            Frechet(groups=groups),
        ),
        (Column("kid", "KID", "lower", "", f"kernel distance of {features_name}, unbiased"), KID()),
        (
            Column("precision", "precision", "higher", "", f"share of samples among the data's neighbours, {features_name}"),
            Precision(),
        ),
        (
            Column("recall", "recall", "higher", "", f"share of data among the samples' neighbours, {features_name}"),
            Recall(),
        ),
    )


SLICED = Column("sliced_wasserstein", "sliced W2^2", "lower", "data units^2", "of pixels, bias removed")


def of_examples(
    reference: Float[Tensor, " n *dims"],
    known_by: Features,
    declared: DataRange,
    groups: int,
    device: torch.device | str = "cpu",
) -> Fidelity:
    """Distances between samples and examples, in features and in pixels.

    Args:
        reference: the examples, (n, *dims).
        known_by: the features.
        declared: range of the data: samples of discrete data are compared as the images they stand for.
        groups: of the jackknife.
    """
    described = _metrics(known_by.name, groups)
    inside = {column.name: metric for column, metric in described}
    main = described[0][0]
    flat: dict[str, Metric] = {SLICED.name: SlicedWasserstein(groups=groups)}
    deep = Reference.of(reference, known_by, device=device)
    pixels = Reference.of(reference, Pixels(), device=device)

    def measure(x: Tensor) -> dict[str, Measured]:
        images = displayed(x, declared)
        return evaluate(inside, images, deep) | evaluate(flat, images, pixels)

    def judge(x: Tensor) -> float:
        (value,) = evaluate({main.name: inside[main.name]}, displayed(x, declared), deep).values()
        return value.value

    identity = {
        "features": known_by.config(),
        "metrics": {name: repr(metric) for name, metric in (inside | flat).items()},
        "reference": digest(reference.double().sum().item(), reference.double().square().sum().item(), tuple(reference.shape)),
    }
    columns = (*(column for column, _ in described), SLICED)
    return Fidelity(columns, identity, len(reference), measure, judge)


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


def of_mixture(exact: GaussianMixture, count: int, seed: int, groups: int) -> Fidelity:
    """Distances between samples and a mixture whose density is known.

    Args:
        count, seed: of the exact draws.
        groups: of the jackknife.
    """
    options = {"count": count, "seed": seed, "groups": groups}

    def measure(x: Tensor) -> dict[str, Measured]:
        values = mixture_metrics(x.cpu(), exact, **options)
        return {column.name: values[name] for name, column in MIXTURE.items()}

    def judge(x: Tensor) -> float:
        return energy_distance(x.cpu(), exact, count, seed).value

    identity = {"metrics": sorted(MIXTURE), "options": options, "mixture": digest_of(exact)}
    return Fidelity(tuple(MIXTURE.values()), identity, count, measure, judge)
