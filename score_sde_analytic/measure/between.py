"""What is not known of a curve between its knots.

y is taken for the sum of a constant, a smooth Gaussian process (Matern 5/2, lengths of some units of log-SNR: what data do) and
a rough one (Matern 3/2, short lengths: what networks do, such as the ripples of Fourier features of time). Their lengths and
sizes are averaged over, weighted by how well they explain the knots within their errors: a curve that nothing disturbs leaves
little doubt, one that jumps from knot to knot leaves much.

(Rasmussen & Williams, Gaussian processes for machine learning, 2006, sections 2.7 and 5.4.)
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from score_sde_analytic.arrays import Array
from score_sde_analytic.measure.interpolant import Interpolant, determines_y, y_of

#: Lengths in log-SNR and sizes in y of the smooth part, and (median, spread) of their log-normal priors.
LENGTHS, SIZES = np.geomspace(1.5, 40.0, 6), np.geomspace(0.03, 10.0, 6)
LENGTH_PRIOR, SIZE_PRIOR = (6.0, 0.8), (1.0, 1.5)
#: Lengths and sizes of the rough part, equally likely, and the chance that there is none.
ROUGH_LENGTHS, ROUGH_SIZES = np.array([0.12, 0.3, 0.75]), np.array([0.005, 0.015, 0.04, 0.1, 0.25, 0.6])
NO_ROUGH = 0.05
#: Points per cell at which the doubt is tabulated, and the share of the likeliest below which a hypothesis does not count.
POINTS, NEGLIGIBLE = 8, 1e-3
#: Squared relative rounding that keeps matrices positive definite.
JITTER = 1e-9


def _hypotheses() -> Array:
    """(index of length, size, index of rough length, rough size, log prior), one row each."""
    share = (1.0 - NO_ROUGH) / (len(ROUGH_LENGTHS) * len(ROUGH_SIZES))
    rough = [(0, 0.0, NO_ROUGH), *((j, size, share) for j, size in product(range(len(ROUGH_LENGTHS)), ROUGH_SIZES))]
    rows = [
        (i, size, j, small, chance) for (i, size), (j, small, chance) in product(product(range(len(LENGTHS)), SIZES), rough)
    ]
    table = np.array(rows)
    length = (np.log(LENGTHS[table[:, 0].astype(int)] / LENGTH_PRIOR[0]) / LENGTH_PRIOR[1]) ** 2
    size = (np.log(table[:, 1] / SIZE_PRIOR[0]) / SIZE_PRIOR[1]) ** 2
    table[:, 4] = np.log(table[:, 4]) - 0.5 * (length + size)
    return table


HYPOTHESES = _hypotheses()


class _Kernels:
    """The covariances of all hypotheses between points at these distances."""

    def __init__(self, distance: Array) -> None:
        scaled = np.sqrt(5.0) * distance / LENGTHS[:, None, None]
        self._smooth = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
        scaled = np.sqrt(3.0) * distance / ROUGH_LENGTHS[:, None, None]
        self._rough = (1.0 + scaled) * np.exp(-scaled)

    def of(self, hypotheses: Array) -> Array:
        """Of some rows of the table, (.., n, n)."""
        i, size, j, small, _ = hypotheses.T
        smooth, rough = (np.asarray(power**2)[..., None, None] for power in (size, small))
        return smooth * self._smooth[i.astype(int)] + rough * self._rough[j.astype(int)]


class BetweenKnots:
    """The error of interpolating y between knots, as a Gaussian process that is zero at them.

    Args:
        log_snr: knots, ascending.
        y: measured there.
        stderr: of y.

    >>> moments.between.stderr(np.array([-4.0, 0.0, 4.0])).round(3)
    array([0.005, 0.004, 0.035])
    """

    def __init__(self, log_snr: Float64[Array, " m"], y: Float64[Array, " m"], stderr: Float64[Array, " m"]) -> None:
        self._knots = log_snr
        self._y = y
        self._noise = stderr**2

    @classmethod
    def of(cls, log_snr: Float64[Array, " m"], residual: Float64[Array, " m"], stderr: Float64[Array, " m"]) -> BetweenKnots:
        """Of measured R, where it lies in (0, 1), with its standard errors."""
        usable = determines_y(residual)
        knots, r = log_snr[usable], residual[usable]
        error = stderr[usable] / (r * (1.0 - r))
        return cls(knots, y_of(r, knots), np.where(np.isfinite(error), error, 1.0))

    @cached_property
    def _at_knots(self) -> _Kernels:
        return _Kernels(np.abs(self._knots[:, None] - self._knots))

    @cached_property
    def _likely(self) -> tuple[Array, Array]:
        """(rows of the hypotheses that count, their probabilities)."""
        covariance = self._at_knots.of(HYPOTHESES) + np.diag(self._noise + JITTER)
        root = np.linalg.cholesky(covariance)
        columns = np.stack([np.ones_like(self._y), self._y], 1)
        solved = np.linalg.solve(root, np.broadcast_to(columns, (len(root), *columns.shape)))
        ones, values = solved[..., 0], solved[..., 1]
        weight = (ones**2).sum(1)
        constant = (ones * values).sum(1) / weight
        misfit = ((values - constant[:, None] * ones) ** 2).sum(1)
        volume = np.log(np.einsum("kii->ki", root)).sum(1) + 0.5 * np.log(weight)
        log_posterior = HYPOTHESES[:, 4] - 0.5 * misfit - volume
        probability = np.exp(log_posterior - log_posterior.max())
        counts = probability > NEGLIGIBLE
        return HYPOTHESES[counts], probability[counts] / probability[counts].sum()

    @cached_property
    def _lattice(self) -> Array:
        """Knots and points between them."""
        cells = np.arange((len(self._knots) - 1) * POINTS + 1) / POINTS
        return np.interp(cells, np.arange(len(self._knots)), self._knots)

    @cached_property
    def _covariance(self) -> Array:
        """Of the error on the lattice: what hypotheses leave open, and how far a monotone cubic is from their means."""
        lattice, knots = self._lattice, self._knots
        across = _Kernels(np.abs(lattice[:, None] - lattice))
        cubic = Interpolant(knots, self._y)(lattice)
        at = np.arange(len(knots)) * POINTS
        total = np.zeros((len(lattice), len(lattice)))
        for hypothesis, probability in zip(*self._likely, strict=True):
            covariance = across.of(hypothesis)
            among = covariance[np.ix_(at, at)] + JITTER * hypothesis[1] ** 2 * np.eye(len(at))
            weights = np.linalg.solve(among, covariance[at]).T
            bias = weights @ (self._y - self._y.mean()) + self._y.mean() - cubic
            total += probability * (covariance - weights @ covariance[at] + np.outer(bias, bias))
        return total

    def _shares(self, log_snr: Array) -> tuple[NDArray[np.int64], Array]:
        """(lattice points below these, share of the points above), by linear interpolation, at the end knots beyond them."""
        place = np.interp(log_snr, self._lattice, np.arange(len(self._lattice)))
        below = np.minimum(place.astype(np.int64), max(len(self._lattice) - 2, 0))
        return below, place - below

    def stderr(self, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"]:
        """Standard error of y at these levels, apart from those of the knots."""
        deviation = np.sqrt(np.maximum(np.diag(self._covariance), 0.0))
        return np.interp(log_snr, self._lattice, deviation)

    def stderr_of(self, log_snr: Float64[Array, " n"], slopes: Float64[Array, " n"]) -> float:
        """Standard error of a number that changes by slopes[i] for each unit of y at level i."""
        below, share = self._shares(log_snr)
        weights = np.zeros(len(self._lattice))
        np.add.at(weights, below, slopes * (1.0 - share))
        np.add.at(weights, np.minimum(below + 1, len(weights) - 1), slopes * share)
        touched = np.flatnonzero(weights)
        variance = float(weights[touched] @ self._covariance[np.ix_(touched, touched)] @ weights[touched])
        return math.sqrt(max(variance, 0.0))
