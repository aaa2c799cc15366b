"""The noise curve: one monotone function of log-SNR from which every variance, grid and bound follows.

    R(lam) = sigmoid(lam - y(lam)),   Lambda = 1 - R,   C = exp(-y) effective data variance,   V0 = exp(-lam) R

y of an exact score never decreases (single-crossing property of the MMSE, Guo et al., 2011), is constant for Gaussian data, and
is fitted by weighted isotonic regression and a monotone cubic (PCHIP) in lam, constant beyond the end knots. Where the measured
y falls by more than its errors allow, the network is miscalibrated there, and y stays as it was measured.
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
from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, require_match, save_arrays
from score_sde_analytic.measure.interpolant import Interpolant, contradicted, determines_y, nondecreasing, residual_of, y_of
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
        snr = np.exp(as_array(log_snr))
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
        y: log-SNR at which R would be 1/2 for Gaussian data like the local posterior, (m,).
        source: "residual" (R of the network's own mean) or "score" (1 - Lambda, the paper's Gamma).
        fingerprint: what the curve was measured on.
        remarks: where the measured values contradict what a curve of an exact score has, in words.

    >>> curve = NoiseCurve.from_residual([-4.0, 0.0, 4.0], [0.01, 0.3, 0.6])
    >>> curve.residual(0.0), curve.posterior_variance(np.array([0.0, 4.0]))
    (0.3, array([0.3       , 0.01098938]))
    """

    log_snr: Array
    y: Array
    source: str = "residual"
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.log_snr.ndim != 1 or self.log_snr.shape != self.y.shape or len(self.y) == 0:
            raise InputError(f"need equally many knots and values, got {self.log_snr.shape} and {self.y.shape}")
        if not (np.all(np.isfinite(self.log_snr)) and np.all(np.isfinite(self.y))):
            raise InputError("knots and values of a curve must be finite")
        if np.any(np.diff(self.log_snr) <= 0):
            raise InputError("knots of a curve must be strictly increasing in log-SNR")

    @classmethod
    def fit(
        cls, moments: Moments, source: Source = "residual", cap: ResidualCap | None = None, warn: bool = True
    ) -> NoiseCurve:
        """Weighted isotonic + PCHIP fit of measured moments; where the residual contradicts it, as measured.

        Args:
            source: "residual" gives the KL-optimal variance for the network's own mean, "score" the paper's.
            cap: the largest R (`residual_cap`), applied after the fit.
            warn: whether the remarks are issued as warnings, too.

        Raises:
            InputError: unknown source, or no knot determines R (1 - Lambda not in (0, 1) anywhere).

        >>> NoiseCurve.fit(moments).residual(np.array([-4.0, 0.0, 4.0])).round(2)
        array([0.01, 0.34, 0.82])
        """
        if source not in ("residual", "score"):
            raise InputError(f"source must be 'residual' or 'score', got {source!r}")
        r = moments.residual if source == "residual" else 1.0 - moments.noise_power
        stderr = moments.stderr(source)
        return cls.from_residual(moments.log_snr, r, stderr, source, cap, moments.fingerprint, moments.groups - 1, warn)

    @classmethod
    def from_residual(
        cls,
        log_snr: ArrayLike,
        residual: ArrayLike,
        stderr: ArrayLike | None = None,
        source: str = "residual",
        cap: ResidualCap | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        degrees: int | None = None,
        warn: bool = True,
    ) -> NoiseCurve:
        """Fit values R at knots; without standard errors all knots count equally and must lie in (0, 1).

        Args:
            degrees: of freedom of the standard errors. Given, y that falls beyond them stays as measured; else it never falls.

        Raises:
            InputError: no knot has R in (0, 1).
        """
        lam = as_array(log_snr)
        r = as_array(residual)
        errors = np.zeros_like(r) if stderr is None else as_array(stderr)
        usable = determines_y(r)
        if not usable.any():
            raise InputError(f"the {source} values leave no knot with R in (0, 1): {_cure(source, r, errors)}")
        remarks = [] if usable.all() else [_outside(source, lam, r, errors)]
        lam, r, errors = lam[usable], r[usable], errors[usable]
        measured, weights = y_of(r, lam), _weights(r, None if stderr is None else errors)
        y = nondecreasing(measured, weights)
        if degrees is not None:
            against = contradicted(measured, y, weights, degrees)
            if against.any():
                remarks.append(_falls(source, lam, r, residual_of(y, lam), errors, against))
            if source == "residual":  # prices are made of it
                y = np.where(against, measured, y)
        if cap is not None:
            # A cap of 0 (constant data) leaves no posterior variance: C = exp(-700).
            y = np.maximum(y, y_of(np.maximum(cap(lam), np.exp(np.minimum(lam, 0.0) - 700.0)), lam))
        for remark in remarks if warn else ():
            warnings.warn(remark, stacklevel=3)
        return cls(lam, y, source, dict(fingerprint or {}), tuple(remarks))

    def require_price(self) -> None:
        """Refuse to price steps by anything but the residual.

        Raises:
            InputError: a curve of 1 - Lambda: what a network's score says of its error is not its error.
        """
        if self.source == "score":
            raise InputError(
                "prices come from the residual: 1 - Lambda equals it for an exact score only. Price with"
                " NoiseCurve.fit(moments, 'residual'); a covariance may still be made of the score's curve"
            )

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
        declared = {"log_snr": "float64 m", "y": "float64 m"}
        arrays, metadata = load_arrays(path, "noise curve", declared, {"source": str, "fingerprint": {"model?": dict}})
        if model_fingerprint is not None:
            require_match(path, metadata["fingerprint"].get("model", {}), model_fingerprint)
        with reading(path):
            return cls(arrays["log_snr"], arrays["y"], metadata["source"], metadata["fingerprint"])


