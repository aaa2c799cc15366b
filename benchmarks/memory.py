"""What a data set larger than memory costs: examples read, passes, peak of memory beyond the start, seconds.

  python -m benchmarks.memory [--gigabytes 5] [--size 256] [--tasks NAME ..] [--output FILE.md]

The data are made by index and never held: uint8 pictures (3, size, size), so many that they take the gigabytes as float32. The
network is a multiplication, so that what remains is what the package itself holds. Every task runs in a process of its own;
memory is the peak of its resident set less what it was before the task began. A pass is as many readings as there are examples.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from score_sde_analytic import Budget, DataRange, LinearVP, LogSNR, ScoreModel, analyse, bits_per_dim
from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.data import DataStatistics
from score_sde_analytic.grids import even
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.measure import estimate
from score_sde_analytic.process import GaussianDecoder
from score_sde_analytic.report.tables import markdown

#: Of a pixel.
VARIANCE = 0.26
RANGE = DataRange(levels=256)
#: Examples of the tasks that measure on a few.
FEW = 64
QUIET = {"progress": False}


class Pictures(Dataset[Any]):
    """Smooth random pictures by index, and how often one was read."""

    def __init__(self, count: int, size: int, channels: int = 3) -> None:
        self.count = count
        self.size = size
        self.channels = channels
        self.read = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.read += 1
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 224, (self.channels, self.size // 8, self.size // 8), dtype=np.uint8)
        return coarse.repeat(8, 1).repeat(8, 2) + rng.integers(0, 32, (self.channels, self.size, self.size), dtype=np.uint8)


def linear(x: Tensor, log_snr: Tensor) -> Tensor:
    """x_0 of a variance-preserving x, as a Gaussian of the pictures' variance has it."""
    alpha2, sigma2 = (torch.sigmoid(sign * log_snr)[:, None, None, None] for sign in (1, -1))
    return alpha2.sqrt() * VARIANCE / (alpha2 * VARIANCE + sigma2) * x


def model() -> ScoreModel:
    return ScoreModel(linear, LinearVP(), "x_0", LogSNR(), coordinates="vp", fingerprint="linear")


def chain() -> Chain:
    return Chain(even(5, 1e-3), BetaTilde(), GaussianDecoder(0.02))


def _estimate(data: Pictures, **options: Any) -> None:
    budget = Budget(min_draws=FEW, max_draws=FEW, batch_size=FEW)
    estimate(model(), data, [-4.0, 0.0, 4.0], budget, data_range=RANGE, **options, **QUIET)


def _bits(data: Pictures, **options: Any) -> None:
    bits_per_dim(model(), Subset(data, range(FEW)), chain(), RANGE, **options, **QUIET)


def _analyse(data: Pictures, **options: Any) -> None:
    budget = Budget(min_draws=FEW, max_draws=FEW, batch_size=16)
    analyse(model(), data, RANGE, budget=budget, **options, **QUIET)


def _known(task: Callable[..., None], data: Pictures, part: Callable[[Pictures], Any]) -> None:
    """A task with the statistics given: they come from the first examples, standing for a file that was kept."""
    some = DataStatistics.of(part(data), RANGE, max_eigen=0, batch_bytes=1 << 20)
    data.read = 0
    task(data, statistics=some)


TASKS: dict[str, Callable[[Pictures], Any]] = {
    "statistics": lambda data: DataStatistics.of(data, RANGE),
    "estimate, 64 draws": _estimate,
    "estimate, 64 draws, statistics given": lambda data: _known(_estimate, data, lambda d: Subset(d, range(FEW))),
    "bits of 64 examples": _bits,
    "bits of 64 examples, statistics given": lambda data: _known(_bits, data, lambda d: Subset(d, range(FEW))),
    "analyse, nothing recorded": partial(_analyse, record=()),
    "analyse, statistics given": lambda data: _known(partial(_analyse, record=()), data, lambda d: Subset(d, range(FEW))),
}


def resident() -> float:
    """Bytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(name: str, count: int, size: int) -> dict[str, float]:
    """One task, here and now."""
    data = Pictures(count, size)
    TASKS[name](Pictures(80, 16))  # what is imported and compiled on first use
    before, start = resident(), time.perf_counter()
    TASKS[name](data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"read": data.read, "bytes": max(peak - before, 0.0), "seconds": time.perf_counter() - start}


def alone(name: str, count: int, size: int) -> dict[str, float]:
    """One task in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--alone", name, str(count), str(size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        name, count, size = args.alone
        print(json.dumps(measure(name, int(count), int(size))))
        return
    count = round(args.gigabytes * 1e9 / (4 * 3 * args.size**2))
    rows = []
    for name in args.tasks:
        cost = alone(name, count, args.size)
        rows.append(
            [name, int(cost["read"]), f"{cost['read'] / count:.3f}", f"{cost['bytes'] / 1e9:.2f}", f"{cost['seconds']:.0f}"]
        )
    text = markdown([f"of {count} examples", "read", "passes", "GB beyond the start", "seconds"], rows)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
