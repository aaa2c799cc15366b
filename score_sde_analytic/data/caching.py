"""Rows of any iterable in a memory map: read by index afterwards, and checked as they are read.

FOLDER/rows.bin             the rows one after the other, as numpy's records: tensors, arrays and numbers of fixed shapes
FOLDER/rows.safetensors     what a row is, the checksum of every row, how many there are, and what they were made of

What was written before an interruption is gone on from: rows are made again only where the source cannot skip them, and are
compared with those that are there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from score_sde_analytic.arrays import copied, kept, native
from score_sde_analytic.checks import scalar
from score_sde_analytic.errors import InputError, WriteError
from score_sde_analytic.files import load_arrays, plain, require_match, save_arrays
from score_sde_analytic.interruption import save_points
from score_sde_analytic.processes import dealt

ROWS, INDEX = "rows.bin", "rows.safetensors"
KIND = "cached rows"
AFRESH = "delete the folder and write it again"
#: Of the index: the checksums, and what a row is.
ARRAYS = {"checksums": "uint32 n"}
SHAPE = {"fields": [[object]], "form": {"tensor", "mapping", "tuple"}, "complete": bool, "identity": dict}
#: Name of the only field of rows that are tensors.
ALONE = "x_0"


class Cached(Dataset[Any]):
    """Rows of a memory map, as they were written: tensors, dictionaries or tuples of tensors and numbers.

    >>> rows = cached(({"image": np.full((1, 2, 2), i, np.uint8), "label": i} for i in range(3)), "rows", progress=False)
    >>> len(rows), rows[2]["label"], rows[1]["image"].shape
    (3, 2, torch.Size([1, 2, 2]))

    Args:
        folder: that `cached` wrote.

    Raises:
        MissingFileError: there is no such folder.
        InputError: it is damaged, or was not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        arrays, metadata = load_arrays(self.folder / INDEX, KIND, ARRAYS, SHAPE, AFRESH)
        if not metadata["complete"]:
            raise InputError(f"{self.folder} was not finished; write the same again, which goes on from there")
        self.identity = metadata["identity"]
        self._checksums = arrays["checksums"]
        self._row = _Row(metadata["form"], _dtype(metadata["fields"]))
        self._file: np.ndarray | None = None
        size, path = self._row.size * len(self), self.folder / ROWS
        if not path.is_file() or path.stat().st_size != size:
            raise InputError(f"{path} is not of the {size} bytes that were written; {AFRESH}")

    def __len__(self) -> int:
        return len(self._checksums)

    def __getitem__(self, index: int) -> Any:
        """Raises InputError for a row that is not what was written."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{len(self)} rows have no row {index}")
        record = self._records[index].copy()
        if zlib.crc32(record.tobytes()) != self._checksums[index]:
            raise InputError(f"row {index} of {self.folder / ROWS} is not what was written; {AFRESH}")
        return self._row.item(record)

    @property
    def _records(self) -> np.ndarray:
        if self._file is None:
            self._file = np.memmap(self.folder / ROWS, self._row.dtype, "r", shape=(len(self),))
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        """Workers open the map themselves."""
        return {**vars(self), "_file": None}


class _Row:
    """How a row lies in the file."""

    def __init__(self, form: str, dtype: np.dtype) -> None:
        self.form = form
        self.dtype = dtype

    @classmethod
    def of(cls, item: Any) -> _Row:
        """As the first row has it.

        Raises:
            InputError: the row holds what has no fixed size, or nothing.
        """
        form, fields = _fields(item)
        row = cls(form, np.dtype([(name, x.dtype, x.shape) for name, x in fields.items()]))
        if row.size == 0:
            raise InputError(
                "the first row holds no numbers; give rows of tensors, arrays, pictures or numbers that are not empty"
            )
        return row

    @property
    def size(self) -> int:
        return self.dtype.itemsize

    @property
    def fields(self) -> list[list[Any]]:
        """As plain data."""
        kinds = {name: self.dtype[name] for name in self.dtype.names or ()}
        return [[name, kind.base.str, list(kind.shape)] for name, kind in kinds.items()]

    def record(self, item: Any, number: int) -> bytes:
        """A row's bytes.

        Raises:
            InputError: it is not like the first one.
        """
        form, fields = _fields(item)
        kinds = {name: np.dtype((x.dtype, x.shape)) for name, x in fields.items()}
        known = {name: self.dtype[name] for name in self.dtype.names or ()}
        if form != self.form or kinds != known:
            first, here = (", ".join(f"{n} {k.base} {k.shape}" for n, k in each.items()) for each in (known, kinds))
            raise InputError(f"row {number} is {here}, the first {first}; crop, resize or convert them to one kind")
        return b"".join(np.ascontiguousarray(fields[name]).tobytes() for name in known)  # keys may come in another order

    def item(self, record: np.ndarray) -> Any:
        values = {name: _value(record[name]) for name in self.dtype.names or ()}
        if self.form == "tensor":
            return values[ALONE]
        return values if self.form == "mapping" else tuple(values.values())


def _fields(item: Any) -> tuple[str, dict[str, np.ndarray]]:
    """(how the row is made, its parts by name)."""
    if isinstance(item, Mapping):
        if unnamed := [name for name in item if not (isinstance(name, str) and name)]:
            raise InputError(
                f"the parts of a row are called by words, not {unnamed[0]!r}: give {{'label': ..}}, or a tuple of them"
            )
        return "mapping", {name: _array(name, value) for name, value in item.items()}
    if isinstance(item, tuple | list):
        return "tuple", {str(i): _array(str(i), value) for i, value in enumerate(item)}
    return "tensor", {ALONE: _array(ALONE, item)}


def _array(name: str, value: Any) -> np.ndarray:
    try:
        x = native(np.asarray(kept(value.detach()).numpy() if isinstance(value, Tensor) else value))
    except (TypeError, ValueError, RuntimeError):  # a dtype that numpy lacks, or lists of several lengths
        x = np.empty(0, object)
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        kind = getattr(value, "dtype", type(value).__name__)
        kinds = "only tensors, arrays, pictures and numbers are kept, in numpy's dtypes of up to 64 bits"
        raise InputError(f"{name} of a row is {kind}: {kinds}; convert it")
    return np.moveaxis(x, -1, 0) if hasattr(value, "getbands") and x.ndim == 3 else x[None] if hasattr(value, "getbands") else x


def _value(x: Any) -> Any:
    return copied(x) if np.ndim(x) else scalar(x)


def _dtype(fields: list[list[Any]]) -> np.dtype:
    try:
        return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in fields])
    except (TypeError, ValueError) as error:
        raise InputError(f"the rows are of a kind that numpy does not know ({error}); {AFRESH}") from error


def cached(
    rows: Iterable[Any] | Callable[[int], Iterable[Any]],
    folder: str | Path,
    identity: Mapping[str, Any] | None = None,
    total: int | None = None,
    progress: bool = True,
) -> Cached:
    """The rows of an iterable, written to a folder once and read from there by index.

    A finished folder is opened, and the iterable left alone; an unfinished one is gone on with. Of several processes the first
    writes, and the others wait.

    >>> len(cached(iter(torch.zeros(5, 2)), "zeros", progress=False))
    5

    Args:
        rows: tensors (bfloat16 becomes float32), arrays, pictures, numbers, or dictionaries or tuples of these, all of one
            kind; also an `IterableDataset` or a loader without batches. Or a function of how many rows there
            are already, which gives the others.
        folder: that is written.
        identity: what the rows are made of, as plain data: a folder of something else is refused. Of two iterables that say
            nothing of themselves, only the first rows are compared.
        total: how many rows there will be, where that is known.

    Raises:
        InputError: no rows, rows of different kinds, or a folder of something else.
        WriteError: the folder cannot be written.
    """
    target, known = Path(folder), plain(identity or {})

    def write(folder: Path) -> None:
        writer = _Writer(folder, known)
        if writer.complete:
            writer.compare(rows)
        else:
            writer.finish(rows, total, progress)

    list(dealt(write, [target]))
    return Cached(target)


class _Writer:
    """The rows so far."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = identity
        self.row: _Row | None = None
        self.complete = False
        self._checksums: list[int] = []
        if (folder / INDEX).exists():
            self._resume()

    def _resume(self) -> None:
        arrays, metadata = load_arrays(self.folder / INDEX, KIND, ARRAYS, SHAPE, AFRESH)
        require_match(self.folder, metadata["identity"], self.identity)
        self.row = _Row(metadata["form"], _dtype(metadata["fields"]))
        self.complete = metadata["complete"]
        self._checksums = arrays["checksums"].tolist()

    def compare(self, rows: Iterable[Any] | Callable[[int], Iterable[Any]]) -> None:
        """Refuse another source; one that says what it is has been compared already."""
        if not self.identity and not callable(rows):
            self._compared(iter(rows), 1)

    def finish(self, rows: Iterable[Any] | Callable[[int], Iterable[Any]], total: int | None, progress: bool) -> None:
        """Write all that is left."""
        done = len(self._checksums)
        coming = self._after(rows, done, total)
        with (
            self._open() as file,
            tqdm(total=total, initial=done, desc=f"cache {self.folder.name}", unit="row", disable=not progress) as bar,
            save_points(lambda: self._save(file), lambda: f"{len(self._checksums)} rows are in {self.folder}") as point,
        ):
            try:
                for item in coming:
                    self._append(file, item)
                    bar.update()
                    point()
            except Exception:
                self._save(file)
                raise
            if not self._checksums:
                raise InputError("the iterable gave no rows; check its path and split")
            self.complete = True
            self._save(file)

    def _open(self) -> Any:
        """The file, as long as the rows that the index knows."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / ROWS
            file = path.open("r+b" if self._checksums else "wb")
            file.truncate(len(self._checksums) * (self.row.size if self.row else 0))
            file.seek(0, 2)
        except OSError as error:
            raise WriteError(f"{self.folder} cannot be written ({error.strerror}); choose another folder") from error
        return file

    def _after(self, rows: Iterable[Any] | Callable[[int], Iterable[Any]], done: int, total: int | None) -> Iterator[Any]:
        """The rows that are not written yet, of a source that has those that are."""
        coming = iter(rows(done) if callable(rows) else rows)
        there = total if callable(rows) else self._compared(coming, done)
        if there is not None and there < done:
            raise InputError(f"the source has {there} rows, {done} are in {self.folder}: the source changed; {AFRESH}")
        return coming

    def _compared(self, rows: Iterator[Any], done: int) -> int:
        """How many of the first rows there are; they must be what is written."""
        count = 0
        for number, item in enumerate(islice(rows, done)):
            if self.row is None or zlib.crc32(self.row.record(item, number)) != self._checksums[number]:
                raise InputError(f"row {number} is not the one in {self.folder}: the source changed; {AFRESH}")
            count += 1
        return count

    def _append(self, file: Any, item: Any) -> None:
        self.row = self.row or _Row.of(item)
        record = self.row.record(item, len(self._checksums))
        try:
            file.write(record)
        except OSError as error:
            raise WriteError(f"{self.folder} cannot be written ({error.strerror}); make room there") from error
        self._checksums.append(zlib.crc32(record))

    def _save(self, file: Any) -> None:
        """The index, once the rows that it speaks of are written."""
        if self.row is None:
            return
        file.flush()
        metadata = {"kind": KIND, "fields": self.row.fields, "form": self.row.form, "complete": self.complete}
        checksums = np.array(self._checksums, dtype=np.uint32)
        save_arrays(self.folder / INDEX, {"checksums": checksums}, metadata | {"identity": self.identity})
