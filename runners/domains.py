"""Pictures of another domain in the form of a config's data: their size, channels, range and levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde_analytic.data import sources
from score_sde_analytic.data.emoji import emoji
from score_sde_analytic.data.images import Images, images
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.splits import split
from score_sde_analytic.errors import InputError

from . import datasets

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Domain:
    """Images (n, c, h, w) in data units, and their classes where these are known."""

    x: Tensor
    labels: Tensor | None = None

    def first(self, count: int) -> Domain:
        """So many of them; with 0 all."""
        rows = slice(count or None)
        return Domain(self.x[rows], None if self.labels is None else self.labels[rows])

    def of_class(self, label: int) -> Domain:
        """Those of a class; with -1 all."""
        if label < 0:
            return self
        if self.labels is None:
            raise InputError("the pictures of the source have no labels: leave translate.source_label at -1")
        kept = self.labels == label
        if not kept.any():
            raise InputError(f"the source has no picture of the label {label}; its labels: {self.labels.unique().tolist()}")
        return Domain(self.x[kept], self.labels[kept])


def _digits() -> dict[str, Any]:
    """In 8 bits, as pictures usually are."""
    return {"x": np.round(sources.digits() * (255 / 16)).astype(np.uint8), "label": sources.digit_labels()}


def _emoji() -> dict[str, Any]:
    return {"x": emoji().images, "label": emoji().group}


#: Data sets that come with the package or with scikit-learn.
NAMED: dict[str, Callable[[], dict[str, Any]]] = {"digits": _digits, "emoji": _emoji}


def domain(config: ConfigDict, splits: datasets.Splits, source: str) -> Domain:
    """A part of the data by its name, or the pictures of a folder, a file or a data set.

    Raises:
        MissingFileError: there is no such folder or file.
        InputError: the data are no pictures, or there are none in it.
    """
    if source in PARTS:
        return _part(config, splits, source)
    form = {"size": shape(splits)[1:], "channels": shape(splits)[0], "resample": config.data.resample}
    given: Any = NAMED[source]() if source in NAMED else Path(source).expanduser()
    found = images(given, **form)
    return Domain(_in_units(found, splits.data_range), _labels(found))


def shape(splits: datasets.Splits) -> tuple[int, int, int]:
    """Channels, height and width of the data.

    Raises:
        InputError: they are no pictures.
    """
    sides = tuple(splits.held("validation", 1).shape[1:])
    if len(sides) != 3:
        raise InputError(f"pictures are for data of pictures, (channels, height, width); these have the shape {sides}")
    return sides


def _part(config: ConfigDict, splits: datasets.Splits, name: str) -> Domain:
    labelled = bool(config.data.source) or config.data.name in datasets.LABELS
    labels = datasets.labels(config)[PARTS.index(name)] if labelled else None
    return Domain(splits.held(name), labels)


def _in_units(found: Images, declared: DataRange) -> Tensor:
    """Values of as many levels as the data have, or of all of the pictures' where the data are continuous."""
    if found.levels is None:
        raise InputError(f"pictures of another domain have 8 or 16 bits, those of {found.source.place(0)} are numbers")
    raw = np.stack([pixels(found, i) for i in range(len(found))]).astype(np.float64)
    share = raw / (found.levels - 1)
    if declared.levels is None:
        return torch.from_numpy(declared.lo + (declared.hi - declared.lo) * share).float()
    return declared.encode(np.round(share * (declared.levels - 1)).astype(np.int64))


def pixels(found: Images, index: int) -> np.ndarray:
    """Of a picture, without its label."""
    item = found[index]
    return (item["image"] if isinstance(item, dict) else item).numpy()


def _labels(found: Images) -> Tensor | None:
    return torch.tensor(found.labels) if found.label else None


def tell_apart(config: ConfigDict, splits: datasets.Splits, against: Domain) -> list[tuple[Tensor, Tensor]]:
    """By part, images of another domain and of the data, and which they are: 0 and 1."""
    others = split(against.x, config.data.split, config.data.split_seed)
    return [_both(other, splits.held(name)) for other, name in zip(others, PARTS, strict=True)]


def _both(other: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([other, own]), torch.cat([torch.zeros(len(other)), torch.ones(len(own))]).long()
