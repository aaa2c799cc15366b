"""The data of a config: train, validation and test, wherever they lie, with their labels and what they are conditioned on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from ml_collections import ConfigDict
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from score_sde_analytic.data import sources
from score_sde_analytic.data.emoji import emoji
from score_sde_analytic.data.examples import Data, Examples, Rows, as_dataset
from score_sde_analytic.data.images import Images, images
from score_sde_analytic.data.portions import held
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.splits import split
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.metrics.classifier import load_classifier
from score_sde_analytic.metrics.embedding import Embedding
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.study.names import choose

from .build import without


@dataclass(frozen=True)
class Splits:
    """Disjoint parts of a data set; moments are measured on validation, bounds on test.

    Small sets are tensors; those of a source are views, whose pictures are read by index.

    Attributes:
        exact: the distribution, where it is known in closed form.
    """

    train: Data
    validation: Data
    test: Data
    data_range: DataRange
    exact: GaussianMixture | None = None

    def some(self, name: str, count: int = 0) -> Data:
        """The first examples of a part; with 0 all of them."""
        part: Any = getattr(self, name)
        if not count or count >= len(part):
            return part
        return part[:count] if isinstance(part, Tensor) else Subset(part, range(count))

    def held(self, name: str, count: int = 0) -> Tensor:
        """The same in memory."""
        part = self.some(name, count)
        if isinstance(part, Tensor):
            return part
        examples = as_dataset(part, self.data_range)
        return held(examples, range(len(examples)))

    def conditions(self, name: str, count: int = 0) -> Rows:
        """What the first examples of a part are conditioned on, row by row; with 0 all of them."""
        examples = as_dataset(self.some(name, count), self.data_range)
        return examples.batch(range(len(examples))).conditions if examples.conditions else {}

    @property
    def statistics(self) -> DataStatistics | None:
        """Of the distribution when known in closed form, else None (measured where needed)."""
        return None if self.exact is None else self.exact.statistics()


def data_range(config: ConfigDict) -> DataRange:
    """Declared range; levels 0 means continuous data."""
    return DataRange(config.data.lo, config.data.hi, config.data.levels or None)


def _images(load: Callable[[ConfigDict], np.ndarray], config: ConfigDict) -> Splits:
    declared = data_range(config)
    train, validation, test = split(declared.encode(load(config)), config.data.split, config.data.split_seed)
    return Splits(train, validation, test, declared)


def _idx(config: ConfigDict) -> np.ndarray:
    return sources.read_idx(_idx_files(config))[0].astype(np.int64)


def _idx_files(config: ConfigDict) -> list[Path]:
    if not config.data.directory:
        raise InputError("data.directory is not set; pass --config.data.directory=FOLDER with the data set's IDX files")
    folder = Path(config.data.directory)
    files = sources.idx_files(folder)
    if not files:
        raise MissingFileError(f"no {sources.IDX} in {folder}; set data.directory to the data set's folder")
    return files


def pictures(config: ConfigDict) -> Images:
    """All pictures of config.data.source."""
    data = config.data
    if not data.source:
        raise InputError("data.source is not set; pass --config.data.source=FOLDER with your pictures")
    form = {"size": data.size or None, "channels": data.channels or None, "resample": data.resample}
    found = images(data.source, data.column, label=data.label, **form)
    if found.levels not in (None, data.levels):
        depth = f"{data.source} holds pictures of {found.levels} levels, data.levels is {data.levels}"
        raise InputError(f"{depth}; pass --config.data.levels={found.levels}")
    return found


def groups(config: ConfigDict, found: Images) -> list[Any] | None:
    """What must stay together in a part."""
    return found.column(config.data.groups) if config.data.groups else None


def _source(config: ConfigDict) -> Splits:
    """Pictures, encoded as they are read."""
    declared, found = data_range(config), pictures(config)
    parts = split(found, config.data.split, config.data.split_seed, groups(config, found))
    if 0 in (sizes := [len(part) for part in parts]):
        said = ", ".join(f"{size} {name}" for size, name in zip(sizes, get_args(sources.Part), strict=True))
        raise InputError(f"of {len(found)} pictures data.split makes {said}: give more pictures, or other parts")
    train, validation, test = (Examples(_read_ahead(config, part), declared) for part in parts)
    return Splits(train, validation, test, declared)


def _read_ahead(config: ConfigDict, part: Subset[Any]) -> Data:
    """The pictures, as worker processes read them ahead of the order in which they are asked for; the same ones in any case."""
    data = config.data
    return DataLoader(part, num_workers=data.workers, prefetch_factor=data.prefetch) if data.workers else part


def _counts(config: ConfigDict) -> list[int]:
    """Of every part, for data that are drawn: there is no number of them to have a share of."""
    sizes = config.data.split
    if any(0 < size < 1 for size in sizes):
        drawn = (
            f"the examples of {config.data.name!r} are drawn, so data.split {tuple(sizes)} must be numbers of them, not shares"
        )
        raise InputError(f"{drawn}; pass --config.data.split='(8000, 1000, 1000)'")
    return [int(size) for size in sizes]


def _patches(config: ConfigDict) -> Splits:
    declared, settings, photographs = data_range(config), config.data, sources.photographs()
    train, validation, test = (
        declared.encode(sources.patches(photographs, settings.patch_size, count, part, settings.split_seed))
        for part, count in zip(get_args(sources.Part), _counts(config), strict=True)
    )
    return Splits(train, validation, test, declared)


#: Fields of config.mixture: a mixture as given, or a random one.
MIXTURES = [{"weights", "means", "stds"}, {"components", "dim", "scale", "seed", "variance_max", "variance_min"}]


def mixture(config: ConfigDict) -> GaussianMixture:
    """Weights, means and standard deviations (k, d) as given; or equal weights, means scale * N(0, I), one shared diagonal
    covariance of geometric spectrum.
    """
    m = config.get("mixture", {})
    if set(m) not in MIXTURES:
        raise InputError("the data set mixture needs fields of its own; begin with configs/mixture.py")
    if "means" in m:
        return GaussianMixture(m.weights, m.means, np.square(m.stds))
    means = m.scale * np.random.default_rng(m.seed).normal(size=(m.components, m.dim))
    return GaussianMixture(np.ones(m.components), means, np.geomspace(m.variance_max, m.variance_min, m.dim))


def is_mixture(config: ConfigDict) -> bool:
    return config.data.name == "mixture" and not config.data.source


def _mixture(config: ConfigDict) -> Splits:
    distribution, sizes = mixture(config), _counts(config)
    train, validation, test = distribution.sample(sum(sizes), seed=config.data.split_seed).split(sizes)
    # The data are unbounded: the declared range only has to hold the samples.
    return Splits(train, validation, test, data_range(config), distribution)


def digit_features(config: ConfigDict) -> tuple[Embedding, list[Tensor]]:
    """Digits as what the shipped classifier makes of them, by part."""
    parts = split(DataRange(-1.0, 1.0, 17).encode(sources.digits()), config.data.split, config.data.split_seed)
    embedding = Embedding.of(load_classifier("digits_classifier")[0], parts[0])
    return embedding, [embedding(part) for part in parts]


def _digit_features(config: ConfigDict) -> Splits:
    train, validation, test = digit_features(config)[1]
    return Splits(train, validation, test, data_range(config))


def _emoji(config: ConfigDict) -> Splits:
    """Whole bases in each part, of which the measured ones have one image each."""
    declared, all_of_them = data_range(config), emoji()
    parts = _emoji_parts(config)
    train, validation, test = (declared.encode(all_of_them.images[part]) for part in parts)
    return Splits(train, validation, test, declared)


def _emoji_parts(config: ConfigDict) -> list[np.ndarray]:
    return emoji().split(config.data.split, config.data.split_seed, config.data.variants)


#: Fields of config.data that only a source has.
OF_SOURCES = ("source", "column", "label", "groups", "size", "channels", "resample")

DATA: dict[str, Callable[[ConfigDict], Splits]] = {
    "digits": partial(_images, lambda config: sources.digits()),
    "digit_features": _digit_features,
    "mnist": partial(_images, _idx),
    "fashion_mnist": partial(_images, _idx),
    "patches": _patches,
    "mixture": _mixture,
    "emoji": _emoji,
    "images": _source,
}


def _idx_labels(config: ConfigDict) -> NDArray[np.int64]:
    files = _idx_files(config)
    labels = sources.read_idx(files)[1]
    if labels is None:
        beside = ", ".join(file.name.replace("images-idx3", "labels-idx1") for file in files)
        raise MissingFileError(f"{files[0].parent} lacks some of {beside}; copy the data set's files of labels there")
    return labels


def _split_labels(load: Callable[[ConfigDict], NDArray[np.int64]], config: ConfigDict) -> list[Tensor]:
    return split(torch.from_numpy(load(config)), config.data.split, config.data.split_seed)


#: The classes of a data set's examples, by part.
LABELS: dict[str, Callable[[ConfigDict], list[Tensor]]] = {
    "digits": partial(_split_labels, lambda config: sources.digit_labels()),
    "digit_features": partial(_split_labels, lambda config: sources.digit_labels()),
    "mnist": partial(_split_labels, _idx_labels),
    "fashion_mnist": partial(_split_labels, _idx_labels),
    "emoji": lambda config: [torch.from_numpy(emoji().group[part]) for part in _emoji_parts(config)],
}


def labels(config: ConfigDict) -> list[Tensor]:
    """Labels of the train, validation and test split.

    Raises:
        InputError: the data set has no labels.
    """
    if config.data.source:
        found = pictures(config)
        return split(torch.tensor(found.labels), config.data.split, config.data.split_seed, groups(config, found))
    return choose(LABELS, config.data.name, "data set with labels")(config)


def splits(config: ConfigDict) -> Splits:
    """Train, validation and test data of config.data."""
    found = _source(config) if config.data.source else choose(DATA, config.data.name, "data set")(config)
    return _labelled(config, found) if config.network.condition else found


def _labelled(config: ConfigDict, found: Splits) -> Splits:
    """The parts with their labels, as the network is given them."""
    name, declared = config.network.condition, found.data_range
    parts = zip((found.train, found.validation, found.test), labels(config), strict=True)
    train, validation, test = (Examples(part, declared, conditions={name: rows}) for part, rows in parts)
    return replace(found, train=train, validation=validation, test=test)


def data_title(config: ConfigDict) -> str:
    """What the data are called: their name, or that of their source."""
    return Path(config.data.source).stem if config.data.source else config.data.name


def data_identity(config: ConfigDict) -> dict[str, Any]:
    """What decides the examples, wherever they lie: without the fields that nothing reads."""
    return without(config.data, "directory", "workers", "prefetch", *(() if config.data.source else OF_SOURCES))
