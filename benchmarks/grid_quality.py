"""How good the closed form and the refinement are: excess over the continuous limit against dynamic programming on 10^6 levels.

    python benchmarks/grid_quality.py [--moments results/full/moments.safetensors] [--output FILE.md]

The curve is R of the 16-d mixture's exact posterior, or that of saved moments; levels from log-SNR -10 to 9, both ends fixed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from score_sde_analytic.files import write_text
from score_sde_analytic.grids.dynamic import StepCosts, monge_path
from score_sde_analytic.grids.optimal import Objective, closed_form, refined
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import CosineVP

LOW, HIGH, POINTS = -10.0, 9.0, 1_000_000


def mixture_curve() -> NoiseCurve:
    """R of the exact posterior at 40 levels, 4,000 states each."""
    means = 0.6 * np.random.default_rng(0).normal(size=(8, 16))
    mixture, schedule = GaussianMixture(np.ones(8), means, np.geomspace(0.5, 0.002, 16)), CosineVP()
    lam = np.linspace(LOW, HIGH, 40)
    return NoiseCurve.from_residual(lam, [mixture.residual(schedule.level_at(float(v)), 4000)[0] for v in lam])


def table(curve: NoiseCurve) -> str:
    """Excess in nats per dimension of each grid, K = 5 .. 100."""
    objective, schedule = Objective(curve, LOW, HIGH), CosineVP(log_snr_min=LOW)
    lam = np.linspace(HIGH, LOW, POINTS)
    costs, first = StepCosts(lam, np.asarray(curve.residual(lam))), np.where(np.arange(POINTS) == 0, 0.0, np.inf)
    lines = [
        f"| K | dp, N = {POINTS:,} | refined | refined / dp | closed form | closed form / dp | law |",
        "|---|---|---|---|---|---|---|",
    ]
    for steps in (5, 10, 20, 50, 100):
        limit = objective.continuous_limit
        best = monge_path(costs, first, steps)[1] - limit
        fine = refined(schedule, objective, steps).cost - limit
        closed = closed_form(schedule, objective, steps).cost - limit
        law = objective.excess_law(steps)
        lines.append(
            f"| {steps} | {best:.6f} | {fine:.6f} | {fine / best:.5f} | {closed:.6f} | {closed / best:.4f} | {law:.6f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", help="saved moments whose curve to use instead of the mixture's")
    parser.add_argument("--output", type=Path, help="also write the table here")
    args = parser.parse_args()
    text = table(NoiseCurve.fit(Moments.load(args.moments)) if args.moments else mixture_curve())
    print(text)
    if args.output:
        write_text(args.output, text + "\n")


if __name__ == "__main__":
    main()
