"""Predictors and correctors of score SDE (Song et al., ICLR 2021, section 4.2, appendix G), on any schedule and grid.

A predictor is any sampler; after each of its steps but the one to the data a corrector moves the state by Langevin dynamics
that leave q(x_s) in place. Of the paper's predictors, ancestral sampling is `Ancestral` (`Beta` for its VP form, `BetaTilde`
for its VE form); the two others are here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Self

from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import wide
from score_sde_analytic.checks import number, settle, whole
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.gaussian import axpy, expand
from score_sde_analytic.process.kernel import reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers.base import S, Sampler, Step, from_noise

#: N of the discretisation that the paper's correctors take beta_i from.
TABLE = 1000


# --- predictors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinearStep(Step):
    """x_s = keep x_t + gain score + noise z."""

    keep: float
    gain: float
    noise: float


class _LinearPredictor(Sampler[LinearStep]):
    """x_s linear in x_t, the score and one draw: K network calls; ends in data by x0_hat, leaves pure noise exactly."""

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def plan(self, grid: Grid) -> list[LinearStep]:
        schedule = self.model.schedule
        pairs = list(pairwise(grid.levels(schedule)))
        exact = [s.sigma == 0.0 or t.pure_noise for t, s in pairs]
        return [
            LinearStep(t, s, *((0.0, 0.0, 0.0) if known else self._coefficients(schedule, t, s)))
            for (t, s), known in zip(pairs, exact, strict=True)
        ]

    @abstractmethod
    def _coefficients(self, schedule: Schedule, t: Level, s: Level) -> tuple[float, float, float]:
        """(keep, gain, noise)."""

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: LinearStep, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        prediction = self.model.predict(x_t, step.t)
        if step.last:
            return prediction.x_0, state
        if step.t.pure_noise:  # the score there says nothing about x_0
            return from_noise(prediction, step.s, noise.draw(x_t)), state
        mean = axpy(step.keep * x_t, prediction.score, step.gain)
        return axpy(mean, noise.draw(x_t), step.noise), state


@dataclass(frozen=True)
class EulerMaruyama(_LinearPredictor):
    """The reverse SDE by Euler-Maruyama in time: x_s = x_t - (f x_t - g^2 score)(t - s) + g sqrt(t - s) z, f and g at t."""

    model: ScoreModel

    def _coefficients(self, schedule: Schedule, t: Level, s: Level) -> tuple[float, float, float]:
        h = t.t - s.t
        g = schedule.diffusion(t.t)
        return 1.0 - schedule.drift(t.t) * h, g**2 * h, g * math.sqrt(h)


@dataclass(frozen=True)
class ReverseDiffusion(_LinearPredictor):
    """The reverse of the exact forward step x_t = alpha_ts x_s + sigma_ts z: x_s = (2 - alpha_ts) x_t + sigma_ts^2 score + ...

    With N steps of a table this is the paper's eq. 46 with f_i = (alpha_ts - 1) x and G_i = sigma_ts, for VP sqrt(1 - beta_i)
    and sqrt(beta_i).
    """

    model: ScoreModel

    def _coefficients(self, schedule: Schedule, t: Level, s: Level) -> tuple[float, float, float]:
        beta = reverse_kernel(s, t).beta
        return 2.0 - t.alpha / s.alpha, beta, math.sqrt(beta)


# --- correctors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corrector(ABC):
    """x <- x + e score(x) + sqrt(2 e) z at one noise level, `steps` times.

    Args:
        snr: r, the ratio of score to noise in a step; the paper's best lie between 0.05 and 0.2.
        steps: Langevin steps, one network call each.

    Raises:
        InputError: snr or steps not positive, or an snr beyond 100.
    """

    snr: Annotated[float, number(above=0, most=100.0)] = 0.16
    steps: Annotated[int, whole(1)] = 1

    def __post_init__(self) -> None:
        settle(self)

    def correct(
        self, model: ScoreModel, x: Float[Tensor, " batch *dims"], level: Level, noise: Noise
    ) -> Float[Tensor, " batch *dims"]:
        # 1 - beta_i of the paper's table of N times, for any drift; 1 for VE.
        keep = math.exp(2.0 * model.schedule.drift(level.t) / TABLE)
        for _ in range(self.steps):
            score = model.predict(x, level).score
            z = noise.draw(x)
            e = 2.0 * keep * self.snr**2 * self._square(score, z, level)
            x = x + expand(e, x) * score + expand((2.0 * e) ** 0.5, x) * z
        return x

    @abstractmethod
    def _square(
        self, score: Float[Tensor, " batch *dims"], z: Float[Tensor, " batch *dims"], level: Level
    ) -> Float64[Tensor, " batch"] | float:
        """(a length in data units)^2, for the batch or per sample."""


@dataclass(frozen=True)
class Langevin(Corrector):
    """e = 2 (1 - beta) (r ||z|| / ||score||)^2, norms per sample (algorithms 4 and 5): for data of many dimensions."""

    def _square(
        self, score: Float[Tensor, " batch *dims"], z: Float[Tensor, " batch *dims"], level: Level
    ) -> Float64[Tensor, " batch"]:
        z2, score2 = (wide(v).reshape(len(v), -1).square().sum(1) for v in (z, score))
        return z2 / score2


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    """e = 2 (1 - beta) (r sigma)^2, the same for all samples (Song & Ermon, NeurIPS 2019)."""

    def _square(self, score: Float[Tensor, " batch *dims"], z: Float[Tensor, " batch *dims"], level: Level) -> float:
        return float(level.sigma) ** 2


@dataclass(frozen=True)
class PredictorCorrector(Sampler[S]):
    """A step of any sampler, then a corrector at the level it reached; n (K - 1) network calls beyond the predictor's.

    The paper's norms are means over the batch; these are each sample's own, so that a sample does not depend on its batch.

    >>> from score_sde_analytic import grids
    >>> PredictorCorrector(ReverseDiffusion(model), Langevin(steps=2)).calls(grids.even(10, 0.01))  # 10 + 2 * 9
    28
    """

    predictor: Sampler[S]
    corrector: Corrector = Langevin()

    @property
    def model(self) -> ScoreModel:  # type: ignore[override]
        return self.predictor.model

    def with_model(self, model: ScoreModel) -> Self:
        return replace(self, predictor=self.predictor.with_model(model))

    def calls(self, grid: Grid) -> int | None:
        calls = self.predictor.calls(grid)
        return None if calls is None else calls + self.corrector.steps * (grid.steps - 1)

    def extra_calls(self, grid: Grid) -> int:
        return self.predictor.extra_calls(grid)

    def fingerprints(self, grid: Grid) -> list[Any]:
        return self.predictor.fingerprints(grid)

    def plan(self, grid: Grid) -> Sequence[S]:
        return self.predictor.plan(grid)

    def init(self, plan: Sequence[S], x: Float[Tensor, " batch *dims"]) -> Any:
        return self.predictor.init(plan, x)

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: S, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        x_s, state = self.predictor.step(x_t, step, state, noise)
        return x_s if step.last else self.corrector.correct(self.model, x_s, step.s, noise), state
