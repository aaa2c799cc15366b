"""Settings of the probability-flow likelihood on held-out digits: what each costs and how far it lies from a tight solve.

  python benchmarks/likelihoods.py [--examples 40] [--workdir results/digits_vp] [--output FILE.md]

Reads the moments that `python -m runners.main` left in the workdir, or measures them. All rows see the same examples and noise;
milliseconds are those of the processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from score_sde_analytic.configs.digits_vp import get_config
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.files import write_text
from score_sde_analytic.likelihood import (
    Adaptive,
    Bound,
    ContinuousTime,
    Diffused,
    ExactTrace,
    Fixed,
    Flow,
    Hutchinson,
    Method,
    Uniform,
    bits_per_dim,
)
from score_sde_analytic.process.decoder import CategoricalDecoder
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.uncertainty import Estimate

REFERENCE = "dopri5, 1e-6"


def methods(experiment: Experiment) -> dict[str, Method]:
    """Rows of the table: one setting changed at a time."""
    t_1, decoder = experiment.study.first()
    entry, one, four = Diffused(decoder), Hutchinson(), Hutchinson(4)
    at = {lam: float(experiment.schedule.time(lam)) for lam in (5.0, 7.0)}
    return {
        REFERENCE: Flow(t_1, entry, one, Adaptive(1e-6, 1e-6)),
        "dopri5, 1e-4": Flow(t_1, entry, one, Adaptive(1e-4, 1e-4)),
        "dopri5, 1e-3": Flow(t_1, entry, one, Adaptive(1e-3, 1e-3)),
        "dopri5, 1e-4, in t": Flow(t_1, entry, one, Adaptive(1e-4, 1e-4), variable="t"),
        "rk4, 10 steps": Flow(t_1, entry, one, Fixed(10)),
        "midpoint, 20 steps": Flow(t_1, entry, one, Fixed(20, "midpoint")),
        "4 probes": Flow(t_1, entry, four, Adaptive(1e-4, 1e-4)),
        "1 gaussian probe": Flow(t_1, entry, Hutchinson(1, "gaussian"), Adaptive(1e-4, 1e-4)),
        "exact trace, rk4, 10 steps": Flow(t_1, entry, ExactTrace(), Fixed(10)),
        "... 4 importance samples": Flow(t_1, entry, ExactTrace(), Fixed(10), importance_samples=4),
        "uniform dequantisation, log-SNR 5": Flow(at[5.0], Uniform(), one, Adaptive(1e-4, 1e-4)),
        "uniform dequantisation, log-SNR 7": Flow(at[7.0], Uniform(), one, Adaptive(1e-4, 1e-4)),
        "continuous-time bound": ContinuousTime(t_1, decoder, 16, experiment.study.curves["residual"]),
        "... times uniform in log-SNR": ContinuousTime(t_1, decoder, 16),
        "... categorical decoder, log-SNR 7": ContinuousTime(
            at[7.0], CategoricalDecoder(), 16, experiment.study.curves["residual"]
        ),
    }


def row(name: str, bound: Bound, reference: Bound, seconds: float) -> list[str]:
    difference = Estimate.of(bound.per_example - reference.per_example)
    n = len(bound.per_example)
    return [
        name,
        f"{bound.total:.3f}",
        "-" if bound is reference else f"{difference:+.4f}",
        f"{bound.calls_per_example:.0f}",
        f"{bound.vector_products / n:.0f}",
        f"{1000 * seconds / n:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--workdir", type=Path, default=Path("results/digits_vp"))
    parser.add_argument("--output", type=Path, help="also write the table here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")
    args.workdir.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(get_config(), args.workdir)
    x, declared = experiment.splits.test[: args.examples], experiment.splits.data_range
    found, rows = {}, []
    for name, method in methods(experiment).items():
        start = time.process_time()
        found[name] = bits_per_dim(experiment.model, x, method, declared, seed=1, device=experiment.device)
        rows.append(row(name, found[name], found[REFERENCE], time.process_time() - start))
    header = ["setting", "bits/dim", f"minus {REFERENCE}, paired", "network calls", "vector products", "ms per example"]
    text = markdown(header, rows)
    print(text)
    if args.output:
        write_text(args.output, text + "\n")


if __name__ == "__main__":
    main()
