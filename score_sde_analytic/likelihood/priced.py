"""Bounds priced from the curve, for chains of any number of steps and for infinitely many: no network call.

A price holds what was assumed to get it. It is linear in the measured R around the fitted curve, so that no shape which the fit
imposes enters. What was chosen from the moments (times, variances, the decoder's width) is chosen anew without each fold of the
examples, and priced by that fold (cross-fitting). Errors are those of the draws, by the jackknife, of the choice, and of what
the curve may do between its knots (`measure.between`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.likelihood.bound import BITS, Priced
from score_sde_analytic.likelihood.prior import prior_price
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.held_out import FOLDS
from score_sde_analytic.measure.interpolant import Interpolant
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.process.decoder import Decoder
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.uncertainty import Estimate


class Priceable(Protocol):
    """A method that a curve can price: a `Chain`, or `ContinuousTime`."""

    @property
    def decoder(self) -> Decoder: ...

    @property
    def first_time(self) -> float:
        """Where the decoder takes over."""
        ...

    @property
    def prior(self) -> FreeModel | None:
        """Of the first level; None for N(0, prior_variance I)."""
        ...

    @property
    def top(self) -> float:
        """The time of the first level."""
        ...

    @property
    def choice(self) -> Callable[[Moments, int], Priceable] | None:
        """What the moments without a fold, of this number, would have led to; None where nothing was chosen from moments."""
        ...

    def transition_nats(self, schedule: Schedule, curve: NoiseCurve, group: int | None) -> Float64[Array, " transitions"]:
        """Nats per dimension of each transition, without a group of the curve's examples."""
        ...

    @property
    def judged(self) -> bool:
        """Whether `transition_nats` is the cost of recorded draws, not that of the curve."""
        ...

    def slopes(
        self, schedule: Schedule, curve: NoiseCurve
    ) -> tuple[Float64[Array, "transitions n"], Float64[Array, "transitions n"]]:
        """(log-SNRs that each transition depends on, its change for a unit of y at each), nats per dimension."""
        ...


def price(
    moments: Moments, schedule: Schedule, methods: Mapping[str, Priceable], statistics: DataStatistics
) -> dict[str, Priced]:
    """The bounds of chains (any grids), and of continuous time, from measured moments alone, with errors.

    A chain is held fixed while the moments that price it vary, so the errors are those of the price. Chains that were chosen
    from the moments (`Chain.choice`) are priced by cross-fitting. A covariance diagonal in a basis is priced by its
    `correction`; without it as fitted, which is low by the fit's own noise, and without errors of the draws.

    Args:
        moments: of the network on data like those to be coded, with their decoder table.
        statistics: of such data: the second moment for the usual prior, and the histogram of levels for a categorical decoder.
            A free prior knows its own price (`models.Judged` that of examples, with its error).

    Raises:
        TypeError: a covariance depends on the state, so that the curve alone cannot price it.
        ValueError: a Gaussian decoder's std outside the measured table, or a categorical one without a histogram.

    >>> priced = price(moments, model.schedule, {"K = 10": study.chain(10)}, study.statistics)
    >>> print(priced["K = 10"].total)
    1.109 ± 0.063
    """
    view = _View.of(moments)
    quotes = {name: _Quote.of(method, view, schedule, statistics) for name, method in methods.items()}

    def rows(replicate: Moments, group: int | None) -> Array:
        part = view.part(replicate)
        return np.concatenate([quote.row(part, group) for quote in quotes.values()])

    values, errors = moments.jackknife_by_group(rows)
    # The longest first: what was searched for its steps holds the grids of fewer.
    longest = sorted(quotes, key=lambda name: -quotes[name].length)
    held_out = {name: quotes[name].cross_fitted(statistics) for name in longest}
    ends = np.cumsum([quote.length for quote in quotes.values()])[:-1]
    priced = {}
    for name, value, error in zip(quotes, np.split(values, ends), np.split(errors, ends), strict=True):
        quote = quotes[name]
        chosen, choice, prior = held_out[name] or (value, np.zeros_like(error), quote.prior.value)
        stderr = np.sqrt(error**2 + choice**2 + quote.doubt() ** 2)
        of_prior = Estimate(BITS * prior, BITS * quote.prior.stderr)
        priced[name] = _priced(of_prior, BITS * chosen, BITS * stderr, moments.evaluations)
    return priced


def expected_nats(moments: Moments, schedule: Schedule, method: Priceable, statistics: DataStatistics) -> float:
    """The total of `price` without its prior and errors, nats per dimension; faster.

    >>> round(expected_nats(moments, model.schedule, study.chain(10), study.statistics), 2)
    0.77
    """
    quote = _Quote.of(method, _View.of(moments), schedule, statistics)
    chosen = quote.cross_fitted(statistics)
    return float((quote.row(quote.view.whole, None) if chosen is None else chosen[0])[0])


def _priced(prior: Estimate, values: Array, errors: Array, evaluations: int) -> Priced:
    """The bound of one method from its row, in bits per dimension."""
    total, transitions, reconstruction = (Estimate(float(values[i]), float(errors[i])) for i in range(HEAD))
    parts = {"prior": prior, "transitions": transitions, "reconstruction": reconstruction}
    whole = Estimate(total.value + prior.value, math.hypot(total.stderr, prior.stderr))
    return Priced(whole, parts, values[HEAD:], errors[HEAD:], evaluations)


#: Entries of a row before its steps: transitions + reconstruction, transitions, reconstruction.
HEAD = 3


