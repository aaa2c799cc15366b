"""What benchmarks/dalle2.py samples: the shipped prior and digits given their class, both as configs/dalle2.py has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from score_sde_analytic.configs.dalle2 import get_config
from score_sde_analytic.runners import datasets, train_head
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor

from score_sde_analytic.data.examples import Rows
from score_sde_analytic.metrics import (
    ClassifierFeatures,
    EnergyDistance,
    Features,
    Frechet,
    Measured,
    Pixels,
    Reference,
    evaluate,
    load_classifier,
)
from score_sde_analytic.study import Study

NULL = {"class_labels": 10}
HEAD = "interpolated"


@dataclass(frozen=True)
class World:
    """A conditional network with what judges its samples.

    Attributes:
        experiment: its config, data and study.
        features: that samples are compared in.
        logits: of the shipped classifier.
        shown: samples as they are judged.
        sees_all: whether a distance of more than means and covariances stands beside: where features are the samples
            themselves, a Gaussian has these right.
    """

    experiment: Experiment
    features: Features
    logits: Callable[[Tensor], Tensor]
    shown: Callable[[Tensor], Tensor]
    sees_all: bool = False

    @property
    def study(self) -> Study:
        return self.experiment.study

    def guided(self, scale: float) -> Study:
        """The study at a scale; 1 is the conditional network alone."""
        return self.study if scale == 1.0 else self.study.guided(scale, NULL)

    @property
    def real(self) -> Tensor:
        """Held-out examples, validation and test."""
        return torch.cat([self.experiment.splits.held(name) for name in ("validation", "test")])

    @property
    def labels(self) -> Tensor:
        """Of these."""
        return torch.cat([self.experiment.splits.conditions(name)["class_labels"] for name in ("validation", "test")])

    def asked(self, indices: range) -> Rows:
        """Classes of samples: those of the held-out examples, in turn."""
        return {"class_labels": self.labels[torch.tensor(indices) % len(self.labels)]}

    def accuracy(self, samples: Tensor) -> float:
        """Share of samples that the classifier takes for what was asked for."""
        asked = self.asked(range(len(samples)))["class_labels"]
        return float((self.logits(self.shown(samples)).argmax(1) == asked).double().mean())

    def reference(self, examples: Tensor) -> Reference:
        return Reference.of(self.shown(examples), self.features)

    def distance(self, samples: Tensor, reference: Reference) -> Measured:
        return evaluate({"Frechet": Frechet(groups=10)}, self.shown(samples), reference)["Frechet"]

    def energy(self, samples: Tensor, reference: Reference) -> Measured:
        """The energy distance, which is 0 for equal laws alone."""
        return evaluate({"energy": EnergyDistance()}, self.shown(samples), reference)["energy"]


def _as_it_is(x: Tensor) -> Tensor:
    return x


def features(workdir: Path) -> World:
    experiment = Experiment(get_config(), workdir)
    embedding, _ = datasets.digit_features(experiment.config)
    return World(experiment, Pixels(), embedding.logits, _as_it_is, sees_all=True)


def digits(workdir: Path) -> World:
    """Its learned variance is trained here, a minute: the network ships without one."""
    config = get_config("digits")
    config.head.kinds = (HEAD,)
    if not (workdir / "heads" / f"{HEAD}.json").exists():
        train_head.run(config, workdir)
    net = load_classifier("digits_classifier")[0]

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        return net(x.float())

    judge = ClassifierFeatures.load("digits_classifier")
    return World(Experiment(config, workdir), judge, logits, lambda x: x.clamp(-1.0, 1.0))


WORLDS: dict[str, Callable[[Path], Any]] = {"features": cache(features), "digits": cache(digits)}
