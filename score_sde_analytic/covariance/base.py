"""What a reverse step adds to its mean: the interface of every covariance, as noise, as a KL divergence, and as a price.

p(x_s | x_t) = N(a x_t + b x0_hat, Sigma)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.spectrum import Correction
from score_sde_analytic.models.model import Prediction
from score_sde_analytic.process.kernel import Kernel
from score_sde_analytic.process.schedule import Level


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
    #: Whether `step_nats` knows the price of steps before they are taken.
    priced: ClassVar[bool] = False
    #: What held-out data add to a fitted price; None for prices that are not fitted.
    correction: Correction | None = None

    def step_nats(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        """Predicted KL of steps at eta = 1, nats per dimension, where R of the network's mean is the curve's; levels broadcast.

        Raises:
            TypeError: these covariances depend on the state, so that no curve knows their price.
        """
        raise TypeError("this covariance cannot be priced from curves; measure the bound instead")

    def nodes(self, curve: NoiseCurve, log_snr: Array) -> Array | None:
        """R, (n,) or (n, nodes of equal mass), of which these covariances are the optimum; None where they are not."""
        return None

    @abstractmethod
    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        """One `StepCovariance` per kernel; levels are those the steps start from."""

    @abstractmethod
    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> Any:
        """Plain data that identifies the covariances of these steps."""
