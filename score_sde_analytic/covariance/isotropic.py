"""Posterior covariance models: what a reverse step adds to its mean, as noise and as a KL divergence.

p(x_s | x_t) = N(a x_t + b x0_hat, Sigma),   isotropic here: Sigma = var I

Beta           var = sigma_ts^2                  DDPM's larger handcrafted choice (eta = 1 only)
BetaTilde      var = rho^2                       DDPM's smaller choice; DDIM at eta = 0
Isotropic      var = rho^2 + b^2 V0(lam_t)       Analytic-DPM from a noise curve
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import each, number, settle
from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.data.basis import Scalar
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import plain
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.gaussian import add_scaled_, mean_square, normal_kl, step_kl
from score_sde_analytic.process.kernel import Kernel, reverse_kernel
from score_sde_analytic.process.level import Level


@dataclass(frozen=True, slots=True)
class IsotropicStep(StepCovariance):
    """Sigma = variance * I."""

    variance: float

    def add_noise(
        self, mean: Float[Tensor, " batch *dims"], prediction: Prediction, z: Float[Tensor, " batch *dims"]
    ) -> Float[Tensor, " batch *dims"]:
        return add_scaled_(mean, z, math.sqrt(self.variance))

    def kl(self, kernel: Kernel, prediction: Prediction, x_0: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
        return normal_kl(kernel.error(mean_square(x_0 - prediction.x_0)), kernel.rho2, self.variance)

    @property
    def basis(self) -> Scalar:
        return Scalar()

    def variances(self, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        return torch.full_like(prediction.x_t, self.variance, dtype=torch.float64)

    @property
    def silent(self) -> bool:
        return self.variance == 0.0

    def capped(self, variance: float) -> IsotropicStep:
        return IsotropicStep(min(self.variance, variance))


class IsotropicCovariance(Covariance):
    """Sigma = var I with var a function of the step alone, so that whole lattices can be priced at once."""

    priced: ClassVar[bool] = True
    isotropic: ClassVar[bool] = True

    @abstractmethod
    def variance(self, kernel: Kernel, t: Level) -> Any:
        """var of a step from level t; kernel and level fields may be arrays."""

    def step_nats(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        kernel = reverse_kernel(s, t)
        variance = self.variance(kernel, t)
        added = variance - kernel.rho2
        excess = kernel.b**2 * curve.posterior_variance(t.log_snr)
        return step_kl(excess, kernel.rho2, added, variance)

    def step_slopes(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        """-b^2 V0 Lambda / (2 var): the divergence grows by half the error over the variance, dV0 / dy = -V0 Lambda."""
        kernel = reverse_kernel(s, t)
        error = kernel.b**2 * curve.posterior_variance(t.log_snr)
        return np.asarray(-0.5 * error * curve.noise_power(t.log_snr) / self.variance(kernel, t))

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        return [IsotropicStep(float(self.variance(k, t))) for k, t in zip(kernels, levels, strict=True)]

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[float]:
        return [float(self.variance(k, t)) for k, t in zip(kernels, levels, strict=True)]


@dataclass(frozen=True)
class StepVariances(Covariance):
    """var of every step of one chain, as numbers: what is left of any isotropic covariance once its steps are known.

    Raises:
        InputError: as steps, another number of them than there are variances.

    >>> StepVariances((0.9, 0.3)).content()
    {'name': 'steps', 'variances': [0.9, 0.3]}
    """

    isotropic: ClassVar[bool] = True
    variances: Annotated[tuple[float, ...], each(number(above=0))]

    def __post_init__(self) -> None:
        settle(self)

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        if len(kernels) != len(self.variances):
            raise InputError(f"these are variances of {len(self.variances)} steps, not of {len(kernels)}")
        return [IsotropicStep(variance) for variance in self.variances]

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[float]:
        return list(self.variances)

    def content(self) -> dict[str, Any]:
        return {"name": "steps", "variances": list(self.variances)}


class Beta(IsotropicCovariance):
    """var = sigma_ts^2.

    >>> s, t = model.schedule.level(0.4), model.schedule.level(0.5)
    >>> round(Beta().variance(reverse_kernel(s, t), t), 3)
    0.596
    """

    ddpm_only: ClassVar[bool] = True
    has_posterior: ClassVar[bool] = False

    def variance(self, kernel: Kernel, t: Level) -> Any:
        return kernel.beta

    def content(self) -> dict[str, Any]:
        return {"name": "beta"}


class BetaTilde(IsotropicCovariance):
    """var = rho^2.

    >>> s, t = model.schedule.level(0.4), model.schedule.level(0.5)
    >>> round(BetaTilde().variance(reverse_kernel(s, t), t), 3)
    0.520
    """

    def variance(self, kernel: Kernel, t: Level) -> Any:
        return kernel.rho2

    def content(self) -> dict[str, Any]:
        return {"name": "beta_tilde"}


@dataclass(frozen=True)
class Isotropic(IsotropicCovariance):
    """var = rho^2 + b^2 V0(lam_t), KL-optimal among isotropic variances.

    Args:
        curve: source of V0.
        max_posterior_variance: cap on V0, ((hi - lo)/2)^2 for data in [lo, hi]; inf for none.

    >>> s, t = model.schedule.level(0.4), model.schedule.level(0.5)
    >>> round(float(Isotropic(curve).variance(reverse_kernel(s, t), t)), 3)
    0.570
    """

    curve: NoiseCurve
    max_posterior_variance: Annotated[float, number(0, math.inf)] = math.inf

    def __post_init__(self) -> None:
        settle(self)

    def content(self) -> dict[str, Any]:
        """An infinite cap is null."""
        return {
            "name": "isotropic",
            "log_snr": self.curve.log_snr.tolist(),
            "y": self.curve.y.tolist(),
            "source": self.curve.source,
            "max_posterior_variance": plain(self.max_posterior_variance),
        }

    def optimal_for(self, curve: NoiseCurve) -> bool:
        """Whether these are the optimal variances when R is that of `curve`."""
        same = np.array_equal(curve.log_snr, self.curve.log_snr) and np.array_equal(curve.y, self.curve.y)
        return same and math.isinf(self.max_posterior_variance)

    def nodes(self, curve: NoiseCurve, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"] | None:
        return np.asarray(curve.residual(log_snr)) if self.optimal_for(curve) else None

    def variance(self, kernel: Kernel, t: Level) -> Any:
        return kernel.variance(np.minimum(self.curve.posterior_variance(t.log_snr), self.max_posterior_variance))

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        v0 = self.curve.posterior_variance(np.array([t.log_snr for t in levels]))
        capped = np.minimum(v0, self.max_posterior_variance).tolist()
        return [IsotropicStep(k.variance(v)) for k, v in zip(kernels, capped, strict=True)]
