"""EDM's samplers: Heun's method with optional churn, in VE coordinates u = x / alpha, s = sigma / alpha (any schedule).

    s_hat = s (1 + gamma),   u_hat = u + sqrt(s_hat^2 - s^2) S_noise z       noise is added ...
    u'    = u_hat + (s_next - s_hat) eps_hat(u_hat)                           ... and removed by an Euler step
    u     = u_hat + (s_next - s_hat) (eps_hat(u_hat) + eps_hat(u')) / 2       corrected, unless it ends in data

(Karras et al., NeurIPS 2022, algorithm 2; algorithm 1 without churn.) The step to the data is Euler's: x0_hat; so is one from
pure noise, where u and s are infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import number, settle
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step, from_noise


@dataclass(frozen=True, slots=True)
class ChurnStep(Step):
    """A step that first rises to the level `hat`; noise is 0 where it does not."""

    hat: Level
    noise: float


@dataclass(frozen=True)
class Heun(Sampler[ChurnStep]):
    """2 K - 1 network calls on K steps.

    >>> from score_sde_analytic import grids
    >>> Heun(model).calls(grids.even(10, 0.01))
    19

    Args:
        model: the score model.
        s_churn: total amount of noise put back, in units of K gamma; 0 solves the ODE.
        s_min, s_max: levels sigma / alpha between which noise is added.
        s_noise: its scale; slightly above 1 it makes up for detail that networks remove.

    gamma = min(s_churn / K, sqrt(2) - 1), and less where s_hat would exceed the schedule's sigma / alpha at t = 1.
    """

    model: ScoreModel
    s_churn: Annotated[float, number(0)] = 0.0
    s_min: Annotated[float, number(0)] = 0.0
    s_max: Annotated[float, number(0, math.inf)] = math.inf
    s_noise: Annotated[float, number(0)] = 1.0

    def __post_init__(self) -> None:
        settle(self)
        if not self.s_min <= self.s_max:
            raise InputError(
                "need s_churn >= 0, s_noise >= 0 and 0 <= s_min <= s_max, got"
                f" {self.s_churn}, {self.s_noise}, {self.s_min}, {self.s_max}"
            )

    def calls(self, grid: Grid) -> int:
        uncorrected = grid.steps > 1 and self.model.schedule.level(grid.times[0]).pure_noise
        return 2 * grid.steps - 1 - uncorrected

    def plan(self, grid: Grid) -> list[ChurnStep]:
        return [self._churn(t, s, grid.steps) for t, s in pairwise(grid.levels(self.model.schedule))]

    def _churn(self, t: Level, s: Level, steps: int) -> ChurnStep:
        if t.pure_noise:
            return ChurnStep(t, s, t, 0.0)
        level = t.ratio
        gamma = min(self.s_churn / steps, math.sqrt(2.0) - 1.0) if self.s_min <= level <= self.s_max else 0.0
        lowest = self.model.schedule.log_snr_range[0]
        log_snr = max(t.log_snr - 2.0 * math.log1p(gamma), lowest)
        if log_snr >= t.log_snr:
            return ChurnStep(t, s, t, 0.0)
        # s_hat^2 - s^2 = s^2 ((s_hat / s)^2 - 1)
        added = level * math.sqrt(math.expm1(t.log_snr - log_snr))
        return ChurnStep(t, s, self.model.schedule.level_at(log_snr), added * self.s_noise)

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: ChurnStep, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        hat = step.hat
        s = step.s
        if step.t.pure_noise:
            prediction = self.model.predict(x_t, step.t)
            return prediction.x_0 if step.last else from_noise(prediction, s), state
        u = x_t / step.t.alpha
        if step.noise > 0.0:
            u = axpy(u, noise.draw(x_t), step.noise)
        first = self.model.predict(u * hat.alpha, hat)
        if step.last:
            return first.x_0, state
        h = s.ratio - hat.ratio
        second = self.model.predict(axpy(u, first.eps, h) * s.alpha, s)
        return axpy(u, first.eps + second.eps, 0.5 * h) * s.alpha, state
