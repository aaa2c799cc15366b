"""The analytic family: x_s = a x_t + b x0_hat + Sigma^{1/2} z, DDPM at eta = 1, DDIM at eta = 0 with BetaTilde."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.covariance.isotropic import Beta, IsotropicStep
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.kernel import Kernel, kernels
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step


@dataclass(frozen=True, slots=True)
class KernelStep(Step):
    """A step by a reverse kernel."""

    kernel: Kernel
    covariance: StepCovariance
    noisy: bool


@dataclass(frozen=True)
class Ancestral(Sampler[KernelStep]):
    """Exactly K network calls on a grid of K steps; any strictly ordered real grid, any schedule.

    Args:
        model: the score model.
        covariance: what each step adds to its mean.
        eta: 1 for DDPM's kernel, 0 for DDIM's, anything between.
        final: the last step gives the "mean" x0_hat (as the papers do) or a "draw" with the covariance of the step to data.
        clip: 0, or the largest mean |noise| of the last noisy step before the data, in data units: its variance is at most
            clip^2 pi / 2 (Bao et al., ICLR 2022, appendix; two 8-bit levels in [-1, 1] are 4/255).

    Raises:
        ValueError: eta outside [0, 1], `Beta` with eta < 1, an unknown `final`, or a clip that is negative or used with a
            covariance that is not isotropic.
    """

    model: ScoreModel
    covariance: Covariance
    eta: float = 1.0
    final: Literal["mean", "draw"] = "mean"
    clip: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if isinstance(self.covariance, Beta) and self.eta != 1.0:
            raise ValueError("the handcrafted variance beta belongs to the DDPM kernel: use eta=1, or BetaTilde for eta<1")
        if self.final not in ("mean", "draw"):
            raise ValueError(f"final must be 'mean' or 'draw', got {self.final!r}")
        if not self.clip >= 0.0:
            raise ValueError(f"clip must not be negative, got {self.clip}")

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def plan(self, grid: Grid) -> list[KernelStep]:
        levels = grid.levels(self.model.schedule)
        ks = kernels(levels, self.eta)
        covariances = self.covariance.steps(ks, levels[:-1])
        steps = [KernelStep(t, s, k, c, True) for t, s, k, c in zip(levels[:-1], levels[1:], ks, covariances, strict=True)]
        if self.clip > 0.0 and len(steps) > 1:
            steps[-2] = replace(steps[-2], covariance=self._clipped(steps[-2].covariance))
        if self.final == "mean":
            steps[-1] = replace(steps[-1], noisy=False)
        return steps

    def _clipped(self, covariance: Any) -> IsotropicStep:
        if not isinstance(covariance, IsotropicStep):
            raise ValueError("the last-step noise clip is defined for isotropic covariances; set clip=0")
        return IsotropicStep(min(covariance.variance, self.clip**2 * math.pi / 2))

    def step(self, x_t: Tensor, step: KernelStep, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        prediction = self.model.predict(x_t, step.t)
        x_s = prediction.combine(step.kernel.a, step.kernel.b)
        if step.noisy:
            x_s = step.covariance.add_noise(x_s, prediction, noise.draw(x_t))
        return x_s, state
