"""Learned covariances: small heads on a frozen network, diagonal in the coordinates of the data and dependent on the state.

    Sigma = diag(rho^2 + b^2 exp(-lam_t) R_i(x_t)),   R_i(x_t) = E[(eps - eps_hat)_i^2 | x_t]                (LearnedDiagonal)

NPR   g = E[(eps - eps_hat)_i^2 | x_t] by regression: R = g. Optimal for whatever mean the network has.
SN    h = E[eps_i^2 | x_t] by regression: R = max(h - eps_hat_i^2, 0). Right only if eps_hat = E[eps | x_t]; and where R is
      small, at both ends of the noise levels, it is the difference of two large numbers. (Both: Bao et al., ICML 2022.)
OCM   R = 1 - sigma_t d eps_hat_i / d x_i, the diagonal of Cov(eps | x_t) that the network itself believes in, regressed by
      Rademacher probes: v * (J^T v) has the mean diag J (Ou et al., ICLR 2025). It knows nothing of the mean's errors, until
      it is calibrated.

    log Sigma_i = u_i log beta + (1 - u_i) log beta_tilde,   u = (v + 1)/2,   eta = 1 only                      (Interpolated)

with v an output of the network itself, or of a head, and beta, beta_tilde of the step at hand (Nichol & Dhariwal, ICML 2021,
eq. 15).

NPR and OCM output y with R = sigmoid(lam - y): R stays within (0, 1), and y varies slowly though R is about exp(lam) where
noise is large. Calibration adds a shift, linear between knots in log-SNR, to log(R / (1 - R)), or to v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.covariance.head_networks import Head, RangeHead, ResidualHead, log_snrs
from score_sde_analytic.data.basis import PixelChannel
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.gaussian import diagonal_kl, expand, square_error
from score_sde_analytic.process.kernel import Kernel
from score_sde_analytic.process.level import Level

# --- covariances --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ExcessStep(StepCovariance):
    """Sigma = diag(rho^2 + excess(x_t)); who adds the noise decides nothing else."""

    kernel: Kernel
    source: LearnedDiagonal | Interpolated

    @property
    def basis(self) -> PixelChannel:
        return PixelChannel()

    def variances(self, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        return self.kernel.rho2 + self.source.excess(self.kernel, prediction)

    def add_noise(
        self, mean: Float[Tensor, " batch *dims"], prediction: Prediction, z: Float[Tensor, " batch *dims"]
    ) -> Float[Tensor, " batch *dims"]:
        return mean + self.variances(prediction).sqrt().to(z.dtype) * z

    def kl(self, kernel: Kernel, prediction: Prediction, x_0: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
        error = kernel.error(square_error(x_0, prediction.x_0))
        return diagonal_kl(error, kernel.rho2, self.source.excess(self.kernel, prediction))


@dataclass(eq=False)
class LearnedDiagonal(Covariance):
    """Sigma = diag(rho^2 + b^2 exp(-lam_t) R_i(x_t)), R from a head; any eta, any step. One evaluation of the head per step."""

    head: ResidualHead

    def __post_init__(self) -> None:
        if not isinstance(self.head, ResidualHead):
            raise InputError(f"a {type(self.head).__name__} gives no residual; use Interpolated with it")

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        return [_ExcessStep(kernel, self) for kernel in kernels]

    @torch.no_grad()
    def excess(self, kernel: Kernel, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        """b^2 V0 of every coordinate."""
        return kernel.excess(self.head.residual(prediction), log_snrs(prediction))

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> dict[str, Any]:
        return {"name": "learned"} | self.head.fingerprint()


@dataclass(eq=False)
class Interpolated(Covariance):
    """log var = u log beta + (1 - u) log beta_tilde, u = (v + 1)/2, with beta and beta_tilde of the step at hand.

    Args:
        head: source of v; None takes it from the network, which `LearnedRange` wraps.

    Raises:
        InputError: a step with eta < 1, for which beta is no bound; or noise at s = 0, where beta_tilde is 0.
    """

    ddpm_only: ClassVar[bool] = True
    has_posterior: ClassVar[bool] = False
    head: RangeHead | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.head, RangeHead | None):
            raise InputError(f"a {type(self.head).__name__} gives no range of variances; use LearnedDiagonal with it")

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        for kernel in kernels:
            self.require_eta(kernel.eta)
        return [_ExcessStep(kernel, self) for kernel in kernels]

    def content(self) -> dict[str, Any]:
        return super().content() if self.head is not None else {"name": "interpolated"}

    def range(self, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        """v of every coordinate."""
        if self.head is not None:
            return self.head.calibrated(prediction)
        learned = prediction.learned_range
        if learned is None or learned.shape != prediction.x_t.shape:
            raise InputError("the model gives no learned variance: build the ScoreModel with LearnedRange(net), or pass a head")
        return learned.double()

    @torch.no_grad()
    def excess(self, kernel: Kernel, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        """var - beta_tilde of every coordinate; negative where u < 0."""
        if isinstance(kernel.rho2, float) and kernel.rho2 == 0.0:
            raise InputError("at s = 0 beta_tilde is 0 and there is nothing to interpolate: end with final='mean'")
        return range_excess(kernel.beta, kernel.rho2, self.range(prediction))

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> dict[str, Any]:
        return {"name": "interpolated"} | ({} if self.head is None else self.head.fingerprint())


def range_excess(beta: Any, rho2: Any, v: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
    """var - rho^2 = rho^2 ((beta / rho^2)^u - 1), u = (v + 1)/2.

    >>> range_excess(0.04, 0.01, torch.tensor([-1.0, 0.0, 1.0]))
    tensor([0.0000, 0.0100, 0.0300])
    """
    ratio = torch.log(torch.as_tensor(beta / rho2, dtype=torch.float64, device=v.device))
    return expand(torch.as_tensor(rho2, dtype=torch.float64, device=v.device), v) * torch.expm1(
        0.5 * (v + 1.0) * expand(ratio, v)
    )


def covariance_of(head: Head) -> LearnedDiagonal | Interpolated:
    """The covariance that a head gives."""
    return Interpolated(head) if isinstance(head, RangeHead) else LearnedDiagonal(head)  # type: ignore[arg-type]
