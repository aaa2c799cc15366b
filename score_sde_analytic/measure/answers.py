"""When a pass may end: what it is asked for, the error of the answer so far, and which noise levels still matter to it.

    variance    sd(R) / R at every knot                       Gamma and the optimal variances, relative
    bits        sd(1/2 integral R dlam) / log 2               bits/dim of continuous time, the limit of all chains
    grid        1/4 sum rho_c (sd(D_c y) / D_c y)^2           share of a grid's excess that errors of the curve add to it

The last is the second-order cost of a density of times rho ~ sqrt(w) that is off by half the relative error of w in every cell
between knots (w = Lambda R dy/dlam, grids/optimal.py). Optimal grids of 5 to 16 steps between given ends cost what it says
within a factor of two; the errors of a choice of ends, where a decoder's nats decide it, come on top.

Errors are those of the groups of examples, so they hold what knots share because they saw the same examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Bool, Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.measure.interpolant import determines_y, y_of
from score_sde_analytic.measure.moments import Moments

#: A knot whose part of the error is below this share of the largest part is finished.
NEGLIGIBLE = 0.25
#: Relative error of R between knots that sums over many of them do not suffer from.
BETWEEN = 0.05


class Answer(Protocol):
    """What a pass is asked for."""

    unit: ClassVar[str]

    def error(self, moments: Moments) -> float:
        """Of the answer, in its own units."""

    def finished(self, moments: Moments, tolerance: float) -> Bool[np.ndarray, " m"]:
        """Knots that need no more draws."""


@dataclass(frozen=True)
class Variance:
    """R at every knot, and with it the variance of any step; relative."""

    unit: ClassVar[str] = "of R at the least certain noise level"

    def error(self, moments: Moments) -> float:
        return float(np.max(_relative(moments)))

    def finished(self, moments: Moments, tolerance: float) -> Bool[np.ndarray, " m"]:
        with np.errstate(invalid="ignore"):
            return moments.stderr("residual") <= tolerance * np.abs(moments.residual)


@dataclass(frozen=True)
class Bits:
    """Bits/dim in the limit of many steps, between the first and the last knot."""

    unit: ClassVar[str] = "bits/dim"

    def error(self, moments: Moments) -> float:
        parts = _deviations(moments) * _widths(moments.log_snr)
        return _spread(parts.sum(1)) * 0.5 / math.log(2.0)

    def finished(self, moments: Moments, tolerance: float) -> Bool[np.ndarray, " m"]:
        parts = moments.stderr("residual") * _widths(moments.log_snr)
        return _small(parts, self.error(moments) <= tolerance)


@dataclass(frozen=True)
class Times:
    """Optimal grids: the share of the excess over the limit of many steps that errors of the curve add."""

    unit: ClassVar[str] = "of the excess of optimal grids"

    def error(self, moments: Moments) -> float:
        return float(self._parts(moments).sum())

    def finished(self, moments: Moments, tolerance: float) -> Bool[np.ndarray, " m"]:
        parts = np.sqrt(self._parts(moments))
        ends = np.maximum(np.append(parts, 0.0), np.append(0.0, parts))
        return _small(ends, self.error(moments) <= tolerance)

    @staticmethod
    def _parts(moments: Moments) -> Array:
        """Of the share, by cell; all of it where y does not rise beyond its error."""
        residual = np.where(determines_y(moments.residual), moments.residual, np.nan)
        slopes = _deviations(moments) / (residual * (1.0 - residual))
        rise = np.diff(y_of(residual, moments.log_snr))
        error = np.array([_spread(cell) for cell in np.diff(slopes, axis=1).T])
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.nan_to_num(np.clip(error / np.maximum(rise, 0.0), 0.0, 1.0), nan=0.0)
        power = residual * (1.0 - residual)
        middle = 0.5 * (power[1:] + power[:-1])
        weight = np.nan_to_num(np.sqrt(middle * np.maximum(rise, error) * np.diff(moments.log_snr)))
        return 0.25 * weight / max(weight.sum(), 1e-300) * relative**2


#: What a pass may be asked for.
ANSWERS: Mapping[str, Answer] = {"variance": Variance(), "bits": Bits(), "grid": Times()}


def relative_tolerance(settings: Mapping[str, Any]) -> float:
    """Of R between knots, below which no doubt matters."""
    return float(settings["tolerance"]) if settings["answer"] == "variance" else BETWEEN


def reached(moments: Moments) -> str:
    """The error of what a pass was asked for, beside what was allowed.

    >>> reached(moments)
    '0.0629 of R at the least certain noise level, asked for 0.01'
    """
    asked = moments.fingerprint["settings"]
    answer = ANSWERS[asked["answer"]]
    return f"{answer.error(moments):.3g} {answer.unit}, asked for {asked['tolerance']:g}"


def _deviations(moments: Moments) -> Float64[Array, "g m"]:
    """Of each group's share in R from what its number of draws would give; their sums over groups are zero."""
    return moments.influence("residual")


def _spread(deviations: Float64[Array, " g"]) -> float:
    """Standard error of a sum that groups contribute to by these deviations."""
    groups = np.count_nonzero(deviations)
    return math.sqrt(float((deviations**2).sum()) * groups / (groups - 1)) if groups > 1 else math.inf


def _relative(moments: Moments) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return moments.stderr("residual") / np.abs(moments.residual)


def _widths(log_snr: Array) -> Array:
    """Weights of the trapezoidal rule."""
    cells = np.diff(log_snr)
    return 0.5 * (np.append(cells, 0.0) + np.append(0.0, cells))


def _small(parts: Array, enough: bool) -> Bool[np.ndarray, " m"]:
    """All, once the whole is enough; before that those whose part hardly counts."""
    return np.full(len(parts), True) if enough else parts < NEGLIGIBLE * parts.max()
