"""The fewest calls of a measured network: paths of its own flow, and the tables fitted to them, each made once.

FOLDER/paths-*.safetensors      the paths, one file for all tables
FOLDER/fewest_K-*.safetensors   a table of K calls
FOLDER/choice_K-*.json          what examples chose, the table or another sampler of K calls (`fewest.py`)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import COUNT, flag, settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import plain
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.identity import weights_digest
from score_sde_analytic.samplers import Fitting, FlowPaths, Table, TableSampler, fit_table, matched, record_paths
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.reportable import Reportable

#: How far above the noise of the largest variance paths begin, in log-SNR: e^-4 of it is known there.
ABOVE = 4.0
#: Standard errors by which a network is worse than the linear denoiser.
BEYOND = 3.0
#: Network calls of a table: its rows are so many, and each is as long as its number.
CALLS = whole(1, 1000)


@dataclass(frozen=True)
class Few:
    """What tables are fitted to, and how.

    Attributes:
        free: mean, basis and spectrum of the data.
        path: folder that keeps paths and tables; None keeps nothing.
        count: of paths.
        levels: network calls of each; paths of fewer than 16 are farther from the flow than tables are from them.
        batch_size: paths per network call.
        fitting: of tables.
        progress: whether to show a bar.
    """

    free: LinearDenoiser
    path: str | Path | None = None
    count: Annotated[int, COUNT] = 100
    levels: Annotated[int, whole(16, 10_000)] = 32
    batch_size: Annotated[int, COUNT] = 50
    fitting: Fitting = field(default_factory=Fitting)
    progress: Annotated[bool, flag()] = True

    def __post_init__(self) -> None:
        settle(self)

    def file(self, name: str) -> Path | None:
        """In its folder."""
        return None if self.path is None else Path(self.path) / f"{name}.safetensors"

    def choice(self, name: str) -> Path | None:
        """Of a choice between the table and others."""
        return None if self.path is None else Path(self.path) / f"choice_{name}.json"


def settings(study: Reportable, given: LinearDenoiser | None, options: Mapping[str, Any]) -> Few:
    """What a study's tables are fitted to.

    Raises:
        InputError: options that `Few` does not take, a Gaussian that is none or of other data, or none at all.
    """
    try:
        return Few(gaussian(study, given), **options)
    except TypeError as error:
        known = ", ".join(each.name for each in dataclasses.fields(Few) if each.name != "free")
        raise InputError(f"the fewest calls do not take these options ({error}); known are {known}") from error


def gaussian(study: Reportable, given: LinearDenoiser | None = None) -> LinearDenoiser:
    """The one that is given, or the study's own.

    Raises:
        InputError: a study without one, and none given; or one that is not linear, or of other data.
    """
    if given is not None:
        if not isinstance(given, LinearDenoiser) or given.spectrum.shape != study.shape:
            shape = getattr(getattr(given, "spectrum", None), "shape", type(given).__name__)
            raise InputError(f"free must be LinearDenoiser.of examples of shape {study.shape}, got {shape}")
        return given
    if study.free is None:
        raise InputError("this study holds no Gaussian of its data; give one, free=LinearDenoiser.of(examples)")
    return cast(LinearDenoiser, study.free.free)  # as `study.free` makes it


def top(study: Reportable, free: LinearDenoiser) -> float:
    """The log-SNR at which paths begin: where nothing is to be known yet, or below all levels at which the network is worse.

    A network's own flow from noise alone carries into every path what it does wrong there.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> round(top(study, LinearDenoiser.of(data)), 1)
    -4.0
    """
    blank = max(-math.log(free.spectrum.max()) - ABOVE, study.schedule.log_snr_range[0])
    known = study.moments.log_snr
    excess = study.moments.residual - free.residual(known)
    error = BEYOND * study.moments.stderr("residual")
    better = np.append(np.flatnonzero(excess < -error), len(known))[0]
    worse = known[:better][excess[:better] > error[:better]]
    return float(max([blank, *worse]))


def top_time(study: Reportable, free: LinearDenoiser) -> float:
    """`top` as a time."""
    return min(1.0, float(study.schedule.time(top(study, free))))


def levels(study: Reportable, settings: Few) -> Float64[Array, " levels"]:
    """Log-SNRs of the paths: even, down to the first time that is best for infinitely many steps."""
    first = top(study, settings.free)
    last = min(float(study.schedule.log_snr(study.first()[0])), float(study.moments.log_snr[-1]))
    if not first < last:
        raise InputError(
            f"below log-SNR {first:.1f} this network knows less than a covariance, and samples end at {last:.1f}: no call of it"
            " is worth making; check its wiring (times, predicts, coordinates, the data's range), or repair it (`recalibrate`)"
        )
    return np.linspace(first, last, settings.levels)


def paths(study: Reportable, settings: Few) -> FlowPaths:
    """Recorded, continued, or read."""
    at = levels(study, settings)
    given = [*([weights_digest(study.conditions)] if study.conditions else []), *study.marks]
    asked = digest(plain(settings.free.config()), at.tolist(), settings.count, settings.batch_size, study.seed, *given)[:8]
    return record_paths(
        study.model,
        settings.free,
        study.shape,
        at,
        count=settings.count,
        conditions=study.of_samples,
        seed=study.seed,
        batch_size=settings.batch_size,
        path=settings.file(f"paths-{asked}"),
        device=study.device,
        progress=settings.progress,
    )


def table(study: Reportable, steps: int, settings: Few, recorded: FlowPaths) -> Table:
    """Fitted, or read."""
    asked = digest(plain(recorded.identity), plain(dataclasses.asdict(settings.fitting)), steps)[:8]
    file = settings.file(f"fewest_{steps}-{asked}")
    if file is not None and file.exists():
        return Table.load(file, settings.free.basis)
    made = fit_table(study.model, recorded, settings.free, steps, fitting=settings.fitting, device=study.device)
    if file is not None:
        made.save(file)
    return made


def plan(study: Reportable, fitted: Table) -> SamplingPlan:
    """Of the table, with samples of the data's variance: a network's own flow has less of it, and few steps less again.

    Guided samples are not to have it.
    """
    return of_table(study, fitted if study.model.guidance else matched(fitted))


def of_table(study: Reportable, fitted: Table) -> SamplingPlan:
    """Its sampler on its grid."""
    sampler = TableSampler(study.model, fitted)
    return study.plan(sampler, sampler.grid, reason=str(fitted))
