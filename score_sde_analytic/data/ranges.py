"""Data in a declared range, and the statistics of data that bounds and priors need.

m = E x_0,   second_moment = E||x_0||^2 / d,   variance V = tr Cov(x_0) / d,   eigenvalues of Cov(x_0)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, Integer, Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset, default_collate

from score_sde_analytic.arrays import Array
from score_sde_analytic.errors import InputError


@dataclass(frozen=True)
class DataRange:
    """The interval data live in and, for discrete data, its number of evenly spaced levels.

    >>> DataRange(levels=256).bin_width == 2 / 255
    True

    Args:
        lo, hi: smallest and largest possible value.
        levels: number of grid values in [lo, hi] (256 for 8-bit images), None for continuous data.
    """

    lo: float = -1.0
    hi: float = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        if not self.lo < self.hi:
            raise InputError(f"need lo < hi, got [{self.lo}, {self.hi}]")
        if self.levels is not None and self.levels < 2:
            raise InputError(f"levels must be at least 2, got {self.levels}")

    @property
    def bin_width(self) -> float:
        """Distance between neighbouring levels.

        Raises:
            InputError: the data are continuous.
        """
        if self.levels is None:
            raise InputError("continuous data have no bins; set levels of the DataRange (256 for 8-bit data)")
        return (self.hi - self.lo) / (self.levels - 1)

    def encode(self, integers: Integer[np.ndarray, "*shape"]) -> Float32[Tensor, "*shape"]:
        """Integers 0 .. levels - 1 as float32 values in [lo, hi].

        >>> DataRange(levels=17).encode(np.array([0, 8, 16]))
        tensor([-1., 0., 1.])

        Raises:
            InputError: an integer outside 0 .. levels - 1.
        """
        width = self.bin_width
        if integers.size and not (integers.min() >= 0 and integers.max() < self.levels):
            raise InputError(f"values {integers.min()}..{integers.max()} do not fit {self.levels} levels; check data.levels")
        return torch.from_numpy((self.lo + width * integers.astype(np.float64)).astype(np.float32))

    def index(self, x: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """The level 0 .. levels - 1 of every value, which must lie on the grid (`check`).

        >>> DataRange(levels=17).index(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([ 0, 8, 16])
        """
        return ((x.double() - self.lo) / self.bin_width).round().long()

    def check(self, x: Shaped[Tensor, " ..."]) -> None:
        """Raise InputError for values that are not finite, outside [lo, hi], or off the grid of levels.

        >>> DataRange(levels=17).check(torch.full((1, 2), 0.1))
        Traceback (most recent call last):
            ...
        score_sde_analytic.errors.InputError: data lie off the grid of 17 levels; declare their levels, or levels=None
        """
        slack = 1e-5 * (self.hi - self.lo)
        if not x.is_floating_point():
            raise InputError(f"the data are {x.dtype}; give floating-point values (DataRange.encode converts integers)")
        if x.ndim < 2:
            raise InputError(f"a batch of examples has shape {tuple(x.shape)}; each example needs at least one dimension")
        if not torch.isfinite(x).all():
            raise InputError("the data hold NaN or inf; clean them first")
        if x.min() < self.lo - slack or x.max() > self.hi + slack:
            raise InputError(
                f"data in [{x.min():.4g}, {x.max():.4g}] leave the declared range [{self.lo:g}, {self.hi:g}];"
                " rescale the data or declare their DataRange"
            )
        if self.levels is not None:
            index = (x.double() - self.lo) / self.bin_width
            if (index - index.round()).abs().max() > 1e-3:
                narrow = f" ({x.dtype} may be too coarse for them)" if x.dtype in (torch.float16, torch.bfloat16) else ""
                raise InputError(f"data lie off the grid of {self.levels} levels{narrow}; declare their levels, or levels=None")


#: Examples x_0, (n, *dims), or a map-style data set of them or of tuples that begin with one.
Data = Tensor | Dataset[Any] | DataLoader[Any]


def as_dataset(data: Data) -> Dataset[Any]:
    """The map-style data set behind a tensor, Dataset or DataLoader.

    >>> len(as_dataset(torch.zeros(5, 2)))
    5

    Raises:
        InputError: it is empty, or has no length (iterable-style).
    """
    dataset: Any = data
    if isinstance(data, Tensor):
        dataset = TensorDataset(data)
    elif isinstance(data, DataLoader):
        if data.collate_fn is not default_collate or not isinstance(data.sampler, SequentialSampler | RandomSampler):
            raise InputError("a loader's own collate_fn or sampler would be ignored: pass a Dataset that does what they do")
        dataset = data.dataset
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise InputError("need a map-style data set (with len() and indexing): examples are visited in a seeded order")
    if len(dataset) == 0:
        raise InputError("the data set is empty; check its path and split")
    return dataset  # type: ignore[return-value]


def batches(
    dataset: Dataset[Any], indices: Sequence[int] | NDArray[np.int64], batch_size: int, workers: int = 0
) -> Iterator[Shaped[Tensor, " batch *dims"]]:
    """Batches of x_0 at the given indices; items may be tensors or tuples that begin with one.

    >>> [len(x_0) for x_0 in batches(as_dataset(torch.zeros(5, 2)), range(5), batch_size=2)]
    [2, 2, 1]
    """
    order = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    for batch in DataLoader(dataset, batch_sampler=order, num_workers=workers):  # type: ignore[arg-type]
        yield batch if isinstance(batch, Tensor) else batch[0]


def first_example(data: Data) -> Shaped[Tensor, "*dims"]:
    """The first x_0.

    >>> first_example(torch.zeros(5, 2)).shape
    torch.Size([2])
    """
    item = as_dataset(data)[0]
    return item if isinstance(item, Tensor) else item[0]


def shape_and_count(data: Data) -> tuple[tuple[int, ...], int]:
    """(shape of an example, number of examples).

    >>> shape_and_count(torch.zeros(5, 1, 8, 8))
    ((1, 8, 8), 5)
    """
    return tuple(first_example(data).shape), len(as_dataset(data))  # type: ignore[arg-type]


@dataclass(frozen=True)
class DataStatistics:
    """What the curve's caps, the control variates and the prior term know about the data.

    Attributes:
        count: number of examples; 0 for a distribution known in closed form.
        mean: E x_0.
        second_moment: E||x_0||^2 / d.
        eigenvalues: of Cov(x_0), ascending, or None when not computed.
        digest: identifies the examples and their order.
        histogram: share of each level among all coordinates of discrete data, else None.
    """

    count: int
    mean: Float[Tensor, "*dims"]
    second_moment: float
    eigenvalues: Float64[Array, " d"] | None
    digest: str
    histogram: Float64[Array, " L"] | None = None

    @property
    def variance(self) -> float:
        """V = tr Cov(x_0) / d."""
        return self.second_moment - float(self.mean.square().mean())

    @classmethod
    def of(
        cls, dataset: Dataset[Any], data_range: DataRange | None = None, batch_size: int = 1024, max_eigen: int = 4096
    ) -> DataStatistics:
        """One pass over all examples, without the network.

        >>> statistics = DataStatistics.of(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), DataRange(0.0, 1.0, levels=2))
        >>> statistics.count, statistics.variance, statistics.histogram
        (2, 0.125, array([0.25, 0.75]))

        Args:
            data_range: checked against every batch when given.
            max_eigen: eigenvalues are computed for dimensions up to this.

        Raises:
            InputError: empty data, non-finite values, or values outside `data_range`.
        """
        dataset = as_dataset(dataset)
        declared = data_range or DataRange(-torch.inf, torch.inf)
        sha, total, squares, outer, count = hashlib.sha256(), None, 0.0, None, 0
        bins = None if declared.levels is None else np.zeros(declared.levels)
        for x in batches(dataset, range(len(dataset)), batch_size):  # type: ignore[arg-type]
            declared.check(x)
            if bins is not None:
                bins += np.bincount(declared.index(x).flatten().numpy(), minlength=len(bins))
            if count == 0:
                sha.update(f"{tuple(x.shape[1:])}{x.dtype}".encode())
            sha.update(x.contiguous().flatten().view(torch.uint8).numpy().tobytes())
            flat = x.double().flatten(1)
            total = flat.sum(0) if total is None else total + flat.sum(0)
            squares += float(flat.square().mean(1).sum())
            if flat.shape[1] <= max_eigen:
                outer = flat.T @ flat if outer is None else outer + flat.T @ flat
            count, shape = count + len(x), x.shape[1:]
        assert total is not None  # as_dataset refuses empty data
        mean, eigenvalues = total / count, None
        if outer is not None:
            covariance = outer / count - torch.outer(mean, mean)
            eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(0.0).numpy()
        histogram = None if bins is None else bins / bins.sum()
        return cls(count, mean.reshape(shape), squares / count, eigenvalues, sha.hexdigest()[:16], histogram)
