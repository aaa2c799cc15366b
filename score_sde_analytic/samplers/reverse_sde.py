"""The reverse SDE as a sampler, by torchsde's solvers, in any of three variables (`models/probability_flow.py`).

    du = (drift u + 2 gain eps_hat) ds + sqrt(noise) dW,   in tau = +-s, which increases from the prior to the data

The noise depends on time alone ("additive"). Fixed steps follow the grid, one interval at a time, and draw the increments of
the Brownian motion from the samples' own noise; adaptive solvers query a Brownian path of each sample, whose seed is drawn
from that noise. Either ends in data by x0_hat at t_1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import slices
from score_sde_analytic.checks import flag, number, one_of, settle
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.extras import optional
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.probability_flow import CLOCKS, Clock, Coefficients, velocity
from score_sde_analytic.process.forward import BLANK
from score_sde_analytic.process.noise import Noise, stream_seed
from score_sde_analytic.samplers.base import Sampler, Step, from_noise, intervals
from score_sde_analytic.samplers.ode import VARIABLE, Variable, whole

#: Evaluations of the drift per step.
STAGES = {"euler": 1, "milstein": 1, "srk": 2}


@dataclass(frozen=True)
class AdaptiveSDE:
    """torchsde's step-size control: a full step against two halves, accepted when they differ by at most atol + rtol |u|.

    Args:
        first_step: first step, as a share of the interval.
        min_step: the shortest, as a share of the interval; errors are accepted there.
    """

    rtol: Annotated[float, number(0)] = 1e-2
    atol: Annotated[float, number(above=0)] = 1e-2
    first_step: Annotated[float, number(above=0)] = 0.02
    min_step: Annotated[float, number(above=0)] = 1e-5

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.min_step <= self.first_step <= 1.0:
            raise InputError(f"need 0 < min_step <= first_step <= 1, got {self.min_step} and {self.first_step}")


@dataclass(frozen=True)
class ReverseSDE(Sampler[Step]):
    """dx = [f x - g^2 score] dt + g dw, backwards (Song et al., ICLR 2021, eq. 6). Needs the extra "sde".

    On K steps a fixed solver of m stages makes m (K - 1) + 1 network calls. The step from pure noise is exact, in one call; an
    adaptive solver begins after it.

    >>> from score_sde_analytic import grids
    >>> ReverseSDE(model, "srk").calls(grids.even(10, 0.01))
    19

    Args:
        model: the score model.
        solver: torchsde's "euler", "milstein" (the same numbers: its correction vanishes for additive noise) or "srk"
            (Roessler's SRA1, two stages).
        adaptive: None for the grid's steps, or step-size control.
        variable: integrate in "log_snr" (alike for every schedule), "t", or "ve" (sigma / alpha).
        per_sample: an adaptive solver chooses steps for each sample alone, in network calls of one sample, so that a sample
            does not depend on its batch. False: one sequence of steps for the batch, fewer and larger calls.
    """

    model: ScoreModel
    solver: Annotated[Literal["euler", "milstein", "srk"], one_of(("euler", "milstein", "srk"))] = "euler"
    adaptive: AdaptiveSDE | None = None
    variable: Annotated[Variable, VARIABLE] = "log_snr"
    per_sample: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def calls(self, grid: Grid) -> int | None:
        if self.adaptive is not None:
            return None
        leaves_noise = grid.steps > 1 and self.model.schedule.level(grid.times[0]).pure_noise
        return STAGES[self.solver] * (grid.steps - 1 - leaves_noise) + leaves_noise + 1

    def plan(self, grid: Grid) -> list[Step]:
        steps = intervals(self.model.schedule, grid)
        if self.adaptive is None:
            return steps
        if steps[0].t.pure_noise and len(steps) > 1:
            nearly = self.model.schedule.level_at(min(BLANK, steps[-1].t.log_snr - 1.0))
            return [Step(steps[0].t, nearly), *whole([Step(nearly, steps[0].s), *steps[1:]])]
        return whole(steps)

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: Step, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        if step.last:
            return self.model.predict(x_t, step.t).x_0, state
        if step.t.pure_noise:  # where the SDE forgets infinitely fast
            return from_noise(self.model.predict(x_t, step.t), step.s, noise.draw(x_t)), state
        if self.adaptive is None:
            return self._solve(self.model, x_t, step, partial(_Increments, noise)), state
        # Four draws whatever the dimension and precision of x: 200 bits and more.
        entropy = noise.draw(torch.empty(len(x_t), 4, dtype=torch.float64, device=x_t.device))
        seeds = [stream_seed(*row) for row in entropy.cpu().view(torch.int64).tolist()]
        rows = 1 if self.per_sample else len(x_t)
        solved = [
            self._solve(self.model.rows(part), x_t[part], step, partial(_Paths, seeds[part])) for part in slices(len(x_t), rows)
        ]
        return torch.cat(solved), state

    def _solve(self, model: ScoreModel, x_t: Tensor, step: Step, motion: Motion) -> Tensor:
        clock = CLOCKS[self.variable]
        start, end = clock.value(step.t), clock.value(step.s)
        first, last = (clock.at(self.model.schedule, s) for s in (start, end))
        length = abs(end - start)
        sde = _SDE(model, clock, start, math.copysign(1.0, end - start), x_t)
        y = (x_t.double() / first.scale).reshape(len(x_t), -1)
        ts = torch.tensor([0.0, length], dtype=torch.float64, device=y.device)
        try:
            y = _torchsde().sdeint(sde, y, ts, bm=motion(x_t, length), method=self.solver, **self._steps(length))[-1]
        except AssertionError as error:
            raise RunError(f"{self.name} met NaN in its estimate of the error: it diverged; take smaller steps") from error
        return (last.scale * y).reshape(x_t.shape).to(x_t.dtype)

    def _steps(self, length: float) -> dict[str, Any]:
        if self.adaptive is None:
            return {"dt": length}
        a = self.adaptive
        sizes = {"dt": a.first_step * length, "dt_min": a.min_step * length}
        return sizes | {"adaptive": True, "rtol": a.rtol, "atol": a.atol}


class _SDE:
    """The reverse SDE in torchsde's terms, tau from 0 and states (batch, d), float64.

    torchsde evaluates the drift once more when it checks its arguments, and SRA1 asks for its first stage twice: the last
    evaluation is kept, so that no network call is paid twice.
    """

    noise_type = "additive"
    sde_type = "ito"

    def __init__(self, model: ScoreModel, clock: Clock, start: float, sign: float, like: Tensor) -> None:
        self.model = model
        self.clock = clock
        self.start = start
        self.sign = sign
        self.like = like
        self._last: tuple[float, Tensor, Tensor] | None = None
        self._recent: tuple[float, Coefficients] | None = None

    def _at(self, tau: Tensor) -> Coefficients:
        s = self.start + self.sign * float(tau)
        if self._recent is None or self._recent[0] != s:  # drift and noise are asked for in turn
            self._recent = s, self.clock.at(self.model.schedule, s)
        return self._recent[1]

    def f(self, tau: Tensor, y: Tensor) -> Tensor:
        if self._last is None or self._last[0] != float(tau) or self._last[1] is not y:
            c = self._at(tau)
            reverse = replace(c, gain=2.0 * c.gain)
            u = y.reshape(self.like.shape)
            drift = self.sign * velocity(self.model, reverse, u, self.like.dtype, len(u))
            self._last = float(tau), y, drift.reshape(y.shape)
        return self._last[2]

    def g_prod(self, tau: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return math.sqrt(self._at(tau).noise) * v


class _Motion:
    """What torchsde asks of a Brownian motion in `d` dimensions."""

    levy_area_approximation = "space-time"

    def __init__(self, like: Tensor) -> None:
        self.shape = (len(like), like[0].numel())


class _Increments(_Motion):
    """Fresh increments of one interval that is never divided.

    W ~ N(0, h),   U = integral of W = h (W / 2 + H),   H ~ N(0, h / 12) independent of W
    """

    def __init__(self, noise: Noise, like: Tensor, length: float) -> None:
        super().__init__(like)
        self._noise = noise
        self._like = like
        self._length = length

    def _draw(self) -> Tensor:
        return self._noise.draw(self._like).double().reshape(self.shape)

    def __call__(self, start: Tensor, end: Tensor, return_U: bool = False) -> Any:  # noqa: N803
        w = math.sqrt(self._length) * self._draw()
        if not return_U:
            return w
        return w, self._length * (0.5 * w + math.sqrt(self._length / 12.0) * self._draw())


class _Paths(_Motion):
    """One Brownian path per sample, each from its own seed, to be divided at will."""

    def __init__(self, seeds: Sequence[int], like: Tensor, length: float) -> None:
        super().__init__(like)
        make = _torchsde().BrownianInterval
        options = {"size": (1, self.shape[1]), "dtype": torch.float64, "device": like.device}
        area = {"levy_area_approximation": self.levy_area_approximation}
        self._paths = [make(0.0, length, entropy=seed, **options, **area) for seed in seeds]

    def __call__(self, start: Tensor, end: Tensor, return_U: bool = False) -> Any:  # noqa: N803
        parts = [path(start, end, return_U=return_U) for path in self._paths]
        return tuple(map(torch.cat, zip(*parts, strict=True))) if return_U else torch.cat(parts)


#: (like, length) -> the Brownian motion of an interval.
Motion = Callable[[Tensor, float], _Motion]


def _torchsde() -> Any:
    return optional("torchsde", extra="sde", user="the reverse SDE")
