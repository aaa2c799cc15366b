"""Data of any container as one kind of data set: so many examples x_0, tensors of one shape, read by index.

Tensors, arrays, data sets and loaders of tensors, arrays, pictures, tuples that begin with one, or dictionaries that hold one.
What a network is conditioned on, such as classes, is part of an item: (x_0, {name: value}), or a place in it that is named.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, Subset, default_collate

from score_sde_analytic.arrays import copied, native
from score_sde_analytic.data.loading import Ahead
from score_sde_analytic.data.places import Places
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError

#: Examples x_0, (n, *dims), or a map-style data set of them, of tuples that begin with one, or of dictionaries that hold one.
Data = Tensor | np.ndarray | Dataset[Any] | DataLoader[Any]
#: Where a dictionary has its example, unless a key is named.
KEYS = ("image", "images", "img", "pixel_values", "x", "x_0", "data", "input", "inputs")


#: What an example, and some examples row by row, are conditioned on, by the names of the network's arguments.
Item = Mapping[str, Shaped[Tensor, " ..."]]
Rows = Mapping[str, Shaped[Tensor, " batch ..."]]


class Batch(NamedTuple):
    """Some examples, and what each of them is conditioned on; nothing where the data say nothing."""

    x_0: Shaped[Tensor, " batch *dims"]
    conditions: Rows


class Examples(Dataset[Any]):
    """The examples x_0 of any data, as tensors, with what they are conditioned on.

    >>> rows = [{"image": np.full((1, 2, 2), level, dtype=np.uint8), "label": 0} for level in (0, 255)]
    >>> examples = Examples(rows, DataRange(levels=256))
    >>> len(examples), examples.shape, examples[1].unique()
    (2, (1, 2, 2), tensor([1.]))
    >>> Examples(rows, conditions={"class_labels": "label"}).batch([0, 1]).conditions
    {'class_labels': tensor([0, 0])}

    Args:
        data: see `Data`. Of a loader the data set behind it is read, in its own order, by as many workers as the loader has and
            into pinned memory where it says so.
        data_range: where its levels are declared, integers 0 .. levels - 1 become values in [lo, hi].
        key: of the example in a dictionary; "" for the usual one, such as "image" or "x".
        conditions: names of the network's arguments, and where their values are: a key or a position in every item, or all of
            them, one row per example. Without it, they are the dictionaries of items (x_0, {name: value}).

    Raises:
        InputError: it is empty, has no length (iterable-style), or holds no examples.
    """

    def __init__(
        self, data: Any, data_range: DataRange | None = None, key: str = "", conditions: Mapping[str, Any] | None = None
    ) -> None:
        self._key = key
        self._levels = data_range if data_range is not None and data_range.levels is not None else None
        columns = data if isinstance(data, Mapping) else None
        self._items: Any = _indexed(self._of_mapping(columns) if columns is not None else data)
        self._pinned = isinstance(data, DataLoader) and data.pin_memory and torch.cuda.is_available()
        self._conditions = Places.of(conditions, columns, len(self))
        self._read: dict[int, int] = {}  # index -> checksum
        self._kinds: dict[str, tuple[int, str]] = {}  # of an example and of conditions that were read
        if len(self) == 0:
            raise InputError("the data set is empty; check its path and split")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Shaped[Tensor, "*dims"] | tuple[Shaped[Tensor, "*dims"], Item]:
        """x_0; with its conditions where it has some, so that subsets and loaders keep them."""
        example, conditions = self._read_item(int(index))
        return (example, conditions) if conditions else example

    @property
    def in_memory(self) -> bool:
        """Whether they are held, so that reading them again costs nothing."""
        return isinstance(self._items, Tensor)

    @property
    def space(self) -> str:
        """What examples are where they stand for something else, as "latents" of pictures; else nothing.

        It is the attribute `space` of the data set, or of the one that a subset or a loader holds.
        """
        inner = self._items
        while inner is not None and not hasattr(inner, "space"):
            inner = getattr(inner, "dataset", None)
        return getattr(inner, "space", "")

    def _read_item(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        item = self._items[index]
        example = self._encoded(self._example(item))
        conditions = {name: self._condition(name, value) for name, value in self._conditions.at(index, item).items()}
        if not self.in_memory:
            self._require_unchanged(index, example, *conditions.values())
        return example, conditions

    @property
    def first(self) -> Shaped[Tensor, "*dims"]:
        """The first example."""
        return self._first_item[0]

    @cached_property
    def _first_item(self) -> tuple[Tensor, dict[str, Tensor]]:
        return self._read_item(0)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of what its examples are conditioned on.

        >>> Examples(torch.zeros(3, 2), conditions={"class_labels": [0, 1, 1]}).conditions
        ('class_labels',)
        """
        return tuple(self._first_item[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example."""
        return tuple(self.first.shape)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Shaped[Tensor, " batch *dims"]:
        """The examples at some indices, on the host.

        Raises:
            InputError: they differ in shape or kind, or one is not what it was when it was read before.
        """
        return self.batch(indices).x_0

    def expect(self, indices: Iterable[int]) -> None:
        """The order in which examples will be asked for: a loader's workers read ahead of it."""
        _expect(self._items, indices)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The examples at some indices with their conditions, on the host.

        Raises:
            InputError: they differ in shape or kind, or one is not what it was when it was read before.
        """
        if self.in_memory:
            places = torch.as_tensor(indices)
            rows = self._conditions.columns
            conditions = {name: self._condition(name, values[places], 1) for name, values in rows.items()}
            return Batch(self._encoded(self._items[places].cpu()), conditions)
        read = [self._read_item(int(i)) for i in indices]
        x_0 = torch.stack([self._alike("example", i, x) for i, (x, _) in zip(indices, read, strict=True)])
        names = dict.fromkeys(name for _, conditions in read for name in conditions)
        named = {name: [conditions.get(name) for _, conditions in read] for name in names}
        rows = {name: self._stacked(name, indices, values) for name, values in named.items()}
        return Batch(x_0.pin_memory() if self._pinned else x_0, rows)

    def part(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Some of the examples as a data set of their own, with their conditions.

        >>> Examples(torch.arange(3.0), conditions={"class_labels": [0, 1, 1]}).part([2, 0]).batch([0])
        Batch(x_0=tensor([2.]), conditions={'class_labels': tensor([1])})
        """
        if isinstance(self._items, Tensor):
            x_0, conditions = self.batch(indices)
            return Examples(x_0, conditions=conditions or None)
        return Examples(Subset(self, [int(i) for i in indices]))

    def divided(self, name: str) -> dict[int, Examples]:
        """The examples of every class, by a condition that is a whole number.

        >>> labels = Examples(torch.zeros(3, 2), conditions={"class_labels": [0, 1, 1]})
        >>> {label: len(part) for label, part in labels.divided("class_labels").items()}
        {0: 1, 1: 2}

        Raises:
            InputError: the data have no such condition, or it is not a whole number per example.
        """
        if name not in self.conditions:
            raise InputError(f"the data have no condition {name!r} but {', '.join(self.conditions) or 'none'}")
        parts = np.array_split(np.arange(len(self)), -(-len(self) // 1024))
        of = torch.cat([self.batch(part).conditions[name] for part in parts])
        if of.ndim != 1 or of.is_floating_point():
            raise InputError(f"the condition {name} is {of.dtype} {tuple(of.shape[1:])} per example, not a class")
        return {int(k): self.part(torch.nonzero(of == k)[:, 0].tolist()) for k in of.unique()}

    def _stacked(self, name: str, indices: Sequence[int] | NDArray[np.int64], values: Sequence[Tensor | None]) -> Tensor:
        """A condition of some examples as rows."""
        for index, value in zip(indices, values, strict=True):
            if value is None:
                raise InputError(f"example {index} has no condition {name}, others have; give it to all")
        return torch.stack([self._alike(name, i, value) for i, value in zip(indices, values, strict=True)])

    def _condition(self, name: str, value: Any, rows: int = 0) -> Tensor:
        """A condition as a tensor: labels in int64, numbers in float32, pictures as examples are."""
        if isinstance(value, bool | int | float):
            value = torch.tensor(value)
        if isinstance(value, list | np.ndarray | np.generic) and np.asarray(value).dtype.kind in "biuf":
            value = copied(value)
        if not isinstance(value, Tensor) and hasattr(value, "__array_interface__"):
            value = self._example(value)
        if not isinstance(value, Tensor):
            raise InputError(
                f"the condition {name} is {type(value).__name__}; give numbers, arrays or pictures: words must be embedded"
            )
        if value.is_floating_point() or (value.dtype == torch.bool and value.ndim > rows):  # numbers, masks
            return value.cpu()
        picture = value.dtype == torch.uint8 and value.ndim - rows == 3
        return self._encoded(value.cpu()) if picture else value.cpu().long()

    def _example(self, item: Any) -> Tensor:
        """The x_0 of an item."""
        if isinstance(item, Tensor):
            return item
        if isinstance(item, Mapping):
            return self._example(np.asarray(value) if isinstance(value := self._of_mapping(item), list) else value)
        if isinstance(item, tuple | list) and len(item):
            return self._example(item[0])
        if isinstance(item, np.ndarray | np.generic) and item.dtype != object:
            return copied(item)
        if hasattr(item, "__array_interface__"):  # a picture: rows, columns, channels
            pixels = np.asarray(item)
            return copied(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
        raise InputError(
            f"an item of the data is {type(item).__name__}, not an example; give tensors, arrays, pictures, tuples that begin"
            " with one, or dictionaries that hold one"
        )

    def _of_mapping(self, item: Mapping[str, Any]) -> Any:
        keys = [self._key] if self._key else [key for key in KEYS if key in item]
        if len(keys) != 1 or keys[0] not in item:
            known = ", ".join(map(repr, item))
            raise InputError(f"which of {known} is the example? name it: score_sde_analytic.data.Examples(data, key='...')")
        return item[keys[0]]

    def _encoded(self, x: Tensor) -> Tensor:
        if self._levels is None or x.is_floating_point():
            return x
        return self._levels.encode(x.cpu().numpy())

    def _require_unchanged(self, index: int, *read: Tensor) -> None:
        """An example and its conditions must be what they were when they were read before."""
        check = zlib.crc32(b"".join(map(_bytes, read)))
        if self._read.setdefault(index, check) != check:
            raise InputError(
                f"example {index} changed between two readings: the data set augments or draws at random; switch that off, or"
                " draw once, as in torch.stack([dataset[i][0] for i in range(len(dataset))])"
            )

    def _alike(self, what: str, index: int, value: Any) -> Tensor:
        kind = f"{tuple(value.shape)} of {value.dtype}"
        known, first = self._kinds.setdefault(what, (int(index), kind))
        if kind != first:
            of = "" if what == "example" else f"the condition {what} of "
            raise InputError(
                f"{of}example {index} is {kind}, example {known} {first}; crop, resize or convert them to one kind"
            )
        return value


def _expect(items: Any, indices: Iterable[int]) -> None:
    """Tell what reads ahead, which may lie below views of parts."""
    if isinstance(items, Subset):
        _expect(items.dataset, (items.indices[int(i)] for i in indices))
    elif isinstance(items, Ahead | Examples):
        items.expect(indices)


def _indexed(data: Any) -> Any:
    """What has the items by index: a tensor, or a map-style data set."""
    if isinstance(data, np.ndarray) and data.dtype != object:
        data = native(data)
        data = torch.from_numpy(data if data.flags.writeable else data.copy())
    if isinstance(data, DataLoader):
        usual = type(data.batch_sampler) in (BatchSampler, type(None)) and data.collate_fn is default_collate
        if not usual or not isinstance(data.sampler, SequentialSampler | RandomSampler):
            raise InputError("a loader's own collate_fn or sampler would be ignored: pass a Dataset that does what they do")
        data = Ahead.of(data)
    scalar = isinstance(data, Tensor) and data.ndim == 0
    if scalar or isinstance(data, str) or not isinstance(data, Sized) or not hasattr(data, "__getitem__"):
        raise InputError(
            "need a map-style data set (with len() and indexing): examples are visited in a seeded order; collect the examples"
            " of an iterable first, as in torch.stack(list(itertools.islice(dataset, 1000)))"
        )
    return data


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def as_dataset(data: Any, data_range: DataRange | None = None) -> Examples:
    """The examples of any data; those of `Examples` as they are.

    >>> len(as_dataset(torch.zeros(5, 2)))
    5

    Raises:
        InputError: it is empty, has no length (iterable-style), or holds no examples.
    """
    return data if isinstance(data, Examples) else Examples(data, data_range)


def batches(data: Any, indices: Sequence[int] | NDArray[np.int64], batch_size: int) -> Iterator[Shaped[Tensor, " batch *dims"]]:
    """Batches of x_0 at the given indices, on the host.

    >>> [len(x_0) for x_0 in batches(as_dataset(torch.zeros(5, 2)), range(5), batch_size=2)]
    [2, 2, 1]
    """
    examples = as_dataset(data)
    examples.expect(indices)
    for start in range(0, len(indices), batch_size):
        yield examples.take(indices[start : start + batch_size])
