"""Sums of a normal density over evenly spaced levels, which the categorical decoder is made of; up to 65,536 of them.

    log sum_j q(z | x_j) / q(z | x_i) = z^2 / 2 + log sum_j exp(-u_j^2 / 2),   u_j = z + (i - j) r

where z is the noise in its standard deviations and r the spacing in the same. Few levels count where they are far apart; where
they are close the sum is an integral with the end corrections of Euler and Maclaurin: its cost does not grow with their number.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from torch import Tensor
from torch.special import erfcx

from score_sde_analytic.arrays import Array, readable
from score_sde_analytic.process.gaussian import log_interval

#: Spacing below which a sum is taken for an integral; the error is 1e-11 of the sum.
DENSE = 0.05
#: Terms smaller than exp(-REACH^2 / 2) of the largest are left out.
REACH = 9.0
#: Spacing times u above which the corrections do not converge; there the terms fade geometrically, within FADED of them.
TAIL, FADED = 0.2, 200
#: Width of all levels over which the density is a parabola.
NARROW = 1e-3
SQRT_2, LOG_2 = math.sqrt(2.0), math.log(2.0)
#: Quadrature nodes for expectations over one standard normal number: the trapezoidal rule, exact to rounding here.
NODES = np.linspace(-10.0, 10.0, 2001)


def log_sum(
    z: Float64[Tensor, "*shape"], above: Shaped[Tensor, " ..."], spacing: float, levels: int
) -> Float64[Tensor, "*shape"]:
    """log sum_j q(z | x_j) / q(z | x_i), with z the noise of x_i and `above` the number of levels above it.

    >>> z = torch.zeros(1, dtype=torch.float64)
    >>> float(log_sum(z, torch.ones(1), 1.0, 3).exp())  # 1 + 2 exp(-1/2)
    2.2131
    """
    above = above.to(z)
    largest = (-z / max(spacing, 1e-300)).round().clamp(-above, levels - 1 - above)
    if spacing > DENSE:
        return _few(z, largest, above, spacing, levels, math.ceil(REACH / spacing))
    total = _integral(z, largest, above, spacing, levels)
    if spacing * levels < NARROW:
        middle = 0.5 * (levels - 1) - above
        close = spacing * levels * (z + middle * spacing).abs() < NARROW
        total = torch.where(close, _narrow(z, middle * spacing, spacing, levels), total)
    far = spacing * (z + largest * spacing).abs() > TAIL
    if readable(far) and not far.any():
        return total
    return torch.where(far, _few(z, largest, above, spacing, levels, FADED), total)


def _few(z: Tensor, largest: Tensor, above: Tensor, spacing: float, levels: int, reach: int) -> Tensor:
    """Over `reach` levels on either side of the largest term."""
    offset = largest * spacing
    top = z + offset
    total = torch.ones_like(top)
    for k in range(1, min(reach, levels - 1) + 1):
        for step in (-k, k):
            place = above + largest + step
            gap = step * spacing
            term = torch.exp(-gap * (0.5 * gap + top))
            total += torch.where((place >= 0) & (place < levels), term, 0.0)
    return total.log() - offset * (0.5 * offset + z)


def _narrow(z: Tensor, offset: Tensor, spacing: float, levels: int) -> Tensor:
    """Where the density hardly changes over all levels, whose middle lies at z + offset."""
    variance = spacing**2 * (levels**2 - 1) / 12
    bend = 0.5 * variance * ((z + offset).square() - 1.0)
    return math.log(levels) - offset * (0.5 * offset + z) + torch.log1p(bend.clamp(-0.5, 0.5))


def _integral(z: Tensor, largest: Tensor, above: Tensor, spacing: float, levels: int) -> Tensor:
    """By the midpoint rule read backwards, sum = (integral - sum_k c_k [f^(2k-1)]) / r, in units of the largest term."""
    offset = largest * spacing
    top = (z + offset).abs()
    low = z - (above + 0.5) * spacing
    high = low + levels * spacing
    near, far = torch.minimum(low.abs(), high.abs()), torch.maximum(low.abs(), high.abs())
    share = torch.exp(-0.5 * (far - near) * (far + near)) * erfcx(far / SQRT_2)
    beside = torch.log(erfcx(near / SQRT_2) - share) - LOG_2 + 0.5 * (top - near) * (top + near)
    around = log_interval(low, high) + 0.5 * top.square()
    integral = torch.where((low < 0) & (high > 0), around, beside) + 0.5 * math.log(2.0 * math.pi)
    correction = _ends(high, top, spacing, integral) - _ends(low, top, spacing, integral)
    return integral + torch.log1p(correction.clamp(-0.5, 0.5)) - math.log(max(spacing, 1e-300)) - offset * (0.5 * offset + z)


def _ends(u: Tensor, top: Tensor, h: float, log_integral: Tensor) -> Tensor:
    """The corrections at one end over the integral; f^(n) = -He_n(u) f for odd n."""
    he1, he3 = u, u**3 - 3 * u
    he5, he7 = u**5 - 10 * u**3 + 15 * u, u**7 - 21 * u**5 + 105 * u**3 - 105 * u
    series = h**2 / 24 * he1 - 7 * h**4 / 5760 * he3 + 31 * h**6 / 967680 * he5 - 127 * h**8 / 154828800 * he7
    return series * torch.exp(0.5 * (top - u.abs()) * (top + u.abs()) - log_integral)


@lru_cache(maxsize=64)
def expected_table(spacing: float, levels: int) -> Float64[Array, " levels"]:
    """E log sum_j q(z | x_j) / q(z | x_i) over z ~ q(z | x_i), for every level i, in nats.

    >>> expected_table(1e-6, 4).round(3)  # nothing is known: log 4
    array([1.386, 1.386, 1.386, 1.386])
    """
    # Levels farther from both ends than noise reaches are alike; sums over close levels are smooth in the noise.
    distinct = min((levels + 1) // 2, math.ceil((NODES[-1] + REACH) / max(spacing, 1e-300)) + 1)
    eps = NODES if spacing > 0.5 else NODES[::25]
    weights = torch.from_numpy(np.exp(-0.5 * eps**2) / np.exp(-0.5 * eps**2).sum())
    z = torch.from_numpy(eps)
    above = levels - 1 - torch.arange(distinct, dtype=torch.float64)[:, None]
    values = [log_sum(z.expand(len(part), -1), part, spacing, levels) @ weights for part in above.split(1024)]
    half = np.full((levels + 1) // 2, float(values[-1][-1]))
    half[:distinct] = torch.cat(values).numpy()
    return np.concatenate([half, half[: levels // 2][::-1]])  # levels mirror about the middle
