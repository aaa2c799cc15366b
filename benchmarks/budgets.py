"""What fewer network evaluations cost: passes for different answers, beside a long one on the same data.

  python -m benchmarks.budgets [--configs digits_vp patches emoji] [--output FILE.md]

Each pass prices bits/dim at K = 5, 10 and 25 with its own grids, all on the validation split: what differs is how often the
network is asked. The excess of a grid is that over the limit of many steps, priced by the long pass; "added" is by how much it
is higher for a pass's own optimal grid.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import warnings
from pathlib import Path

from score_sde_analytic.runners import build
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.likelihood import Chain
from score_sde_analytic.likelihood.priced import expected_nats
from score_sde_analytic.measure import Budget, reached
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.study import Study
from score_sde_analytic.study.analysis import CHEAP, analyse

STEPS = (5, 10, 25)
LONG = Budget(tolerance=0.0, min_draws=2000, max_draws=2000)
PASSES = {
    "every variance to 1 %": Budget(max_draws=2000),
    "bits to 0.02": Budget(answer="bits", tolerance=0.02, min_draws=100, max_draws=2000),
    "bits to 0.05 (default)": CHEAP,
    "grids to 5 %": Budget(answer="grid", tolerance=0.05, min_draws=100, max_draws=1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["digits_vp", "patches", "emoji"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    text = "\n\n".join(f"### {name}\n\n{table(name)}" for name in options.configs)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def table(name: str) -> str:
    """One row per pass."""
    config = importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(config, Path(folder))
        long = measured(experiment, LONG)
        rows = [row("long", long, long)]
        rows += [row(label, measured(experiment, budget), long) for label, budget in PASSES.items()]
    steps = [f"K = {k}" for k in STEPS]
    return markdown(["pass", "evaluations", *steps, "added to the excess, K = 10", "the pass says"], rows)


def measured(experiment: Experiment, budget: Budget) -> Study:
    """A study of the validation split within a budget."""
    splits = experiment.splits
    return analyse(
        experiment.model,
        splits.validation,
        splits.data_range,
        record=(),
        train=splits.train,
        settings=build.study_settings(experiment.config),
        budget=budget,
        progress=False,
    )


def row(label: str, study: Study, long: Study) -> list[str]:
    """Of one pass: its prices, and its grid at the long pass's prices."""
    bits = [str(study.bits(k)[k].total) for k in STEPS]
    return [label, f"{study.moments.evaluations:,}", *bits, f"{added(study, long):.1%}", reached(study.moments)]


def added(study: Study, long: Study, steps: int = 10) -> float:
    """Excess of the pass's own grid over that of the long pass's, as a share of the latter."""

    def nats(grid_of: Study) -> float:
        grid = grid_of.grid(steps)
        chain = Chain(grid, long.covariance("isotropic"), long.decoder(grid.times[-2]))
        return float(expected_nats(long.moments, long.schedule, chain, statistics=long.statistics))

    best, own = nats(long), nats(study)
    limit = float(expected_nats(long.moments, long.schedule, long.continuous(), statistics=long.statistics))
    return (own - best) / (best - limit)


if __name__ == "__main__":
    main()
