"""Noise schedules of a table, as discrete models have them, read in continuous time."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, numbers
from score_sde_analytic.checks import flag, number, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.betas import betas_of, checked_betas, without_terminal_signal
from score_sde_analytic.process.forward import Schedule, VariancePreserving

#: Of Newton's method; a few are enough, bisection takes the rest.
MOST_ITERATIONS = 80


class Monotone:
    """A monotone cubic (PCHIP) through a strictly falling table, with its inverse.

    >>> curve = Monotone(np.array([0.0, 0.5, 1.0]), np.array([0.0, -1.0, -4.0]))
    >>> curve(np.array([0.5])), curve.inverse(np.array([-1.0, -4.0]))
    (array([-1.]), array([0.5, 1. ]))
    """

    def __init__(self, knots: Array, values: Array) -> None:
        self._knots = knots
        self._values = values
        self._cubic = scipy.interpolate.PchipInterpolator(knots, values)
        self.rate = self._cubic.derivative()

    def __call__(self, x: Array) -> Array:
        return self._cubic(x)

    def inverse(self, y: Array) -> Array:
        """The x of values inside the table, by Newton's method in brackets."""
        target = np.clip(y, self._values[-1], self._values[0])
        cell = np.clip(np.searchsorted(-self._values, -target) - 1, 0, len(self._knots) - 2)
        third, second, first, _ = self._cubic.c[:, cell]
        offset, width = self._values[cell] - target, self._knots[cell + 1] - self._knots[cell]
        low, high = np.zeros_like(width), width
        x = width * offset / (self._values[cell] - self._values[cell + 1])
        for _ in range(MOST_ITERATIONS):
            value = ((third * x + second) * x + first) * x + offset
            low, high = np.where(value > 0.0, x, low), np.where(value > 0.0, high, x)
            with np.errstate(divide="ignore", invalid="ignore"):
                newton = x - value / ((3.0 * third * x + 2.0 * second) * x + first)
            following = np.where((newton > low) & (newton < high), newton, 0.5 * (low + high))
            following = np.where(value == 0.0, x, following)
            if np.all(np.abs(following - x) <= 2e-16 * (self._knots[cell] + x)):
                break
            x = following
        return self._knots[cell] + x


class Tabulated(VariancePreserving):
    """A discrete DPM read in continuous time: alpha(n/N)^2 = prod_{m <= n} (1 - beta_m), n = 1..N.

    log alpha is interpolated by a monotone cubic (PCHIP) through the table and log alpha(0) = 0; sigma follows from
    alpha^2 + sigma^2 = 1. So every real t is valid, the table's own times are exact and the log-SNR is monotone. Where the last
    beta is 1, alpha falls linearly to 0 between the last two times.

    Args:
        betas: N forward variances in (0, 1), the first for n = 1; the last may be 1.
        zero_terminal_snr: shift and scale alpha to end in pure noise (diffusers' rescale_betas_zero_snr).
    """

    def __init__(self, betas: ArrayLike, zero_terminal_snr: bool = False) -> None:
        self.betas = checked_betas(without_terminal_signal(betas) if flag()("zero_terminal_snr", zero_terminal_snr) else betas)
        steps = len(self.betas)
        self._knots = np.arange(steps + 1) / steps
        falls = self.betas[:-1] if self.betas[-1] == 1.0 else self.betas
        self._values = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-falls))])
        self._curve = Monotone(self._knots[: len(self._values)], self._values)
        #: From when on alpha falls linearly.
        self._last = 1.0 if len(falls) == steps else float(self._knots[-2])

    @classmethod
    def linear(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, zero_terminal_snr: bool = False
    ) -> Tabulated:
        """DDPM's linear table (Ho et al., 2020).

        >>> Tabulated.linear().log_snr_range
        (-10.118, inf)
        """
        return cls(np.linspace(beta_start, beta_end, whole(1)("steps", steps)), zero_terminal_snr)

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, zero_terminal_snr: bool = False
    ) -> Tabulated:
        """sqrt(beta) even: Stable Diffusion's table (Rombach et al., 2022).

        >>> Tabulated.scaled_linear().log_snr_range
        (-5.364, inf)
        """
        check = number(above=0, below=1)
        begin, end = np.sqrt(check("beta_start", beta_start)), np.sqrt(check("beta_end", beta_end))
        return cls(np.linspace(begin, end, whole(1)("steps", steps)) ** 2, zero_terminal_snr)

    @classmethod
    def sigmoid(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, zero_terminal_snr: bool = False
    ) -> Tabulated:
        """beta_start + (beta_end - beta_start) sigmoid(-6 .. 6): GeoDiff's table (Xu et al., 2022).

        >>> Tabulated.sigmoid().log_snr_range
        (-10.135, inf)
        """
        share = scipy.special.expit(np.linspace(-6.0, 6.0, whole(1)("steps", steps)))
        return cls(beta_start + (beta_end - beta_start) * share, zero_terminal_snr)

    @classmethod
    def cosine(
        cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, zero_terminal_snr: bool = False
    ) -> Tabulated:
        """Improved DDPM's cosine table, betas capped at `max_beta` (Nichol & Dhariwal, 2021)."""
        steps = whole(1)("steps", steps)
        offset, max_beta = number(above=0)("offset", offset), number(above=0, below=1)("max_beta", max_beta)
        alpha_bar = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
        return cls(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta), zero_terminal_snr)

    @classmethod
    def laplace(cls, steps: int = 1000, max_beta: float = 0.999, zero_terminal_snr: bool = False) -> Tabulated:
        """diffusers' laplace table: alpha_bar = sqrt(r / (1 + r)), log r the quantiles of Laplace's law, betas capped.

        >>> Tabulated.laplace().log_snr_range
        (-3.422, inf)
        """
        u = 0.5 - np.arange(whole(1)("steps", steps) + 1) / steps
        ratio = np.exp(-0.5 * np.copysign(1.0, u) * np.log(1.0 - 2.0 * np.abs(u) + 1e-6))
        alpha_bar = np.sqrt(ratio / (1.0 + ratio))
        max_beta = number(above=0, below=1)("max_beta", max_beta)
        return cls(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta), zero_terminal_snr)

    @classmethod
    def of_alpha_bar(cls, alpha_bar: ArrayLike, zero_terminal_snr: bool = False) -> Tabulated:
        """From the products alpha_bar_1 .. alpha_bar_N (diffusers' alphas_cumprod); they may end in 0.

        >>> Tabulated.of_alpha_bar([0.9, 0.45]).betas
        array([0.1, 0.5])
        """
        return cls(betas_of(alpha_bar), zero_terminal_snr)

    @property
    def times(self) -> Array:
        """The table's own times n/N, n = 1..N, ascending."""
        return self._knots[1:]

    def _log_alpha(self, t: Array) -> Array:
        if self._last == 1.0:
            return self._curve(t)
        left = np.minimum((1.0 - t) / (1.0 - self._last), 1.0)
        return np.where(t < self._last, self._curve(np.minimum(t, self._last)), self._values[-1] + np.log(left))

    def _log_alpha_rate(self, t: Array) -> Array:
        if self._last == 1.0:
            return self._curve.rate(t)
        return np.where(t < self._last, self._curve.rate(np.minimum(t, self._last)), -1.0 / (1.0 - t))

    def _time_of_log_alpha(self, log_alpha: Array) -> Array:
        t = self._curve.inverse(log_alpha)
        left = np.exp(np.minimum(log_alpha - self._values[-1], 0.0)) * (1.0 - self._last)
        return np.where(log_alpha < self._values[-1], 1.0 - left, t)

    def config(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.betas.tobytes()).hexdigest()[:16]
        return {"name": "tabulated", "steps": len(self.betas), "betas": digest}


