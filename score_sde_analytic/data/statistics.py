"""Statistics of data that bounds, curves and priors need, in one reading.

m = E x_0,   variance V = tr Cov(x_0) / d,   second_moment = E||x_0||^2 / d = V + ||m||^2 / d,   eigenvalues of Cov(x_0)

Sums are of x_0 less the mean of the first batch, so that data far from zero lose nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import whole
from score_sde_analytic.data.examples import Data, Examples, Rows, as_dataset
from score_sde_analytic.data.portions import BATCH, BATCH_BYTES, batch_by_bytes
from score_sde_analytic.data.ranges import DataRange, check_examples
from score_sde_analytic.errors import InputError


@dataclass(frozen=True)
class DataStatistics:
    """What the curve's caps, the control variates and the prior term know about the data.

    Attributes:
        count: number of examples; 0 for a distribution known in closed form.
        mean: E x_0.
        variance: V = tr Cov(x_0) / d.
        eigenvalues: of Cov(x_0), ascending, or None when not computed.
        digest: identifies the examples and their order.
        histogram: share of each level among all coordinates of discrete data, else None.
    """

    count: int
    mean: Float[Tensor, "*dims"]
    variance: float
    eigenvalues: Float64[Array, " d"] | None
    digest: str
    histogram: Float64[Array, " L"] | None = None

    @property
    def second_moment(self) -> float:
        """E||x_0||^2 / d."""
        return self.variance + float(self.mean.square().mean())

    @classmethod
    def of(
        cls,
        data: Data,
        data_range: DataRange | None = None,
        batch_size: int = BATCH,
        max_eigen: int = 4096,
        batch_bytes: int = BATCH_BYTES,
        progress: bool = False,
    ) -> DataStatistics:
        """One pass over all examples, without the network.

        >>> statistics = DataStatistics.of(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), DataRange(0.0, 1.0, levels=2))
        >>> statistics.count, statistics.variance, statistics.histogram
        (2, 0.125, array([0.25, 0.75]))

        Args:
            data_range: checked against every batch when given.
            batch_size: most examples that are held at once.
            max_eigen: eigenvalues are computed for dimensions up to this.
            batch_bytes: most bytes of them, in float64; what is made of them takes a few times as much.

        Raises:
            InputError: empty data, non-finite values, or values outside `data_range`.
        """
        examples, most = as_dataset(data, data_range), whole(1)("batch_size", batch_size)
        rows = batch_by_bytes(examples.first.numel(), most, whole(1)("batch_bytes", batch_bytes))
        return _measured(examples, range(len(examples)), data_range, max_eigen, rows, progress)

    @classmethod
    def of_some(
        cls,
        data: Data,
        indices: Int64[np.ndarray, " n"],
        data_range: DataRange | None = None,
        max_eigen: int = 4096,
        progress: bool = False,
    ) -> DataStatistics:
        """Those of some examples, the only ones that are read; the digest is of these and of how many there are in all.

        >>> DataStatistics.of_some(data, np.array([3, 1])).count
        2

        Raises:
            InputError: as `of`.
        """
        examples = as_dataset(data, data_range)
        some = _measured(examples, indices, data_range, max_eigen, batch_by_bytes(examples.first.numel()), progress)
        known = f"{some.digest} of {len(examples)}"
        return replace(some, digest=hashlib.sha256(known.encode()).hexdigest()[:16])

    def require_spread(self) -> None:
        """Refuse data that are all the same: a model of them has nothing to learn, and their density no bits.

        Raises:
            InputError: the variance is zero, to the rounding of float64.
        """
        if self.variance <= 1e-28 * float(self.mean.square().mean()) or self.variance == 0.0:
            examples = "the only example" if self.count == 1 else f"all {self.count} examples" if self.count else "all data"
            raise InputError(
                f"the data have no spread: {examples} equal their mean, so that their bits/dim have no bound; give examples"
                " that differ, and check how they were read and scaled"
            )


def _measured(
    examples: Examples,
    indices: range | Int64[np.ndarray, " n"],
    data_range: DataRange | None,
    max_eigen: int,
    rows: int,
    progress: bool,
) -> DataStatistics:
    sums = _Sums(examples, data_range, max_eigen)
    examples.expect(indices)
    with tqdm(total=len(indices), desc="data", unit="example", disable=not progress, leave=False, delay=1.0) as bar:
        for start in range(0, len(indices), rows):
            batch = examples.batch(indices[start : start + rows])
            sums.add(batch.x_0, batch.conditions)
            bar.update(len(batch.x_0))
    return sums.result()


class _Sums:
    """Running sums over batches of examples."""

    def __init__(self, examples: Examples, data_range: DataRange | None, max_eigen: int) -> None:
        self._check = check_examples if data_range is None else data_range.check
        self._range = data_range
        self._shape = examples.shape
        self._sha = hashlib.sha256(f"{examples.shape}{examples.first.dtype}".encode())
        self._conditions: dict[str, Any] = {}  # their digests, by name and kind
        dim = examples.first.numel()
        self._count = 0
        self._shift = torch.zeros(dim, dtype=torch.float64)
        self._total = torch.zeros(dim, dtype=torch.float64)
        self._squares = 0.0
        self._outer = torch.zeros(dim, dim, dtype=torch.float64) if dim <= max_eigen else None
        levels = None if data_range is None else data_range.levels
        self._bins = None if levels is None else np.zeros(levels)

    def add(self, x: Shaped[Tensor, " batch *dims"], conditions: Rows) -> None:
        """Add a batch."""
        self._check(x)
        self._sha.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
        for name, rows in conditions.items():
            kind = f"{name} {rows.dtype} {tuple(rows.shape[1:])}"
            sha = self._conditions.setdefault(kind, hashlib.sha256())
            sha.update(rows.contiguous().flatten().view(torch.uint8).numpy().data)
        if self._bins is not None and self._range is not None:
            self._bins += np.bincount(self._range.index(x).flatten().numpy(), minlength=len(self._bins))
        flat = x.flatten(1).to(torch.float64, copy=True)
        if self._count == 0:
            self._shift = flat.mean(0)
        centred = flat.sub_(self._shift)
        self._count += len(x)
        self._total += centred.sum(0)
        self._squares += float(centred.square().mean(1).sum())
        if self._outer is not None:
            self._outer += centred.T @ centred

    def result(self) -> DataStatistics:
        offset = self._total / self._count
        variance = max(self._squares / self._count - float(offset.square().mean()), 0.0)
        eigenvalues = None
        if self._outer is not None:
            covariance = self._outer / self._count - torch.outer(offset, offset)
            eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(0.0).numpy()
        histogram = None if self._bins is None else self._bins / self._bins.sum()
        mean = (self._shift + offset).reshape(self._shape)
        for kind, sha in sorted(self._conditions.items()):
            self._sha.update(f"{kind} {sha.hexdigest()}".encode())
        return DataStatistics(self._count, mean, variance, eigenvalues, self._sha.hexdigest()[:16], histogram)
