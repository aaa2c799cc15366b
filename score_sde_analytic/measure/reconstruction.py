"""The last step's cost: E[-log p(x_0 | x_t)] for any first time and any decoder width, from the pass of the moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.interpolant import Interpolant
from score_sde_analytic.measure.moments import DECODER_RATIOS, Moments, decoder_scale
from score_sde_analytic.process.decoder import GaussianDecoder


@dataclass(frozen=True)
class Reconstruction:
    """E[-log p(x_0 | x_t)] as a function of log-SNR and the decoder's std, from a measured table.

    Attributes:
        log_snr: knots, ascending.
        nats: nats per dimension; column j has decoder std DECODER_RATIOS[j] * decoder_scale(log_snr, data_variance).
        data_variance: V of the data.
    """

    log_snr: Float64[Array, " m"]
    nats: Float64[Array, "m r"]
    data_variance: float = math.inf

    @classmethod
    def of(cls, moments: Moments) -> Reconstruction:
        """The table that `estimate` measured along with the moments."""
        nats = moments.decoder_nats()
        # Continuous data may have negative nats; values that are zero but for underflow would overflow PCHIP's slopes.
        return cls(moments.log_snr, np.where(np.abs(nats) < 1e-30, 0.0, nats), moments.data_variance)

    @cached_property
    def _rows(self) -> Interpolant:
        # Below the first knot x0_hat tells nothing more, and the scale of the table is constant.
        return Interpolant(self.log_snr, self.nats)

    def _within(self, log_snr: ArrayLike) -> Array:
        lam = np.atleast_1d(np.asarray(log_snr, dtype=np.float64))
        if np.any(lam > self.log_snr[-1] + 1e-6):
            raise InputError(
                f"a first time at log-SNR {lam.max():.4g} lies beyond the last measured knot, {self.log_snr[-1]:.4g};"
                " measure knots up to it, or choose a later first time"
            )
        return np.minimum(lam, self.log_snr[-1])

    def at(self, log_snr: float, std: float) -> float:
        """Nats per dimension at one level and decoder std.

        Raises:
            InputError: a level beyond the last knot, or a std outside the measured range of ratios.
        """
        lam = self._within(log_snr)
        ratios = np.log2(DECODER_RATIOS)
        scale = float(decoder_scale(log_snr, self.data_variance))
        ratio = np.log2(std / scale)
        if not ratios[0] - 1e-9 <= ratio <= ratios[-1] + 1e-9:
            low, high = DECODER_RATIOS[[0, -1]] * scale
            raise InputError(f"decoder std {std:.4g} lies outside the measured range [{low:.4g}, {high:.4g}] at this level")
        return float(scipy.interpolate.CubicSpline(ratios, self._rows(lam)[0])(ratio))

    def decoder(self, log_snr: float) -> GaussianDecoder:
        """The decoder with the best std at one level."""
        return GaussianDecoder(float(self.best(log_snr)[1][0]))

    def best(self, log_snr: ArrayLike) -> tuple[Float64[Array, " n"], Float64[Array, " n"]]:
        """(smallest nats per dimension, its decoder std) at each level.

        Raises:
            InputError: a level beyond the last knot.

        >>> nats, std = Reconstruction.of(moments).best([3.0, 5.0])
        >>> nats.round(2), std.round(3)
        (array([-0.26, -1.11]), array([0.187, 0.08 ]))
        """
        lam = self._within(log_snr)
        ratios = np.log2(DECODER_RATIOS)
        fine = np.linspace(ratios[0], ratios[-1], 40 * (len(ratios) - 1) + 1)
        # A spline, not PCHIP, which would put every minimum on a table entry.
        table = scipy.interpolate.CubicSpline(ratios, self._rows(lam), axis=1)(fine)
        column = table.argmin(1)
        return table[np.arange(len(lam)), column], 2.0 ** fine[column] * decoder_scale(lam, self.data_variance)
