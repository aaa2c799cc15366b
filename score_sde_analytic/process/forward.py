"""What every noise schedule has: the forward process x_t = alpha_t x_0 + sigma_t eps, for every real time t in [0, 1].

    log-SNR      lam_t = log(alpha_t^2 / sigma_t^2), strictly decreasing
    drift        f(t) = d log alpha / dt
    diffusion^2  g(t)^2 = -sigma_t^2 d lam / dt

A schedule defines log alpha and log sigma; all else follows here. t = 0 is the data: alpha = 1, sigma = 0, lam = inf. Some end
in pure noise: alpha = 0 and lam = -inf at t = 1. (Song et al., ICLR 2021; Kingma et al., NeurIPS 2021 for the log-SNR view.)
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from score_sde_analytic.arrays import Array, Scalars, as_array, like, softplus
from score_sde_analytic.checks import number
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.level import Level

#: Where the noise leaves nothing to be told of data of about unit variance: a bound gains nothing below.
BLANK = -12.0
#: Beyond this log-SNR sigma and times leave the range of numbers.
LARGEST = 700.0
#: Of so many grids levels are kept.
GRIDS = 8
#: log alpha and log sigma of the data.
AT_ZERO = np.array([[0.0], [-np.inf]])


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

    @staticmethod
    def from_functions(log_alpha: Law, log_sigma: Law, prior_variance: float | None = None) -> Functions:
        """A schedule from its two laws, functions of t in (0, 1] on float64 arrays; sigma may stay positive as t -> 0.

        >>> cosine = Schedule.from_functions(lambda t: np.log(np.cos(1.5 * t)), lambda t: np.log(np.sin(1.5 * t)))
        >>> cosine.log_snr(0.5), cosine.time(0.0)
        (0.142, 0.524)

        Args:
            prior_variance: of the Gaussian that stands for x_1; None for sigma_1^2.

        Raises:
            InputError: a log-SNR that is not strictly decreasing, or laws that are no numbers.
        """
        return Functions(log_alpha, log_sigma, prior_variance)

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
        """The t at which the schedule has this log-SNR (inf gives 0, -inf gives 1 where that is pure noise).

        Raises:
            InputError: a value outside the schedule's range (`log_snr_range`).
        """
        lam = as_array(log_snr)
        low, high = self.log_snr_range
        high = min(high, LARGEST)
        slack = 0.0 if np.isinf(low) else 1e-9 * max(1.0, abs(low))
        inside = (lam >= low - slack) & ((lam <= high) | np.isposinf(lam))
        if not np.all(inside):
            raise InputError(
                f"log-SNR {lam[~inside].flat[0]:.6g} lies outside this schedule's range [{low:.6g}, {high:.6g}]"
                " (or inf, the data); choose values inside it"
            )
        finite = np.isfinite(lam)
        t = self._time(np.where(finite, lam, max(low, 0.0) if low > 0 else min(high, 0.0)))
        # A finite log-SNR is never the data, not even in the limit t -> 0+ (VE's sigma_min).
        return like(np.where(finite, np.clip(t, np.finfo(np.float64).tiny, 1.0), lam < 0.0), log_snr)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR: at t = 1, -inf in pure noise, and in the limit t -> 0+."""
        return self.log_snr(1.0), np.inf

    @property
    def finite_range(self) -> tuple[float, float]:
        """`log_snr_range` from `BLANK` on where t = 1 is pure noise: where levels are placed that do not begin there."""
        low, high = self.log_snr_range
        return (BLANK if low == -np.inf else low), high

    @cached_property
    def ends_in_noise(self) -> bool:
        """Whether alpha = 0 at t = 1: log-SNR -inf, zero terminal SNR."""
        return self.log_snr_range[0] == -np.inf

    def drift(self, t: Scalars) -> Scalars:
        """f(t) of dx = f(t) x dt + g(t) dw, for t > 0."""
        with np.errstate(divide="ignore"):  # -inf where alpha vanishes
            return like(self._log_alpha_rate(self._positive(t)), t)

    def diffusion(self, t: Scalars) -> Scalars:
        """g(t) of dx = f(t) x dt + g(t) dw, for t > 0."""
        time = self._positive(t)
        with np.errstate(divide="ignore"):
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
        """Levels of many times at once, vectorised."""
        t = as_array(times)
        logs = self._at(lambda time: np.array((self._log_alpha(time), self._log_sigma(time))), t, AT_ZERO)
        columns = np.array((t, *np.exp(logs), 2.0 * (logs[0] - logs[1])))
        return [Level(*row) for row in columns.T.tolist()]

    def levels_of_grid(self, times: tuple[float, ...]) -> list[Level]:
        """`levels`; those of the last grids are kept, as runs are many on the same grid."""
        if times not in self._kept:
            if len(self._kept) == GRIDS:
                self._kept.clear()
            self._kept[times] = self.levels(times)
        return self._kept[times].copy()

    @cached_property
    def _kept(self) -> dict[tuple[float, ...], list[Level]]:
        return {}

    def level_at(self, log_snr: float) -> Level:
        """The level with this log-SNR."""
        return self.level(self.time(number(most=np.inf)("log-SNR", log_snr)))

    def _at(self, law: Any, t: Any, at_zero: ArrayLike) -> Any:
        time = as_array(t)
        if not (time.min(initial=1.0) >= 0.0 and time.max(initial=0.0) <= 1.0):  # also catches NaN
            raise InputError(f"time {time[~((time >= 0) & (time <= 1))].flat[0]:.6g} lies outside the schedule's [0, 1]")
        with np.errstate(divide="ignore"):  # log alpha is -inf in pure noise
            if time.all():
                return like(law(time), t)
            zero = time == 0.0
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
        log_alpha = self._log_alpha(t)
        noise = np.isneginf(log_alpha)  # where sigma is 1 and at rest
        return np.where(noise, 0.0, -self._log_alpha_rate(t) / np.expm1(-2.0 * np.where(noise, -1.0, log_alpha)))

    def _diffusion2(self, t: Array) -> Array:
        return -2.0 * self._log_alpha_rate(t)  # exact where alpha rounds to 1

    def _time(self, log_snr: Array) -> Array:
        return self._time_of_log_alpha(-0.5 * softplus(-log_snr))

    @abstractmethod
    def _time_of_log_alpha(self, log_alpha: Array) -> Array: ...


