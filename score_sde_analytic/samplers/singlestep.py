"""Singlestep DPM-Solver++: diffusers' own scheduler, on any grid (`scheduled.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from score_sde_analytic.checks import one_of, settle, whole
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.samplers.scheduled import Scheduled, diffusers


@dataclass(frozen=True)
class DPMSolverSinglestep(Scheduled):
    """DPM-Solver++ singlestep of order 1, 2 (2S) or 3 (3S). Needs the extra "images".

    One of its steps goes over `order` intervals of the grid, whose inner times are where it makes its inner calls, from the
    state at its beginning: K intervals cost K calls as everywhere. The last steps are of lower order where K does not divide.
    Of full order where the intervals of a step are equal in log-SNR. (Lu et al., DPM-Solver, NeurIPS 2022; DPM-Solver++, 2022.)

    Args:
        model: the score model.
        order: calls of a step.
        solver_type: "midpoint" or "heun" for the terms of higher order.
    """

    model: ScoreModel
    order: Annotated[int, whole(1, 3)] = 2
    solver_type: Annotated[Literal["midpoint", "heun"], one_of(("midpoint", "heun"))] = "midpoint"

    def __post_init__(self) -> None:
        settle(self)

    def scheduler(self) -> Any:
        return diffusers("DPMSolverSinglestepScheduler")(
            solver_order=self.order, solver_type=self.solver_type, lower_order_final=True, prediction_type="sample"
        )
