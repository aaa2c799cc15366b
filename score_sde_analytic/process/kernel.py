"""The reverse kernel q(x_s | x_t, x_0) for any s < t and any eta: the only place that knows the variance algebra.

    h      = lam_s - lam_t,   w = 1 - exp(-h) = sigma_ts^2 / sigma_t^2
    rho^2  = eta^2 sigma_s^2 w                          variance; eta = 1: DDPM posterior, eta = 0: DDIM
    a      = sqrt(sigma_s^2 - rho^2) / sigma_t
    b      = alpha_s - a alpha_t
    mean   = a x_t + b x_0
    var    = rho^2 + b^2 V0,   V0 = tr Cov(x_0 | x_t) / d = exp(-lam_t) R   (KL-optimal once x_0 is replaced by x0_hat)

(Song et al., DDIM, ICLR 2021; Bao et al., Analytic-DPM, ICLR 2022, eq. 8 with lambda^2 = rho^2, read in continuous time.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.checks import number
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.gaussian import expand, normal_kl
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule

ETA = number(0, 1)
#: sqrt, exp and expm1 of floats, and of arrays.
SCALAR, LATTICE = (math.sqrt, math.exp, math.expm1), (np.sqrt, np.exp, np.expm1)


class Kernel(NamedTuple):
    """Coefficients of q(x_s | x_t, x_0) = N(a x_t + b x_0, rho2 I); floats, or arrays that broadcast.

    >>> kernel = reverse_kernel(model.schedule.level(0.4), model.schedule.level(0.5))
    >>> kernel.variance(0.0) == kernel.rho2, kernel.variance(0.1) - kernel.rho2
    (True, 0.0)

    Attributes:
        beta: sigma_ts^2, variance of x_t given x_s: DDPM's handcrafted "beta". (Its "beta-tilde" is rho2 at eta = 1.)
        eta: what rho2 was made with.
    """

    a: Any
    b: Any
    rho2: Any
    beta: Any
    eta: float = 1.0

    def variance(self, posterior_variance: Any) -> Any:
        """rho^2 + b^2 V0, the optimal variance of p(x_s | x_t) whose mean uses x0_hat in place of x_0."""
        return self.rho2 + self.b**2 * posterior_variance

    def excess(self, residual: Any, log_snr: Any) -> Any:
        """b^2 exp(-lam_t) R, what the optimal variance adds to rho^2.

        Args:
            residual: R of a step, of every coordinate or of every sample; a float, or (batch, *dims).
            log_snr: lam_t, a float, or float64 (batch,).
        """
        inverse_snr = torch.exp(-log_snr) if isinstance(log_snr, Tensor) else math.exp(-log_snr)
        return expand(self.b**2 * inverse_snr, residual) * residual

    def error(self, square: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """b^2 times the squared error of x0_hat: that of the mean; of every coordinate, (batch, *dims), or sample, (batch,)."""
        return expand(self.b**2, square) * square


def reverse_kernel(s: Level, t: Level, eta: float = 1.0) -> Kernel:
    """The kernel from level t down to level s; level fields may be floats or broadcastable arrays.

    Accurate for steps from 1e-12 to infinity in log-SNR: differences of nearly equal numbers are avoided.

    >>> reverse_kernel(model.schedule.level(0.0), model.schedule.level(0.5)).b  # a step to the data gives x0_hat
    1.0
    >>> reverse_kernel(model.schedule.level(0.4), model.schedule.level(0.5), eta=0.0).rho2  # DDIM adds no noise
    0.0

    Raises:
        InputError: eta outside [0, 1], or s not below t.
    """
    check_eta(eta)
    return _kernel(s, t, eta)


def _kernel(s: Level, t: Level, eta: float) -> Kernel:
    (_, alpha_s, sigma_s, log_snr_s), (_, _, sigma_t, log_snr_t) = s, t
    later = log_snr_s > log_snr_t
    scalar = isinstance(later, bool)  # Python floats per sampling step, arrays for the cost of a whole lattice
    if not (later if scalar else np.all(np.asarray(later))):
        raise InputError(f"a reverse step goes to an earlier time: s < t, got s={s.t} and t={t.t}")
    sqrt, exp, expm1 = SCALAR if scalar else LATTICE
    step, eta2 = log_snr_t - log_snr_s, eta**2
    w, q = -expm1(step), exp(step)  # w + q = 1, each without cancellation
    keep = (1.0 - eta2) + eta2 * q  # 1 - eta^2 w
    a = sigma_s / sigma_t * sqrt(keep)
    # b = alpha_s (1 - sqrt(1 - u)) with 1 - u = (a alpha_t / alpha_s)^2 = q keep.
    b = alpha_s * w * (1.0 + eta2 * q) / (1.0 + sqrt(q * keep))
    return Kernel(a, b, eta2 * sigma_s**2 * w, sigma_t**2 * w, eta)


def kernels(levels: Sequence[Level], eta: float = 1.0) -> list[Kernel]:
    """One kernel per step of levels in visiting order; those of the last grids are kept, as runs are many on the same grid.

    >>> [round(kernel.b, 3) for kernel in kernels(model.schedule.levels([1.0, 0.5, 0.0]))]
    [0.281, 1.0]
    """
    check_eta(eta)
    make = _kept if all(isinstance(level.log_snr, float) for level in levels) else _kernels
    return list(make(tuple(levels), eta))


def _kernels(levels: tuple[Level, ...], eta: float) -> tuple[Kernel, ...]:
    return tuple(_kernel(s, t, eta) for t, s in pairwise(levels))


_kept = lru_cache(maxsize=8)(_kernels)


def check_eta(eta: float) -> None:
    """Raise ValueError unless 0 <= eta <= 1."""
    ETA("eta", eta)


def optimal_step_nats(residual: Any, step: Any) -> Any:
    """KL of a reverse step of `step` = lam_s - lam_t at eta = 1 with the optimal variance, nats per dimension.

    1/2 log(var / rho^2) = 1/2 log(1 + R_t (exp(lam_s - lam_t) - 1)),   whatever the schedule

    >>> float(optimal_step_nats(0.5, 1.0))
    0.310
    """
    return 0.5 * np.log1p(residual * np.expm1(step))


def optimal_step_slope(residual: Any, step: Any) -> Any:
    """Derivative of `optimal_step_nats` along y = lam + log((1 - R)/R): -1/2 R (1 - R) e / (1 + e R), e = exp(step) - 1.

    >>> float(optimal_step_slope(0.5, 1.0))
    -0.116
    """
    e = np.expm1(step)
    return -0.5 * residual * (1.0 - residual) * e / (1.0 + e * residual)


def prior_kl(schedule: Schedule, power: float | Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """KL(q(x_1 | x_0) || N(0, prior_variance I)) in nats per dimension.

    >>> float(prior_kl(model.schedule, 0.25))
    0.0

    Args:
        power: ||x_0||^2 / d, of examples or on average.
    """
    top = schedule.level(1.0)
    return normal_kl(top.alpha**2 * power, top.sigma**2, schedule.prior_variance)
