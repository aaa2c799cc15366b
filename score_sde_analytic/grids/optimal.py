"""Grids from the curve in closed form and by continuous refinement, and the step budgets that follow.

A step of size h in log-SNR costs w h^2 / 4 nats per dimension more than the continuous limit 1/2 integral R dlam, with

    w(lam) = Lambda R dy/dlam >= 0        the spread of the posterior's eigenvalues

so that, as the number n of transitions grows, the best knots have density proportional to sqrt(w) and

    excess = I^2 / (4 n),   I = integral sqrt(w) dlam.

Other objectives: equal information per step (entropic time), d I(x_0; x_t) / d lam = R / 2 per dimension; and KLUB, the path
KL of the SDE sampler whose x0_hat is frozen over a step. With an exact score x0_hat is a martingale along the reverse process:

    KLUB(s, t) = 1/2 [R_t (exp(lam_s - lam_t) - 1) - integral of R dlam],

which is the cost of a step with variance beta-tilde less its continuous limit: the curve suffices, and its optimal grid is that
of `BetaTilde`. (Guo, Shamai & Verdu, 2005, for the information; Sabour et al., Align Your Steps, 2024, for KLUB.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.checks import number, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.dynamic import StepCosts, shortest_paths
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.process.kernel import optimal_step_nats
from score_sde_analytic.process.schedule import Schedule

#: Points of the tabulated integrals.
RESOLUTION = 20_001
#: Points of the lattice whose optimum is a starting point of the refinement.
COARSE = 400


@dataclass(frozen=True)
class Objective:
    """Bits of a chain as a function of its levels: optimal transitions from `low` up to lam_1, then the reconstruction.

    Attributes:
        curve: R of the network.
        low: log-SNR at t = 1, where the chain starts.
        high: highest log-SNR that lam_1 may take.
        reconstruction: knots and nats per dimension of the last step as a function of lam_1; None forces
            lam_1 = high, at no cost.
    """

    curve: NoiseCurve
    low: float
    high: float
    reconstruction: tuple[Float64[Array, " m"], Float64[Array, " m"]] | None = None

    def __post_init__(self) -> None:
        self.curve.require_price()
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"need finite log-SNRs low < high, got {self.low} and {self.high}")

    @cached_property
    def levels(self) -> Float64[Array, " points"]:
        """Fine log-SNRs from low to high."""
        return np.linspace(self.low, self.high, RESOLUTION)

    def _integral(self, values: Array) -> Array:
        return scipy.integrate.cumulative_trapezoid(values, self.levels, initial=0.0)

    @cached_property
    def limit(self) -> Float64[Array, " points"]:
        """1/2 integral of R from low to each fine level: the transitions' cost with infinitely many steps."""
        return 0.5 * self._integral(self.curve.residual(self.levels))

    @cached_property
    def root_spread(self) -> Float64[Array, " points"]:
        """sqrt(w) at the fine levels."""
        return np.sqrt(self.curve.spread(self.levels))

    @cached_property
    def root_integral(self) -> Float64[Array, " points"]:
        """I, the integral of sqrt(w) from low to each fine level."""
        return self._integral(self.root_spread)

    @cached_property
    def _last(self) -> Callable[..., Array]:
        if self.reconstruction is None:
            return lambda lam, nu=0: np.zeros_like(lam)
        return scipy.interpolate.CubicSpline(*self.reconstruction)

    def last(self, log_snr: ArrayLike) -> Array:
        """Reconstruction term in nats per dimension when lam_1 = log_snr."""
        return self._last(as_array(log_snr))

    def best_first(self, transitions: float) -> int:
        """Index of the fine level that is the best lam_1 for so many transitions, by the step-budget law (inf: the limit)."""
        if self.reconstruction is None:
            return RESOLUTION - 1
        total = self.limit + self.root_integral**2 / (4 * transitions) + self.last(self.levels)
        return int(total.argmin())

    @cached_property
    def continuous_limit(self) -> float:
        """The smallest cost of any number of steps, nats per dimension."""
        first = self.best_first(math.inf)
        return float(self.limit[first] + self.last(self.levels[first]))

    def cost(self, log_snr: Float64[Array, " K"]) -> float:
        """Cost of ascending levels lam_K = low, .., lam_1 in nats per dimension."""
        transitions = optimal_step_nats(self.curve.residual(log_snr[:-1]), np.diff(log_snr))
        return float(transitions.sum() + self.last(log_snr[-1]))

    def gradient(self, log_snr: Float64[Array, " K"]) -> Float64[Array, " K"]:
        """d cost / d lam of every level."""
        r = self.curve.residual(log_snr[:-1])
        h = np.diff(log_snr)
        power = 1.0 + r * np.expm1(h)
        gradient = np.zeros_like(log_snr)
        gradient[1:] += 0.5 * r * np.exp(h) / power
        gradient[:-1] += 0.5 * (self.curve.derivative(log_snr[:-1]) * np.expm1(h) - r * np.exp(h)) / power
        gradient[-1] += self._last(log_snr[-1], 1) if self.reconstruction is not None else 0.0
        return gradient

    def excess_law(self, steps: int) -> float:
        """Predicted excess of K steps over the continuous limit, nats per dimension: I^2 / (4 (K - 1)) at the best lam_1.

        >>> study.search.objective.excess_law(10)
        0.0668
        """
        if steps < 2:
            return math.inf
        first = self.best_first(steps - 1)
        law = self.limit[first] + self.root_integral[first] ** 2 / (4 * (steps - 1)) + self.last(self.levels[first])
        return float(law) - self.continuous_limit


