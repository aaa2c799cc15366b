"""--mode=sample: a picture per grid, a sheet per covariance, rows of K, all from the same seed; finished sheets are kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict

from score_sde_analytic.errors import InputError, UserError
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.interruption import noted
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.models.identity import weights_digest
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.report import figures
from score_sde_analytic.samplers import Ancestral
from score_sde_analytic.shards import parts_of
from score_sde_analytic.study.names import CovarianceName, GridName
from score_sde_analytic.study.plan import SamplingPlan

from .experiment import Experiment

SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class Sheet:
    """Samples of one grid, covariance and number of steps.

    Attributes:
        identity: a short name of all that decides them.
        cost: of the network.
    """

    x: np.ndarray
    identity: str
    cost: Receipt


@dataclass
class Sheets:
    """The file of one grid's samples; each is whole or absent, so that a run that was interrupted goes on."""

    path: Path
    seed: int
    kept: Mapping[str, Sheet]
    made: dict[str, Sheet] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path, seed: int) -> Sheets:
        """What a file holds; nothing where there is none, or where it is damaged."""
        try:
            arrays, metadata = load_arrays(path, "samples")
            sheets = {
                name: Sheet(arrays[name], each["identity"], Receipt(**each["cost"]))
                for name, each in metadata["sheets"].items()
            }
        except (UserError, KeyError, TypeError):
            sheets = {}
        return cls(path, seed, sheets)

    def sheet(self, name: str, plan: SamplingPlan, count: int | range, batch_size: int, identity: str) -> Sheet:
        """The samples of a plan, drawn unless they are there."""
        kept = self.kept.get(name)
        if kept is None or kept.identity != identity:
            with plan.sampler.model.metered() as cost:
                x = plan(count, self.seed, batch_size, progress=True).cpu().numpy()
            kept = Sheet(x, identity, cost)
        self.made[name] = kept
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()
        return kept

    def save(self) -> None:
        """Write what was made, and what earlier runs left that may still be asked for."""
        self._write({**self.kept, **self.made})

    def finish(self) -> None:
        """Write what was asked for, and nothing else."""
        self._write(self.made)

    def _write(self, sheets: Mapping[str, Sheet]) -> None:
        about = {name: {"identity": sheet.identity, "cost": vars(sheet.cost)} for name, sheet in sheets.items()}
        metadata = {"kind": "samples", "seed": self.seed, "sheets": about}
        save_arrays(self.path, {name: sheet.x for name, sheet in sheets.items()}, metadata)
        self.saved = time.monotonic()


def run(experiment: Experiment) -> list[Path]:
    """Sample sheets of every grid; returns what was written."""
    settings, work = experiment.config.sample, experiment.workdir
    data, declared = experiment.splits.held("test", settings.count), experiment.splits.data_range
    batches = math.ceil(settings.count / settings.batch_size)
    calls: dict[str, float] = {}
    total = Receipt()
    written = []
    for name in map(GridName.parse, settings.grids):
        file, made = sheets(experiment, name)
        for covariance, rows in made.items():
            calls |= {f"{name} {covariance} K={steps}": sheet.cost.calls / batches for steps, sheet in rows.items()}
        for sheet in file.made.values():
            total.add(**vars(sheet.cost))
        shown = {c: {steps: torch.from_numpy(sheet.x) for steps, sheet in rows.items()} for c, rows in made.items()}
        picture = figures.samples(work / f"samples_{name.label}.png", shown, data, declared, title=f"grid {name}")
        written += [picture, file.path]
    few, reasons = _fewest(experiment, total)
    written += few
    content = {"fewest": reasons, "network_calls_per_batch": calls, "cost": vars(total), "settings": settings.to_dict()}
    return [*written, work / "grids", experiment.record("samples", content)]


def sheets(experiment: Experiment, name: GridName) -> tuple[Sheets, dict[str, dict[int, Sheet]]]:
    """The file of one grid, and its sheets by covariance and K: all samples, or those of this job."""
    settings = experiment.config.sample
    path = experiment.shard.file(experiment.workdir / f"samples_{name.label}.safetensors")
    file = Sheets.open(path, settings.seed)
    with noted(lambda: f"{len(file.made)} sheets are in {file.path}", file.save):
        made = {str(c): _sheets(experiment, file, name, c) for c in experiment.covariances(settings.variances)}
    file.finish()
    return file, made


