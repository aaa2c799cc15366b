"""Which structured covariance: fits judged, chosen and priced by draws that they never saw.

Held out, a step of h from level lam with variances from R_k costs, in nats per dimension,

    1/2 mean_k [log(1 + R_k e) + e (r_k^2 - R_k) / (1 + e R_k)],   e = expm1(h),   r = U (eps - eps_hat) of held-out draws,

which is what a bound on new data would measure. Examples are dealt into folds by their index; each fold is priced by the fit to
the others, so that every draw tells about all fits (cross-fitting) and standard errors follow from groups of examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.draws import FOLDS, GROUPS, Draws
from score_sde_analytic.measure.spectrum import LevelTable, Spectrum
from score_sde_analytic.uncertainty import jackknife_variance


@dataclass(frozen=True)
class Choice:
    """Settings of a fit, and the held-out cost they were chosen by (nats per dimension of a chain with even steps).

    >>> Choice(statistic="energy", bins=4, shrinkage=30.0, smooth=False).fit(study.structures.draws("pixel")).bins
    4
    """

    statistic: str | None
    bins: int
    shrinkage: float
    smooth: bool
    pooled: bool = False
    cost: float = math.nan

    def fit(self, draws: Draws) -> Spectrum:
        """The spectrum of these settings."""
        return Spectrum.fit(draws, self.statistic, self.bins, self.shrinkage, self.smooth, self.pooled)


PLAIN = Choice(None, 1, 0.0, False)


def price(spectrum: Spectrum, draws: Draws, statistic: str | None, step: float) -> Float64[Array, " m"]:
    """What steps of `step` in log-SNR cost with this spectrum's variances, from draws that it was not fitted on.

    Returns:
        The cost of one step from each knot, nats per dimension.

    Raises:
        InputError: a knot without draws.
    """
    return np.array([_Knot.of(spectrum, draws, statistic, m).mean(step) for m in range(len(draws.log_snr))])


@dataclass(frozen=True)
class _Knot:
    """Held-out draws of one knot, or cells of them, and the variances that a fit gives their states."""

    group: np.ndarray
    number: Array
    residual: torch.Tensor
    square: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, spectrum: Spectrum, draws: Draws, statistic: str | None, knot: int) -> _Knot:
        draws = draws.seen_by(statistic)
        rows = draws.at(knot)
        if not len(rows):
            raise InputError(f"knot {knot} has no draws to price; measure more draws, or take fewer folds of the examples")
        table = LevelTable.of(spectrum, float(draws.log_snr[knot]))
        phi = None if statistic is None else torch.from_numpy(draws.phi[statistic][rows]).double()
        one, number = draws.alike(rows, np.zeros((len(rows), 1), dtype=np.int64) if phi is None else table.between(phi).numpy())
        residual = table.residual(None if phi is None else phi[one])
        weights = torch.from_numpy(draws.sizes / draws.sizes.sum())
        return cls(draws.example[rows[one]] % GROUPS, number, residual, torch.from_numpy(draws.square(rows[one])), weights)

    def mean(self, step: float) -> float:
        """Cost of a step, nats per dimension."""
        return float(np.average(self._nats(step), weights=self.number))

    def summed(self, step: float) -> Array:
        """Costs of a step over the draws of each group."""
        return np.asarray(np.bincount(self.group, self.number * self._nats(step), GROUPS), dtype=np.float64)

    @property
    def counts(self) -> Array:
        """Draws of each group."""
        return np.asarray(np.bincount(self.group, self.number, GROUPS), dtype=np.float64)

    def _nats(self, step: float) -> Array:
        """Cost of a step for each draw or cell."""
        e = math.expm1(step)
        cost = torch.log1p(e * self.residual) + (self.square - self.residual) * (e / (1.0 + e * self.residual))
        return np.asarray(0.5 * (cost @ self.weights))


#: Steps in log-SNR at which fits are priced; the correction per unit of step is smooth in between.
STEPS = np.geomspace(0.02, 40.0, 14)


class Correction:
    """What held-out data add to `Spectrum.step_nats`, tabulated.

    Args:
        log_snr: knots, ascending.
        table: (held-out cost - cost as fitted) per unit of step at `STEPS`: for all examples, then without each group of
            them; or what works it out when it is first needed.
    """

    def __init__(
        self, log_snr: Float64[Array, " m"], table: Float64[Array, "steps replicates m"] | Callable[[], Array]
    ) -> None:
        self.log_snr = log_snr
        self._table = table

    @cached_property
    def table(self) -> Float64[Array, "steps replicates m"]:
        return self._table() if callable(self._table) else self._table

    @cached_property
    def _per_unit(self) -> scipy.interpolate.PchipInterpolator:
        return scipy.interpolate.PchipInterpolator(np.log(STEPS), self.table)

    def __call__(self, log_snr_s: ArrayLike, log_snr_t: ArrayLike, group: int | None = None) -> Float64[Array, " n"]:
        """The correction of steps from t to s, nats per dimension.

        Args:
            group: leave out these examples, for jackknife errors.
        """
        s, t = (np.atleast_1d(as_array(lam)) for lam in (log_snr_s, log_snr_t))
        # From pure noise a step costs what it does from where little is known yet.
        t = np.where(np.isneginf(t), np.minimum(self.log_snr[0], s - STEPS[0]), t)
        row = 0 if group is None else 1 + group
        out = np.empty(len(s))
        for i, (lam, step) in enumerate(zip(t, s - t, strict=True)):
            per_unit = self._per_unit(np.log(np.clip(step, STEPS[0], STEPS[-1])))[row]
            out[i] = step * np.interp(lam, self.log_snr, per_unit)
        return out


class HeldOut:
    """A fit judged on draws that it never saw: each fold of the examples priced by the fit to the other folds.

    Args:
        draws: recorded draws.
        choice: settings of the fit.
        folds: parts of the examples, by index modulo folds.

    Raises:
        InputError: a fold without draws, or with too few, at some knot.
    """

    def __init__(self, draws: Draws, choice: Choice, folds: int = FOLDS) -> None:
        self.log_snr = draws.log_snr
        self.choice = choice
        self._draws = draws
        self._folds = folds

    @staticmethod
    def choose(
        draws: Draws,
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
            InputError: a single knot, or a fold with too few draws at some knot for a candidate.
        """
        if len(draws.log_snr) < 2:
            raise InputError("the cost of a chain needs draws at two knots or more")
        if steps < 1 or not shrinkage:
            raise InputError(f"need a chain of at least one step and some shrinkage to try, got {steps} and {tuple(shrinkage)}")
        draws = draws.some_labels(labels)

        def price(candidates: Iterable[Choice]) -> list[Choice]:
            return [replace(c, cost=held_out_cost(draws, c, steps, folds)) for c in candidates]

        priced = price([PLAIN, replace(PLAIN, pooled=True)] if len(draws.sizes) > 1 else [PLAIN])
        pooled = min(priced, key=_cost).pooled
        for name in draws.phi if statistics is None else statistics:
            priced += _conditioned(Choice(name, 1, 0.0, smooth[0], pooled), bins, shrinkage, smooth[1:], price)
        return sorted(priced, key=_cost)

    def _judged(self, steps: Sequence[float]) -> list[_Judged]:
        """Every fold's costs by the fit to the others."""
        draws = self._draws
        group = draws.dealt(self._folds)
        if len(np.unique(group)) < 2:
            raise InputError("cross-fitting needs two folds with examples in them: record more examples, or take more folds")
        folds = np.unique(group).tolist()
        fits = [self.choice.fit(draws.take(group != fold)) for fold in folds]
        return [
            _Judged.of(fold, fit, draws.take(group == fold), self.choice.statistic, steps)
            for fold, fit in zip(folds, fits, strict=True)
        ]

    def chain(self, steps: int) -> Float64[Array, " replicates"]:
        """Nats per dimension of `steps` even steps over the knots: the value, then that without each group."""
        span = self.log_snr[-1] - self.log_snr[0]
        sums, counts = _summed(self._judged([span / steps]))
        per_step = _leave_out(sums[0], counts)
        return np.trapezoid(per_step, self.log_snr, axis=1) * steps / span

    @cached_property
    def _at_steps(self) -> list[_Judged]:
        return self._judged(STEPS.tolist())

    @property
    def correction(self) -> Correction:
        """What held-out data add to the price of a step as fitted to everything; worked out when first asked for."""
        return Correction(self.log_snr, self._table)

    def _table(self) -> Array:
        sums, counts = _summed(self._at_steps)
        fitted = _fitted(self.choice.fit(self._draws))
        return np.array(
            [(_leave_out(total, counts) - row) / step for step, total, row in zip(STEPS, sums, fitted, strict=True)]
        )

    def without(self, fold: int) -> tuple[Spectrum, Correction]:
        """(the fit to the other folds, what this fold adds to its price).

        Raises:
            InputError: no examples are in the fold.
        """
        judged = next((judged for judged in self._at_steps if judged.fold == fold), None)
        if judged is None:
            raise InputError(f"no examples are in fold {fold}: record more examples, or take fewer folds")
        means = judged.sums.sum(1) / judged.counts.sum(0)
        table = (means - _fitted(judged.spectrum)) / STEPS[:, None]
        return judged.spectrum, Correction(self.log_snr, table[:, None])


