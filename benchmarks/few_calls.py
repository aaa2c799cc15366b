"""The fewest calls: tables from the spectrum and from paths, against the best public solvers on their best grids.

    python benchmarks/few_calls.py [--data digits] [--steps 1 2 3 5] [--count 1000] [--seeds 3] [--output FILE.md]
    python benchmarks/few_calls.py --data patches --tune 300

Digits are judged by the Frechet distance in the shipped classifier's features to validation and test data, patches by that of
their colour cosines to training data, the mixture by the energy distance to exact draws, in thousandths (without bias: it may
be negative). All rows share their starts; a row's error, and that of its difference to "fitted", is over seeds. Grid and first
time of public solvers are chosen on the metric itself, on `--tune` samples of another seed; ours on recorded paths alone.
"""

from __future__ import annotations

import argparse
import importlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor

from score_sde_analytic.compare.fidelity import displayed
from score_sde_analytic.data.transforms import ColourDCT
from score_sde_analytic.files import write_text
from score_sde_analytic.grids import Grid, even_log_snr, karras
from score_sde_analytic.metrics import (
    ClassifierFeatures,
    Coefficients,
    EnergyDistance,
    Features,
    Frechet,
    Pixels,
    Reference,
    SlicedWasserstein,
    extract,
)
from score_sde_analytic.models import LinearDenoiser, ScoreModel
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import (
    DPMSolverPP,
    Fitting,
    FlowPaths,
    Sampler,
    Table,
    TableSampler,
    UniPC,
    fit_table,
    generate,
    record_paths,
    spectrum_table,
)
from score_sde_analytic.uncertainty import Estimate

#: (count, seed) -> samples.
Draw = Callable[[int, int], Tensor]
#: Log-SNRs of the first time t_1 that public solvers choose from.
ENDS = (4.0, 5.0, 6.0, 7.0, 9.0, 10.5)
FINE = 48
BATCH = 500
#: The seed that grids of public solvers are chosen with.
OTHER = 999


@dataclass(frozen=True)
class World:
    """A data set with its network.

    Attributes:
        judge: samples -> distance to the data.
        end: log-SNR at which paths end.
    """

    model: ScoreModel
    linear: LinearDenoiser
    shape: tuple[int, ...]
    judge: Callable[[Tensor], float]
    end: float
    exact: Draw | None = None

    @property
    def levels(self) -> np.ndarray:
        """Of paths: from where e^-4 of the largest variance is known."""
        return np.linspace(-math.log(self.linear.spectrum.max()) - 4.0, self.end, 32)


def experiment(name: str) -> Experiment:
    config = importlib.import_module(f"configs.{name}").get_config()
    return Experiment(config, Path(tempfile.mkdtemp()))


def digits() -> World:
    made = experiment("digits_vp")
    splits = made.splits
    features = ClassifierFeatures.load("digits_classifier")
    judge = frechet(made, features, torch.cat([splits.validation, splits.test]), groups=10)
    return World(made.model, LinearDenoiser.of(splits.train), tuple(splits.test.shape[1:]), judge, end=9.0)


def patches() -> World:
    made = experiment("patches")
    splits = made.splits
    judge = frechet(made, Coefficients(ColourDCT.of(splits.train)), splits.train[:4000], groups=4)
    return World(made.model, LinearDenoiser.of(splits.train[:8000]), tuple(splits.test.shape[1:]), judge, end=10.0)


def mixture() -> World:
    made = experiment("mixture")
    net = made.model.net
    exact = Reference(net.sample(6000, seed=10_001).double())

    def judge(x: Tensor) -> float:
        return 1000.0 * EnergyDistance()(x.double(), exact).value

    def draws(count: int, seed: int) -> Tensor:
        return net.sample(count, seed=20_000 + seed)

    return World(made.model, LinearDenoiser.exact(*net.moments()), (net.dim,), judge, 11.0, draws)


def frechet(made: Experiment, features: Features, real: Tensor, groups: int) -> Callable[[Tensor], float]:
    reference = Reference.of(real, features)

    def judge(x: Tensor) -> float:
        shown = displayed(x, made.splits.data_range)
        return Frechet(groups=groups)(extract(features, shown, BATCH, "cpu", "features", False).double(), reference).value

    return judge


WORLDS = {"digits": digits, "patches": patches, "mixture": mixture}


def drawn(world: World, sampler: Sampler, grid: Grid, start: LinearDenoiser | None = None) -> Draw:
    return lambda count, seed: generate(sampler, grid, world.shape, count, seed, BATCH, start=start)


def of_table(world: World, table: Table) -> Draw:
    sampler = TableSampler(world.model, table)
    return drawn(world, sampler, sampler.grid)


def free(world: World) -> Draw:
    """K = 0: the Gaussian itself."""
    level = world.model.schedule.level(0.0)

    def draw(count: int, seed: int) -> Tensor:
        return world.linear.start(SampleNoise(seed, range(count)).draw(torch.empty(count, *world.shape)), level)

    return draw


def flow(world: World) -> Draw:
    """The network's own flow in so many calls, from the Gaussian start."""
    schedule = world.model.schedule
    ends = np.linspace(world.levels[0], world.levels[-1], FINE)
    grid = Grid((*np.atleast_1d(schedule.time(ends)).tolist(), 0.0))
    return drawn(world, DPMSolverPP(world.model, 3), grid, world.linear)


