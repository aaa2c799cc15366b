"""Time and memory of optimal grids: the plain O(K N^2) recursion, all K by `monge_paths`, one K by `monge_path`.

  python benchmarks/grids.py [--output FILE.md]

The curve is that of the 16-d mixture of the tests, R of its exact posterior at 40 knots; lattices are even in log-SNR on
[-10, 9]; the last step costs 1/2 log R - lam/2, that of the best Gaussian decoder up to a constant. Each row runs in a
process of its own, in one thread. Times are medians over repeats after a small problem has loaded or compiled the kernels.
Ours include everything from the curve's values to the paths; the plain recursion's exclude its cost matrix, and its buffers
are allocated once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
os.environ.update(THREADS)  # before numpy

import numpy as np  # noqa: E402

from score_sde_analytic.arrays import Array  # noqa: E402
from score_sde_analytic.grids.dynamic import StepCosts, monge_path, monge_paths  # noqa: E402
from score_sde_analytic.measure.curve import NoiseCurve  # noqa: E402
from score_sde_analytic.models.mixture import GaussianMixture  # noqa: E402
from score_sde_analytic.process.level import Level  # noqa: E402

KNOTS = np.linspace(-10.0, 9.0, 40)
# (title, kind, points, steps, repeats)
ROWS = [
    ("imports alone", "nothing", 10, 1, 1),
    ("plain recursion, all K <= 1000", "plain", 1_000, 1_000, 5),
    ("ours, all K <= 1000", "all", 1_000, 1_000, 15),
    ("ours, all K <= 1000", "all", 10_000, 1_000, 5),
    ("ours, K = 50 alone", "one", 10_000, 50, 15),
    ("ours, K = 50 alone", "one", 100_000, 50, 5),
    ("ours, K = 50 alone", "one", 1_000_000, 50, 3),
]


def measured_curve() -> NoiseCurve:
    """The 16-d mixture's R at the knots, variance preserving."""
    mixture = GaussianMixture(np.ones(8), 0.6 * np.random.default_rng(0).normal(size=(8, 16)), np.geomspace(0.5, 0.002, 16))
    levels = [Level(0.0, (1 + np.exp(-lam)) ** -0.5, (1 + np.exp(lam)) ** -0.5, lam) for lam in KNOTS.tolist()]
    values = np.array([mixture.residual(level) for level in levels])
    return NoiseCurve.from_residual(KNOTS, values[:, 0], values[:, 1])


def problem(curve: NoiseCurve, points: int) -> tuple[StepCosts, Array]:
    """Costs and first costs of an even lattice."""
    lam = np.linspace(KNOTS[-1], KNOTS[0], points)
    r = curve.residual(lam)
    return StepCosts(lam, r), 0.5 * np.log(r) - 0.5 * lam


def plain_solver(costs: StepCosts, first: Array, max_steps: int) -> Callable[[], float]:
    """The recursion over whole matrices; argmin along contiguous rows."""
    n, arrivals = len(costs), np.ascontiguousarray(costs.matrix().T)
    total, parents, every = np.empty((n, n)), np.empty((max_steps, n), dtype=np.int64), np.arange(n)

    def solve() -> float:
        best = first
        for k in range(1, max_steps):
            np.add(best, arrivals, out=total)
            np.argmin(total, axis=1, out=parents[k])
            best = total[every, parents[k]]
            values[k] = best[-1]
        paths = []
        for k in range(max_steps):
            path = [n - 1]
            for row in range(k, 0, -1):
                path.append(int(parents[row, path[-1]]))
            paths.append(path[::-1])
        return float(values[1:].sum())

    values = np.full(max_steps, first[-1])
    return solve


def solver(kind: str, costs: StepCosts, first: Array, steps: int) -> Callable[[], float]:
    """What a row times; it returns the objective, or the sum of the objectives of K = 2 .. steps."""
    if kind == "plain":
        return plain_solver(costs, first, steps)
    if kind == "all":
        return lambda: float(monge_paths(costs, first, steps)[1][1:].sum())
    if kind == "one":
        return lambda: monge_path(costs, first, steps)[1]
    return lambda: 0.0


def timed(kind: str, curve: NoiseCurve, points: int, steps: int, repeats: int) -> dict[str, float]:
    """Median seconds, peak memory of this process in MB, and the objective."""
    if kind in ("all", "one"):
        solver(kind, *problem(curve, 50), 5)()
    solve = solver(kind, *problem(curve, points), steps)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        objective = solve()
        seconds.append(time.perf_counter() - start)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"seconds": statistics.median(seconds), "peak": peak, "objective": objective}


def in_new_process(curve_file: Path, kind: str, points: int, steps: int, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--row", json.dumps([str(curve_file), kind, points, steps, repeats])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | THREADS)
    return json.loads(done.stdout)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, and another of what follows from it."""
    plain = next(row for row in rows if row["kind"] == "plain")
    same = next(row for row in rows if row["kind"] == "all" and row["points"] == plain["points"])
    lines = [
        "| what | lattice points N | seconds | speed-up over plain | peak memory of the process, MB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row["kind"] == "nothing":
            cells = ("-", "-", "-")
        else:
            ratio = f"{plain['seconds'] / row['seconds']:.0f}" if row is same else "-"
            cells = (f"{row['points']:,}", f"{row['seconds']:.3g}", ratio)
        lines.append(f"| {row['title']} | {' | '.join(cells)} | {row['peak']:.0f} |")
    single = [row for row in rows if row["kind"] == "one"]
    exponent = np.polyfit(np.log([r["points"] for r in single]), np.log([r["seconds"] for r in single]), 1)[0]
    difference = abs(same["objective"] / plain["objective"] - 1)
    follows = ["| exponent of N in the time of one K | plain and ours differ, of the objectives |", "|---|---|"]
    follows.append(f"| {exponent:.2f} | {difference:.1g} |")
    return "\n".join([*lines, "", *follows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row is not None:
        curve_file, *row = json.loads(args.row)
        kind, points, steps, repeats = row
        print(json.dumps(timed(kind, NoiseCurve.load(curve_file), points, steps, repeats)))
        return
    with tempfile.TemporaryDirectory() as folder:
        curve_file = Path(folder) / "curve.safetensors"
        measured_curve().save(curve_file)
        rows = []
        for title, kind, points, steps, repeats in ROWS:
            result = in_new_process(curve_file, kind, points, steps, repeats)
            rows.append({"title": title, "kind": kind, "points": points, **result})
    text = markdown(rows)
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
