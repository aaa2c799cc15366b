"""A measured distance with its standard error and interval.

Delete-group jackknife of a statistic T(x, y) of two independent samples, each dealt into g groups at random:

    bias:      (g - 1) (mean_i T_(-i) - T), summed over the two samples
    variance:  (g - 1)/g sum_i (T_(-i) - mean T_(-i))^2, summed over the two samples; not too small on average
               (Efron & Stein 1981)
    interval:  corrected value ± Student's quantile of g - 1 degrees of freedom * standard error

Distances are biased upward at finite samples by c/n + c'/m: they see two samples of one distribution as different. The
bootstrap would add that bias a second time, and where the distributions are equal it is inconsistent; the jackknife removes
the bias to first order.

Two values that share samples or a reference are compared by `difference`: the same groups are left out of both, and the
variance is that of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import number, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.uncertainty import jackknife_variance

#: Of an interval; at 1 it is everything.
LEVEL = number(above=0, below=1.0 - 1e-12)


@dataclass(frozen=True)
class Measured:
    """An estimate with its error.

    >>> print(Measured(0.3142, 0.0213, 0.27, 0.36, 0.35))
    0.314 ± 0.021

    Attributes:
        value: corrected for the bias of finite samples where the metric knows how; a distance near 0 may come out negative.
        stderr: standard error over both samples.
        low, high: interval of the stated level for the true value.
        plug_in: the uncorrected value of the two samples, as published tables have it; never negative for a distance.
        replicates: per independent sample, the values without each of its groups or examples; what a difference needs.
    """

    value: float
    stderr: float
    low: float
    high: float
    plug_in: float
    replicates: tuple[Float64[Array, " _"], ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        digits = 1 if not 0.0 < self.stderr < math.inf else max(0, 1 - math.floor(math.log10(self.stderr)))
        return f"{self.value:.{digits}f} ± {self.stderr:.{digits}f}"


def require_level(level: float) -> None:
    """Raise InputError unless 0 < level < 1."""
    LEVEL("the level of an interval", level)


def jackknife(
    plug_in: float,
    *deleted: Sequence[float] | Float64[Array, " _"],
    correct: bool = True,
    level: float = 0.95,
    value: float | None = None,
) -> Measured:
    """An estimate from a statistic and, per independent sample, its values without each group (or example) of that sample.

    >>> x = np.array([1.0, 2.0, 4.0, 7.0])
    >>> deleted = [float(np.delete(x, i).var()) for i in range(4)]
    >>> estimate = jackknife(float(x.var()), deleted)  # the bias of a variance is removed
    >>> estimate.plug_in, estimate.value, float(x.var(ddof=1))
    (5.25, 7.0, 7.0)

    Args:
        correct: subtract the jackknife's bias.
        value: the estimate, where it is not the statistic (an unbiased version of it, whose replicates `deleted` holds).
    """
    require_level(level)
    centre = plug_in if value is None else value
    replicates = tuple(np.asarray(values, dtype=np.float64) for values in deleted)
    bias = sum((len(values) - 1) * (float(values.mean()) - centre) for values in replicates)
    estimate = centre - bias if correct else centre
    return _with_interval(estimate, plug_in, replicates, level)


def _with_interval(value: float, plug_in: float, replicates: tuple[Array, ...], level: float) -> Measured:
    stderr = math.sqrt(sum(float(jackknife_variance(values)) for values in replicates))
    reach = float(scipy.special.stdtrit(min(map(len, replicates)) - 1, 0.5 + level / 2)) * stderr
    return Measured(value, stderr, value - reach, value + reach, plug_in, replicates)


def difference(a: Measured, b: Measured, level: float = 0.95) -> Measured:
    """a - b of two values by one metric, whose samples began with the same noise and whose reference is the same.

    >>> x = np.array([1.0, 2.0, 4.0, 7.0])
    >>> a, b = (jackknife(float(v.mean()), [float(np.delete(v, i).mean()) for i in range(4)]) for v in (x, x + 1.0))
    >>> print(a, "|", b, "|", difference(a, b))
    3.5 ± 1.3 | 4.5 ± 1.3 | -1.0 ± 0.0

    Raises:
        InputError: one of them has no replicates, or they left out other groups.
    """
    return _sum((1.0, a), (-1.0, b), level)


def interpolated(a: Measured, b: Measured, share: float, level: float = 0.95) -> Measured:
    """(1 - share) a + share b of two values as `difference` has them.

    >>> x = np.array([1.0, 2.0, 4.0, 7.0])
    >>> a, b = (jackknife(float(v.mean()), [float(np.delete(v, i).mean()) for i in range(4)]) for v in (x, -x))
    >>> print(interpolated(a, b, 0.5))
    0.0 ± 0.0

    Raises:
        InputError: one of them has no replicates, or they left out other groups.
    """
    return _sum((1.0 - share, a), (share, b), level)


def _sum(first: tuple[float, Measured], second: tuple[float, Measured], level: float) -> Measured:
    """Of two values times numbers, group by group."""
    require_level(level)
    (p, a), (q, b) = first, second
    sizes = [[len(values) for values in one.replicates] for one in (a, b)]
    if not sizes[0] or sizes[0] != sizes[1]:
        raise InputError(f"a paired difference needs values without the same groups, got {sizes[0]} and {sizes[1]} of them")
    replicates = tuple(p * x + q * y for x, y in zip(a.replicates, b.replicates, strict=True))
    return _with_interval(p * a.value + q * b.value, p * a.plug_in + q * b.plug_in, replicates, level)


def groups_of(count: int, groups: int, seed: int) -> list[Int64[Tensor, " _"]]:
    """Indices that remain when each of the random groups is left out.

    >>> [kept.tolist() for kept in groups_of(4, 2, seed=0)]
    [[0, 1], [2, 3]]

    Raises:
        InputError: fewer than two examples per group.
    """
    groups = whole(2)("groups of the jackknife", groups)
    if count < 2 * groups:
        enough = f"set groups={count // 2}" if count >= 4 else "four are the least"
        raise InputError(f"{count} examples are too few for {groups} groups; give at least {2 * groups}, or {enough}")
    order = torch.from_numpy(np.random.default_rng(stream_seed(seed, count)).permutation(count))
    label = torch.empty(count, dtype=torch.int64).index_copy_(0, order, torch.arange(count) % groups)
    return [torch.nonzero(label != g).flatten() for g in range(groups)]


def without_groups(
    statistic: Callable[[Float[Tensor, " _ *dims"]], Any], x: Float[Tensor, " n *dims"], groups: int, seed: int
) -> list[Any]:
    """The statistic of x without each group.

    >>> without_groups(len, torch.zeros(6, 1), groups=3, seed=0)
    [4, 4, 4]
    """
    return [statistic(x[kept.to(x.device)]) for kept in groups_of(len(x), groups, seed)]


def proportion(hits: int, count: int, level: float = 0.95) -> Measured:
    """A share of independent trials, with Wilson's interval (E. B. Wilson 1927), which holds at 0 and 1 too.

    >>> never = proportion(0, 100)
    >>> never.low, never.high
    (0.0, 0.037)
    """
    require_level(level)
    z = float(scipy.special.ndtri(0.5 + level / 2))
    p = hits / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return Measured(p, math.sqrt(p * (1 - p) / count), max(0.0, centre - reach), min(1.0, centre + reach), p)


def share(hits: Bool[Tensor, " n"], level: float = 0.95) -> Measured:
    """The `proportion` of trials that hit, which remembers which.

    >>> print(share(torch.tensor([True, True, True, False])))
    0.75 ± 0.22
    """
    count, number = len(hits), int(hits.sum())
    without = (number - hits.cpu().double().numpy()) / max(count - 1, 1)
    return replace(proportion(number, count, level), replicates=(without,))


def mean_difference(x: Float[Tensor, " n"], y: Float[Tensor, " m"], level: float = 0.95) -> Measured:
    """E x - E y of two independent samples; interval by Welch's degrees of freedom.

    >>> print(mean_difference(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0, 3.0])))
    2.0 ± 1.2

    Raises:
        InputError: a sample of one.
    """
    require_level(level)
    if min(len(x), len(y)) < 2:
        raise InputError(f"a difference of means needs at least two values of each sample, got {len(x)} and {len(y)}")
    a = float(x.var()) / len(x)
    b = float(y.var()) / len(y)
    value = float(x.mean() - y.mean())
    stderr = math.sqrt(a + b)
    freedom = (a + b) ** 2 / max(a * a / (len(x) - 1) + b * b / (len(y) - 1), 1e-300)
    reach = float(scipy.special.stdtrit(max(freedom, 1.0), 0.5 + level / 2)) * stderr
    without = tuple(value + sign * _leave_one_out(part) for sign, part in ((1.0, x), (-1.0, y)))
    return Measured(value, stderr, value - reach, value + reach, value, without)


def _leave_one_out(x: Float[Tensor, " n"]) -> Array:
    """How far the mean moves without each value."""
    return ((x.mean() - x) / (len(x) - 1)).cpu().double().numpy()