class Sigmas(Schedule):
    """A table of noise levels, alpha = 1: sigma(n/N) = sigma_n, n = 1..N, log sigma by a monotone cubic in between.

    Before the first time log sigma goes on as it began, and ends at sigma_1^2 / sigma_2.

    >>> Sigmas([80.0, 1.0, 0.002, 0.0]).sigma(np.array([1 / 3, 1.0]))
    array([2.e-03, 8.e+01])

    Args:
        sigmas: two or more, ascending or descending; a closing 0, the data, is left out.

    Raises:
        InputError: another order, or values that are not positive.
    """

    def __init__(self, sigmas: ArrayLike) -> None:
        table = numbers("sigmas", sigmas)
        table = np.sort(table[table != 0.0]) if table.ndim == 1 and np.all(np.diff(table) < 0.0) else table
        if table.ndim != 1 or len(table) < 2 or table[0] <= 0.0 or np.any(np.diff(table) <= 0.0):
            raise InputError(
                "sigmas must be a 1-d table of at least two positive levels that rise, or that fall and may end in 0"
            )
        self.sigmas = table
        self._first = 1.0 / len(table)
        self._values = -np.log(table)
        self._curve = Monotone(np.arange(1, len(table) + 1) / len(table), self._values)
        self._slope = float(self._values[1] - self._values[0]) / self._first

    @property
    def prior_variance(self) -> float:  # type: ignore[override]
        """sigma_N^2."""
        return float(self.sigmas[-1] ** 2)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return 2.0 * float(self._values[-1]), 2.0 * float(self._values[0] - self._slope * self._first)

    def _log_alpha(self, t: Array) -> Array:
        return np.zeros_like(t)

    def _log_alpha_rate(self, t: Array) -> Array:
        return np.zeros_like(t)

    def _log_sigma(self, t: Array) -> Array:
        before = self._values[0] + self._slope * (t - self._first)
        return -np.where(t < self._first, before, self._curve(np.maximum(t, self._first)))

    def _log_sigma_rate(self, t: Array) -> Array:
        return -np.where(t < self._first, self._slope, self._curve.rate(np.maximum(t, self._first)))

    def _time(self, log_snr: Array) -> Array:
        before = self._first + (0.5 * log_snr - self._values[0]) / self._slope
        return np.where(before < self._first, before, self._curve.inverse(0.5 * log_snr))

    def config(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.sigmas.tobytes()).hexdigest()[:16]
        return {"name": "sigmas", "steps": len(self.sigmas), "sigmas": digest}
