"""Where noise levels are measured: about even to begin with, more where the curve between them is in doubt."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Int64

from score_sde_analytic.arrays import Array
from score_sde_analytic.measure.interpolant import determines_y
from score_sde_analytic.measure.moments import Moments

#: The widest cell in log-SNR between whose ends nothing can hide that a few of them would not show.
WIDEST = 1.0


def knots_in_doubt(moments: Moments, tolerance: float, most: int) -> Float64[Array, " new"]:
    """Log-SNRs in the cells between knots where R is less certain than `tolerance` and than at the cell's ends, worst first.

    A cell wider than `WIDEST` is in doubt whatever its ends say. New knots do not lie in the middle, nor all at one share of
    their cells, so that nothing periodic hides between them.

    >>> knots_in_doubt(moments, tolerance=0.01, most=10)
    array([], dtype=float64)
    """
    cells, doubt, ends = doubt_between(moments, tolerance)
    excess = np.maximum(doubt / ends, np.diff(moments.log_snr)[cells] / WIDEST)
    worst = cells[np.argsort(-excess)[: min(most, int((excess > 1.0).sum()))]]
    share = 0.5 + 0.24 * (2.0 * irregular(worst + len(moments.log_snr)) - 1.0)
    return moments.log_snr[worst] + share * np.diff(moments.log_snr)[worst]


def doubt_between(
    moments: Moments, tolerance: float
) -> tuple[Int64[np.ndarray, " cells"], Float64[Array, " cells"], Float64[Array, " cells"]]:
    """(cells between usable knots, relative error of R in their middle for want of a knot there, the larger at their ends).

    Args:
        tolerance: relative error below which no end is taken to be.
    """
    usable = determines_y(moments.residual)
    cells = np.flatnonzero(usable[1:] & usable[:-1])
    if not len(cells):
        return cells, np.zeros(0), np.zeros(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = moments.stderr("residual") / moments.residual
    ends = np.maximum(np.maximum(relative[cells], relative[cells + 1]), tolerance)
    signal = 1.0 - 0.5 * (moments.residual[cells] + moments.residual[cells + 1])
    middle = 0.5 * (moments.log_snr[cells] + moments.log_snr[cells + 1])
    return cells, signal * moments.between.stderr(middle), ends


def irregular(number: Int64[np.ndarray, " n"]) -> Float64[Array, " n"]:
    """Numbers in [0, 1), the more even the more of them there are: multiples of the golden ratio."""
    return number * (0.5 * (math.sqrt(5.0) - 1.0)) % 1.0
