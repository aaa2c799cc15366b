"""The default for so many calls, `study.fewest(K, examples)`, against the best public solvers, each at its best grid.

    python -m benchmarks.default_choice [--data digits] [--steps 1 2 3 5 10] [--count 1000] [--seeds 3] [--output FILE.md]

Worlds and metrics are those of `few_calls.py`. Grid and first time of every public solver are chosen on the metric itself,
on `--tune` samples of another seed, among even log-SNR with four first times and Karras's with two; the `--best` of them are
judged. The default chooses on examples that the metric does not see: of digits the training data, otherwise those of the
study's pass. All rows share their starts; errors, and those of differences to the default, are over seeds. What is measured is
kept in a folder.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from score_sde_analytic.runners.experiment import Experiment

from benchmarks.few_public import OTHER
from benchmarks.few_worlds import WORLDS, Place, World
from score_sde_analytic.files import plain, read_json, write_json, write_text
from score_sde_analytic.grids import Grid, even_log_snr, karras
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import DPMSolverPP, Sampler, SASolver, UniPC, generate
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.uncertainty import Estimate

#: Log-SNRs of first times that public solvers choose from.
EVEN_ENDS, KARRAS_ENDS = (4.0, 6.0, 8.0, 10.0), (5.0, 8.0)
BATCH = 250
KIND = "value of a sampler"
STEPS = (1, 2, 3, 4, 5, 7, 10, 15, 25)
#: Of data whose experiment goes by another name.
CONFIGS = {"digits": "digits_vp"}
#: Standard errors beyond which two samplers differ.
BEYOND = 2.0


@dataclass(frozen=True)
class Kept:
    """Distances of samplers, each measured once."""

    data: str
    world: World
    folder: Path

    def __call__(self, plan: SamplingPlan, count: int, seed: int) -> float:
        """Of `count` samples of a seed."""
        marks = {"sampler": plan.sampler.config(), "covariances": plan.sampler.fingerprints(plan.grid)}
        start = None if plan.start is None else digest(plain(plan.start.config()))
        own = {"times": plan.grid.times, "start": start, "count": count, "seed": seed}
        asked = plain({"data": self.data, "model": self.world.model.fingerprint(), **marks, **own})
        file = self.folder / f"{digest(asked)[:16]}.json"
        if not file.exists():
            write_json(file, KIND, {"value": self._value(plan, count, seed), "asked": asked})
        return float(read_json(file, KIND, {"value": float, "asked": dict})["value"])

    def _value(self, plan: SamplingPlan, count: int, seed: int) -> float:
        x = generate(plan.sampler, plan.grid, plan.shape, count, seed, BATCH, start=plan.start)
        return self.world.judge.first(x)


def solvers(world: World) -> dict[str, Sampler[Any]]:
    """The strong ones among the public."""
    model = world.model
    return {
        "UniPC 2 bh1": UniPC(model, 2, "bh1"),
        "UniPC 3 bh1": UniPC(model, 3, "bh1"),
        "UniPC 3 bh2": UniPC(model, 3, "bh2"),
        "DPM-Solver++ 2M": DPMSolverPP(model, 2),
        "DPM-Solver++ 3M": DPMSolverPP(model, 3),
        "SDE-DPM-Solver++ 2M": DPMSolverPP(model, 2, noisy=True),
        "SDE-DPM-Solver++ 3M": DPMSolverPP(model, 3, noisy=True),
        "SA-Solver, tau = 0.2": SASolver(model, 0.2),
    }


def grids(world: World, steps: int) -> Iterator[tuple[str, Grid]]:
    """That public solvers choose from: one step has no times to choose, and two have but the first."""
    schedule = world.model.schedule
    if steps == 1:
        yield "t = 1", Grid((1.0, 0.0))
        return
    for end in EVEN_ENDS:
        yield f"even to {end:g}", even_log_snr(schedule, steps, float(schedule.time(end)))
    for end in KARRAS_ENDS if steps > 2 else ():
        yield f"Karras to {end:g}", karras(schedule, steps, float(schedule.time(end)))


def tuned(kept: Kept, steps: int, tune: int) -> dict[str, SamplingPlan]:
    """Public solvers at the grids that the metric itself likes best, the best first."""
    world, best = kept.world, {}
    for name, sampler in solvers(world).items():
        tried = []
        for at, grid in grids(world, steps):
            plan = SamplingPlan(sampler, grid, world.shape)
            tried.append((_finite(kept, plan, tune), f"{name}, {at}", plan))
        value, title, plan = min(tried, key=lambda item: item[0])
        best[title] = value, plan
    return {title: plan for title, (_, plan) in sorted(best.items(), key=lambda item: item[1][0])}


def _finite(kept: Kept, plan: SamplingPlan, count: int) -> float:
    try:
        return kept(plan, count, OTHER)
    except Exception as error:  # a solver that explodes on a grid has lost there
        print(f"{plan.sampler.name}: {error}", flush=True)
        return float("inf")


def measured(data: str, folder: Path) -> Experiment:
    """The experiment whose study chooses, kept in a folder."""
    config = importlib.import_module(f"configs.{CONFIGS.get(data, data)}").get_config()
    return Experiment(config, folder, ("pca",))


def examples(made: Experiment, data: str) -> torch.Tensor:
    """What the default chooses on: none of it is in the metric's reference."""
    return made.splits.train if data == "digits" else made.splits.validation


