"""The scalars of a noise level, and what they do to data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.process.gaussian import axpy, expand

#: Stands for log-SNR -inf in what is regular there but not in these terms: R = C e^lam is exact to e^-80.
PURE_NOISE = -80.0


def finite(log_snr: Any) -> Any:
    """Log-SNRs with `PURE_NOISE` for -inf; floats, arrays or tensors.

    >>> finite(-math.inf), finite(np.array([-math.inf, 0.0]))
    (-80.0, array([-80.,   0.]))
    """
    if isinstance(log_snr, Tensor):
        return log_snr.clamp_min(PURE_NOISE)
    return max(log_snr, PURE_NOISE) if isinstance(log_snr, float) else np.maximum(log_snr, PURE_NOISE)


class Level(NamedTuple):
    """The scalars of a noise level: floats, or float64 tensors (batch,) for one level per sample, or arrays for a lattice.

    >>> level = Level(0.5, 0.6, 0.8, -0.575)
    >>> level.ratio, level.norm
    (1.333, 1.000)
    """

    t: Any
    alpha: Any
    sigma: Any
    log_snr: Any

    @property
    def pure_noise(self) -> bool:
        """Whether one level has no signal at all, alpha = 0: log-SNR -inf."""
        return isinstance(self.alpha, float) and self.alpha == 0.0

    @property
    def ratio(self) -> Any:
        """sigma / alpha, the noise level in variance-exploding coordinates; inf in pure noise."""
        return math.inf if self.pure_noise else self.sigma / self.alpha

    @property
    def norm(self) -> Any:
        """sqrt(alpha^2 + sigma^2), what x_t is divided by in variance-preserving coordinates."""
        return (self.alpha**2 + self.sigma**2) ** 0.5

    def diffuse(self, x_0: Float[Tensor, " batch *dims"], eps: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """x_t = alpha x_0 + sigma eps."""
        return axpy(expand(self.alpha, x_0) * x_0, eps, self.sigma)
