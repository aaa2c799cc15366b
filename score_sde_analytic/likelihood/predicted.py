"""Bounds predicted from the curve, for chains of any number of steps and for infinitely many: no network call."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.integrate import simpson

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.ranges import DataRange, DataStatistics
from score_sde_analytic.grids.lattice import prior_cost, transition_costs
from score_sde_analytic.likelihood.bound import BITS, Part, Predicted
from score_sde_analytic.likelihood.chain import Chain
from score_sde_analytic.likelihood.continuous import ContinuousTime
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.schedule import Schedule

#: Points of the integral of R.
POINTS = 4001


def predict(
    moments: Moments, schedule: Schedule, methods: Mapping[str, Chain | ContinuousTime], statistics: DataStatistics
) -> dict[str, Predicted]:
    """The bounds of chains (any grids), and of continuous time, from measured moments alone, with jackknife errors.

    A chain is held fixed while the moments that price it vary, so the errors are those of the price. A covariance diagonal in a
    basis is priced by `Diagonal.correction`; without it as fitted, which is low by the fit's own noise, and without errors.

    Args:
        moments: of the network on data like those to be coded, with their decoder table.
        statistics: of such data: the second moment for the prior, and the histogram of levels for a categorical decoder.

    Raises:
        TypeError: a covariance depends on the state, so that the curve alone cannot price it.
        ValueError: a Gaussian decoder's std outside the measured table, or a categorical one without a histogram.
    """
    lasts = [_reconstruction(method, moments, schedule, statistics) for method in methods.values()]

    def rows(m: Moments, group: int | None) -> list[Array]:
        """Per method: transitions + reconstruction, transitions, reconstruction, then each step."""
        curve, table = NoiseCurve.fit(m), Reconstruction.of(m)
        found = []
        for method, last in zip(methods.values(), lasts, strict=True):
            costs, end = _transitions(method, schedule, curve, group), last(table)
            found.append(np.concatenate([[costs.sum() + end, costs.sum(), end], costs]))
        return found

    values, errors = (BITS * a for a in moments.jackknife_by_group(lambda m, group: np.concatenate(rows(m, group))))
    prior = BITS * prior_cost(schedule, statistics.second_moment)
    ends = np.cumsum([len(row) for row in rows(moments, None)])[:-1]
    found = {}
    for name, value, error in zip(methods, np.split(values, ends), np.split(errors, ends), strict=True):
        total, transitions, reconstruction = (Part(float(v), float(e)) for v, e in zip(value[:3], error[:3], strict=True))
        named = {"prior": Part(prior, 0.0), "transitions": transitions, "reconstruction": reconstruction}
        total = Part(total.value + prior, total.stderr)
        found[name] = Predicted(total, named, value[3:], error[3:], moments.evaluations)
    return found


def _transitions(method: Chain | ContinuousTime, schedule: Schedule, curve: NoiseCurve, group: int | None) -> Array:
    """Nats per dimension of each transition, or of their limit (1,); without a group of examples."""
    if isinstance(method, Chain):
        costs = transition_costs(schedule, curve, method.covariance, method.grid)
        correction = method.covariance.correction
        if correction is not None:
            lam = schedule.log_snr(np.array(method.grid.times[:-1]))
            costs = costs + correction(lam[1:], lam[:-1], group)
        return costs
    lam = np.linspace(*method.range(schedule), POINTS)
    return np.array([0.5 * simpson(curve.residual(lam), x=lam)])


def _reconstruction(
    method: Chain | ContinuousTime, moments: Moments, schedule: Schedule, statistics: DataStatistics
) -> Callable[[Reconstruction], float]:
    """Nats per dimension of the method's decoder, as a function of the measured table."""
    decoder = method.decoder
    level = schedule.level(method.first_time)
    declared = moments.fingerprint["decoder"]
    data_range = None if declared is None else DataRange(*declared)

    def nats(table: Reconstruction) -> float:
        return decoder.expected_nats(level, table, statistics.histogram, data_range)

    if decoder.needs_network:
        return nats
    exact = nats(Reconstruction.of(moments))  # once: it does not vary with the moments
    return lambda table: exact
