"""What a network said, seen as any of the quantities that determine each other.

x_t = alpha x_0 + sigma eps,   score = -eps / sigma,   v = alpha eps - sigma x_0
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.arrays import onto
from score_sde_analytic.models.conditions import NONE, Conditions
from score_sde_analytic.models.times import Number
from score_sde_analytic.process.gaussian import axpy, expand
from score_sde_analytic.process.level import Level


@dataclass(frozen=True)
class Prediction:
    """One network output seen as eps, x_0, v or score; all views describe the same number.

    >>> prediction = model(torch.ones(1, 2), 0.5)
    >>> torch.allclose(prediction.level.diffuse(prediction.x_0, prediction.eps), prediction.x_t)
    True

    Attributes:
        x_t: the network's input.
        level: its noise level.
        value: what is known, in the units of `kind`.
        kind: "eps" or "x_0".
        extra: the features that the network returned, or None.
        learned_range: the v that it returned of a learned variance, or None.
        conditions: on which it was said.
    """

    x_t: Float[Tensor, " batch *dims"]
    level: Level
    value: Float[Tensor, " batch *dims"]
    kind: Literal["eps", "x_0"]
    extra: Shaped[Tensor, " batch ..."] | None = None
    learned_range: Float[Tensor, " batch *dims"] | None = None
    conditions: Conditions = NONE

    @property
    def _wide(self) -> tuple[Tensor, Tensor]:
        """(x_t, value) in float32 or better: quotients by small numbers leave half precision's range."""
        return onto(self.x_t, self.x_t.device), onto(self.value, self.x_t.device)

    @cached_property
    def x_0(self) -> Float[Tensor, " batch *dims"]:
        """E[x_0 | x_t] as the network believes it."""
        if self.kind == "x_0":
            return self.value.to(self.x_t)
        x_t, value = self._wide
        return (axpy(x_t, value, -self.level.sigma) / expand(self.level.alpha, x_t)).to(self.x_t)

    @cached_property
    def eps(self) -> Float[Tensor, " batch *dims"]:
        """E[eps | x_t]."""
        if self.kind == "eps":
            return self.value.to(self.x_t)
        x_t, value = self._wide
        return (axpy(x_t, value, -self.level.alpha) / expand(self.level.sigma, x_t)).to(self.x_t)

    @property
    def score(self) -> Float[Tensor, " batch *dims"]:
        """grad log q(x_t) = -eps / sigma."""
        return self.eps / expand(-self.level.sigma, self.x_t)

    @property
    def v(self) -> Float[Tensor, " batch *dims"]:
        """alpha eps - sigma x_0 (Salimans & Ho, ICLR 2022)."""
        return expand(self.level.alpha, self.x_t) * self.eps - expand(self.level.sigma, self.x_t) * self.x_0

    def combine(self, a: Number, b: Number) -> Float[Tensor, " batch *dims"]:
        """a x_t + b x_0, in two passes over the data: its coefficients on eps are worked out in float64."""
        if self.kind == "eps":
            b = b / self.level.alpha
            a, b = a + b, -b * self.level.sigma
        x_t, value = self._wide
        return axpy(x_t * expand(a, x_t), value, b).to(self.x_t)

    def clamp(self, lo: float, hi: float) -> Prediction:
        """The prediction with x_0 confined to [lo, hi]; every view follows.

        >>> model(torch.ones(1, 2), 0.5).clamp(-0.1, 0.1).x_0
        tensor([[0.1, 0.1]])
        """
        return replace(self, value=self.x_0.clamp(lo, hi), kind="x_0")
