"""Bounds priced from the curve, for chains of any number of steps and for infinitely many: no network call.

A price holds what was assumed to get it. What was chosen from the moments (times, variances, the decoder's width) is chosen
anew without each fold of the examples, and priced by that fold (cross-fitting); errors are those of the draws, by the
jackknife, and those of what the curve may do between its knots (`measure.between`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.likelihood.bound import BITS, Priced
from score_sde_analytic.measure.between import BetweenKnots
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.held_out import FOLDS
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.decoder import Decoder
from score_sde_analytic.process.kernel import prior_kl
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
    def choice(self) -> Callable[[Moments, int], Priceable] | None:
        """What the moments without a fold, of this number, would have led to; None where nothing was chosen from moments."""
        ...

    def transition_nats(self, schedule: Schedule, curve: NoiseCurve, group: int | None) -> Float64[Array, " transitions"]:
        """Nats per dimension of each transition, without a group of the curve's examples."""
        ...

    def nats_of_part(
        self, schedule: Schedule, curve: NoiseCurve, shift: Callable[[Array], Array]
    ) -> Float64[Array, " transitions"]:
        """Nats per dimension of each transition for a fold, by which the curve's y is larger by `shift`, to first order."""
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
        statistics: of such data: the second moment for the prior, and the histogram of levels for a categorical decoder.

    Raises:
        TypeError: a covariance depends on the state, so that the curve alone cannot price it.
        ValueError: a Gaussian decoder's std outside the measured table, or a categorical one without a histogram.

    >>> priced = price(moments, model.schedule, {"K = 10": study.chain(10)}, study.statistics)
    >>> print(priced["K = 10"].total)
    1.123 ± 0.058
    """
    quotes = [_Quote.of(method, moments, schedule, statistics) for method in methods.values()]

    def rows(replicate: Moments, group: int | None) -> list[Array]:
        view = _View.of(replicate)
        return [quote.row(view, group) for quote in quotes]

    values, errors = moments.jackknife_by_group(lambda replicate, group: np.concatenate(rows(replicate, group)))
    whole, between = _View.of(moments), BetweenKnots.of(moments)
    ends = np.cumsum([len(row) for row in rows(moments, None)])[:-1]
    prior = float(prior_kl(schedule, statistics.second_moment))
    # The longest first: what was searched for its steps holds the grids of fewer.
    longest = sorted(quotes, key=lambda quote: -len(quote.row(whole, None)))
    chosen = {id(quote): quote.cross_fitted(moments, statistics) for quote in longest}
    priced = {}
    for name, quote, value, error in zip(methods, quotes, np.split(values, ends), np.split(errors, ends), strict=True):
        held_out = chosen[id(quote)]
        errors = np.hypot(error, quote.doubt(whole, between))
        priced[name] = _priced(prior, value if held_out is None else held_out, errors, moments.evaluations)
    return priced


def expected_nats(moments: Moments, schedule: Schedule, method: Priceable, statistics: DataStatistics) -> float:
    """The total of `price` without its prior and errors, nats per dimension; faster.

    >>> round(expected_nats(moments, model.schedule, study.chain(10), study.statistics), 2)
    0.78
    """
    quote = _Quote.of(method, moments, schedule, statistics)
    chosen = quote.cross_fitted(moments, statistics)
    return float((quote.row(_View.of(moments), None) if chosen is None else chosen)[0])


def _priced(prior: float, values: Array, errors: Array, evaluations: int) -> Priced:
    """The bound of one method from its row, in bits per dimension."""
    values, errors = BITS * values, BITS * errors
    total, transitions, reconstruction = (Estimate(float(values[i]), float(errors[i])) for i in range(HEAD))
    parts = {"prior": Estimate(BITS * prior, 0.0), "transitions": transitions, "reconstruction": reconstruction}
    return Priced(Estimate(total.value + BITS * prior, total.stderr), parts, values[HEAD:], errors[HEAD:], evaluations)


#: Entries of a row before its steps: transitions + reconstruction, transitions, reconstruction.
HEAD = 3


@dataclass(frozen=True)
class _View:
    """What some of the draws say: the curve and the table of last steps."""

    curve: NoiseCurve
    table: Reconstruction

    @classmethod
    def of(cls, moments: Moments) -> _View:
        curve = NoiseCurve.fit(moments, warn=False)
        return cls(curve, Reconstruction.of(moments, curve))

    def shift(self, moments: Moments, part: Moments) -> Callable[[ArrayLike], Array]:
        """What a part of the draws adds to y of all: -(R_part - R) / (R (1 - R)) at the knots, linear in between.

        To first order, so that over parts it averages to nothing, however close R is to one.
        """
        knots = self.curve.log_snr
        moved = (part.residual - moments.residual)[np.isin(moments.log_snr, knots)]
        moved /= -self.curve.residual(knots) * self.curve.noise_power(knots)
        return lambda log_snr: np.asarray(np.interp(np.asarray(log_snr), knots, moved))


@dataclass(frozen=True)
class _Quote:
    """What one method costs, as a function of the moments."""

    method: Priceable
    schedule: Schedule
    reconstruction: Callable[[Reconstruction], float]

    @classmethod
    def of(cls, method: Priceable, moments: Moments, schedule: Schedule, statistics: DataStatistics) -> _Quote:
        decoder, level = method.decoder, schedule.level(method.first_time)
        declared = moments.fingerprint["decoder"]
        data_range = None if declared is None else DataRange(*declared)

        def nats(table: Reconstruction) -> float:
            return decoder.expected_nats(level, table, statistics.histogram, data_range)

        if decoder.needs_network:
            return cls(method, schedule, nats)
        exact = nats(Reconstruction.of(moments))  # once: it does not vary with the moments
        return cls(method, schedule, lambda table: exact)

    def row(self, view: _View, group: int | None) -> Array:
        """Transitions + reconstruction, transitions, reconstruction, then each step; nats per dimension."""
        steps = self.method.transition_nats(self.schedule, view.curve, group)
        last = self.reconstruction(view.table)
        return np.concatenate([[steps.sum() + last, steps.sum(), last], steps])

    def cross_fitted(self, moments: Moments, statistics: DataStatistics) -> Array | None:
        """The row where every fold of the groups prices what the other groups choose; None where nothing was chosen."""
        folds = moments.folds(FOLDS)
        if self.method.choice is None or not folds:
            return None
        whole = _View.of(moments)
        rows = []
        for number, fold in enumerate(folds):
            part = moments.part(fold)
            chosen = _Quote.of(self.method.choice(moments.part(~fold), number), moments, self.schedule, statistics)
            rows.append(chosen.row_of_part(whole, whole.shift(moments, part), Reconstruction.of(part, whole.curve)))
        return np.mean(rows, 0)

    def row_of_part(self, view: _View, shift: Callable[[ArrayLike], Array], table: Reconstruction) -> Array:
        """The row for y that is larger by `shift`, to first order, and a part's table of last steps."""
        first = self.schedule.log_snr(self.method.first_time)
        steps = self.method.nats_of_part(self.schedule, view.curve, shift)
        last = self.reconstruction(table)
        if table.density:
            last += self.method.decoder.sensitivity(first, table)[0] * float(shift(first))
        return np.concatenate([[steps.sum() + last, steps.sum(), last], steps])

    def doubt(self, view: _View, between: BetweenKnots) -> Array:
        """Standard errors of a row for what the curve and the table may do between knots."""
        log_snr, slopes = self.method.slopes(self.schedule, view.curve)
        first = np.array([self.schedule.log_snr(self.method.first_time)])
        slope, table = self.method.decoder.sensitivity(float(first[0]), view.table)
        steps = [between.stderr_of(*pair) for pair in zip(log_snr, slopes, strict=True)]
        transitions = between.stderr_of(log_snr.ravel(), slopes.ravel())
        total = between.stderr_of(np.append(log_snr, first), np.append(slopes, slope))
        last = between.stderr_of(first, np.array([slope]))
        return np.array([math.hypot(total, table), transitions, math.hypot(last, table), *steps])
