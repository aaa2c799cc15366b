"""Time grids: even, quadratic, even in log-SNR, Karras, explicit, and optimal by dynamic programming.

A grid of K steps is K + 1 times in visiting order, t_K > ... > t_1 > t_0 = 0; each of t_K .. t_1 costs one network call
and the last step ends in data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike, NDArray

from score_sde_analytic.arrays import Array, as_array, numbers
from score_sde_analytic.checks import number, whole
from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import plain, read_json, write_json
from score_sde_analytic.process.forward import BLANK
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule

#: Where EDM's grids begin, and Karras' of schedules that begin in pure noise.
SIGMA_MAX = 80.0
#: Of a grid as JSON.
SHAPE = {"times": [float], "objective": str, "cost": (float, None)}


@dataclass(frozen=True)
class Grid:
    """Times in visiting order.

    Attributes:
        times: K + 1 floats, strictly decreasing, within [0, 1], ending in 0.
        objective: the name of what the grid serves.
        cost: its predicted value in nats per dimension, NaN when the grid minimises nothing.

    >>> Grid((1.0, 0.5, 0.0)).steps
    2
    """

    times: tuple[float, ...]
    objective: str = "explicit"
    cost: float = math.nan

    def __post_init__(self) -> None:
        t = numbers("the times of a grid", self.times)
        if t.ndim != 1 or len(t) < 2:
            raise InputError(f"a grid needs at least two times, got {self.times}")
        if t.max() > 1.0:
            raise InputError(
                f"grid times are at most 1, got {t.max():.6g}; whole steps n of a table of N are the times n / N"
                " (of indices counted from 0, (n + 1) / N)"
            )
        if not (np.all(np.diff(t) < 0) and t[0] <= 1.0):  # NaN fails too
            raise InputError("grid times must strictly decrease from at most 1 (visiting order); sort them and drop duplicates")
        if t[-1] != 0.0:
            raise InputError(f"a grid ends in the data, time 0, but this one ends at {t[-1]:.6g}; append 0")
        object.__setattr__(self, "times", tuple(t.tolist()))

    @property
    def steps(self) -> int:
        """K, the number of network calls."""
        return len(self.times) - 1

    def levels(self, schedule: Schedule) -> list[Level]:
        """The grid's noise levels, vectorised."""
        return schedule.levels_of_grid(self.times)

    def begun(self, t: float) -> Grid:
        """The grid that begins at t: t, then its times below. `schedule.time(log_snr)` is the time of a level.

        >>> Grid((1.0, 0.5, 0.1, 0.0)).begun(0.3).times
        (0.3, 0.1, 0.0)
        """
        t = number(above=0, most=1)("the time where a grid begins", t)
        if t == self.times[0]:
            return self
        return Grid((t, *(s for s in self.times if s < t)), f"{self.objective}, from t = {t:.6g}")

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        write_json(path, "grid", self.content())

    def content(self) -> dict[str, Any]:
        """The grid as JSON has it."""
        return plain(asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Grid:
        """Read what `save` wrote.

        Raises:
            MissingFileError: no such file.
            InputError: not a grid file.
        """
        return cls.of_content(read_json(path, "grid", SHAPE, "write it with Grid.save"), path)

    @classmethod
    def of_content(cls, content: Mapping[str, Any], path: str | Path) -> Grid:
        """The grid of a `content` that was read from `path`."""
        with reading(path, "write it with Grid.save"):
            return cls(tuple(content["times"]), content["objective"], math.nan if content["cost"] is None else content["cost"])


def _steps(steps: int) -> int:
    return whole(1)("steps", steps)


def _span(first: float, top: float) -> tuple[float, float]:
    """(top, first)."""
    top = number(above=0, most=1)("the time where a grid begins", top)
    return top, number(above=0, below=top)("the first time t_1", first)


def _log_snrs(schedule: Schedule, first: float, top: float, blank: float = BLANK) -> tuple[float, float]:
    """Log-SNR at `top` and at `first`; `blank`, where nothing is told yet, in place of pure noise, of which none is a part."""
    begin, end = (schedule.log_snr(t) for t in _span(first, top))
    return (min(blank, end - 1.0) if begin == -np.inf else begin), end


def _ends_in_data(times: Array, top: float, objective: str) -> Grid:
    # With one step there is only the start.
    return Grid((*np.concatenate([[top], times[1:]]).tolist(), 0.0), objective)


def even(steps: int, first: float, top: float = 1.0) -> Grid:
    """Times even in t from `top` down to t_1 = `first`, then 0.

    >>> even(3, 0.1).times
    (1.0, 0.55, 0.1, 0.0)
    """
    begin, end = _span(first, top)
    return _ends_in_data(np.linspace(begin, end, _steps(steps)), top, "even in t")


def quadratic(steps: int, first: float, top: float = 1.0) -> Grid:
    """sqrt(t) even from sqrt(top) down to sqrt(first), then 0 (DDIM's quadratic grid, without its duplicates).

    >>> quadratic(3, 0.01).times
    (1.0, 0.3025, 0.01, 0.0)
    """
    begin, end = np.sqrt(_span(first, top))
    roots = np.linspace(begin, end, _steps(steps))
    return _ends_in_data(roots**2, top, "even in sqrt(t)")


def even_log_snr(schedule: Schedule, steps: int, first: float, top: float = 1.0) -> Grid:
    """Log-SNR even from that of t = `top` to that of t = `first`, then 0.

    >>> even_log_snr(model.schedule, 3, 0.001).times
    (1.0, 0.3046, 0.001, 0.0)
    """
    lam = np.linspace(*_log_snrs(schedule, first, top), _steps(steps))
    return _ends_in_data(np.asarray(schedule.time(lam)), top, "even in log-SNR")


def karras(schedule: Schedule, steps: int, first: float, rho: float = 7.0, top: float = 1.0) -> Grid:
    """(sigma/alpha)^(1/rho) even from t = `top` down to t = `first`, then 0 (Karras et al., NeurIPS 2022, eq. 5).

    >>> karras(model.schedule, 3, 0.001).times
    (1.0, 0.5921, 0.001, 0.0)
    """
    rho = number(above=0)("rho", rho)
    ends = np.exp(-0.5 / rho * np.array(_log_snrs(schedule, first, top, -2.0 * math.log(SIGMA_MAX))))
    ladder = np.linspace(ends[0], ends[1], _steps(steps))
    return _ends_in_data(np.asarray(schedule.time(-2.0 * rho * np.log(ladder))), top, f"Karras, rho={rho:g}")


def ends_at_last(n: int) -> Float64[Array, " n"]:
    """The cost of ending at each of n lattice points where t = 1, the last, is the only one allowed."""
    return np.append(np.full(n - 1, np.inf), 0.0)


def optimal_paths(
    cost: ArrayLike, first_cost: ArrayLike, max_steps: int, top_cost: ArrayLike | None = None
) -> tuple[list[NDArray[np.int64]], Float64[Array, " {max_steps}"]]:
    """Shortest K-step paths through N lattice points for all K <= max_steps, by the plain O(K N^2) recursion.

        D_1[j] = first_cost[j],   D_K[j] = min_{i < j} D_{K-1}[i] + cost[i, j]

    The path ends at j = N - 1, or where D_K[j] + top_cost[j] is least.

    Args:
        cost: (N, N), cost[i, j] of the step from point j down to i < j; other entries are ignored.
        first_cost: (N,), cost of the final step from point j to the data (inf forbids j as first time).
        max_steps: largest K.
        top_cost: (N,), cost of ending at each point (inf forbids it as the end); None for N - 1 alone, at no cost.

    Returns:
        (paths, costs): paths[K - 1] holds K ascending lattice indices that end in N - 1, or anywhere; costs is (max_steps,),
        inf (with an empty path) where no path exists.

    >>> inf = np.inf
    >>> optimal_paths([[inf, 1.0, 5.0], [inf, inf, 1.0], [inf, inf, inf]], first_cost=[0.0, 3.0, 9.0], max_steps=3)
    ([array([2]), array([1, 2]), array([0, 1, 2])], array([9., 4., 2.]))
    """
    c = np.array(cost, dtype=np.float64)
    best = np.array(first_cost, dtype=np.float64)
    n = len(best)
    if c.shape != (n, n):
        raise InputError(f"cost must be ({n}, {n}) to match first_cost, got {c.shape}")
    if not 1 <= max_steps <= n:
        raise InputError(f"{max_steps} steps need at least as many lattice points, got {n}; use a finer lattice")
    top = ends_at_last(n) if top_cost is None else as_array(top_cost)
    c[np.tril_indices(n)] = np.inf
    into = np.ascontiguousarray(c.T)  # row j holds the steps from j: its minimum is one sweep of memory
    parents = np.zeros((max_steps, n), dtype=np.int64)
    costs = np.full(max_steps, np.inf)
    ends = np.zeros(max_steps, dtype=np.int64)
    for k in range(max_steps):
        if k > 0:
            parents[k], best = _closest(best, into)
        ends[k] = (best + top).argmin()
        costs[k] = (best + top)[ends[k]]
    paths = []
    for k in range(max_steps):
        path = [int(ends[k])]
        for row in range(k, 0, -1):
            path.append(int(parents[row, path[-1]]))
        paths.append(np.array(path[::-1] if np.isfinite(costs[k]) else [], dtype=np.int64))
    return paths, costs


def _closest(best: Array, into: Array, rows: int = 64) -> tuple[NDArray[np.int64], Array]:
    """(argmin, min) over i < j of best[i] + into[j, i], a block of rows at a time: only its lower triangle is read."""
    n = len(best)
    parents, totals = np.zeros(n, dtype=np.int64), np.empty(n)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        block = into[start:stop, :stop] + best[:stop]
        parents[start:stop] = block.argmin(1)
        totals[start:stop] = block[np.arange(stop - start), parents[start:stop]]
    return parents, totals
