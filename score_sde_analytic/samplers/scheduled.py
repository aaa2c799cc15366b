"""diffusers' own schedulers, driven at the real times of a grid.

The schedulers work in variance-preserving coordinates u = x / sqrt(alpha^2 + sigma^2) and know a level by sigma / alpha. After
`set_timesteps` their table of these is replaced by the grid's, so that any schedule and any real times fit; the model is asked
at the exact level, and hands them x0_hat. Each run has a scheduler of its own, which is the run's state.

A step from pure noise is the flow's own; the scheduler, to whose logarithms it is infinitely far away, begins after it.

The step to the data is x0_hat: what the schedulers' own step to sigma = 0 gives, save where that is 0 / 0, or an extrapolation.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.extras import optional
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step, from_noise, intervals


class Scheduled(Sampler[Step]):
    """K network calls on K steps."""

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def plan(self, grid: Grid) -> list[Step]:
        return intervals(self.model.schedule, grid)

    @abstractmethod
    def scheduler(self) -> Any:
        """A new scheduler that takes x0_hat."""

    def init(self, plan: Sequence[Step], x: Float[Tensor, " batch *dims"]) -> Any:
        plan = plan[1:] if plan[0].t.pure_noise and len(plan) > 1 else plan
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # of numpy, to diffusers
            scheduler = self.scheduler()
            scheduler.set_timesteps(len(plan))
        scheduler.timesteps = torch.arange(len(plan), 0, -1)
        self.place(scheduler, plan)
        scheduler.set_begin_index(0)
        return scheduler

    def place(self, scheduler: Any, plan: Sequence[Step]) -> None:
        """Let the scheduler's table of levels be the grid's."""
        scheduler.sigmas = torch.tensor([step.t.ratio for step in plan] + [0.0], dtype=torch.float64)

    def output(self, prediction: Prediction) -> Float[Tensor, " batch *dims"]:
        """What the scheduler takes for the network's output."""
        return prediction.x_0

    def options(self, state: Any, x_t: Float[Tensor, " batch *dims"], noise: Noise) -> dict[str, Any]:
        """What else its step is told."""
        return {}

    def ends(self, step: Step) -> bool:
        """Whether a step gives x0_hat."""
        return step.last

    def leave_noise(self, prediction: Prediction, s: Level, noise: Noise) -> Float[Tensor, " batch *dims"]:
        """The step from pure noise."""
        return from_noise(prediction, s)

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: Step, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        prediction = self.model.predict(x_t, step.t)
        if self.ends(step):
            return prediction.x_0, state
        if step.t.pure_noise:
            return self.leave_noise(prediction, step.s, noise), state
        options = self.options(state, x_t, noise)
        index = state.timesteps[state.step_index or 0]
        (u,) = state.step(self.output(prediction), index, x_t / step.t.norm, return_dict=False, **options)
        return u * step.s.norm, state


def diffusers(name: str) -> Any:
    """A class of diffusers, which takes seconds to import.

    Raises:
        MissingExtraError: without the extra "images".
    """
    return getattr(optional("diffusers", extra="images", user=name), name)
