"""Where a network is worse than what is free, and by how much: least squares of x_0 on (x_0_hat, W, 1) from one pass.

Per noise level and label of the denoiser's basis, with u = U (x_0 - mu), m = U (x_0_hat - mu), w = U (W - mu):

    shares = argmin sum (u - p m - q w - r)^2 + ridge           pooled over labels; by label, drawn toward the pooled ones

How strongly is chosen by examples that the fit did not see; where that gains nothing beyond its error the network stays alone.
Only sums are kept: 10 numbers per level, fold of examples and label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from score_sde_analytic.arrays import Array, wide
from score_sde_analytic.checks import one_of, whole
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.declared import require_arrays
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.recalibrated import IDENTITY, Recalibrated, Stack
from score_sde_analytic.uncertainty import Estimate

#: Folds of the examples.
FOLDS = 8
#: Draws that the pooled shares count for when a label's own are fitted; inf leaves all labels the pooled ones.
STRENGTHS = (math.inf, 3000.0, 1000.0, 300.0, 100.0, 30.0)
#: Shares of W alone.
LINEAR = np.array([0.0, 1.0, 0.0])
#: Standard errors by which a gain on examples that were not fitted must exceed zero.
BEYOND = 3.0
#: What is known of every level.
COLUMNS = ("network", "stacked", "linear", "gain")
#: Of the pooled normal equations: where the two denoisers agree, nothing says how to share.
RIDGE = 1e-6


class CrossMoments:
    """Keeps, of every draw of a pass, what least squares of x_0 on the network and on W need.

    Args:
        free: W, and the basis.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> cross = CrossMoments(LinearDenoiser.of(data))
    >>> _ = estimate(model, data, [0.0], Budget(max_draws=300), observers={"cross": cross}, progress=False)
    >>> cross.sums.shape
    (1, 8, 10, 2)
    """

    #: Places of the products in a row of sums: (m, w, 1) with each other, then with u, then u u.
    GRAM = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
    WITH_X_0 = np.array([6, 7, 8])
    POWER = 9
    WIDTH = 10

    def __init__(self, free: LinearDenoiser) -> None:
        self.free = free
        self._labels = torch.from_numpy(free.basis.labels(tuple(free.mean.shape)).ravel())
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier pass left."""
        self._sums: dict[int, Tensor] = {}

    def config(self) -> dict[str, Any]:
        """Identity of what is kept."""
        return {"free": self.free.config(), "folds": FOLDS}

    def observed(
        self, examples: Int64[np.ndarray, " batch"], eps: Float[Tensor, " batch *dims"], prediction: Prediction
    ) -> Float64[Tensor, "folds 10 L"]:
        """The products of a batch of draws."""
        level, basis, mean = prediction.level, self.free.basis, self.free.mean.to(eps.device)
        x_t = wide(prediction.x_t)
        x_0 = (x_t - level.sigma * wide(eps)) / level.alpha
        u, m, w = (basis.forward(x - mean).flatten(1) for x in (x_0, wide(prediction.x_0), self.free.x_0(x_t, level)))
        one = torch.ones_like(u)
        pairs = [(m, m), (m, w), (m, one), (w, w), (w, one), (one, one), (m, u), (w, u), (one, u), (u, u)]
        fold = torch.from_numpy(np.asarray(examples) % FOLDS).to(eps.device)
        labels, count = self._labels.to(eps.device), int(self._labels.max()) + 1
        sums = torch.zeros(FOLDS, self.WIDTH, count, dtype=torch.float64, device=eps.device)
        for place, (a, b) in enumerate(pairs):
            by_label = torch.zeros(len(u), count, dtype=torch.float64, device=eps.device).index_add_(1, labels, a * b)
            by_fold = torch.zeros(FOLDS, count, dtype=torch.float64, device=eps.device).index_add_(0, fold, by_label)
            sums[:, place] = by_fold
        return sums.cpu()

    def add(self, knot: int, examples: Int64[np.ndarray, " batch"], observed: Float64[Tensor, "folds 10 L"]) -> None:
        """Add the products of a batch of draws at one knot."""
        self._sums[knot] = self._sums[knot] + observed if knot in self._sums else observed

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was kept so far, by the number of the knot in the pass."""
        numbers = sorted(self._sums)
        sums = [self._sums[number].numpy() for number in numbers]
        empty = np.zeros((0, FOLDS, self.WIDTH, int(self._labels.max()) + 1))
        return {"knot": np.array(numbers, dtype=np.int64), "sums": np.stack(sums) if sums else empty}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from saved arrays.

        Raises:
            InputError: they are not what this observer keeps.
        """
        declared = {"knot": "int64 m", "sums": f"float64 m {FOLDS} {self.WIDTH} {int(self._labels.max()) + 1}"}
        require_arrays(arrays, declared, "the cross moments")
        self._sums = {int(k): torch.tensor(s) for k, s in zip(arrays["knot"], arrays["sums"], strict=True)}

    def merge(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The sums of the shards of a pass, which all have the same knots."""
        return {"knot": parts[0]["knot"], "sums": np.sum([part["sums"] for part in parts], axis=0)}

    @property
    def sums(self) -> Float64[Array, "m folds 10 L"]:
        """The sums, by number of the knot in the pass."""
        return self.arrays()["sums"]


@dataclass(frozen=True, eq=False)
class Recalibration:
    """What least squares found at every level.

    Attributes:
        stack: the shares.
        network, stacked, linear: mean square errors of x_0, per dimension, on examples that were not fitted, with errors.
        gain: of stacked over network, with the error of the difference.
        strength: the chosen draws of the pooled shares by level; NaN where the network stays alone.
    """

    stack: Stack
    network: list[Estimate]
    stacked: list[Estimate]
    linear: list[Estimate]
    gain: list[Estimate]
    strength: Float64[Array, " m"]

    @classmethod
    def fit(cls, log_snr: Float64[Array, " m"], sums: Float64[Array, "m folds 10 L"], pooled: bool = False) -> Recalibration:
        """Fit the shares of every level.

        Args:
            log_snr: of the levels, ascending.
            sums: of `CrossMoments`, in their order.
            pooled: only fit shares that all labels have in common.
        """
        levels = [_Level.fit(level, STRENGTHS[:1] if pooled else STRENGTHS) for level in sums]
        kept = _beyond_error(np.stack([level.relative_gain for level in levels]))
        levels = [level if keep else level.alone() for level, keep in zip(levels, kept, strict=True)]
        stack = Stack(np.asarray(log_snr), np.stack([level.shares for level in levels]))
        strength = np.array([level.strength for level in levels])
        columns = {name: [getattr(level, name) for level in levels] for name in COLUMNS}
        return cls(stack, strength=strength, **columns)

    def content(self) -> dict[str, Any]:
        """As plain data: mean square errors of x_0 with their errors, by level."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        plain = {name: [estimate._asdict() for estimate in column] for name, column in columns.items()}
        return {"log_snr": self.stack.log_snr, "pooled_draws": self.strength, **plain}

    def __str__(self) -> str:
        """Where it gains how much, in a sentence."""
        better = ~np.isnan(self.strength)
        if not better.any():
            return "stacking the network with what is free gains nothing beyond error at any noise level"
        ratios = np.array([new.value / old.value for new, old in zip(self.stacked, self.network, strict=True)])
        best = int(ratios.argmin())
        return (
            f"stacking the network with what is free makes R smaller at {int(better.sum())} of {len(better)} noise levels up to"
            f" log-SNR {self.stack.log_snr[better].max():.1f}, most at {self.stack.log_snr[best]:.1f}: {ratios[best]:.2f} times"
        )


@dataclass(frozen=True, eq=False)
class _Level:
    """The fit at one level.

    Attributes:
        errors: sums of squares of x_0 on every fold, (folds,), of the network, of what is fitted to the others, and of W.
        counts: coefficients of each fold.
    """

    shares: Array
    strength: float
    errors: Mapping[str, Array]
    counts: Array

    @classmethod
    def fit(cls, sums: Array, strengths: Sequence[float]) -> _Level:
        """With the strength that examples which were not fitted like best."""
        counts = sums[:, CrossMoments.GRAM[2, 2]].sum(1)
        folds = np.flatnonzero(counts).tolist()
        if len(folds) < 2:
            raise InputError("a recalibration needs examples of at least two folds; give more draws")
        rest = {fold: sums.sum(0) - sums[fold] for fold in folds}

        def errors(shares: Callable[[int], Array]) -> Array:
            return np.array([_square_error(sums[fold], shares(fold)) for fold in folds])

        def fitted(strength: float) -> Array:
            return errors(lambda fold: _shares(rest[fold], strength))

        judged = {strength: fitted(strength) for strength in strengths}
        strength = min(judged, key=lambda s: judged[s].sum())
        labels = sums.shape[2]
        known = {"network": errors(lambda fold: _same(IDENTITY, labels)), "linear": errors(lambda fold: _same(LINEAR, labels))}
        return cls(_shares(sums.sum(0), strength), strength, known | {"stacked": judged[strength]}, counts[folds])

    def alone(self) -> _Level:
        """The network left as it is."""
        shares = _same(IDENTITY, self.shares.shape[1])
        return _Level(shares, math.nan, {**self.errors, "stacked": self.errors["network"]}, self.counts)

    @property
    def relative_gain(self) -> Array:
        """By fold, over the network's error of all."""
        return (self.errors["network"] - self.errors["stacked"]) / self.errors["network"].sum() * len(self.counts)

    def _estimate(self, errors: Array) -> Estimate:
        share = self.counts / self.counts.sum()
        mean = errors.sum() / self.counts.sum()
        spread = (share * (errors / self.counts - mean) ** 2).sum() / (len(errors) - 1)
        return Estimate(float(mean), float(np.sqrt(spread * _overlap(len(errors)))))

    @property
    def network(self) -> Estimate:
        return self._estimate(self.errors["network"])

    @property
    def stacked(self) -> Estimate:
        return self._estimate(self.errors["stacked"])

    @property
    def linear(self) -> Estimate:
        return self._estimate(self.errors["linear"])

    @property
    def gain(self) -> Estimate:
        return self._estimate(self.errors["network"] - self.errors["stacked"])


def _overlap(folds: int) -> float:
    """By how much fits to all folds but one overlap, so that their errors are not independent (Nadeau & Bengio 2003)."""
    return 1.0 + folds / (folds - 1)


def _beyond_error(gains: Float64[Array, "m folds"]) -> Bool[np.ndarray, " m"]:
    """Whether each level gains beyond error, together with its neighbours: shares are to vary smoothly with the level."""
    padded = np.pad(gains, ((1, 1), (0, 0)), mode="edge")
    near = (padded[:-2] + padded[1:-1] + padded[2:]) / 3.0
    error = near.std(1, ddof=1) * math.sqrt(_overlap(gains.shape[1]) / gains.shape[1])
    return (near.mean(1) > BEYOND * error) & (gains.mean(1) > 0.0)


def _same(shares: Array, labels: int) -> Array:
    return np.repeat(shares[:, None], labels, 1)


def _shares(sums: Array, strength: float) -> Array:
    """(p, q, r) of every label from sums over examples (10, L), drawn toward the pooled (p, q, 0) as by so many draws."""
    gram, target = sums[CrossMoments.GRAM], sums[CrossMoments.WITH_X_0]
    pooled_gram, pooled_target = gram[:2, :2].sum(2), target[:2].sum(1)
    # Relative to the power of each, and toward the network alone.
    ridge = RIDGE * np.diag(np.diag(pooled_gram)) + 1e-300 * np.eye(2)
    pooled = np.linalg.solve(pooled_gram + ridge, pooled_target + ridge @ IDENTITY[:2])
    toward = np.append(pooled, 0.0)
    if math.isinf(strength):
        return _same(toward, sums.shape[1])
    draws = gram[2, 2]
    power = np.stack([gram[i, i] for i in range(3)]) / draws
    power = np.maximum(power, 1e-12 * power.max() + 1e-300)
    ridges = strength * np.einsum("il,ij->lij", power, np.eye(3))
    left = np.moveaxis(gram, 2, 0) + ridges
    right = target.T + ridges @ toward
    return np.linalg.solve(left, right[..., None])[..., 0].T


def _square_error(sums: Array, shares: Array) -> float:
    """sum (u - p m - q w - r)^2 over labels, from sums (10, L)."""
    quadratic = np.einsum("il,ijl,jl->", shares, sums[CrossMoments.GRAM], shares)
    return float(quadratic - 2.0 * (shares * sums[CrossMoments.WITH_X_0]).sum() + sums[CrossMoments.POWER].sum())


#: What the network is stacked with: its own mean of the data, or the best linear denoiser, by label.
Kind = Literal["mean", "linear"]


def recalibrate(
    model: ScoreModel,
    data: Data,
    free: LinearDenoiser | None = None,
    kind: Kind = "linear",
    *,
    log_snr: Float64[Array, " m"] | None = None,
    draws: int = 400,
    data_range: DataRange | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[Recalibrated, Recalibration]:
    """The model with a better mean, and what it gains: one pass of `draws` network evaluations per level.

    Args:
        data: examples that the network was not trained on.
        free: W, of other examples, such as training data; None fits it to every second one of `data` and measures on the rest,
            for a W that has seen the examples would seem better than it is.
        kind: "linear" stacks with W by label, "mean" with the mean of the data alone.
        log_snr: levels, ascending; None for 24 from t = 1 to log-SNR 6. Beyond the last one the network has its last shares.
        path: file that keeps the pass; an interrupted one goes on.

    Raises:
        InputError: bad settings, or too few examples.

    >>> better, found = recalibrate(model, data, draws=320, progress=False)
    >>> float(found.stack.changes.max())  # an exact score has nothing to gain
    0.0
    """
    one_of(("mean", "linear"))("kind", kind)
    draws = whole(32)("draws", draws)
    examples = as_dataset(data, data_range)
    if free is None:
        half = np.arange(len(examples)) % 2 == 0
        seen, examples = (examples.part(np.flatnonzero(part)) for part in (half, ~half))
    if len(examples) < FOLDS:
        raise InputError(f"{len(examples)} examples to measure on are too few for a recalibration; give at least {FOLDS}")
    linear = LinearDenoiser.of(seen) if free is None else free
    used = linear if kind == "linear" else linear.mean_alone()
    low, high = model.schedule.finite_range
    knots = np.linspace(low, min(high, 6.0), 24) if log_snr is None else log_snr
    cross, budget = CrossMoments(used), Budget(tolerance=0.0, min_draws=draws, max_draws=draws)
    settings = {"data_range": data_range, "seed": seed, "path": path, "device": device, "progress": progress}
    moments = estimate(model, examples, knots, budget, observers={"cross": cross}, **settings)  # type: ignore[arg-type]
    found = Recalibration.fit(moments.log_snr, cross.sums[moments.order], pooled=kind == "mean")
    return Recalibrated(model, used, found.stack), found
