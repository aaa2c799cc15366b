"""A cell of --mode=compare: one solver on one grid within one budget; measured once, kept, and marked where it fails."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde_analytic.files import load_arrays, save_arrays, write_text
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood import Chain, Flow, Method, price
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.process.kernel import kernels
from score_sde_analytic.report import comparison
from score_sde_analytic.samplers import Ancestral, PredictorCorrector, ProbabilityFlow, Sampler, generate

from . import build, evaluate, solvers
from .experiment import Experiment
from .fidelity import Fidelity

T = TypeVar("T")

#: A sample beyond so many times the data's range has exploded.
EXPLODED = 10.0
#: What a solver or a metric may raise; anything else is a defect of the programme and ends it.
FAILURES = (RuntimeError, ValueError, ArithmeticError, ImportError, MemoryError)
#: Failures of the machine, not of the solver: the cell is tried again by the next run.
PASSING = (ImportError, MemoryError, torch.OutOfMemoryError)
#: Bare network calls whose median a run is compared with.
BARE = 7
#: What a cell keeps of a metric.
PARTS = ("value", "stderr", "low", "high")
#: Fields of a cell that differ between runs.
TIMINGS = ("seconds_per_sample", "ratio_to_bare")


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """(result, seconds): time of the GPU between two events, or the process's own time on a CPU, whoever else uses it."""
    if device.type != "cuda":
        start = time.process_time()
        result = work()
        return result, time.process_time() - start
    with torch.cuda.device(device):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        result = work()
        last.record()
        torch.cuda.synchronize()
    return result, first.elapsed_time(last) / 1e3


@torch.no_grad()
def bare_seconds(model: ScoreModel, like: Tensor, calls: int) -> float:
    """Time of one network call on a batch like this, without anything around it; the median of so many after a first one."""
    level = model.schedule.level(0.5)
    labels = torch.full((len(like),), float(model.times.label(level)), dtype=torch.float32, device=like.device)
    if isinstance(model.times.label(level), int):
        labels = labels.long()
    seconds = [timed(lambda: model.net(like, labels), like.device)[1] for _ in range(calls + 1)]
    return float(np.median(seconds[1:]))


def settings_of(sampler: Any, grid: Grid, model: ScoreModel) -> list[Any]:
    """Fingerprints of the covariances of a sampler and of its predictor."""
    found = settings_of(sampler.predictor, grid, model) if isinstance(sampler, PredictorCorrector) else []
    covariance = getattr(sampler, "covariance", None)
    if covariance is not None:
        levels = grid.levels(model.schedule)
        found.append(covariance.fingerprint(kernels(levels, getattr(sampler, "eta", 1.0)), levels[:-1]))
    return found


@dataclass(frozen=True)
class Job:
    """What a cell is asked: a budget K of network calls, or a tolerance."""

    solver: str
    grid: str
    budget: int | None = None
    tolerance: float | None = None

    @property
    def title(self) -> str:
        return f"{self.solver} {self.grid} " + (f"K={self.budget}" if self.budget else f"tol={self.tolerance:g}")

    @property
    def stem(self) -> str:
        return re.sub(r"[^A-Za-z0-9_.=-]+", "_", self.title)


