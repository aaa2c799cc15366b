"""The tables of Analytic-DPM (Bao et al., ICLR 2022) on data at hand: bits/dim, samples, and how many steps are saved.

    python -m benchmarks.papers --data mnist [--weights FOLDER] [--images FOLDER]
    python -m benchmarks.papers --data cifar10 --weights FOLDER --images FOLDER
    python -m benchmarks.papers --page

The first measures a data set into docs/results/papers_NAME.json; what is measured is kept in --workdir, so that an interrupted
run goes on, and one with a larger --examples or --count adds to it. The last writes docs/results/papers.md from these files
alone. `papers_cases.py` has the data sets, `papers_rows.py` the rows.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from score_sde_analytic.runners import networks, train_head
from score_sde_analytic.runners.experiment import Experiment
from torch import Tensor

from benchmarks.few_worlds import Judge
from benchmarks.papers_cases import CASES, TABLE, Case, Places
from benchmarks.papers_page import BEYOND, KIND, page
from benchmarks.papers_rows import ANALYTIC, BETA, BETA_TILDE, EVEN, OURS, STEPS, Row, Rows
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.files import load_arrays, plain, read_json, save_arrays, write_json, write_text
from score_sde_analytic.likelihood import Bound
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure import Moments
from score_sde_analytic.metrics import Measured, difference, evaluate
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.uncertainty import Estimate

RESULTS = Path("docs/results")
#: What others are compared with: DDPM at all steps.
REFERENCES = (f"{EVEN}: {BETA_TILDE}", f"{EVEN}: {BETA}")
#: What every cell is paired with, at its own number of steps.
PAIRED = f"{EVEN}: {ANALYTIC}"


@dataclass
class Figures:
    """What the page is to say of a data set, and the file that keeps it."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def at(cls, path: Path) -> Figures:
        """With what an earlier run left."""
        return cls(path, read_json(path, KIND) if path.exists() else {})

    def keep(self, **parts: Any) -> None:
        self.content |= plain(parts)
        write_json(self.path, KIND, self.content)


def learn(case: Case, made: Experiment) -> None:
    """The heads that neither the workdir holds nor the package ships, trained on the frozen network."""
    folders = ((networks.head_directory(made.config, made.workdir, kind), kind) for kind in case.heads)
    if not all((folder / f"{kind}.json").is_file() for folder, kind in folders):
        train_head.run(made.config, made.workdir)


def bits(case: Case, made: Experiment, rows: Rows, kept: bool) -> dict[tuple[str, int], Bound]:
    """Of every chain that exists, all in one pass; with `kept` of those that were measured before."""
    chains = {(row.key, k): chain for row in rows.bits() for k in row.steps if (chain := _made(row, k)) is not None}
    data = made.splits.some("test", case.examples)
    folder = made.workdir / "bits"
    named = {cell: f"{digest(cell[0])[:8]}_K{cell[1]}" for cell in chains}
    if kept:
        named = {cell: name for cell, name in named.items() if any(folder.glob(f"{name}-*"))}
    methods = {name: chains[cell] for cell, name in named.items()}
    found = rows.study.evaluate(data, methods, folder, batch_size=case.batch)
    return {cell: found[name] for cell, name in named.items()}


def _made(row: Row, steps: int) -> Any:
    """What a row is at so many steps; None where it cannot be."""
    try:
        return row.make(steps)
    except InputError:  # the lattice has fewer times
        return None


