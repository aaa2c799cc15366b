"""Noise schedules: the forward process x_t = alpha_t x_0 + sigma_t eps, for every real time t in [0, 1].

    log-SNR      lam_t = log(alpha_t^2 / sigma_t^2), strictly decreasing
    drift        f(t) = d log alpha / dt
    diffusion^2  g(t)^2 = -sigma_t^2 d lam / dt

A schedule defines log alpha and log sigma; all else follows here. t = 0 is the data: alpha = 1, sigma = 0, lam = inf.
(Song et al., ICLR 2021; Kingma et al., NeurIPS 2021 for the log-SNR view.)
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy
from numpy.typing import ArrayLike
from torch import Tensor

from score_sde_analytic.arrays import Array, Scalars, as_array, like, softplus
from score_sde_analytic.checks import number, settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.betas import checked_betas
from score_sde_analytic.process.level import Level

#: Beyond this log-SNR sigma and times leave the range of numbers.
LARGEST = 700.0


class Schedule(ABC):
    """log alpha_t and log sigma_t on t in (0, 1]; floats, numpy arrays or tensors in, the same out, in float64."""

    #: Variance of the Gaussian that stands for x_1 when sampling starts.
    prior_variance: float = 1.0

    @abstractmethod
    def _log_alpha(self, t: Array) -> Array: ...

    @abstractmethod
    def _log_alpha_rate(self, t: Array) -> Array:
        """d log alpha / dt."""

    @abstractmethod
    def _log_sigma(self, t: Array) -> Array: ...

    @abstractmethod
    def _log_sigma_rate(self, t: Array) -> Array:
        """d log sigma / dt."""

    @abstractmethod
    def _time(self, log_snr: Array) -> Array:
        """Inverse of the log-SNR for values inside its range."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data that identifies the schedule (fingerprints)."""

    def __repr__(self) -> str:
        settings = {k: v for k, v in self.config().items() if k != "name"}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"

    def log_alpha(self, t: Scalars) -> Scalars:
        """log alpha_t; 0 at t = 0."""
        return self._at(self._log_alpha, t, 0.0)

    def log_sigma(self, t: Scalars) -> Scalars:
        """log sigma_t; -inf at t = 0, the data."""
        return self._at(self._log_sigma, t, -np.inf)

    def alpha(self, t: Scalars) -> Scalars:
        """Signal coefficient alpha_t."""
        return like(np.exp(as_array(self.log_alpha(t))), t)

    def sigma(self, t: Scalars) -> Scalars:
        """Noise standard deviation sigma_t."""
        return like(np.exp(as_array(self.log_sigma(t))), t)

    def log_snr(self, t: Scalars) -> Scalars:
        """2 (log alpha_t - log sigma_t); inf at t = 0."""
        return like(2.0 * (as_array(self.log_alpha(t)) - as_array(self.log_sigma(t))), t)

    def time(self, log_snr: Scalars) -> Scalars:
        """The t at which the schedule has this log-SNR (inf gives 0).

        Raises:
            InputError: a value outside the schedule's range (`log_snr_range`).
        """
        lam = as_array(log_snr)
        low, high = self.log_snr_range
        high = min(high, LARGEST)
        slack = 1e-9 * max(1.0, abs(low))
        inside = (lam >= low - slack) & ((lam <= high) | np.isposinf(lam))
        if not np.all(inside):
            raise InputError(
                f"log-SNR {lam[~inside].flat[0]:.6g} lies outside this schedule's range [{low:.6g}, {high:.6g}]"
                " (or inf, the data); choose values inside it"
            )
        finite = np.isfinite(lam)
        t = self._time(np.where(finite, lam, max(low, 0.0) if low > 0 else min(high, 0.0)))
        # A finite log-SNR is never the data, not even in the limit t -> 0+ (VE's sigma_min).
        return like(np.where(finite, np.clip(t, np.finfo(np.float64).tiny, 1.0), 0.0), log_snr)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(lowest, highest) finite log-SNR: at t = 1 and in the limit t -> 0+."""
        return self.log_snr(1.0), np.inf

    @property
    def ends_in_noise(self) -> bool:
        """Whether alpha = 0 at t = 1: log-SNR -inf, zero terminal SNR."""
        return self.log_snr_range[0] == -np.inf

    def drift(self, t: Scalars) -> Scalars:
        """f(t) of dx = f(t) x dt + g(t) dw, for t > 0."""
        return like(self._log_alpha_rate(self._positive(t)), t)

    def diffusion(self, t: Scalars) -> Scalars:
        """g(t) of dx = f(t) x dt + g(t) dw, for t > 0."""
        time = self._positive(t)
        return like(np.sqrt(self._diffusion2(time)), t)

    def _diffusion2(self, t: Array) -> Array:
        """g(t)^2."""
        return 2.0 * np.exp(2.0 * self._log_sigma(t)) * (self._log_sigma_rate(t) - self._log_alpha_rate(t))

    def level(self, t: Any) -> Level:
        """All scalars of time t, in the container of t."""
        if isinstance(t, Tensor) and t.ndim == 0:
            t = float(t)
        return Level(t, self.alpha(t), self.sigma(t), self.log_snr(t))

    def levels(self, times: ArrayLike) -> list[Level]:
        """Levels of many times at once (vectorised; the sampler calls it once per run)."""
        t = as_array(times)
        columns = (t, self.alpha(t), self.sigma(t), self.log_snr(t))
        return [Level(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def level_at(self, log_snr: float) -> Level:
        """The level with this log-SNR."""
        return self.level(self.time(number(most=np.inf)("log-SNR", log_snr)))

    def _at(self, law: Any, t: Any, at_zero: float) -> Any:
        time = as_array(t)
        if not np.all((time >= 0.0) & (time <= 1.0)):  # also catches NaN
            raise InputError(f"time {time[~((time >= 0) & (time <= 1))].flat[0]:.6g} lies outside the schedule's [0, 1]")
        zero = time == 0.0
        if not zero.any():
            return like(law(time), t)
        return like(np.where(zero, at_zero, law(np.where(zero, 1.0, time))), t)

    def _positive(self, t: Any) -> Array:
        time = as_array(t)
        if not np.all((time > 0.0) & (time <= 1.0)):
            raise InputError("drift and diffusion are defined for times in (0, 1]")
        return time


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1, so log alpha alone defines the process."""

    def _log_sigma(self, t: Array) -> Array:
        return 0.5 * np.log(-np.expm1(2.0 * self._log_alpha(t)))

    def _log_sigma_rate(self, t: Array) -> Array:
        return -self._log_alpha_rate(t) / np.expm1(-2.0 * self._log_alpha(t))

    def _diffusion2(self, t: Array) -> Array:
        return -2.0 * self._log_alpha_rate(t)  # exact where alpha rounds to 1

    def _time(self, log_snr: Array) -> Array:
        return self._time_of_log_alpha(-0.5 * softplus(-log_snr))

    @abstractmethod
    def _time_of_log_alpha(self, log_alpha: Array) -> Array: ...


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

    alpha would vanish at u = 1, where no x_0 can be read off, so t in [0, 1] is mapped linearly onto u in [0, u_end]
    with log-SNR(u_end) = `log_snr_min`.

    >>> CosineVP().log_snr(np.array([0.5, 1.0]))
    array([ -0.0197, -12.0 ])
    """

    offset: Annotated[float, number(above=0)] = 0.008
    log_snr_min: Annotated[float, number(-60, 0)] = -12.0

    def __post_init__(self) -> None:
        settle(self)

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
        return np.log1p(-2.0 * np.sin(0.5 * h) ** 2 - np.sin(h) * np.tan(self._start))

    def _log_alpha_rate(self, t: Array) -> Array:
        return -self._span * np.tan(self._start + t * self._span)

    def _time_of_log_alpha(self, log_alpha: Array) -> Array:
        # Solve 1 - cos(h) + sin(h) tan(p) = c for h, c = -expm1(log_alpha), with u = tan(h/2): no cancellation.
        c = -np.expm1(log_alpha)
        slope = np.tan(self._start)
        half = np.arctan(c / (slope + np.sqrt(slope**2 + c * (2.0 - c))))
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


class Tabulated(VariancePreserving):
    """A discrete DPM read in continuous time: alpha(n/N)^2 = prod_{m <= n} (1 - beta_m), n = 1..N.

    log alpha is interpolated by a monotone cubic (PCHIP) through the table and log alpha(0) = 0; sigma follows from
    alpha^2 + sigma^2 = 1. So every real t is valid, the table's own times are exact and the log-SNR is monotone.

    Args:
        betas: N forward variances in (0, 1), the first for n = 1.
    """

    def __init__(self, betas: ArrayLike) -> None:
        self.betas = checked_betas(betas)
        self._knots = np.arange(len(self.betas) + 1) / len(self.betas)
        self._values = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-self.betas))])
        self._interpolant = scipy.interpolate.PchipInterpolator(self._knots, self._values)
        self._derivative = self._interpolant.derivative()

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tabulated:
        """DDPM's linear table (Ho et al., 2020).

        >>> Tabulated.linear().log_snr_range
        (-10.118, inf)
        """
        return cls(np.linspace(beta_start, beta_end, whole(1)("steps", steps)))

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tabulated:
        """Improved DDPM's cosine table, betas capped at `max_beta` (Nichol & Dhariwal, 2021)."""
        steps = whole(1)("steps", steps)
        offset, max_beta = number(above=0)("offset", offset), number(above=0, below=1)("max_beta", max_beta)
        alpha_bar = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
        return cls(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta))

    @property
    def times(self) -> Array:
        """The table's own times n/N, n = 1..N, ascending."""
        return self._knots[1:]

    def _log_alpha(self, t: Array) -> Array:
        return self._interpolant(t)

    def _log_alpha_rate(self, t: Array) -> Array:
        return self._derivative(t)

    def _time_of_log_alpha(self, log_alpha: Array) -> Array:
        from scipy.optimize import elementwise  # which scipy does not load by its name alone

        target = np.clip(log_alpha, self._values[-1], 0.0)
        cell = np.clip(np.searchsorted(-self._values, -target) - 1, 0, len(self.betas) - 1)
        bracket = self._knots[cell], self._knots[cell + 1]
        tolerances = {"xatol": 0.0, "xrtol": 4 * np.finfo(float).eps, "fatol": 0.0, "frtol": 0.0}
        root = elementwise.find_root(lambda t, y: self._interpolant(t) - y, bracket, args=(target,), tolerances=tolerances)
        return np.asarray(root.x)

    def config(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.betas.tobytes()).hexdigest()[:16]
        return {"name": "tabulated", "steps": len(self.betas), "betas": digest}
