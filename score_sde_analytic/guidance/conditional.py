"""Both branches of a conditional network in one pass: R_c, R_u, G and what follows from them, with errors.

    G = E||eps_c - eps_u||^2 / d,    G = R_u - R_c for exact scores, as E[eps_c | x_t] = eps_u

Each draw is shown to both branches, so that what they have in common drops out of G and of R_u - R_c. For any network
R_u - R_c - G = 2 E<eps - eps_c, eps_c - eps_u> / d: beyond error, it is miscalibration.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import ArrayLike
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import LOG_SNR, each, number, one_of
from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.data.portions import spread
from score_sde_analytic.declared import require_arrays
from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance.classifier_free import ClassifierFree
from score_sde_analytic.guidance.prices import POINTS, integral_bits, steps_bits, steps_of
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.measure.interpolant import Interpolant, y_of
from score_sde_analytic.measure.moments import Moments, ratio_stderr
from score_sde_analytic.models.clamps import confined
from score_sde_analytic.models.conditions import Conditions
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.gaussian import mean_square
from score_sde_analytic.process.level import Level
from score_sde_analytic.uncertainty import Estimate

#: Columns of the sums, per draw.
DIFFERENCE, GAP = range(2)
#: R of a guided chain's variance, by name: what is added to R_c, in units of G, for w = scale - 1.
VARIANCES: dict[str, Callable[[float], float]] = {
    "conditional": lambda w: 0.0,
    "residual": lambda w: w**2,
    "score": lambda w: -(2.0 * w + w**2),
    "tweedie": lambda w: -w,
}
KNOWN = one_of(tuple(VARIANCES))
#: Examples whose classes are counted, at most.
MOST = 10_000
#: R below which there is no variance.
LEAST = 1e-9
Measure = Literal["gap", "difference"]


@dataclass(frozen=True)
class ConditionalMoments:
    """What one pass says of a network with and without its condition. g groups, m knots.

    Attributes:
        moments: of the conditional branch, as of a pass of its own.
        sums: per draw, of r_u - r_c and ||eps_c - eps_u||^2 / d.
        ceiling: entropy of the condition in the data, in bits per dimension; inf where it is no class.
    """

    moments: Moments
    sums: Float64[Array, "g m 2"]
    ceiling: float

    @property
    def log_snr(self) -> Float64[Array, " m"]:
        """Knots, ascending."""
        return self.moments.log_snr

    @property
    def conditional(self) -> Float64[Array, " m"]:
        """R_c."""
        return self.moments.residual

    @property
    def unconditional(self) -> Float64[Array, " m"]:
        """R_u."""
        return self.conditional + self.difference

    @property
    def difference(self) -> Float64[Array, " m"]:
        """R_u - R_c, of the same draws."""
        return self._means[:, DIFFERENCE]

    @property
    def gap(self) -> Float64[Array, " m"]:
        """G = E||eps_c - eps_u||^2 / d."""
        return self._means[:, GAP]

    @cached_property
    def _means(self) -> Array:
        return self.sums.sum(0) / self.moments.draws[:, None]

    def stderr(self, name: Literal["conditional", "gap", "difference"]) -> Float64[Array, " m"]:
        """Standard errors, delete-one-group."""
        if name == "conditional":
            return self.moments.stderr("residual")
        return ratio_stderr(self.sums[..., GAP if name == "gap" else DIFFERENCE], self.moments.counts)

    def calibration(self) -> tuple[Float64[Array, " m"], Float64[Array, " m"]]:
        """(R_u - R_c - G, its size in standard errors) per knot: zero in expectation for exact scores."""
        contrast = self.sums[..., DIFFERENCE] - self.sums[..., GAP]
        value = contrast.sum(0) / self.moments.draws
        return value, value / np.maximum(ratio_stderr(contrast, self.moments.counts), 1e-300)

    # --- what the condition is worth, what guidance costs ---

    def information(self, interval: tuple[float, float] | None = None, by: Measure = "gap") -> Estimate:
        """1/2 integral of G dlam = I(x_0; c) / d in bits/dim; a warning where that is more than the entropy of the condition.

        Args:
            interval: log-SNRs between which it is counted; None for all that was measured.
            by: "gap", or "difference" for R_u - R_c in place of G.
        """
        points = np.linspace(*self._range(interval), POINTS)

        def bits(part: ConditionalMoments) -> float:
            return integral_bits(part._curve_of(by)(points), points)

        found = self._jackknife(bits)
        if found.value - self.ceiling > 3.0 * found.stderr:
            warnings.warn(
                f"the network claims {found} bits/dim of information, more than the {self.ceiling:.3f} of the entropy of its"
                " condition: it is miscalibrated, with its condition or without",
                stacklevel=2,
            )
        return found

    def price(self, scale: float, interval: tuple[float, float] | None = None, levels: ArrayLike | None = None) -> Estimate:
        """w^2 / 2 integral of G dlam, w = scale - 1: the bits/dim by which guidance raises a bound.

        Args:
            scale, interval, levels: as of `guidance_price`.

        Raises:
            InputError: levels that do not ascend.
        """
        w = number()("scale", scale) - 1.0
        low, high = self._range(interval)
        points = np.linspace(low, high, POINTS)
        lam = None if levels is None else steps_of(levels)

        def bits(part: ConditionalMoments) -> float:
            gap = part._curve_of("gap")
            if lam is None:
                return w**2 * integral_bits(gap(points), points)
            own = np.asarray(NoiseCurve.fit(part.moments, warn=False).residual(lam[:-1]))
            return w**2 * steps_bits(own, gap(lam[:-1]), lam, low, high)

        return self._jackknife(bits)

    def _curve_of(self, name: Measure) -> Interpolant:
        return Interpolant(self.log_snr, getattr(self, name))

    def _range(self, interval: tuple[float, float] | None) -> tuple[float, float]:
        low, high = self.log_snr[[0, -1]]
        asked = (low, high) if interval is None else each(LOG_SNR, 2, 2)("interval", interval)
        return max(low, asked[0]), min(high, asked[1])

    def _jackknife(self, statistic: Callable[[ConditionalMoments], float]) -> Estimate:
        def replicate(moments: Moments, group: int | None) -> float:
            sums = self.sums if group is None else np.delete(self.sums, group, 0)
            return statistic(replace(self, moments=moments, sums=sums))

        value, error = self.moments.jackknife_by_group(replicate)
        return Estimate(float(value), float(error))

    # --- variances ---

    def curve(self, scale: float = 1.0, variance: str = "conditional") -> NoiseCurve:
        """The curve of a guided chain's variance, by name.

            conditional    R_c                     the best at every scale, by the distance to the chain's own many-step limit
            residual       R_c + w^2 G             the error of the guided prediction: a trap, too much noise
            score          R_c - (2 w + w^2) G     1 - E||eps_w||^2 / d: below zero, no variance at all, for large w
            tweedie        R_c - w G               mean trace of the guided field's Jacobian: too little

        Raises:
            InputError: another name.
        """
        w = number()("scale", scale) - 1.0
        added = VARIANCES[KNOWN("the variance of a guided chain", variance)](w)
        if not added:
            return NoiseCurve.fit(self.moments, warn=False)
        residual = np.clip(self.conditional + added * self.gap, LEAST, 1.0 - LEAST)
        source = "residual" if variance == "residual" else "score"  # of which prices are right for the guided prediction alone
        return NoiseCurve(self.log_snr, y_of(residual, self.log_snr), source, self.moments.fingerprint)

    def content(self) -> dict[str, Any]:
        """As plain data, for reports."""
        difference, size = self.calibration()
        knots = {name: getattr(self, name) for name in ("log_snr", "conditional", "unconditional", "difference", "gap")}
        errors = {f"{name}_stderr": self.stderr(name) for name in ("conditional", "difference", "gap")}
        contrast = {"difference-gap": difference, "difference-gap_in_standard_errors": size}
        information = {f"information_{by}": self.information(by=by)._asdict() for by in ("gap", "difference")}
        return {**knots, **errors, **contrast, **information, "ceiling": self.ceiling, "cost": vars(self.moments.cost)}


def estimate_guided(
    model: ScoreModel,
    data: Data,
    null: Mapping[str, Any],
    log_snr: ArrayLike,
    budget: Budget | None = None,
    **options: Any,
) -> ConditionalMoments:
    """Moments of a network with its condition and without it, of the same draws: one pass, two evaluations a draw.

    Args:
        model: conditional, of a network that was trained with conditions dropped now and then.
        data: with their conditions.
        null: by name, the conditions that stand for "not given", as of `ClassifierFree`.
        log_snr, budget, options: of `estimate`.

    Raises:
        InputError: as `ClassifierFree` and `estimate`.

    >>> from score_sde_analytic.measure import Budget
    >>> from score_sde_analytic.data import Examples
    >>> classes, known = Examples(data, conditions={"component": mixture.labelled(400)[1]}), mixture.conditional(model.schedule)
    >>> measured = estimate_guided(
    ...     known, classes, {"component": 3}, np.linspace(-8, 8, 17), Budget(max_draws=400), progress=False
    ... )
    >>> print(f"{measured.information():.1f} of {measured.ceiling:.1f}, at scale 3 guidance costs {measured.price(3.0):.1f}")
    0.7 ± 0.0 of 0.7, at scale 3 guidance costs 2.8 ± 0.1
    """
    dataset = as_dataset(data, options.get("data_range"))
    budget = budget or Budget()
    both, gaps = Branches(model, null), _Gaps(Conditions.of(null).fingerprint(), budget.groups)
    moments = estimate(both, dataset, log_snr, budget, observers={"branches": gaps}, **options)
    return ConditionalMoments(moments, gaps.result(moments), entropy(dataset, tuple(null)) / math.prod(dataset.shape))


def entropy(examples: Examples, names: Iterable[str]) -> float:
    """H(c) in bits of classes by their shares among the examples, at most some thousands of them; inf where c is no class.

    >>> entropy(Examples(torch.zeros(4, 1), conditions={"label": [0, 1, 1, 0]}), ["label"])
    1.0
    """
    names = list(names)
    if any(name not in examples.conditions for name in names):
        return math.inf
    some = examples.part(spread(len(examples), min(len(examples), MOST)))
    parts = np.array_split(np.arange(len(some)), -(-len(some) // 1024))
    rows = [[some.batch(part).conditions[name] for name in names] for part in parts]
    if any(value.ndim > 1 or value.is_floating_point() for row in rows for value in row):
        return math.inf
    counts = torch.cat([torch.stack(row, 1) for row in rows]).unique(dim=0, return_counts=True)[1]
    share = counts.double() / counts.sum()
    return float(-(share * share.log2()).sum())


@dataclass(frozen=True)
class _Two(Prediction):
    """What a network says with its condition, and without it."""

    null: Prediction | None = None


class Branches(ClassifierFree):
    """The conditional model, that asks its network for the unconditional branch, too, and shows it to observers.

    Args:
        model, null: as of `ClassifierFree`.

    >>> both = Branches(mixture.conditional(model.schedule), {"component": 3})
    >>> with both.metered() as cost:
    ...     _ = both(torch.zeros(2, 2), 0.5, component=1)
    >>> cost.evaluations
    4
    """

    def __init__(self, model: ScoreModel, null: Mapping[str, Any]) -> None:
        super().__init__(model, 1.0, null)

    @property
    def guidance(self) -> str:
        return self.model.guidance

    @property
    def branches(self) -> int:
        return 2 * self.model.branches

    def _mixed(self, x_t: Tensor, level: Level, w: float | Tensor) -> Prediction:
        own, null = self.apart(x_t, level)
        known = {name: getattr(own, name) for name in ("x_t", "level", "value", "kind", "extra", "learned_range")}
        return _Two(**known, null=confined(null, self.clamp))

    def fingerprint(self) -> dict[str, Any]:
        return self.inner.fingerprint()


class _Gaps:
    """Keeps r_u - r_c and ||eps_c - eps_u||^2 / d of every draw of a pass over `Branches`, by group of examples."""

    def __init__(self, null: Mapping[str, str], groups: int) -> None:
        self._null = dict(null)
        self._groups = groups
        self.begin()

    def begin(self) -> None:
        self._sums = np.zeros((self._groups, 0, 2))

    def config(self) -> dict[str, Any]:
        return {"null": self._null}

    def observed(
        self, examples: Int64[np.ndarray, " batch"], eps: Float[Tensor, " batch *dims"], prediction: Prediction
    ) -> Float64[np.ndarray, "batch 2"]:
        own, null = prediction.eps, prediction.null.eps  # type: ignore[attr-defined]
        values = torch.stack([mean_square(eps - null) - mean_square(eps - own), mean_square(own - null)], 1)
        return values.cpu().numpy()

    def add(self, knot: int, examples: Int64[np.ndarray, " batch"], observed: Float64[np.ndarray, "batch 2"]) -> None:
        missing = knot + 1 - self._sums.shape[1]
        if missing > 0:
            self._sums = np.concatenate([self._sums, np.zeros((self._groups, missing, 2))], 1)
        np.add.at(self._sums[:, knot], examples % self._groups, observed)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"sums": self._sums}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        require_arrays(arrays, {"sums": "float64 g m two"}, "the record of both branches")
        if arrays["sums"].shape[::2] != (self._groups, 2):
            raise InputError("the record of both branches is of other groups; delete the file of the pass and measure again")
        self._sums = np.array(arrays["sums"])

    def merge(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {"sums": np.sum([part["sums"] for part in parts], axis=0)}

    def result(self, moments: Moments) -> Float64[Array, "g m 2"]:
        """The sums by knots that ascend."""
        return self._sums[:, moments.order]
