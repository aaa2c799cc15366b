"""The variance of a guided chain, and the price of its steps, by which grids under guidance are chosen.

    var = rho^2 + b^2 V0                                   of the conditional model, the best at every scale
    nats = those of the conditional model + b^2 exp(-lam_t) w^2 G / (2 var),   G = R_u - R_c,   w = scale - 1

so that the optimal grid takes small steps where the condition is still being told, which is before details are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import number, settle
from score_sde_analytic.covariance.base import StepCovariance
from score_sde_analytic.covariance.isotropic import Isotropic, IsotropicCovariance
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.process.kernel import Kernel, reverse_kernel
from score_sde_analytic.process.level import Level


@dataclass(frozen=True)
class Guided(IsotropicCovariance):
    """var = rho^2 + b^2 V0(lam_t) of the conditional model, at the price of the guided chain.

    Args:
        own: the variances of the conditional model.
        unconditional: the curve of the model without its condition; where it lies below the other, by errors, G is 0.
        scale: as of `guidance.ClassifierFree`.

    >>> from score_sde_analytic.measure import NoiseCurve
    >>> worse = NoiseCurve(curve.log_snr, curve.y - 0.5)
    >>> s, t = model.schedule.level(0.4), model.schedule.level(0.5)
    >>> [round(float(Guided(Isotropic(curve), worse, scale).step_nats(curve, s, t)), 4) for scale in (1.0, 2.0, 3.0)]
    [0.0456, 0.0716, 0.1494]
    """

    own: Isotropic
    unconditional: NoiseCurve
    scale: Annotated[float, number()]

    def __post_init__(self) -> None:
        settle(self)

    def variance(self, kernel: Kernel, t: Level) -> Array:
        return self.own.variance(kernel, t)

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        return self.own.steps(kernels, levels)

    def step_nats(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        gap = np.asarray(self.unconditional.posterior_variance(t.log_snr)) - curve.posterior_variance(t.log_snr)
        return self.own.step_nats(curve, s, t) + self._pull(s, t) * np.maximum(gap, 0.0)

    def step_slopes(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        """What the conditional curve rises by, G falls by: those of the conditional model times 1 - w^2 where G > 0."""
        gap = np.asarray(self.unconditional.posterior_variance(t.log_snr)) > curve.posterior_variance(t.log_snr)
        return self.own.step_slopes(curve, s, t) * (1.0 - gap * (self.scale - 1.0) ** 2)

    def _pull(self, s: Level, t: Level) -> Array:
        """w^2 b^2 / (2 var)."""
        kernel = reverse_kernel(s, t)
        return 0.5 * (self.scale - 1.0) ** 2 * kernel.b**2 / self.own.variance(kernel, t)