def _fitted(spectrum: Spectrum) -> Array:
    """Prices of `STEPS` from every knot as the spectrum has them, (steps, m)."""
    return np.array([[spectrum.step_nats(lam + step, lam) for lam in spectrum.log_snr] for step in STEPS])


@dataclass(frozen=True)
class _Judged:
    """A fold, the fit to the others, and the fold's costs by it: (steps, groups, m), of so many draws, (groups, m)."""

    fold: int
    spectrum: Spectrum
    sums: Array
    counts: Array

    @classmethod
    def of(cls, fold: int, spectrum: Spectrum, draws: Draws, statistic: str | None, steps: Sequence[float]) -> _Judged:
        knots = len(draws.log_snr)
        sums, counts = np.zeros((len(steps), GROUPS, knots)), np.zeros((GROUPS, knots))
        for m in range(knots):
            knot = _Knot.of(spectrum, draws, statistic, m)
            counts[:, m] = knot.counts
            for i, step in enumerate(steps):
                sums[i, :, m] = knot.summed(step)
        return cls(fold, spectrum, sums, counts)


def _summed(judged: Sequence[_Judged]) -> tuple[Array, Array]:
    """Sums and counts over all folds."""
    return sum(part.sums for part in judged), sum(part.counts for part in judged)  # type: ignore[return-value]