def _cure(source: str, residual: Array, stderr: Array) -> str:
    """What is to be done where R is not in (0, 1)."""
    if source == "score":
        return "the network predicts no noise, or more than there is; use the residual, which any network has"
    if np.any(residual - 1.0 > 3.0 * stderr):
        return (
            "the network predicts the noise worse than nothing would; check that data, their scaling, the time index and the"
            " schedule are those it was trained with"
        )
    return "measure with more draws or other knots"


def _outside(source: str, log_snr: Array, residual: Array, stderr: Array) -> str:
    """The remark on knots whose R is not in (0, 1)."""
    lost = ~determines_y(residual)
    where = ", ".join(f"{value:.1f}" for value in log_snr[lost])
    cure = _cure(source, residual[lost], stderr[lost])
    return f"R from '{source}' is outside (0, 1) at log-SNR {where}: the curve is interpolated or constant there; {cure}"


def _falls(source: str, log_snr: Array, measured: Array, fitted: Array, stderr: Array, against: Array) -> str:
    """The remark on knots where y falls beyond its errors."""
    moved = np.where(against, np.abs(fitted - measured) / np.maximum(stderr, 1e-300), 0.0)
    worst = int(moved.argmax())
    return (
        f"R from '{source}' is not that of an exact score between log-SNR {log_snr[against].min():.1f} and"
        f" {log_snr[against].max():.1f}: a curve that is would have {fitted[worst]:.4f} at {log_snr[worst]:.1f}, measured was"
        f" {measured[worst]:.4f} ± {stderr[worst]:.4f} ({moved[worst]:.0f} standard errors). The network is miscalibrated"
        f" there; {'the curve keeps what was measured' if source == 'residual' else 'the curve is levelled'}"
    )


def _weights(residual: Array, stderr: Array | None) -> Array:
    """1 / error^2 of y at each knot, dy/dR = -1 / (R (1 - R)); equal where no error is known."""
    if stderr is None:
        return np.ones_like(residual)
    error = stderr / (residual * (1.0 - residual))
    weights = 1.0 / np.maximum(error, 1e-9) ** 2  # the floor keeps exactly known knots finite
    return np.where(weights.any(), weights, 1.0)
