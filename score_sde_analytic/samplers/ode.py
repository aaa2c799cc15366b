"""The probability-flow ODE as a sampler, by torchdiffeq's solvers, in any of three variables (`models/probability_flow.py`).

Fixed steps follow the grid: one step of the solver from each time to the next, down to t_1. Adaptive solvers take the grid's
first time and t_1 as their interval and choose steps themselves. Either ends in data by x0_hat at t_1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import slices
from score_sde_analytic.checks import flag, one_of, settle
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import FIXED, Adaptive, Fixed
from score_sde_analytic.models.probability_flow import clock_of, transport
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step, intervals

Variable = Literal["log_snr", "t", "ve"]
VARIABLE = one_of(get_args(Variable))
#: Evaluations of the field per step.
STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


def whole(steps: list[Step]) -> list[Step]:
    """The interval of an adaptive solver, and the step to the data."""
    return steps if len(steps) < 2 else [Step(steps[0].t, steps[-1].t), steps[-1]]


@dataclass(frozen=True)
class ProbabilityFlow(Sampler[Step]):
    """dx/dt = f x - g^2 score / 2 (Song et al., ICLR 2021, eq. 13). Needs the extra "ode".

    On K steps a fixed solver of m stages makes m (K - 1) + 1 network calls. Euler's method in "ve" is DDIM.

    >>> from score_sde_analytic import grids
    >>> [ProbabilityFlow(model, solver).calls(grids.even(10, 0.01)) for solver in ("euler", "rk4", Adaptive())]
    [10, 37, None]

    Args:
        model: the score model.
        solver: torchdiffeq's "euler", "midpoint", "heun2", "heun3" or "rk4", one step per interval of the grid; or
            `Adaptive(rtol, atol)`.
        variable: integrate in "log_snr" (alike for every schedule), "t", or "ve" (sigma / alpha).
        per_sample: an adaptive solver chooses steps for each sample alone, in network calls of one sample, so that a sample
            does not depend on its batch. False: one sequence of steps for the batch, fewer and larger calls.
    """

    model: ScoreModel
    solver: str | Adaptive = "euler"
    variable: Annotated[Variable, VARIABLE] = "log_snr"
    per_sample: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)
        if not isinstance(self.solver, Adaptive) and self.solver not in FIXED:
            raise InputError(f"solver must be Adaptive(...) or one of {', '.join(FIXED)}, got {self.solver!r}")

    def calls(self, grid: Grid) -> int | None:
        return None if isinstance(self.solver, Adaptive) else STAGES[self.solver] * (grid.steps - 1) + 1

    def plan(self, grid: Grid) -> list[Step]:
        steps = intervals(self.model.schedule, grid)
        return whole(steps) if isinstance(self.solver, Adaptive) else steps

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: Step, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        if step.last:
            return self.model.predict(x_t, step.t).x_0, state
        rows = 1 if isinstance(self.solver, Adaptive) and self.per_sample else len(x_t)
        return torch.cat([self._solve(self.model.rows(p), x_t[p], step) for p in slices(len(x_t), rows)]), state

    def _solve(self, model: ScoreModel, x_t: Tensor, step: Step) -> Tensor:
        clock = clock_of(self.variable, model.schedule)
        span = clock.value(step.t), clock.value(step.s)
        solver = self.solver if isinstance(self.solver, Adaptive) else Fixed(1, self.solver)
        # From the prior down, the field is of order one over a tenth of the interval.
        first_step = 0.1 * abs(span[1] - span[0])
        return transport(model, clock, x_t.double(), span, solver, first_step, x_t.dtype, len(x_t)).to(x_t.dtype)
