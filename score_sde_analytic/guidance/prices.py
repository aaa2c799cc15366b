"""What a condition is worth, and what guidance costs, from the curves of one network with and without its condition.

    G = R_u - R_c,    1/2 integral of G dlam = I(x_0; c) / d          the mutual information of data and condition

(each integral of R / 2 is the uncertainty that is left of x_0 at the top: I-MMSE, Guo, Shamai & Verdu, 2005, twice), and

    1/2 integral of (R_c + w^2 G) dlam         of the guided prediction with w = scale - 1, which costs w^2 I / d more

bits/dim of infinitely many steps; a step of h in log-SNR with the variance of the conditional curve pays, with e = expm1(h),
w^2 G e / (1 + R_c e) / 2. A network that claims more information than the entropy of its condition is miscalibrated.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, numbers
from score_sde_analytic.checks import LOG_SNR, each, number
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.uncertainty import Estimate

#: Log-SNRs of an integral.
POINTS = 2001


def mutual_information(conditional: Moments, unconditional: Moments, interval: tuple[float, float] | None = None) -> Estimate:
    """1/2 integral of (R_u - R_c) dlam: what the condition says of the data, in bits/dim; a warning where that is negative.

    Args:
        conditional, unconditional: moments at the same knots and of the same examples, so that what both err in drops out.
        interval: log-SNRs between which it is counted; None for all that was measured.

    Raises:
        InputError: moments of other examples, or at other knots.

    >>> from score_sde_analytic.measure import Budget, estimate
    >>> from score_sde_analytic.data import Examples
    >>> classes = Examples(data, conditions={"component": mixture.labelled(400)[1]})
    >>> knots, known = np.linspace(-8, 8, 17), mixture.conditional(model.schedule)
    >>> both = [estimate(m, classes, knots, Budget(max_draws=400), progress=False) for m in (known, model)]
    >>> print(f"{mutual_information(*both):.1f}")  # at most log2(3) / 2
    0.6 ± 0.0
    """
    low, high = _range(conditional, unconditional, interval)
    points = np.linspace(low, high, POINTS)

    def bits(own: NoiseCurve, other: NoiseCurve) -> float:
        return integral_bits(np.asarray(other.residual(points)) - np.asarray(own.residual(points)), points)

    return _told(_paired(conditional, unconditional, bits))


def integral_bits(gap: Float64[Array, " n"], log_snr: Float64[Array, " n"]) -> float:
    """1/2 integral of a gap of two curves over log-SNR, in bits per dimension."""
    return float(0.5 * np.trapezoid(gap, log_snr) / math.log(2.0))


def _told(information: Estimate) -> Estimate:
    """The estimate, with a warning where it is negative, which no information is."""
    value, stderr = information
    if value < 0.0:
        cause = (
            "within three standard errors of 0: more draws would tell what the condition says, if anything"
            if value > -3.0 * stderr
            else "beyond its errors: the moments with the condition come first, those without it second; where they do, the"
            " network is worse with its condition than without"
        )
        warnings.warn(f"{information} bits/dim of information is negative, {cause}", stacklevel=4)
    return information


def guidance_price(
    conditional: Moments,
    unconditional: Moments,
    scale: float,
    interval: tuple[float, float] | None = None,
    levels: ArrayLike | None = None,
) -> Estimate:
    """w^2/2 integral of (R_u - R_c) dlam, w = scale - 1: the bits/dim by which guidance raises a bound.

    Args:
        conditional, unconditional: as of `mutual_information`.
        scale: as of `guidance.ClassifierFree`.
        interval: log-SNRs between which it is guided; None for all that was measured.
        levels: log-SNRs of a chain's times, ascending, whose transitions (eta = 1, variance of the conditional curve) are
            priced; None for infinitely many steps.

    Raises:
        InputError: moments of other examples, or at other knots; levels that do not ascend.
    """
    w = number()("scale", scale) - 1.0
    if levels is None:
        value, stderr = mutual_information(conditional, unconditional, interval)
        return Estimate(w**2 * value, w**2 * stderr)
    low, high = _range(conditional, unconditional, interval)
    lam = steps_of(levels)

    def bits(own: NoiseCurve, other: NoiseCurve) -> float:
        r_c, r_u = (np.asarray(curve.residual(lam[:-1])) for curve in (own, other))
        return w**2 * steps_bits(r_c, r_u - r_c, lam, low, high)

    return _paired(conditional, unconditional, bits)


def steps_of(levels: ArrayLike) -> Float64[Array, " steps"]:
    """The log-SNRs of a chain's times.

    Raises:
        InputError: they do not ascend.
    """
    lam = numbers("levels", levels).ravel()
    if len(lam) < 2 or np.any(np.diff(lam) <= 0):
        raise InputError("the levels of a chain are at least two log-SNRs, ascending")
    return lam


def steps_bits(
    own: Float64[Array, " n"], gap: Float64[Array, " n"], log_snr: Float64[Array, " steps"], low: float, high: float
) -> float:
    """Sum of G e / (1 + R_c e) / 2 over the transitions that start from low to high, in bits per dimension."""
    e = np.expm1(np.diff(log_snr))
    inside = (log_snr[:-1] >= low) & (log_snr[:-1] <= high)
    return float((0.5 * gap * e / (1.0 + own * e))[inside].sum() / math.log(2.0))


def _paired(conditional: Moments, unconditional: Moments, statistic: Any) -> Estimate:
    """Of both curves, without the same examples at a time."""

    def replicate(own: Moments, group: int | None) -> float:
        other = unconditional if group is None else unconditional.without(group)
        return statistic(NoiseCurve.fit(own, warn=False), NoiseCurve.fit(other, warn=False))

    value, error = conditional.jackknife_by_group(replicate)
    return Estimate(float(value), float(error))


def _range(own: Moments, other: Moments, interval: tuple[float, float] | None) -> tuple[float, float]:
    for name in ("data", "examples", "groups"):
        if own.fingerprint[name] != other.fingerprint[name]:
            raise InputError("the two curves are of other examples; measure both models on the same data, with one seed")
    if not np.array_equal(own.log_snr, other.log_snr):
        raise InputError("the two curves have other knots; measure both at the same ones (Budget(most_knots=0))")
    low, high = own.log_snr[[0, -1]]
    asked = (low, high) if interval is None else each(LOG_SNR, 2, 2)("interval", interval)
    return max(low, asked[0]), min(high, asked[1])
