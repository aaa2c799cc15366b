"""What the package itself costs as examples grow, from d = 64 to 256x256x3: memory beyond the network, time beside its calls.

  python -m benchmarks.scale [--shapes 1x8x8 .. 3x256x256] [--tasks NAME ..] [--call 0.1] [--output docs/results/scale]

Every task runs in a process of its own, on one thread. Its network is a multiplication that burns so many seconds of the
processor a call, by products of matrices that were counted off before. Memory is the peak of the resident set less what there
was before the task, and less what the network's calls alone take; own time is that of the processor outside the network and
outside what makes the pictures, in the measured part of the task, and its share is of the time inside the network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from benchmarks import memory
from benchmarks.memory import RANGE, linear, resident
from score_sde_analytic import Budget, LinearVP, LogSNR, ScoreModel, bits_per_dim, generate
from score_sde_analytic.covariance import BetaTilde, Covariance
from score_sde_analytic.data import PCA, ColourDCT, DataStatistics, Examples
from score_sde_analytic.data.bases import BASES
from score_sde_analytic.data.portions import portion
from score_sde_analytic.files import write_text
from score_sde_analytic.grids import even
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.measure import Moments, Recorder, estimate
from score_sde_analytic.models import LinearDenoiser
from score_sde_analytic.process import GaussianDecoder
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import Ancestral, TableSampler, gaussian_price, spectrum_table
from score_sde_analytic.study.names import CovarianceName
from score_sde_analytic.study.settings import Structure
from score_sde_analytic.study.structures import Structures, recorders

SHAPES = ("1x8x8", "3x32x32", "3x64x64", "3x128x128", "3x256x256")
#: Of data, and per network call.
EXAMPLES, BATCH, DRAWS = 1024, 8, 32
RANK, SAMPLES = 256, 16
#: Few knots and steps, for which an example is read and known before the first call; and as many as usual.
KNOTS, STEPS, USUAL = 8, 10, 50
#: Draws of each knot of a long pass.
LONG = 2000
QUIET = {"progress": False}


class Network:
    """x_0 of a Gaussian, for so many seconds of the processor a call."""

    def __init__(self) -> None:
        self.products = 0
        self.calls = 0
        self.seconds = 0.0
        self._matrix = torch.randn(256, 256) / 16

    def __call__(self, x: Tensor, log_snr: Tensor) -> Tensor:
        start = time.process_time()
        for _ in range(self.products):
            self._matrix @ self._matrix
        out = linear(x, log_snr)
        self.calls += 1
        self.seconds += time.process_time() - start
        return out

    def burn(self, seconds: float) -> None:
        """From now on, so long a call."""
        products = 200
        start = time.process_time()
        for _ in range(products):
            self._matrix @ self._matrix
        self.products = round(seconds * products / (time.process_time() - start))
        self.calls, self.seconds = 0, 0.0


class Pictures(memory.Pictures):
    """Those that know what they took to be made."""

    seconds = 0.0

    def __getitem__(self, index: int) -> np.ndarray:
        start = time.process_time()
        made = super().__getitem__(index)
        self.seconds += time.process_time() - start
        return made


@dataclass
class World:
    """Examples of a shape and a network for them."""

    shape: tuple[int, int, int]
    network: Network = field(default_factory=Network)

    @cached_property
    def pictures(self) -> Pictures:
        return Pictures(EXAMPLES, self.shape[1], self.shape[0])

    @cached_property
    def data(self) -> Examples:
        return Examples(self.pictures, RANGE)

    @cached_property
    def model(self) -> ScoreModel:
        return ScoreModel(self.network, LinearVP(), "x_0", LogSNR(), coordinates="vp", fingerprint="linear")

    @cached_property
    def few(self) -> DataStatistics:
        """Of some examples, standing for a file that was kept."""
        return DataStatistics.of(Subset(self.data, range(64)), RANGE, max_eigen=0)

    @property
    def rank(self) -> int:
        return min(RANK, self.shape[0] * self.shape[1] * self.shape[2])

    def basis(self, name: str) -> str:
        return {"dct": "colour_dct"}.get(name, name) if self.shape[0] > 1 else name

    @cached_property
    def components(self) -> PCA:
        """Some, standing for a file that was kept."""
        dim = self.few.mean.numel()
        random = torch.randn(dim, self.rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return PCA(torch.linalg.qr(random).Q.T.numpy())

    def recorders(self, *names: str) -> dict[str, Recorder]:
        if names == ("pca",):
            return {"pca": Recorder(self.components)}
        settings = Structure(statistics=("high_frequency",))
        return recorders([CovarianceName(self.basis(name)) for name in names], portion(self.data), settings)

    def moments(self, observers: dict[str, Recorder], knots: int = KNOTS) -> Moments:
        budget = Budget(min_draws=DRAWS, max_draws=DRAWS, batch_size=BATCH)
        data, levels = Subset(self.data, range(64)), np.linspace(-6.0, 6.0, knots)
        return estimate(self.model, data, levels, budget, data_range=RANGE, statistics=self.few, observers=observers, **QUIET)

    def structures(self, *names: str) -> Structures:
        observers = self.recorders(*names)
        return Structures(self.moments(observers), observers, Structure(statistics=("high_frequency",), bins=(1, 4)))

    def covariance(self, name: str) -> Covariance:
        base, _, given = name.partition("|")
        return self.structures(base).covariance(CovarianceName(self.basis(base), given))

    def samples(self, covariance: Covariance) -> Tensor:
        return generate(Ancestral(self.model, covariance), even(STEPS, 1e-3), self.shape, SAMPLES, batch_size=BATCH, **QUIET)

    def bits(self, covariance: Covariance, steps: int) -> Any:
        chain = Chain(even(steps, 1e-3), covariance, GaussianDecoder(0.02))
        data = Subset(self.data, range(SAMPLES))
        return bits_per_dim(self.model, data, chain, RANGE, batch_size=BATCH, **QUIET)


Work = Callable[[], object]
#: Of glibc: what is freed is used again, instead of being given back to the system and asked for anew at every step.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}


def _alone(world: World) -> Work:
    x = torch.randn(BATCH, *world.shape)
    return lambda: [world.network(x, torch.zeros(BATCH)) for _ in range(STEPS)]


def _estimate(*names: str, knots: int = KNOTS) -> Callable[[World], Work]:
    def begun(world: World) -> Work:
        observers = world.recorders(*names)
        world.moments(observers)  # the statistics and the labels of bases, once
        return lambda: world.moments(observers, knots)

    return begun


def _fit(name: str) -> Callable[[World], Work]:
    def begun(world: World) -> Work:
        structures = world.structures(name)
        return lambda: [structures.covariance(each).correction.table for each in structures.names]

    return begun


def _long_pass(world: World) -> Work:
    """What a recorder of cosines holds after a pass of the usual length, and its curves."""
    basis = BASES["dct"](world.data, None)
    labels = int(basis.labels(world.shape).max()) + 1
    observer = next(iter(world.recorders("dct").values()))
    rng = np.random.default_rng(0)
    sizes = np.ones(labels, dtype=np.int64)
    drawn = {"rms": rng.random((100, labels)).astype(np.float16), "sizes": sizes}

    def work() -> object:
        for start in range(0, LONG, 100):
            for knot in range(USUAL):
                phi = rng.normal(size=(100, 1)).astype(np.float32)
                observer.add(knot, np.arange(start, start + 100), drawn | {"phi.high_frequency": phi})
        return observer.result(np.arange(USUAL, dtype=float))

    return work


def _table(world: World) -> Work:
    def work() -> float:
        free = LinearDenoiser.of(portion(world.data))
        table = spectrum_table(free, STEPS)
        return gaussian_price(table, free.spectrum)

    return work


def _by_table(world: World) -> Work:
    sampler = TableSampler(world.model, spectrum_table(LinearDenoiser.of(portion(world.data)), STEPS))
    return lambda: generate(sampler, sampler.grid, world.shape, SAMPLES, batch_size=BATCH, **QUIET)


def _samples(name: str) -> Callable[[World], Work]:
    def begun(world: World) -> Work:
        covariance = world.covariance(name) if name else BetaTilde()
        return lambda: world.samples(covariance)

    return begun


def _bits(name: str, steps: int = STEPS) -> Callable[[World], Work]:
    def begun(world: World) -> Work:
        covariance = world.covariance(name) if name else BetaTilde()
        return lambda: world.bits(covariance, steps)

    return begun


ALONE = "the network's calls alone"
TASKS: dict[str, Callable[[World], Work]] = {
    ALONE: _alone,
    "statistics": lambda world: lambda: DataStatistics.of(world.data, RANGE),
    "estimate": _estimate(),
    "estimate, 50 knots": _estimate(knots=USUAL),
    "estimate, cosines and pixels recorded": _estimate("dct", "pixel"),
    "estimate, 256 components recorded": _estimate("pca"),
    "draws of a long pass": _long_pass,
    "basis of rotated channels": lambda world: lambda: ColourDCT.of(portion(world.data)),
    "basis of 256 components": lambda world: lambda: PCA.of(world.data, world.rank),
    "fit, cosines": _fit("dct"),
    "fit, pixels": _fit("pixel"),
    "fit, 256 components": _fit("pca"),
    "Gaussian and its table": _table,
    "samples, beta-tilde": _samples(""),
    "samples, cosines": _samples("dct|high_frequency"),
    "samples, 256 components": _samples("pca"),
    "samples by the table": _by_table,
    "bits, beta-tilde": _bits(""),
    "bits, beta-tilde, 50 steps": _bits("", USUAL),
    "bits, cosines": _bits("dct|high_frequency"),
    "bits, cosines, 50 steps": _bits("dct|high_frequency", USUAL),
    "bits, 256 components": _bits("pca"),
    "bits, 256 components, 50 steps": _bits("pca", USUAL),
}


def measured(name: str, shape: tuple[int, int, int], call: float) -> dict[str, float]:
    """One task, here and now."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    TASKS[name](World((shape[0], 16, 16)))()  # what is imported and compiled on first use
    world, before = World(shape), resident()
    work = TASKS[name](world)
    world.network.burn(call)
    start, pictures = time.process_time(), world.pictures.seconds
    work()
    seconds = time.process_time() - start - (world.pictures.seconds - pictures)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    network = world.network
    return {
        "bytes": max(peak - before, 0.0),
        "own": seconds - network.seconds,
        "network": network.seconds,
        "calls": network.calls,
    }