@dataclass(frozen=True, eq=False)
class _View:
    """Moments, and what was fitted to them: the point that prices are linear around."""

    moments: Moments
    curve: NoiseCurve

    @classmethod
    def of(cls, moments: Moments) -> _View:
        return cls(moments, NoiseCurve.fit(moments, warn=False))

    def part(self, moments: Moments) -> _Part:
        """What a part of the draws says."""
        return _Part(self.curve, moments)

    @cached_property
    def whole(self) -> _Part:
        """All that was drawn."""
        return self.part(self.moments)

    @cached_property
    def folds(self) -> list[tuple[Moments, _Part]]:
        """(moments without a fold of the groups, what the fold says)."""
        return [(self.moments.part(~fold), self.part(self.moments.part(fold))) for fold in self.moments.folds(FOLDS)]


@dataclass(frozen=True, eq=False)
class _Part:
    """What a part of the draws says, next to a curve."""

    curve: NoiseCurve
    moments: Moments

    @cached_property
    def table(self) -> Reconstruction:
        """Last steps."""
        return Reconstruction.of(self.moments, self.curve)

    @cached_property
    def _relative(self) -> Interpolant:
        knots = self.moments.log_snr
        return Interpolant(knots, self.moments.residual / self.curve.residual(knots) - 1.0)

    def shift(self, log_snr: Array) -> Array:
        """What it adds to y, to first order: -(R_part - R) / (R (1 - R)), with R_part / R interpolated."""
        return -self._relative(log_snr) / self.curve.noise_power(log_snr)


@dataclass(frozen=True, eq=False)
class _Quote:
    """What one method costs as a function of moments near those of the view.

    Attributes:
        log_snr, slopes: of the transitions, as `Priceable.slopes` has them.
        prior: of the first level, nats per dimension.
        first: log-SNR where the decoder takes over.
        reconstruction: of a table of last steps, nats per dimension.
    """

    method: Priceable
    view: _View
    schedule: Schedule
    log_snr: Array
    slopes: Array
    prior: Estimate
    first: float
    reconstruction: Callable[[Reconstruction], float]

    @classmethod
    def of(cls, method: Priceable, view: _View, schedule: Schedule, statistics: DataStatistics) -> _Quote:
        decoder, level = method.decoder, schedule.level(method.first_time)

        def nats(table: Reconstruction) -> float:
            return decoder.expected_nats(level, table, statistics.histogram, view.moments.data_range)

        if not decoder.needs_network:  # once: it does not vary with the moments
            exact = nats(view.whole.table)
        log_snr, slopes = method.slopes(schedule, view.curve)
        last = nats if decoder.needs_network else lambda table: exact
        prior = prior_price(method.prior, schedule, method.top, statistics)
        return cls(method, view, schedule, log_snr, slopes, prior, float(level.log_snr), last)

    @property
    def length(self) -> int:
        """Entries of a row."""
        return HEAD + len(self.slopes)

    @cached_property
    def _fitted(self) -> Array:
        """Transitions as the fitted curve has them."""
        return self.method.transition_nats(self.schedule, self.view.curve, None)

    def row(self, part: _Part, group: int | None) -> Array:
        """Transitions + reconstruction, transitions, reconstruction, then each step: nats per dimension by a part of the draws.

        Args:
            group: that the part lacks.
        """
        last = self.reconstruction(part.table)
        if part.table.density:
            last += self._sensitivity[0] * float(part.shift(np.array(self.first)))
        if self.method.judged:
            steps = self.method.transition_nats(self.schedule, self.view.curve, group)
        else:
            steps = self._fitted + (self.slopes * part.shift(self.log_snr)).sum(1)
        return np.concatenate([[steps.sum() + last, steps.sum(), last], steps])

    @cached_property
    def _sensitivity(self) -> tuple[float, float]:
        return self.method.decoder.sensitivity(self.first, self.view.whole.table)

    def cross_fitted(self, statistics: DataStatistics) -> tuple[Array, Array, float] | None:
        """(row, its error, prior) where every fold prices what the other groups choose; None where nothing was chosen.

        The row is this method's own plus the mean difference of what is chosen without a fold, paired on the fold; the error
        is that of the difference, from its spread over folds. What two folds are chosen without overlaps, so that differences
        are not independent: their variance counts 1/n + 1/(n - 1) times for n folds, not 1/n (Nadeau & Bengio 2003). What is
        chosen may begin at another level: the prior differs as the row does, and the error of the total is of their sum.
        """
        choose = self.method.choice
        if choose is None or not self.view.folds:
            return None
        differences, priors = [], []
        for number, (others, fold) in enumerate(self.view.folds):
            chosen = _Quote.of(choose(others, number), self.view, self.schedule, statistics)
            differences.append(chosen.row(fold, None) - self.row(fold, None))
            priors.append(chosen.prior.value - self.prior.value)
        row, prior = self.row(self.view.whole, None) + np.mean(differences, 0), self.prior.value + float(np.mean(priors))
        of_total, n = np.array(differences), len(differences)
        of_total[:, 0] += priors
        return row, np.std(of_total, axis=0, ddof=1) * math.sqrt(1 / n + 1 / (n - 1)), prior

    def doubt(self) -> Array:
        """Standard errors of a row for what the curve and the table may do between knots."""
        first, between = np.array([self.first]), self.view.moments.between
        slope, table = self._sensitivity
        steps = [between.stderr_of(*pair) for pair in zip(self.log_snr, self.slopes, strict=True)]
        transitions = between.stderr_of(self.log_snr.ravel(), self.slopes.ravel())
        total = between.stderr_of(np.append(self.log_snr, first), np.append(self.slopes, slope))
        last = between.stderr_of(first, np.array([slope]))
        return np.array([math.hypot(total, table), transitions, math.hypot(last, table), *steps])
