"""Discrepancies of a kernel: unbiased U-statistics over all pairs, with exact delete-one standard errors.

    D = E k(x, x') + E k(y, y') - 2 E k(x, y),      x, x' ~ P and y, y' ~ Q independent

    KID               k = (x.y / d + 1)^3                    Binkowski et al., ICLR 2018
    GaussianMMD       k = exp(-||x - y||^2 / 2 h^2)          Gretton et al., JMLR 2012
    EnergyDistance    k = -||x - y||                         Szekely & Rizzo 2013; Sejdinovic et al. 2013

D = 0 for equal distributions, and only for those with the last two; KID sees moments up to the third. `plug_in` is the
V-statistic, which keeps the pairs of an example with itself and is never negative. Where P = Q the statistic is degenerate,
and the jackknife's standard error is larger than the true one by about the square root of 2: wide intervals, not narrow ones.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.checks import number, settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics.base import Metric, Reference
from score_sde_analytic.metrics.measured import LEVEL, Measured, jackknife

ROWS = 1024  # rows of a kernel matrix that are held at once


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """||x_i - y_j||^2, by one matrix product; to rounding of the squared norms, so centre the data first.

    >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[25., 1.]])
    """
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * x @ y.T).clamp_min_(0.0)


@dataclass(frozen=True, kw_only=True)
class Discrepancy(Metric):
    """D of a kernel.

    Args:
        level: of the interval.
    """

    level: Annotated[float, LEVEL] = 0.95
    least = 4

    def __post_init__(self) -> None:
        settle(self)

    @abstractmethod
    def kernel(self, x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"], reference: Reference) -> Float64[Tensor, "n m"]:
        """k(x_i, y_j)."""

    def _within(self, x: Tensor, reference: Reference) -> tuple[Tensor, float]:
        """(sum of k(x_i, x_j) over j other than i, (n,); sum of k(x_i, x_i))."""
        sums = []
        diagonal = 0.0
        for start in range(0, len(x), ROWS):
            block = self.kernel(x[start : start + ROWS], x, reference)
            own = block.diagonal(start)
            diagonal += float(own.sum())
            sums.append(block.sum(1) - own)
        return torch.cat(sums), diagonal

    def _between(self, x: Tensor, y: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
        """Sums of k(x_i, y_j) over j, (n,), and over i, (m,)."""
        rows = []
        columns = y.new_zeros(len(y))
        for part in x.split(ROWS):
            block = self.kernel(part, y, reference)
            rows.append(block.sum(1))
            columns += block.sum(0)
        return torch.cat(rows), columns

    def _measure(self, x: Tensor, reference: Reference) -> Measured:
        y = reference.values
        n, m = len(x), len(y)
        xx, own_x = self._within(x, reference)
        yy, own_y = reference.once(self, lambda v: self._within(v, reference))
        xy, yx = self._between(x, y, reference)
        sum_x, sum_y = float(xx.sum()), float(yy.sum())
        cross = float(xy.sum())

        def unbiased(sx: Tensor | float, sy: Tensor | float, c: Tensor | float, n: int, m: int) -> Tensor | float:
            return sx / (n * (n - 1)) + sy / (m * (m - 1)) - 2.0 * c / (n * m)

        without_x = unbiased(sum_x - 2.0 * xx, sum_y, cross - xy, n - 1, m)
        without_y = unbiased(sum_x, sum_y - 2.0 * yy, cross - yx, n, m - 1)
        value = float(unbiased(sum_x, sum_y, cross, n, m))
        biased = (sum_x + own_x) / n**2 + (sum_y + own_y) / m**2 - 2.0 * cross / (n * m)
        return jackknife(max(biased, 0.0), _array(without_x), _array(without_y), correct=False, level=self.level, value=value)


@dataclass(frozen=True)
class KID(Discrepancy):
    """The kernel distance of published tables when the features are Inception's: all pairs, not random subsets.

    Args:
        degree, offset: k = (x.y / d + offset)^degree.
    """

    degree: Annotated[int, whole(1)] = 3
    offset: Annotated[float, number(0)] = 1.0

    def kernel(self, x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"], reference: Reference) -> Float64[Tensor, "n m"]:
        return (x @ y.T / x.shape[1] + self.offset) ** self.degree


@dataclass(frozen=True)
class GaussianMMD(Discrepancy):
    """Squared maximum mean discrepancy of the Gaussian kernel, in [0, 2].

    Args:
        bandwidth: h in units of the features; 0 for the median distance between two examples of the reference (of at most
            2000), which is then held fixed.
    """

    bandwidth: Annotated[float, number(0)] = 0.0

    def width(self, reference: Reference) -> float:
        """h.

        >>> GaussianMMD().width(Reference(torch.tensor([[0.0], [1.0], [3.0]])))  # of 1, 2 and 3
        2.0

        Raises:
            InputError: the median distance is zero.
        """
        found = self.bandwidth or reference.once("median distance", _median_distance)
        if found == 0.0:
            raise InputError("most examples of the reference are equal: give GaussianMMD a bandwidth")
        return float(found)

    def kernel(self, x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"], reference: Reference) -> Float64[Tensor, "n m"]:
        centre, width = reference.once("centre", lambda v: v.mean(0)), self.width(reference)
        return torch.exp(squared_distances(x - centre, y - centre) / -2.0 / width / width)  # the square may overflow


@dataclass(frozen=True)
class EnergyDistance(Discrepancy):
    """2 E||x - y|| - E||x - x'|| - E||y - y'||, in units of the features; the square of scipy's in one dimension."""

    def kernel(self, x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"], reference: Reference) -> Float64[Tensor, "n m"]:
        centre = reference.once("centre", lambda v: v.mean(0))
        return -squared_distances(x - centre, y - centre).sqrt()


def _median_distance(y: Tensor) -> float:
    part = y[:: max(1, len(y) // 2000)][:2000]
    part = part - part.mean(0)
    square = squared_distances(part, part)
    upper = torch.triu_indices(len(part), len(part), 1, device=part.device)
    return float(square[upper[0], upper[1]].median().sqrt())


def _array(x: Tensor | float) -> np.ndarray:
    return torch.as_tensor(x).cpu().numpy()