def _leave_out(sums: Array, counts: Array) -> Array:
    """Means over all groups, then without each, (1 + groups, m)."""
    total, number = sums.sum(0), counts.sum(0)
    return np.concatenate([(total / number)[None], (total - sums) / (number - counts)])


def jackknife_error(values: Float64[Array, " replicates"]) -> float:
    """Standard error of values[0] from those without each group, values[1:]; groups without examples do not count.

    >>> jackknife_error(np.array([2.0, 1.0, 3.0]))
    1.0
    """
    rest = values[1:]
    occupied = rest[rest != values[0]] if np.any(rest != values[0]) else rest
    return float(np.sqrt(jackknife_variance(occupied)))


def _conditioned(
    base: Choice,
    bins: Iterable[int],
    shrinkage: Sequence[float],
    smooth: Iterable[bool],
    price: Callable[[Iterable[Choice]], list[Choice]],
) -> list[Choice]:
    """Settings with the statistic of `base`, priced one after another: first the bins, then the shrinkage, then the smoothness.

    Args:
        shrinkage: the bins are tried with the middle one.
        smooth: what else to try than `base` has.
    """
    middle = sorted(shrinkage)[len(shrinkage) // 2]
    priced = price(replace(base, bins=b, shrinkage=middle) for b in bins if b > 1)
    if not priced:
        return []
    best = min(priced, key=_cost)
    priced += price(replace(best, shrinkage=s) for s in shrinkage if s != middle)
    best = min(priced, key=_cost)
    return priced + price(replace(best, smooth=s) for s in smooth)


def _cost(choice: Choice) -> float:
    return choice.cost


def held_out_cost(draws: Draws, choice: Choice, steps: int = 10, folds: int = 4) -> float:
    """Nats per dimension of a chain of even steps over the knots, by cross-validation over examples."""
    return float(HeldOut(draws, choice, folds).chain(steps)[0])
