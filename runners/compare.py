"""--mode=compare: every solver on the same network, from the same noise, within the same budgets of network calls.

Every solver takes as many steps as a budget K lets it: K for one call a step, (K + 1) / 2 for Heun, and so on. All grids end at
the same first time t_1, from which every solver steps to the data by x0_hat. Every cell is kept when it is done, in
WORKDIR/compare/cells; a run that was interrupted goes on, and a cell that fails is marked with its reason.
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from score_sde_analytic.covariance.isotropic import BetaTilde
from score_sde_analytic.files import write_text
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.report import comparison, comparison_tables, page
from score_sde_analytic.samplers import Ancestral, Sampler, generate
from score_sde_analytic.study.names import GRIDS, CovarianceName, GridName, choose

from . import fidelity, paths, solvers
from .cells import Bench, Job, shown
from .experiment import Experiment

#: What config.compare.budget stands for, field by field.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "solvers": (
            "ddpm_beta",
            "ddpm_beta_tilde",
            "analytic_ddpm",
            "ancestral(auto)",
            "ddim",
            "analytic_ddim",
            "analytic_multistep",
            "ode_rk4",
            "ode_dopri5",
            "heun",
            "dpmpp_2",
            "sde_dpmpp_2",
            "unipc_2",
            "sde_euler",
            "pc_analytic",
        ),
        "calls": (5, 10, 25),
        "grids": ("log_snr", "dp"),
        "tolerances": (1e-2,),
        "count": 200,
        "reference_examples": 1000,
        "bits": "predicted",
    },
    "full": {
        "solvers": (
            *solvers.SOLVERS,
            "ancestral(pca)",
            "ancestral(auto)",
            "ancestral(residual, eta=0.5)",
            "ancestral(auto, eta=0.5)",
            "ancestral(auto, eta=0)",
            "multistep(auto)",
        ),
        "calls": (5, 10, 25, 50),
        "grids": ("log_snr", "dp"),
        "tolerances": (1e-1, 1e-2, 1e-3),
        "count": 2000,
        "reference_examples": 4000,
        "bits": "measured",
    },
}

ABOUT_GRIDS = {
    "log_snr": "even in log-SNR",
    "dp": "optimal for a chain of so many steps, by dynamic programming",
    "karras": "Karras, rho = 7",
    "even": "even in t",
    "quadratic": "even in sqrt(t)",
    "interval": "the solver's own steps from t = 1 to the first time",
}


def run(experiment: Experiment) -> list[Path]:
    """Measure all cells that are not there yet; write tables, pictures and compare.json; returns their paths."""
    settings = resolved(experiment.config)
    experiment = recording(experiment, solvers.covariances(settings.solvers))
    if settings.compile:
        experiment.model = compiled(experiment.model, settings.compile)
    work = Comparison(experiment, settings)
    work.check()
    folder = experiment.workdir / "compare"
    content = plain(work.content(work.cells()))
    write_text(folder / "compare.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    text = comparison_tables.text(content)
    print("\n" + comparison_tables.summary(content))
    write_text(folder / "compare.md", text + "\n")
    written = [folder / "compare.json", folder / "compare.md", *_pictures(content, folder)]
    page.write(folder / "compare.html", content, folder)
    written.append(folder / "compare.html")
    brief = {name: content[name] for name in ("budgets", "grids", "first_log_snr", "cells", "count")}
    return [*written, folder / "cells", experiment.record("compare", brief)]


def recording(experiment: Experiment, covariances: Iterable[str]) -> Experiment:
    """The experiment, or one whose pass over the validation split records what these covariances need besides."""
    other = Experiment(experiment.config, experiment.workdir, covariances)
    return experiment if experiment.recorded == other.recorded else other


def resolved(config: ConfigDict) -> ConfigDict:
    """config.compare with everything that was left open filled in from its budget.

    Raises:
        ValueError: an unknown budget, or settings that make no comparison.
    """
    settings = config.compare.copy_and_resolve_references()
    preset = choose(PRESETS, settings.budget, "budget of compare")
    for name, value in preset.items():
        if not settings[name]:
            settings[name] = value
    if min(settings.calls) < 1 or settings.count < 4 or min(settings.tolerances) <= 0:
        raise ValueError("compare.calls, compare.tolerances must be positive and compare.count at least 4")
    if settings.bits not in ("predicted", "measured", "none"):
        raise ValueError(f"compare.bits must be 'predicted', 'measured' or 'none', got {settings.bits!r}")
    _check_names(settings)
    return settings


def _check_names(settings: ConfigDict) -> None:
    """Refuse what does not exist before the network is asked anything."""
    for name in (*solvers.covariances(settings.solvers), settings.grid_variance):
        CovarianceName.parse(name)
    for name in settings.grids:
        GridName.parse(name)
    for name in settings.reference:
        choose({"train": 0, "validation": 0, "test": 0}, name, "split of compare.reference")
    fidelity.check_features(settings.features)


def compiled(model: ScoreModel, mode: str) -> ScoreModel:
    """The same model with its network compiled by torch; known by the same fingerprint."""
    net = torch.compile(model.net, mode=mode)

    def call(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found = net(x, labels)
        return getattr(found, "sample", found).clone()  # CUDA graphs write every output to the same place

    name = model.fingerprint()["network"]
    wiring = model.predicts, model.times, model.coordinates, model.clamp
    return ScoreModel(call, model.schedule, *wiring, fingerprint=name)


@dataclass
class Comparison:
    """One comparison: its cells and all that they share."""

    experiment: Experiment
    settings: ConfigDict
    _grids: dict[tuple[str, int], Grid] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.experiment.workdir / "compare"

    @cached_property
    def first(self) -> float:
        """t_1 of all solvers and grids."""
        if self.settings.log_snr_max:
            return float(self.experiment.schedule.time(self.settings.log_snr_max))
        return self.experiment.study.first()[0]

    @cached_property
    def _optimal(self) -> dict[int, Grid]:
        """Grids by dynamic programming that end at t_1."""
        experiment = self.experiment
        lam, points = experiment.schedule.log_snr(self.first), experiment.config.grid.points
        lattice = Lattice.even_log_snr(experiment.schedule, points, lam)
        lattice.times[0] = self.first
        last = np.where(np.arange(points) == 0, 0.0, np.inf)
        covariance = experiment.study.covariance(self.settings.grid_variance)
        name = f"transitions with {self.settings.grid_variance}"
        return lattice.optimal_grids(experiment.study.curves["residual"], covariance, last, max(self.settings.calls), name)

    def grid(self, name: str, steps: int) -> Grid:
        """A grid by name that ends at t_1; NAME_tuned and other names as `Experiment.grid` makes them."""
        if (name, steps) not in self._grids:
            self._grids[name, steps] = self._make(name, steps)
        return self._grids[name, steps]

    def _make(self, name: str, steps: int) -> Grid:
        if steps == 1:
            return Grid((1.0, 0.0))
        if name == "dp":
            return self._optimal[steps]
        if name in GRIDS:
            return GRIDS[name](self.experiment.schedule, steps, self.first)
        own = name.removesuffix("_tuned") if name == "dp_tuned" else name
        return self.experiment.study.grid(steps, own, self.settings.grid_variance)

    def check(self) -> None:
        """Find bad names before the work."""
        for name in self.settings.grids:
            self.grid(name, max(self.settings.calls))
        for name in solvers.covariances(self.settings.solvers):
            self.experiment.study.covariance(name)

    def jobs(self) -> list[Job]:
        """All cells, in the order of the table."""
        found = []
        for name in dict.fromkeys(self.settings.solvers):
            entry = solvers.solver(name)
            grids = dict.fromkeys([*self.settings.grids, *([entry.grid] if entry.grid else [])])
            if entry.adaptive:
                found += [Job(name, "interval", tolerance=value) for value in self.settings.tolerances]
            else:
                found += [Job(name, grid, budget=k) for grid in grids for k in self.settings.calls]
        return found

    @cached_property
    def bench(self) -> Bench:
        experiment, settings = self.experiment, self.settings
        marks = fidelity.of(experiment, settings)
        evaluation = experiment.config.evaluate
        identity = {
            "model": experiment.model.fingerprint(),
            "moments": digest(json.dumps(experiment.study.moments.fingerprint, sort_keys=True)),
            "fidelity": marks.identity,
            "settings": {n: settings[n] for n in ("seed", "count", "batch_size", "sheet", "bits", "flow", "compile")},
            "bound": [experiment.config.seed, evaluation.decoder, evaluation.draws, len(experiment.test)],
            "flow": evaluation.flow.to_dict() if settings.flow else None,
            "device": experiment.device.type,
        }
        return Bench(experiment, marks, self.grid, identity, self.folder / "cells", settings)

    def cells(self) -> list[dict[str, Any]]:
        """Every cell, measured or found where it was kept."""
        found, jobs = [], self.jobs()
        if self.settings.compile:
            self._warm()
        with tqdm(jobs, desc="compare", unit="cell") as bar:
            for job in bar:
                bar.set_postfix_str(job.title)
                found.append(self.bench.cell(job))
        return found

    def _warm(self) -> None:
        """Let the compiler see every shape before a clock runs."""
        experiment, settings, test = self.experiment, self.settings, self.experiment.splits.test
        sampler, grid = Ancestral(experiment.model, BetaTilde()), self.grid("log_snr", 2)
        options = {"batch_size": min(settings.batch_size, settings.count), "device": experiment.device, "dtype": test.dtype}
        generate(sampler, grid, tuple(test.shape[1:]), settings.count, **options)

    def _paths(self) -> dict[str, Any] | None:
        if not self.settings.paths:
            return None
        jobs: dict[str, Job] = {}
        for job in self.jobs():
            jobs.setdefault(job.solver, Job(job.solver, job.grid, job.budget and self.settings.paths, job.tolerance))

        planned: dict[str, Callable[[], tuple[Sampler[Any], Grid]]] = {
            name: partial(self.bench.planned, job) for name, job in jobs.items()
        }
        return paths.record(self.experiment, planned, self.settings.seed)

    def content(self, cells: list[dict[str, Any]]) -> dict[str, Any]:
        """All that compare.json holds."""
        experiment, settings = self.experiment, self.settings
        declared, test = experiment.splits.data_range, experiment.splits.test
        sheet = comparison.sheet(self.folder / "data.png", test[: shown(settings.sheet, test)], test, declared)
        used, contrast = dict.fromkeys(cell["grid"] for cell in cells), experiment.study.moments.calibration()
        return {
            "title": f"Solvers on {experiment.config.data.name}",
            "data": {
                "name": experiment.config.data.name,
                "shape": list(test.shape[1:]),
                "test_examples": len(experiment.test),
                "reference_examples": self.bench.fidelity.examples,
                "range": [declared.lo, declared.hi],
            },
            "command": shlex.join(["python", "-m", "runners.main", *sys.argv[1:]]),
            "config": experiment.config.to_dict() | {"compare": settings.to_dict()},
            "versions": _versions(),
            "seed": settings.seed,
            "model": experiment.model.fingerprint(),
            "count": settings.count,
            "device": _device(experiment.device),
            "clock": "CUDA events" if experiment.device.type == "cuda" else f"CPU time, {torch.get_num_threads()} thread(s)",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": self.bench.fidelity.described(),
            "budgets": list(settings.calls),
            "tolerances": list(settings.tolerances),
            "grids": {name: ABOUT_GRIDS.get(name, name) for name in used},
            "first_log_snr": float(experiment.schedule.log_snr(self.first)),
            "solvers": [_described(name, experiment) for name in settings.solvers],
            "cells": cells,
            "calibration": experiment.study.calibration
            | dict(zip(("difference", "in_standard_errors"), contrast, strict=True)),
            "paths": self._paths(),
            "data_sheet": sheet.name,
        }


def _described(name: str, experiment: Experiment) -> dict[str, Any]:
    entry = solvers.solver(name)
    about = entry.about
    if entry.covariance == "auto":
        about = f"{about}; auto took {experiment.study.resolve('auto').title}"
    shown = {n: getattr(entry, n) for n in ("label", "family", "order", "deterministic", "adaptive")}
    return {"name": name, "about": about} | shown


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.processor() or platform.machine()}"


def _versions() -> dict[str, str]:
    """Of the packages that decide the numbers, those that are installed."""
    found = {"python": platform.python_version()}
    for name in ("score_sde_analytic", "torch", "numpy", "scipy", "diffusers", "torchdiffeq", "torchsde"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def plain(value: Any) -> Any:
    """Data that JSON has: arrays and tuples as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pictures(content: Mapping[str, Any], folder: Path) -> list[Path]:
    main = content["metrics"][0]
    found: list[Path | None] = [comparison.quality(folder / f"{main['name']}.png", content, main)]
    found.append(comparison.bits(folder / "bits.png", content))
    grids = dict.fromkeys(cell["grid"] for cell in content["cells"] if cell["budget"])
    found += [comparison.sheets(folder / f"samples_{grid}.png", content, folder, grid) for grid in grids]
    if content["paths"] and content["paths"]["solvers"]:
        found.append(comparison.paths(folder / "paths.png", content))
    return [path for path in found if path is not None]
