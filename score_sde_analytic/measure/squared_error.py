"""r = ||eps - eps_hat||^2 / d of one draw: its mean and spread at every level, from those at the knots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.interpolant import Interpolant

#: Below which a variance counts as none, relative to the squared mean.
NONE = 1e-12


@dataclass(frozen=True)
class SquaredError:
    """E[r | lam] and Var(r | lam), interpolated as log(E r / snr) and log(Var r / (E r)^2), which hardly change.

    Both are constant below the first knot: at high noise r is in proportion to the signal. Above the last one nothing is known.

    Attributes:
        log_snr: knots, ascending.
        means, variances: at them.

    Raises:
        InputError: a mean that is not positive, or a level above the last knot.

    >>> error = SquaredError(np.array([-2.0, 2.0]), np.array([0.1, 0.8]), np.array([0.01, 0.64]))
    >>> error.std([-2.0, 2.0]), round(float(error.mean(-3.0)), 4)
    (array([0.1, 0.8]), 0.0368)
    """

    log_snr: Float64[Array, " m"]
    means: Float64[Array, " m"]
    variances: Float64[Array, " m"]

    def __post_init__(self) -> None:
        if not (self.means > 0.0).all():
            lost = ", ".join(f"{value:.1f}" for value in self.log_snr[~(self.means > 0.0)])
            raise InputError(f"the mean squared error at log-SNR {lost} is not positive; measure with more draws")

    @cached_property
    def _log_mean(self) -> Interpolant:
        return Interpolant(self.log_snr, np.log(self.means) - np.minimum(self.log_snr, self._top))

    @cached_property
    def _log_relative(self) -> Interpolant:
        return Interpolant(self.log_snr, np.log(np.maximum(self.variances / self.means**2, NONE)))

    def _within(self, log_snr: ArrayLike) -> Array:
        lam = as_array(log_snr)
        if np.any(lam > self._top + 1e-6):
            raise InputError(
                f"nothing was measured at log-SNR {lam.max():.4g}, beyond the last knot, {self._top:.4g}, and nothing foretells"
                " R there; measure knots up to it, or end below"
            )
        return lam

    @property
    def _top(self) -> float:
        return float(self.log_snr[-1])

    def mean(self, log_snr: ArrayLike) -> Float64[Array, " *n"]:
        """E[r | lam] = R."""
        lam = self._within(log_snr)
        return as_array(np.exp(self._log_mean(lam) + np.minimum(lam, self._top)))

    def variance(self, log_snr: ArrayLike) -> Float64[Array, " *n"]:
        """Var(r | lam), over examples and noise."""
        lam = as_array(log_snr)
        return as_array(self.mean(lam) ** 2 * np.exp(self._log_relative(lam)))

    def std(self, log_snr: ArrayLike) -> Float64[Array, " *n"]:
        """sd(r | lam)."""
        return as_array(np.sqrt(self.variance(log_snr)))

    def second_moment(self, log_snr: ArrayLike) -> Float64[Array, " *n"]:
        """E[r^2 | lam]."""
        return as_array(self.variance(log_snr) + self.mean(log_snr) ** 2)

    def root_mean_square(self, log_snr: ArrayLike) -> Float64[Array, " *n"]:
        """sqrt(E[r^2 | lam])."""
        return as_array(np.sqrt(self.second_moment(log_snr)))