def _equal_parts(levels: Array, density: Array, count: int) -> Array:
    """`count` levels from first to last with equal integrals of the density between them, strictly increasing."""
    # Where the density vanishes any spacing is optimal; a trace of uniform density keeps levels apart.
    floor = 1e-3 * density.mean() if density.mean() > 0 else 1.0
    mass = scipy.integrate.cumulative_trapezoid(density + floor, levels, initial=0.0)
    parts = np.interp(np.linspace(0.0, mass[-1], count), mass, levels)
    parts[[0, -1]] = levels[[0, -1]]
    return parts


def _grid(schedule: Schedule, log_snr: Array, name: str, cost: float) -> Grid:
    """The grid of ascending levels that start at t = 1."""
    times = np.asarray(schedule.time(log_snr), dtype=np.float64)
    times[0] = 1.0
    return Grid((*times.tolist(), 0.0), name, cost)


def _check(steps: int) -> int:
    return whole(1)("steps", steps)


def closed_form_levels(objective: Objective, steps: int) -> Float64[Array, " {steps}"]:
    """K ascending log-SNRs with density sqrt(w), lam_1 by the step-budget law.

    >>> closed_form_levels(study.search.objective, steps=5).round(1)
    array([-10. ,   0.3,   1.3,   2.3,   4.1])
    """
    steps = _check(steps)
    if steps == 1:
        return np.array([objective.low])
    first = max(objective.best_first(steps - 1), 1) + 1
    return _equal_parts(objective.levels[:first], objective.root_spread[:first], steps)


def closed_form(schedule: Schedule, objective: Objective, steps: int) -> Grid:
    """Grid with density proportional to sqrt(w); needs no search.

    >>> closed_form(model.schedule, study.search.objective, steps=5).cost
    0.828
    """
    levels = closed_form_levels(objective, steps)
    return _grid(schedule, levels, "bits/dim, closed form", objective.cost(levels))


def refined(schedule: Schedule, objective: Objective, steps: int, start: ArrayLike | None = None) -> Grid:
    """The grid off any lattice that minimises the true cost, by L-BFGS on log-gaps with the exact gradient.

    Args:
        start: K ascending log-SNRs from `objective.low`. When absent, the descent starts from the closed form and from the
            optimum on a coarse lattice, and the better end is taken. The result is never worse than a start.
    """
    starts = _starts(objective, steps) if start is None else [as_array(start)]
    ends = []
    for levels in starts:
        if levels.shape != (steps,) or np.any(np.diff(levels) <= 0) or abs(levels[0] - objective.low) > 1e-6:
            raise InputError(f"start needs {steps} strictly increasing log-SNRs that begin at {objective.low:.6g}")
        ends += [levels, _descend(objective, levels)] if steps > 1 else [levels]
    best = min(ends, key=objective.cost)
    return _grid(schedule, best, "bits/dim, refined", objective.cost(best))


