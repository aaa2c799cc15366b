"""The fewest calls: tables from the spectrum and from paths, against the best public solvers on their best grids.

    python -m benchmarks.few_calls --data digits [--steps 1 2 3 5 10] [--count 1000] [--seeds 3] [--output FILE.md]
    python -m benchmarks.few_calls --data mnist --tune 250 --coordinates
    python -m benchmarks.few_calls --data mnist_unet --directory FOLDER_OF_IDX_FILES --tune 250 --coordinates
    python -m benchmarks.few_calls --data digits --ablations
    python -m benchmarks.few_calls --data digits --pictures docs/figures

Data sets, and what judges them: benchmarks/few_worlds.py. All rows share their starts. Tables never see what judges them: they
are fitted to 100 recorded paths of 32 calls, other ones for every seed; so a row's error, and that of its difference to the
table, which are over seeds, hold the chance of the paths too.
Public solvers (benchmarks/few_public.py) are chosen on the metric itself, by `--tune` samples of another seed, on the network
as published and on the one that is stacked with what is free. Scores stay in the workdir: what is there is not measured
again, and `--pictures` draws it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.few_public import BATCH, Choice, Search, best, drawn
from benchmarks.few_worlds import WORLDS, Draw, Place, World
from score_sde_analytic.files import write_text
from score_sde_analytic.grids import Grid
from score_sde_analytic.metrics import Pixels, Reference, SlicedWasserstein
from score_sde_analytic.models import LinearDenoiser
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import (
    DPMSolverPP,
    Fitting,
    FlowPaths,
    Table,
    TableSampler,
    fit_table,
    generate,
    matched,
    record_paths,
    spectrum_table,
)
from score_sde_analytic.uncertainty import Estimate

FINE = 48
DEFAULT = Fitting()
OURS = "the table"
#: Rows that the number of calls does not change, with their own.
REFERENCES = {"free, no call": "0", f"flow, {FINE} calls": str(FINE), "exact draws": ""}
#: (row, seed, column) of one number of calls.
Scores = dict[str, np.ndarray]


def of_table(world: World, table: Table) -> Draw:
    sampler = TableSampler(world.model, table)
    return drawn(world, sampler, sampler.grid)


def free(world: World) -> Draw:
    """K = 0: the Gaussian itself."""
    level = world.model.schedule.level(0.0)

    def draw(count: int, seed: int) -> torch.Tensor:
        return world.linear.start(SampleNoise(seed, range(count)).draw(torch.empty(count, *world.shape)), level)

    return draw


def at(world: World, log_snrs: np.ndarray) -> Grid:
    """Calls at these levels."""
    schedule = world.model.schedule
    first = 1.0 if log_snrs[0] <= schedule.log_snr_range[0] else float(schedule.time(log_snrs[0]))
    return Grid((first, *np.atleast_1d(schedule.time(log_snrs[1:])).tolist(), 0.0))


def flow(world: World) -> Draw:
    """The network's own flow in so many calls, from the Gaussian start."""
    ends = np.linspace(world.levels[0], world.levels[-1], FINE)
    return drawn(world, DPMSolverPP(world.model, 3), at(world, ends), world.linear)


def recorded(world: World, place: Place, name: str, seed: int = 0) -> FlowPaths:
    """Paths, made once for every seed."""
    place.folder.mkdir(parents=True, exist_ok=True)
    path = place.folder / f"{name}{'-published' if place.raw else ''}-paths{seed}.safetensors"
    return record_paths(world.model, world.linear, world.shape, world.levels, seed=1 + seed, path=path, progress=False)


def by_seed(make: Callable[[int], dict[str, Draw]]) -> dict[str, Draw]:
    """Samples of what is fitted anew for every seed, to paths of its own: errors over seeds hold the paths' chance too."""
    made = cache(make)
    return {name: lambda count, seed, name=name: made(seed)[name](count, seed) for name in made(0)}


def fitted(world: World, paths: FlowPaths, steps: int, fitting: Fitting = DEFAULT) -> Table:
    return fit_table(world.model, paths, world.linear, steps, fitting=fitting)


def tables(world: World, paths: FlowPaths, steps: int) -> dict[str, Draw]:
    """Tables of so many calls, fitted to paths."""
    plain = fitted(world, paths, steps)
    scalar = fitted(world, paths, steps, Fitting(pooled=(math.inf,), gain="common"))
    found = {OURS: matched(plain), "as fitted": plain, "scalar weights": matched(scalar)}
    return {name: of_table(world, table) for name, table in found.items()}


