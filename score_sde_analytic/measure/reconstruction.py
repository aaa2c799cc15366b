"""The last step's cost: E[-log p(x_0 | x_t)] for any first time and any decoder width, from the pass of the moments.

A decoder N(x0_hat, s^2) costs a density of continuous data

    1/2 log(2 pi s^2) + V0 / (2 s^2),   V0 = exp(-lam) R,   least at s^2 = V0

so the curve of R says all. Of discrete data the cost was measured at the knots for a table of s; between knots, only its
difference from that of normal errors of the variance V0 is interpolated, which is small and smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.interpolant import Interpolant
from score_sde_analytic.measure.moments import DECODER_RATIOS, Moments, decoder_scale
from score_sde_analytic.process.decoder import GaussianDecoder

#: Decoder widths in units of `decoder_scale`: those measured, and where the law of normal errors continues them.
RATIOS = 2.0 ** np.arange(-8.0, 4.01, 0.5)
#: Fine widths per entry among which the best is sought.
FINE = 40
#: The positive nodes of Gauss-Hermite quadrature of a standard normal number, and their weights, which add up to one.
NODES, WEIGHTS = (half[16:] for half in np.polynomial.hermite_e.hermegauss(32))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def normal_nats(variance: ArrayLike, std: ArrayLike, bin_width: float | None) -> Array:
    """Cost of decoding errors e of N(0, variance) with N(0, std^2), nats per number; arguments broadcast.

        1/2 log(2 pi s^2) + V / (2 s^2);   in bins of width w: -E log[Phi((e + w/2) / s) - Phi((e - w/2) / s)]

    >>> normal_nats(np.array([0.5, 1.0]), 1.0, bin_width=None).round(4)
    array([1.1689, 1.4189])
    """
    variance, std = np.broadcast_arrays(as_array(variance), std)
    if bin_width is None:
        return 0.5 * (np.log(2.0 * math.pi * std**2) + variance / std**2)
    error = np.sqrt(variance)[..., None] * NODES
    near, far = (scipy.special.log_ndtr(-(error + side) / std[..., None]) for side in (-0.5 * bin_width, 0.5 * bin_width))
    return -(near + np.log(-np.expm1(far - near))) @ WEIGHTS


@dataclass(frozen=True)
class Reconstruction:
    """E[-log p(x_0 | x_t)] as a function of log-SNR and the decoder's std.

    Attributes:
        log_snr: knots, ascending.
        nats: measured, per dimension; column j has decoder std DECODER_RATIOS[j] * decoder_scale(log_snr, data_variance).
        data_variance: V of the data.
        curve: R, from which the law of normal errors follows; without it the table is interpolated as it is.
        bin_width: of discrete data; None for a density.
    """

    log_snr: Float64[Array, " m"]
    nats: Float64[Array, "m r"]
    data_variance: float = math.inf
    curve: NoiseCurve | None = None
    bin_width: float | None = None

    @classmethod
    def of(cls, moments: Moments, curve: NoiseCurve | None = None) -> Reconstruction:
        """The table that `estimate` measured along with the moments.

        Args:
            curve: of the moments, where it is known; else fitted.
        """
        data_range = moments.data_range
        curve = NoiseCurve.fit(moments, warn=False) if curve is None else curve
        width = None if data_range is None or data_range.levels is None else data_range.bin_width
        return cls(moments.log_snr, moments.decoder_nats(), moments.data_variance, curve, width)

    @classmethod
    def normal(cls, curve: NoiseCurve, data_variance: float, data_range: DataRange | None = None) -> Reconstruction:
        """As if errors were normal, of the variance that the curve says: where nothing but the curve is known.

        >>> bool(Reconstruction.normal(curve, 0.2).best(3.0)[0] < 0.0)
        True
        """
        width = None if data_range is None or data_range.levels is None else data_range.bin_width
        std = decoder_scale(curve.log_snr, data_variance)[:, None] * DECODER_RATIOS
        nats = normal_nats(np.asarray(curve.posterior_variance(curve.log_snr))[:, None], std, width)
        return cls(curve.log_snr, nats, data_variance, curve, width)

    @property
    def density(self) -> bool:
        """Whether the cost is known in closed form from the curve."""
        return self.curve is not None and self.bin_width is None

    def _normal(self, log_snr: Array, ratios: Array) -> Array:
        """Cost of normal errors, (n, ratios)."""
        if self.curve is None:
            return np.zeros((len(log_snr), len(ratios)))
        std = decoder_scale(log_snr, self.data_variance)[:, None] * ratios
        return normal_nats(np.asarray(self.curve.posterior_variance(log_snr))[:, None], std, self.bin_width)

    @cached_property
    def _difference(self) -> Array:
        """Measured minus normal errors, at the knots."""
        difference = self.nats - self._normal(self.log_snr, DECODER_RATIOS)
        # Values that are zero but for underflow would overflow PCHIP's slopes.
        return np.where(np.abs(difference) < 1e-30, 0.0, difference)

    @cached_property
    def _rows(self) -> Interpolant:
        # Below the first knot x0_hat tells nothing more, and the scale of the table is constant.
        return Interpolant(self.log_snr, self._difference)

    def _within(self, log_snr: ArrayLike) -> Array:
        lam = np.atleast_1d(as_array(log_snr))
        if np.any(lam > self.log_snr[-1] + 1e-6):
            raise InputError(
                f"a first time at log-SNR {lam.max():.4g} lies beyond the last measured knot, {self.log_snr[-1]:.4g};"
                " measure knots up to it, or choose a later first time"
            )
        return np.minimum(lam, self.log_snr[-1])

    @property
    def ratios(self) -> Array:
        """Widths that have a price, in units of `decoder_scale`."""
        return DECODER_RATIOS if self.curve is None else RATIOS

    def _table(self, log_snr: Array, ratios: Array) -> Array:
        """Cost at these widths, in log2 of units of `decoder_scale`, (n, widths).

        What is interpolated between measured widths is their difference from normal errors, by a spline in the logarithm of the
        width; narrower ones see it as e^2 / (2 s^2), as they do normal errors, wider ones as the widest that was measured.
        """
        known = np.log2(DECODER_RATIOS)
        # A spline, not PCHIP, which would put every minimum on a table entry.
        within = np.clip(ratios, known[0], known[-1])
        difference = scipy.interpolate.CubicSpline(known, self._rows(log_snr), axis=1)(within)
        if self.curve is None:
            return difference
        narrower = 4.0 ** np.maximum(known[0] - ratios, 0.0)
        normal = scipy.interpolate.CubicSpline(np.log2(RATIOS), self._normal(log_snr, RATIOS), axis=1)(ratios)
        return narrower * difference + normal

    def at(self, log_snr: float, std: float) -> float:
        """Nats per dimension at one level and decoder std.

        Raises:
            InputError: a level beyond the last knot, or a std outside the range of ratios.
        """
        lam = self._within(log_snr)
        if self.density:
            return self.normal_at(log_snr, std, self.curve)  # type: ignore[arg-type]
        scale = float(decoder_scale(log_snr, self.data_variance))
        ratios, ratio = np.log2(self.ratios), np.log2(std / scale)
        if not ratios[0] - 1e-9 <= ratio <= ratios[-1] + 1e-9:
            low, high = self.ratios[[0, -1]] * scale
            raise InputError(f"decoder std {std:.4g} lies outside the measured range [{low:.4g}, {high:.4g}] at this level")
        return float(self._table(lam, np.array([ratio]))[0, 0])

    def slope(self, log_snr: float, std: float) -> float:
        """How the cost of normal errors changes for a unit of y; of a density, how `at` does."""
        curve, step = self.curve, 1e-4
        if curve is None:
            return 0.0
        above, below = (self.normal_at(log_snr, std, replace(curve, y=curve.y + shift)) for shift in (step, -step))
        return (above - below) / (2.0 * step)

    def normal_at(self, log_snr: float, std: float, curve: NoiseCurve) -> float:
        """Cost of normal errors of a curve's variance."""
        return float(normal_nats(curve.posterior_variance(self._within(log_snr)[0]), std, self.bin_width))

    def doubt(self, log_snr: float, std: float) -> float:
        """Standard error of what was interpolated of `at` between knots: the largest miss of either neighbour without itself.

        Left out, a knot is missed from twice the distance, four times as far for a smooth table.
        """
        if self.density:
            return 0.0
        ratio = np.log2(std / float(decoder_scale(log_snr, self.data_variance)))
        column = int(np.abs(np.log2(DECODER_RATIOS) - ratio).argmin())
        values = self._difference[:, column]
        if len(values) < 4:
            return float(np.abs(values - values.mean()).max())
        after = int(np.searchsorted(self.log_snr, self._within(log_snr)[0]))
        neighbours = np.unique(np.clip([after - 1, after], 1, len(values) - 2))
        return max(abs(self._missed(values, knot)) for knot in neighbours) / 4.0

    def _missed(self, values: Array, knot: int) -> float:
        """How far the others' interpolation misses the value at an inner knot."""
        others = np.arange(len(values)) != knot
        return float(Interpolant(self.log_snr[others], values[others])(self.log_snr[knot]) - values[knot])

    def decoder(self, log_snr: float) -> GaussianDecoder:
        """The decoder with the best std at one level."""
        return GaussianDecoder(float(self.best(log_snr)[1][0]))

    def best(self, log_snr: ArrayLike) -> tuple[Float64[Array, " n"], Float64[Array, " n"]]:
        """(smallest nats per dimension, its decoder std) at each level.

        Raises:
            InputError: a level beyond the last knot, or a best std that lies on the edge of the table.

        >>> nats, std = Reconstruction.of(moments).best([3.0, 5.0])
        >>> nats.round(2), std.round(3)
        (array([-0.26, -1.13]), array([0.187, 0.078]))
        """
        lam = self._within(log_snr)
        if self.density:
            variance = np.asarray(self.curve.posterior_variance(lam))  # type: ignore[union-attr]
            return normal_nats(variance, np.sqrt(variance), None), np.sqrt(variance)
        ratios = np.log2(self.ratios)
        fine = np.linspace(ratios[0], ratios[-1], FINE * (len(ratios) - 1) + 1)
        table = self._table(lam, fine)
        column = table.argmin(1)
        self._check_edge(lam, column == len(fine) - 1)
        return table[np.arange(len(lam)), column], 2.0 ** fine[column] * decoder_scale(lam, self.data_variance)

    def _check_edge(self, log_snr: Array, on_edge: Array) -> None:
        if self.curve is not None and on_edge.any():
            raise InputError(
                f"at log-SNR {log_snr[on_edge][0]:.4g} the best decoder is wider than {self.ratios[-1]:g} times what the data's"
                " variance explains: the network's x0_hat is not of these data; check their scaling, the time index and the"
                " schedule"
            )
