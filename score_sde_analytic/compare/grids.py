"""Grids of every name that end at the same first time, from which every solver steps to the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.study import CovarianceName, GridName, Study, few
from score_sde_analytic.study.names import DP, GRIDS

#: What tables say of a grid.
ABOUT = {
    "log_snr": "even in log-SNR",
    "dp": "optimal for a chain of so many steps, by dynamic programming",
    "karras": "Karras, rho = 7",
    "even": "even in t",
    "quadratic": "even in sqrt(t)",
    "best": "of even log-SNR and Karras, rho = 7 and 20, each with several first times, the best for the solver and K: chosen"
    " on the main metric itself, on the samples that are reported",
    "interval": "the solver's own steps from where all begin to the first time",
    "own": "the solver's own times, from its own start",
}


@dataclass(frozen=True, eq=False)
class SharedGrids:
    """Grids by name and number of steps.

    Attributes:
        study: the measured network.
        covariance: for which "dp" is optimal.
        most: steps of the longest grid by dynamic programming.
        log_snr_max: of the first time; 0 for the one that is best for infinitely many steps.
        start: a Gaussian that samples start from; None for the prior at t = 1.
    """

    study: Study
    covariance: CovarianceName
    most: int
    log_snr_max: float = 0.0
    start: LinearDenoiser | None = None

    @cached_property
    def top(self) -> float:
        """Where grids of all names but "dp" begin: that takes the best time for the Gaussian."""
        return 1.0 if self.start is None else few.top_time(self.study, self.start)

    @cached_property
    def first(self) -> float:
        """t_1 of all solvers and grids."""
        if self.log_snr_max:
            return float(self.study.schedule.time(self.log_snr_max))
        return self.study.search.first

    def __call__(self, name: GridName, steps: int) -> Grid:
        """The times of so many steps; those of tuned and other grids are the study's, with a first time of their own.

        Raises:
            InputError: no such grid of so many steps.
        """
        if (name, steps) not in self._made:
            self._made[name, steps] = self._make(name, steps)
        return self._made[name, steps]

    def _make(self, name: GridName, steps: int) -> Grid:
        if steps == 1:
            return Grid((self.top, 0.0))
        if name == GridName(DP):
            return self._best(steps)
        if name.fixed:
            return GRIDS[name.kind](self.study.schedule, steps, self.first, top=self.top)
        return self.study.grid(steps, name, self.covariance, self.start)

    def _best(self, steps: int) -> Grid:
        if steps not in self._optimal:
            raise InputError(f"no grid of {steps} steps ends at t = {self.first:.4g}; ask for fewer, or search more levels")
        return self._optimal[steps]

    @cached_property
    def _optimal(self) -> dict[int, Grid]:
        """Grids by dynamic programming that end at t_1."""
        schedule = self.study.schedule
        points = self.study.settings.search.points
        lattice = Lattice.even_log_snr(schedule, points, schedule.log_snr(self.first))
        lattice.times[0] = self.first
        only_there = np.where(np.arange(points) == 0, 0.0, np.inf)
        covariance = self.study.covariance(self.covariance)
        objective = f"transitions with {self.covariance}"
        tops = None if self.start is None else self.start.prior_price(lattice.log_snr)[0]
        return lattice.optimal_grids(self.study.curve, covariance, only_there, self.most, objective, top_cost=tops)

    @cached_property
    def _made(self) -> dict[tuple[GridName, int], Grid]:
        return {}
