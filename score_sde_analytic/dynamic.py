"""Shortest K-step paths over a fine lattice of log-SNR, without ever holding an N x N matrix.

    c(i, j) = mean_k 1/2 log(1 + R_jk expm1(lam_i - lam_j))      the step from point j down to i < j, nats per dimension
    cost of a path p_1 < .. < p_K = N - 1:   first_cost[p_1] + c(p_1, p_2) + .. + c(p_{K-1}, p_K)

Points ascend in time, so log-SNR lam strictly decreases along the index and point N - 1 is t = 1. Where y = lam + log((1 - R)/R)
never decreases in lam, c is Monge,

    c(i, j) + c(i', j') <= c(i, j') + c(i', j)      for i < i' < j < j'

so successors are monotone and the optimal cost from a fixed first point is convex in the number of steps. Forbidding short steps
keeps this: of the four steps (i', j) is the shortest, so if it is allowed, so are the others.

The recursion runs from t = 1 towards the data: `first_cost` then enters only at the end and may be anything, inf included.
(Knuth, 1971; Yao, 1982; Galil & Park, 1992, for the monotone searches; Aggarwal, Schieber & Tokuyama, 1994, for a single K.)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from score_sde_analytic.grid import optimal_paths
from score_sde_analytic.schedule import Array

Indices = NDArray[np.int64]
Method = Literal["auto", "monge", "plain"]

MAX_SPAN = 300.0  # exp(2 MAX_SPAN) is the largest number formed
MAX_PLAIN_POINTS = 8000  # about 0.5 GB per N x N array, of which the plain recursion holds three
MAX_TABLE_BYTES = 4 * 2**30
ROUNDING = 1e-12  # relative; what sums of rounded costs may differ by


@dataclass(frozen=True, eq=False)
class StepCosts:
    """What each step between two lattice points costs, nats per dimension, computed when asked.

    Attributes:
        log_snr: strictly decreasing, (N,); the last point is t = 1.
        residual: R in [0, 1] at each point, (N,), or one column per coordinate of a basis, (N, d).

    Raises:
        ValueError: shapes do not fit, or values are outside these ranges, or log-SNR spans more than MAX_SPAN.
    """

    log_snr: Array
    residual: Array

    def __post_init__(self) -> None:
        lam, r = np.asarray(self.log_snr, dtype=np.float64), np.asarray(self.residual, dtype=np.float64)
        if lam.ndim != 1 or len(lam) == 0:
            raise ValueError(f"log_snr must be a non-empty 1-d array, got shape {lam.shape}")
        if not np.all(np.isfinite(lam)):
            raise ValueError("log_snr must be finite; leave out the data, where it is infinite")
        if np.any(np.diff(lam) >= 0):
            raise ValueError("log_snr must strictly decrease (points ascend in time); sort the lattice and drop duplicates")
        if lam[0] - lam[-1] > MAX_SPAN:
            raise ValueError(f"log_snr spans {lam[0] - lam[-1]:.6g}, more than {MAX_SPAN:g}; use a shorter lattice")
        if r.ndim not in (1, 2) or r.shape[0] != len(lam) or r.size == 0:
            raise ValueError(f"residual must be ({len(lam)},) or ({len(lam)}, d) to match log_snr, got {r.shape}")
        if not np.all((r >= 0.0) & (r <= 1.0)):  # NaN fails too
            raise ValueError("residual must lie in [0, 1]; clip the measured values or fit a NoiseCurve")
        object.__setattr__(self, "log_snr", lam)
        object.__setattr__(self, "residual", r)

    def __len__(self) -> int:
        return len(self.log_snr)

    @property
    def columns(self) -> Array:
        """R as (N, d)."""
        return self.residual.reshape(len(self), -1)

    def between(self, i: ArrayLike, j: ArrayLike) -> Array:
        """c(i, j), the steps from points j down to points i; index arrays broadcast."""
        h = self.log_snr[np.asarray(i)] - self.log_snr[np.asarray(j)]
        return 0.5 * np.log1p(self.columns[np.asarray(j)] * np.expm1(h)[..., None]).mean(-1)

    def row(self, i: int) -> Array:
        """(N,): the steps from every point down to i; inf from points that do not lie above it."""
        i = range(len(self))[i]
        above = self.between(i, np.arange(i + 1, len(self)))
        return np.concatenate([np.full(i + 1, np.inf), above])

    def matrix(self) -> Array:
        """(N, N): all steps, inf on and below the diagonal; for small N."""
        return np.stack([self.row(i) for i in range(len(self))])

    def of(self, path: ArrayLike) -> float:
        """Sum of the steps of a path, without its first cost."""
        p = np.asarray(path, dtype=np.int64)
        return float(self.between(p[:-1], p[1:]).sum())

    def nearest(self, min_spacing: float = 0.0) -> Indices:
        """(N,): for each point i the smallest j > i with lam_i - lam_j >= min_spacing, to rounding; N where there is none."""
        if not min_spacing >= 0.0:
            raise ValueError(f"min_spacing is a difference of log-SNRs and must be at least 0, got {min_spacing}")
        close = self.log_snr - min_spacing * (1.0 - ROUNDING)
        return np.maximum(np.searchsorted(-self.log_snr, -close), np.arange(len(self)) + 1)


@dataclass(frozen=True, eq=False)
class ShortestPaths:
    """Paths of 1 .. max_steps steps.

    Attributes:
        paths: paths[K - 1] holds K ascending lattice indices that end in N - 1; empty where no path exists.
        costs: (max_steps,), nats per dimension; inf where no path exists.
        method: "monge" or "plain", whichever found them.
    """

    paths: list[Indices]
    costs: Array
    method: str


def is_monge(costs: StepCosts, tolerance: float = 1e-6) -> bool:
    """Whether y = lam + log((1 - R)/R) never falls, as lam grows, more than `tolerance` below its largest value so far.

    R = 0 and R = 1 stand for y = inf and -inf. Near R = 1 the rounding of R alone moves y by eps / (1 - R), which is allowed. A fall
    of `tolerance` breaks each Monge inequality, hence the optimality of each step, by at most tolerance / 2 nats per dimension.
    """
    r = costs.columns[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        y = costs.log_snr[::-1, None] + np.log1p(-r) - np.log(r)
        slack = tolerance + 4.0 * np.finfo(np.float64).eps / (1.0 - r)
        fall = np.maximum.accumulate(y, axis=0) - y
    return bool(np.all((fall <= slack) | np.isnan(fall)))  # inf - inf: no fall


def shortest_paths(
    costs: StepCosts, first_cost: ArrayLike, max_steps: int, method: Method = "auto", min_spacing: float = 0.0
) -> ShortestPaths:
    """Shortest paths of 1 .. max_steps steps; "auto" takes the Monge solver if `is_monge` allows it.

    Args:
        first_cost: (N,), nats per dimension of the last step, from each point to the data; inf forbids a first time.
        min_spacing: smallest allowed difference of log-SNR in a step.

    Raises:
        ValueError: malformed input, unknown method, or a lattice too large for the plain recursion.
        ImportError: the Monge solver needs numba.
    """
    if method not in ("auto", "monge", "plain"):
        raise ValueError(f"method must be 'auto', 'monge' or 'plain', got {method!r}")
    monge = method == "monge" or (method == "auto" and is_monge(costs))
    solve = monge_paths if monge else plain_paths
    return ShortestPaths(*solve(costs, first_cost, max_steps, min_spacing), "monge" if monge else "plain")


def plain_paths(
    costs: StepCosts, first_cost: ArrayLike, max_steps: int, min_spacing: float = 0.0
) -> tuple[list[Indices], Array]:
    """Shortest paths of 1 .. max_steps steps for any curve, by `grid.optimal_paths`: O(K N^2) time, O(N^2 + K N) memory.

    Raises:
        ValueError: malformed input, or more than MAX_PLAIN_POINTS points.
    """
    first = _checked(costs, first_cost, max_steps)
    if len(costs) > MAX_PLAIN_POINTS:
        raise ValueError(
            f"the plain recursion holds N x N matrices: {len(costs)} points exceed its limit of {MAX_PLAIN_POINTS};"
            " use a coarser lattice, or fit a monotone NoiseCurve for the Monge solver"
        )
    matrix = costs.matrix()
    matrix[np.arange(len(costs)) < costs.nearest(min_spacing)[:, None]] = np.inf
    return optimal_paths(matrix, first, max_steps)


def monge_paths(
    costs: StepCosts, first_cost: ArrayLike, max_steps: int, min_spacing: float = 0.0
) -> tuple[list[Indices], Array]:
    """Shortest paths of 1 .. max_steps steps for Monge costs: about K N time, 4 K N bytes.

        V_1[i] = c(i, N - 1),   V_m[i] = min_j c(i, j) + V_{m-1}[j],   cost of K steps = min_i first_cost[i] + V_{K-1}[i]

    Costs that are not Monge give valid paths that need not be the shortest.

    Returns:
        (paths, costs) as `grid.optimal_paths`.

    Raises:
        ValueError: malformed input, or a table of more than MAX_TABLE_BYTES.
        ImportError: numba is absent.
    """
    first, n = _checked(costs, first_cost, max_steps), len(costs)
    if 4 * max_steps * n > MAX_TABLE_BYTES:
        raise ValueError(
            f"{max_steps} steps on {n} points need a table of {4e-9 * max_steps * n:.3g} GB; use monge_path for one number of steps"
        )
    _compile()
    level, slope = _lines(costs)
    nearest, successors = costs.nearest(min_spacing), np.empty((max_steps, n), dtype=np.int32)
    successors[0] = n - 1
    rest, last, gap = np.zeros(n), n - 1, n / 2
    starts = [n - 1 if np.isfinite(first[-1]) else n]
    for arcs in range(1, max_steps):
        stride = 2 ** int(np.log2(1.0 + gap))
        rest, count = _layer(level, slope, nearest, last, stride, rest, successors[arcs - 1], successors[arcs])
        total = first[:count] + 0.5 * np.log1p(rest[:count])
        starts.append(int(total.argmin()) if count and np.isfinite(total.min()) else n)
        if count == 0:
            break
        gap, last = float((successors[arcs - 1, :count] - successors[arcs, :count]).mean()), count - 1
    starts += [n] * (max_steps - len(starts))
    paths = [_unrolled(successors, start, arcs) for arcs, start in enumerate(starts)]
    return paths, np.array([_total(costs, first, path) for path in paths])


def monge_path(costs: StepCosts, first_cost: ArrayLike, steps: int) -> tuple[Indices, float]:
    """The shortest path of exactly `steps` steps for Monge costs, in O(N) memory: for lattices of 10^5 .. 10^6 points.

        V_n[i] >= min_m (V_m[i] + price m) - price n      for every price; equal at the right one, V being convex in n

    One pass at one price takes O(N log N) and bounds V from every first point i, so only few first points are ever solved for.

    Returns:
        (path, cost): ascending indices that end in N - 1 and nats per dimension; an empty path and inf where none exists.

    Raises:
        ValueError: malformed input.
        ImportError: numba is absent.
    """
    first = _checked(costs, first_cost, steps)
    if steps <= 2:
        paths, values = monge_paths(costs, first, steps)
        return paths[-1], float(values[-1])
    search = _PriceSearch(costs, steps - 1)
    best, value = np.empty(0, dtype=np.int64), np.inf
    while True:
        total = first + search.bound
        start = int(total.argmin())
        if not total[start] < value - ROUNDING * (1.0 + abs(value) if best.size else 0.0):
            return best, value
        path = search.path(start)
        cost = _total(costs, first, path)
        if cost < value:
            best, value = path, cost


class _PriceSearch:
    """Shortest paths of a given number of arcs from any first point, by prices per arc.

    Attributes:
        bound: lower bound on the cost of such a path from each first point, (N,); exact where `path` was called.
    """

    def __init__(self, costs: StepCosts, arcs: int) -> None:
        _compile()
        self._costs, self._arcs, self._price = costs, arcs, np.nan
        self._lines = _lines(costs)
        n = len(costs)
        # c(i, j) >= c(i, k) + c(k, j): visiting every point costs least.
        single = costs.between(np.arange(n - 1), np.arange(1, n))
        self._every = np.append(np.cumsum(single[::-1])[::-1], 0.0)
        self.bound = np.where(np.arange(n) < n - arcs, self._every, np.inf)

    def path(self, start: int) -> Indices:
        """The shortest path of `arcs` arcs from `start`: price by secants between a path of too few and one of too many."""
        costs, arcs, end = self._costs, self._arcs, len(self._costs) - 1
        short, long = np.array([start, end]), np.arange(start, end + 1)
        low, high = self._every[start], costs.of(short)
        if len(long) - 1 == arcs:
            return self._solved(start, long)
        price = self._price  # of the previous first point: often right at once
        while True:
            secant = max(high - low, 0.0) / (len(long) - len(short))
            tried, price = (price, np.nan) if np.isfinite(price) else (secant, np.nan)
            path = self._pass(tried, start)
            value = costs.of(path)
            line = high + secant * (len(short) - len(path))
            if len(path) - 1 == arcs:
                return self._solved(start, path)
            if tried == secant and (
                not len(short) < len(path) < len(long) or value >= line - ROUNDING * abs(line)
            ):
                return self._solved(start, _splice(short, long, arcs))  # both are shortest at this price
            if len(short) < len(path) - 1 + 1 <= arcs:
                short, high = path, value
            elif arcs < len(path) - 1 < len(long) - 1:
                long, low = path, value

    def _pass(self, price: float, start: int) -> Indices: ...

    def _solved(self, start: int, path: Indices) -> Indices: ...
