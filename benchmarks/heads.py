"""Heads on held-out digits beside diagonals in fixed coordinates: bits/dim of their chains, and what NPR saves, paired.

  python -m benchmarks.heads [--grids log_snr refined] [--others "NAME=FOLDER/KIND" ..] [--workdir DIR] [--output FILE.md]

The heads are those shipped with the network; `--others` are more of them, in folders that `--mode=train_head` wrote. All chains
see the same images and noise. The last table is what a call of a head costs beside one of the network: medians of paired times
of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from score_sde_analytic.configs.digits_vp import get_config
from score_sde_analytic.runners.evaluate import measure
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.covariance import Covariance, load_head
from score_sde_analytic.covariance.head_networks import Head
from score_sde_analytic.covariance.heads import covariance_of
from score_sde_analytic.files import write_text
from score_sde_analytic.likelihood import Bound
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.uncertainty import Estimate

STEPS = (5, 10, 25)
FIXED = ("residual", "pixel", "pca")
KINDS = ("npr", "ocm", "sn", "interpolated")
NAMES = (*FIXED, *KINDS, *(f"{kind}|uncalibrated" for kind in KINDS))
BEST = "npr"
BATCH = 64

Bounds = Mapping[str, Sequence[Bound]]


def bounds(experiment: Experiment, grid: str, others: Mapping[str, Covariance]) -> Bounds:
    """Of every covariance on a grid, one per number of steps."""
    chains = {(name, k): experiment.study.chain(k, grid, name) for name in NAMES for k in STEPS}
    chains |= {(name, k): replace(chains[BEST, k], covariance=other) for name, other in others.items() for k in STEPS}
    found = measure(experiment, {f"{grid}/{name}/{k}": chain for (name, k), chain in chains.items()})
    return {name.replace("|", ", "): [found[f"{grid}/{name}/{k}"] for k in STEPS] for name in (*NAMES, *others)}


def totals(found: Bounds) -> str:
    """Bits/dim, a column per number of steps."""
    rows = [[name, *(f"{bound.total:.3f}" for bound in of)] for name, of in found.items()]
    return markdown(["variance", *(f"K = {k}" for k in STEPS)], rows)


def saved(found: Bounds) -> str:
    """By how many bits/dim NPR is below each."""
    rows = []
    for name, of in found.items():
        gaps = (Estimate.of(other.per_example - own.per_example) for other, own in zip(of, found[BEST], strict=True))
        rows.append([name, *(f"{gap:+.3f}" for gap in gaps)])
    return markdown(["NPR saves, against", *(f"K = {k}" for k in STEPS)], [row for row in rows if row[0] != BEST])


def cost(experiment: Experiment, repeats: int = 50) -> str:
    """A call of the head, with the network's features at hand, beside one of the network."""
    model, head = experiment.model, experiment.study.covariance(BEST).head
    level = model.schedule.level_at(0.0)
    x = torch.randn(BATCH, *experiment.test.shape[1:], generator=torch.Generator().manual_seed(0))
    seconds = np.zeros((repeats, 2))
    with torch.no_grad():
        for i in range(repeats):
            start = time.process_time()
            prediction = model.predict(x, level)
            between = time.process_time()
            head.residual(prediction)
            seconds[i] = between - start, time.process_time() - between
    ratio = np.median(seconds[:, 1] / seconds[:, 0])
    return markdown(["batch", "a call of the head, of the network's"], [[BATCH, f"{ratio:.2f}"]])


def read(path: Path, experiment: Experiment) -> Head:
    """FOLDER/KIND."""
    return load_head(path.parent, path.name, experiment.model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", nargs="+", default=["log_snr", "refined"])
    parser.add_argument("--others", nargs="*", default=[], metavar="NAME=FOLDER/KIND", help="more heads")
    parser.add_argument("--workdir", type=Path, default=Path("results/heads_shipped"))
    parser.add_argument("--output", type=Path, help="also write the tables here")
    args = parser.parse_args()
    config = get_config()
    config.covariance.bases = ("pixel", "pca")
    experiment = Experiment(config, args.workdir, NAMES)
    named = (one.rpartition("=") for one in args.others)
    others = {name: covariance_of(read(Path(path), experiment)) for name, _, path in named}
    parts = []
    for grid in args.grids:
        found = bounds(experiment, grid, others)
        parts += [f"## Grid {grid}", totals(found), saved(found)]
    text = "\n\n".join([*parts, "## Cost", cost(experiment)])
    print(text)
    if args.output:
        write_text(args.output, text + "\n")


if __name__ == "__main__":
    main()
