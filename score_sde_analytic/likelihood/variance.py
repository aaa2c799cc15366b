"""How much the bound's estimator varies with the times that are drawn, known beforehand from one pass of moments.

One draw of lam with density pi, an example and its noise has the value r / (2 pi(lam)), of mean L = 1/2 integral R dlam:

    independent times    Var = 1/4 integral E[r^2 | lam] / pi dlam - L^2      least for pi ~ sqrt(E[r^2 | lam])
    stratified times     Var = 1/4 integral Var(r | lam) / pi dlam            least for pi ~ sd(r | lam)

The second is what remains, as n grows, of n times the variance of a mean of n draws, one in each of n equally likely strata.
By Cauchy and Schwarz no density does better than those named; Kingma et al. (NeurIPS 2021) look for them by gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_sde_analytic.checks import number, whole
from score_sde_analytic.data.examples import Data
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.likelihood.continuous import ContinuousTime
from score_sde_analytic.likelihood.evaluation import bits_per_dim
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.density import Density, Sampling, check_sampling
from score_sde_analytic.uncertainty import Estimate


@dataclass(frozen=True)
class VarianceOfBound:
    """Of one draw of the transitions' part of the continuous bound; errors are those of the moments.

    Attributes:
        mean: L, in bits/dim.
        variance: in (bits/dim)^2.
        relative: variance / L^2, a pure number: so many draws have a relative error of one.
    """

    mean: Estimate
    variance: Estimate
    relative: Estimate

    def draws(self, error: float) -> int:
        """How many draws have this standard error, in bits/dim.

        >>> variance_of_bound(moments, Density.uniform(-10.0, 9.0)).draws(0.1) > 100
        True
        """
        return max(1, math.ceil(self.variance.value / number(above=0)("error", error) ** 2))


def variance_of_bound(moments: Moments, density: Density, sampling: Sampling = "independent") -> VarianceOfBound:
    """The variance of one draw, predicted without a network call, with its jackknife error.

    Args:
        density: from which times are drawn; its ends are those of the integral.
        sampling: of the times of different draws.

    Raises:
        InputError: an unknown sampling.

    >>> even = variance_of_bound(moments, Density.uniform(-10.0, 9.0))
    >>> best = variance_of_bound(moments, Density.from_moments(moments, "independent", -10.0, 9.0))
    >>> best.relative.value < even.relative.value / 2
    True
    """
    check_sampling("sampling", sampling)

    def statistic(replicate: Moments) -> list[float]:
        mean, variance = _of(replicate, density, sampling)
        return [mean, variance, variance / mean**2]

    values, errors = moments.jackknife(statistic)
    return VarianceOfBound(*(Estimate(float(value), float(error)) for value, error in zip(values, errors, strict=True)))


def _of(moments: Moments, density: Density, sampling: Sampling) -> tuple[float, float]:
    """(L, variance), bits/dim."""
    error, lam, width = moments.squared_error, density.middles, density.width
    mean = 0.5 * width * error.mean(lam).sum()
    spread = error.variance(lam) if sampling == "stratified" else error.second_moment(lam)
    variance = 0.25 * width * (spread / density.values).sum() - (0.0 if sampling == "stratified" else mean**2)
    return float(BITS * mean), float(BITS**2 * variance)


@dataclass(frozen=True)
class TimesPerExample:
    """What the value of an example varies by: which example it is, and which times and noise were drawn for it.

    Attributes:
        times: drawn per example.
        between: variance of the examples' own bounds, (bits/dim)^2.
        within: variance that `times` draws leave in one of them.
    """

    times: int
    between: Estimate
    within: Estimate

    def worth(self, share: float = 0.1) -> int:
        """How many times per example are worth drawing: more leave less than this share of the variance of the mean to gain.

        What one draw adds is taken to fall as 1 / times. Where examples cost nothing, one time for each of more of them is
        always better; this is for a given set of them.

        >>> TimesPerExample(4, between=Estimate(1.0, 0.1), within=Estimate(0.5, 0.1)).worth(0.1)
        18
        """
        allowed = number(above=0, below=1)("share", share) / (1.0 - share) * max(self.between.value, 0.0)
        needed = self.times * self.within.value / allowed if allowed > 0.0 else math.inf
        if not math.isfinite(needed):
            raise InputError("the examples' own bounds do not differ measurably: measure more of them, or more times of each")
        return max(1, math.ceil(needed))


def times_per_example(
    model: ScoreModel,
    data: Data,
    method: ContinuousTime,
    data_range: DataRange | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    **options: Any,
) -> TimesPerExample:
    """Variance between and within examples, from two independent measurements of each.

        between = Cov(first, second),   within = E (first - second)^2 / 2

    Args:
        path: where the two measurements are kept, as NAME-0 and NAME-1.
        options: others of `bits_per_dim`.

    >>> method = ContinuousTime(t_min=0.05, decoder=0.2, times=2)
    >>> times_per_example(model, data, method, progress=False).within.value > 0
    True
    """
    seed = whole(0)("seed", seed)
    files = [None, None] if path is None else [Path(path).with_stem(f"{Path(path).stem}-{i}") for i in range(2)]
    pair = [
        bits_per_dim(model, data, method, data_range, seed=2 * seed + i, path=file, **options) for i, file in enumerate(files)
    ]
    first, second = (bound.part("transitions") for bound in pair)
    centred = (first - first.mean()) * (second - second.mean()) * len(first) / max(len(first) - 1, 1)
    return TimesPerExample(method.times, Estimate.of(centred), Estimate.of(0.5 * np.square(first - second)))
