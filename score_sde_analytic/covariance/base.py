"""What a reverse step adds to its mean: the interface of every covariance, as noise, as a KL divergence, and as a price.

p(x_s | x_t) = N(a x_t + b x0_hat, Sigma)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.basis import Basis
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.held_out import Correction
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.kernel import Kernel
from score_sde_analytic.process.level import Level


class StepCovariance(ABC):
    """The covariance of one step, with everything settled that does not depend on the state."""

    __slots__ = ()

    @abstractmethod
    def add_noise(
        self, mean: Float[Tensor, " batch *dims"], prediction: Prediction, z: Float[Tensor, " batch *dims"]
    ) -> Float[Tensor, " batch *dims"]:
        """mean + Sigma^{1/2} z for standard normal z; `mean` may be overwritten."""

    @abstractmethod
    def kl(self, kernel: Kernel, prediction: Prediction, x_0: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) per sample, in nats per dimension."""

    @property
    def basis(self) -> Basis:
        """U, in which it is diagonal whatever the state.

        Raises:
            UnsupportedError: there is none.
        """
        raise UnsupportedError(
            f"{type(self).__name__} is diagonal in no fixed basis, coordinate by coordinate; take Isotropic, Diagonal or a head"
        )

    def variances(self, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        """Of every coefficient in `basis`, where it is diagonal in one.

        Raises:
            UnsupportedError: it is not.
        """
        raise UnsupportedError(f"{type(self).__name__} has no variances of single coefficients; take Isotropic or Diagonal")

    @property
    def silent(self) -> bool:
        """Whether it adds nothing, whatever the state."""
        return False

    def capped(self, variance: float) -> StepCovariance:
        """min(var, variance) I where this is var I.

        Raises:
            InputError: a covariance that is not isotropic.
        """
        raise InputError("the last-step noise clip is defined for isotropic covariances; set clip=0")


class Covariance(ABC):
    """A rule that gives every step its covariance."""

    #: Whether `step_nats` knows the price of steps before they are taken.
    priced: ClassVar[bool] = False
    #: Whether every step is var I with a var that `variance` knows beforehand.
    isotropic: ClassVar[bool] = False
    #: Whether it is made of beta, a variance of the kernel of eta = 1 alone.
    ddpm_only: ClassVar[bool] = False
    #: Whether what it adds to rho^2 is b^2 Cov(x_0 | x_t), so that a sampler may take a share of it.
    has_posterior: ClassVar[bool] = True
    #: Whether `step_nats` is the cost of recorded draws, whatever the curve.
    judged: ClassVar[bool] = False
    #: What held-out data add to a fitted price; None for prices that are not fitted.
    correction: Correction | None = None

    def step_nats(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        """Predicted KL of steps at eta = 1, nats per dimension, where R of the network's mean is the curve's; levels broadcast.

        Raises:
            UnsupportedError: these covariances depend on the state, so that no curve knows their price.
        """
        raise UnsupportedError("this covariance cannot be priced from curves; measure the bound instead")

    def step_slopes(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        """How `step_nats` changes where y of the network's mean is a unit larger than the curve's, these covariances fixed."""
        step = 1e-4
        above, below = (self.step_nats(replace(curve, y=curve.y + shift), s, t) for shift in (step, -step))
        return (above - below) / (2.0 * step)

    def variance(self, kernel: Kernel, t: Level) -> Any:
        """var of an isotropic step from level t; kernel and level fields may be arrays.

        Raises:
            UnsupportedError: the covariance is not isotropic.
        """
        raise UnsupportedError(f"{type(self).__name__} is no multiple of the identity; ask for `isotropic` first")

    def require_eta(self, eta: float) -> None:
        """Refuse a kernel that these covariances do not belong to.

        Raises:
            InputError: eta < 1 and a covariance that is `ddpm_only`.
        """
        if self.ddpm_only and eta != 1.0:
            raise InputError(
                f"{type(self).__name__} is made of beta, a variance of the DDPM kernel: use eta=1, or BetaTilde for eta<1"
            )

    def extra_calls(self, steps: int) -> int:
        """Network calls and vector products per sample that so many noisy steps take besides their own call."""
        return 0

    def nodes(
        self, curve: NoiseCurve, log_snr: Float64[Array, " n"]
    ) -> Float64[Array, " n"] | Float64[Array, "n nodes"] | None:
        """R, or nodes of equal mass of its distribution, of which these covariances are optimal; None where not."""
        return None

    def content(self) -> dict[str, Any]:
        """It as JSON has it, which `covariance.of_content` reads.

        Raises:
            UnsupportedError: it holds a network, or is one's own.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no form of plain data: it holds a network or is of your own; take Isotropic or Diagonal"
        )

    @abstractmethod
    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        """One `StepCovariance` per kernel; levels are those the steps start from."""

    @abstractmethod
    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> Any:
        """Plain data that identifies the covariances of these steps."""
