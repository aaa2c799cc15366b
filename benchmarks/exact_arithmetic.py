"""What exact arithmetic costs: time, differences of x_0, and bits/dim at the same draws, for the shipped networks.

    python benchmarks/exact_arithmetic.py [--configs digits_vp patches emoji] [--examples 100] [--steps 10]

Times are processor time of one thread for a batch of 64, the best of several. The chain is DDPM's on a grid even in log-SNR
up to 6, its decoder a Gaussian of std 0.05: no optimum, but the same one for both.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from score_sde_analytic.runners import datasets, networks

from score_sde_analytic.coding import exact_model
from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.data import DataRange
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.uncertainty import Estimate

LEVELS = (-6.0, 0.0, 5.0)
BATCH = 64


def seconds(model: Any, x_t: torch.Tensor, level: Any, repetitions: int = 4) -> float:
    """Of one prediction, the best of several."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        model.predict(x_t, level)
        times.append(time.process_time() - start)
    return min(times)


@torch.no_grad()
def compared(name: str, examples: int, steps: int) -> list[str]:
    """A row of the table."""
    config = importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()
    data = as_dataset(datasets.splits(config).validation)
    plain = networks.model(config, Path(), torch.device("cpu"))
    exact = exact_model(plain)
    batch = data.batch(range(BATCH))
    pair = plain.for_batch(batch.conditions), exact.for_batch(batch.conditions)
    ratios, errors = [], []
    for log_snr in LEVELS:
        level = plain.schedule.level_at(log_snr)
        noise = torch.randn(batch.x_0.shape, generator=torch.Generator().manual_seed(0))
        x_t = level.diffuse(batch.x_0, noise)
        taken = [seconds(one, x_t, level) for one in pair]
        ratios.append(taken[1] / taken[0])
        errors.append(pair[1].predict(x_t, level).x_0 - pair[0].predict(x_t, level).x_0)
    off = torch.stack(errors).double()
    chain = Chain(even_log_snr(plain.schedule, steps, float(plain.schedule.time(6.0))), BetaTilde(), decoder=0.05)
    part = torch.utils.data.Subset(data, range(examples))
    ranged = DataRange(-1.0, 1.0, levels=config.data.levels)
    bits = [bits_per_dim(one, part, chain, ranged, progress=False, batch_size=BATCH).per_example for one in (plain, exact)]
    gap = Estimate.of(bits[1] - bits[0])
    times = " / ".join(f"{ratio:.1f}" for ratio in ratios)
    size = f"{off.square().mean().sqrt():.1e} / {off.abs().max():.1e}"
    return [
        name,
        times,
        size,
        f"{bits[0].mean():.6f}",
        f"{gap.value:+.1e} ± {gap.stderr:.0e}",
        f"{gap.value / bits[0].mean():+.1e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["digits_vp", "patches", "emoji"])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    header = ["network", "time, exact / float32", "x_0 off, rms / most", "bits/dim, float32", "exact less float32", "relative"]
    print(markdown(header, [compared(name, options.examples, options.steps) for name in options.configs]))


if __name__ == "__main__":
    main()
