"""Reverse covariances diagonal in a basis U, with one curve per coordinate and per bin of a free statistic.

    Sigma = U^T diag(rho^2 + b^2 V0_k) U,   V0_k = (sigma_t/alpha_t)^2 R_k(lam_t, phi),   R_k = E[(U (eps - eps_hat))_k^2 | phi]

KL-optimal among covariances diagonal in U that look at phi; a step of h in log-SNR costs mean_k 1/2 log(1 + R_k expm1(h)) nats
per dimension, averaged over phi: by Jensen never more than with one variance for all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.files import load_arrays, require_match, save_arrays
from score_sde_analytic.measure import bases
from score_sde_analytic.measure import statistics as conditioning
from score_sde_analytic.measure.basis import Basis, Pixel, PixelChannel
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.spectrum import Correction, LevelTable, Spectrum
from score_sde_analytic.measure.statistics import Statistic, checked
from score_sde_analytic.models.model import Prediction
from score_sde_analytic.process.gaussian import diagonal_kl
from score_sde_analytic.process.kernel import Kernel
from score_sde_analytic.process.schedule import Level

KIND = "diagonal covariance"


@dataclass(frozen=True)
class DiagonalStep(StepCovariance):
    """The covariance of one step: V0 = exp(-lam_t) R."""

    kernel: Kernel
    table: LevelTable
    basis: Basis
    statistic: Statistic | None
    labelled: int  # curves of the spectrum
    labels: dict[Any, Tensor] = field(default_factory=dict, repr=False, compare=False)  # found so far; one for all steps

    def _variances(self, prediction: Prediction) -> Tensor:
        """b^2 V0 of every coefficient, in float64, broadcastable to (batch, *dims)."""
        x = prediction.x_t
        table = self._on(x.device)
        phi = None if self.statistic is None else checked(self.statistic(prediction), prediction).double()
        excess = self.kernel.b**2 * math.exp(-table.log_snr) * table.residual(phi)
        key = tuple(x.shape[1:]), x.device
        if key not in self.labels:
            self.labels[key] = torch.from_numpy(self._checked_labels(key[0])).to(x.device)
        return excess[:, self.labels[key]].reshape(-1, *x.shape[1:])

    def _checked_labels(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """The curve of every coefficient of an example of this shape."""
        labels = self.basis.labels(shape)
        if labels.max() + 1 != self.labelled:
            raise ValueError(
                f"{self.labelled} curves were fitted in another basis or to another shape: {type(self.basis).__name__} has"
                f" {labels.max() + 1} for {shape}"
            )
        per_pixel = isinstance(self.basis, PixelChannel) and np.array_equal(labels, Pixel().labels(shape))
        if self.statistic is not None and self.statistic.local and not per_pixel:
            raise ValueError(f"{type(self.statistic).__name__} is per pixel: it needs the basis Pixel")
        return labels.ravel()

    def _on(self, device: torch.device) -> LevelTable:
        if self.table.y.device == device:
            return self.table
        moved = {name: getattr(self.table, name).to(device) for name in ("y", "medians", "edges")}
        table = replace(self.table, **moved)
        object.__setattr__(self, "table", table)  # moved once
        return table

    def add_noise(self, mean: Tensor, prediction: Prediction, z: Tensor) -> Tensor:
        excess = self._variances(prediction)
        deviation = (self.kernel.rho2 + excess).sqrt().to(z.dtype)
        return mean + self.basis.inverse(deviation * z)

    def kl(self, kernel: Kernel, prediction: Prediction, x_0: Tensor) -> Tensor:
        excess = self._variances(prediction)
        square = kernel.b**2 * self.basis.forward((x_0 - prediction.x_0).double()).square()
        return diagonal_kl(square, kernel.rho2, excess)


@dataclass(frozen=True)
class Diagonal(Covariance):
    """Sigma = U^T diag(rho^2 + b^2 V0_k) U, KL-optimal among those diagonal in U that look at the statistic.

    Attributes:
        spectrum: R_k(lam, phi).
        basis: U.
        statistic: phi, or None.
        correction: what draws that the fit never saw add to its price (`HeldOut.correction`); None prices it as fitted.
    """

    priced: ClassVar[bool] = True
    spectrum: Spectrum
    basis: Basis
    statistic: Statistic | None = None
    correction: Correction | None = field(default=None, repr=False, compare=False)
    _labels: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.statistic is None) != (not self.spectrum.quantiles.size):
            raise ValueError("a spectrum fitted with a statistic needs that statistic, and one without takes none")

    def step_nats(self, curve: NoiseCurve, s: Level, t: Level) -> Array:
        """By its own spectrum, as optimal."""
        pairs = np.broadcast(s.log_snr, t.log_snr)
        return np.array([self.spectrum.step_nats(*pair) for pair in pairs]).reshape(pairs.shape)

    def nodes(self, curve: NoiseCurve, log_snr: Array) -> Array:
        return self.spectrum.nodes(log_snr)

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        tables = [LevelTable.of(self.spectrum, level.log_snr) for level in levels]
        parts = self.basis, self.statistic, len(self.spectrum.sizes), self._labels
        return [DiagonalStep(k, table, *parts) for k, table in zip(kernels, tables, strict=True)]

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> dict[str, Any]:
        s = self.spectrum
        sha = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (s.log_snr, s.y, s.quantiles, s.sizes)))
        statistic = None if self.statistic is None else self.statistic.config()
        return {"spectrum": sha.hexdigest()[:16], "smooth": s.smooth, "basis": self.basis.config(), "statistic": statistic}

    def save(self, path: str | Path, fingerprint: Mapping[str, Any] | None = None) -> None:
        """Write curves, basis, statistic and held-out price as safetensors, with the fingerprint of the measured model."""
        s, mass = self.spectrum, self.spectrum.mass
        arrays = {"log_snr": s.log_snr, "y": s.y, "quantiles": s.quantiles, "sizes": s.sizes}
        if mass is not None:  # shares are those of states for all labels alike, but for local statistics
            arrays["mass"] = mass[..., :1] if np.all(mass == mass[..., :1]) else mass
        if self.correction is not None:
            arrays["correction"] = self.correction.table
        arrays |= {f"basis.{name}": values for name, values in bases.to_arrays(self.basis).items()}
        metadata = {
            "kind": KIND,
            "smooth": s.smooth,
            "basis": self.basis.config(),
            "statistic": None if self.statistic is None else self.statistic.config(),
            "model": dict(fingerprint or {}),
        }
        save_arrays(path, arrays, metadata)

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
        arrays, metadata = load_arrays(path, KIND, ("log_snr", "y", "quantiles", "sizes"))
        if model_fingerprint is not None:
            require_match(path, metadata["model"], model_fingerprint)
        own = {name.removeprefix("basis."): values for name, values in arrays.items() if name.startswith("basis.")}
        log_snr, y, quantiles, sizes = (arrays[name] for name in ("log_snr", "y", "quantiles", "sizes"))
        mass = np.broadcast_to(arrays["mass"], y.shape).copy() if "mass" in arrays else None
        spectrum = Spectrum(log_snr, y, quantiles, sizes, metadata["smooth"], mass)
        described = metadata["statistic"]
        return cls(
            spectrum,
            bases.from_config(metadata["basis"], own, basis),
            None if described is None else conditioning.from_config(described, statistic),
            Correction(log_snr, arrays["correction"]) if "correction" in arrays else None,
        )
