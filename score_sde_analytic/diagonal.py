"""Reverse covariances diagonal in a basis U, with one curve per coordinate and per bin of a free statistic.

    Sigma = U^T diag(rho^2 + b^2 V0_k) U,   V0_k = (sigma_t/alpha_t)^2 R_k(lam_t, phi),   R_k = E[(U (eps - eps_hat))_k^2 | phi]

KL-optimal among covariances diagonal in U that look at phi; a step of h in log-SNR costs mean_k 1/2 log(1 + R_k expm1(h)) nats
per dimension, averaged over phi: by Jensen never more than with one variance for all. Bins are quantiles of phi, so that a bin
keeps its meaning between noise levels; curves are fitted in y = lam + log((1 - R)/R), as the scalar one is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit
from torch import Tensor

from score_sde_analytic.basis import Basis
from score_sde_analytic.conditioning import Statistic, checked
from score_sde_analytic.covariance import Covariance, StepCovariance
from score_sde_analytic.draws import ResidualDraws
from score_sde_analytic.gaussian import diagonal_kl
from score_sde_analytic.kernel import Kernel
from score_sde_analytic.model import Prediction
from score_sde_analytic.schedule import Array, Level

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
            raise ValueError(
                f"need knots (m,), y (m, B, L), quantiles (m, 2B - 1) and sizes (L,); got {self.log_snr.shape}, {self.y.shape},"
                f" {self.quantiles.shape}, {self.sizes.shape}"
            )
        if bins > 1 and not self.quantiles.size:
            raise ValueError("several bins need the quantiles that tell them apart")
        if self.mass is not None and self.mass.shape != self.y.shape:
            raise ValueError(f"need the mass of every bin and label, {self.y.shape}, got {self.mass.shape}")

    @property
    def bins(self) -> int:
        return self.y.shape[1]

    @cached_property
    def _curves(self) -> tuple[Callable[[float], Array], ...]:
        """Interpolants of y and of the quantiles, made once."""
        if len(self.log_snr) == 1:
            return tuple(lambda lam, row=values[0]: row for values in (self.y, self.quantiles))
        return tuple(PchipInterpolator(self.log_snr, values) for values in (self.y, self.quantiles))

    def _inside(self, log_snr: float) -> float:
        return min(max(float(log_snr), float(self.log_snr[0])), float(self.log_snr[-1]))

    def y_at(self, log_snr: float) -> Array:
        """y of every bin and label at one level, (B, L)."""
        return self._curves[0](self._inside(log_snr))

    def residual(self, log_snr: float) -> Array:
        """R of every bin and label at one level, (B, L)."""
        return expit(log_snr - self.y_at(log_snr))

    def quantiles_at(self, log_snr: float) -> Array:
        """Quantiles of phi at one level, interpolated at fixed rank, ascending, (2B - 1,)."""
        if not self.quantiles.size:
            return np.zeros(0)
        return np.maximum.accumulate(self._curves[1](self._inside(log_snr)))

    def mass_at(self, log_snr: float) -> Array:
        """Share of every bin and label in the mean over bins and coordinates at one level, (B, L)."""
        weights = self.sizes / self.sizes.sum()
        if self.mass is None:
            return np.broadcast_to(weights / self.bins, self.y.shape[1:])
        place = np.interp(log_snr, self.log_snr, np.arange(len(self.log_snr)))
        low = int(place)
        high = min(low + 1, len(self.log_snr) - 1)
        return (self.mass[low] + (place - low) * (self.mass[high] - self.mass[low])) * weights

    def nodes(self, log_snr: Array, count: int = 32) -> Array:
        """The distribution of R over bins and coordinates as nodes of equal mass per level, (n, at least `count`).

        Any cost that is a mean of smooth functions of R can be computed from them (`StepCosts`): exactly where few curves have
        equal mass, since the number of nodes is then a multiple of theirs, else to about 1 / count^2.
        """
        curves = self.y[0].size
        count = -(-count // curves) * curves if curves <= count else count
        out = np.empty((len(log_snr), count))
        for i, lam in enumerate(log_snr):
            r, mass = self.residual(float(lam)).ravel(), self.mass_at(float(lam)).ravel()
            order = np.argsort(r)
            cumulative = np.concatenate([[0.0], np.cumsum(mass[order])])
            integral = np.concatenate([[0.0], np.cumsum(mass[order] * r[order])])
            edges = np.linspace(0.0, cumulative[-1], count + 1)
            out[i] = np.diff(np.interp(edges, cumulative, integral)) * count / cumulative[-1]
        return np.clip(out, 0.0, 1.0)  # rounding

    def step_nats(self, log_snr_s: float, log_snr_t: float) -> float:
        """Cost of one step at eta = 1 as this spectrum predicts it, nats per dimension."""
        costs = 0.5 * np.log1p(self.residual(log_snr_t) * np.expm1(log_snr_s - log_snr_t))
        return float((costs * self.mass_at(log_snr_t)).sum())

    def spread(self, log_snr: float) -> float:
        """w(lam) of this covariance, so that K steps cost I^2/(4K) more than the limit, I = integral sqrt(w).

        w = mean_k R_k (1 - R_k) dy_k/dlam: what is left of the posterior eigenvalues' spread within coordinates and bins.
        """
        step = 1e-3
        r = self.residual(log_snr)
        slope = (self.y_at(log_snr + step) - self.y_at(log_snr - step)) / (2 * step)
        return max(float((r * (1 - r) * slope * self.mass_at(log_snr)).sum()), 0.0)


# --- fitting ------------------------------------------------------------------------------------------------------------


def fit(
    draws: ResidualDraws, statistic: str | None = None, bins: int = 1, shrinkage: float = 0.0, smooth: bool = False
) -> Spectrum:
    """A spectrum from recorded draws.

    R of a bin and label is a weighted mean of its own draws, n of them, and of `shrinkage` draws that obey the profile
    R_k (pooled over bins) times the bin's overall level: the power of its draws over what the profile expects of them. Where
    ties of phi leave a bin empty, it takes the values of the bin that they fell into.

    A single bin then has weighted isotonic regression of y along log-SNR. Several have not: where kinds of states separate as
    noise falls, the bin of the more uncertain kind had less variance while they were mixed, and its y falls.

    Args:
        statistic: name of a recorded statistic; None does not condition.
        bins: quantile bins of it.
        shrinkage: draws that the profile counts for; 0 trusts each cell alone, inf the profile.

    Raises:
        ValueError: unknown statistic, fewer draws than bins at some knot, or bad settings.
    """
    if bins < 1 or not shrinkage >= 0.0:
        raise ValueError(f"bins must be at least 1 and shrinkage not negative, got {bins} and {shrinkage}")
    if statistic is None:
        bins = 1
    elif statistic not in draws.phi:
        raise ValueError(f"no statistic {statistic!r} was recorded; choose one of {', '.join(draws.phi) or 'none'}")
    m, labels = len(draws.log_snr), len(draws.sizes)
    r, weight, mass = (np.empty((m, bins, labels)) for _ in range(3))
    quantiles = np.empty((m, 2 * bins - 1 if statistic else 0))
    for knot in range(m):
        rows = draws.at(knot)
        if len(rows) < max(2, bins):
            raise ValueError(f"knot {knot} has {len(rows)} draws for {bins} bins; measure more draws or use fewer bins")
        square, phi = draws.square(rows), None if statistic is None else draws.phi[statistic][rows].astype(np.float64)
        index = np.zeros((len(rows), 1), dtype=np.int64)
        if phi is not None:
            index, quantiles[knot] = _ranks(phi, bins)
        r[knot], weight[knot], mass[knot] = _cells(square, index, bins, shrinkage, draws.sizes)
    lam = draws.log_snr[:, None, None]
    r = np.clip(r, MARGIN * np.exp(np.minimum(lam, 0.0)), 1.0 - MARGIN)
    y = _monotone(lam - logit(r), r, weight) if bins == 1 else lam - logit(r)
    return Spectrum(draws.log_snr, y, quantiles, draws.sizes.astype(np.float64), smooth, mass)


def _ranks(phi: Array, bins: int) -> tuple[np.ndarray, Array]:
    """(bin of every value, medians and edges of the bins, (2B - 1,)) by quantiles over all values of a knot."""
    quantiles = np.quantile(phi, np.linspace(0.0, 1.0, 2 * bins + 1))[1:-1]
    return np.searchsorted(quantiles[1::2], phi, side="right"), quantiles


def _cells(square: Array, index: np.ndarray, bins: int, shrinkage: float, sizes: np.ndarray) -> tuple[Array, Array, Array]:
    """(R, its effective number of draws, share of the label's draws) of every bin and label, (B, L) each."""
    sums, counts = _sums(square, index, bins)
    mass = counts / len(square)
    occupied = np.flatnonzero(counts.any(1))
    source = occupied[np.searchsorted(occupied, np.arange(bins))]  # ties fall into the next bin above, the last is never empty
    sums, counts, pooled = sums[source], counts[source], square.mean(0)
    level = (sums * sizes).sum(1) / np.maximum((counts * pooled * sizes).sum(1), 1e-300)
    profile = np.outer(level, pooled)
    if math.isinf(shrinkage):
        return profile, np.maximum(counts, 1.0), mass
    total = np.maximum(counts + shrinkage, 1e-300)
    cells = np.where(counts + shrinkage > 0, (sums + shrinkage * profile) / total, profile)
    return cells, np.maximum(counts, 1.0) + shrinkage, mass


def _sums(square: Array, index: np.ndarray, bins: int) -> tuple[Array, Array]:
    """Sum of squares and number of draws in every bin and label, (B, L) each."""
    labels = square.shape[1]
    if index.shape[1] == 1:  # one bin per draw
        member: Array = (index == np.arange(bins)).astype(np.float64)
        return member.T @ square, np.repeat(member.sum(0)[:, None], labels, axis=1)
    cell = (index * labels + np.arange(labels)).ravel()
    sums = np.bincount(cell, weights=square.ravel(), minlength=bins * labels)
    counts = np.bincount(cell, minlength=bins * labels).astype(np.float64)
    return np.asarray(sums, dtype=np.float64).reshape(bins, labels), counts.reshape(bins, labels)


def _monotone(y: Array, r: Array, draws: Array) -> Array:
    """y of every curve, made nondecreasing along the knots; weights as for a relative error of R of sqrt(2 / draws)."""
    weights = draws * (1.0 - r) ** 2 + 1e-12
    flat, w = y.reshape(len(y), -1).copy(), weights.reshape(len(y), -1)
    for column in range(flat.shape[1]):
        flat[:, column] = isotonic_regression(flat[:, column], weights=w[:, column]).x
    return flat.reshape(y.shape)


def price(spectrum: Spectrum, draws: ResidualDraws, statistic: str | None, step: float) -> Array:
    """What steps of `step` in log-SNR cost with this spectrum's variances, from draws that it was not fitted on.

    Returns:
        The cost of one step from each knot, nats per dimension, (m,): 1/2 mean_k [log(1 + R_k e) + e (r_k^2 - R_k)/(1 + e R_k)]
        with e = expm1(step) and r_k the residuals drawn.

    Raises:
        ValueError: a knot without draws.
    """
    gain, costs = math.expm1(step), np.empty(len(draws.log_snr))
    for knot, lam in enumerate(draws.log_snr):
        rows = draws.at(knot)
        if not len(rows):
            raise ValueError(f"knot {knot} has no draws to price; measure more draws, or take fewer folds of the examples")
        phi = None if statistic is None else torch.from_numpy(draws.phi[statistic][rows]).double()
        r, square = _LevelTable.of(spectrum, float(lam)).residual(phi).numpy(), draws.square(rows)
        cost = np.log1p(gain * r) + gain * (square - r) / (1.0 + gain * r)
        costs[knot] = 0.5 * float((cost.mean(0) * draws.sizes).sum() / draws.sizes.sum())
    return costs


@dataclass(frozen=True)
class Choice:
    """Settings of a fit, and the held-out cost they were chosen by (nats per dimension of a chain with even steps)."""

    statistic: str | None
    bins: int
    shrinkage: float
    smooth: bool
    cost: float = math.nan


def choose(
    draws: ResidualDraws,
    bins: Sequence[int] = (1, 4, 8, 16),
    shrinkage: Sequence[float] = (0.0, 10.0, 100.0, math.inf),
    smooth: Sequence[bool] = (False, True),
    statistics: Iterable[str] | None = None,
    steps: int = 10,
    folds: int = 4,
    labels: int = 64,
) -> list[Choice]:
    """Settings in order of their cost on held-out examples, by cross-validation over examples; the first is the best.

    Args:
        steps: of the chain whose cost decides.
        labels: most labels that enter, evenly chosen; they say enough.

    Raises:
        ValueError: a single knot, or a fold with too few draws at some knot for a candidate.
    """
    if len(draws.log_snr) < 2:
        raise ValueError("the cost of a chain needs draws at two knots or more")
    draws = draws.some_labels(labels)

    def priced(candidates: Iterable[Choice]) -> list[Choice]:
        return [replace(c, cost=held_out_cost(draws, c, steps, folds)) for c in candidates]

    found = priced([Choice(None, 1, 0.0, False)])
    for name in draws.phi if statistics is None else statistics:
        # One setting after another: first the bins, then the shrinkage, then the smoothness.
        first = sorted(shrinkage)[len(shrinkage) // 2]
        tried = priced(Choice(name, b, first, smooth[0]) for b in bins if b > 1)
        if not tried:
            continue
        best = min(tried, key=_cost)
        tried += priced(replace(best, shrinkage=s) for s in shrinkage if s != first)
        best = min(tried, key=_cost)
        found += tried + priced(replace(best, smooth=s) for s in smooth[1:])
    return sorted(found, key=_cost)


def _cost(choice: Choice) -> float:
    return choice.cost


def held_out_cost(draws: ResidualDraws, choice: Choice, steps: int = 10, folds: int = 4) -> float:
    """Nats per dimension of a chain of even steps over the knots, by cross-validation over examples."""
    span, group, cost = draws.log_snr[-1] - draws.log_snr[0], draws.example % folds, 0.0
    for held_out in range(folds):
        spectrum = fit(draws.take(group != held_out), choice.statistic, choice.bins, choice.shrinkage, choice.smooth)
        per_step = price(spectrum, draws.take(group == held_out), choice.statistic, span / steps)
        cost += float(np.trapezoid(per_step, draws.log_snr)) * steps / span / folds
    return cost


# --- the covariance -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LevelTable:
    """y of every bin and label at one level, and how phi finds its bin."""

    log_snr: float
    y: Tensor  # (B, L) float64
    medians: Tensor  # (B,)
    edges: Tensor  # (B - 1,)
    smooth: bool

    @classmethod
    def of(cls, spectrum: Spectrum, log_snr: float, device: torch.device | str = "cpu") -> _LevelTable:
        quantiles = spectrum.quantiles_at(log_snr)
        arrays = (spectrum.y_at(log_snr), quantiles[0::2], quantiles[1::2])
        y, medians, edges = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)
        return cls(log_snr, y, medians, edges, spectrum.smooth and spectrum.bins > 1)

    def residual(self, phi: Tensor | None) -> Tensor:
        """R of every sample and label, (batch, L), or (1, L) without phi; phi is (batch, 1) or (batch, L), float64."""
        if phi is None:
            return torch.sigmoid(self.log_snr - self.y)
        column, phi = torch.arange(self.y.shape[1], device=self.y.device), phi.contiguous()
        if not self.smooth:
            return torch.sigmoid(self.log_snr - self.y[torch.bucketize(phi, self.edges, right=True), column])
        upper = torch.bucketize(phi, self.medians).clamp(1, len(self.medians) - 1)
        low, high = self.medians[upper - 1], self.medians[upper]
        share = ((phi - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
        return torch.sigmoid(self.log_snr - torch.lerp(self.y[upper - 1, column], self.y[upper, column], share))


@dataclass(frozen=True)
class DiagonalStep:
    """The covariance of one step: V0 = exp(-lam_t) R."""

    kernel: Kernel
    table: _LevelTable
    basis: Basis
    statistic: Statistic | None
    labels: dict[Any, Tensor] = field(default_factory=dict, repr=False, compare=False)  # found so far; one for all steps

    def _variances(self, prediction: Prediction) -> Tensor:
        """b^2 V0 of every coefficient, in float64, broadcastable to (batch, *dims)."""
        x = prediction.x_t
        table = self._on(x.device)
        phi = None if self.statistic is None else checked(self.statistic(prediction), prediction).double()
        excess = self.kernel.b**2 * math.exp(-table.log_snr) * table.residual(phi)
        key = tuple(x.shape[1:]), x.device
        if key not in self.labels:
            self.labels[key] = torch.from_numpy(self.basis.labels(key[0]).ravel()).to(x.device)
        return excess[:, self.labels[key]].reshape(-1, *x.shape[1:])

    def _on(self, device: torch.device) -> _LevelTable:
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
    """

    spectrum: Spectrum
    basis: Basis
    statistic: Statistic | None = None
    _labels: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.statistic is None) != (not self.spectrum.quantiles.size):
            raise ValueError("a spectrum fitted with a statistic needs that statistic, and one without takes none")

    def steps(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> list[StepCovariance]:
        tables = [_LevelTable.of(self.spectrum, level.log_snr) for level in levels]
        parts = self.basis, self.statistic, self._labels
        return [DiagonalStep(k, table, *parts) for k, table in zip(kernels, tables, strict=True)]

    def fingerprint(self, kernels: Sequence[Kernel], levels: Sequence[Level]) -> dict[str, Any]:
        s = self.spectrum
        sha = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (s.log_snr, s.y, s.quantiles, s.sizes)))
        statistic = None if self.statistic is None else self.statistic.config()
        return {"spectrum": sha.hexdigest()[:16], "smooth": s.smooth, "basis": self.basis.config(), "statistic": statistic}
