"""What a reverse chain costs in nats per dimension, predicted from the curve: no network call.

    step t -> s:   1/2 [log(v / rho^2) + (rho^2 + b^2 V0) / v - 1]        any variance v, V0 from R of the network's mean
                   1/2 log(1 + R (exp(lam_s - lam_t) - 1))                the optimal v, whatever the schedule
    prior:         `process.kernel.prior_kl` at t = 1, or `FreeModel.prior_price` at any level
    last step:     E[-log p(x_0 | x_{t_1})], measured once as a function of lam_{t_1} and the decoder's std

Sources: Ho et al., 2020, eq. 5 for the bound; theory of optimal variances from Bao et al., ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.dynamic import Indices, StepCosts, shortest_paths
from score_sde_analytic.grids.grid import Grid, optimal_paths
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.process.level import Level, finite
from score_sde_analytic.process.schedule import Schedule


def transition_costs(
    schedule: Schedule, curve: NoiseCurve, covariance: Covariance, grid: Grid
) -> Float64[Array, " transitions"]:
    """KL of the K - 1 transitions t_K -> .. -> t_1 in visiting order, nats per dimension.

    Raises:
        TypeError: a covariance that depends on the state: no curve knows its price.

    >>> transition_costs(model.schedule, curve, study.covariance("isotropic"), Grid((1.0, 0.55, 0.1, 0.0))).round(3)
    array([0.016, 0.929])
    """
    curve.require_price()
    levels = grid.levels(schedule)[:-1]
    return covariance.step_nats(curve, _columns(levels[1:]), _columns(levels[:-1])) if len(levels) > 1 else np.zeros(0)


def transition_slopes(
    schedule: Schedule, curve: NoiseCurve, covariance: Covariance, grid: Grid
) -> tuple[Float64[Array, " transitions"], Float64[Array, " transitions"]]:
    """(log-SNRs that the transitions start from, change of each one's cost for a unit of y there), in visiting order.

    >>> log_snr, slopes = transition_slopes(model.schedule, curve, study.covariance("isotropic"), Grid((1.0, 0.55, 0.1, 0.0)))
    >>> log_snr.round(1), slopes.round(3)
    (array([-10.,  -3.]), array([-0.015, -0.409]))
    """
    levels = grid.levels(schedule)[:-1]
    if len(levels) < 2:
        return np.zeros(0), np.zeros(0)
    s, t = _columns(levels[1:]), _columns(levels[:-1])
    return np.asarray(t.log_snr), covariance.step_slopes(curve, s, t)


def _columns(levels: Sequence[Level]) -> Level:
    rows = [(level.t, level.alpha, level.sigma, level.log_snr) for level in levels]
    return Level(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


@dataclass(frozen=True)
class Lattice:
    """Fine levels on which grids are optimised, ascending in time (so descending in log-SNR), ending at t = 1."""

    schedule: Schedule
    times: Float64[Array, " n"]

    @classmethod
    def even_log_snr(cls, schedule: Schedule, points: int, log_snr_max: float) -> Lattice:
        """`points` levels even in log-SNR from `log_snr_max`, or the schedule's largest, down to t = 1.

        Where that is pure noise, it comes after those that are even, the last of which leaves nothing to be told.
        """
        low, high = schedule.finite_range
        even = np.linspace(min(log_snr_max, high), low, points - schedule.ends_in_noise)
        lam = np.append(even, -np.inf) if schedule.ends_in_noise else even
        times = np.asarray(schedule.time(lam))
        times[-1] = 1.0
        return cls(schedule, times)

    @cached_property
    def levels(self) -> Level:
        """Array-valued level of all points."""
        return self.schedule.level(self.times)

    @property
    def log_snr(self) -> Float64[Array, " n"]:
        """Log-SNRs of all points, finite in pure noise, too (`process.level.PURE_NOISE`)."""
        return finite(np.asarray(self.levels.log_snr))

    def costs(self, curve: NoiseCurve, covariance: Covariance) -> Float64[Array, "n n"]:
        """[i, j] is the cost of the step from point j down to i < j; inf elsewhere."""
        i, j = np.triu_indices(len(self.times), 1)
        matrix = np.full((len(self.times), len(self.times)), np.inf)
        matrix[i, j] = covariance.step_nats(curve, self._points(i), self._points(j))
        return matrix

    def _points(self, index: Indices) -> Level:
        """Levels of some of the points, as arrays."""
        every = self.levels
        return Level(every.t[index], every.alpha[index], every.sigma[index], every.log_snr[index])

    def optimal_grids(
        self,
        curve: NoiseCurve,
        covariance: Covariance,
        first_cost: ArrayLike,
        max_steps: int,
        name: str = "bits/dim",
        min_spacing: float = 0.0,
        top_cost: ArrayLike | None = None,
    ) -> dict[int, Grid]:
        """The grids of 1 .. max_steps steps that minimise transitions + first_cost + top_cost, by dynamic programming.

        The fast solver where the costs are Monge (optimal scalar variances, and unconditional ones diagonal in a basis), else
        the plain recursion.

        Args:
            first_cost: (n,) cost of the last step from each point to the data, as `Reconstruction.best` gives it.
            min_spacing: smallest difference of log-SNR between neighbouring times.
            top_cost: (n,) prior term at each point, as `FreeModel.prior_price` gives it; None begins every grid at t = 1.

        Returns:
            Grids by number of steps; a number for which no grid exists is absent.

        >>> lattice = Lattice.even_log_snr(model.schedule, points=100, log_snr_max=9.0)
        >>> last_step, std = study.reconstruction.best(lattice.log_snr)
        >>> lattice.optimal_grids(curve, study.covariance("isotropic"), last_step, max_steps=3)[3].times
        (1.0, 0.1505, 0.0860, 0.0)
        """
        curve.require_price()
        log_snr = self.log_snr
        residual = covariance.nodes(curve, log_snr)
        if residual is not None:
            steps = StepCosts(log_snr, residual)
            shortest = shortest_paths(steps, first_cost, max_steps, min_spacing=min_spacing, top_cost=top_cost)
            paths, costs = shortest.paths, shortest.costs
        else:
            matrix = self.costs(curve, covariance)
            matrix[log_snr[:, None] - log_snr < min_spacing * (1.0 - 1e-12)] = np.inf
            paths, costs = optimal_paths(matrix, first_cost, max_steps, top_cost)
        return {
            len(path): Grid((*self.times[path[::-1]].tolist(), 0.0), f"dp on {len(self.times)} levels: {name}", float(cost))
            for path, cost in zip(paths, costs, strict=True)
            if len(path)
        }

    def best_first(
        self, make: Callable[[float], Grid], curve: NoiseCurve, covariance: Covariance, first_cost: ArrayLike
    ) -> Grid:
        """The grid make(t_1) whose first time, among this lattice's, has the smallest predicted cost: coarse, then fine.

        Raises:
            InputError: no lattice time leaves room for the grid's other times.
        """
        last, n = as_array(first_cost), len(self.times)

        def priced(indices: Sequence[int]) -> list[tuple[float, int, Grid]]:
            """(cost, index of the first time, grid) of those first times that are one's."""
            starts = [(i, float(self.times[i])) for i in indices]
            made = [(i, t_1, make(t_1) if t_1 < 1.0 else Grid((1.0, 0.0))) for i, t_1 in starts]
            kept = [(i, grid) for i, t_1, grid in made if grid.times[-2] == t_1]  # a single step starts at t = 1 whatever t_1
            steps = max((grid.steps for _, grid in kept), default=0)
            kept = [(i, grid) for i, grid in kept if grid.steps == steps]
            nats = self._totals(curve, covariance, [grid for _, grid in kept]) + last[[i for i, _ in kept]]
            return [(float(cost), *entry) for cost, entry in zip(nats, kept, strict=True)]

        stride = max(1, n // 100)
        coarse = priced([*range(0, n - 1, stride), n - 1])
        if not coarse:
            raise InputError("no lattice time can be the first time of this grid; use a finer lattice")
        _, centre, grid = min(coarse, key=itemgetter(0))
        fine = priced(range(max(0, centre - stride), min(n, centre + stride + 1)))
        cost, _, best = min((entry for entry in fine if entry[2].steps == grid.steps), key=itemgetter(0))
        return replace(best, cost=cost)

    def _totals(self, curve: NoiseCurve, covariance: Covariance, grids: Sequence[Grid]) -> Float64[Array, " grids"]:
        """Nats per dimension of all transitions of each grid; the grids have as many steps."""
        curve.require_price()
        times = np.array([grid.times[:-1] for grid in grids])
        if times.size <= len(grids):  # no transition
            return np.zeros(len(grids))
        s, t = (self.schedule.level(part.ravel()) for part in (times[:, 1:], times[:, :-1]))
        return covariance.step_nats(curve, s, t).reshape(len(grids), -1).sum(1)
