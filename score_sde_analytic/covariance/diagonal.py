"""Reverse covariances diagonal in a basis U, with one curve per coordinate and per bin of a free statistic.

    Sigma = U^T diag(rho^2 + b^2 V0_k) U,   V0_k = (sigma_t/alpha_t)^2 R_k(lam_t, phi),   R_k = E[(U (eps - eps_hat))_k^2 | phi]

KL-optimal among covariances diagonal in U that look at phi; a step of h in log-SNR costs mean_k 1/2 log(1 + R_k expm1(h)) nats
per dimension, averaged over phi: by Jensen never more than with one variance for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.arrays import Array, float64_place, packed, precise, sent, unpacked, wide
from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.data import bases
from score_sde_analytic.data.basis import Basis, Pixel, PixelChannel
from score_sde_analytic.declared import reading, require_arrays, require_shape
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, require_match, save_arrays
from score_sde_analytic.measure import statistics as conditioning
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.held_out import Correction
from score_sde_analytic.measure.spectrum import LevelTable, Spectrum
from score_sde_analytic.measure.statistics import Statistic, checked
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.gaussian import step_kl
from score_sde_analytic.process.kernel import Kernel
from score_sde_analytic.process.level import Level

KIND = "diagonal covariance"
ARRAYS = {
    "log_snr": "float64 m",
    "y": "float64 m bins labels",
    "quantiles": "float64 m edges",
    "sizes": "float64|int64 labels",
    "mass?": "float64 m bins shared",
    "correction?": "float64 steps replicates m",
}
SETTINGS = {"smooth": bool, "basis": {"name": str}, "statistic": ({"name": str}, None)}
#: Of the metadata.
SHAPE = SETTINGS | {"model": dict}


class _Plan:
    """What the steps of one plan share: basis and statistic, with labels and tables where they are asked for, made once.

    Args:
        curves: how many the spectrum has.
    """

    def __init__(self, basis: Basis, statistic: Statistic | None, curves: int) -> None:
        self.basis = basis
        self.statistic = statistic
        self._curves = curves
        self._labels: dict[tuple[tuple[int, ...], torch.device], tuple[Tensor, Tensor]] = {}
        self._tables: dict[tuple[float, torch.device], LevelTable] = {}

    def table(self, table: LevelTable, device: torch.device) -> LevelTable:
        """A level's table on a device."""
        key = table.log_snr, device
        if key not in self._tables:
            self._tables[key] = table.to(device)
        return self._tables[key]

    def labels(self, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """(the curve of every coefficient of an example of this shape, flat, how many each has).

        Raises:
            InputError: the curves are those of another basis or shape, or of pixels where the basis mixes them.
        """
        key = shape, device
        if key not in self._labels:
            labels = self._checked(shape)
            sizes = torch.from_numpy(np.bincount(labels).astype(np.float64))
            self._labels[key] = sent(torch.from_numpy(labels), device), sent(sizes, float64_place(device))
        return self._labels[key]

    def _checked(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        labels = self.basis.labels(shape)
        if labels.max() + 1 != self._curves:
            raise InputError(
                f"{self._curves} curves were fitted in another basis or to another shape: {type(self.basis).__name__} has"
                f" {labels.max() + 1} for {shape}"
            )
        per_pixel = isinstance(self.basis, PixelChannel) and np.array_equal(labels, Pixel().labels(shape))
        if self.statistic is not None and self.statistic.local and not per_pixel:
            raise InputError(f"{type(self.statistic).__name__} is per pixel: it needs the basis Pixel")
        return labels.ravel()


@dataclass(frozen=True)
class DiagonalStep(StepCovariance):
    """The covariance of one step: V0 = exp(-lam_t) R."""

    kernel: Kernel
    table: LevelTable
    plan: _Plan

    def _of_curves(self, prediction: Prediction) -> Tensor:
        """b^2 V0 of every curve, in float64, (batch, L) or (1, L)."""
        statistic = self.plan.statistic
        phi = None if statistic is None else wide(checked(statistic(prediction), prediction))
        residual = self.plan.table(self.table, float64_place(prediction.x_t.device)).residual(phi)
        return self.kernel.excess(residual, self.table.log_snr)

    def _of_coefficients(self, curves: Tensor, x: Tensor) -> Tensor:
        """What belongs to curves, for every coefficient of x, broadcastable to (batch, *dims)."""
        shape = tuple(x.shape[1:])
        return curves.index_select(1, self.plan.labels(shape, curves.device)[0]).reshape(-1, *shape)

    @property
    def basis(self) -> Basis:
        return self.plan.basis

    def variances(self, prediction: Prediction) -> Float64[Tensor, " batch *dims"]:
        variances = self.kernel.rho2 + self._of_curves(prediction)
        return self._of_coefficients(variances, prediction.x_t).expand(prediction.x_t.shape)

    def add_noise(
        self, mean: Float[Tensor, " batch *dims"], prediction: Prediction, z: Float[Tensor, " batch *dims"]
    ) -> Float[Tensor, " batch *dims"]:
        deviation = (self.kernel.rho2 + self._of_curves(prediction)).sqrt().to(z)
        return mean + self.plan.basis.inverse(self._of_coefficients(deviation, z) * z)

    def kl(self, kernel: Kernel, prediction: Prediction, x_0: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
        curves = self._of_curves(prediction)
        labels, sizes = self.plan.labels(tuple(x_0.shape[1:]), curves.device)
        energies = self.plan.basis.energies(precise(x_0 - prediction.x_0), labels, len(sizes))
        nats = step_kl(kernel.error(energies / sizes), kernel.rho2, curves)
        return (nats * sizes).sum(1) / sizes.sum()


@dataclass(frozen=True)
class Diagonal(Covariance):
    """Sigma = U^T diag(rho^2 + b^2 V0_k) U, KL-optimal among those diagonal in U that look at the statistic.

    Attributes:
        spectrum: R_k(lam, phi).
        basis: U.
        statistic: phi, or None.
        correction: what draws that the fit never saw add to its price (`HeldOut.correction`); None prices it as fitted.

    >>> s, t = model.schedule.level(0.4), model.schedule.level(0.5)
    >>> round(float(Diagonal(Spectrum.fit(study.structures.draws("pixel")), Pixel()).step_nats(curve, s, t)), 4)
    0.0460
    """

    priced: ClassVar[bool] = True
    judged: ClassVar[bool] = True
    spectrum: Spectrum
    basis: Basis
    statistic: Statistic | None = None
    correction: Correction | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.statistic is None) != (not self.spectrum.quantiles.size):
            raise InputError("a spectrum fitted with a statistic needs that statistic, and one without takes none")

    def step_nats(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        """By its own spectrum, as optimal."""
        pairs = np.broadcast(s.log_snr, t.log_snr)
        return np.array([self.spectrum.step_nats(*pair) for pair in pairs]).reshape(pairs.shape)

    def step_slopes(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        pairs = np.broadcast(s.log_snr, t.log_snr)
        return np.array([self.spectrum.step_slope(*pair) for pair in pairs]).reshape(pairs.shape)

    def nodes(self, curve: NoiseCurve, log_snr: Float64[Array, " n"]) -> Float64[Array, "n nodes"]:
        return self.spectrum.nodes(log_snr)

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        plan = _Plan(self.basis, self.statistic, len(self.spectrum.sizes))
        tables = [LevelTable.of(self.spectrum, level.log_snr) for level in levels]
        return [DiagonalStep(kernel, table, plan) for kernel, table in zip(kernels, tables, strict=True)]

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> dict[str, Any]:
        s = self.spectrum
        sha = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (s.log_snr, s.y, s.quantiles, s.sizes)))
        statistic = None if self.statistic is None else self.statistic.config()
        return {"spectrum": sha.hexdigest()[:16], "smooth": s.smooth, "basis": self.basis.config(), "statistic": statistic}

    def save(self, path: str | Path, fingerprint: Mapping[str, Any] | None = None) -> None:
        """Write curves, basis, statistic and held-out price as safetensors, with the fingerprint of the measured model."""
        save_arrays(path, self._arrays(), {"kind": KIND, **self._settings(), "model": dict(fingerprint or {})})

    def content(self) -> dict[str, Any]:
        return {"name": "diagonal", **self._settings(), "arrays": {name: packed(a) for name, a in self._arrays().items()}}

    def _settings(self) -> dict[str, Any]:
        statistic = None if self.statistic is None else self.statistic.config()
        return {"smooth": self.spectrum.smooth, "basis": self.basis.config(), "statistic": statistic}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        s = self.spectrum
        arrays = {"log_snr": s.log_snr, "y": s.y, "quantiles": s.quantiles, "sizes": s.sizes}
        if s.mass is not None:  # shares are those of states for all labels alike, but for local statistics
            arrays["mass"] = s.mass[..., :1] if np.all(s.mass == s.mass[..., :1]) else s.mass
        if self.correction is not None:
            arrays["correction"] = self.correction.table
        return arrays | {f"basis.{name}": values for name, values in bases.to_arrays(self.basis).items()}

    @classmethod
    def load(
        cls,
        path: str | Path,
        model_fingerprint: Mapping[str, Any] | None = None,
        basis: Basis | None = None,
        statistic: Statistic | None = None,
    ) -> Diagonal:
        """Read a saved covariance; with a model's fingerprint, refuse one measured on another model.

        Args:
            basis, statistic: your own, if it was saved with one that is not built in.

        Raises:
            FileNotFoundError, ValueError: missing, damaged or mismatched file; the message says what differs.
        """
        arrays, metadata = load_arrays(path, KIND, ARRAYS, SHAPE)
        if model_fingerprint is not None:
            require_match(path, metadata["model"], model_fingerprint)
        with reading(path):
            return cls._of(arrays, metadata, basis, statistic)

    @classmethod
    def of_content(cls, content: Mapping[str, Any], path: str | Path) -> Diagonal:
        """Of a `content` that was read from `path`.

        Raises:
            InputError: damaged content, or a basis or statistic that is not built in.
        """
        require_shape(dict(content), {**SETTINGS, "arrays": {str: dict}}, path)
        with reading(path):
            arrays = {name: unpacked(array) for name, array in content["arrays"].items()}
            require_arrays(arrays, ARRAYS, path)
            return cls._of(arrays, content)

    @classmethod
    def _of(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        settings: Mapping[str, Any],
        basis: Basis | None = None,
        statistic: Statistic | None = None,
    ) -> Diagonal:
        of_basis = {name.removeprefix("basis."): values for name, values in arrays.items() if name.startswith("basis.")}
        log_snr, y, quantiles, sizes = (arrays[name] for name in ("log_snr", "y", "quantiles", "sizes"))
        described = settings["statistic"]
        mass = np.broadcast_to(arrays["mass"], y.shape).copy() if "mass" in arrays else None
        return cls(
            Spectrum(log_snr, y, quantiles, sizes, settings["smooth"], mass),
            bases.from_config(settings["basis"], of_basis, basis),
            None if described is None else conditioning.from_config(described, statistic),
            Correction(log_snr, arrays["correction"]) if "correction" in arrays else None,
        )
