"""A free model with what it costs as a prior on examples that it was not fitted to: its price at any level, with its error.

E KL(q(x_t | x_0) || p(x_t)) / d = 1/2 mean_k [log(1 + snr c_k) + (1 + snr E u_k^2) / (1 + snr c_k) - 1],   u = U (x_0 - mu)

for a Gaussian, and the mean of log q - log p at drawn x_t for other models. Its slope along lam is half the error of the
model's denoiser on the same examples, R / 2, whatever the model (Guo, Shamai & Verdu, 2005; Verdu, 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from torch import Tensor

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.checks import whole
from score_sde_analytic.data.basis import Basis
from score_sde_analytic.data.examples import Data, as_dataset, batches
from score_sde_analytic.data.portions import batch_by_bytes
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.process.level import PURE_NOISE, Level
from score_sde_analytic.process.noise import LevelNoise
from score_sde_analytic.process.schedule import Schedule

#: Levels at which a prior is priced, between which the price is interpolated.
KNOTS = 100
#: Lowest of them: there nothing is left to judge.
LOWEST = -20.0


@dataclass(frozen=True, eq=False)
class Judged(FreeModel):
    """A free model, and its prior term on each of some examples at some levels.

    Attributes:
        free: the model.
        log_snr: knots, ascending, (m,).
        nats, stderr: mean over examples at the knots, per dimension, and its standard error, (m,).

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> judged = Judged.on(test_set, LinearDenoiser.of(data), model.schedule)
    >>> value, stderr = judged.prior_price([-2.0, 0.0])
    >>> value.round(3)
    array([0.04 , 0.235])
    """

    free: FreeModel
    log_snr: Array
    nats: Array = field(repr=False)
    stderr: Array = field(repr=False)

    @classmethod
    def on(
        cls, data: Data, free: FreeModel, schedule: Schedule, knots: int = KNOTS, seed: int = 0, batch_size: int = 1024
    ) -> Judged:
        """Judge a model on examples that it was not fitted to.

        Args:
            schedule: whose range of log-SNR is covered.
            knots: levels, even in log-SNR.
            seed: of the draws x_t, which are smooth in log-SNR; a Gaussian needs none.

        Raises:
            InputError: empty data, or examples of another shape than the model's.
        """
        examples = as_dataset(data)
        if len(examples) < 2:
            raise InputError("one example has no spread to judge by; give at least two")
        low, high = schedule.log_snr_range
        log_snr = np.linspace(max(low, LOWEST), min(high, -LOWEST), whole(4)("knots", knots))
        rows = []
        size = batch_by_bytes(examples.first.numel(), batch_size)
        for start in range(0, len(examples), size):
            indices = range(start, min(start + size, len(examples)))
            (x_0,) = batches(examples, indices, size)
            noise = LevelNoise(seed, [(i,) for i in indices])
            rows.append(free.prior_table(x_0.double(), log_snr, noise))
        nats = np.concatenate(rows)
        return cls(free, log_snr, nats.mean(0), nats.std(0, ddof=1) / np.sqrt(len(nats)))

    @classmethod
    def pooled(cls, free: FreeModel, parts: Sequence[Judged]) -> Judged:
        """A model with the mean price of others like it, each judged on examples of its own, of equal number."""
        nats, stderr = (np.stack([getattr(part, name) for part in parts]) for name in ("nats", "stderr"))
        return cls(free, parts[0].log_snr, nats.mean(0), np.sqrt(np.square(stderr).sum(0)) / len(parts))

    def x_0(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        return self.free.x_0(x_t, level)

    def start(self, z: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        return self.free.start(z, level)

    def log_prob(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float64[Tensor, " batch"]:
        return self.free.log_prob(x_t, level)

    def residual(self, log_snr: ArrayLike) -> Float64[np.ndarray, " n"]:
        """R of its denoiser on these examples: twice the slope of the price."""
        return 2.0 * self._curves[0](self._inside(log_snr), 1)

    def content(self) -> dict[str, Any]:
        return self.free.content()

    def normal(self, level: Level) -> tuple[Basis, Float64[Tensor, "*dims"], Float64[Tensor, "*dims"]]:
        return self.free.normal(level)

    def config(self) -> dict[str, Any]:
        """That of the model: how it was judged does not change what it says."""
        return self.free.config()

    def prior_nats(
        self, x_0: Float[Tensor, " batch *dims"], level: Level, eps: Float[Tensor, " batch *dims"]
    ) -> Float64[Tensor, " batch"]:
        return self.free.prior_nats(x_0, level, eps)

    def prior_price(self, log_snr: ArrayLike) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        lam = self._inside(log_snr)
        return self._curves[0](lam), np.maximum(self._curves[1](lam), 0.0)

    def _inside(self, log_snr: ArrayLike) -> Array:
        """Log-SNRs at which it was judged."""
        lam = np.atleast_1d(as_array(log_snr))
        blank = LOWEST if self.log_snr[0] <= LOWEST else PURE_NOISE
        lam = np.where(lam <= blank, self.log_snr[0], lam)
        if lam.min() < self.log_snr[0] - 1e-6 or lam.max() > self.log_snr[-1] + 1e-6:
            raise InputError(
                f"the prior was judged from log-SNR {self.log_snr[0]:.3g} to {self.log_snr[-1]:.3g}, not at"
                f" {lam.min():.3g} .. {lam.max():.3g}; judge it under the schedule that it is used with"
            )
        return np.clip(lam, *self.log_snr[[0, -1]])

    @cached_property
    def _curves(self) -> tuple[CubicSpline, CubicSpline]:
        """(mean, its standard error) over examples as functions of log-SNR."""
        return CubicSpline(self.log_snr, self.nats), CubicSpline(self.log_snr, self.stderr)
