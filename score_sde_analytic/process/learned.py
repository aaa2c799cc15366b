"""A variance preserving schedule from any density over log-SNR, by a table of its quantile function."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from score_sde_analytic.arrays import Array, softplus
from score_sde_analytic.declared import reading
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.process.density import Density
from score_sde_analytic.process.forward import VariancePreserving

KIND = "schedule"
STORED = {"ends": "float64 2", "mass": "float64 cells"}
#: Share of all draws between two nodes of the table; edges of cells with less between them are left out.
LEAST = 1e-6


@dataclass(frozen=True, repr=False)
class Learned(VariancePreserving):
    """lam(t) = Q(1 - t), Q the quantile function of a density, by monotone cubic interpolation between the edges of its cells.

    At uniform t the log-SNR has that density; lam(1) is `low` and lam(0+) is `high` to rounding. Where the density is
    `Density.from_moments`, no other schedule between these ends makes the estimator of the bound vary less.

    >>> schedule = Learned(Density.from_curve(curve, -10.0, 9.0))
    >>> schedule.log_snr_range, schedule.log_snr(1.0)
    ((-10.0, 9.0), -10.0)
    """

    density: Density

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(low, high) of the density."""
        return self.density.low, self.density.high

    @cached_property
    def _law(self) -> Any:
        """lam(t), through the edges of the cells at the shares of all mass above them."""
        above = np.concatenate([[0.0], np.cumsum(self.density.mass[::-1])])
        above /= above[-1]
        kept = _apart(above)
        return scipy.interpolate.PchipInterpolator(above[kept], self.density.edges[::-1][kept], extrapolate=False)

    @cached_property
    def _rate(self) -> Any:
        return self._law.derivative()

    def _log_snr(self, t: Array) -> Array:
        return np.clip(self._law(t), *self.log_snr_range)

    def _log_alpha(self, t: Array) -> Array:
        return -0.5 * softplus(-self._log_snr(t))

    def _log_sigma(self, t: Array) -> Array:
        return -0.5 * softplus(self._log_snr(t))

    def _log_alpha_rate(self, t: Array) -> Array:
        return 0.5 * scipy.special.expit(-self._log_snr(t)) * self._rate(t)

    def _time(self, log_snr: Array) -> Array:
        from scipy.optimize import elementwise  # which scipy does not load by its name alone

        lam = np.clip(log_snr, *self.log_snr_range)
        nodes, falling = self._law.x, -self._law(self._law.x)
        piece = np.clip(np.searchsorted(falling, -lam, side="right") - 1, 0, len(nodes) - 2)
        bracket = nodes[piece], nodes[piece + 1]
        tolerances = {"xatol": 0.0, "xrtol": 4 * np.finfo(float).eps, "fatol": 0.0, "frtol": 0.0}
        root = elementwise.find_root(lambda t, target: self._law(t) - target, bracket, args=(lam,), tolerances=tolerances)
        nearest = np.where(-lam - falling[piece] <= falling[piece + 1] + lam, *bracket)  # at a node rounding hides the sign
        return np.where(root.success, root.x, nearest)

    def _time_of_log_alpha(self, log_alpha: Array) -> Array:
        return self._time(-np.log(np.expm1(-2.0 * log_alpha)))

    def config(self) -> dict[str, Any]:
        digest = hashlib.sha256(np.round(self.density.mass / self.density.below[-1], 15).tobytes()).hexdigest()[:16]
        return {"name": "learned", "log_snr": [self.density.low, self.density.high], "density": digest}

    def save(self, path: str | Path) -> None:
        """Write the schedule as safetensors; `config.schedule = {"name": "learned", "path": PATH}` reads it again."""
        arrays = {"ends": np.array(self.log_snr_range), "mass": self.density.mass}
        save_arrays(path, arrays, {"kind": KIND})

    @classmethod
    def load(cls, path: str | Path) -> Learned:
        """Read a saved schedule.

        Raises:
            MissingFileError, InputError: a missing or damaged file.
        """
        arrays, _ = load_arrays(path, KIND, STORED)
        with reading(path):
            return cls(Density(float(arrays["ends"][0]), float(arrays["ends"][1]), arrays["mass"]))


def _apart(shares: Array) -> list[int]:
    """Indices of the first share, the last, and those between that differ enough from the one kept before."""
    kept = [0]
    for i in range(1, len(shares) - 1):
        if shares[i] - shares[kept[-1]] >= LEAST and shares[-1] - shares[i] >= LEAST:
            kept.append(i)
    return [*kept, len(shares) - 1]
