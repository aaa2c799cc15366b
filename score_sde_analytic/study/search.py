"""Grids by name, for one measured network: fixed, from the curve, by dynamic programming, or read from a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.grids.optimal import Objective
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.last_step import LastStep
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.study.names import DP, FROM_CURVE, GRIDS, KLUB, CovarianceName, GridName
from score_sde_analytic.study.settings import Search


@dataclass(frozen=True, eq=False)
class GridSearch:
    """Where to put the steps, and what that is expected to cost.

    Attributes:
        schedule: of the model.
        moments: that price steps.
        curve: R of the network's own mean.
        last_step: what ends the chains.
        settings: where times may lie.
        made: grids by dynamic programming that were found before; more are added as they are asked for.
        prior: a free model of the data, from which optimal grids may begin at any level; None begins all at `begin`.
        begin: the time where optimal grids begin, below 1 for those of samples from examples.

    >>> study.search.lattice.times.shape, study.search.first
    ((1000,), 0.00116)
    """

    schedule: Schedule
    moments: Moments
    curve: NoiseCurve
    last_step: LastStep
    settings: Search
    made: dict[CovarianceName, dict[int, Grid]] = field(default_factory=dict)
    prior: FreeModel | None = None
    begin: float = 1.0

    @cached_property
    def lattice(self) -> Lattice:
        """The fine levels that are searched, up to where grids begin."""
        every = self._every_level()
        if self.begin == 1.0:
            return every
        return Lattice(self.schedule, np.append(every.times[every.times < self.begin], self.begin))

    def _every_level(self) -> Lattice:
        settings = self.settings
        if not settings.table:
            return Lattice.even_log_snr(self.schedule, settings.points, settings.log_snr_max)
        times = np.arange(1, settings.table + 1) / settings.table
        return Lattice(self.schedule, times[self.schedule.log_snr(times) <= settings.log_snr_max])

    @cached_property
    def first_cost(self) -> Float64[Array, " n"]:
        """Nats per dimension of the last step from every level of the lattice."""
        return self._last_cost(self.moments, self.lattice.log_snr)

    @cached_property
    def top_cost(self) -> Float64[Array, " n"] | None:
        """Nats per dimension of the prior at every level of the lattice; None for the usual one, at t = 1 alone."""
        return None if self.prior is None else self.prior.prior_price(self.lattice.log_snr)[0]

    def _last_cost(self, moments: Moments, log_snr: Array) -> Array:
        return self.last_step.nats(Reconstruction.of(moments), log_snr)

    def objective_of(self, moments: Moments) -> Objective:
        """The cost of chains with the optimal isotropic variance, priced by these moments."""
        # Pure noise costs what the level before it does, and stands at its place.
        kept = slice(None, -1 if self.schedule.ends_in_noise else None)
        log_snr = self.lattice.log_snr[kept][::-1]
        last = (log_snr, self._last_cost(moments, log_snr)) if self.last_step.comparable else None
        prior = None if self.top_cost is None else (log_snr, self.top_cost[kept][::-1])
        return Objective(NoiseCurve.fit(moments, warn=False), float(log_snr[0]), float(log_snr[-1]), last, prior)

    @cached_property
    def objective(self) -> Objective:
        """The cost priced by the study's own moments."""
        return self.objective_of(self.moments)

    @cached_property
    def first(self) -> float:
        """t_1 that is best for infinitely many steps: where the continuous bound and the flow begin."""
        return float(self.schedule.time(self.objective.levels[self.objective.best_first(math.inf)]))

    @cached_property
    def top(self) -> float:
        """Where the continuous bound begins: t = 1, or what is best for infinitely many steps with the prior."""
        index = self.objective.best_ends(math.inf)[0]
        return float(self.schedule.time(self.objective.levels[index])) if index > 0 else 1.0

    def costs(self, moments: Moments, most: int) -> Float64[Array, " {most}"]:
        """Nats per dimension of the best grids of 1 .. `most` steps, with the optimal isotropic variance of these moments."""
        curve = NoiseCurve.fit(moments, warn=False)
        first = self._last_cost(moments, self.lattice.log_snr)
        grids = self.lattice.optimal_grids(curve, Isotropic(curve), first, most, top_cost=self.top_cost)
        return np.array([grids[k].cost if k in grids else math.inf for k in range(1, most + 1)])

    def grid(self, name: GridName, covariance: Covariance, label: CovarianceName, steps: int) -> Grid:
        """A grid by name, from t = 1, or the prior's best level where it is optimal, to the search's first time.

        Args:
            covariance, label: for which "dp" and tuned grids are optimal; others do not depend on it.

        Raises:
            InputError: no price is known for the covariance, no grid of so many steps exists, or the file holds another.
        """
        if name.file is not None:
            return _read(name, steps)
        if name.kind in FROM_CURVE:
            return FROM_CURVE[name.kind](self.schedule, self.objective, steps)
        if name.kind == KLUB:
            return replace(
                self._optimal(BetaTilde(), CovarianceName("beta_tilde"), steps), objective="KLUB: dp with beta_tilde"
            )
        if name.optimised and not covariance.priced:
            choices = ", ".join([*FROM_CURVE, *GRIDS])
            raise InputError(
                f"no curve prices the covariance {str(label)!r}, as grid {str(name)!r} needs; choose one of {choices}"
            )
        if name.kind not in GRIDS:
            return self._optimal(covariance, label, steps)
        make = partial(GRIDS[name.kind], self.schedule, steps)
        if name.tuned:
            return self.lattice.best_first(make, self.curve, covariance, self.first_cost)
        return make(float(self.lattice.times[0]))

    def grid_from(self, log_snr: float, name: GridName, covariance: Covariance, label: CovarianceName, steps: int) -> Grid:
        """So many steps from a level to data, as of samples from examples: optimal for the covariance, or even in some measure.

        Raises:
            InputError: a kind of grid that begins at t = 1 alone; or as `grid`.
        """
        t = float(self.schedule.time(log_snr))
        if name.file is None and name.kind in (DP, KLUB):
            settings = replace(self.settings, most=1)  # what is asked for, and not more
            below = replace(self, begin=t, prior=None, settings=settings, made={})
            return below.grid(name, covariance, label, steps)
        if name.file is None and name.kind in GRIDS and not name.tuned:
            return GRIDS[name.kind](self.schedule, steps, float(self.lattice.times[0]), top=t)
        choices = ", ".join((DP, KLUB, *GRIDS))
        raise InputError(f"the grid {str(name)!r} begins at t = 1; for samples from examples choose one of {choices}")

    def _optimal(self, covariance: Covariance, label: CovarianceName, steps: int) -> Grid:
        if steps not in self.made.get(label, {}):
            most = min(max(steps, self.settings.most), len(self.lattice.times))
            names = f"bits/dim with {label}", self.settings.min_spacing, self.top_cost
            self.made[label] = self.lattice.optimal_grids(self.curve, covariance, self.first_cost, most, *names)
        if steps not in self.made[label]:
            raise InputError(f"no grid of {steps} steps fits the lattice; search more levels, or allow a smaller spacing")
        return self.made[label][steps]


def _read(name: GridName, steps: int) -> Grid:
    grid = Grid.load(str(name.file))
    if grid.steps != steps:
        raise InputError(f"{name.file} has {grid.steps} steps, not {steps}; ask for that many steps")
    return grid
