"""DPM-Solver++, SDE-DPM-Solver++ and UniPC: diffusers' own schedulers, driven at the real times of a grid.

The schedulers work in variance-preserving coordinates u = x / sqrt(alpha^2 + sigma^2) and know a level by sigma / alpha. After
`set_timesteps` their table of these is replaced by the grid's, so that any schedule and any real times fit; the model is asked
at the exact level, and hands them x0_hat. Each run has a scheduler of its own, which is the run's state.

The step to the data is x0_hat: what the schedulers' own step to sigma = 0 gives, save where that is 0 / 0 ("bh1").
(Lu et al., DPM-Solver++, 2022; Zhao et al., UniPC, NeurIPS 2023.)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import flag, one_of, settle, whole
from score_sde_analytic.extras import optional
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step, intervals


class _Scheduled(Sampler[Step]):
    """K network calls on K steps; deterministic unless `noisy`."""

    noisy: bool = False

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def plan(self, grid: Grid) -> list[Step]:
        return intervals(self.model.schedule, grid)

    @abstractmethod
    def scheduler(self) -> Any:
        """A new scheduler that takes x0_hat."""

    def init(self, plan: Sequence[Step], x: Float[Tensor, " batch *dims"]) -> Any:
        scheduler = self.scheduler()
        scheduler.set_timesteps(len(plan))
        scheduler.timesteps = torch.arange(len(plan), 0, -1)
        scheduler.sigmas = torch.tensor([step.t.ratio for step in plan] + [0.0], dtype=torch.float64)
        scheduler.set_begin_index(0)
        return scheduler

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: Step, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        x_0 = self.model.predict(x_t, step.t).x_0
        if step.last:
            return x_0, state
        t, s = (math.hypot(level.alpha, level.sigma) for level in (step.t, step.s))
        options = {"variance_noise": noise.draw(x_t)} if self.noisy else {}
        index = state.timesteps[state.step_index or 0]
        (u,) = state.step(x_0, index, x_t / t, return_dict=False, **options)
        return u * s, state


@dataclass(frozen=True)
class DPMSolverPP(_Scheduled):
    """DPM-Solver++ multistep of order 1 (DDIM), 2 (2M) or 3 (3M); SDE-DPM-Solver++ if `noisy`. Needs the extra "images".

    Args:
        model: the score model.
        order: order of the multistep extrapolation of x0_hat.
        noisy: solve the reverse SDE instead of the ODE.
        solver_type: "midpoint" or "heun" for the second-order term.
        lower_order_final: below 15 steps, take the last steps at lower order.
    """

    model: ScoreModel
    order: Annotated[int, whole(1, 3)] = 2
    noisy: Annotated[bool, flag()] = False
    solver_type: Annotated[Literal["midpoint", "heun"], one_of(("midpoint", "heun"))] = "midpoint"
    lower_order_final: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def scheduler(self) -> Any:
        return _diffusers("DPMSolverMultistepScheduler")(
            solver_order=self.order,
            algorithm_type="sde-dpmsolver++" if self.noisy else "dpmsolver++",
            solver_type=self.solver_type,
            lower_order_final=self.lower_order_final,
            prediction_type="sample",
        )


@dataclass(frozen=True)
class UniPC(_Scheduled):
    """UniPC of order 1, 2 or 3: a predictor and a corrector that share each network call. Needs the extra "images".

    Args:
        model: the score model.
        order: order p of the predictor; with the corrector the method has order p + 1.
        solver_type: "bh1" or "bh2", the function B(h).
        lower_order_final: at order 3, take the last step before the data at order 2; nothing at lower orders.
    """

    model: ScoreModel
    order: Annotated[int, whole(1, 3)] = 2
    solver_type: Annotated[Literal["bh1", "bh2"], one_of(("bh1", "bh2"))] = "bh2"
    lower_order_final: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def scheduler(self) -> Any:
        return _diffusers("UniPCMultistepScheduler")(
            solver_order=self.order,
            solver_type=self.solver_type,
            lower_order_final=self.lower_order_final,
            prediction_type="sample",
        )


def _diffusers(name: str) -> Any:
    # Importing diffusers takes seconds.
    return getattr(optional("diffusers", extra="images", user=name), name)