#: log alpha or log sigma as a function of times.
Law = Callable[[Array], ArrayLike]
#: Shares of t that a derivative looks to, as far as times go.
NEAR = 2e-3
#: Weights of five-point derivatives: of both sides, and of the times before.
CENTRAL = {-2: 1.0, -1: -8.0, 1: 8.0, 2: -1.0}
BACKWARD = {0: 25.0, -1: -48.0, -2: 36.0, -3: -16.0, -4: 3.0}
#: Until when a log-SNR may stand still, up to the rounding of laws such as log sqrt(sigma_0^2 + t^2).
BEGINNING = 1e-3
ROUNDED = 1e-9


class Functions(Schedule):
    """A schedule from functions: rates by five-point differences, times by root finding."""

    def __init__(self, log_alpha: Law, log_sigma: Law, prior_variance: float | None = None) -> None:
        self._laws = log_alpha, log_sigma
        times = np.append(np.geomspace(1e-12, BEGINNING, 64), np.arange(2, 1001) / 1000)
        with np.errstate(divide="ignore"):
            table = np.stack([self._log_alpha(times), self._log_sigma(times)])
        lam = 2.0 * (table[0] - table[1])
        falls = np.where(times[1:] <= BEGINNING, np.diff(lam) <= ROUNDED, np.diff(lam) < 0.0)
        if not np.isfinite(table[:, :-1]).all() or not falls.all() or not np.isfinite(table[1, -1]):
            raise InputError(
                "log alpha and log sigma must be finite for t in (0, 1), and 2 (log alpha - log sigma) strictly decreasing;"
                " only log alpha may be -inf, at t = 1"
            )
        self._table = table
        # Where sigma vanishes with t, log-SNR grows by whole units from 1e-9 to 1e-12; where it does not, by nothing.
        self._highest = float(lam[0]) if lam[0] - np.interp(1e-9, times, lam) < 0.1 else np.inf
        given = float(np.exp(2.0 * table[1, -1])) if prior_variance is None else prior_variance
        self.prior_variance = number(above=0)("prior_variance", given)

    def _log_alpha(self, t: Array) -> Array:
        return np.broadcast_to(as_array(self._laws[0](t)), t.shape).copy()

    def _log_sigma(self, t: Array) -> Array:
        return np.broadcast_to(as_array(self._laws[1](t)), t.shape).copy()

    def _log_alpha_rate(self, t: Array) -> Array:
        return _rate(self._log_alpha, t)

    def _log_sigma_rate(self, t: Array) -> Array:
        return _rate(self._log_sigma, t)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.log_snr(1.0), self._highest

    def _time(self, log_snr: Array) -> Array:
        from scipy.optimize import elementwise  # which scipy does not load by its name alone

        def excess(log_t: Array, target: Array) -> Array:
            t = np.exp(log_t)
            with np.errstate(divide="ignore"):
                return 2.0 * (self._log_alpha(t) - self._log_sigma(t)) - target

        lowest = np.log(1e-12) if np.isfinite(self._highest) else -600.0
        bracket = np.full_like(log_snr, lowest), np.zeros_like(log_snr)
        tolerances = {"xatol": 0.0, "xrtol": 4 * np.finfo(float).eps, "fatol": 0.0, "frtol": 0.0}
        root = elementwise.find_root(excess, bracket, args=(log_snr,), tolerances=tolerances)
        return np.exp(np.where(root.success, root.x, np.where(excess(bracket[0], log_snr) <= 0.0, lowest, 0.0)))

    def config(self) -> dict[str, Any]:
        digest = hashlib.sha256((np.round(self._table, 9) + 0.0).tobytes()).hexdigest()[:16]
        return {"name": "functions", "laws": digest, "prior_variance": self.prior_variance}


def _rate(law: Callable[[Array], Array], t: Array) -> Array:
    """d law / dt."""
    vanishes = bool(np.isneginf(law(np.ones(1)))[0])
    h = NEAR * (np.minimum(t, 1.0 - t) if vanishes else t)
    inside = t + 2.0 * h < 1.0
    central = sum(weight * law(np.where(inside, t + k * h, 0.5)) for k, weight in CENTRAL.items())
    backward = sum(weight * law(t + k * h) for k, weight in BACKWARD.items())
    return np.where(t + h == 1.0, -np.inf, np.where(inside, central, backward) / (12.0 * np.where(h > 0.0, h, 1.0)))
