"""DPM-Solver++, SDE-DPM-Solver++, UniPC, DEIS and iPNDM: multistep solvers of diffusers, on any grid (`scheduled.py`).

(Lu et al., DPM-Solver++, 2022; Zhao et al., UniPC, NeurIPS 2023; Zhang & Chen, DEIS, ICLR 2023; Liu et al., PNDM, ICLR 2022.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import flag, one_of, settle, whole
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Step, from_noise
from score_sde_analytic.samplers.scheduled import Scheduled, diffusers


@dataclass(frozen=True)
class DPMSolverPP(Scheduled):
    """DPM-Solver++ multistep of order 1 (DDIM), 2 (2M) or 3 (3M); SDE-DPM-Solver++ if `noisy`. Needs the extra "images".

    Both forms of 3M hold half of Taylor's term of x0_hat'', as published: order two with a smaller constant. The noisy one
    takes it with the sign that Taylor's has, as k-diffusion does; diffusers 0.42 has the other, and converges at order one.

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
        base = diffusers("DPMSolverMultistepScheduler")
        return (_third_order(base) if self.noisy and self.order == 3 else base)(
            solver_order=self.order,
            algorithm_type="sde-dpmsolver++" if self.noisy else "dpmsolver++",
            solver_type=self.solver_type,
            lower_order_final=self.lower_order_final,
            prediction_type="sample",
        )

    def options(self, state: Any, x_t: Float[Tensor, " batch *dims"], noise: Noise) -> dict[str, Any]:
        return {"variance_noise": noise.draw(x_t)} if self.noisy else {}

    def leave_noise(self, prediction: Prediction, s: Level, noise: Noise) -> Float[Tensor, " batch *dims"]:
        return from_noise(prediction, s, noise.draw(prediction.x_t) if self.noisy else None)


def _third_order(base: Any) -> Any:
    """The multistep scheduler with a third-order SDE step of its own."""

    class ThirdOrder(base):
        def multistep_dpm_solver_third_order_update(
            self, model_output_list: list[Tensor], *args: Any, sample: Tensor, noise: Tensor, **kwargs: Any
        ) -> Tensor:
            levels = [float(self.sigmas[self.step_index + i]) for i in (1, 0, -1, -2)]
            return noisy_third_order(levels, model_output_list[::-1], sample, noise)

    return ThirdOrder


def noisy_third_order(
    ratios: Sequence[float],
    x_0: Sequence[Float[Tensor, " batch *dims"]],
    u: Float[Tensor, " batch *dims"],
    z: Float[Tensor, " batch *dims"],
) -> Float[Tensor, " batch *dims"]:
    """u_s = sigma_s / sigma_t e^{-h} u_t + alpha_s [E x0_hat + F D_1 + (1/2 - F / 2h) D_2] + sigma_s sqrt(E) z.

    SDE-DPM-Solver++(3M): h = log(ratio_t / ratio_s), E = 1 - e^{-2h}, F = 1 - E / 2h, D divided differences of x0_hat.

    Args:
        ratios: sigma / alpha of s, t and the two levels before t.
        x_0: x0_hat at t and at the two levels before.
        u: the state in variance-preserving coordinates.
        z: standard normal.
    """
    alphas = [1.0 / math.hypot(1.0, ratio) for ratio in ratios]
    sigma_s, sigma_t = (ratio * alpha for ratio, alpha in zip(ratios[:2], alphas[:2], strict=True))
    h, *past = (math.log(before / after) for after, before in pairwise(ratios))
    r_0, r_1 = (width / h for width in past)
    near, far = (x_0[0] - x_0[1]) / r_0, (x_0[1] - x_0[2]) / r_1
    second = (near - far) / (r_0 + r_1)
    first = near + r_0 * second
    gone = -math.expm1(-2.0 * h)
    slope = 1.0 - gone / (2.0 * h)
    mean = gone * x_0[0] + slope * first + (0.5 - slope / (2.0 * h)) * second
    return sigma_s / sigma_t * math.exp(-h) * u + alphas[0] * mean + sigma_s * math.sqrt(gone) * z


@dataclass(frozen=True)
class UniPC(Scheduled):
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
        return diffusers("UniPCMultistepScheduler")(
            solver_order=self.order,
            solver_type=self.solver_type,
            lower_order_final=self.lower_order_final,
            prediction_type="sample",
        )


@dataclass(frozen=True)
class DEIS(Scheduled):
    """DEIS of order 1 (DDIM), 2 or 3: eps_hat extrapolated as a polynomial in log(sigma / alpha). Needs the extra "images".

    Args:
        model: the score model.
        order: points that the polynomial goes through.
        lower_order_final: below 15 steps, take the last steps at lower order.
    """

    model: ScoreModel
    order: Annotated[int, whole(1, 3)] = 3
    lower_order_final: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def scheduler(self) -> Any:
        return diffusers("DEISMultistepScheduler")(
            solver_order=self.order, lower_order_final=self.lower_order_final, prediction_type="sample"
        )


@dataclass(frozen=True)
class IPNDM(Scheduled):
    """Adams-Bashforth's weights of equal steps on eps_hat, whatever the grid, then DDIM's step. Needs the extra "images".

    Of full order on grids even in sigma / alpha; on others that are smooth, of order two with a smaller constant.

    Args:
        model: the score model.
        order: most values of eps_hat in a step; diffusers' scheduler always takes four.
        lower_order_final: end in x0_hat; otherwise the last step, too, takes the extrapolated eps_hat, as diffusers' does.
    """

    model: ScoreModel
    order: Annotated[int, whole(1, 4)] = 4
    lower_order_final: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def scheduler(self) -> Any:
        return diffusers("IPNDMScheduler")()

    def place(self, scheduler: Any, plan: Sequence[Step]) -> None:
        levels = [(step.t.alpha / step.t.norm, step.t.sigma / step.t.norm) for step in plan] + [(1.0, 0.0)]
        scheduler.alphas, scheduler.betas = torch.tensor(levels, dtype=torch.float64).T

    def output(self, prediction: Prediction) -> Float[Tensor, " batch *dims"]:
        return prediction.v / prediction.level.norm

    def options(self, state: Any, x_t: Float[Tensor, " batch *dims"], noise: Noise) -> dict[str, Any]:
        state.ets = state.ets[len(state.ets) - self.order + 1 :] if len(state.ets) >= self.order else state.ets
        return {}

    def ends(self, step: Step) -> bool:
        return step.last and self.lower_order_final
