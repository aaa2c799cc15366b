"""Sliced Wasserstein distance: optimal transport in one dimension, averaged over directions (Bonneel et al. 2015).

    SW_p^p = mean over theta of  integral_0^1 |F_theta^-1(u) - G_theta^-1(u)|^p du

with the empirical quantile functions of x.theta and y.theta, integrated exactly also where the two sides differ in size.
The directions are fixed by a seed, so that every row of a table sees the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import wide
from score_sde_analytic.checks import number, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics.base import Distance
from score_sde_analytic.process.noise import stream_seed

#: Beyond, the largest gap decides alone.
POWER = number(1, 16)
DIRECTIONS = 32  # directions whose quantile functions are merged at once


def wasserstein_1d(x: Float[Tensor, "k n"], y: Float[Tensor, "k m"], power: float = 2.0) -> Float64[Tensor, " k"]:
    """W_p^p of each pair of rows of sorted values.

    >>> wasserstein_1d(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0]]), power=1.0)
    tensor([1.5000], dtype=torch.float64)
    """
    power = POWER("power", power)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in (*x.shape, *y.shape):
        raise InputError(f"need equally many rows of at least one value, got {tuple(x.shape)} and {tuple(y.shape)}")
    n, m = x.shape[1], y.shape[1]
    if not x.is_floating_point() or not y.is_floating_point():
        raise InputError(f"need floating-point values, got {x.dtype} and {y.dtype}")
    x, y = wide(x), wide(y)
    if n == m:
        return (x - y).abs().pow(power).mean(1)
    # Quantile functions jump at i/n and j/m: on the lattice 1/(n m) these are whole numbers.
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    widths = ends.diff(prepend=ends.new_zeros(1)).to(x) / (n * m)
    last = ends - 1
    gaps = x[:, (last // m).to(x.device)] - y[:, (last // n).to(x.device)]
    return gaps.abs().pow(power) @ widths.to(gaps)


@dataclass(frozen=True)
class SlicedWasserstein(Distance):
    """SW_p^p in (units of the features)^p; for p = 2 the bias of finite samples is removed by the jackknife.

    For other p it is not: where the distributions are equal W_1 falls as 1/sqrt(n) only, which the jackknife cannot remove.

    Args:
        power: p, 1 or more; 2 for the sliced Wasserstein-2 distance squared.
        directions: number of unit vectors theta, uniform on the sphere, a function of (seed, number of features).
    """

    power: Annotated[float, POWER] = 2.0
    directions: Annotated[int, whole(1)] = 128

    @property
    def corrected(self) -> bool:
        return self.power == 2.0

    def _theta(self, x: Float64[Tensor, "n d"]) -> Float64[Tensor, "d directions"]:
        rng = np.random.default_rng(stream_seed(self.seed, 3))
        theta = torch.from_numpy(rng.standard_normal((x.shape[1], self.directions)))
        return (theta / theta.norm(dim=0)).to(x)

    def summary(self, x: Float64[Tensor, "n d"]) -> Float64[Tensor, "directions n"]:
        """Sorted projections."""
        return (x @ self._theta(x)).T.contiguous().sort(1).values

    def compare(self, x: Float64[Tensor, "directions n"], y: Float64[Tensor, "directions m"]) -> float:
        pairs = zip(x.split(DIRECTIONS), y.split(DIRECTIONS), strict=True)
        return float(torch.cat([wasserstein_1d(a, b, self.power) for a, b in pairs]).mean())
