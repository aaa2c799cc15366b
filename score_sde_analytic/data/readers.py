"""Where pictures lie, and what is said of them: folders, files of arrays and of IDX, tables, data sets of others.

A source knows how many rows there are; of each the picture and where it came from; and columns besides, whole.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from score_sde_analytic.data.pictures import DAMAGED, pillow
from score_sde_analytic.errors import InputError

#: Files that a folder of pictures is searched for.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class Source(ABC):
    """Pictures by index, with columns."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row(self, index: int, name: str) -> tuple[Any, Any]:
        """(picture, value of a column), read at once; without a name None. A picture is one of Pillow, an array or bytes."""

    @abstractmethod
    def place(self, index: int) -> str:
        """How messages call a row."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """What is known of every row besides its picture."""

    @abstractmethod
    def column(self, name: str) -> Sequence[Any]:
        """All of a column."""

    def classes(self, name: str) -> tuple[str, ...]:
        """What the numbers of a column stand for, where the source says so."""
        return ()


@dataclass(frozen=True)
class Files(Source):
    """Files of pictures below a folder, sorted; columns "label", the folder that each lies in, and "name", the file."""

    folder: Path

    @cached_property
    def files(self) -> list[Path]:
        """Relative to the folder."""
        found = [
            Path(within, name).relative_to(self.folder)
            for within, names in _walked(self.folder)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        return sorted(found)

    def __len__(self) -> int:
        return len(self.files)

    def row(self, index: int, name: str) -> tuple[Any, Any]:
        file = self.files[index]
        return self._picture(self.folder / file), _said(file, name)

    @staticmethod
    def _picture(path: Path) -> Any:
        try:
            with pillow().open(path) as picture:
                picture.load()
            return picture
        except DAMAGED as error:
            raise InputError(f"{path} is damaged or no picture ({error}); remove it, or copy it again") from error

    def place(self, index: int) -> str:
        return str(self.folder / self.files[index])

    @property
    def columns(self) -> tuple[str, ...]:
        return ("name", "label") if any(len(file.parts) > 1 for file in self.files) else ("name",)

    def column(self, name: str) -> Sequence[Any]:
        return [_said(file, name) for file in self.files]


def _walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of all folders below one; a link to a folder above would go on for ever."""
    above = {str(folder): _lineage(str(folder))}
    for within, folders, names in os.walk(folder, followlinks=True):
        passed, paths = above.pop(within), {name: os.path.join(within, name) for name in folders}
        folders[:] = [name for name, path in paths.items() if os.path.realpath(path) not in passed]
        above |= {paths[name]: passed | _lineage(paths[name]) for name in folders}
        yield within, names


def _lineage(path: str) -> set[str]:
    """A folder and all that it lies in, wherever links lead."""
    real = Path(os.path.realpath(path))
    return {str(real), *map(str, real.parents)}


def _said(file: Path, name: str) -> str | None:
    """What a file's place says of it."""
    return {"name": file, "label": file.parent}[name].as_posix() if name else None


@dataclass(frozen=True)
class Arrays(Source):
    """Arrays of equal length in memory or in a file, one of them of pictures.

    Attributes:
        name: of the file, for messages.
        arrays: by name.
        key: which one holds the pictures.
    """

    name: str
    arrays: Mapping[str, Any]
    key: str

    def __len__(self) -> int:
        return len(self.arrays[self.key])

    def row(self, index: int, name: str) -> tuple[Any, Any]:
        return self.arrays[self.key][index], self.arrays[name][index] if name else None

    def place(self, index: int) -> str:
        return f"{self.name}, picture {index}"

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name, x in self.arrays.items() if name != self.key and np.ndim(x) and len(x) == len(self))

    def column(self, name: str) -> Sequence[Any]:
        return np.asarray(self.arrays[name]).tolist()


@dataclass(frozen=True)
class Table(Source):
    """Rows that are dictionaries, as those of Hugging Face's `datasets`."""

    rows: Any
    key: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, name: str) -> tuple[Any, Any]:
        item = self.rows[index]
        return item[self.key], item[name] if name else None

    def place(self, index: int) -> str:
        return f"row {index}, column {self.key!r},"

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name != self.key)

    def column(self, name: str) -> Sequence[Any]:
        if hasattr(self.rows, "column_names"):  # does not decode the pictures
            return list(self.rows[name])
        return [self.rows[i][name] for i in range(len(self))]

    def classes(self, name: str) -> tuple[str, ...]:
        feature = (getattr(self.rows, "features", None) or {}).get(name)
        return tuple(getattr(feature, "names", None) or ())


@dataclass(frozen=True)
class Items(Source):
    """Items that are pictures, or tuples that begin with one and go on with a label, as torchvision's."""

    rows: Any
    labelled: bool = field(init=False)

    def __post_init__(self) -> None:
        first = self.rows[0]
        object.__setattr__(self, "labelled", isinstance(first, tuple | list) and len(first) > 1 and np.ndim(first[1]) == 0)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, name: str) -> tuple[Any, Any]:
        item = self.rows[index]
        return (item[0], item[1] if name else None) if isinstance(item, tuple | list) else (item, None)

    def place(self, index: int) -> str:
        return f"item {index}"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("label",) if self.labelled else ()

    def column(self, name: str) -> Sequence[Any]:
        known = getattr(self.rows, "targets", None)  # torchvision's, without a picture being read
        if known is not None and len(known) == len(self):
            return np.asarray(known).tolist()
        return [self.rows[i][1] for i in range(len(self))]
