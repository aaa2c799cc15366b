"""Where times are drawn: densities over log-SNR, and the quantile functions that turn them into schedules.

The schedule whose log-SNR at uniform t has the density pi is lam(t) = Q(1 - t), Q the quantile function of pi: to choose a
schedule is to choose pi. (Kingma et al., Variational diffusion models, NeurIPS 2021, learn lam(t) by gradients.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.checks import LOG_SNR, one_of
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.forward import Schedule

#: Of equal width, each of constant density.
CELLS = 1000
#: By which two ends may differ that are meant to be the same.
SLACK = 1e-9

#: Of the times of different draws: each for itself, or one in each of as many strata of equal probability.
Sampling = Literal["independent", "stratified"]
check_sampling = one_of(get_args(Sampling))


class Residual(Protocol):
    """What knows R(lam), such as a `NoiseCurve`."""

    def residual(self, log_snr: Array) -> Array: ...


class SquaredErrors(Protocol):
    """What knows the squared error r of one draw as a random number, such as `Moments.squared_error`."""

    def root_mean_square(self, log_snr: Array) -> Array: ...

    def std(self, log_snr: Array) -> Array: ...


class Recorded(Protocol):
    """What has recorded it, such as `Moments`."""

    @property
    def squared_error(self) -> SquaredErrors: ...


@dataclass(frozen=True)
class Density:
    """pi(lam) on [low, high], constant in cells of equal width.

    Attributes:
        low, high: log-SNRs.
        mass: of the cells, in any unit.

    Raises:
        InputError: low is not below high, or a mass is not a positive number.

    >>> density = Density.uniform(-10.0, 10.0)
    >>> float(density.at(3.0)), float(density.quantile(0.75))
    (0.05, 5.0)
    """

    low: float
    high: float
    mass: Float64[Array, " cells"]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, LOG_SNR(name, getattr(self, name)))
        object.__setattr__(self, "mass", as_array(self.mass))
        if not self.low < self.high:
            raise InputError(f"a density needs low < high, got {self.low:g} and {self.high:g}")
        if self.mass.ndim != 1 or not len(self.mass) or not (np.isfinite(self.mass) & (self.mass > 0.0)).all():
            raise InputError("a density needs cells of positive mass: what is never drawn cannot be weighted")

    @classmethod
    def from_function(cls, density: Callable[[Array], ArrayLike], low: float, high: float) -> Density:
        """In proportion to a function of log-SNR, by its value in the middle of every cell.

        >>> round(float(Density.from_function(np.exp, -5.0, 0.0).quantile(0.5)), 2)
        -0.69
        """
        edges = np.linspace(low, high, CELLS + 1)
        return cls(low, high, as_array(density(0.5 * (edges[1:] + edges[:-1]))))

    @classmethod
    def uniform(cls, low: float, high: float) -> Density:
        """Even in log-SNR: where VDM's learning of gamma begins."""
        return cls(low, high, np.ones(CELLS))

    @classmethod
    def of(cls, schedule: Schedule, low: float | None = None, high: float | None = None) -> Density:
        """Of the log-SNR of a schedule at uniform t, between two ends; None for those of the schedule.

        Raises:
            InputError: an end that the schedule never reaches, or one that lies at infinity.

        >>> round(float(Density.of(model.schedule, high=9.0).quantile(0.5)), 1)
        -2.5
        """
        lowest, highest = schedule.log_snr_range
        low, high = lowest if low is None else low, highest if high is None else high
        if not np.isfinite([low, high]).all():
            raise InputError(f"name both ends: this schedule goes from log-SNR {lowest:g} to {highest:g}")
        return cls(low, high, -np.diff(as_array(schedule.time(np.linspace(low, high, CELLS + 1)))))

    @classmethod
    def from_curve(cls, curve: Residual, low: float, high: float) -> Density:
        """In proportion to R, as if the squared error of a draw varied little: within a percent of the best on images.

        >>> density = Density.from_curve(curve, -10.0, 9.0)
        >>> bool(density.at(9.0) > 100 * density.at(-8.0))
        True
        """
        return cls.from_function(curve.residual, low, high)

    @classmethod
    def from_moments(cls, moments: Recorded, sampling: Sampling, low: float, high: float) -> Density:
        """The density that makes the bound's estimator vary least, in closed form by Cauchy and Schwarz.

            independent times    sqrt(E[r^2 | lam])
            stratified times     sd(r | lam)

        >>> density = Density.from_moments(moments, "independent", -10.0, 9.0)
        >>> bool(density.at(8.0) > density.at(-8.0))
        True
        """
        check_sampling("sampling", sampling)
        error = moments.squared_error
        return cls.from_function(error.std if sampling == "stratified" else error.root_mean_square, low, high)

    def defended(self, share: float) -> Density:
        """With a uniform share besides: no weight exceeds 1 / share times that of uniform draws."""
        return Density(self.low, self.high, (1.0 - share) * self.mass + share * self.mass.mean())

    def between(self, low: float, high: float) -> Density:
        """The part between two ends.

        Raises:
            InputError: it does not reach that far.
        """
        if max(abs(self.low - low), abs(self.high - high)) <= SLACK:
            return self
        if low < self.low - SLACK or high > self.high + SLACK:
            raise InputError(
                f"times are needed from log-SNR {low:.6g} to {high:.6g}, the density goes from {self.low:.6g} to"
                f" {self.high:.6g}; make it for all of them"
            )
        return Density(low, high, np.diff(self._mass_below(np.linspace(low, high, len(self.mass) + 1))))

    @cached_property
    def edges(self) -> Float64[Array, " edges"]:
        """Of the cells, ascending."""
        return np.linspace(self.low, self.high, len(self.mass) + 1)

    @cached_property
    def below(self) -> Float64[Array, " edges"]:
        """Mass below each edge, in the unit of `mass`."""
        return np.concatenate([[0.0], np.cumsum(self.mass)])

    @property
    def middles(self) -> Float64[Array, " cells"]:
        """Of the cells."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def width(self) -> float:
        """Of a cell."""
        return float(self.edges[1] - self.edges[0])

    @property
    def values(self) -> Float64[Array, " cells"]:
        """pi in the cells."""
        return self.mass / (self.below[-1] * self.width)

    def at(self, log_snr: ArrayLike) -> Float64[Array, " *n"]:
        """pi(lam); 0 outside [low, high]."""
        lam = as_array(log_snr)
        cell = np.clip(np.searchsorted(self.edges, lam, side="right") - 1, 0, len(self.mass) - 1)
        return np.where((lam >= self.low) & (lam <= self.high), self.values[cell], 0.0)

    def quantile(self, share: ArrayLike) -> Float64[Array, " *n"]:
        """The log-SNR below which that share of draws lies."""
        return self.draw(as_array(share))[0]

    def draw(self, share: ArrayLike) -> tuple[Float64[Array, " *n"], Float64[Array, " *n"]]:
        """(log-SNRs at uniform numbers in [0, 1], their weights 1 / pi)."""
        rank = as_array(share) * self.below[-1]
        cell = np.clip(np.searchsorted(self.below, rank, side="right") - 1, 0, len(self.mass) - 1)
        mass = np.diff(self.below)[cell]
        log_snr = self.edges[cell] + self.width * (rank - self.below[cell]) / mass
        return as_array(np.clip(log_snr, self.low, self.high)), as_array(self.width * self.below[-1] / mass)

    def _mass_below(self, log_snr: Array) -> Array:
        return np.interp(log_snr, self.edges, self.below)