@dataclass(frozen=True)
class Bench:
    """What all cells share.

    Attributes:
        grid: (name, steps) -> times, from t = 1 to the first time of all solvers.
        identity: plain data that decide every cell.
        settings: config.compare, complete.
    """

    experiment: Experiment
    fidelity: Fidelity
    grid: Callable[[str, int], Grid]
    identity: Mapping[str, Any]
    folder: Path
    settings: ConfigDict

    def cell(self, job: Job) -> dict[str, Any]:
        """The finished cell, read where it was kept."""
        failed: BaseException | None = None
        base: dict[str, Any] = {"solver": job.solver, "grid": job.grid, "budget": job.budget, "tolerance": job.tolerance}
        path = self.folder / f"{job.stem}-failed.json"
        try:
            sampler, grid = self.planned(job)
            base |= {"steps": job.budget and grid.steps, "calls": solvers.cost(sampler, grid), "times": list(grid.times)}
            path = self.folder / f"{job.stem}-{self._digest(sampler, grid)}.json"
            kept = self._kept(path)
            if kept is not None:
                return kept
            content = base | self._measured(sampler, grid, path)
        except FAILURES as error:
            failed = error
            content = _failure(error) | base
        if not isinstance(failed, PASSING) and "-failed" not in path.name:
            write_text(path, json.dumps(content, indent=1) + "\n")
        return content

    def _kept(self, path: Path) -> dict[str, Any] | None:
        """A cell that was finished before, if its files are whole."""
        try:
            content = json.loads(path.read_text())
            if content["sheet"] is not None:
                load_arrays(path.with_suffix(".safetensors"), "samples")
                plt.imread(self.folder.parent / content["sheet"])
            return content if {"solver", "grid", "status", "metrics", "calls"} <= set(content) else None
        except (OSError, ValueError, KeyError, TypeError, SyntaxError):
            return None

    def planned(self, job: Job) -> tuple[Sampler[Any], Grid]:
        """The sampler and its grid, of as many steps as the budget lets it take."""
        entry = solvers.solver(job.solver)
        if job.budget is None:
            return entry.make(self.experiment, job.tolerance), self.grid("log_snr", 2)
        sampler = entry.make(self.experiment)
        return sampler, self.grid(job.grid, solvers.steps_within(sampler, job.budget))

    def _digest(self, sampler: Sampler[Any], grid: Grid) -> str:
        marks = settings_of(sampler, grid, self.experiment.model)
        own = {"sampler": sampler.config(), "covariances": marks, "times": grid.times}
        return digest(json.dumps(dict(self.identity) | own, sort_keys=True, default=str))[:12]

    def _measured(self, sampler: Sampler[Any], grid: Grid, path: Path) -> dict[str, Any]:
        x, calls, extra, seconds, ratio = self._samples(sampler, grid)
        values = self.fidelity.measure(x)
        result = {
            "calls": calls,
            "vector_products": extra,
            "status": "ok",
            "reason": None,
            "metrics": {
                name: {k: finite(getattr(m, k)) for k in ("value", "stderr", "low", "high")} for name, m in values.items()
            },
            **self._bits(sampler, grid),
            "seconds_per_sample": seconds,
            "ratio_to_bare": ratio,
        }
        kept, declared = x[: shown(self.settings.sheet, x)].cpu(), self.experiment.splits.data_range
        save_arrays(path.with_suffix(".safetensors"), {"samples": kept.numpy()}, {"kind": "samples"})
        comparison.sheet(path.with_suffix(".png"), kept, self.experiment.splits.test, declared)
        return result | {"sheet": f"{self.folder.name}/{path.with_suffix('.png').name}"}

    def _samples(self, sampler: Sampler[Any], grid: Grid) -> tuple[Tensor, int | float, float, float, float]:
        """(samples, calls and vector products per sample, seconds per sample, time over that of as many bare calls)."""
        experiment, settings = self.experiment, self.settings
        model, test = experiment.model, experiment.splits.test
        options = {"batch_size": min(settings.batch_size, settings.count), "device": experiment.device, "dtype": test.dtype}
        like = torch.zeros(options["batch_size"], *test.shape[1:], device=experiment.device, dtype=test.dtype)
        generate(sampler, grid, tuple(test.shape[1:]), 1, settings.seed, **options)  # libraries load before the clock runs
        bare = bare_seconds(model, like, BARE) / len(like)
        with model.metered() as cost:
            x, seconds = timed(
                lambda: generate(sampler, grid, tuple(test.shape[1:]), settings.count, settings.seed, **options),
                experiment.device,
            )
        calls = cost.evaluations / settings.count
        extra = cost.vector_products / settings.count
        claimed, priced = sampler.calls(grid), solvers.cost(sampler, grid)
        if claimed is not None and priced is not None and (calls != claimed if priced == claimed else calls + extra > priced):
            raise RuntimeError(f"{sampler.name} made {calls + extra:g} network calls per sample where it claims {priced}")
        self._bounded(x)
        total = calls + extra
        per_sample = seconds / settings.count
        return x, int(total) if total == int(total) else total, extra, per_sample, per_sample / (total * bare)

    def _bounded(self, x: Tensor) -> None:
        declared = self.experiment.splits.data_range
        largest, most = float(x.abs().max()), EXPLODED * max(abs(declared.lo), abs(declared.hi))
        if not largest <= most:
            raise RuntimeError(f"exploded: a sample reaches {largest:.3g}, beyond {EXPLODED:g} times the data's range")

    def _bits(self, sampler: Sampler[Any], grid: Grid) -> dict[str, Any]:
        """Bits/dim where the solver is a chain with eta = 1, or an adaptive flow; why not, where it should have been."""
        try:
            found = self._bound(sampler, grid)
        except (*FAILURES, TypeError) as error:
            return {"bits": None, "bits_reason": _reason(error)}
        return {"bits": found}

    def _bound(self, sampler: Sampler[Any], grid: Grid) -> dict[str, Any] | None:
        experiment, method = self.experiment, self._method(sampler, grid)
        if method is None or self.settings.bits == "none":
            return None
        if isinstance(method, Chain) and self.settings.bits == "predicted":
            if not experiment.study.priceable(method):
                return None
            total = price(experiment.study.moments, experiment.schedule, {"": method}, experiment.study.statistics)[""].total
            return {"value": finite(total.value), "stderr": finite(total.stderr), "kind": "predicted"}
        total = evaluate.measure(experiment, {"compare": method})["compare"].total
        kind = "measured" if isinstance(method, Chain) else "flow"
        return {"value": finite(total.value), "stderr": finite(total.stderr), "kind": kind}

    def _method(self, sampler: Sampler[Any], grid: Grid) -> Method | None:
        experiment, t_1 = self.experiment, grid.times[-2]
        if isinstance(sampler, Ancestral) and sampler.eta == 1.0:
            return Chain(grid, sampler.covariance, experiment.study.decoder(t_1))
        if isinstance(sampler, ProbabilityFlow) and isinstance(sampler.solver, Adaptive) and self.settings.flow:
            flow = experiment.config.evaluate.flow
            entry, divergence = build.entry(flow, experiment.study.decoder(t_1)), build.divergence(flow)
            rest = flow.importance_samples, sampler.variable, flow.examples_per_block
            return Flow(t_1, entry, divergence, sampler.solver, *rest)
        return None


def shown(sheet: int, x: Tensor) -> int:
    """Samples that are kept to be looked at: points are smaller than images."""
    return sheet if x.ndim == 4 else 20 * sheet


def finite(value: float) -> float | None:
    """A number that JSON has."""
    return float(value) if math.isfinite(value) else None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _failure(error: BaseException) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(("steps", "calls", "bits", *TIMINGS, "sheet"))
    return empty | {"status": "failed", "reason": _reason(error), "metrics": {}}
