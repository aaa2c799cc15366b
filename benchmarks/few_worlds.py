"""Data sets with their networks for the fewest calls, and what judges samples of each.

digits, patches     shipped networks, their own splits
mnist_unet          the shipped 28x28 network on MNIST, stacked with the free model on validation images (--directory)
mnist, fashion      networks of others (benchmarks/foreign.py), stacked on one half of the images, judged by the other
mixture             an exact score; its own exact draws judge
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor

from benchmarks import foreign
from score_sde_analytic.compare.fidelity import displayed
from score_sde_analytic.data import PCA, DataRange
from score_sde_analytic.data.transforms import ColourDCT
from score_sde_analytic.measure.recalibration import recalibrate
from score_sde_analytic.metrics import (
    KID,
    ClassifierFeatures,
    Coefficients,
    EnergyDistance,
    Features,
    Frechet,
    Metric,
    Pixels,
    Precision,
    Recall,
    Reference,
    evaluate,
)
from score_sde_analytic.models import LinearDenoiser, ScoreModel
from score_sde_analytic.study import Study, analyse

#: (count, seed) -> samples.
Draw = Callable[[int, int], Tensor]
COMPONENTS = "Frechet, 64 components"


class Leading(Features):
    """Coefficients of the leading principal components of some images."""

    def __init__(self, images: Tensor, count: int = 64) -> None:
        self.count = count
        self.basis = PCA.of(images, count)

    def __call__(self, x: Tensor) -> Tensor:
        return self.basis.forward(x.double()).flatten(1)[:, : self.count]

    def config(self) -> dict[str, Any]:
        return {"name": "leading components", "basis": self.basis.config()}


@dataclass(frozen=True)
class Judge:
    """Scores of samples, the one that decides first.

    Attributes:
        spaces: (reference, metrics by column) of each space of features.
        data_range: what samples are clamped to; None leaves them.
        factor: of the first score.
    """

    spaces: tuple[tuple[Reference, Mapping[str, Metric]], ...]
    data_range: DataRange | None = None
    factor: float = 1.0

    @property
    def columns(self) -> list[str]:
        return [column for _, metrics in self.spaces for column in metrics]

    def __call__(self, x: Tensor) -> list[float]:
        shown = self.shown(x)
        first, *others = [v.value for reference, metrics in self.spaces for v in evaluate(metrics, shown, reference).values()]
        return [self.factor * first, *others]

    def first(self, x: Tensor) -> float:
        """The score that decides, alone."""
        reference, metrics = self.spaces[0]
        name = next(iter(metrics))
        return self.factor * evaluate({name: metrics[name]}, self.shown(x), reference)[name].value

    def shown(self, x: Tensor) -> Tensor:
        """Samples as the images they stand for."""
        return x if self.data_range is None else displayed(x, self.data_range)


def judged_by(real: Tensor, features: Features, main: str, data_range: DataRange, groups: int, fitted: Tensor) -> Judge:
    """Features decide; components, whose moments a Gaussian has right by construction, stand beside."""
    metrics = {main: Frechet(groups=groups), "KID": KID(), "precision": Precision(), "recall": Recall()}
    components = {COMPONENTS: Frechet(groups=groups)}
    spaces = ((Reference.of(real, features), metrics), (Reference.of(real, Leading(fitted)), components))
    return Judge(spaces, data_range)


@dataclass(frozen=True)
class World:
    """A data set with its network.

    Attributes:
        model: what tables are fitted to.
        published: the network as it is.
        end: log-SNR at which paths end.
        chosen: number of calls -> what `Study.fewest` chooses by examples; None where a study is not made.
    """

    model: ScoreModel
    published: ScoreModel
    linear: LinearDenoiser
    judge: Judge
    end: float
    exact: Draw | None = None
    chosen: Callable[[int], Draw] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.linear.mean.shape)

    @property
    def levels(self) -> np.ndarray:
        """Of paths: from where e^-4 of the largest variance is known."""
        return np.linspace(-math.log(self.linear.spectrum.max()) - 4.0, self.end, 32)

    @property
    def models(self) -> dict[str, ScoreModel]:
        """What public solvers run on."""
        return {"": self.published} | ({} if self.model is self.published else {", stacked": self.model})


@dataclass(frozen=True)
class Place:
    """Where a world is kept, and where its images lie.

    Attributes:
        folder: of the pass that stacks a network with what is free.
        directory: of IDX files, for the shipped MNIST network.
        raw: whether networks stay as they were published.
    """

    folder: Path
    directory: Path | None = None
    raw: bool = False

    def better(self, name: str, model: ScoreModel, fitted: Tensor, free: LinearDenoiser) -> ScoreModel:
        """Stacked, by a pass that is made once."""
        if self.raw:
            return model
        self.folder.mkdir(parents=True, exist_ok=True)
        return recalibrate(model, fitted, free, path=self.folder / f"{name}.safetensors")[0]


def experiment(name: str, directory: Path | None = None) -> Experiment:
    config = importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()
    if directory is not None:
        config.data.directory = str(directory)
    return Experiment(config, Path(tempfile.mkdtemp()))


def digits(place: Place) -> World:
    made = experiment("digits_vp")
    splits = made.splits
    real, features = torch.cat([splits.validation, splits.test]), ClassifierFeatures.load("digits_classifier")
    judge = judged_by(real, features, "Frechet, classifier", splits.data_range, 10, splits.train)
    free = LinearDenoiser.of(splits.train)

    @cache
    def study() -> Study:
        return analyse(made.model, splits.validation, splits.data_range, train=splits.train, path=place.folder / "digits-study")

    def chosen(steps: int) -> Draw:
        plan = study().fewest(steps, splits.train, free, path=place.folder / "digits-few", progress=False)
        print(f"K = {steps}: {plan.reason}", flush=True)
        return lambda count, seed: plan(count, seed, batch_size=500)

    return World(made.model, made.model, free, judge, end=9.0, chosen=chosen)


def patches(place: Place) -> World:
    made = experiment("patches")
    splits = made.splits
    features = Coefficients(ColourDCT.of(splits.train))
    judge = judged_by(splits.train[:4000], features, "Frechet, cosines", splits.data_range, 4, splits.train[:8000])
    return World(made.model, made.model, LinearDenoiser.of(splits.train[:8000]), judge, end=10.0)


def mnist_unet(place: Place) -> World:
    made = experiment("mnist_small", place.directory)
    splits = made.splits
    free = LinearDenoiser.of(splits.train)
    real, features = torch.cat([splits.validation, splits.test]), ClassifierFeatures.load("mnist_classifier")
    judge = judged_by(real, features, "Frechet, classifier", splits.data_range, 10, splits.train)
    return World(place.better("mnist_unet", made.model, splits.validation, free), made.model, free, judge, end=8.0)


def of_others(name: str, place: Place) -> World:
    """Of images that the network did not see, one half is fitted to, and the other judges."""
    model, (fitted, real) = foreign.model(name), foreign.halves(name)
    free = LinearDenoiser.of(fitted)
    features = ClassifierFeatures.load(foreign.CLASSIFIERS[name])
    judge = judged_by(real, features, "Frechet, classifier", foreign.RANGE, 10, fitted)
    return World(place.better(name, model, fitted, free), model, free, judge, end=8.0)


def mnist(place: Place) -> World:
    return of_others("mnist", place)


def fashion(place: Place) -> World:
    return of_others("fashion", place)


def mixture(place: Place) -> World:
    made = experiment("mixture")
    net = made.model.net
    exact = Reference.of(net.sample(6000, seed=10_001), Pixels())
    metrics = {"energy distance x 1000": EnergyDistance(), "precision": Precision(), "recall": Recall(), "Frechet": Frechet()}

    def draws(count: int, seed: int) -> Tensor:
        return net.sample(count, seed=20_000 + seed)

    linear = LinearDenoiser.exact(*net.moments())
    return World(made.model, made.model, linear, Judge(((exact, metrics),), factor=1000.0), 11.0, draws)


WORLDS: dict[str, Callable[[Place], World]] = {
    made.__name__: made for made in (digits, patches, mixture, mnist_unet, mnist, fashion)
}
