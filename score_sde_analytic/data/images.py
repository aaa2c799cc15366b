"""`images`: pictures from wherever they lie, as a map-style data set that is read by index and never held."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import Dataset

from score_sde_analytic.arrays import copied
from score_sde_analytic.checks import scalar
from score_sde_analytic.data.opening import opened
from score_sde_analytic.data.pictures import LEVELS, Form
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.readers import Source
from score_sde_analytic.errors import InputError

#: Columns that hold a label, unless one is named.
LABELS = ("label", "labels", "y", "class", "target")

Image = Shaped[Tensor, "channels height width"]


class Images(Dataset[Any]):
    """Pictures by index: integers (channels, height, width), or {"image": .., "label": ..} where there are labels.

    `Examples`, and so every pass, encodes the integers as it reads them where their `DataRange` is declared.

    >>> pictures = images(np.zeros((5, 8, 8), np.uint8), size=4)
    >>> len(pictures), pictures[0].shape, pictures.data_range
    (5, torch.Size([1, 4, 4]), DataRange(lo=-1.0, hi=1.0, levels=256))

    Attributes:
        source: where they lie.
        form: what they are brought to.
        label: column of the labels; "" for none.
    """

    def __init__(self, source: Source, form: Form, label: str | None = "") -> None:
        self.source = source
        self.form = form
        self.label = _label(source, label)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Image | dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{len(self)} pictures have no picture {index}")
        index = int(index) % len(self)
        picture, label = self.source.row(index, self.label)
        pixels = self._alike(index, self._formed(index, picture))
        x = copied(pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels)
        return x if not self.label else {"image": x, "label": self._class(scalar(label))}

    @cached_property
    def first(self) -> Shaped[np.ndarray, "channels height width"]:
        """The first picture, whose shape and depth all have."""
        return self._formed(0, self.source.row(0, "")[0])

    @property
    def levels(self) -> int | None:
        """256 for 8 bits, 65,536 for 16, None for other numbers."""
        return LEVELS.get(str(self.first.dtype))

    @property
    def data_range(self) -> DataRange:
        """[-1, 1] with as many levels as the pictures have."""
        return DataRange(-1.0, 1.0, self.levels)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is known of every picture besides: for `column`, and for splitting by groups."""
        return self.source.columns

    def column(self, name: str) -> list[Any]:
        """All of a column, in the order of the pictures.

        Raises:
            InputError: there is no such column.
        """
        if name not in self.columns:
            raise InputError(f"the pictures have no column {name!r}; their columns: {', '.join(self.columns) or 'none'}")
        return list(self.source.column(name))

    @property
    def labels(self) -> list[Any]:
        """Of all pictures, none of which is read.

        Raises:
            InputError: they have none.
        """
        return [self._class(scalar(label)) for label in self.column(self.label or LABELS[0])]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, .. where labels are names, such as folders, or the source has them; else none."""
        return tuple(self._places) or self.source.classes(self.label)

    @cached_property
    def _places(self) -> dict[Any, int]:
        """Label as it is written -> its class."""
        if not self.label or not isinstance(self.source.row(0, self.label)[1], str):
            return {}
        return {name: i for i, name in enumerate(sorted(set(self.source.column(self.label))))}

    def _class(self, label: Any) -> Any:
        return self._places[label] if isinstance(label, str) else label

    def _formed(self, index: int, picture: Any) -> np.ndarray:
        try:
            return self.form(picture)
        except InputError as error:
            raise InputError(f"{self.source.place(index)}: {error}") from error

    def _alike(self, index: int, x: np.ndarray) -> np.ndarray:
        """The picture, which must be of the first one's shape and depth."""
        first = self.first
        if x.shape == first.shape and x.dtype == first.dtype:
            return x
        here, there = (f"{'x'.join(map(str, y.shape))} of {y.dtype}" for y in (x, first))
        way = (
            "channels=1 or 3, to bring all to one kind"
            if len(x) != len(first)
            else f"size={min(*first.shape[-2:])}, or another, to crop and resize all"
        )
        raise InputError(f"{self.source.place(index)} is {here}, {self.source.place(0)} {there}: pass {way}")


def _label(source: Source, name: str | None) -> str:
    """The column of labels: as named, or one that usually is; "" for none."""
    if name and name not in source.columns:
        raise InputError(f"there is no column {name!r} of labels; choose one of {', '.join(source.columns) or 'none'}")
    usual = (column for column in LABELS if column in source.columns)
    return "" if name is None else name or next(usual, "")


def images(
    source: str | Path | Shaped[Tensor, "n ..."] | Shaped[np.ndarray, "n ..."] | Any,
    column: str = "",
    *,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    label: str | None = "",
    resample: str = "bicubic",
) -> Images:
    """Pictures as a map-style data set, read and brought to one form by index.

    >>> pictures = images({"x": np.zeros((5, 3, 8, 8), np.uint8), "y": np.arange(5)})
    >>> pictures[2]["label"], pictures.columns
    (2, ('y',))

    Args:
        source: a folder of pictures, searched as a whole, whose sub-folders are labels; a folder of IDX files, or of CIFAR-10's
            own batches, or one of these files; a file .npz or .npy (which is not held in memory); a tar file or a folder of
            them, as WebDataset's; a folder that Hugging Face's
            `datasets` saved, a data set of theirs, or .parquet files; a tensor, an array or a dictionary of them; a map-style
            data set of pictures, tuples or dictionaries.
        column: of the pictures, where there are several.
        size: a side, or (height, width): the middle of that shape is cut out, and resized.
        channels: 1, 3 or 4; None leaves them, which must then be the same for all.
        label: column of labels; "" for the usual one where there is one, None for no labels.
        resample: Pillow's filter, as "box", "bicubic" or "lanczos".

    Raises:
        MissingFileError, MissingExtraError: no such file or folder, or a package that reads it.
        InputError: there are no pictures, or which column holds them is not clear.
    """
    pictures = Images(opened(source, column), Form(size, channels, resample), label)
    if len(pictures) == 0:
        raise InputError(f"{source if isinstance(source, str | Path) else 'the data set'} holds no pictures; check its path")
    pictures._alike(0, pictures.first)
    return pictures
