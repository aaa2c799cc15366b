"""Every public solver at its best grid and first time, chosen on the metric itself, against network calls.

  python benchmarks/peers.py [--config digits_vp] [--calls 3 5 10] [--samples 500] [--solvers unipc_2_bh1 ..] [--workdir FOLDER]

All cells begin with the same noise; the table gives, besides the values, paired differences to the best of each K with their
standard errors, calls needed for its quality, and the row K = 0, the free model alone. What was measured is kept in the folder.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch
from score_sde_analytic.runners.compare import examples
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.compare import SOLVERS, ComparisonSettings, compare

#: log-SNRs of first times that are tried.
FIRSTS = (2.0, 4.0, 6.0, 7.5, 9.0, 10.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits_vp", help="module of configs/")
    parser.add_argument("--calls", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--samples", type=int, default=500)
    multistep = [name for name, entry in SOLVERS.items() if entry.family == "multistep" and not name.startswith("analytic")]
    parser.add_argument("--solvers", nargs="+", default=["ddim", *multistep])
    parser.add_argument("--firsts", type=float, nargs="+", default=FIRSTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("results/peers"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment(importlib.import_module(f"score_sde_analytic.configs.{args.config}").get_config(), args.workdir)
    settings = ComparisonSettings(
        solvers=tuple(args.solvers),
        calls=tuple(args.calls),
        grids=("log_snr",),
        search=tuple(args.firsts),
        count=args.samples,
        seed=args.seed,
        bits="none",
        paths=0,
    )
    compare(experiment.study, examples(experiment), settings, args.workdir / "compare")
    print((args.workdir / "compare" / "compare.md").read_text())


if __name__ == "__main__":
    main()
