"""DPM-Solver-v3: the flow around a model's own linear part, a multistep predictor and corrector (Zheng et al., NeurIPS 2023).

With lam half the log-SNR, y = x / alpha and l, s, b of `measure/empirical.py`, g = e^-S N - B varies less than
N = e^-lam eps_hat - l y does:

    S = int_t s,   L = int_t l,   B = int_t e^-S b,   each from lam_t to lam
    y_s = e^-L_s [y_t - int e^{L + S} (B + g) dlam]                                       the flow, exactly
        ~ e^-L_s [y_t - int e^{L + S} B - sum_k a_k int e^{L + S} (lam - lam_t)^k]        g as a polynomial

a_k by interpolation of g at the current level, earlier ones and, in the corrector, the one that was reached: N there is taken
at the predicted state, so that each network call serves both. Integrals are sums over a fine lattice of levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import Array, Cast
from score_sde_analytic.checks import flag, settle, whole
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.measure.empirical import EmpiricalStatistics
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.level import finite
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Step, from_noise, intervals

#: Levels of the lattice of an interval.
LATTICE = 257


class Rule(NamedTuple):
    """y_s = keep y_t + offset + sum_j weights_j N_j, coordinate by coordinate."""

    keep: Cast
    offset: Cast
    weights: tuple[Cast, ...]

    def __call__(
        self, y: Float[Tensor, " batch *dims"], values: Sequence[Float[Tensor, " batch *dims"]]
    ) -> Float[Tensor, " batch *dims"]:
        result = self.keep.like(y) * y + self.offset.like(y)
        for weight, value in zip(self.weights, values, strict=True):
            result = result + weight.like(y) * value
        return result


@dataclass(frozen=True, slots=True)
class V3Step(Step):
    """A step with l of its level, the rule that predicts, and the one that corrects what the step before reached."""

    linear: Cast
    predictor: Rule | None
    corrector: Rule | None


class _State(NamedTuple):
    """The state (x / alpha) at the beginning of the last step, and N there and before, the latest first."""

    y: Tensor | None = None
    values: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class DPMSolverV3(Sampler[V3Step]):
    """K network calls on K steps, the last of them to x0_hat; exact for Gaussian data of independent coordinates.

    >>> from score_sde_analytic import grids
    >>> from score_sde_analytic.measure import EmpiricalStatistics
    >>> DPMSolverV3(model, EmpiricalStatistics.of_moments(moments)).calls(grids.even(5, 0.01))
    5

    Args:
        model: the score model.
        statistics: l, s and b of the model.
        order: values of g that a polynomial goes through.
        correct: correct every state once the network was asked there; nothing at order 1.
        pseudo: take the k-th coefficient from the latest k + 1 values alone, as the paper does for the fewest steps.
    """

    model: ScoreModel
    statistics: EmpiricalStatistics = field(repr=False)
    order: Annotated[int, whole(1, 4)] = 3
    correct: Annotated[bool, flag()] = True
    pseudo: Annotated[bool, flag()] = False

    def __post_init__(self) -> None:
        settle(self)

    def calls(self, grid: Grid) -> int:
        return grid.steps

    def fingerprints(self, grid: Grid) -> list[Any]:
        return [self.statistics.fingerprint]

    def plan(self, grid: Grid) -> list[V3Step]:
        steps = intervals(self.model.schedule, grid)
        lam = [0.5 * finite(step.t.log_snr) for step in steps]
        begin = int(steps[0].t.pure_noise)  # from where on there are logarithms
        linear = self.statistics.at(2.0 * np.array(lam))[0]
        return [
            V3Step(
                step.t,
                step.s,
                Cast(linear[i]),
                None if step.last or i < begin else self._rule(lam, i, lam[max(i - self.order + 1, begin) : i]),
                self._corrector(lam, i, begin),
            )
            for i, step in enumerate(steps)
        ]

    def _corrector(self, lam: Sequence[float], i: int, begin: int) -> Rule | None:
        if i <= begin or not self._corrects:
            return None
        return self._rule(lam, i - 1, [*lam[max(i - self.order + 1, begin) : i - 1], lam[i]])

    @property
    def _corrects(self) -> bool:
        return self.correct and self.order > 1

    def _rule(self, lam: Sequence[float], i: int, others: Sequence[float]) -> Rule:
        """From level i to the next, through g there and at the others, the last of them first."""
        return rule(self.statistics, lam[i], lam[i + 1], others[::-1], self.pseudo)

    def init(self, plan: Sequence[V3Step], x: Float[Tensor, " batch *dims"]) -> _State:
        return _State()

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: V3Step, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        prediction = self.model.predict(x_t, step.t)
        if step.last:
            return prediction.x_0, state
        if step.predictor is None:
            return from_noise(prediction, step.s), state
        y = x_t / step.t.alpha
        n = step.t.ratio * prediction.eps - step.linear.like(y) * y
        if step.corrector is not None:
            y = step.corrector(state.y, _between(state.values, n)[: len(step.corrector.weights)])
        values = (n, *state.values)[: self.order]
        return step.s.alpha * step.predictor(y, values[: len(step.predictor.weights)]), _State(y, values)


def _between(values: Sequence[Tensor], reached: Tensor) -> list[Tensor]:
    """N as a corrector takes it: where its step began, where it ended, before."""
    return [values[0], reached, *values[1:]]


class _Way:
    """Running integrals of the statistics from one half log-SNR to another."""

    def __init__(self, statistics: EmpiricalStatistics, start: float, end: float) -> None:
        self.width = end - start
        self.lam = np.linspace(start, end, LATTICE)
        linear, scale, offset = statistics.at(2.0 * self.lam)
        self.linear = self._running(linear)
        self.scale = self._running(scale)
        self.drift = self._running(np.exp(-self.scale) * offset)
        self.growth = np.exp(self.linear + self.scale)

    def _running(self, values: Array) -> Array:
        none = np.zeros((1, *values.shape[1:]))
        return self.width * scipy.integrate.cumulative_simpson(values, dx=1.0 / (LATTICE - 1), axis=0, initial=none)

    def integral(self, values: Array) -> Array:
        """Of e^{L + S} times the values, which belong to the lattice."""
        return self.width * scipy.integrate.simpson(self.growth * values, dx=1.0 / (LATTICE - 1), axis=0)


def rule(statistics: EmpiricalStatistics, start: float, end: float, others: Sequence[float], pseudo: bool = False) -> Rule:
    """The step from half log-SNR `start` to `end` with g through its values at `start` and at the others."""
    way = _Way(statistics, start, end)
    there = [_Way(statistics, start, node) for node in others]
    ones = (1,) * (way.growth.ndim - 1)
    powers = [way.integral(((way.lam - start) ** k).reshape(-1, *ones)) for k in range(len(others) + 1)]
    fitted = coefficients([node - start for node in others], pseudo)
    shares = [sum(fitted[k, j] * powers[k + 1] for k in range(len(others))) for j in range(len(others))]
    keep = np.exp(-way.linear[-1])
    offset = sum((share * node.drift[-1] for share, node in zip(shares, there, strict=True)), -way.integral(way.drift))
    weights = [share * np.exp(-node.scale[-1]) for share, node in zip(shares, there, strict=True)]
    kept = (-keep * weight for weight in (powers[0] - sum(shares), *weights))
    return Rule(Cast(keep), Cast(keep * offset), tuple(map(Cast, kept)))


def coefficients(nodes: Sequence[float], pseudo: bool = False) -> Float[np.ndarray, "n n"]:
    """Row k - 1: a_k of the polynomial through 0 at 0 and d_j at node j, in terms of d.

    >>> coefficients([-1.0, -2.0]).tolist()  # of d = (-1, -2): the line
    [[-2.0, 0.5], [-1.0, 0.5]]

    Args:
        pseudo: a_k of the polynomial through the first k of them instead.
    """
    n = len(nodes)
    x = np.array(nodes, dtype=np.float64)
    if not pseudo:
        return np.linalg.inv(x[:, None] ** np.arange(1, n + 1)) if n else np.zeros((0, 0))
    result = np.zeros((n, n))
    for k in range(1, n + 1):
        result[k - 1, :k] = np.linalg.inv(x[:k, None] ** np.arange(1, k + 1))[-1]
    return result