def merge(path: Path, settings: ConfigDict) -> None:
    """Write the sheets whose parts lie beside this path.

    Raises:
        InputError: parts of different samples, or not all of them.
    """
    parts = [Sheets.open(file, settings.seed).kept for file in parts_of(path)]
    whole = Sheets(path, settings.seed, {})
    for name in dict.fromkeys(name for part in parts for name in part):
        sheets = [part[name] for part in parts if name in part]
        x, cost = np.concatenate([sheet.x for sheet in sheets]), Receipt()
        if len({sheet.identity for sheet in sheets}) > 1 or len(x) != settings.count:
            raise InputError(
                f"the parts of {path} hold {len(x)} samples of {name}, not {settings.count} of one kind; draw them again"
            )
        for sheet in sheets:
            cost.add(**vars(sheet.cost))
        whole.made[name] = Sheet(x, sheets[0].identity, cost)
    whole.finish()


def _fewest(experiment: Experiment, total: Receipt) -> tuple[list[Path], dict[int, str]]:
    """(files written, why these samplers by K) of the samples of the fewest calls; what they cost is added to the total."""
    settings, study, work = experiment.config.sample, experiment.sampled, experiment.workdir
    if not settings.fewest:
        return [], {}
    file, rows, reasons = Sheets.open(work / "samples_fewest.safetensors", settings.seed), {}, {}
    judges = experiment.splits.validation if settings.choose else None
    with noted(lambda: f"{len(file.made)} sheets are in {file.path}", file.save):
        for steps in settings.fewest:
            plan = study.fewest(steps, judges, path=work / "fewest")
            reasons[steps] = plan.reason
            print(f"K = {steps}: {plan.reason}")
            sheet = file.sheet(f"K{steps}", plan, settings.count, settings.batch_size, _identity(experiment, plan))
            rows[steps] = torch.from_numpy(sheet.x)
            total.add(**vars(sheet.cost))
    file.finish()
    data = experiment.splits.held("test", settings.count)
    declared, title = experiment.splits.data_range, "times of each table"
    picture = figures.samples(work / "samples_fewest.png", {"fewest calls": rows}, data, declared, title=title)
    return [picture, file.path, work / "fewest"], reasons


def _sheets(experiment: Experiment, file: Sheets, name: GridName, covariance: CovarianceName) -> dict[int, Sheet]:
    """The samples of one grid and covariance for every K."""
    settings, study = experiment.config.sample, experiment.sampled
    clip = settings.clip_pixels * experiment.splits.data_range.bin_width if settings.clip_pixels else 0.0
    sampler = Ancestral(study.model, study.covariance(covariance), settings.eta, settings.final, clip)
    sheets = {}
    for steps in settings.steps:
        grid = study.grid(steps, name, settings.grid_variance)
        grid.save(experiment.workdir / "grids" / f"{name.label}_K{steps}.json")
        plan = study.plan(sampler, grid)
        identity = _identity(experiment, plan)
        if own := experiment.shard.part(settings.count, settings.batch_size):
            sheets[steps] = file.sheet(f"{covariance}_K{steps}", plan, own, settings.batch_size, identity)
    return sheets


def _identity(experiment: Experiment, plan: SamplingPlan) -> str:
    """A short name of all that decides samples and their cost."""
    settings = experiment.config.sample
    decides: dict[str, Any] = {
        "model": plan.sampler.model.fingerprint(),
        "sampler": plan.sampler.config(),
        "covariances": plan.sampler.fingerprints(plan.grid),
        "times": plan.grid.times,
        "drawn": [settings.seed, settings.count, settings.batch_size, *plan.shape, str(plan.dtype), str(plan.device)],
    }
    if experiment.study.conditions:
        decides["conditions"] = weights_digest(experiment.study.conditions)
    return digest(json.dumps(decides, sort_keys=True, default=str))
