"""Bounds predicted from the curve, for chains of any number of steps and for infinitely many: no network call."""

from __future__ import annotations

from collections.abc import Mapping

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
from score_sde_analytic.process.decoder import CategoricalDecoder, Decoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.schedule import Level, Schedule

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
    lasts = [_Last(method, moments, schedule, statistics) for method in methods.values()]

    def rows(m: Moments, group: int | None) -> list[Array]:
        """Per method: transitions + reconstruction, transitions, reconstruction, then each step."""
        curve, table = NoiseCurve.fit(m), Reconstruction.of(m)
        found = []
        for method, last in zip(methods.values(), lasts, strict=True):
            costs, end = _transitions(method, schedule, curve, group), last.nats(table)
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


class _Last:
    """The reconstruction term of one method."""

    def __init__(
        self, method: Chain | ContinuousTime, moments: Moments, schedule: Schedule, statistics: DataStatistics
    ) -> None:
        self.decoder: Decoder = method.decoder
        self.level: Level = schedule.level(method.grid.times[-2] if isinstance(method, Chain) else method.t_min)
        self.exact = self._exact(moments, statistics)

    def _exact(self, moments: Moments, statistics: DataStatistics) -> float | None:
        if isinstance(self.decoder, NoDecoder):
            return self.decoder.entropy(self.level)
        if isinstance(self.decoder, CategoricalDecoder):
            declared = moments.fingerprint["decoder"]
            if statistics.histogram is None or declared is None:
                raise ValueError(
                    "a categorical decoder is priced from the histogram of levels: declare the data_range everywhere"
                )
            return float(statistics.histogram @ self.decoder.table(self.level, DataRange(*declared)))
        return None

    def nats(self, table: Reconstruction) -> float:
        if self.exact is not None:
            return self.exact
        assert isinstance(self.decoder, GaussianDecoder)
        return table.at(self.level.log_snr, self.decoder.std)
