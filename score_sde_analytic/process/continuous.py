"""Noise schedules with a closed form: variance preserving, sub-VP, variance exploding, rectified flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy

from score_sde_analytic.arrays import Array, softplus
from score_sde_analytic.checks import number, settle
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.forward import Schedule, VariancePreserving


@dataclass(frozen=True, repr=False)
class LinearVP(VariancePreserving):
    """beta(t) = beta_min + t (beta_max - beta_min): log alpha = -t^2 (beta_max - beta_min)/4 - t beta_min/2.

    >>> LinearVP().log_alpha(1.0), LinearVP().time(0.0)
    (-5.025, 0.259)
    """

    beta_min: Annotated[float, number(above=0)] = 0.1
    beta_max: Annotated[float, number(above=0)] = 20.0

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.beta_min <= self.beta_max:
            raise InputError(f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def _log_alpha(self, t: Array) -> Array:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def _log_alpha_rate(self, t: Array) -> Array:
        return -0.5 * (self.beta_min + t * (self.beta_max - self.beta_min))

    def _time_of_log_alpha(self, log_alpha: Array) -> Array:
        # The root of a t^2 + b t = -log_alpha in the form that does not cancel for small |log_alpha|.
        a = 0.25 * (self.beta_max - self.beta_min)
        b = 0.5 * self.beta_min
        return -2.0 * log_alpha / (b + np.sqrt(b**2 - 4.0 * a * log_alpha))

    def config(self) -> dict[str, Any]:
        return {"name": "linear_vp", "beta_min": self.beta_min, "beta_max": self.beta_max}


@dataclass(frozen=True, repr=False)
class SubVP(LinearVP):
    """Sub-VP of score SDE: alpha as LinearVP, sigma = 1 - alpha^2 (Song et al., ICLR 2021, eq. 29).

    >>> SubVP().sigma(0.5) == 1.0 - SubVP().alpha(0.5) ** 2
    True
    """

    def _log_sigma(self, t: Array) -> Array:
        return np.log(-np.expm1(2.0 * self._log_alpha(t)))

    def _log_sigma_rate(self, t: Array) -> Array:
        return -2.0 * self._log_alpha_rate(t) / np.expm1(-2.0 * self._log_alpha(t))

    def _diffusion2(self, t: Array) -> Array:
        return 2.0 * self._log_alpha_rate(t) * np.expm1(4.0 * self._log_alpha(t))

    def _time(self, log_snr: Array) -> Array:
        # alpha / (1 - alpha^2) = r  =>  log alpha = -asinh(1 / (2 r)).
        return self._time_of_log_alpha(-np.arcsinh(0.5 * np.exp(-0.5 * log_snr)))

    def config(self) -> dict[str, Any]:
        return super().config() | {"name": "sub_vp"}


@dataclass(frozen=True, repr=False)
class CosineVP(VariancePreserving):
    """alpha = cos(phi_t) / cos(phi_0), phi_t = pi/2 (u_t + offset) / (1 + offset) (Nichol & Dhariwal, 2021, eq. 17).

    alpha vanishes at u = 1, where eps says nothing about x_0, so t in [0, 1] is mapped linearly onto u in [0, u_end]
    with log-SNR(u_end) = `log_snr_min`; -inf for networks that go to the very end.

    >>> CosineVP().log_snr(np.array([0.5, 1.0]))
    array([ -0.0197, -12.0 ])
    """

    offset: Annotated[float, number(above=0)] = 0.008
    log_snr_min: Annotated[float, number(-np.inf, 0)] = -12.0

    def __post_init__(self) -> None:
        settle(self)
        if -np.inf < self.log_snr_min < -60.0:
            raise InputError(f"log_snr_min must be at least -60, or -inf for the very end, got {self.log_snr_min}")

    @property
    def _start(self) -> float:
        return 0.5 * np.pi * self.offset / (1.0 + self.offset)

    @property
    def _span(self) -> float:
        """phi_1 - phi_0."""
        return float(np.arccos(np.exp(-0.5 * softplus(-self.log_snr_min)) * np.cos(self._start))) - self._start

    def _log_alpha(self, t: Array) -> Array:
        # cos(p + h) / cos(p) = 1 - 2 sin^2(h/2) - sin(h) tan(p), accurate for small h.
        h = t * self._span
        if self._to_the_end:
            # The same from the other end: sin((1 - t) span) / cos(p).
            late = np.log(np.sin((1.0 - t) * self._span)) - np.log(np.cos(self._start))
            h = np.minimum(h, 0.5 * self._span)
            return np.where(t < 0.5, np.log1p(-2.0 * np.sin(0.5 * h) ** 2 - np.sin(h) * np.tan(self._start)), late)
        return np.log1p(-2.0 * np.sin(0.5 * h) ** 2 - np.sin(h) * np.tan(self._start))

    @property
    def _to_the_end(self) -> bool:
        return self.log_snr_min == -np.inf

    def _log_alpha_rate(self, t: Array) -> Array:
        if self._to_the_end:
            return -self._span / np.tan((1.0 - t) * self._span)
        return -self._span * np.tan(self._start + t * self._span)

    def _time_of_log_alpha(self, log_alpha: Array) -> Array:
        # Solve 1 - cos(h) + sin(h) tan(p) = c for h, c = -expm1(log_alpha), with u = tan(h/2): no cancellation.
        c = -np.expm1(log_alpha)
        slope = np.tan(self._start)
        half = np.arctan(c / (slope + np.sqrt(slope**2 + c * (2.0 - c))))
        if self._to_the_end:
            left = np.arcsin(np.minimum(np.exp(log_alpha) * np.cos(self._start), 1.0)) / self._span
            return np.where(left < 0.5, 1.0 - left, 2.0 * half / self._span)
        return 2.0 * half / self._span

    def config(self) -> dict[str, Any]:
        return {"name": "cosine_vp", "offset": self.offset, "log_snr_min": self.log_snr_min}


@dataclass(frozen=True, repr=False)
class VE(Schedule):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t for t > 0 (Song et al., ICLR 2021).

    >>> VE().sigma(0.5), VE().prior_variance
    (0.707, 2500.0)
    """

    sigma_min: Annotated[float, number(above=0)] = 0.01
    sigma_max: Annotated[float, number(above=0)] = 50.0

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise InputError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def prior_variance(self) -> float:  # type: ignore[override]
        """sigma_max^2: x_1 is drawn from N(0, sigma_max^2 I)."""
        return self.sigma_max**2

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(-2 log sigma_max, -2 log sigma_min)."""
        return -2.0 * float(np.log(self.sigma_max)), -2.0 * float(np.log(self.sigma_min))

    @property
    def _rate(self) -> float:
        return float(np.log(self.sigma_max / self.sigma_min))

    def _log_alpha(self, t: Array) -> Array:
        return np.zeros_like(t)

    def _log_alpha_rate(self, t: Array) -> Array:
        return np.zeros_like(t)

    def _log_sigma(self, t: Array) -> Array:
        return np.log(self.sigma_min) + t * self._rate

    def _log_sigma_rate(self, t: Array) -> Array:
        return np.full_like(t, self._rate)

    def _time(self, log_snr: Array) -> Array:
        return (-0.5 * log_snr - np.log(self.sigma_min)) / self._rate

    def config(self) -> dict[str, Any]:
        return {"name": "ve", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


@dataclass(frozen=True, repr=False)
class RectifiedFlow(Schedule):
    """alpha = 1 - u, sigma = u, u = shift t / (1 + (shift - 1) t): pure noise at t = 1 (Liu et al., ICLR 2023).

    A shift only changes where times lie: log-SNR falls by 2 log(shift) at every time between (Esser et al., ICML 2024).

    >>> RectifiedFlow().sigma(0.25), RectifiedFlow(shift=3.0).sigma(0.25), RectifiedFlow().log_snr(1.0)
    (0.25, 0.5, -inf)
    """

    shift: Annotated[float, number(above=0)] = 1.0

    def __post_init__(self) -> None:
        settle(self)

    def _log_alpha(self, t: Array) -> Array:
        return np.log1p(-t) - np.log1p((self.shift - 1.0) * t)

    def _log_alpha_rate(self, t: Array) -> Array:
        return -self.shift / ((1.0 - t) * (1.0 + (self.shift - 1.0) * t))

    def _log_sigma(self, t: Array) -> Array:
        return np.log(self.shift * t) - np.log1p((self.shift - 1.0) * t)

    def _log_sigma_rate(self, t: Array) -> Array:
        return 1.0 / (t * (1.0 + (self.shift - 1.0) * t))

    def _time(self, log_snr: Array) -> Array:
        return scipy.special.expit(-0.5 * log_snr - np.log(self.shift))

    def config(self) -> dict[str, Any]:
        return {"name": "rectified_flow", "shift": self.shift}
