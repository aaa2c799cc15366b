"""Posterior covariance models: what a reverse step adds to its mean, as noise and as a KL divergence.

p(x_s | x_t) = N(a x_t + b x0_hat, Sigma),   isotropic here: Sigma = var I

Beta           var = sigma_ts^2                  DDPM's larger handcrafted choice (eta = 1 only)
BetaTilde      var = rho^2                       DDPM's smaller choice; DDIM at eta = 0
Isotropic      var = rho^2 + b^2 V0(lam_t)       Analytic-DPM from a noise curve
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from score_sde_analytic.curve import NoiseCurve
from score_sde_analytic.gaussian import axpy, mean_square, normal_kl
from score_sde_analytic.kernel import Kernel
from score_sde_analytic.model import Prediction
from score_sde_analytic.schedule import Level


class StepCovariance(Protocol):
    """The covariance of one step, with everything settled that does not depend on the state."""

    def add_noise(self, mean: Tensor, prediction: Prediction, z: Tensor) -> Tensor:
        """mean + Sigma^{1/2} z for standard normal z; `mean` may be overwritten."""
        ...

    def kl(self, kernel: Kernel, prediction: Prediction, x_0: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) per sample, in nats per dimension, (batch,)."""
        ...


class Covariance(ABC):
    """A rule that gives every step its covariance.

    Attributes:
        products: vector products with the network's Jacobian so far, one per sample; 0 for rules that take none.
    """

    products: int = 0

    @abstractmethod
    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        """One `StepCovariance` per kernel; levels are those the steps start from."""

    @abstractmethod
    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> Any:
        """Plain data that identifies the covariances of these steps."""


@dataclass(frozen=True, slots=True)
class IsotropicStep:
    """Sigma = variance * I."""

    variance: float

    def add_noise(self, mean: Tensor, prediction: Prediction, z: Tensor) -> Tensor:
        return axpy(mean, z, math.sqrt(self.variance))

    def kl(self, kernel: Kernel, prediction: Prediction, x_0: Tensor) -> Tensor:
        error = kernel.b**2 * mean_square(x_0 - prediction.x_0)
        return normal_kl(error, kernel.rho2, self.variance)


class IsotropicCovariance(Covariance):
    """Sigma = var I with var a function of the step alone, so that whole lattices can be priced at once."""

    @abstractmethod
    def variance(self, kernel: Kernel, t: Level) -> Any:
        """var of a step from level t; kernel and level fields may be arrays."""

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        return [IsotropicStep(float(self.variance(k, t))) for k, t in zip(kernels, levels, strict=True)]

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[float]:
        return [float(self.variance(k, t)) for k, t in zip(kernels, levels, strict=True)]


class Beta(IsotropicCovariance):
    """var = sigma_ts^2."""

    def variance(self, kernel: Kernel, t: Level) -> Any:
        return kernel.beta


class BetaTilde(IsotropicCovariance):
    """var = rho^2."""

    def variance(self, kernel: Kernel, t: Level) -> Any:
        return kernel.rho2


@dataclass(frozen=True)
class Isotropic(IsotropicCovariance):
    """var = rho^2 + b^2 V0(lam_t), KL-optimal among isotropic variances.

    Args:
        curve: source of V0.
        max_posterior_variance: cap on V0, ((hi - lo)/2)^2 for data in [lo, hi]; inf for none.
    """

    curve: NoiseCurve
    max_posterior_variance: float = math.inf

    def optimal_for(self, curve: NoiseCurve) -> bool:
        """Whether these are the optimal variances when R is that of `curve`."""
        same = np.array_equal(curve.log_snr, self.curve.log_snr) and np.array_equal(curve.y, self.curve.y)
        return same and math.isinf(self.max_posterior_variance)

    def variance(self, kernel: Kernel, t: Level) -> Any:
        return kernel.variance(np.minimum(self.curve.posterior_variance(t.log_snr), self.max_posterior_variance))

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        v0 = self.curve.posterior_variance(np.array([t.log_snr for t in levels]))
        capped = np.minimum(v0, self.max_posterior_variance).tolist()
        return [IsotropicStep(k.variance(v)) for k, v in zip(kernels, capped, strict=True)]