def compared(
    cells: Mapping[tuple[str, int], Any], worth: Callable[[Any], float], apart: Callable[[Any, Any], Any]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Of every cell, what it is above others, paired: DDPM with all steps, and with as many Analytic-DDPM and our best."""
    best: dict[int, tuple[str, int]] = {}
    for key, steps in cells:
        if key.startswith(OURS) and (steps not in best or worth(cells[key, steps]) < worth(cells[best[steps]])):
            best[steps] = key, steps

    def above(cell: Any, other: tuple[str, int] | None) -> Any:
        return None if other not in cells else apart(cell, cells[other])

    return {
        (key, steps): {
            "above": {name: above(cell, (name, TABLE)) for name in REFERENCES},
            "paired": above(cell, (PAIRED, steps)),
            "ours": above(cell, best.get(steps)),
        }
        for (key, steps), cell in cells.items()
    }


def told_bits(found: Mapping[tuple[str, int], Bound]) -> dict[str, Any]:
    """By row and number of steps."""

    def apart(one: Bound, other: Bound) -> Estimate:
        return Estimate.of(one.per_example - other.per_example)

    others = compared(found, lambda bound: bound.total.value, apart)
    rows: dict[str, dict[str, Any]] = {}
    for (key, steps), bound in found.items():
        rows.setdefault(key, {})[str(steps)] = {"value": bound.total, **others[key, steps]}
    return rows


@dataclass(frozen=True)
class Gallery:
    """Samples and what they are worth, kept one by one.

    Attributes:
        count: of samples.
        judge: their reference and metrics.
        kept: judge only what was drawn before.
    """

    case: Case
    made: Experiment
    judge: Judge
    kept: bool
    known: dict[tuple[str, int], dict[str, Measured]] = field(default_factory=dict)

    def measure(self, row: Row, steps: int) -> None:
        """Draw what is lacking, and judge it; a sampler that diverges has no value."""
        plan = _made(row, steps)
        if plan is None:
            return
        try:
            x = self._drawn(plan)
        except RunError as error:
            print(f"{row.key}, K = {steps}: {error}", flush=True)
            return
        if x is None:
            return
        shown = self.judge.shown(x)
        self.known[row.key, steps] = {
            name: value
            for reference, metrics in self.judge.spaces
            for name, value in evaluate(metrics, shown, reference).items()
        }

    def _drawn(self, plan: SamplingPlan) -> Tensor | None:
        """All samples; what a shorter run left is their beginning. None where they may not be drawn."""
        marks = {"sampler": plan.sampler.config(), "steps": plan.sampler.fingerprints(plan.grid), "times": plan.grid.times}
        asked = plain(marks | plan.beginning | {"network": plan.sampler.model.fingerprint()})
        path = self.made.workdir / "samples" / f"{digest(asked)[:16]}.safetensors"
        parts: list[Tensor] = []
        if path.exists():
            arrays, _ = load_arrays(path, "samples", {"samples": "float32 ..."}, {"asked": dict})
            parts.append(torch.from_numpy(arrays["samples"]))
        have = sum(map(len, parts))
        if have < self.case.count and self.kept:
            return None
        if have < self.case.count:
            parts.append(plan(range(have, self.case.count), 0, self.case.batch))
            save_arrays(path, {"samples": torch.cat(parts).numpy()}, {"kind": "samples", "asked": asked})
        return torch.cat(parts)[: self.case.count]

    def told(self) -> dict[str, Any]:
        """By row, number of steps and metric."""
        rows: dict[str, dict[str, Any]] = {}
        for metric in self.judge.columns:
            cells = {cell: values[metric] for cell, values in self.known.items()}
            others = compared(cells, lambda value: value.value, lambda a, b: _told(difference(a, b)))
            for (key, steps), value in cells.items():
                row = rows.setdefault(key, {}).setdefault(str(steps), {})
                row[metric] = {"value": _told(value), **others[key, steps]}
        return rows


def _told(value: Measured) -> list[float]:
    return [value.value, value.stderr, value.low, value.high]


def loud(moments: Moments) -> float | None:
    """The highest log-SNR at which E||eps_hat||^2 / d is above 1, as no exact score's is; None where it nowhere is."""
    above = moments.log_snr[moments.noise_power - BEYOND * moments.stderr("noise_power") > 1.0]
    return float(above.max()) if len(above) else None


def in_order(rows: Iterable[Row]) -> Iterator[tuple[Row, int]]:
    """DDPM's usual variance with all steps, then few steps of all, then more: a run that ends early has the better part."""
    lines = list(rows)
    first = [(row, TABLE) for row in lines if row.key == REFERENCES[0]]
    others = [(row, k) for k in sorted({k for row in lines for k in row.steps}) for row in lines if k in row.steps]
    known = {(row.key, k) for row, k in first}
    yield from first
    yield from ((row, k) for row, k in others if (row.key, k) not in known)


def measure(name: str, case: Case, places: Places, args: argparse.Namespace) -> None:
    """All of a data set, into its file."""
    workdir = args.workdir / name
    workdir.mkdir(parents=True, exist_ok=True)
    made = case.experiment(places, workdir)
    figures = Figures.at(args.output / f"papers_{name}.json")
    if not args.kept:
        learn(case, made)
    moments, shape = made.study.moments, made.splits.held("test", 1).shape[1:]
    figures.keep(shape=shape, evaluations=moments.evaluations, loud=loud(moments))
    rows = Rows(made.study, case.bases, case.heads, workdir)
    if "bits" in args.parts:
        figures.keep(examples=case.examples, bits=told_bits(bits(case, made, rows, args.kept)))
    if "samples" in args.parts:
        gallery = Gallery(case, made, case.judge(made.splits), args.kept)
        for row, steps in in_order(rows.samplers()):
            if steps <= args.most or (row.key in REFERENCES and steps == TABLE):
                gallery.measure(row, steps)
                figures.keep(count=case.count, samples=gallery.told())
                print(f"{name}: {row.key}, K = {steps}", flush=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=CASES, default=[], help="data sets to measure")
    parser.add_argument("--weights", type=Path, help="folder of weights that are not shipped")
    parser.add_argument("--images", type=Path, help="folder of images that are not shipped")
    parser.add_argument("--parts", nargs="+", choices=("bits", "samples"), default=["bits", "samples"])
    parser.add_argument("--examples", type=int, default=0, help="whose bits are measured; 0 for what suits the data")
    parser.add_argument("--count", type=int, default=0, help="samples of a cell; 0 for what suits the data")
    parser.add_argument("--most", type=int, default=STEPS[-1], help="steps of samples; DDPM at all 1000 is always there")
    parser.add_argument("--kept", action="store_true", help="tell what the workdir holds, and measure nothing")
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    parser.add_argument("--workdir", type=Path, default=Path("results/papers"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in args.data:
        case = CASES[name]
        case = replace(case, examples=args.examples or case.examples, count=args.count or case.count)
        measure(name, case, Places(args.weights, args.images), args)
    if args.page:
        write_text(args.output / "papers.md", page(args.output))


if __name__ == "__main__":
    main()
