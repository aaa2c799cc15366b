"""SA-Solver: a stochastic predictor and corrector of Adams' kind; diffusers' own scheduler, on any grid (`scheduled.py`).

(Xue et al., SA-Solver, NeurIPS 2023.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import each, flag, number, settle, whole
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Step, from_noise
from score_sde_analytic.samplers.scheduled import Scheduled, diffusers


@dataclass(frozen=True)
class SASolver(Scheduled):
    """The reverse SDE of noise scale tau; predictor and corrector share each network call and each draw. Needs "images".

    Args:
        model: the score model.
        tau: 0 for the flow, 1 for the reverse SDE.
        predictor: values of x0_hat in the predictor.
        corrector: values of x0_hat in the corrector; 0 for none.
        between: levels sigma / alpha where there is noise; the paper takes (0.05, 1) for CIFAR-10.
        lower_order_final: take the last steps at lower order.
    """

    model: ScoreModel
    tau: Annotated[float, number(0, 10)] = 1.0
    predictor: Annotated[int, whole(1, 4)] = 2
    corrector: Annotated[int, whole(0, 4)] = 2
    between: Annotated[tuple[float, ...], each(number(0), 2, 2)] = (0.0, 1e9)
    lower_order_final: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def scheduler(self) -> Any:
        return _given_noise(diffusers("SASolverScheduler"), self.corrector > 0)(
            predictor_order=self.predictor,
            corrector_order=max(self.corrector, 1),
            lower_order_final=self.lower_order_final,
            prediction_type="sample",
        )

    def place(self, scheduler: Any, plan: Sequence[Step]) -> None:
        super().place(scheduler, plan)
        low, high = self.between
        scales = [self.tau if low <= step.t.ratio <= high else 0.0 for step in plan]
        scheduler.tau_func = lambda index: scales[len(plan) - int(index)]

    def options(self, state: Any, x_t: Float[Tensor, " batch *dims"], noise: Noise) -> dict[str, Any]:
        state.given = noise.draw(x_t).clone()  # kept for the corrector, while the next draw may use its memory
        return {"generator": torch.Generator()}

    def leave_noise(self, prediction: Prediction, s: Level, noise: Noise) -> Float[Tensor, " batch *dims"]:
        noisy = self.tau > 0.0 and self.between[1] >= 1e9
        return from_noise(prediction, s, noise.draw(prediction.x_t) if noisy else None)


def _given_noise(base: Any, corrects: bool) -> Any:
    """The scheduler with noise that is given, in place of what it draws for the whole batch."""

    class GivenNoise(base):
        given: Tensor

        def stochastic_adams_bashforth_update(self, *args: Any, noise: Tensor, **options: Any) -> Tensor:
            self.last_noise = self.given
            return super().stochastic_adams_bashforth_update(*args, noise=self.given, **options)

        def stochastic_adams_moulton_update(self, *args: Any, this_sample: Tensor, **options: Any) -> Tensor:
            if not corrects:
                return this_sample
            return super().stochastic_adams_moulton_update(*args, this_sample=this_sample, **options)

    return GivenNoise
