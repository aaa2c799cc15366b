"""Where the calls of a table lie: the poles of the best rational approximation of the square root.

On Gaussian data each call multiplies by a resolvent c / (c + exp(-lam_j)), the flow by sqrt(c), so K calls are the poles
-exp(-lam_j) of a rational function of the variances c. With n(u) = c_min (sn / cn)^2(u K' ; 1 - c_min / c_max), K' the complete
elliptic integral of that parameter, the best relative approximations on [c_min, c_max] are (Zolotarev, 1877; Hale, Higham &
Trefethen, SIAM J. Numer. Anal. 2008)

sqrt(c) ~ prod_j (c + n((2j - 1) / (2K + 1))) / prod_j (c + n(2j / (2K + 1)))                  tables: z itself is a term
sqrt(c) ~ c prod_{j < K} (c + n(2j / 2K)) / prod_j (c + n((2j - 1) / 2K))                      nothing but network calls

j = 1 .. K. The relative error is about 4 rho^(2K + 1) and 4 rho^(2K), rho = exp(-pi^2 / (log(c_max / c_min) + 2 log 4)),
where a solver of order p has K^-p.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64
from scipy.special import ellipj, ellipkm1

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import number, whole
from score_sde_analytic.errors import InputError

#: Of c_min / c_max; elliptic integrals of less are infinite.
SMALLEST = 1e-300


def zolotarev(c_min: float, c_max: float, steps: int, free_term: bool = True) -> Float64[Array, " {steps}"]:
    """Log-SNRs of `steps` calls, ascending, for variances from c_min to c_max.

    They reach from a little below -log c_max to a little above -log c_min, without a free term symmetrically.

    Args:
        free_term: z itself is among the terms, as in tables.

    Raises:
        InputError: variances that are not positive, or not in order.

    >>> zolotarev(0.002, 1.0, 3).round(1), zolotarev(0.002, 1.0, 3, free_term=False).round(1)
    (array([-0.7,  2.4,  5.2]), array([-0.4,  3.1,  6.6]))
    """
    steps = whole(1)("steps", steps)
    places = np.arange(1, 2 * steps + 1)
    if free_term:
        return -nodes(c_min, c_max, places[1::2] / (2 * steps + 1))[::-1]
    return -nodes(c_min, c_max, places[::2] / (2 * steps))[::-1]


def nodes(c_min: float, c_max: float, shares: Float64[Array, " n"]) -> Float64[Array, " n"]:
    """log n(u) at shares u of the quarter period, each in (0, 1).

    >>> np.exp(nodes(0.01, 1.0, np.array([0.5])))
    array([0.1])
    """
    c_min, c_max = number(above=0)("c_min", c_min), number(above=0)("c_max", c_max)
    if not c_min <= c_max:
        raise InputError(f"need c_min <= c_max, got {c_min:g} and {c_max:g}")
    ratio = c_min / c_max
    if ratio < SMALLEST:
        raise InputError(
            f"variances from {c_min:g} to {c_max:g} span more than numbers do; raise the least, which no call sees"
        )
    # (sn / cn)(K' - u) = 1 / (sqrt(ratio) (sn / cn)(u)): towards K' cn vanishes.
    sn, cn, _, _ = ellipj(np.minimum(shares, 1.0 - shares) * ellipkm1(ratio), 1.0 - ratio)
    tangents = 2.0 * np.log(sn / cn)
    return np.where(shares <= 0.5, math.log(c_min) + tangents, math.log(c_max) - tangents)


def zolotarev_rate(c_min: float, c_max: float) -> float:
    """rho^2 = exp(-2 pi^2 / (log(c_max / c_min) + 2 log 4)), by which each further call multiplies the relative error.

    >>> zolotarev_rate(0.002, 1.0)
    0.111
    """
    c_min, c_max = number(above=0)("c_min", c_min), number(above=0)("c_max", c_max)
    if not c_min <= c_max:
        raise InputError(f"need c_min <= c_max, got {c_min:g} and {c_max:g}")
    span = math.log(c_max) - math.log(c_min)
    return math.exp(-2.0 * math.pi**2 / (span + 2.0 * math.log(4.0)))
