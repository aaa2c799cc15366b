"""How much of a data set is held at once: batches by their bytes, and a portion where the whole would be too much.

Sizes are counted in float64, in which everything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
from jaxtyping import Int64, Shaped
from torch import Tensor

from score_sde_analytic.data.examples import Data, Examples, as_dataset, batches

#: Of a batch: what is made of it takes a few times as much.
BATCH_BYTES = 64 << 20
#: Of states on their way through a network and a likelihood, which hold some thirty times as much.
STATE_BYTES = 16 << 20
#: Of states that a processor works on together: what is made of them stays in its cache.
CACHE_BYTES = 2 << 20
#: Examples of a batch, however small they are.
BATCH = 1024
#: Of data that are read as a whole where a part would do.
LARGE = 512 << 20
#: Of a portion that is held of larger ones.
PORTION = 256 << 20
#: Portions that somebody holds, by the data that they are of and their number, so that nobody reads them again.
_HELD: WeakKeyDictionary[Examples, WeakValueDictionary[int, Examples]] = WeakKeyDictionary()


def batch_by_bytes(dim: int, most: int = BATCH, batch_bytes: int = BATCH_BYTES) -> int:
    """How many examples of so many numbers make a batch: at most so many, and at least one.

    >>> batch_by_bytes(3 * 256 * 256), batch_by_bytes(64)
    (42, 1024)
    """
    return max(min(most, batch_bytes // (8 * max(dim, 1))), 1)


def together(x: Shaped[Tensor, " batch *dims"]) -> tuple[Shaped[Tensor, " _ *dims"], ...]:
    """The rows in parts that are worked on in float64 at once.

    >>> [len(part) for part in together(torch.zeros(3, 200_000))]
    [1, 1, 1]
    """
    most = CACHE_BYTES if x.device.type == "cpu" else STATE_BYTES
    return x.split(batch_by_bytes(x[0].numel(), batch_bytes=most))


def is_large(count: int, dim: int) -> bool:
    """Whether so many examples of so many numbers are too much to be read where a part of them would do.

    >>> is_large(60_000, 28 * 28), is_large(1000, 3 * 256 * 256)
    (False, True)
    """
    return 8 * count * dim > LARGE


def spread(total: int, count: int) -> Int64[np.ndarray, " {count}"]:
    """Indices at even distances: data may be sorted by class.

    >>> spread(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def portion(data: Data, most: int | None = None, above: int | None = None) -> Examples:
    """The data, or where they are more than so many examples or bytes, evenly spread ones of them, read once and held.

    >>> len(portion(torch.zeros(5, 64), most=3))
    3
    """
    examples = as_dataset(data)
    total, dim = len(examples), examples.first.numel()
    count = min(total, total if most is None else most)
    if 8 * dim * count > (LARGE if above is None else above):
        count = max(PORTION // (8 * dim), 1)
    if count == total:
        return examples
    known = _HELD.setdefault(examples, WeakValueDictionary())
    part = known.get(count)
    if part is None:
        part = known[count] = Examples(held(examples, spread(total, count)))
    return part


def held(data: Data, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> Shaped[Tensor, " n *dims"]:
    """Examples in memory, once: what a batch takes besides is freed before the next is read.

    >>> held(test_set, range(3)).shape
    torch.Size([3, 2])
    """
    examples = as_dataset(data)
    rows = examples.first.new_empty((len(indices), *examples.shape))
    size = batch_by_bytes(examples.first.numel())
    for start, x_0 in zip(range(0, len(indices), size), batches(examples, indices, size), strict=True):
        rows[start : start + size] = x_0
    return rows
