"""The analytic family: x_s = a x_t + b x0_hat + Sigma^{1/2} z, DDPM at eta = 1, DDIM at eta = 0 with BetaTilde."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import number, one_of, settle
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler
from score_sde_analytic.samplers.kernel_steps import KernelStep, fingerprint, step_parts


@dataclass(frozen=True, slots=True)
class AncestralStep(KernelStep):
    """A kernel step that adds its noise, or gives its mean."""

    noisy: bool


@dataclass(frozen=True)
class Ancestral(Sampler[AncestralStep]):
    """Exactly K network calls on a grid of K steps; any strictly ordered real grid, any schedule.

    >>> from score_sde_analytic import covariance, grids
    >>> ddim = Ancestral(model, covariance.BetaTilde(), eta=0.0)
    >>> ddim.name, ddim.calls(grids.even(10, 0.01))
    ('Ancestral(covariance=BetaTilde, eta=0)', 10)
    >>> Ancestral(model, covariance.Beta(), eta=0.0)
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: Beta is made of beta, a variance of the DDPM kernel: use eta=1, or BetaTilde for eta<1

    Args:
        model: the score model.
        covariance: what each step adds to its mean.
        eta: 1 for DDPM's kernel, 0 for DDIM's, anything between.
        final: the last step gives the "mean" x0_hat (as the papers do) or a "draw" with the covariance of the step to data.
        clip: 0, or the largest mean |noise| of the last noisy step before the data, in data units: its variance is at most
            clip^2 pi / 2 (Bao et al., ICLR 2022, appendix; two 8-bit levels in [-1, 1] are 4/255).

    Raises:
        InputError: eta outside [0, 1], or < 1 with a covariance of DDPM's kernel alone, as `Beta`; an unknown `final`; a clip
            that is negative or used with a covariance that is not isotropic.
    """

    model: ScoreModel
    covariance: Covariance
    eta: Annotated[float, number(0, 1)] = 1.0
    final: Annotated[Literal["mean", "draw"], one_of(("mean", "draw"))] = "mean"
    clip: Annotated[float, number(0)] = 0.0

    def __post_init__(self) -> None:
        settle(self)
        self.covariance.require_eta(self.eta)

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def extra_calls(self, grid: Grid) -> int:
        return self.covariance.extra_calls(grid.steps - (self.final == "mean"))

    def fingerprints(self, grid: Grid) -> list[Any]:
        return [fingerprint(grid.levels(self.model.schedule), self.covariance, self.eta)]

    def plan(self, grid: Grid) -> list[AncestralStep]:
        parts = step_parts(grid.levels(self.model.schedule), self.covariance, self.eta)
        steps = [AncestralStep(t, s, kernel, covariance, not covariance.silent) for t, s, kernel, covariance in parts]
        if self.clip > 0.0 and len(steps) > 1:
            capped = steps[-2].covariance.capped(self.clip * self.clip * math.pi / 2)
            steps[-2] = replace(steps[-2], covariance=capped)
        if self.final == "mean":
            steps[-1] = replace(steps[-1], noisy=False)
        return steps

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: AncestralStep, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        prediction = self.model.predict(x_t, step.t)
        x_s = step.mean(prediction)
        if step.noisy:
            x_s = step.covariance.add_noise(x_s, prediction, noise.draw(x_t))
        return x_s, state