def values(kept: Kept, plan: SamplingPlan, count: int, seeds: int) -> np.ndarray:
    return np.array([kept(plan, count, seed) for seed in range(seeds)])


def line(steps: int, name: str, own: np.ndarray, default: np.ndarray) -> list[str]:
    """A row; the verdict is on the default."""
    gap = Estimate.of(own - default)
    worse, better = gap.value < -BEYOND * gap.stderr, gap.value > BEYOND * gap.stderr
    verdict = "better" if worse else "worse" if better else "tied"
    return [str(steps), name, f"{Estimate.of(own):.3f}", f"{gap:+.3f}", verdict]


def rows(kept: Kept, chosen: SamplingPlan, steps: int, args: argparse.Namespace) -> Iterator[list[str]]:
    """The default, then the best public solvers."""
    default = values(kept, chosen, args.count, args.seeds)
    yield [str(steps), f"default: {chosen.reason.split(' is ')[0]}", f"{Estimate.of(default):.3f}", "", ""]
    for name, plan in list(tuned(kept, steps, args.tune).items())[: args.best]:
        yield line(steps, name, values(kept, plan, args.count, args.seeds), default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=WORLDS, default="digits")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--count", type=int, default=1000, help="samples per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", type=int, default=250, help="samples that grids of public solvers are chosen on")
    parser.add_argument("--best", type=int, default=3, help="public solvers that are judged, the best by `--tune`")
    parser.add_argument("--public", action="store_true", help="measure the public solvers alone")
    parser.add_argument("--workdir", type=Path, default=Path("results/default_choice"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept(args.data, WORLDS[args.data](Place(args.workdir)), args.workdir / args.data / "values")
    if args.public:
        for steps in args.steps:
            for name, plan in list(tuned(kept, steps, args.tune).items())[: args.best]:
                print(steps, name, values(kept, plan, args.count, args.seeds), flush=True)
        return
    made = measured(args.data, args.workdir / args.data)
    table, said = [], []
    for steps in args.steps:
        chosen = made.study.fewest(steps, examples(made, args.data), path=args.workdir / args.data, progress=False)
        table += rows(kept, chosen, steps, args)
        said.append(f"- K = {steps}: {chosen.reason}")
        text = markdown(["K", "sampler", "distance", "above the default, paired", "it is"], table) + "\n".join(["", *said, ""])
        print(text, flush=True)
        if args.output:
            write_text(args.output, text)


if __name__ == "__main__":
    main()
