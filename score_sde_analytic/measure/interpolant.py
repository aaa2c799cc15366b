"""What all curves have in common: y in place of R, nondecreasing along knots in log-SNR, interpolated in between.

    R = sigmoid(lam - y),   y = lam - log(R / (1 - R))

R is about exp(lam) where noise is large and changes by orders of magnitude; y hardly changes and is constant for Gaussian data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float64

from score_sde_analytic.arrays import Array


def residual_of(y: Any, log_snr: Any) -> Any:
    """R = sigmoid(lam - y)."""
    return scipy.special.expit(log_snr - y)


def determines_y(residual: Float64[Array, " m"]) -> Bool[np.ndarray, " m"]:
    """Which values of R have a y: those in (0, 1)."""
    return (residual > 0.0) & (residual < 1.0)


def y_of(residual: Any, log_snr: Any) -> Any:
    """y = lam - log(R / (1 - R)), for R in (0, 1).

    >>> float(y_of(0.5, 3.0))
    3.0
    """
    return log_snr - scipy.special.logit(residual)


def nondecreasing(y: Float64[Array, " m *curves"], weights: Float64[Array, " m *curves"]) -> Float64[Array, " m *curves"]:
    """The nearest y (weighted least squares) that never decreases along the knots, column by column.

    >>> nondecreasing(np.array([1.0, 3.0, 2.0]), np.ones(3))
    array([1. , 2.5, 2.5])
    """
    columns = y.reshape(len(y), -1).copy()
    for column, weight in zip(columns.T, weights.reshape(len(y), -1).T, strict=True):
        column[:] = scipy.optimize.isotonic_regression(column, weights=weight).x
    return columns.reshape(y.shape)


#: How often measured values that do rise are taken for falling, per stretch of knots.
FALSE_ALARM = 1e-4


def contradicted(
    y: Float64[Array, " m"], fitted: Float64[Array, " m"], weights: Float64[Array, " m"], degrees: int
) -> Bool[np.ndarray, " m"]:
    """The knots of every stretch that `nondecreasing` levelled although it falls by more than its errors allow.

    A stretch of n knots with one fitted value has sum(weights (y - fitted)^2) / (n - 1) of about F(n - 1, degrees).

    Args:
        weights: 1 / error^2 of y.
        degrees: of freedom of the errors.

    >>> y = np.array([0.0, 1.0, 0.9, 2.0, 0.0])
    >>> contradicted(y, nondecreasing(y, np.full(5, 25.0)), np.full(5, 25.0), degrees=31)
    array([False, False, False,  True,  True])
    """
    against = np.zeros(len(y), dtype=bool)
    for value in np.unique(fitted):
        stretch = fitted == value
        freedom = stretch.sum() - 1
        if freedom and degrees > 0:
            misfit = (weights[stretch] * (y[stretch] - value) ** 2).sum() / freedom
            against[stretch] = scipy.stats.f.sf(misfit, freedom, degrees) < FALSE_ALARM
    return against


class Interpolant:
    """A monotone cubic (PCHIP) through values at knots, constant beyond the end knots.

    Args:
        knots: ascending.
        values: of any number of curves at the knots.

    >>> Interpolant(np.array([0.0, 1.0]), np.array([2.0, 4.0]))(np.array([0.5, 9.0]))
    array([3., 4.])
    """

    def __init__(self, knots: Float64[Array, " m"], values: Float64[Array, " m *curves"]) -> None:
        self._knots = knots
        self._first = values[0]
        self._cubic = scipy.interpolate.PchipInterpolator(knots, values) if len(knots) > 1 else None

    def __call__(self, x: Any) -> Array:
        """Values at x, x.shape + (...)."""
        if self._cubic is None:
            return np.full((*np.shape(x), *self._first.shape), self._first)
        return self._cubic(np.minimum(np.maximum(x, self._knots[0]), self._knots[-1]))

    def slope(self, x: Float64[Array, "*points"]) -> Float64[Array, "*points"]:
        """The derivative at x; 0 beyond the end knots. For curves of one value per knot."""
        if self._cubic is None:
            return np.zeros_like(x)
        inside = (x >= self._knots[0]) & (x <= self._knots[-1])
        return np.where(inside, self._cubic(np.clip(x, self._knots[0], self._knots[-1]), nu=1), 0.0)
