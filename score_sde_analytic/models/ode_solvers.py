"""ODE solvers of torchdiffeq, with the settings that keep them on the interval they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float64
from torch import Tensor

from score_sde_analytic.checks import number, settle, whole
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.extras import optional
from score_sde_analytic.process.gaussian import mean_square

#: Solvers of torchdiffeq by kind; one of the other kind would ignore its settings (rk4 would take a single step).
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")


def _require_known(method: str, known: tuple[str, ...], kind: str) -> None:
    if method not in known:
        raise InputError(f"{kind} knows no solver {method!r}; choose one of {', '.join(known)}")


@dataclass(frozen=True)
class Adaptive:
    """An embedded Runge-Kutta pair of torchdiffeq: "dopri5", "dopri8", "bosh3", "fehlberg2" or "adaptive_heun".

    A step is accepted when the largest error of any sample (root mean square over its dimensions, or of its log-density per
    dimension) is within atol + rtol |value|.

    >>> Adaptive(method="rk4")
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: Adaptive knows no solver 'rk4'; choose one of dopri5, dopri8, bosh3, fehlberg2,
    adaptive_heun
    """

    rtol: Annotated[float, number(above=0)] = 1e-4
    atol: Annotated[float, number(above=0)] = 1e-4
    method: str = "dopri5"
    max_steps: Annotated[int, whole(1)] = 10_000

    def __post_init__(self) -> None:
        settle(self)
        _require_known(self.method, ADAPTIVE, "Adaptive")

    def options(self, first_step: float, max_step: float, end: Float64[Tensor, ""]) -> dict[str, Any]:
        # step_t makes the solver land on the end point; left alone it would step past it, where there is no schedule.
        steps = {"first_step": first_step, "max_step": max_step, "step_t": end[None], "max_num_steps": self.max_steps}
        return steps | {"norm": _largest_error}

    @property
    def tolerances(self) -> dict[str, float]:
        return {"rtol": self.rtol, "atol": self.atol}


@dataclass(frozen=True)
class Fixed:
    """So many even steps of torchdiffeq's "euler", "midpoint", "heun2", "heun3" or "rk4"."""

    steps: Annotated[int, whole(1)] = 50
    method: str = "rk4"

    def __post_init__(self) -> None:
        settle(self)
        _require_known(self.method, FIXED, "Fixed")

    def options(self, first_step: float, max_step: float, end: Float64[Tensor, ""]) -> dict[str, Any]:
        return {"grid_constructor": lambda f, y, t: torch.linspace(t[0], t[-1], self.steps + 1, dtype=t.dtype, device=t.device)}

    @property
    def tolerances(self) -> dict[str, float]:
        return {}


def _largest_error(state: tuple[Tensor, ...]) -> Tensor:
    """The largest error of any sample, so that no sample hides behind the others."""
    return torch.stack([mean_square(part.reshape(len(part), -1)).max() for part in state]).max().sqrt()


def integrate(
    field: Callable[[Float64[Tensor, ""], Any], Any],
    state: Any,
    span: tuple[float, float],
    solver: Adaptive | Fixed,
    first_step: float,
    max_step: float,
) -> Any:
    """The state at the end of the span.

    >>> (u,) = integrate(lambda s, u: (-u[0],), (torch.ones(1, 1),), (0.0, 1.0), Fixed(10), first_step=0.1, max_step=1.0)
    >>> float(u)  # exp(-1)
    0.36788

    Raises:
        ImportError: torchdiffeq is absent.
        RunError: the solver gave up; the message says why.
    """
    torchdiffeq = optional("torchdiffeq", extra="ode", user="the probability-flow ODE")
    t = torch.tensor(span, dtype=torch.float64, device=state[0].device)
    options = solver.options(min(first_step, abs(span[1] - span[0])), max_step, t[1])
    try:
        solution = torchdiffeq.odeint(field, state, t, method=solver.method, options=options, **solver.tolerances)
    except AssertionError as error:
        raise RunError(_reason(str(error), solver)) from error
    return tuple(part[-1] for part in solution)


def _reason(message: str, solver: Adaptive | Fixed) -> str:
    if "max_num_steps" in message:
        limit = getattr(solver, "max_steps", None)
        return f"{solver.method} reached its limit of {limit} steps; loosen rtol and atol, raise max_steps or t_min"
    if "underflow" in message:
        return (
            f"{solver.method} needs steps too small to represent: the field is discontinuous (a clamped network?) or the"
            " tolerances are below the network's precision; loosen rtol and atol"
        )
    return f"{solver.method} met a state with NaN or inf: the flow diverged; raise t_min or check the network ({message[:80]})"
