"""Where a schedule begins and ends: the two numbers that the continuous bound depends on.

    bound(low, high) = prior(low) + 1/2 integral of R from low to high + reconstruction(high)

A longer integral never hurts an exact score, so the ends are a matter of bias and work, not of variance: `high` is best where
R / 2 = -d reconstruction / dlam; `low` may be as large as the prior term allows. (Kingma et al., NeurIPS 2021, learn both.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import number
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.gaussian import normal_kl

#: Points among which the upper end is sought.
POINTS = 4001
#: Below it no end is sought.
LOWEST = -60.0


@dataclass(frozen=True)
class EndPoints:
    """Log-SNRs at t = 1 and as t -> 0.

    Attributes:
        low, high: the ends.
        prior: what the prior costs at `low`, bits/dim.
        at_last_knot: whether `high` is the last measured level: the best may lie beyond. So it is for densities, whose
            reconstruction gains with every level.
    """

    low: float
    high: float
    prior: float
    at_last_knot: bool


def prior_bits(log_snr: float, second_moment: float) -> float:
    """KL(N(alpha x_0, sigma^2) || N(0, 1)) in bits/dim, alpha^2 + sigma^2 = 1, on average over data of E||x_0||^2 / d.

    >>> round(prior_bits(-10.0, second_moment=1.0), 7)
    0.0
    """
    alpha2, sigma2 = scipy.special.expit([log_snr, -log_snr]).tolist()
    return float(normal_kl(alpha2 * second_moment, sigma2, 1.0)) / math.log(2.0)


def end_points(curve: NoiseCurve, reconstruction: Reconstruction, second_moment: float, tolerance: float = 1e-3) -> EndPoints:
    """The ends of the best schedule for a curve, measured or running.

    Args:
        reconstruction: of the moments, or `Reconstruction.normal` where only a curve is known.
        second_moment: E||x_0||^2 / d of the data.
        tolerance: most that the prior term may cost, bits/dim.

    Raises:
        InputError: a curve of the score, which prices nothing, or a tolerance that no end keeps.

    >>> ends = end_points(curve, Reconstruction.of(moments), second_moment=1.0)
    >>> ends.low < -5.0 < ends.high
    True
    """
    curve.require_price()
    allowed = number(above=0.0)("tolerance", tolerance)
    log_snr = np.linspace(float(curve.log_snr[0]), float(reconstruction.log_snr[-1]), POINTS)
    total = reconstruction.best(log_snr)[0] + _transitions(curve, log_snr)
    best = int(total.argmin())
    low = _lowest(second_moment, allowed, float(log_snr[best]))
    return EndPoints(low, float(log_snr[best]), prior_bits(low, second_moment), best == POINTS - 1)


def _transitions(curve: NoiseCurve, log_snr: Array) -> Array:
    """1/2 integral of R from the first level on."""
    return 0.5 * scipy.integrate.cumulative_simpson(curve.residual(log_snr), x=log_snr, initial=0.0)


def _lowest(second_moment: float, allowed: float, high: float) -> float:
    """The largest level with a prior term of at most `allowed`."""

    def excess(log_snr: float) -> float:
        return prior_bits(log_snr, second_moment) - allowed

    if excess(LOWEST) > 0.0 or excess(high) <= 0.0:
        raise InputError(f"no level below {high:g} has a prior term of {allowed:g} bits/dim; choose another tolerance")
    return float(scipy.optimize.brentq(excess, LOWEST, high, xtol=1e-12))
