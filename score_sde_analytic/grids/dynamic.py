"""Shortest K-step paths over a fine lattice of log-SNR, without ever holding an N x N matrix.

    c(i, j) = mean_k 1/2 log(1 + R_jk expm1(lam_i - lam_j))      the step from point j down to i < j, nats per dimension
    cost of a path p_1 < .. < p_K:           first_cost[p_1] + c(p_1, p_2) + .. + c(p_{K-1}, p_K) + top_cost[p_K]

A path ends at p_K = N - 1, at no cost, unless `top_cost` says what it costs to end at each point.

Points ascend in time, so log-SNR lam strictly decreases along the index and point N - 1 is t = 1. Where
y = lam + log((1 - R)/R) never decreases in lam, c is Monge,

    c(i, j) + c(i', j') <= c(i, j') + c(i', j)      for i < i' < j < j'

so best successors are monotone and the optimal cost from a fixed first point is convex in the number of steps. Forbidding
short steps keeps this: of the four steps (i', j) is the shortest, so if it is allowed, so are the others.

The recursion runs from t = 1 towards the data: `first_cost` then enters only at the end and may be anything, inf included. Any
`top_cost`, where it begins, leaves successors monotone along the index (not in the number of steps).
(Knuth, 1971; Yao, 1982; Galil & Park, 1992, for the monotone searches; Aggarwal, Schieber & Tokuyama, 1994, for a single K.)
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike, NDArray

from score_sde_analytic.arrays import Array, as_array
from score_sde_analytic.checks import whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import optional
from score_sde_analytic.grids.grid import optimal_paths
from score_sde_analytic.process.kernel import optimal_step_nats

Indices = NDArray[np.int64]
Method = Literal["auto", "monge", "plain"]

MAX_SPAN = 300.0  # exp(2 MAX_SPAN) is the largest number formed
MAX_PLAIN_POINTS = 8000  # about 0.5 GB per N x N array, of which the plain recursion holds three
MAX_TABLE_BYTES = 4 * 2**30
COARSE_POINTS = 2000  # of the lattice that yields a first guess at the price
ROUNDING = 1e-12  # relative; what sums of rounded costs may differ by


@dataclass(frozen=True, eq=False)
class StepCosts:
    """What each step between two lattice points costs, nats per dimension, computed when asked.

    Attributes:
        log_snr: strictly decreasing, (N,); the last point is t = 1.
        residual: R in [0, 1] at each point, (N,), or one column per coordinate of a basis, (N, d).

    Raises:
        InputError: shapes do not fit, or values are outside these ranges, or log-SNR spans more than MAX_SPAN.

    >>> costs = StepCosts(log_snr=np.array([4.0, 2.0, 0.0]), residual=np.array([0.8, 0.4, 0.2]))
    >>> float(costs.between(0, 2)), costs.of([0, 1, 2])
    (1.2306, 1.0459)
    """

    log_snr: Array
    residual: Array

    def __post_init__(self) -> None:
        lam, r = as_array(self.log_snr), as_array(self.residual)
        if lam.ndim != 1 or len(lam) == 0:
            raise InputError(f"log_snr must be a non-empty 1-d array, got shape {lam.shape}")
        if not np.all(np.isfinite(lam)):
            raise InputError("log_snr must be finite; leave out the data, where it is infinite")
        if np.any(np.diff(lam) >= 0):
            raise InputError("log_snr must strictly decrease (points ascend in time); sort the lattice and drop duplicates")
        if lam[0] - lam[-1] > MAX_SPAN:
            raise InputError(f"log_snr spans {lam[0] - lam[-1]:.6g}, more than {MAX_SPAN:g}; use a shorter lattice")
        if r.ndim not in (1, 2) or r.shape[0] != len(lam) or r.size == 0:
            raise InputError(f"residual must be ({len(lam)},) or ({len(lam)}, d) to match log_snr, got {r.shape}")
        if not np.all((r >= 0.0) & (r <= 1.0)):  # NaN fails too
            raise InputError("residual must lie in [0, 1]; clip the measured values or fit a NoiseCurve")
        object.__setattr__(self, "log_snr", lam)
        object.__setattr__(self, "residual", r)

    def __len__(self) -> int:
        return len(self.log_snr)

    @property
    def columns(self) -> Float64[Array, "N d"]:
        """R of each point and coordinate."""
        return self.residual.reshape(len(self), -1)

    def between(self, i: ArrayLike, j: ArrayLike) -> Array:
        """c(i, j), the steps from points j down to points i; index arrays broadcast."""
        h = self.log_snr[np.asarray(i)] - self.log_snr[np.asarray(j)]
        return optimal_step_nats(self.columns[np.asarray(j)], h[..., None]).mean(-1)

    def row(self, i: int) -> Float64[Array, " N"]:
        """The steps from every point down to i; inf from points that do not lie above it."""
        i = range(len(self))[i]
        above = self.between(i, np.arange(i + 1, len(self)))
        return np.concatenate([np.full(i + 1, np.inf), above])

    def matrix(self) -> Float64[Array, "N N"]:
        """All steps, inf on and below the diagonal; for small N."""
        return np.stack([self.row(i) for i in range(len(self))])

    def of(self, path: ArrayLike) -> float:
        """Sum of the steps of a path, without its first cost."""
        p = np.asarray(path, dtype=np.int64)
        return float(self.between(p[:-1], p[1:]).sum())

    def nearest(self, min_spacing: float = 0.0) -> Int64[np.ndarray, " N"]:
        """For each point i the smallest j > i with lam_i - lam_j >= min_spacing, to rounding; N where there is none."""
        if not min_spacing >= 0.0:
            raise InputError(f"min_spacing is a difference of log-SNRs and must be at least 0, got {min_spacing}")
        allowed = np.searchsorted(-self.log_snr, (min_spacing - ROUNDING) - self.log_snr)
        return np.maximum(allowed, np.arange(len(self)) + 1)


@dataclass(frozen=True, eq=False)
class ShortestPaths:
    """Paths of 1 .. max_steps steps.

    Attributes:
        paths: paths[K - 1] holds K ascending lattice indices that end in N - 1; empty where no path exists.
        costs: nats per dimension; inf where no path exists.
        method: "monge" or "plain", whichever found them.
    """

    paths: list[Indices]
    costs: Float64[Array, " max_steps"]
    method: str


def is_monge(costs: StepCosts, tolerance: float = 1e-6) -> bool:
    """Whether y = lam + log((1 - R)/R) never falls, as lam grows, more than `tolerance` below its largest value so far.

    R = 0 is y = inf and R = 1 is y = -inf, but where 1 - R is a few roundings of R, y gets the benefit of the doubt. A fall of
    `tolerance` breaks each Monge inequality, hence the optimality of each step, by at most tolerance / 2 nats per dimension.

    >>> is_monge(StepCosts(np.array([4.0, 2.0, 0.0]), np.array([0.8, 0.4, 0.2])))
    True
    """
    r = costs.columns[::-1]
    eps = 4.0 * np.finfo(np.float64).eps
    with np.errstate(divide="ignore", invalid="ignore"):
        base = costs.log_snr[::-1, None] - np.log(r)
        least, most = base + np.log(np.maximum(1.0 - r - eps, 0.0)), base + np.log(1.0 - r + eps)
        fall = np.maximum.accumulate(least, axis=0) - most
    return bool(np.all((fall <= tolerance) | np.isnan(fall)))  # inf - inf: no fall


def shortest_paths(
    costs: StepCosts,
    first_cost: ArrayLike,
    max_steps: int,
    method: Method = "auto",
    min_spacing: float = 0.0,
    top_cost: ArrayLike | None = None,
) -> ShortestPaths:
    """Shortest paths of 1 .. max_steps steps; "auto" takes the Monge solver if `is_monge` allows it and numba is there.

    Args:
        first_cost: (N,), nats per dimension of the last step, from each point to the data; inf forbids a first time.
        min_spacing: smallest allowed difference of log-SNR in a step.
        top_cost: (N,), nats per dimension of the prior at each point; inf forbids a first level; None for t = 1 alone.

    Raises:
        InputError: malformed input, unknown method, or a lattice too large for the plain recursion.
        ImportError: the Monge solver needs numba.

    >>> costs = StepCosts(np.array([4.0, 2.0, 0.0]), np.array([0.8, 0.4, 0.2]))
    >>> shortest_paths(costs, first_cost=[0.0, np.inf, np.inf], max_steps=3, method="plain").paths[1:]
    [array([0, 2]), array([0, 1, 2])]
    """
    if method not in ("auto", "monge", "plain"):
        raise InputError(f"method must be 'auto', 'monge' or 'plain', got {method!r}")
    has_numba = importlib.util.find_spec("numba") is not None
    monge = method == "monge" or (method == "auto" and has_numba and is_monge(costs))
    solve = monge_paths if monge else plain_paths
    return ShortestPaths(*solve(costs, first_cost, max_steps, min_spacing, top_cost), "monge" if monge else "plain")


def plain_paths(
    costs: StepCosts,
    first_cost: ArrayLike,
    max_steps: int,
    min_spacing: float = 0.0,
    top_cost: ArrayLike | None = None,
) -> tuple[list[Indices], Float64[Array, " {max_steps}"]]:
    """Shortest paths of 1 .. max_steps steps for any curve, by `grid.optimal_paths`: O(K N^2) time, O(N^2 + K N) memory.

    Raises:
        InputError: malformed input, or more than MAX_PLAIN_POINTS points.
    """
    first = _checked(costs, first_cost, max_steps)
    if len(costs) > MAX_PLAIN_POINTS:
        raise InputError(
            f"the plain recursion holds N x N matrices: {len(costs)} points exceed its limit of {MAX_PLAIN_POINTS};"
            " use a coarser lattice, or fit a monotone NoiseCurve for the Monge solver"
        )
    matrix = costs.matrix()
    matrix[np.arange(len(costs)) < costs.nearest(min_spacing)[:, None]] = np.inf
    return optimal_paths(matrix, first, max_steps, None if top_cost is None else _end("top_cost", top_cost, len(costs)))


def monge_paths(
    costs: StepCosts,
    first_cost: ArrayLike,
    max_steps: int,
    min_spacing: float = 0.0,
    top_cost: ArrayLike | None = None,
) -> tuple[list[Indices], Float64[Array, " {max_steps}"]]:
    """Shortest paths of 1 .. max_steps steps for Monge costs: about K N time, 4 K N bytes.

        V_0 = top_cost,   V_m[i] = min_{j > i} c(i, j) + V_{m-1}[j],   cost of K steps = min_i first_cost[i] + V_{K-1}[i]

    Costs that are not Monge give valid paths that need not be the shortest.

    Returns:
        (paths, costs) as `grid.optimal_paths`.

    Raises:
        InputError: malformed input, or a table of more than MAX_TABLE_BYTES.
        ImportError: numba is absent.
    """
    first = _checked(costs, first_cost, max_steps)
    n = len(costs)
    if 4 * max_steps * n > MAX_TABLE_BYTES:
        size = f"{4e-9 * max_steps * n:.3g} GB"
        raise InputError(f"{max_steps} steps on {n} points need a table of {size}; use monge_path for one number of steps")
    kernels = _compiled()
    lines, nearest = _lines(costs), costs.nearest(min_spacing)
    if top_cost is None:
        successors, starts, values = kernels.table(*lines, nearest, first, max_steps)
    else:
        top = np.expm1(2.0 * _end("top_cost", top_cost, n))
        successors, starts, values = kernels.free_table(*lines, nearest, first, top, max_steps)
    paths = np.split(kernels.unroll(successors, starts), np.cumsum(np.arange(1, max_steps)))
    return [path if np.isfinite(value) else path[:0] for path, value in zip(paths, values, strict=True)], values


def monge_path(costs: StepCosts, first_cost: ArrayLike, steps: int) -> tuple[Int64[np.ndarray, " path"], float]:
    """The shortest path of exactly `steps` steps for Monge costs in O(N) memory: for lattices of 10^5 .. 10^6 points.

        V_n[i] >= min_m (V_m[i] + m price) - n price      for every price per step; equal at the right one, V being convex in n

    One pass of O(N log N) at one price bounds V_n from every first point, so only few of them need a search for their price.

    Returns:
        (path, cost): ascending indices that end in N - 1 and nats per dimension; an empty path and inf where none exists.

    Raises:
        InputError: malformed input.
        ImportError: numba is absent.
    """
    first = _checked(costs, first_cost, steps)
    if steps <= 2:
        paths, values = monge_paths(costs, first, steps)
        return paths[-1], float(values[-1])
    search = _PriceSearch(costs, steps - 1)
    if len(costs) > 4 * (coarse := max(COARSE_POINTS, 4 * steps)):
        search.price(_guess(costs, first, steps, coarse))
    best, value, goal = np.empty(0, dtype=np.int64), np.inf, np.inf
    while True:
        total = first + search.bound
        start = int(total.argmin())
        if total[start] >= goal:
            return best, value
        path = search.path(start)
        cost = float(first[start]) + costs.of(path)
        if cost < value:
            best, value, goal = path, cost, cost - ROUNDING * (1.0 + abs(cost))


class _PriceSearch:
    """Shortest paths of a given number of arcs from any one point to the end, found by a price per arc.

    Attributes:
        bound: lower bound on the cost of such a path from each point, (N,); its cost where `path` found it.
    """

    def __init__(self, costs: StepCosts, arcs: int) -> None:
        self._costs = costs
        self._arcs = arcs
        self._lines = _lines(costs)
        self._successor: NDArray[np.int32] | None = None
        n = len(costs)
        # c(i, j) + c(k, k) >= c(i, k) + c(k, j): the path through every point is the shortest of all.
        single = costs.between(np.arange(n - 1), np.arange(1, n))
        every = np.append(np.cumsum(single[::-1])[::-1], 0.0)
        self.bound = np.where(np.arange(n) < n - arcs, every, np.inf)

    def path(self, start: int) -> Indices:
        """The shortest path of `arcs` arcs from `start`: secants between one path of too few arcs and one of too many."""
        size = self._arcs + 1
        n = len(self._costs)
        short, long = np.array([start, n - 1]), np.arange(start, n)
        if self._successor is not None:  # at the price of the last first point, often right at once
            path = _compiled().follow(self._successor, start)
            short, long = (path, long) if len(path) <= size else (short, path)
        while len(short) < size < len(long):
            low, high = self._costs.of(long), self._costs.of(short)
            price = max(high - low, 0.0) / (len(long) - len(short))
            path = _compiled().follow(self.price(price), start)
            line = high + price * (len(short) - 1)
            gain = line - self._costs.of(path) - price * (len(path) - 1)
            if gain <= ROUNDING * line or not len(short) < len(path) < len(long):
                short = _spliced(short, long, size)  # both ends are shortest at this price
            elif len(path) <= size:
                short = path
            else:
                long = path
        found = short if len(short) == size else long
        self.bound[start] = self._costs.of(found)
        return found

    def price(self, price: float) -> NDArray[np.int32]:
        """The best successors, for any number of arcs, when each costs this price as well; improves all bounds."""
        rest, self._successor = _compiled().relaxed(*self._lines, np.expm1(2.0 * price))
        np.maximum(self.bound, 0.5 * np.log1p(rest) - self._arcs * price, out=self.bound)
        return self._successor


def _guess(costs: StepCosts, first: Array, steps: int, points: int) -> float:
    """About the right price, from every so many points of the lattice."""
    part = np.linspace(0, len(costs) - 1, points).astype(np.int64)
    coarse = StepCosts(costs.log_snr[part], costs.residual[part])
    path = monge_paths(coarse, first[part], steps)[0][-1]
    start = path[0] if len(path) else 0
    values = monge_paths(coarse, np.where(np.arange(points) == start, 0.0, np.inf), steps + 1)[1]
    return max(0.5 * (values[-3] - values[-1]), 0.0) if np.isfinite(values[-3:]).all() else 0.0


def _spliced(short: Indices, long: Indices, size: int) -> Indices:
    """A path of `size` points from two that are shortest at one price: it starts as the long one and ends as the short one.

    Somewhere a step (p, p') of the short path contains the step (q, q') of the long one that is `size - len(short)` places
    ahead. By the Monge inequality exchanging the ends of the two costs nothing.
    """
    ahead = size - len(short)
    cross = int(np.argmax(long[1 + ahead : size] <= short[1:]))
    return np.concatenate([long[: cross + ahead + 1], short[cross + 1 :]])


def _checked(costs: StepCosts, first_cost: ArrayLike, steps: int) -> Array:
    """first_cost as a float64 array.

    Raises:
        InputError: wrong shape, NaN or -inf, or `steps` outside 1 .. N.
    """
    n = len(costs)
    first = _end("first_cost", first_cost, n)
    if not 1 <= whole()("steps", steps) <= n:
        raise InputError(f"{steps} steps are not within 1 .. {n}, the number of lattice points; use a finer lattice")
    return first


def _end(name: str, cost: ArrayLike, n: int) -> Array:
    """The cost of an end of a path at every point."""
    end = as_array(cost)
    if end.shape != (n,):
        raise InputError(f"{name} must be ({n},), one per lattice point, got {end.shape}")
    if np.any(np.isnan(end) | np.isneginf(end)):
        raise InputError(f"{name} must be finite, or inf to forbid a first time")
    return end


def _lines(costs: StepCosts) -> tuple[Array, Array]:
    """(level (N,), slope (N,) or, for d > 1, (N, d)) as `monge_kernels` takes them."""
    above = costs.log_snr - costs.log_snr[-1]
    slope = costs.columns * np.exp(-above)[:, None]
    return np.expm1(above), slope[:, 0].copy() if slope.shape[1] == 1 else slope


def _compiled() -> Any:
    """The kernels, compiled by numba, which is imported no sooner.

    Raises:
        ImportError: numba is absent.
    """
    user = "the Monge solver (method='plain' does without)"
    return optional("score_sde_analytic.grids.monge_kernels", extra="grids", user=user, package="numba")