def ours(world: World, paths_of: Callable[[int], FlowPaths], steps: int) -> dict[str, Draw]:
    """Tables, and what examples choose where there is a study."""
    draws = by_seed(lambda seed: tables(world, paths_of(seed), steps))
    draws["spectrum alone"] = of_table(world, spectrum_table(world.linear, steps))
    if world.chosen is not None:
        draws["chosen by examples"] = world.chosen(steps)
    return draws


def ablations(world: World, steps: int, seed: int) -> dict[str, Draw]:
    """All parts, and all but one, of paths of this seed."""
    model, linear, lowest = world.model, world.linear, world.model.schedule.log_snr_range[0]
    paths = record_paths(model, linear, world.shape, world.levels, seed=1 + seed, progress=False)
    many = record_paths(model, linear, world.shape, world.levels, count=400, seed=1 + seed, progress=False)
    noise = LinearDenoiser.exact(torch.zeros(world.shape), torch.eye(math.prod(world.shape)).double())
    usual = np.linspace(lowest, world.end, len(world.levels))
    own = record_paths(model, noise, world.shape, usual, seed=1 + seed, progress=False)
    whole = fitted(world, paths, steps)
    late = np.array([lowest, *whole.log_snrs[1:]])
    tables = {
        OURS: whole,
        "400 paths": fitted(world, many, steps),
        "scalar weights, one gain": fitted(world, paths, steps, Fitting(pooled=(math.inf,), gain="common")),
        "Zolotarev's grid without search": fitted(world, paths, steps, Fitting(trials=0)),
        "no gain": fitted(world, paths, steps, Fitting(gain="none")),
        "no Gaussian start, our other calls": fit_table(model, own, linear, log_snrs=late),
        "no Gaussian start, even grid": fit_table(model, own, linear, log_snrs=np.linspace(lowest, world.end, steps)),
    }
    draws = {name: of_table(world, matched(table)) for name, table in tables.items()}
    draws["as fitted, without the data's variance"] = of_table(world, whole)
    solver = DPMSolverPP(model, 3)
    draws["Gaussian start, our grid, DPM-Solver++ 3M's weights"] = drawn(world, solver, at(world, whole.log_snrs), linear)
    even = at(world, np.linspace(lowest, world.end, steps))
    draws["nothing: even grid, DPM-Solver++ 3M's weights"] = drawn(world, solver, even)
    return draws


def measured(world: World, draws: dict[str, Draw], count: int, seeds: int, known: Scores | None = None) -> Scores:
    """Scores by row; seeds that are known already are not drawn again."""
    found = {} if known is None else {name: [*known.get(name, ())][:seeds] for name in draws}
    for name, draw in draws.items():
        own = found.setdefault(name, [])
        own += [np.array(world.judge(draw(count, seed))) for seed in range(len(own), seeds)]
    return {name: np.stack(own) for name, own in found.items()}


def references(world: World, fine: bool = True) -> dict[str, Draw]:
    """What the number of calls does not change."""
    no_call, all_calls, exact = REFERENCES
    draws = {no_call: free(world)}
    if fine:
        draws[all_calls] = flow(world)
    return draws if world.exact is None else draws | {exact: world.exact}


def quality(world: World, every: dict[int, Scores]) -> str:
    """Scores by number of calls, and paired differences to the table in the one that decides."""
    lines = []
    for steps, scores in every.items():
        for name, values in scores.items():
            cells = [f"{Estimate.of(own):.3f}" for own in values.T]
            gap = "" if name == OURS or OURS not in scores else f"{Estimate.of(values[:, 0] - scores[OURS][:, 0]):+.3f}"
            lines.append([REFERENCES.get(name, str(steps)), name, *cells, gap])
    return markdown(["K", "sampler", *world.judge.columns, "the first above the table's, paired"], lines)


def certificates(world: World, paths: FlowPaths, steps: list[int], count: int) -> str:
    """The bound beside the sliced W2^2 to the flow from other starts, which has a floor: the flow against itself."""
    ends = Reference.of(flow(world)(count, 1), Pixels())

    def sliced(draw: Draw) -> str:
        return f"{SlicedWasserstein(groups=10)(draw(count, 0).flatten(1).double(), ends).value:.2g}"

    floor = sliced(flow(world))
    lines = []
    for k in steps:
        begun = time.perf_counter()
        table = fitted(world, paths, k)
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


