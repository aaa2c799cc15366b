"""Data of any container as one kind of data set: so many examples x_0, tensors of one shape, read by index.

Tensors, arrays, data sets and loaders of tensors, arrays, pictures, tuples that begin with one, or dictionaries that hold one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, default_collate

from score_sde_analytic.data.loading import Ahead
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError

#: Examples x_0, (n, *dims), or a map-style data set of them, of tuples that begin with one, or of dictionaries that hold one.
Data = Tensor | np.ndarray | Dataset[Any] | DataLoader[Any]
#: Where a dictionary has its example, unless a key is named.
KEYS = ("image", "images", "img", "pixel_values", "x", "x_0", "data", "input", "inputs")


class Examples(Dataset[Tensor]):
    """The examples x_0 of any data, as tensors.

    >>> rows = [{"image": np.full((1, 2, 2), level, dtype=np.uint8), "label": 0} for level in (0, 255)]
    >>> examples = Examples(rows, DataRange(levels=256))
    >>> len(examples), examples.shape, examples[1].unique()
    (2, (1, 2, 2), tensor([1.]))

    Args:
        data: see `Data`. Of a loader the data set behind it is read, in its own order, by as many workers as the loader has and
            into pinned memory where it says so.
        data_range: where its levels are declared, integers 0 .. levels - 1 become values in [lo, hi].
        key: of the example in a dictionary; "" for the usual one, such as "image" or "x".

    Raises:
        InputError: it is empty, has no length (iterable-style), or holds no examples.
    """

    def __init__(self, data: Any, data_range: DataRange | None = None, key: str = "") -> None:
        self._key = key
        self._levels = data_range if data_range is not None and data_range.levels is not None else None
        self._items: Any = _indexed(self._of_mapping(data) if isinstance(data, Mapping) else data)
        self._pinned = isinstance(data, DataLoader) and data.pin_memory and torch.cuda.is_available()
        self._read: dict[int, int] = {}  # index -> checksum
        self._kind: tuple[int, str] | None = None  # of an example that was read
        if len(self) == 0:
            raise InputError("the data set is empty; check its path and split")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Shaped[Tensor, "*dims"]:
        example = self._encoded(self._example(self._items[index]))
        return example if self.in_memory else self._unchanged(int(index), example)

    @property
    def in_memory(self) -> bool:
        """Whether they are held, so that reading them again costs nothing."""
        return isinstance(self._items, Tensor)

    @cached_property
    def first(self) -> Shaped[Tensor, "*dims"]:
        """The first example."""
        return self[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example."""
        return tuple(self.first.shape)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Shaped[Tensor, " batch *dims"]:
        """The examples at some indices, on the host.

        Raises:
            InputError: they differ in shape or kind, or one is not what it was when it was read before.
        """
        if self.in_memory:
            return self._encoded(self._items[torch.as_tensor(indices)].cpu())
        rows = torch.stack([self._alike(int(i), self[int(i)]) for i in indices])
        return rows.pin_memory() if self._pinned else rows

    def expect(self, indices: Iterable[int]) -> None:
        """The order in which examples will be asked for: a loader's workers read ahead of it."""
        if isinstance(self._items, Ahead):
            self._items.expect(indices)

    def _example(self, item: Any) -> Tensor:
        """The x_0 of an item."""
        if isinstance(item, Tensor):
            return item
        if isinstance(item, Mapping):
            return self._example(np.asarray(value) if isinstance(value := self._of_mapping(item), list) else value)
        if isinstance(item, tuple | list) and len(item):
            return self._example(item[0])
        if isinstance(item, np.ndarray | np.generic) and item.dtype != object:
            return torch.from_numpy(np.array(item))
        if hasattr(item, "__array_interface__"):  # a picture: rows, columns, channels
            pixels = np.array(item)
            return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0).copy())
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

    def _unchanged(self, index: int, example: Tensor) -> Tensor:
        """The example, which must be what it was when it was read before."""
        check = zlib.crc32(_bytes(example))
        if self._read.setdefault(index, check) != check:
            raise InputError(
                f"example {index} changed between two readings: the data set augments or draws at random; switch that off, or"
                " draw once, as in torch.stack([dataset[i][0] for i in range(len(dataset))])"
            )
        return example

    def _alike(self, index: int, example: Tensor) -> Tensor:
        kind = f"{tuple(example.shape)} of {example.dtype}"
        self._kind = self._kind or (index, kind)
        known, first = self._kind
        if kind != first:
            raise InputError(f"example {index} is {kind}, example {known} {first}; crop, resize or convert them to one kind")
        return example


def _indexed(data: Any) -> Any:
    """What has the items by index: a tensor, or a map-style data set."""
    if isinstance(data, np.ndarray) and data.dtype != object:
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
