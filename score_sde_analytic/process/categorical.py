"""Sums of a normal density over evenly spaced levels, which the categorical decoder is made of; up to 65,536 of them.

    log sum_j q(z | x_j) / q(z | x_i) = z^2 / 2 + log sum_j exp(-u_j^2 / 2),   u_j = z + (i - j) r

where r is the spacing in standard deviations of the noise. Few levels count where they are far apart; where they are close the
sum is an integral with the end corrections of Euler and Maclaurin, so its cost does not grow with their number.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.process.gaussian import log_interval

#: Spacing below which a sum is taken for an integral; the error is 1e-11 of the sum.
DENSE = 0.1
#: Terms smaller than exp(-REACH^2 / 2) of the largest are left out.
REACH = 9.0
#: Quadrature nodes for expectations over one standard normal number: the trapezoidal rule, exact to rounding here.
NODES = np.linspace(-10.0, 10.0, 2001)


def log_sum(first: Float64[Tensor, "*shape"], spacing: float, levels: int) -> Float64[Tensor, "*shape"]:
    """log of the sum of exp(-u^2 / 2) over u = first, first + spacing, .., `levels` of them.

    >>> u = torch.tensor([-1.0], dtype=torch.float64)
    >>> float(log_sum(u, 1.0, 3).exp())  # 1 + 2 exp(-1/2)
    2.2131
    """
    if spacing > DENSE:
        return _few(first, spacing, levels)
    width = spacing * levels
    return _narrow(first, spacing, levels) if width < 1e-3 else _integral(first - 0.5 * spacing, spacing, width)


def _few(first: Tensor, spacing: float, levels: int) -> Tensor:
    """Over the levels around the largest term."""
    largest = (-first / spacing).round().clamp(0, levels - 1)
    top = first + largest * spacing
    reach = min(math.ceil(REACH / spacing), levels - 1)
    total = torch.ones_like(first)
    for k in range(1, reach + 1):
        for step in (-k, k):
            place = largest + step
            gap = step * spacing
            term = torch.exp(-gap * (0.5 * gap + top))
            total += torch.where((place >= 0) & (place < levels), term, 0.0)
    return total.log() - 0.5 * top.square()


def _narrow(first: Tensor, spacing: float, levels: int) -> Tensor:
    """Where the density hardly changes over all levels."""
    middle2 = (first + 0.5 * spacing * (levels - 1)).square()
    variance = spacing**2 * (levels**2 - 1) / 12
    return math.log(levels) - 0.5 * middle2 + torch.log1p(0.5 * variance * (middle2 - 1.0))


def _integral(low: Tensor, spacing: float, width: float) -> Tensor:
    """Midpoint rule read backwards: sum = (integral - sum_k c_k [f^(2k-1)]) / spacing, f = exp(-u^2 / 2)."""
    log_integral = log_interval(low, low + width) + 0.5 * math.log(2.0 * math.pi)
    correction = _ends(low + width, spacing, log_integral) - _ends(low, spacing, log_integral)
    return log_integral + torch.log1p(correction) - math.log(spacing)


def _ends(u: Tensor, h: float, log_integral: Tensor) -> Tensor:
    """The corrections at one end over the integral; f^(n) = (-1)^n He_n(u) f, n odd."""
    he1, he3 = u, u**3 - 3 * u
    he5, he7 = u**5 - 10 * u**3 + 15 * u, u**7 - 21 * u**5 + 105 * u**3 - 105 * u
    series = h**2 / 24 * he1 - 7 * h**4 / 5760 * he3 + 31 * h**6 / 967680 * he5 - 127 * h**8 / 154828800 * he7
    return series * torch.exp(-0.5 * u.square() - log_integral)


@lru_cache(maxsize=64)
def expected_table(spacing: float, levels: int) -> Float64[Array, " levels"]:
    """E log sum_j q(z | x_j) / q(z | x_i) over z ~ q(z | x_i), for every level i, in nats.

    >>> expected_table(1e-6, 4).round(3)  # nothing is known: log 4
    array([1.386, 1.386, 1.386, 1.386])
    """
    # Levels farther from both ends than noise reaches are alike; dense sums are smooth in the noise.
    distinct = min((levels + 1) // 2, math.ceil((NODES[-1] + REACH) / max(spacing, 1e-300)) + 1)
    eps = NODES if spacing > DENSE else NODES[::10]
    weights = torch.from_numpy(np.exp(-0.5 * eps**2) / np.exp(-0.5 * eps**2).sum())
    z = torch.from_numpy(eps)
    rows = torch.arange(distinct, dtype=torch.float64).split(1024)
    values = [(log_sum(z + (i[:, None] - (levels - 1)) * spacing, spacing, levels) + 0.5 * z**2) @ weights for i in rows]
    half = np.full((levels + 1) // 2, float(values[-1][-1]))
    half[:distinct] = torch.cat(values).numpy()
    return np.concatenate([half, half[: levels // 2][::-1]])  # levels mirror about the middle