@dataclasses.dataclass
class Kept:
    """Scores and choices of a data set: a later run adds what is missing, and pictures need no run.

    Attributes:
        asked: samples that are judged, and that public solvers are chosen by.
        content: by number of calls.
    """

    path: Path
    asked: list[int]
    content: dict[str, dict]

    @classmethod
    def at(cls, place: Place, args: argparse.Namespace) -> Kept:
        path = place.folder / f"{args.data}{'-published' if place.raw else ''}.json"
        return cls(path, [args.count, args.tune], json.loads(path.read_text()) if path.exists() else {})

    def known(self, steps: str) -> dict | None:
        """Of the same numbers of samples."""
        found = self.content.get(steps)
        return found if found and found["asked"] == self.asked else None

    def rows(self, steps: str) -> Scores:
        """By row; nothing where nothing is known."""
        found = self.known(steps)
        return {name: np.array(values) for name, values in found["rows"].items()} if found else {}

    def choices(self, steps: str) -> list[Choice] | None:
        """What was chosen of public solvers."""
        found = self.known(steps)
        return [Choice(**choice) for choice in found["choices"]] if found else None

    def keep(self, steps: str, scores: Scores, columns: list[str], choices: list[Choice]) -> None:
        rows = {name: values.tolist() for name, values in scores.items()}
        chosen = [dataclasses.asdict(choice) for choice in choices]
        self.content[steps] = {"asked": self.asked, "columns": columns, "rows": rows, "choices": chosen}
        write_text(self.path, json.dumps(self.content))


def parts(world: World, place: Place, args: argparse.Namespace) -> Iterator[str]:
    """Tables, one after the other."""
    if args.ablations:
        parts_of = {steps: by_seed(partial(ablations, world, steps)) for steps in args.steps}
        rows = {0: references(world, fine=False)} | parts_of
        yield quality(world, {steps: measured(world, draws, args.count, args.seeds) for steps, draws in rows.items()})
        return
    paths_of = cache(partial(recorded, world, place, args.data))
    if args.certificates:
        yield certificates(world, paths_of(0), args.steps, args.count)
    kept = Kept.at(place, args)
    yield quality(world, {steps: scored(world, paths_of, steps, kept, args) for steps in [0, *args.steps]})


def scored(world: World, paths_of: Callable[[int], FlowPaths], steps: int, kept: Kept, args: argparse.Namespace) -> Scores:
    """All rows of one number of calls."""
    name, chosen = str(steps), kept.choices(str(steps))
    if chosen is None:
        chosen = best(Search(args.tune, args.coordinates).scores(world, steps)) if args.tune and steps else []
    draws = ours(world, paths_of, steps) if steps else references(world, not args.without_flow)
    draws |= {str(choice): choice.draw(world, steps) for choice in chosen}
    scores = measured(world, draws, args.count, args.seeds, kept.rows(name))
    kept.keep(name, scores, world.judge.columns, chosen)
    return scores


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=WORLDS, default="digits")
    parser.add_argument("--directory", type=Path, help="IDX files of MNIST, for mnist_unet")
    parser.add_argument("--as-published", action="store_true", help="tables of the network as it is")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--count", type=int, default=1000, help="samples per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", type=int, default=1000, help="samples that public solvers are chosen by; 0 for none")
    parser.add_argument("--coordinates", action="store_true", help="choose grid and first time before the solver")
    parser.add_argument("--without-flow", action="store_true", help="leave out the fine flow")
    parser.add_argument("--certificates", action="store_true", help="bounds of the distance to the flow, and times, first")
    parser.add_argument("--ablations", action="store_true", help="what start, grid, weights and gain are worth")
    parser.add_argument("--pictures", type=Path, help="folder of pictures, from scores that are in the workdir")
    parser.add_argument("--workdir", type=Path, default=Path("results/few_calls"), help="keeps passes, paths and scores")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    place = Place(args.workdir, args.directory, args.as_published)
    world = WORLDS[args.data](place)
    if args.pictures:
        from benchmarks.few_pictures import draw_all

        draw_all(world, args.data, recorded(world, place, args.data), place.folder, args.pictures)
        return
    text = ""
    for part in parts(world, place, args):
        print(part, flush=True)
        text += part + "\n"
        if args.output:
            write_text(args.output, text)


if __name__ == "__main__":
    main()
