"""LMS: the probability flow in sigma / alpha by Adams-Bashforth's method on the grid's own steps.

    d(x / alpha) / d rho = eps_hat,   rho = sigma / alpha
    x_s / alpha_s = x_t / alpha_t + sum_j w_j eps_hat(x_j),   w_j = integral over [rho_t, rho_s] of l_j(rho) d rho

with l_j Lagrange's polynomials on the last levels: k-diffusion's `sample_lms`, on any schedule, its integrals exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import flag, settle, whole
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step, from_noise, intervals


@dataclass(frozen=True, slots=True)
class WeightedStep(Step):
    """A step with the weights of eps_hat now and before, the latest first."""

    weights: tuple[float, ...]


@dataclass(frozen=True)
class LMS(Sampler[WeightedStep]):
    """K network calls on K steps; the first steps have fewer values to go by.

    Args:
        model: the score model.
        order: most values of eps_hat in a step.
        lower_order_final: end in x0_hat; otherwise the last step, too, extrapolates eps_hat, as k-diffusion's does.
    """

    model: ScoreModel
    order: Annotated[int, whole(1, 8)] = 4
    lower_order_final: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def plan(self, grid: Grid) -> list[WeightedStep]:
        steps = intervals(self.model.schedule, grid)
        rho = [step.t.ratio for step in steps] + [0.0]
        return [WeightedStep(step.t, step.s, self._weights(rho, i, step.last)) for i, step in enumerate(steps)]

    def _weights(self, rho: Sequence[float], i: int, last: bool) -> tuple[float, ...]:
        order = 1 if last and self.lower_order_final else min(i + 1, self.order)
        if rho[i] == math.inf:
            return ()
        order = min(order, i if rho[0] == math.inf else order)  # no polynomial goes through pure noise
        return adams_weights([rho[i - j] for j in range(order)], rho[i], rho[i + 1])

    def init(self, plan: Sequence[WeightedStep], x: Float[Tensor, " batch *dims"]) -> tuple[Float[Tensor, " batch *dims"], ...]:
        return ()

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: WeightedStep, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        prediction = self.model.predict(x_t, step.t)
        past = (prediction.eps, *state)[: self.order]
        if step.t.pure_noise:
            return (prediction.x_0 if step.last else from_noise(prediction, step.s)), past
        x_s = x_t * (step.s.alpha / step.t.alpha)
        for eps, weight in zip(past, step.weights, strict=False):
            x_s = axpy(x_s, eps, step.s.alpha * weight)
        return x_s, past


def adams_weights(nodes: Sequence[float], start: float, end: float) -> tuple[float, ...]:
    """Integrals from start to end of Lagrange's polynomials on the nodes.

    >>> adams_weights([1.0, 0.0], 1.0, 2.0)  # Adams-Bashforth of order two
    (1.5, -0.5)
    """
    width = end - start
    places = (np.array(nodes) - start) / width
    weights = []
    for j, place in enumerate(places):
        others = np.delete(places, j)
        primitive = np.polynomial.Polynomial.fromroots(others).integ() if len(others) else np.polynomial.Polynomial([0.0, 1.0])
        weights.append(width * float(primitive(1.0) - primitive(0.0)) / float(np.prod(place - others)))
    return tuple(weights)
