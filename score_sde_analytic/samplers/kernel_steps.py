"""Steps by a reverse kernel with a covariance, as the samplers of the analytic family take them.

x_s = a x_t + b x0_hat + Sigma^{1/2} z
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.kernel import Kernel, kernels
from score_sde_analytic.process.level import Level
from score_sde_analytic.samplers.base import Step


@dataclass(frozen=True, slots=True)
class KernelStep(Step):
    """A step by a reverse kernel."""

    kernel: Kernel
    covariance: StepCovariance

    def mean(self, prediction: Prediction) -> Float[Tensor, " batch *dims"]:
        """a x_t + b x0_hat."""
        return prediction.combine(self.kernel.a, self.kernel.b)


def kernel_steps(levels: Sequence[Level], covariance: Covariance, eta: float) -> list[KernelStep]:
    """One step per pair of neighbouring levels, in visiting order."""
    return [KernelStep(*part) for part in step_parts(levels, covariance, eta)]


def step_parts(
    levels: Sequence[Level], covariance: Covariance, eta: float, shares: Iterable[float] | None = None
) -> Iterator[tuple[Level, Level, Kernel, StepCovariance]]:
    """What each of them is made of.

    Args:
        shares: of Cov(x_0 | x_t) that each step adds, in [0, 1]; None for all of it.
    """
    ks = kernels(levels, eta)
    sharing = ks
    if shares is not None:  # every posterior covariance enters its step as b^2 times itself
        sharing = [k._replace(b=k.b * math.sqrt(share)) for k, share in zip(ks, shares, strict=True)]
    covariances = covariance.steps(sharing, levels[:-1])
    return zip(levels[:-1], levels[1:], ks, covariances, strict=True)


def fingerprint(levels: Sequence[Level], covariance: Covariance, eta: float) -> Any:
    """Plain data that identify the covariances of the steps between these levels."""
    return covariance.fingerprint(kernels(levels, eta), levels[:-1])