def _starts(objective: Objective, steps: int) -> list[Array]:
    starts = [closed_form_levels(objective, steps)]
    if 1 < steps <= COARSE // 4:  # more steps than that leave no local minima to choose from
        lam = np.linspace(objective.high, objective.low, COARSE)
        first = objective.last(lam) if objective.reconstruction is not None else np.where(lam == objective.high, 0.0, np.inf)
        costs = StepCosts(lam, np.clip(objective.curve.residual(lam), 0.0, 1.0))
        path = shortest_paths(costs, first, steps).paths[-1]
        starts += [lam[path][::-1]] if len(path) == steps else []
    return starts


def _descend(objective: Objective, start: Array) -> Array:
    """Gaps h_i > 0 are exp(u_i); with lam_1 fixed they are rescaled to its span, else the whole is kept below `high`."""
    span = start[-1] - objective.low
    fixed = objective.reconstruction is None

    def levels(u: Array) -> Array:
        gaps = np.exp(u - u.max())
        total = span if fixed else min(np.exp(u.max()) * gaps.sum(), objective.high - objective.low)
        return objective.low + np.concatenate([[0.0], np.cumsum(total * gaps / gaps.sum())])

    def value_and_gradient(u: Array) -> tuple[float, Array]:
        lam = levels(u)
        gaps = np.diff(lam)
        # d lam_i / d h_j = 1 for j <= i.
        by_gap = np.cumsum(objective.gradient(lam)[:0:-1])[::-1]
        gradient = by_gap * gaps
        capped = fixed or lam[-1] >= objective.high * (1 - 1e-15)
        if capped:  # lengthening one gap shortens the others
            gradient = gradient - gaps / gaps.sum() * gradient.sum()
        return objective.cost(lam), gradient

    result = scipy.optimize.minimize(
        value_and_gradient, np.log(np.diff(start)), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-14}
    )
    return levels(result.x)


def entropic(schedule: Schedule, objective: Objective, steps: int) -> Grid:
    """Equal information per transition: levels that share integral R dlam evenly, up to the limit's best lam_1.

    >>> entropic(model.schedule, study.search.objective, steps=5).cost
    1.035
    """
    steps = _check(steps)
    levels = np.array([objective.low])
    if steps > 1:
        below = objective.levels[: max(objective.best_first(math.inf), 1) + 1]
        levels = _equal_parts(below, objective.curve.residual(below), steps)
    return _grid(schedule, levels, "equal information per step", objective.cost(levels))


def _positive(excess: float) -> float:
    # The limit itself takes infinitely many steps.
    return number(above=0)("the excess", excess)


def steps_for(excess: float, costs: ArrayLike, limit: float) -> int | None:
    """The fewest steps whose cost is within `excess` of the limit, None if no entry is.

    Args:
        excess: nats per dimension, positive.
        costs: optimal costs of K = 1, 2, .. steps.
        limit: `Objective.continuous_limit`.

    Raises:
        InputError: excess is not positive.

    >>> steps_for(0.05, costs=[0.9, 0.6, 0.52], limit=0.5)
    3
    """
    limit = number()("limit", limit)
    within = np.flatnonzero(as_array(costs) - limit <= _positive(excess))
    return int(within[0]) + 1 if len(within) else None


def budget_law(objective: Objective, excess: float) -> float:
    """K = 1 + I^2 / (4 excess), the step budget without any search; excess in nats per dimension.

    Raises:
        InputError: excess is not positive.

    >>> budget_law(study.search.objective, excess=0.05)
    13.2
    """
    steps = 1.0 + float(objective.root_integral[objective.best_first(math.inf)]) ** 2 / (4.0 * _positive(excess))
    if not math.isfinite(steps):
        raise InputError(f"an excess of {excess:g} takes more steps than can be counted; allow more")
    return steps
