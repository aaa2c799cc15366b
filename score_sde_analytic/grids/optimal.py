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
from typing import Any

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
#: Most turns in which the two ends of a chain are chosen one after the other.
ALTERNATIONS = 50


@dataclass(frozen=True)
class Objective:
    """Bits of a chain as a function of its levels: the prior, optimal transitions up to lam_1, then the reconstruction.

    Attributes:
        curve: R of the network.
        low: log-SNR at t = 1, where the chain starts, or the lowest that lam_K may take.
        high: highest log-SNR that lam_1 may take.
        reconstruction: knots and nats per dimension of the last step as a function of lam_1; None forces
            lam_1 = high, at no cost.
        prior: knots and nats per dimension of the prior as a function of lam_K; None forces lam_K = low, at no cost.
    """

    curve: NoiseCurve
    low: float
    high: float
    reconstruction: tuple[Float64[Array, " m"], Float64[Array, " m"]] | None = None
    prior: tuple[Float64[Array, " p"], Float64[Array, " p"]] | None = None

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

    @cached_property
    def _top(self) -> Callable[..., Array]:
        if self.prior is None:
            return lambda lam, nu=0: np.zeros_like(lam)
        return scipy.interpolate.CubicSpline(*self.prior)

    def top(self, log_snr: ArrayLike) -> Array:
        """Prior term in nats per dimension when lam_K = log_snr."""
        return self._top(as_array(log_snr))

    def law(self, top: Any, first: Any, transitions: float) -> Any:
        """Cost by the step-budget law between fine levels of these indices (inf: the limit), nats per dimension."""
        levels, span = self.levels, self.root_integral[first] - self.root_integral[top]
        ends = self.top(levels[top]) + self.last(levels[first])
        return ends + self.limit[first] - self.limit[top] + span**2 / (4 * transitions)

    def best_ends(self, transitions: float) -> tuple[int, int]:
        """Indices of the fine levels that are the best lam_K and lam_1 for so many transitions, by the step-budget law."""
        every = np.arange(RESOLUTION)
        top, first = 0, RESOLUTION - 1
        if self.prior is not None and self.reconstruction is not None:
            coarse = every[:: RESOLUTION // COARSE]
            table = np.where(coarse[:, None] < coarse, self.law(coarse[:, None], coarse, transitions), np.inf)
            top, first = (int(coarse[i]) for i in np.unravel_index(table.argmin(), table.shape))
        for _ in range(ALTERNATIONS):
            before = top, first
            if self.reconstruction is not None:
                first = top + int(self.law(top, every[top:], transitions).argmin())
            if self.prior is not None:
                top = int(self.law(every[: first + 1], first, transitions).argmin())
            if (top, first) == before:
                break
        return top, first

    def best_first(self, transitions: float) -> int:
        """Index of the fine level that is the best lam_1 for so many transitions, by the step-budget law (inf: the limit)."""
        return self.best_ends(transitions)[1]

    @cached_property
    def continuous_limit(self) -> float:
        """The smallest cost of any number of steps, nats per dimension."""
        return float(self.law(*self.best_ends(math.inf), math.inf))

    @cached_property
    def single(self) -> int:
        """Index of the fine level that is best for one step, from the prior to the data at once."""
        return 0 if self.prior is None else int((self.top(self.levels) + self.last(self.levels)).argmin())

    def cost(self, log_snr: Float64[Array, " K"]) -> float:
        """Cost of ascending levels lam_K, .., lam_1 in nats per dimension."""
        transitions = optimal_step_nats(self.curve.residual(log_snr[:-1]), np.diff(log_snr))
        return float(self.top(log_snr[0]) + transitions.sum() + self.last(log_snr[-1]))

    def gradient(self, log_snr: Float64[Array, " K"]) -> Float64[Array, " K"]:
        """d cost / d lam of every level."""
        r = self.curve.residual(log_snr[:-1])
        h = np.diff(log_snr)
        power = 1.0 + r * np.expm1(h)
        gradient = np.zeros_like(log_snr)
        gradient[1:] += 0.5 * r * np.exp(h) / power
        gradient[:-1] += 0.5 * (self.curve.derivative(log_snr[:-1]) * np.expm1(h) - r * np.exp(h)) / power
        gradient[-1] += self._last(log_snr[-1], 1) if self.reconstruction is not None else 0.0
        gradient[0] += self._top(log_snr[0], 1) if self.prior is not None else 0.0
        return gradient

    def excess_law(self, steps: int) -> float:
        """Predicted excess of K steps over the continuous limit, nats per dimension: I^2 / (4 (K - 1)) at the best ends.

        >>> study.search.objective.excess_law(10)
        0.0668
        """
        if steps < 2:
            return math.inf
        return float(self.law(*self.best_ends(steps - 1), steps - 1)) - self.continuous_limit


def _equal_parts(levels: Array, density: Array, count: int) -> Array:
    """`count` levels from first to last with equal integrals of the density between them, strictly increasing."""
    # Where the density vanishes any spacing is optimal; a trace of uniform density keeps levels apart.
    floor = 1e-3 * density.mean() if density.mean() > 0 else 1.0
    mass = scipy.integrate.cumulative_trapezoid(density + floor, levels, initial=0.0)
    parts = np.interp(np.linspace(0.0, mass[-1], count), mass, levels)
    parts[[0, -1]] = levels[[0, -1]]
    return parts


def _grid(schedule: Schedule, objective: Objective, log_snr: Array, name: str) -> Grid:
    """The grid of ascending levels, from t = 1 where they start as low as they may."""
    times = np.asarray(schedule.time(log_snr), dtype=np.float64)
    if log_snr[0] <= objective.low + 1e-9:
        times[0] = 1.0
    return Grid((*times.tolist(), 0.0), name, objective.cost(log_snr))


def _check(steps: int) -> int:
    return whole(1)("steps", steps)


def closed_form_levels(objective: Objective, steps: int) -> Float64[Array, " {steps}"]:
    """K ascending log-SNRs with density sqrt(w), the ends by the step-budget law.

    >>> closed_form_levels(study.search.objective, steps=5).round(1)
    array([-10. ,   0.3,   1.3,   2.3,   4.1])
    """
    steps = _check(steps)
    if steps == 1:
        return objective.levels[[objective.single]]
    between = _between(objective, steps - 1)
    return _equal_parts(objective.levels[between], objective.root_spread[between], steps)


def _between(objective: Objective, transitions: float) -> slice:
    """The fine levels between the best ends, two at least."""
    top, first = objective.best_ends(transitions)
    return slice(min(top, RESOLUTION - 2), max(first, top + 1) + 1)


def closed_form(schedule: Schedule, objective: Objective, steps: int) -> Grid:
    """Grid with density proportional to sqrt(w); needs no search.

    >>> closed_form(model.schedule, study.search.objective, steps=5).cost
    0.828
    """
    levels = closed_form_levels(objective, steps)
    return _grid(schedule, objective, levels, "bits/dim, closed form")


def refined(schedule: Schedule, objective: Objective, steps: int, start: ArrayLike | None = None) -> Grid:
    """The grid off any lattice that minimises the true cost, by L-BFGS on log-gaps with the exact gradient.

    Args:
        start: K ascending log-SNRs, from `objective.low` where there is no prior. When absent, the descent starts from the
            closed form and from the optimum on a coarse lattice, and the better end is taken. The result is never worse than
            a start.
    """
    starts = _starts(objective, steps) if start is None else [as_array(start)]
    ends = []
    for levels in starts:
        off = objective.prior is None and abs(levels[0] - objective.low) > 1e-6
        if levels.shape != (steps,) or np.any(np.diff(levels) <= 0) or off:
            raise InputError(f"start needs {steps} strictly increasing log-SNRs that begin at {objective.low:.6g}")
        ends += [levels, _descend(objective, levels)] if steps > 1 else [levels]
    best = min(ends, key=objective.cost)
    return _grid(schedule, objective, best, "bits/dim, refined")


def _starts(objective: Objective, steps: int) -> list[Array]:
    starts = [closed_form_levels(objective, steps)]
    if 1 < steps <= COARSE // 4:  # more steps than that leave no local minima to choose from
        lam = np.linspace(objective.high, objective.low, COARSE)
        first = objective.last(lam) if objective.reconstruction is not None else np.where(lam == objective.high, 0.0, np.inf)
        costs = StepCosts(lam, np.clip(objective.curve.residual(lam), 0.0, 1.0))
        top = None if objective.prior is None else objective.top(lam)
        path = shortest_paths(costs, first, steps, top_cost=top).paths[-1]
        starts += [lam[path][::-1]] if len(path) == steps else []
    return starts


def _descend(objective: Objective, start: Array) -> Array:
    """Gaps h_i > 0 are exp(u_i); with lam_1 fixed they are rescaled to its span, else the whole is kept below `high`.

    lam_K is a variable beside them where there is a prior.
    """
    fixed = objective.reconstruction is None
    highest = start[-1] if fixed else objective.high
    free = [] if objective.prior is None else [(objective.low, highest - 1e-3 * (highest - objective.low))]

    def levels(variables: Array) -> Array:
        u, top = variables[: len(start) - 1], variables[-1] if free else start[0]
        gaps = np.exp(u - u.max())
        total = highest - top if fixed else min(np.exp(u.max()) * gaps.sum(), highest - top)
        return top + np.concatenate([[0.0], np.cumsum(total * gaps / gaps.sum())])

    def value_and_gradient(variables: Array) -> tuple[float, Array]:
        lam = levels(variables)
        gaps = np.diff(lam)
        # d lam_i / d h_j = 1 for j <= i.
        by_level = objective.gradient(lam)
        by_gap = np.cumsum(by_level[:0:-1])[::-1]
        gradient, shift = by_gap * gaps, by_level.sum()
        capped = fixed or lam[-1] >= highest * (1 - 1e-15)
        if capped:  # lengthening one gap shortens the others, as does a higher top
            shift = by_level.sum() - gradient.sum() / gaps.sum()
            gradient = gradient - gaps / gaps.sum() * gradient.sum()
        return objective.cost(lam), np.append(gradient, shift) if free else gradient

    result = scipy.optimize.minimize(
        value_and_gradient,
        np.concatenate([np.log(np.diff(start)), start[: len(free)]]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None)] * (len(start) - 1) + free,
        options={"maxiter": 2000, "ftol": 1e-14},
    )
    return levels(result.x)


def entropic(schedule: Schedule, objective: Objective, steps: int) -> Grid:
    """Equal information per transition: levels that share integral R dlam evenly, between the limit's best ends.

    >>> entropic(model.schedule, study.search.objective, steps=5).cost
    1.035
    """
    steps = _check(steps)
    levels = objective.levels[[objective.single]]
    if steps > 1:
        between = objective.levels[_between(objective, math.inf)]
        levels = _equal_parts(between, objective.curve.residual(between), steps)
    return _grid(schedule, objective, levels, "equal information per step")


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
    top, first = objective.best_ends(math.inf)
    span = float(objective.root_integral[first] - objective.root_integral[top])
    steps = 1.0 + span**2 / (4.0 * _positive(excess))
    if not math.isfinite(steps):
        raise InputError(f"an excess of {excess:g} takes more steps than can be counted; allow more")
    return steps
