"""Where the calls of a table lie: the poles of the best rational approximation of the square root.

On Gaussian data each call multiplies by a resolvent c / (c + exp(-lam_j)), the flow by sqrt(c), so K calls are the poles
-exp(-lam_j) of a rational function of the variances c. The best ones on [c_min, c_max] (Zolotarev, 1877; Hale, Higham &
Trefethen, SIAM J. Numer. Anal. 2008) are

exp(-lam_j) = c_min (sn / cn)^2((j - 1/2) K' / K ; 1 - c_min / c_max),   j = 1 .. K,   K' the complete integral of that parameter
relative error  <=  4 exp(-2 pi^2 K / (log(c_max / c_min) + 2 log 4)) or so: geometric in K
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64
from scipy.special import ellipj, ellipkm1

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import number, whole
from score_sde_analytic.errors import InputError


def zolotarev(c_min: float, c_max: float, steps: int) -> Float64[Array, " {steps}"]:
    """Log-SNRs of `steps` calls, ascending, for variances from c_min to c_max.

    They are symmetric about -log(c_min c_max) / 2, from a little below -log c_max to a little above -log c_min.

    Raises:
        InputError: variances that are not positive, or not in order.

    >>> zolotarev(0.002, 1.0, 3)
    array([-0.7166, 3.107 , 6.931 ])
    """
    c_min, c_max = number(above=0)("c_min", c_min), number(above=0)("c_max", c_max)
    steps = whole(1)("steps", steps)
    if not c_min <= c_max:
        raise InputError(f"need c_min <= c_max, got {c_min:g} and {c_max:g}")
    ratio = c_min / c_max
    lower = _tangents((np.arange(1, steps // 2 + 1) - 0.5) / steps, ratio)
    # (sn / cn)(K' - u) = 1 / (sqrt(ratio) (sn / cn)(u)): beyond the middle cn vanishes, and the nodes mirror the others.
    middle = [-0.5 * math.log(c_min * c_max)] * (steps % 2)
    high_snr = -np.log(c_min) - 2.0 * np.log(lower)
    return np.concatenate([2.0 * np.log(lower) - np.log(c_max), middle, high_snr[::-1]])


def _tangents(turns: Array, ratio: float) -> Array:
    """sn / cn at these shares of the quarter period of parameter 1 - ratio, up to its half."""
    sn, cn, _, _ = ellipj(turns * ellipkm1(ratio), 1.0 - ratio)
    return sn / cn


def zolotarev_rate(c_min: float, c_max: float) -> float:
    """exp(-2 pi^2 / (log(c_max / c_min) + 2 log 4)), by which each further call multiplies the relative error.

    >>> zolotarev_rate(0.002, 1.0)
    0.111
    """
    span = math.log(number(above=0)("c_max", c_max) / number(above=0)("c_min", c_min))
    return math.exp(-2.0 * math.pi**2 / (span + 2.0 * math.log(4.0)))
