"""What a network said, seen as any of the quantities that determine each other, knowing x_t = alpha x_0 + sigma eps.

    score = -eps / sigma,   v = alpha eps - sigma x_0,   velocity u = eps - x_0 (dx_t/dt of the rectified flow)

    from eps        x_0 = (x_t - sigma eps) / alpha
    from x_0        eps = (x_t - alpha x_0) / sigma
    from v          x_0 = (alpha x_t - sigma v) / P,   eps = (sigma x_t + alpha v) / P,   P = alpha^2 + sigma^2
    from velocity   x_0 = (x_t - sigma u) / S,         eps = (x_t + alpha u) / S,         S = alpha + sigma

What came is kept as it came: through eps, a v would lose x_0 where alpha is small, and all of it at alpha = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.arrays import onto, precise
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.conditions import NONE, Conditions
from score_sde_analytic.models.times import Number
from score_sde_analytic.process.gaussian import add_scaled_, axpy, expand, scaled
from score_sde_analytic.process.level import Level

Kind = Literal["eps", "x_0", "v", "velocity"]
#: kind -> (g, h, D) of x_0 = (g x_t - sigma y) / D and, where h is there, eps = (h x_t + alpha y) / D.
READINGS: dict[str, Callable[[Level], tuple[Any, Any, Any]]] = {
    "eps": lambda level: (1.0, None, level.alpha),
    "v": lambda level: (level.alpha, level.sigma, level.alpha**2 + level.sigma**2),
    "velocity": lambda level: (1.0, 1.0, level.alpha + level.sigma),
}


@dataclass(frozen=True, init=False)
class Prediction:
    """One network output seen as eps, x_0, v, velocity or score; all views describe the same number.

    >>> prediction = model(torch.ones(1, 2), 0.5)
    >>> torch.allclose(prediction.level.diffuse(prediction.x_0, prediction.eps), prediction.x_t)
    True

    Attributes:
        x_t: the network's input.
        level: its noise level.
        value: what is known, in the units of `kind`.
        kind: "eps", "x_0", "v" or "velocity".
        extra: the features that the network returned, or None.
        learned_range: the v that it returned of a learned variance, or None.
        conditions: on which it was said.
    """

    x_t: Float[Tensor, " batch *dims"]
    level: Level
    value: Float[Tensor, " batch *dims"]
    kind: Kind
    extra: Shaped[Tensor, " batch ..."] | None = None
    learned_range: Float[Tensor, " batch *dims"] | None = None
    conditions: Conditions = NONE

    def __init__(
        self,
        x_t: Float[Tensor, " batch *dims"],
        level: Level,
        value: Float[Tensor, " batch *dims"],
        kind: Kind,
        extra: Shaped[Tensor, " batch ..."] | None = None,
        learned_range: Float[Tensor, " batch *dims"] | None = None,
        conditions: Conditions = NONE,
    ) -> None:
        # At once, as there is one of them per step: to set frozen fields one by one takes twice the time.
        vars(self).update(
            x_t=x_t, level=level, value=value, kind=kind, extra=extra, learned_range=learned_range, conditions=conditions
        )

    @property
    def _wide(self) -> tuple[Tensor, Tensor]:
        """(x_t, value) in float32 or better: quotients by small numbers leave half precision's range."""
        return precise(self.x_t), onto(self.value, self.x_t.device)

    def _mixed(self, a: Number, b: Number) -> Tensor:
        """a x_t + b value, in two passes over the data: the coefficients were worked out in float64."""
        x_t, value = self._wide
        mixed = add_scaled_(scaled(x_t, a), value, b)
        return mixed if mixed.dtype == self.x_t.dtype else mixed.to(self.x_t.dtype)

    @property
    def _reading(self) -> tuple[Any, Any, Any]:
        """(g, h, D) of `READINGS`."""
        g, h, divisor = READINGS[self.kind](self.level)
        if not isinstance(divisor, Tensor) and divisor == 0.0:
            raise InputError(
                "alpha = 0 is pure noise, of which eps and score say nothing about x_0: end the schedule above it, or use a"
                " network that predicts x_0, v, velocity or EDM's F"
            )
        return g, h, divisor

    @cached_property
    def x_0(self) -> Float[Tensor, " batch *dims"]:
        """E[x_0 | x_t] as the network believes it.

        Raises:
            InputError: eps is known, and alpha is 0.
        """
        if self.kind == "x_0":
            return self.value.to(self.x_t)
        g, _, divisor = self._reading
        if self.kind == "eps":
            x_t, value = self._wide
            return axpy(x_t, value, -self.level.sigma).div_(expand(divisor, x_t)).to(self.x_t)
        return self._mixed(g / divisor, -self.level.sigma / divisor)

    @cached_property
    def eps(self) -> Float[Tensor, " batch *dims"]:
        """E[eps | x_t]."""
        if self.kind == "eps":
            return self.value.to(self.x_t)
        if self.kind == "x_0":
            x_t, value = self._wide
            return axpy(x_t, value, -self.level.alpha).div_(expand(self.level.sigma, x_t)).to(self.x_t)
        _, h, divisor = self._reading
        return self._mixed(h / divisor, self.level.alpha / divisor)

    def error(self, x_0: Float[Tensor, " batch *dims"], eps: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """eps - eps_hat = alpha (x0_hat - x_0) / sigma for what x_t is made of, from whichever of the two was said.

        >>> prediction = Prediction(torch.ones(1, 2), Level(0.5, 0.6, 0.8, -0.575), torch.zeros(1, 2), "x_0")
        >>> prediction.error(torch.ones(1, 2), torch.full((1, 2), 0.5))
        tensor([[-0.7500, -0.7500]])
        """
        if self.kind == "x_0":
            return (self.x_0 - x_0).mul_(expand(self.level.alpha / self.level.sigma, x_0))
        return eps - self.eps

    @property
    def score(self) -> Float[Tensor, " batch *dims"]:
        """grad log q(x_t) = -eps / sigma."""
        return self.eps / expand(-self.level.sigma, self.x_t)

    @property
    def v(self) -> Float[Tensor, " batch *dims"]:
        """alpha eps - sigma x_0 (Salimans & Ho, ICLR 2022)."""
        if self.kind == "v":
            return self.value.to(self.x_t)
        alpha, sigma = self.level.alpha, self.level.sigma
        if self.kind == "velocity":
            return self._mixed((alpha - sigma) / (alpha + sigma), (alpha**2 + sigma**2) / (alpha + sigma))
        return expand(alpha, self.x_t) * self.eps - expand(sigma, self.x_t) * self.x_0

    @property
    def velocity(self) -> Float[Tensor, " batch *dims"]:
        """eps - x_0, dx_t/dt where alpha = 1 - t and sigma = t (Liu et al., ICLR 2023; Lipman et al., ICLR 2023)."""
        if self.kind == "velocity":
            return self.value.to(self.x_t)
        alpha, sigma = self.level.alpha, self.level.sigma
        if self.kind == "x_0":
            return self._mixed(1.0 / sigma, -(alpha + sigma) / sigma)
        g, _, divisor = self._reading
        if self.kind == "eps":
            return self._mixed(-1.0 / divisor, (alpha + sigma) / divisor)
        return self._mixed((sigma - g) / divisor, (alpha + sigma) / divisor)

    def combine(self, a: Number, b: Number) -> Float[Tensor, " batch *dims"]:
        """a x_t + b x_0, in two passes over the data: its coefficients on what is known are worked out in float64."""
        if self.kind == "x_0":
            return self._mixed(a, b)
        g, _, divisor = self._reading
        b = b / divisor
        return self._mixed(a + b * g, -b * self.level.sigma)

    def posterior_product(self, v: Float[Tensor, "n d"], pulled: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """alpha (dx_0 / dx_t)^T v, Cov(eps | x_t) v of an exact score, where `pulled` is (d value / dx_t)^T v."""
        alpha, sigma = (expand(scalar, pulled) for scalar in (self.level.alpha, self.level.sigma))
        if self.kind == "x_0":
            return pulled * alpha
        if self.kind == "eps":
            return v - pulled * sigma
        g, _, divisor = self._reading
        return v * expand(self.level.alpha * g / divisor, v) - pulled * expand(self.level.alpha * self.level.sigma / divisor, v)

    def clamp(self, lo: float, hi: float) -> Prediction:
        """The prediction with x_0 confined to [lo, hi]; every view follows.

        >>> model(torch.ones(1, 2), 0.5).clamp(-0.1, 0.1).x_0
        tensor([[0.1, 0.1]])
        """
        return replace(self, value=self.x_0.clamp(lo, hi), kind="x_0")