def alone(name: str, shape: str, call: float) -> dict[str, float]:
    """One task in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--alone", name, "--shapes", shape, "--call", str(call)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | MALLOC)
    return json.loads(done.stdout.splitlines()[-1])


def _shape(text: str) -> tuple[int, int, int]:
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


def _dim(text: str) -> int:
    return int(np.prod(_shape(text)))


def processor() -> str:
    """Its name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def page(found: dict[str, Any]) -> str:
    """The page of what was found."""
    results = found["results"]
    shapes = sorted(results, key=_dim)
    names = [name for name in TASKS if name != ALONE and any(name in results[shape] for shape in shapes)]
    heads = ["task", *(f"d = {_dim(shape):,}" for shape in shapes)]

    def shown(cell: Callable[[dict[str, float], dict[str, float]], str], shape: str, name: str) -> str:
        return cell(results[shape][name], results[shape][ALONE]) if name in results[shape] else ""

    def rows(cell: Callable[[dict[str, float], dict[str, float]], str], only: Callable[[str], bool]) -> list[list[str]]:
        return [[name, *(shown(cell, shape, name) for shape in shapes)] for name in names if only(name)]

    def calls(name: str) -> bool:
        return any(results[shape].get(name, {}).get("calls", 0) > 0 for shape in shapes)

    memory = rows(lambda cost, bare: f"{max(cost['bytes'] - bare['bytes'], 0.0) / 1e9:.2f}", lambda name: True)
    share = rows(lambda cost, bare: f"{1e3 * cost['own'] / cost['calls']:.1f} ({cost['own'] / cost['network']:.1%})", calls)
    own = rows(lambda cost, bare: f"{cost['own']:.2f}", lambda name: not calls(name))
    return "\n\n".join(
        [
            "# What the package costs as examples grow",
            f"    {found['command']}",
            f"{EXAMPLES} pictures by index, {BATCH} examples per network call of {found['call']:g} s, one thread of"
            f" {found['machine']}, torch {found['torch']}. A pass is of {KNOTS} knots and {DRAWS} draws of each; the long"
            f" one of {USUAL} knots and {LONG} draws of each. {SAMPLES} samples and {SAMPLES} examples for bits/dim,"
            f" {STEPS} calls each, or {USUAL} where it says so: what an example costs once, to be read and decoded, is"
            " shared by its calls, and so is the noise of neighbouring levels. From d = 4,097 on curves are shared: of"
            " cosines by 256 rings of each channel, of pixels by at most 1,024 squares; a recorder of them keeps sums in cells"
            " of draws. Times are those of one run, with"
            f" `{' '.join(f'{name}={value}' for name, value in MALLOC.items())}`: as glibc comes, it gives the memory of every"
            " state back to the system and asks for it anew.",
            "## Memory\n\nGB, peak beyond the start and beyond the network's calls; with what the task needs first, such as the"
            " pass that a fit is of.\n\n" + markdown(heads, memory),
            "## Time beside the network\n\nMilliseconds of the package itself per network call, and its share of the network's"
            " time; what makes the pictures is not counted.\n\n" + markdown(heads, share),
            "## Time without a network\n\nSeconds.\n\n" + markdown(heads, own),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--call", type=float, default=0.1, help="seconds of the processor that a network call takes")
    parser.add_argument("--output", type=Path, help="page and numbers, without suffix; those that are there stay")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measured(args.alone, _shape(args.shapes[0]), args.call)))
        return
    found: dict[str, Any] = {
        "command": "python -m benchmarks.scale",
        "call": args.call,
        "machine": processor(),
        "torch": torch.__version__,
    }
    kept = args.output and args.output.with_suffix(".json")
    results: dict[str, dict[str, Any]] = {}
    if kept and kept.exists() and {**(before := json.loads(kept.read_text())), **found} == before:
        results = before["results"]
    for shape in args.shapes:
        for name in args.tasks:
            if name not in results.setdefault(shape, {}):
                results[shape][name] = alone(name, shape, args.call)
                print(shape, name, json.dumps(results[shape][name]), file=sys.stderr, flush=True)
                if kept:
                    write_text(kept, json.dumps({**found, "results": results}, indent=1) + "\n")
    text = page({**found, "results": results})
    print(text)
    if args.output:
        write_text(args.output.with_suffix(".md"), text + "\n")


if __name__ == "__main__":
    main()
