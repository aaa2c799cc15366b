"""The noise curve: one monotone function of log-SNR from which every variance, grid and bound follows.

    R(lam) = sigmoid(lam - y(lam)),   Lambda = 1 - R,   C = exp(-y) effective data variance,   V0 = exp(-lam) R

y never decreases (single-crossing property of the MMSE, Guo et al., 2011), is constant for Gaussian data, and is fitted by
weighted isotonic regression and a monotone cubic (PCHIP) in lam, constant beyond the end knots.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, as_array, like
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, require_match, save_arrays
from score_sde_analytic.measure.interpolant import Interpolant, nondecreasing, residual_of, y_of
from score_sde_analytic.process.schedule import Schedule

if TYPE_CHECKING:
    from score_sde_analytic.measure.moments import Moments

Source = Literal["residual", "score"]
#: log-SNRs -> the largest R there.
ResidualCap = Callable[[Array], Array]


def residual_cap(statistics: DataStatistics | None = None, data_range: DataRange | None = None) -> ResidualCap:
    """The largest R an exact score can have: from data range, total variance and covariance eigenvalues.

        R <= snr v / (1 + snr v) with v = ((hi - lo)/2)^2 or V,   R <= mean_i snr l_i / (1 + snr l_i)

    v is the largest variance of data in [lo, hi]; each cap is the error of a linear estimator, so each has y nondecreasing.

    The caps hold for the ideal posterior; a poor network's own residual may honestly exceed them. The eigenvalues of a
    sample covariance make the last one too small by about d / n, so it is used only for n >= 50 d or a closed form.

    >>> residual_cap(data_range=DataRange(-1.0, 1.0))(np.array([-2.0, 0.0, 2.0])).round(3)
    array([0.119, 0.5  , 0.881])
    """

    def cap(log_snr: Array) -> Array:
        snr = np.exp(np.asarray(log_snr, dtype=np.float64))
        largest = np.ones_like(snr)
        if data_range is not None:
            largest = np.minimum(largest, _linear(snr * (0.5 * (data_range.hi - data_range.lo)) ** 2))
        if statistics is not None:
            largest = np.minimum(largest, _linear(snr * statistics.variance))
            if statistics.eigenvalues is not None and not 0 < statistics.count < 50 * len(statistics.eigenvalues):
                largest = np.minimum(largest, _linear(np.multiply.outer(snr, statistics.eigenvalues)).mean(-1))
        return largest

    return cap


def _linear(power: Array) -> Array:
    """R of the best linear estimator, snr v / (1 + snr v)."""
    return power / (1 + power)


@dataclass(frozen=True)
class NoiseCurve:
    """y at knots, interpolated.

    Attributes:
        log_snr: knots, ascending, (m,).
        y: log-SNR at which R would be 1/2 for Gaussian data like the local posterior, nondecreasing, (m,).
        source: "residual" (R of the network's own mean) or "score" (1 - Lambda, the paper's Gamma).
        fingerprint: what the curve was measured on.

    >>> curve = NoiseCurve.from_residual([-4.0, 0.0, 4.0], [0.01, 0.3, 0.6])
    >>> curve.residual(0.0), curve.posterior_variance(np.array([0.0, 4.0]))
    (0.3, array([0.3       , 0.01098938]))
    """

    log_snr: Array
    y: Array
    source: str = "residual"
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.log_snr.ndim != 1 or self.log_snr.shape != self.y.shape or len(self.y) == 0:
            raise InputError(f"need equally many knots and values, got {self.log_snr.shape} and {self.y.shape}")
        if not (np.all(np.isfinite(self.log_snr)) and np.all(np.isfinite(self.y))):
            raise InputError("knots and values of a curve must be finite")
        if np.any(np.diff(self.log_snr) <= 0):
            raise InputError("knots of a curve must be strictly increasing in log-SNR")

    @classmethod
    def fit(cls, moments: Moments, source: Source = "residual", cap: ResidualCap | None = None) -> NoiseCurve:
        """Weighted isotonic + PCHIP fit of measured moments.

        Args:
            source: "residual" gives the KL-optimal variance for the network's own mean, "score" the paper's.
            cap: the largest R (`residual_cap`), applied after the fit.

        Raises:
            InputError: unknown source, or no knot determines R (1 - Lambda not in (0, 1) anywhere).

        >>> NoiseCurve.fit(moments).residual(np.array([-4.0, 0.0, 4.0])).round(2)
        array([0.01, 0.33, 0.82])
        """
        if source not in ("residual", "score"):
            raise InputError(f"source must be 'residual' or 'score', got {source!r}")
        r = moments.residual if source == "residual" else 1.0 - moments.noise_power
        stderr = moments.stderr(source)
        return cls.from_residual(moments.log_snr, r, stderr, source, cap, moments.fingerprint)

    @classmethod
    def from_residual(
        cls,
        log_snr: ArrayLike,
        residual: ArrayLike,
        stderr: ArrayLike | None = None,
        source: str = "residual",
        cap: ResidualCap | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> NoiseCurve:
        """Fit values R at knots; without standard errors all knots count equally and must lie in (0, 1)."""
        lam = np.asarray(log_snr, dtype=np.float64)
        r = np.asarray(residual, dtype=np.float64)
        usable = (r > 0.0) & (r < 1.0)
        if not usable.any():
            raise InputError(f"the {source} values leave no knot with R in (0, 1): measure with more draws or other knots")
        if not usable.all():
            lost = ", ".join(f"{value:.1f}" for value in lam[~usable])
            message = f"R from '{source}' is outside (0, 1) at log-SNR {lost}: the curve is interpolated or constant there"
            warnings.warn(message, stacklevel=2)
        lam, r = lam[usable], r[usable]
        errors = None if stderr is None else np.asarray(stderr, dtype=np.float64)[usable]
        y = nondecreasing(y_of(r, lam), _weights(r, errors))
        if cap is not None:
            # A cap of 0 (constant data) leaves no posterior variance: C = exp(-700).
            y = np.maximum(y, y_of(np.maximum(cap(lam), np.exp(np.minimum(lam, 0.0) - 700.0)), lam))
        return cls(lam, y, source, dict(fingerprint or {}))

    @cached_property
    def _y(self) -> Interpolant:
        return Interpolant(self.log_snr, self.y)

    def y_at(self, log_snr: Any) -> Any:
        """y(lam) = -log C(lam)."""
        return like(self._y(as_array(log_snr)), log_snr)

    def y_slope(self, log_snr: Any) -> Any:
        """dy/dlam >= 0; zero beyond the end knots."""
        return like(self._y.slope(as_array(log_snr)), log_snr)

    def spread(self, log_snr: Any) -> Any:
        """w = Lambda R dy/dlam = E||Cov(eps | x_t)||_F^2 / d - (E tr Cov(eps | x_t) / d)^2 for an exact score."""
        slope = np.maximum(as_array(self.y_slope(log_snr)), 0.0)
        return like(as_array(self.noise_power(log_snr)) * as_array(self.residual(log_snr)) * slope, log_snr)

    def residual(self, log_snr: Any) -> Any:
        """R(lam) = E||eps - eps_hat||^2 / d."""
        lam = as_array(log_snr)
        return like(residual_of(self._y(lam), lam), log_snr)

    def noise_power(self, log_snr: Any) -> Any:
        """Lambda(lam) = 1 - R(lam), computed without cancellation."""
        lam = as_array(log_snr)
        return like(scipy.special.expit(self._y(lam) - lam), log_snr)

    def derivative(self, log_snr: Any) -> Any:
        """dR/dlam = R (1 - R) (1 - dy/dlam)."""
        slope = 1.0 - as_array(self.y_slope(log_snr))
        return like(as_array(self.residual(log_snr)) * as_array(self.noise_power(log_snr)) * slope, log_snr)

    def effective_variance(self, log_snr: Any) -> Any:
        """C(lam) = exp(-y): variance of the Gaussian data with the same posterior variance at this level.

        >>> NoiseCurve(np.zeros(1), np.log([4.0])).effective_variance(-3.0)
        0.25
        """
        return like(np.exp(-self._y(as_array(log_snr))), log_snr)

    def posterior_variance(self, log_snr: Any) -> Any:
        """V0 = exp(-lam) R = C / (1 + snr C), in squared data units; 0 at the data (lam = inf)."""
        lam = as_array(log_snr)
        y = self._y(lam)
        return like(np.exp(-np.logaddexp(y, lam)), log_snr)

    def gamma(self, schedule: Schedule, t: Any) -> Any:
        """Gamma(t) = Lambda / sigma_t^2 = E||score||^2 / d, as in the paper."""
        lam = as_array(schedule.log_snr(t))
        return like(scipy.special.expit(self._y(lam) - lam) * np.exp(-2.0 * as_array(schedule.log_sigma(t))), t)

    def save(self, path: str | Path) -> None:
        """Write the curve as safetensors with its fingerprint."""
        metadata = {"kind": "noise curve", "source": self.source, "fingerprint": dict(self.fingerprint)}
        save_arrays(path, {"log_snr": self.log_snr, "y": self.y}, metadata)

    @classmethod
    def load(cls, path: str | Path, model_fingerprint: Mapping[str, Any] | None = None) -> NoiseCurve:
        """Read a saved curve; with a model's fingerprint, refuse a curve measured on another model.

        Raises:
            FileNotFoundError, ValueError: missing, damaged or mismatched file; the message says what differs.
        """
        arrays, metadata = load_arrays(path, "noise curve", ("log_snr", "y"))
        if model_fingerprint is not None:
            require_match(path, metadata["fingerprint"].get("model", {}), model_fingerprint)
        return cls(arrays["log_snr"], arrays["y"], metadata["source"], metadata["fingerprint"])


def _weights(residual: Array, stderr: Array | None) -> Array:
    """1 / error^2 of y at each knot, dy/dR = -1 / (R (1 - R)); equal where no error is known."""
    if stderr is None:
        return np.ones_like(residual)
    error = stderr / (residual * (1.0 - residual))
    weights = 1.0 / np.maximum(error, 1e-9) ** 2  # the floor keeps exactly known knots finite
    return np.where(weights.any(), weights, 1.0)
