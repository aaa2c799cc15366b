"""Bounds priced from the curve, for chains of any number of steps and for infinitely many: no network call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.likelihood.bound import BITS, Priced
from score_sde_analytic.measure.curve import NoiseCurve
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

    def transition_nats(self, schedule: Schedule, curve: NoiseCurve, group: int | None) -> Float64[Array, " transitions"]:
        """Nats per dimension of each transition, without a group of the curve's examples."""
        ...


def price(
    moments: Moments, schedule: Schedule, methods: Mapping[str, Priceable], statistics: DataStatistics
) -> dict[str, Priced]:
    """The bounds of chains (any grids), and of continuous time, from measured moments alone, with jackknife errors.

    A chain is held fixed while the moments that price it vary, so the errors are those of the price. A covariance diagonal in a
    basis is priced by `Diagonal.correction`; without it as fitted, which is low by the fit's own noise, and without errors.

    Args:
        moments: of the network on data like those to be coded, with their decoder table.
        statistics: of such data: the second moment for the prior, and the histogram of levels for a categorical decoder.

    Raises:
        TypeError: a covariance depends on the state, so that the curve alone cannot price it.
        ValueError: a Gaussian decoder's std outside the measured table, or a categorical one without a histogram.

    >>> priced = price(moments, model.schedule, {"K = 10": study.chain(10)}, study.statistics)
    >>> print(priced["K = 10"].total)
    1.026 ± 0.073
    """
    quotes = [_Quote.of(method, moments, schedule, statistics) for method in methods.values()]

    def rows(replicate: Moments, group: int | None) -> list[Array]:
        curve = NoiseCurve.fit(replicate)
        table = Reconstruction.of(replicate)
        return [quote.row(schedule, curve, table, group) for quote in quotes]

    jackknifed = moments.jackknife_by_group(lambda replicate, group: np.concatenate(rows(replicate, group)))
    values, errors = (BITS * nats for nats in jackknifed)
    prior = BITS * float(prior_kl(schedule, statistics.second_moment))
    ends = np.cumsum([len(row) for row in rows(moments, None)])[:-1]
    each = zip(methods, np.split(values, ends), np.split(errors, ends), strict=True)
    return {name: _priced(prior, value, error, moments.evaluations) for name, value, error in each}


def _priced(prior: float, values: Array, errors: Array, evaluations: int) -> Priced:
    """The bound of one method from its row, in bits per dimension."""
    total, transitions, reconstruction = (Estimate(float(values[i]), float(errors[i])) for i in range(HEAD))
    parts = {"prior": Estimate(prior, 0.0), "transitions": transitions, "reconstruction": reconstruction}
    return Priced(Estimate(total.value + prior, total.stderr), parts, values[HEAD:], errors[HEAD:], evaluations)


#: Entries of a row before its steps: transitions + reconstruction, transitions, reconstruction.
HEAD = 3


@dataclass(frozen=True)
class _Quote:
    """What one method costs, as a function of the moments."""

    method: Priceable
    reconstruction: Callable[[Reconstruction], float]

    @classmethod
    def of(cls, method: Priceable, moments: Moments, schedule: Schedule, statistics: DataStatistics) -> _Quote:
        decoder, level = method.decoder, schedule.level(method.first_time)
        declared = moments.fingerprint["decoder"]
        data_range = None if declared is None else DataRange(*declared)

        def nats(table: Reconstruction) -> float:
            return decoder.expected_nats(level, table, statistics.histogram, data_range)

        if decoder.needs_network:
            return cls(method, nats)
        exact = nats(Reconstruction.of(moments))  # once: it does not vary with the moments
        return cls(method, lambda table: exact)

    def row(self, schedule: Schedule, curve: NoiseCurve, table: Reconstruction, group: int | None) -> Array:
        """Transitions + reconstruction, transitions, reconstruction, then each step; nats per dimension."""
        steps = self.method.transition_nats(schedule, curve, group)
        last = self.reconstruction(table)
        return np.concatenate([[steps.sum() + last, steps.sum(), last], steps])
