"""Curves R_k(lam, phi) of a covariance diagonal in a basis: one per label and per quantile bin of a free statistic.

    R_k = E[(U (eps - eps_hat))_k^2 | phi],   y = lam + log((1 - R)/R)

Curves are fitted in y, as the scalar one is. Bins are quantiles of phi, so that a bin keeps its meaning between noise levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from score_sde_analytic.arrays import Array, sent
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.cells import cell_means, quantile_bins
from score_sde_analytic.measure.draws import Draws
from score_sde_analytic.measure.interpolant import Interpolant, nondecreasing, residual_of, y_of
from score_sde_analytic.process.kernel import optimal_step_nats, optimal_step_slope
from score_sde_analytic.process.level import finite

#: R of a measured curve stays this far from 0 and 1.
MARGIN = 1e-9


@dataclass(frozen=True)
class Spectrum:
    """R_k(lam, phi): curves by bin and label.

    Attributes:
        log_snr: knots, ascending, (m,).
        y: lam + log((1 - R)/R) at the knots, (m, B, L); without phi nondecreasing along them.
        quantiles: of phi at each knot: median of bin 0, edge to bin 1, median of bin 1, .., (m, 2B - 1); (m, 0) without phi.
        sizes: coefficients per label, (L,).
        smooth: interpolate y between the medians of bins, instead of holding it constant within.
        mass: share of each bin among the draws of a label, at the knots, (m, B, L); None for 1/B. A local statistic puts the
            pixels of a flat corner into few bins, and ties leave bins empty.

    >>> spectrum = Spectrum.fit(study.structures.draws("pixel"))
    >>> spectrum.residual(0.0).round(2)
    array([[0.42, 0.28]])
    """

    log_snr: Array
    y: Array
    quantiles: Array
    sizes: Array
    smooth: bool = False
    mass: Array | None = None

    def __post_init__(self) -> None:
        m, bins, labels = self.y.shape
        if (
            self.log_snr.shape != (m,)
            or self.sizes.shape != (labels,)
            or self.quantiles.shape not in ((m, 2 * bins - 1), (m, 0))
        ):
            raise InputError(
                f"need knots (m,), y (m, B, L), quantiles (m, 2B - 1) and sizes (L,); got {self.log_snr.shape}, {self.y.shape},"
                f" {self.quantiles.shape}, {self.sizes.shape}"
            )
        if bins > 1 and not self.quantiles.size:
            raise InputError("several bins need the quantiles that tell them apart")
        if self.mass is not None and self.mass.shape != self.y.shape:
            raise InputError(f"need the mass of every bin and label, {self.y.shape}, got {self.mass.shape}")

    @classmethod
    def fit(
        cls,
        draws: Draws,
        statistic: str | None = None,
        bins: int = 1,
        shrinkage: float = 0.0,
        smooth: bool = False,
        pooled: bool = False,
    ) -> Spectrum:
        """A spectrum from recorded draws.

        R of a bin and label is a weighted mean of its own draws, n of them, and of `shrinkage` draws that obey the profile
        R_k (pooled over bins) times the bin's overall level: the power of its draws over what the profile expects of them.
        Where ties of phi leave a bin empty, it takes the values of the bin that they fell into.

        A single bin then has weighted isotonic regression of y along log-SNR. Several have not: where kinds of states separate
        as noise falls, the bin of the more uncertain kind had less variance while they were mixed, and its y falls.

        Args:
            statistic: name of a recorded statistic; None does not condition.
            bins: quantile bins of it.
            shrinkage: draws that the profile counts for; 0 trusts each cell alone, inf the profile.
            smooth: interpolate between the medians of bins.
            pooled: shrink the profile toward its mean over labels, as far as its own errors say (empirical Bayes).

        Raises:
            InputError: unknown statistic, fewer draws than bins at some knot, or bad settings.
        """
        if bins < 1 or not shrinkage >= 0.0:
            raise InputError(f"bins must be at least 1 and shrinkage not negative, got {bins} and {shrinkage}")
        if statistic is None:
            bins = 1
        elif statistic not in draws.phi:
            raise InputError(f"no statistic {statistic!r} was recorded; choose one of {', '.join(draws.phi) or 'none'}")
        draws, m = draws.seen_by(statistic), len(draws.log_snr)
        r, weight, mass = (np.empty((m, bins, len(draws.sizes))) for _ in range(3))
        quantiles = np.empty((m, 2 * bins - 1 if statistic else 0))
        for knot in range(m):
            rows = draws.at(knot)
            if len(rows) < max(2, bins):
                raise InputError(f"knot {knot} has {len(rows)} draws for {bins} bins; measure more draws or use fewer bins")
            index = np.zeros((len(rows), 1), dtype=np.int64)
            if statistic is not None:
                index, quantiles[knot] = quantile_bins(draws.phi[statistic][rows].astype(np.float64), bins)
            one, number = draws.alike(rows, index)
            cells = draws.square(rows[one]), index[one], number
            r[knot], weight[knot], mass[knot] = cell_means(*cells, bins, shrinkage, draws.sizes, pooled)
        lam = draws.log_snr[:, None, None]
        r = np.clip(r, MARGIN * np.exp(np.minimum(lam, 0.0)), 1.0 - MARGIN)
        y = y_of(r, lam)
        if bins == 1:  # weights as for a relative error of R of sqrt(2 / draws)
            y = nondecreasing(y, weight * (1.0 - r) ** 2 + 1e-12)
        return cls(draws.log_snr, y, quantiles, draws.sizes.astype(np.float64), smooth, mass)

    @property
    def bins(self) -> int:
        return self.y.shape[1]

    @cached_property
    def _y(self) -> Interpolant:
        return Interpolant(self.log_snr, self.y)

    @cached_property
    def _quantiles(self) -> Interpolant:
        return Interpolant(self.log_snr, self.quantiles)

    def y_at(self, log_snr: float) -> Float64[Array, "B L"]:
        """y of every bin and label at one level."""
        return self._y(log_snr)

    def residual(self, log_snr: float) -> Float64[Array, "B L"]:
        """R of every bin and label at one level."""
        return residual_of(self.y_at(log_snr), log_snr)

    def quantiles_at(self, log_snr: float) -> Float64[Array, " q"]:
        """Quantiles of phi at one level, interpolated at fixed rank, ascending; 2B - 1 of them, or none without phi."""
        if not self.quantiles.size:
            return np.zeros(0)
        return np.maximum.accumulate(self._quantiles(log_snr))

    def mass_at(self, log_snr: float) -> Float64[Array, "B L"]:
        """Share of every bin and label in the mean over bins and coordinates at one level."""
        weights = self.sizes / self.sizes.sum()
        if self.mass is None:
            return np.broadcast_to(weights / self.bins, self.y.shape[1:])
        place = np.interp(log_snr, self.log_snr, np.arange(len(self.log_snr)))
        low = int(place)
        high = min(low + 1, len(self.log_snr) - 1)
        return (self.mass[low] + (place - low) * (self.mass[high] - self.mass[low])) * weights

    def nodes(self, log_snr: Float64[Array, " n"], count: int = 32) -> Float64[Array, "n nodes"]:
        """The distribution of R over bins and coordinates as nodes of equal mass per level, at least `count`.

        Any cost that is a mean of smooth functions of R can be computed from them (`StepCosts`): exactly where few curves have
        equal mass, since the number of nodes is then a multiple of theirs, else to about 1 / count^2.
        """
        curves = self.y[0].size
        count = -(-count // curves) * curves if curves <= count else count
        out = np.empty((len(log_snr), count))
        for i, lam in enumerate(log_snr):
            r = self.residual(float(lam)).ravel()
            mass = self.mass_at(float(lam)).ravel()
            order = np.argsort(r)
            cumulative = np.concatenate([[0.0], np.cumsum(mass[order])])
            integral = np.concatenate([[0.0], np.cumsum(mass[order] * r[order])])
            edges = np.linspace(0.0, cumulative[-1], count + 1)
            out[i] = np.diff(np.interp(edges, cumulative, integral)) * count / cumulative[-1]
        return np.clip(out, 0.0, 1.0)  # rounding

    def step_nats(self, log_snr_s: float, log_snr_t: float) -> float:
        """Cost of one step at eta = 1 as this spectrum predicts it, nats per dimension."""
        log_snr_t = finite(log_snr_t)
        costs = optimal_step_nats(self.residual(log_snr_t), log_snr_s - log_snr_t)
        return float((costs * self.mass_at(log_snr_t)).sum())

    def step_slope(self, log_snr_s: float, log_snr_t: float) -> float:
        """Change of `step_nats` where y of every bin and label is larger by a unit."""
        log_snr_t = finite(log_snr_t)
        slopes = optimal_step_slope(self.residual(log_snr_t), log_snr_s - log_snr_t)
        return float((slopes * self.mass_at(log_snr_t)).sum())

    def spread(self, log_snr: float) -> float:
        """w(lam) of this covariance, so that K steps cost I^2/(4K) more than the limit, I = integral sqrt(w).

        w = mean_k R_k (1 - R_k) dy_k/dlam: what is left of the posterior eigenvalues' spread within coordinates and bins.
        """
        step = 1e-3
        r = self.residual(log_snr)
        slope = (self.y_at(log_snr + step) - self.y_at(log_snr - step)) / (2 * step)
        return max(float((r * (1 - r) * slope * self.mass_at(log_snr)).sum()), 0.0)

    def root_integral(self, log_snr_min: float, log_snr_max: float, points: int = 801) -> float:
        """I = integral sqrt(w) dlam between two levels: K steps on the optimal grid cost I^2/(4K) nats more than the limit.

        Noise of few draws enters: without phi curves can only rise, so a basis that leaves no spread has an I above 0;
        bins that differ by chance lower it.
        """
        lam = np.linspace(log_snr_min, log_snr_max, points)
        return float(scipy.integrate.cumulative_simpson(np.sqrt([self.spread(x) for x in lam]), x=lam)[-1])


@dataclass(frozen=True)
class LevelTable:
    """y of every bin and label at one level, and how phi finds its bin."""

    log_snr: float
    y: Float64[Tensor, "B L"]
    medians: Float64[Tensor, " medians"]  # one per bin, or none without phi
    edges: Float64[Tensor, " edges"]
    smooth: bool

    @classmethod
    def of(cls, spectrum: Spectrum, log_snr: float) -> LevelTable:
        log_snr = finite(log_snr)
        quantiles = spectrum.quantiles_at(log_snr)
        arrays = (spectrum.y_at(log_snr), quantiles[0::2], quantiles[1::2])
        y, medians, edges = (torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
        return cls(log_snr, y, medians, edges, spectrum.smooth and spectrum.bins > 1)

    def to(self, device: torch.device) -> LevelTable:
        """The table on a device."""
        return replace(self, y=sent(self.y, device), medians=sent(self.medians, device), edges=sent(self.edges, device))

    def between(self, phi: Float64[Tensor, " batch #L"]) -> Int64[Tensor, " batch #L"]:
        """The bin of phi; with medians that are interpolated between, which half of it."""
        edges = torch.cat([self.edges, self.medians]).sort().values if self.smooth else self.edges
        return torch.bucketize(phi.contiguous(), edges, right=True)

    def residual(self, phi: Float64[Tensor, " batch #L"] | None) -> Float64[Tensor, "#batch L"]:
        """R of every sample and label, or of any sample without phi."""
        if phi is None:
            return torch.sigmoid(self.log_snr - self.y)
        column = torch.arange(self.y.shape[1], device=self.y.device)
        phi = phi.contiguous()
        if not self.smooth:
            return torch.sigmoid(self.log_snr - self.y[torch.bucketize(phi, self.edges, right=True), column])
        upper = torch.bucketize(phi, self.medians).clamp(1, len(self.medians) - 1)
        low, high = self.medians[upper - 1], self.medians[upper]
        share = ((phi - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
        return torch.sigmoid(self.log_snr - torch.lerp(self.y[upper - 1, column], self.y[upper, column], share))