def public(world: World, steps: int) -> Iterator[tuple[str, Sampler, Grid]]:
    """Solvers and grids to choose from."""
    schedule = world.model.schedule
    solvers = {"DPM-Solver++ 3M": DPMSolverPP(world.model, 3), "DPM-Solver++ 2M": DPMSolverPP(world.model, 2)}
    solvers |= {"UniPC 2": UniPC(world.model, 2), "UniPC 3": UniPC(world.model, 3)}
    firsts = [float(schedule.time(end)) for end in ENDS] if steps > 1 else [1e-3]
    for first in firsts:
        grids = [even_log_snr(schedule, steps, first)]
        if steps > 1:
            grids += [karras(schedule, steps, first), karras(schedule, steps, first, 20.0)]
        for grid in grids:
            for name, solver in solvers.items():
                yield name, solver, grid


def best_public(world: World, steps: int, tune: int) -> dict[str, Draw]:
    """Per family, the solver and grid that the metric itself likes best."""
    scores: dict[str, list[tuple[float, Draw]]] = {}
    for name, solver, grid in public(world, steps):
        draw = drawn(world, solver, grid)
        scores.setdefault(name.split()[0], []).append((world.judge(draw(tune, OTHER)), draw))
    return {f"{family}, best grid": min(tried, key=lambda pair: pair[0])[1] for family, tried in scores.items()}


def fitted(world: World, paths: FlowPaths, steps: int, fitting: Fitting) -> Table:
    return fit_table(world.model, paths, world.linear, steps, fitting=fitting)


def rows(world: World, paths: FlowPaths, steps: int, tune: int) -> dict[str, Draw]:
    """Samplers of so many calls."""
    kinds = {
        "fitted": Fitting(),
        "fitted, scalar": Fitting(pooled=(math.inf,)),
        "fitted, per coordinate": Fitting(pooled=(30.0,)),
        "fitted, Zolotarev's grid": Fitting(trials=0),
    }
    draws = {name: of_table(world, fitted(world, paths, steps, fitting)) for name, fitting in kinds.items()}
    draws["spectrum alone"] = of_table(world, spectrum_table(world.linear, steps))
    return draws | (best_public(world, steps, tune) if tune else {})


def measured(world: World, draws: dict[str, Draw], count: int, seeds: int) -> dict[str, np.ndarray]:
    return {name: np.array([world.judge(draw(count, seed)) for seed in range(seeds)]) for name, draw in draws.items()}


def references(world: World, fine: bool) -> dict[str, Draw]:
    """What the number of calls does not change."""
    draws = {"free, no call": free(world)}
    if fine:
        draws["flow"] = flow(world)
    return draws if world.exact is None else draws | {"exact draws": world.exact}


def quality(world: World, steps: int, draws: dict[str, Draw], count: int, seeds: int) -> str:
    """Distances, and paired differences to "fitted"."""
    values, lines = measured(world, draws, count, seeds), []
    for name, own in values.items():
        gap = "" if name == "fitted" or "fitted" not in values else f"{Estimate.of(own - values['fitted']):+.3f}"
        lines.append([str(steps), name, f"{Estimate.of(own):.3f}", gap])
    return markdown(["K", "sampler", "distance", "above fitted, paired"], lines)


def certificates(world: World, paths: FlowPaths, steps: list[int], count: int) -> str:
    """The bound beside the sliced W2^2 to the flow from other starts, which has a floor: the flow against itself."""
    ends = Reference.of(flow(world)(count, 1), Pixels())

    def sliced(draw: Draw) -> str:
        return f"{SlicedWasserstein(groups=10)(draw(count, 0).flatten(1).double(), ends).value:.2g}"

    floor = sliced(flow(world))
    lines = []
    for k in steps:
        begun = time.perf_counter()
        table = fitted(world, paths, k, Fitting())
        seconds = time.perf_counter() - begun
        bound = Estimate(table.facts["certificate"], table.facts["certificate_stderr"])
        share = overhead(world, table)
        cells = [f"{bound:.2g}", sliced(of_table(world, table)), floor, f"{seconds:.1f}", f"{100 * share:.1f} %"]
        lines.append([str(k), " ".join(f"{log_snr:.1f}" for log_snr in table.log_snrs), *cells])
    columns = ["K", "log-SNRs", "certificate", "sliced W2²", "of the flow itself", "seconds to fit", "beyond K calls"]
    return markdown(columns, lines)


def overhead(world: World, table: Table) -> float:
    """Time of a run beyond that of its network calls, as a share of theirs; the least of three runs."""
    sampler = TableSampler(world.model, table)
    level = world.model.schedule.level(sampler.grid.times[0])
    x = torch.randn(BATCH, *world.shape)

    @torch.no_grad()
    def calls() -> None:
        for _ in range(table.steps):
            _ = world.model.predict(x, level).x_0

    def run() -> None:
        generate(sampler, sampler.grid, world.shape, BATCH, 0, BATCH)

    return min(_seconds(run) for _ in range(3)) / min(_seconds(calls) for _ in range(3)) - 1.0


def _seconds(work: Callable[[], None]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def parts(world: World, paths: FlowPaths, args: argparse.Namespace) -> Iterator[str]:
    """Tables, one after the other."""
    fine = not args.without_flow
    if fine:
        yield certificates(world, paths, args.steps, args.count)
    yield quality(world, 0, references(world, fine), args.count, args.seeds)
    for steps in args.steps:
        yield quality(world, steps, rows(world, paths, steps, args.tune), args.count, args.seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=WORLDS, default="digits")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--count", type=int, default=1000, help="samples per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", type=int, default=1000, help="samples that grids of public solvers are chosen on; 0 for none")
    parser.add_argument("--without-flow", action="store_true", help="leave out what takes the fine flow of every sample")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = WORLDS[args.data]()
    paths = record_paths(world.model, world.linear, world.shape, world.levels, seed=1, progress=False)
    text = ""
    for part in parts(world, paths, args):
        print(part, flush=True)
        text += part + "\n"
        if args.output:
            write_text(args.output, text)


if __name__ == "__main__":
    main()
