"""Between DDIM's second-order ODE solver and the ancestral chain: one family in eta, analytic noise throughout.

    x_s = a x_t + b x0_hat + kappa c D + Sigma^{1/2} z,    D = (x0_hat(x_t) - x0_hat(x_r)) / (lam_t - lam_r),   r before t
    Sigma = rho^2 I + (1 - kappa) b^2 Cov(x_0 | x_t)
    c = alpha_s (h - (1 - exp(-q h)) / q),   q = (1 + eta_h^2) / 2,   eta_h^2 = -log(1 - eta^2 w) / h

a, b, rho^2, h, w are the kernel's (`kernel.py`). c is exact for x0_hat linear in log-SNR: with y = x / sigma the SDE of noise
scale eta_h is dy = [-eta_h^2 y + (1 + eta_h^2) e^{lam/2} x0_hat] dlam / 2 + eta_h dW. A step of it with x0_hat held constant is
the kernel's, and the linear part of x0_hat adds c times its slope.

What the slope is. x0_hat is a martingale along the true reverse chain. The SDE of scale eta differs from it in drift by
(1 - eta^2) sigma eps_hat / 2 dlam and in noise, so by Ito's formula

    E d x0_hat = (1 - eta^2) / 2 [sigma (eps_hat . grad) x0_hat - sigma^2 Laplacian x0_hat] dlam = (1 - eta^2) d x0_hat_flow

(1 - eta^2) times the drift along the probability flow through the same point. At eta = 0 the difference D is that slope, and
kappa = 1 is the multistep solver DPM-Solver++(2M), "heun" type. At eta = 1 there is no drift: the mean is exact without D,
which is but noise that the chain drew before, and what the step lacks is Cov(x_0 | x_t).

Extrapolation and covariance do the same work, and must not both do all of it. To second order in h the law of x_s is right
whenever their shares, kappa and 1 - kappa, add up to one: for kappa = 0 because the two moments of x_s given x_t are exact, for
kappa = 1 because D is correlated with the state (so SDE-DPM-Solver++(2M) has weak order two without a covariance). The default
kappa = 1 - eta^2 is the drift's share: the ends of the family are the multistep solver and the analytic chain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import number, optional, settle
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step
from score_sde_analytic.samplers.kernel_steps import KernelStep, fingerprint, step_parts


@dataclass(frozen=True, slots=True)
class MultistepStep(KernelStep):
    """A kernel step with `slope`, the weight of x0_hat's last change."""

    slope: float


@dataclass(frozen=True)
class AnalyticMultistep(Sampler[MultistepStep]):
    """K network calls on K steps; the first step has no past and is `Ancestral`'s, the last gives x0_hat.

    >>> from score_sde_analytic import covariance, grids
    >>> AnalyticMultistep(model, covariance.BetaTilde(), eta=0.0).calls(grids.even(10, 0.01))
    10

    Args:
        model: the score model.
        covariance: of x_0 given x_t, as for `Ancestral`; `BetaTilde` has none.
        eta: 1 for the chain, 0 for the flow; the default shares by halves, the best of few steps (docs/results/solvers.md).
        kappa: share of the extrapolation; None for 1 - eta^2.

    Raises:
        InputError: eta or kappa outside [0, 1], or a covariance that is no posterior covariance, as `Beta`.
    """

    model: ScoreModel
    covariance: Covariance
    eta: Annotated[float, number(0, 1)] = math.sqrt(0.5)
    kappa: Annotated[float | None, optional(number(0, 1))] = None

    def __post_init__(self) -> None:
        settle(self)
        if not self.covariance.has_posterior:
            raise InputError("beta holds no posterior covariance to share with the extrapolation; use Isotropic or BetaTilde")

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def extra_calls(self, grid: Grid) -> int:
        return self.covariance.extra_calls(grid.steps - 1)

    def fingerprints(self, grid: Grid) -> list[Any]:
        return [fingerprint(grid.levels(self.model.schedule), self.covariance, self.eta)]

    def plan(self, grid: Grid) -> list[MultistepStep]:
        kappa = 1.0 - self.eta**2 if self.kappa is None else self.kappa
        kappas = [0.0] + [kappa] * (grid.steps - 1)
        levels = grid.levels(self.model.schedule)
        slopes = [
            share * _slope(Step(t, s), r, self.eta)
            for share, r, t, s in zip(kappas, levels[:1] + levels[:-2], levels[:-1], levels[1:], strict=True)
        ]
        parts = step_parts(levels, self.covariance, self.eta, [1.0 - share for share in kappas])
        return [MultistepStep(*part, slope) for part, slope in zip(parts, slopes, strict=True)]

    def init(self, plan: Sequence[MultistepStep], x: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"] | None:
        return None

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: MultistepStep, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        prediction = self.model.predict(x_t, step.t)
        if step.last:
            return prediction.x_0, None
        mean = step.mean(prediction)
        if state is not None and step.slope > 0.0:
            mean = axpy(mean, prediction.x_0 - state, step.slope)
        if not step.covariance.silent:
            mean = step.covariance.add_noise(mean, prediction, noise.draw(x_t))
        return mean, prediction.x_0


def _slope(step: Step, past: Level, eta: float) -> float:
    """c / (lam_t - lam_r); 0 for the first step and the one to the data."""
    h = step.s.log_snr - step.t.log_snr
    if step.last or past.log_snr == step.t.log_snr:
        return 0.0
    scale2 = -math.log1p(eta**2 * math.expm1(-h)) / h
    q = 0.5 * (1.0 + scale2)
    return float(step.s.alpha * (h + math.expm1(-q * h) / q) / (step.t.log_snr - past.log_snr))
