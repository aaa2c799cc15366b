"""A cell of a comparison: one solver on one grid within one budget; measured once, kept, and marked where it fails."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic import processes
from score_sde_analytic.compare.clock import bare_seconds, timed
from score_sde_analytic.compare.failures import FAILURES, PASSING, reason
from score_sde_analytic.compare.fidelity import Fidelity
from score_sde_analytic.compare.likelihoods import Likelihoods
from score_sde_analytic.compare.registry import Bits, Options, SolverName, cost, steps_within
from score_sde_analytic.compare.search import Search
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import RunError
from score_sde_analytic.files import finite, load_arrays, read_json, save_arrays, write_json
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.metrics import Measured
from score_sde_analytic.models.free import FreeModel, LinearDenoiser
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.report import drawing
from score_sde_analytic.samplers import Sampler
from score_sde_analytic.samplers.base import prior_sample
from score_sde_analytic.study import GridName, Study
from score_sde_analytic.study.plan import SamplingPlan

#: A sample beyond so many times the data's range has exploded.
EXPLODED = 10.0
#: Bare network calls whose median a run is compared with.
BARE = 7
#: What a cell keeps of a metric.
KEPT = ("value", "stderr", "low", "high")
#: Fields of a cell that differ between runs.
TIMINGS = ("seconds_per_sample", "ratio_to_bare")
KIND = "cell"
USER = "a comparison of solvers"
#: What a finished cell holds at least.
_ANY = {
    "solver": str,
    "grid": str,
    "times": [float],
    "metrics": {str: {str: (float, None)}},
    "bits": object,
    "sheet": (str, None),
}
_FIXED = {"budget": int, "steps": int, "tolerance": None}
_ADAPTIVE = {"budget": (int, None), "steps": (int, None), "tolerance": float}
_OK = {"status": {"ok"}, "calls": float}
_FAILED = {"status": {"failed"}, "calls": (float, None)}
SHAPE = tuple(_ANY | kind | end for kind in (_FIXED, _ADAPTIVE) for end in (_OK, _FAILED))
#: An adaptive solver takes the ends of this grid as its interval.
INTERVAL = GridName("log_snr")
#: What the free model's cell goes by.
FREE = "free"


@dataclass(frozen=True)
class Job:
    """What a cell is asked: a grid and a budget K of network calls; or, of an adaptive solver, a tolerance.

    Attributes:
        searched: whether the best grid is to be chosen on the metric itself (`search.py`).
    """

    solver: SolverName
    grid: GridName | None = None
    budget: int | None = None
    tolerance: float | None = None
    searched: bool = False

    @property
    def where(self) -> str:
        """The grid as tables name it."""
        if self.searched:
            return "best"
        if self.solver.entry.own is not None:
            return "own"
        return "interval" if self.grid is None else str(self.grid)

    @property
    def title(self) -> str:
        """The job in a few words."""
        return f"{self.solver} {self.where} " + (f"K={self.budget}" if self.budget else f"tol={self.tolerance:g}")

    @property
    def stem(self) -> str:
        """A name that its files can have."""
        return re.sub(r"[^A-Za-z0-9_.=-]+", "_", self.title)

    def content(self) -> dict[str, Any]:
        """The job as its cell tells it."""
        return {"solver": str(self.solver), "grid": self.where, "budget": self.budget, "tolerance": self.tolerance}


@dataclass(frozen=True)
class Sampling:
    """How the samples of every cell are drawn.

    Attributes:
        seed, count, batch_size: of the samples.
        options: of the samplers.
        start: a Gaussian that samples start from; None for the prior at t = 1.
    """

    seed: int
    count: int
    batch_size: int
    options: Options
    start: LinearDenoiser | None = None


@dataclass(frozen=True)
class Drawn:
    """Samples with what they cost: per sample, and in time over that of as many bare calls."""

    x: Tensor
    calls: float
    vector_products: float
    seconds: float
    ratio: float


@dataclass(frozen=True, eq=False)
class Bench:
    """What all cells share.

    Attributes:
        study: the measured network.
        data: examples, in whose range points are shown.
        declared: range of the data.
        fidelity: what samples are compared by.
        likelihoods: bits/dim of solvers that have any.
        grid: (name, steps) -> times, from where all begin to the first time of all solvers.
        sampling: how samples are drawn.
        sheet: samples kept per cell.
        identity: plain data that decide every cell.
        folder: of the cells.
        search: how a grid is chosen on the metric itself; None where none is.
    """

    study: Study
    data: Tensor
    declared: DataRange
    fidelity: Fidelity
    likelihoods: Likelihoods
    grid: Callable[[GridName, int], Grid]
    sampling: Sampling
    sheet: int
    identity: Mapping[str, Any]
    folder: Path
    search: Search | None = None

    def cell(self, job: Job) -> dict[str, Any]:
        """The finished cell, read where it was kept."""
        failed: BaseException | None = None
        base = job.content()
        path = self.folder / f"{job.stem}-failed.json"
        try:
            plan, choice = self._chosen(job)
            base |= {} if choice is None else {"choice": choice}
            steps = job.budget and plan.grid.steps
            base |= {"steps": steps, "calls": cost(plan.sampler, plan.grid), "times": list(plan.grid.times)}
            path = self.folder / f"{job.stem}-{self.digest(plan)}.json"
            kept = self._kept(path)
            if kept is not None:
                return kept
            content = base | self._measured(plan, job.solver.entry.bits, path)
        except FAILURES as error:
            failed = error
            content = _failure(error) | base
        if not isinstance(failed, PASSING) and "-failed" not in path.name:
            write_json(path, KIND, content)
        return content

    def _kept(self, path: Path) -> dict[str, Any] | None:
        """A cell that was finished before, if its files are whole."""
        try:
            content = read_json(path, KIND, SHAPE)
            if content["sheet"] is not None:
                arrays, _ = load_arrays(path.with_suffix(".safetensors"), "samples")
                drawing("comparison", USER).readable(self.folder.parent / content["sheet"])
                if not all(any(_is_of(name, metric) for name in arrays) for metric in content["metrics"]):
                    return None  # of a version that could not compare in pairs
            return content
        except Exception:  # whatever a damaged picture makes its reader raise
            return None

    def planned(self, job: Job) -> SamplingPlan:
        """The sampler on its grid, of as many steps as the budget lets it take."""
        return self._chosen(job)[0]

    def plan(self, sampler: Sampler[Any], grid: Grid) -> SamplingPlan:
        """A sampler on a grid, with the start of all."""
        return self.study.plan(sampler, grid, start=self.sampling.start)

    def _chosen(self, job: Job) -> tuple[SamplingPlan, dict[str, Any] | None]:
        """(sampler on its grid, how the grid was chosen if it was on the metric itself)."""
        entry = job.solver.entry
        options = self.sampling.options
        if job.tolerance is not None:
            sampler = entry.make(self.study, replace(options, tolerance=job.tolerance))
            return self.plan(sampler, self.grid(INTERVAL, 2)), None
        if entry.own is not None:
            return entry.own(self.study, job.budget, options), None  # type: ignore[arg-type]
        sampler = entry.make(self.study, options)
        steps = steps_within(sampler, job.budget)  # type: ignore[arg-type]
        if job.searched and self.search is not None:
            grid, told = self.search.best(sampler, steps)
            return self.plan(sampler, grid), told
        return self.plan(sampler, self.grid(job.grid, steps)), None  # type: ignore[arg-type]

    def digest(self, plan: SamplingPlan) -> str:
        """A short name of all that decides a cell."""
        sampler, grid = plan.sampler, plan.grid
        own = {"sampler": sampler.config(), "covariances": sampler.fingerprints(grid), "times": grid.times}
        return digest(json.dumps(dict(self.identity) | own | plan.beginning, sort_keys=True, default=str))[:12]

    def _measured(self, plan: SamplingPlan, bits: Bits | None, path: Path) -> dict[str, Any]:
        drawn = self._drawn(plan)
        return {
            "calls": drawn.calls,
            "vector_products": drawn.vector_products,
            "status": "ok",
            "reason": plan.reason or None,
            "seconds_per_sample": drawn.seconds,
            "ratio_to_bare": drawn.ratio,
            **self._valued(drawn.x, path),
            **self._bits(plan.sampler, plan.grid, bits),
        }

    def _valued(self, x: Tensor, path: Path) -> dict[str, Any]:
        """The metrics of samples, some of which are kept beside what paired differences need."""
        values = self.fidelity.measure(x)
        kept = x[: shown(self.sheet, x)].cpu()
        arrays = {"samples": kept.numpy()} | {
            f"{name}/{side}": part for name, value in values.items() for side, part in enumerate(value.replicates)
        }
        save_arrays(path.with_suffix(".safetensors"), arrays, {"kind": "samples"})
        drawing("comparison", USER).sheet(path.with_suffix(".png"), kept, self.data, self.declared)
        return {
            "metrics": {name: {part: finite(getattr(m, part)) for part in KEPT} for name, m in values.items()},
            "sheet": f"{self.folder.name}/{path.with_suffix('.png').name}",
        }

    def measured(self, cell: Mapping[str, Any]) -> dict[str, Measured]:
        """The metrics of a finished cell as they were measured, ready for differences."""
        arrays, _ = load_arrays((self.folder.parent / cell["sheet"]).with_suffix(".safetensors"), "samples")
        found = {}
        for metric, value in cell["metrics"].items():
            parts = tuple(arrays[name] for name in sorted(arrays) if _is_of(name, metric))
            numbers = {part: math.nan if value[part] is None else value[part] for part in KEPT}
            found[metric] = Measured(**numbers, plug_in=math.nan, replicates=parts)
        return found

    def free(self, free: FreeModel) -> dict[str, Any]:
        """The cell of K = 0: draws of a free model, made from the same noise without a network call."""
        own = digest(json.dumps(dict(self.identity) | {FREE: free.config()}, sort_keys=True, default=str))[:12]
        path = self.folder / f"{FREE}-{own}.json"
        kept = self._kept(path)
        if kept is not None:
            return kept
        study = self.study
        sampling = self.sampling
        noise = SampleNoise(sampling.seed, range(sampling.count), study.device)
        like = torch.zeros(sampling.count, *study.shape, device=study.device, dtype=study.dtype)
        x = prior_sample(study.schedule, noise, like, free, 0.0)
        base = {"solver": FREE, "grid": "none", "budget": 0, "tolerance": None, "steps": 0, "times": [], "calls": 0.0}
        content = base | {"status": "ok", "reason": None, "bits": None} | self._valued(x, path)
        write_json(path, KIND, content)
        return content

    def _drawn(self, plan: SamplingPlan) -> Drawn:
        study = self.study
        count = self.sampling.count
        device = torch.device(study.device)
        size = min(self.sampling.batch_size, count)
        like = torch.zeros(size, *study.shape, device=device, dtype=study.dtype)
        plan(processes.count(), self.sampling.seed, 1)  # libraries load, in every process, before the clock runs
        bare = bare_seconds(study.model_of(range(size)), like, BARE) / size
        with study.model.metered() as receipt:
            x, seconds = timed(lambda: plan(count, self.sampling.seed, size), device)
        seconds = sum(processes.exchanged(seconds))
        calls = receipt.evaluations / count
        products = receipt.vector_products / count
        _check_claim(plan.sampler, plan.grid, calls, products)
        self._check_bounded(x)
        total = calls + products
        per_sample = seconds / count
        return Drawn(x, int(total) if total == int(total) else total, products, per_sample, per_sample / (total * bare))

    def _check_bounded(self, x: Tensor) -> None:
        largest = float(x.abs().max())
        if not largest <= EXPLODED * max(abs(self.declared.lo), abs(self.declared.hi)):
            raise RunError(f"exploded: a sample reaches {largest:.3g}, beyond {EXPLODED:g} times the data's range")

    def _bits(self, sampler: Sampler[Any], grid: Grid, bits: Bits | None) -> dict[str, Any]:
        """Bits/dim where the solver has any; why not, where it should have had."""
        if bits is None:
            return {"bits": None}
        try:
            return {"bits": bits(self.likelihoods, sampler, grid)}
        except (*FAILURES, TypeError) as error:
            return {"bits": None, "bits_reason": reason(error)}


def _is_of(name: str, metric: str) -> bool:
    """Whether an array holds replicates of a metric."""
    return name.rpartition("/")[0] == metric


def _check_claim(sampler: Sampler[Any], grid: Grid, calls: float, products: float) -> None:
    """A solver makes the calls that it says; with vector products, whose number may depend on the state, at most as many."""
    claimed = sampler.calls(grid)
    if claimed is None:
        return
    branches = sampler.model.branches
    most = branches * (claimed + sampler.extra_calls(grid))
    if calls != claimed if most == claimed else calls + products > most:
        raise RuntimeError(f"{sampler.name} made {calls + products:g} network calls per sample where it claims {most}")


def shown(sheet: int, x: Float[Tensor, " n *dims"]) -> int:
    """Samples that are kept to be looked at: points are smaller than images."""
    return sheet if x.ndim == 4 else 20 * sheet


def _failure(error: BaseException) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(("steps", "calls", "bits", *TIMINGS, "sheet"))
    return empty | {"status": "failed", "reason": reason(error), "metrics": {}}
