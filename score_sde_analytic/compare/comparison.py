"""Every solver on the same network, from the same noise, within the same budgets of network calls.

Every solver takes as many steps as a budget K lets it: K for one call a step, (K + 1) / 2 for Heun, and so on. All grids end at
the same first time t_1, from which every solver steps to the data by x0_hat. Every cell is kept when it is done; a comparison
that was interrupted goes on, and a cell that fails is marked with its reason.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.compare import clock, fidelity, paths
from score_sde_analytic.compare.cells import INTERVAL, USER, Bench, Job, Sampling, shown
from score_sde_analytic.compare.empirical import statistics
from score_sde_analytic.compare.examples import SPLITS, Examples, Labelled
from score_sde_analytic.compare.fidelity import Fidelity
from score_sde_analytic.compare.grids import ABOUT, SharedGrids
from score_sde_analytic.compare.likelihoods import Likelihoods
from score_sde_analytic.compare.own import own
from score_sde_analytic.compare.paired import Pairs
from score_sde_analytic.compare.registry import SolverName, covariances
from score_sde_analytic.compare.search import Search
from score_sde_analytic.compare.settings import ComparisonSettings
from score_sde_analytic.covariance.isotropic import BetaTilde
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import versions
from score_sde_analytic.files import plain, write_text
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interruption import noted
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure import EmpiricalStatistics
from score_sde_analytic.models.compiled import compiled
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.report import comparison_tables, drawing
from score_sde_analytic.samplers import Ancestral, Sampler
from score_sde_analytic.study import CovarianceName, Study
from score_sde_analytic.study.free import GAUSSIAN
from score_sde_analytic.study.names import AUTO
from score_sde_analytic.study.plan import SamplingPlan


@dataclass(frozen=True)
class Result:
    """A finished comparison; printed, the main metric of every solver.

    Attributes:
        content: all that compare.json holds: "solvers", "metrics", "cells" with their "metrics", "bits", "calls", ..
        written: the files, the page for a browser, compare.html, among them.
    """

    content: dict[str, Any]
    written: tuple[Path, ...]

    def __str__(self) -> str:
        return comparison_tables.summary(self.content)


def compare(
    study: Study,
    examples: Examples,
    settings: ComparisonSettings | None = None,
    folder: str | Path = "compare",
    *,
    bounds: str | Path | None = None,
    command: str = "",
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Result:
    """Measure all cells that are not there yet; write tables, pictures, a page and compare.json.

    Args:
        study: the measured network; the pass must have recorded the bases of covariances that solvers name.
        examples: what samples are compared with, and what bounds are measured on.
        settings: solvers, budgets, grids, ..; a quick comparison where not given.
        folder: that keeps every cell: a comparison that was interrupted goes on.
        bounds: folder of measured bounds, shared with other evaluations of the study; FOLDER/bounds where not given.
        command, config: how this was asked, for the page.

    Raises:
        InputError: unknown names, settings that make no comparison, or examples of another shape than the study's.
        MissingExtraError: what draws is not installed.
    """
    drawing("page", USER)  # before any work
    asked = Comparison.of(study, examples, settings or ComparisonSettings(), Path(folder), bounds, progress)
    asked.check()
    content = asked.content(asked.cells(), command, config)
    return Result(content, tuple(write(content, Path(folder))))


def write(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """compare.json, tables, pictures and the page of a comparison; returns their paths."""
    data, table, html = (folder / f"compare.{kind}" for kind in ("json", "md", "html"))
    write_text(data, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(table, comparison_tables.text(content) + "\n")
    drawn = pictures(content, folder)
    drawing("page", USER).write(html, content, folder)
    return [data, table, *drawn, html]


def pictures(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """The main metric and bits/dim against calls, samples side by side, and paths."""
    comparison = drawing("comparison", USER)
    main = content["metrics"][0]
    grids = dict.fromkeys(cell["grid"] for cell in content["cells"] if cell["budget"])
    drawn = [
        comparison.quality(folder / f"{main['name']}.png", content, main),
        comparison.bits(folder / "bits.png", content),
        *(comparison.sheets(folder / f"samples_{grid}.png", content, folder, grid) for grid in grids),
    ]
    if content["paths"] and content["paths"]["solvers"]:
        drawn.append(comparison.paths(folder / "paths.png", content))
    return [path for path in drawn if path is not None]


@dataclass(frozen=True, eq=False)
class Comparison:
    """One comparison: its cells and all that they share.

    Attributes:
        study: the measured network.
        examples: what samples are compared with.
        settings: complete.
        folder: of the result; its cells are in FOLDER/cells.
        bounds: folder of measured bounds.
        progress: whether to show a bar.
    """

    study: Study
    examples: Examples
    settings: ComparisonSettings
    folder: Path
    bounds: Path
    progress: bool = True

    @classmethod
    def of(
        cls,
        study: Study,
        examples: Examples,
        settings: ComparisonSettings,
        folder: Path,
        bounds: str | Path | None = None,
        progress: bool = True,
    ) -> Comparison:
        """The comparison that the settings ask for, with its network compiled where they say so.

        Raises:
            InputError: unknown names, settings that make no comparison, or examples of another shape than the study's.
        """
        complete = settings.resolved()
        if examples.shape != study.shape:
            raise InputError(f"the examples have shape {examples.shape}, those of the study {study.shape}; pass the same data")
        if complete.compile:
            study = replace(study, model=compiled(study.model, complete.compile))
        return cls(study, examples, complete, folder, Path(bounds or folder / "bounds"), progress)

    @property
    def declared(self) -> DataRange:
        """The range of the data; of continuous data, that of the test examples."""
        test = self.examples.test
        return self.study.data_range or DataRange(float(test.min()), float(test.max()))

    @property
    def device(self) -> torch.device:
        """Of samples."""
        return torch.device(self.study.device)

    @property
    def measured_on(self) -> Labelled:
        """The examples of bounds."""
        return self.settings.evaluation.part(self.examples.labelled("test"))

    @cached_property
    def grids(self) -> SharedGrids:
        """The times of every grid."""
        settings = self.settings
        covariance = CovarianceName.parse(settings.grid_variance)
        return SharedGrids(self.study, covariance, max(settings.calls), settings.log_snr_max, self.start)

    @property
    def start(self) -> LinearDenoiser | None:
        """What samples start from; None for the prior at t = 1."""
        return self.examples.free if self.settings.start == GAUSSIAN else None

    def check(self) -> None:
        """Find names without a grid or a covariance before the work."""
        for name in self.settings.grid_names:
            self.grids(name, max(self.settings.calls))
        for covariance in covariances(self.settings.solvers):
            self.study.covariance(covariance)

    # --- cells ---

    def jobs(self) -> list[Job]:
        """All cells, in the order of the table."""
        return [job for name in self.settings.solver_names for job in self._jobs(name)]

    def _jobs(self, name: SolverName) -> list[Job]:
        settings = self.settings
        if name.entry.adaptive:
            return [Job(name, tolerance=value) for value in settings.tolerances]
        if name.entry.own:
            return [Job(name, budget=budget) for budget in settings.calls]
        own = () if name.entry.grid is None else (name.entry.grid,)
        grids = dict.fromkeys([*settings.grid_names, *own])
        jobs = [Job(name, grid, budget) for grid in grids for budget in settings.calls]
        return jobs + [Job(name, budget=budget, searched=True) for budget in settings.calls if settings.search]

    @cached_property
    def fidelity(self) -> Fidelity:
        """What samples are compared by."""
        settings = self.settings
        examples = self.examples
        if examples.exact is not None:
            return fidelity.of_mixture(examples.exact, settings.reference_examples, self.study.seed, settings.groups)
        name = settings.features or fidelity.usual_features(examples)
        features = fidelity.features(name, examples.train, self.study.settings.structure.pca_rank or None)
        reference = torch.cat([SPLITS[part](examples) for part in settings.reference])[: settings.reference_examples]
        return fidelity.of_examples(reference, features, self.declared, settings.groups, self.device)

    @cached_property
    def likelihoods(self) -> Likelihoods:
        """Bits/dim of solvers that have any."""
        settings = self.settings
        return Likelihoods(self.study, self.measured_on, settings.bits, settings.flow, settings.evaluation, self.bounds)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Plain data that decide every cell."""
        study, settings = self.study, self.settings
        bounded = DataStatistics.of(self.measured_on, max_eigen=0).digest
        return {
            "model": study.model.fingerprint(),
            "moments": digest(json.dumps(study.moments.fingerprint, sort_keys=True)),
            "fidelity": self.fidelity.identity,
            "settings": settings.identity,
            "bound": [study.seed, study.settings.decoder, settings.evaluation.draws, bounded],
            "flow": settings.flow.identity if settings.flow else None,
            "device": self.device.type,
        }

    @cached_property
    def bench(self) -> Bench:
        """Where cells are measured."""
        settings = self.settings
        options = replace(
            settings.options,
            statistics=lambda: self.statistics,
            free=self.examples.free,
            examples=self.examples.validation,
            folder=self.folder / "fewest",
        )
        return Bench(
            study=self.study,
            data=self.examples.test,
            declared=self.declared,
            fidelity=self.fidelity,
            likelihoods=self.likelihoods,
            grid=self.grids,
            sampling=Sampling(settings.seed, settings.count, settings.batch_size, options, self.start),
            sheet=settings.sheet,
            identity=self.identity,
            folder=self.folder / "cells",
            search=self.search if settings.search else None,
        )

    @cached_property
    def statistics(self) -> EmpiricalStatistics:
        """DPM-Solver-v3's, measured once on the examples of the study and kept beside the cells."""
        return statistics(self.study, self.examples.labelled("validation"), self.folder / "cells")

    @cached_property
    def search(self) -> Search:
        """How grids are chosen on the main metric."""
        settings = self.settings
        main = self.fidelity.columns[0]
        return Search(
            firsts=settings.search,
            draw=self._drawn,
            judge=self.fidelity.judge,
            lower=main.better == "lower",
            identity=self.identity | {"metric": main.name} | ({} if self.start is None else {"start": self.start.config()}),
            folder=self.folder / "cells",
            top=self.grids.top,
        )

    def _drawn(self, sampler: Sampler[Any], grid: Grid) -> Float[Tensor, " n *dims"]:
        settings = self.settings
        return self.bench.plan(sampler, grid)(settings.count, settings.seed, min(settings.batch_size, settings.count))

    def cells(self) -> list[dict[str, Any]]:
        """Every cell, measured or found where it was kept."""
        cells: list[dict[str, Any]] = []
        if self.settings.compile:
            self._warm()
        with (
            tqdm(self.jobs(), desc="compare", unit="cell", disable=not self.progress) as bar,
            noted(lambda: f"{len(cells)} of {len(self.jobs())} cells are in {self.bench.folder}"),
        ):
            for job in bar:
                bar.set_postfix_str(job.title)
                cells.append(self.bench.cell(job))
        return cells

    def _warm(self) -> None:
        """Let the compiler see every shape before a clock runs."""
        count = self.settings.count
        sampler = Ancestral(self.study.model, BetaTilde())
        plan = self.bench.plan(sampler, self.grids(INTERVAL, 2))
        plan(count, batch_size=min(self.settings.batch_size, count))

    # --- what is told of them ---

    def content(
        self, cells: list[dict[str, Any]], command: str = "", config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """All that compare.json holds."""
        study = self.study
        settings = self.settings
        examples = self.examples
        difference, size = study.moments.calibration()
        free = self.bench.free(examples.free) | {"label": "the free model alone (linear)"}
        paired = [cell for cell in cells if cell["status"] == "ok" and cell["budget"]]
        content = {
            "title": f"Solvers on {examples.name}",
            "data": self._data(),
            "command": command,
            "config": settings.described() if config is None else config,
            "versions": versions(),
            "seed": settings.seed,
            "model": study.model.fingerprint(),
            "count": settings.count,
            "device": _name(self.device),
            "clock": clock.described(self.device),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": self.fidelity.described(),
            "budgets": settings.calls,
            "tolerances": settings.tolerances,
            "grids": {name: ABOUT.get(name, name) for name in dict.fromkeys(cell["grid"] for cell in cells)},
            "first_log_snr": float(study.schedule.log_snr(self.grids.first)),
            "solvers": [self._described(name) for name in settings.solver_names],
            "cells": cells,
            "free": free,
            "paired": Pairs([*paired, free], self.bench.measured).told(self.fidelity.described(), settings.calls),
            "calibration": study.calibration | {"difference": difference, "in_standard_errors": size},
            "paths": self._paths(),
            "data_sheet": self._data_sheet().name,
        }
        return plain(content)

    def _data(self) -> dict[str, Any]:
        return {
            "name": self.examples.name,
            "shape": self.examples.shape,
            "test_examples": len(self.measured_on),
            "reference_examples": self.fidelity.examples,
            "range": [self.declared.lo, self.declared.hi],
        }

    def _data_sheet(self) -> Path:
        test, count = self.examples.test, shown(self.settings.sheet, self.examples.test)
        return drawing("comparison", USER).sheet(self.folder / "data.png", test[:count], test, self.declared)

    def _described(self, name: SolverName) -> dict[str, Any]:
        entry = name.entry
        taken = f"; auto took {self.study.resolve(AUTO).title}" if name.covariance == CovarianceName(AUTO) else ""
        shared = {field: getattr(entry, field) for field in ("label", "family", "order", "deterministic", "adaptive")}
        return {"name": str(name), "about": entry.about + taken, "ours": own(name)} | shared

    def _paths(self) -> dict[str, Any] | None:
        settings = self.settings
        if not settings.paths:
            return None
        first = {str(job.solver): job for job in reversed(self.jobs())}
        planned: dict[str, Callable[[], SamplingPlan]] = {
            str(name): partial(self.bench.planned, self._path_job(first[str(name)])) for name in settings.solver_names
        }
        return paths.record(planned, self.examples.test, settings.seed, self.examples.exact)

    def _path_job(self, job: Job) -> Job:
        return job if job.budget is None else replace(job, budget=self.settings.paths)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.processor() or platform.machine()}"
