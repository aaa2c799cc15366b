"""The data sets of `papers.py`: a config, the images that judge, and how much is measured of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from score_sde_analytic.runners.datasets import Splits
from score_sde_analytic.runners.experiment import Experiment

from benchmarks import foreign, foreign_config
from benchmarks.few_worlds import Judge, Leading
from score_sde_analytic.data.transforms import ColourDCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics import KID, ClassifierFeatures, Coefficients, Frechet, Reference

#: N of the tables in the papers.
TABLE = 1000
#: Of the jackknife.
GROUPS = 10


@dataclass(frozen=True)
class Places:
    """Where weights and images lie that are not shipped; None for where they usually do."""

    weights: Path | None = None
    images: Path | None = None


@dataclass(frozen=True)
class Case:
    """A data set with its network.

    Attributes:
        title: of its section.
        about: whose network it is, and what judges, in a sentence or two.
        config: of its experiment.
        judge: of its samples.
        bases: of covariances, the last of them for our best rows.
        heads: for its network, trained where they are not shipped.
        learning: settings of that training, beyond those of the config.
        examples: whose bits are measured.
        count: of samples.
        batch: most examples or samples in a network call.
        shipped: whether the command needs neither weights nor images.
        decides: metric of the summary.
    """

    title: str
    about: str
    config: Callable[[Places], ConfigDict]
    judge: Callable[[Splits], Judge]
    bases: tuple[str, ...]
    heads: tuple[str, ...] = ("sn", "npr", "ocm")
    learning: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 100
    count: int = 100
    batch: int = 50
    shipped: bool = True
    decides: str = "Frechet"

    def experiment(self, places: Places, workdir: Path) -> Experiment:
        """On the lattice of the papers, n/1000, up to its first time."""
        config = self.config(places)
        config.grid.table, config.estimate.bounds = TABLE, ()
        config.sample.steps = (TABLE,)  # optimal grids of all numbers of steps at once
        config.head.kinds = self.heads
        config.head.update(self.learning)
        made = Experiment(config, workdir, self.bases)
        highest = float(made.schedule.log_snr(1.0 / TABLE)) + 1e-3
        config.grid.log_snr_max = highest
        config.estimate.log_snr_max = max(config.estimate.log_snr_max, highest)
        return made


def _shipped(name: str) -> Callable[[Places], ConfigDict]:
    def config(places: Places) -> ConfigDict:
        return importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()

    return config


def _of_others(name: str) -> Callable[[Places], ConfigDict]:
    """A DDPM of others, with the 10,000 test images, which it did not see."""

    def config(places: Places) -> ConfigDict:
        made = foreign_config.get_config(name)
        made.network.source = f"{foreign.__file__}:Network"
        made.network.features = "conv_out"
        made.network.weights = str((places.weights or foreign.WEIGHTS) / f"ddpm_{name}.safetensors")
        made.data.directory = str(places.images or foreign.IMAGES[name])
        return made

    return config


def _cifar10(places: Places) -> ConfigDict:
    from score_sde_analytic.configs import cifar10

    if places.weights is None or places.images is None:
        raise InputError(
            "CIFAR-10 needs --weights, the folder of a pipeline such as google/ddpm-cifar10-32, and --images, a folder of"
            " pictures or of the data set's own batches"
        )
    made = cifar10.get_config(str(places.weights))
    made.network.features = "conv_out"
    unseen = (places.images / name for name in ("test_batch", "test_batch.bin"))
    made.data.source = str(next((file for file in unseen if file.is_file()), places.images))
    return made


def _classified(name: str) -> Callable[[Splits], Judge]:
    """Features of a shipped classifier, of the images that nothing was fitted to."""

    def judge(splits: Splits) -> Judge:
        real = torch.cat([splits.held("validation"), splits.held("test")])
        reference = Reference.of(real, ClassifierFeatures.load(name))
        return Judge(((reference, {"Frechet": Frechet(groups=GROUPS), "KID": KID()}),), splits.data_range)

    return judge


def _components(count: int) -> Callable[[Splits], Judge]:
    """The leading components of the training images, and all their cosines."""

    def judge(splits: Splits) -> Judge:
        real = splits.held("train", 4000)
        leading = Reference.of(real, Leading(real, count)), {"Frechet": Frechet(groups=GROUPS)}
        cosines = Reference.of(real, Coefficients(ColourDCT.of(real))), {"KID": KID()}
        return Judge((leading, cosines), splits.data_range)

    return judge


OTHERS = (
    "The network is a DDPM of others, linear betas, N = 1000 ([networks.md](../networks.md) says where it is from); all images"
    " are test images, which it did not see. At high noise it is worse than the mean of the data: chains begin there, and"
    " tables do not, so that samples speak of this fault more than of solvers."
)
SHIPPED = "The network is the one shipped, under its continuous schedule, at the times n/1000."
BY_CLASSIFIER = "Samples are judged in the features of the shipped classifier, against {} held-out images."
BY_COMPONENTS = (
    "Samples are judged by cosines of rotated colours (KID) and by {} leading principal components (Frechet), against training"
    " images. A Gaussian of the data has the moments right that the second compares, for no call, and our tables begin from it:"
    " KID decides."
)


def _other(title: str, name: str) -> Case:
    """A network of others on 28x28 images."""
    judge = _classified(foreign.CLASSIFIERS[name])
    about = f"{OTHERS} {BY_CLASSIFIER.format('2,000')}"
    return Case(title, about, _of_others(name), judge, ("dct", "pixel", "pca"), examples=100, batch=100, shipped=False)


CASES = {
    "mnist": _other("MNIST, 28x28", "mnist"),
    "fashion": _other("Fashion-MNIST, 28x28", "fashion"),
    "digits": Case(
        "Digits, 8x8",
        f"{SHIPPED} {BY_CLASSIFIER.format('597')}",
        _shipped("digits_vp"),
        _classified("digits_classifier"),
        ("dct", "pixel", "pca"),
        examples=297,
        count=150,
        batch=100,
    ),
    "patches": Case(
        "Colour patches, 16x16",
        f"{SHIPPED} {BY_COMPONENTS.format(32)}",
        _shipped("patches"),
        _components(32),
        ("pixel", "pca", "colour_dct"),
        examples=60,
        count=64,
        batch=64,
        decides="KID",
    ),
    "emoji": Case(
        "Emoji, 32x32 in colour",
        f"{SHIPPED} It is given the group of each emoji. {BY_COMPONENTS.format(16)}",
        _shipped("emoji"),
        _components(16),
        ("pixel", "colour_dct"),
        learning={"batch_size": 32},
        examples=16,
        count=24,
        batch=16,
        decides="KID",
    ),
    "cifar10": Case(
        "CIFAR-10, 32x32 in colour",
        f"The network is read from a folder as diffusers writes it. {BY_COMPONENTS.format(32)}",
        _cifar10,
        _components(32),
        ("pixel", "colour_dct"),
        examples=100,
        count=1000,
        shipped=False,
        decides="KID",
    ),
}
