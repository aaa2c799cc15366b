"""One answer to "how few calls": the sampler of so many network calls whose samples lie nearest to examples.

Candidates share the Gaussian of the data as their start, on the times of the table or even in log-SNR between the same ends:

    table         weights fitted to recorded paths of the flow, with samples of the data's variance: no noise
    unmatched     the same as it is fitted: where the network is right, so is the variance of its flow
    eta, kappa    the family between flow and chain: noise by the best covariance at hand, and extrapolation
    public        UniPC and SDE-DPM-Solver++ of third order, where the extra "images" is installed

Nothing says beforehand which is best: with few calls it is the table, with more one whose noise makes up for what the flow
gets wrong. So samples of each are compared to examples (`race.py`). Where these cannot tell, the pass can: a calibrated network
has a right flow, and takes the table; one that is not carries its errors along the flow to the sample, where noise forgets
them, and takes the family at eta = 1. (The spread of recorded paths does not choose: on digits, steps that keep it have five
times the Frechet distance of the best.)

FOLDER/choice_K-*.json      what was chosen, and why
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import installed
from score_sde_analytic.files import plain, read_json, write_json
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.metrics import Measured
from score_sde_analytic.samplers import AnalyticMultistep, DPMSolverPP, Sampler, Table, UniPC
from score_sde_analytic.study import few
from score_sde_analytic.study.few import Few
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.race import JUDGED, ROUNDS, Judge, Race
from score_sde_analytic.study.reportable import Reportable

#: Scales of the noise and shares of the extrapolation that are tried.
ETAS, KAPPAS = (0.5, 0.7071, 0.866, 1.0), (1.0, 0.9, 0.75)
TABLE, UNMATCHED = "the table", "the table as fitted"
#: Examples that tell samplers apart at all.
LEAST = 32
#: A network is miscalibrated where 1 - Lambda - R is beyond so many standard errors and beyond this share of the noise.
ERRORS, SHARE = 3.0, 0.01
KIND = "choice of a sampler"
SHAPE = {"chosen": str, "reason": str}


def of(study: Reportable, steps: int, data: Data | None, settings: Few) -> SamplingPlan:
    """The table, or what examples choose."""
    steps = few.CALLS("steps", steps)
    examples = None if data is None else _judging(study, data)
    fitted = few.table(study, steps, settings, few.paths(study, settings))
    return few.plan(study, fitted) if examples is None else _chosen(study, fitted, settings, examples)


def _judging(study: Reportable, data: Data) -> Examples:
    """Examples that can judge, before anything is spent on them.

    Raises:
        InputError: they are of another shape, fewer than 32, or not finite.
    """
    examples = as_dataset(data, study.data_range)
    if examples.shape != study.shape or len(examples) < LEAST:
        raise InputError(
            f"samplers are judged by {LEAST} or more examples of shape {study.shape}, got {len(examples)} of {examples.shape}"
        )
    if not torch.isfinite(examples.take(np.arange(min(JUDGED, len(examples))))).all():
        raise InputError("the examples that are to choose a sampler hold NaN or inf")
    return examples


def _chosen(study: Reportable, fitted: Table, settings: Few, examples: Examples) -> SamplingPlan:
    """Read where it was chosen before."""
    plans = dict(candidates(study, fitted, settings))
    judged = examples.take(np.arange(min(JUDGED, len(examples))))
    marks = [[plain(plan.sampler.config()), plan.sampler.fingerprints(plan.grid), plan.grid.times] for plan in plans.values()]
    known = digest(list(plans), plain(marks), plain(settings.free.config()), judged.double().sum().item(), ROUNDS, study.seed)
    file = settings.choice(f"{fitted.steps}-{known[:8]}")
    made = None if file is None or not file.exists() else read_json(file, KIND, SHAPE)
    if made is None:
        made = _race(study, plans, settings, examples)
        if file is not None:
            write_json(file, KIND, made)
    return replace(plans[made["chosen"]], reason=f"{made['reason']} The table: {plans[TABLE].reason}")


def candidates(study: Reportable, fitted: Table, settings: Few) -> Iterator[tuple[str, SamplingPlan]]:
    """All that make as many calls as the table, by what they are called."""
    table = few.plan(study, fitted)
    yield TABLE, table
    yield UNMATCHED, few.of_table(study, fitted)
    if table.grid.steps == 1:  # one call leaves no step to be shared
        return
    levels = few.levels(study, settings)
    even = np.linspace(levels[0], levels[-1], table.grid.steps)
    grids = {"": table.grid, " on even times": Grid((*np.atleast_1d(study.schedule.time(even)).tolist(), 0.0))}
    for where, grid in grids.items():
        for name, sampler in _samplers(study, grid.steps):
            yield name + where, replace(table, sampler=sampler, grid=grid, start=settings.free)


def _samplers(study: Reportable, steps: int) -> Iterator[tuple[str, Sampler[Any]]]:
    """That take any grid: the multistep flow, the family, and public ones that differ from it."""
    covariance = study.covariance("auto" if study.recorders else "")
    for eta, kappa in [(0.0, 1.0), *((eta, kappa) for eta in ETAS for kappa in KAPPAS)]:
        yield f"eta = {eta:g} with kappa = {kappa:g}", AnalyticMultistep(study.model, covariance, eta, kappa)
    if steps > 2 and installed("diffusers"):
        yield "UniPC of order 3", UniPC(study.model, 3, "bh1")
        yield "SDE-DPM-Solver++ of order 3", DPMSolverPP(study.model, 3, noisy=True)


def _race(study: Reportable, plans: Mapping[str, SamplingPlan], settings: Few, examples: Examples) -> dict[str, str]:
    """The winner, and the sentence that says so."""
    calibrated = _calibrated(study, settings)
    noisy = frozenset(name for name in plans if name.startswith("eta = 1 "))
    favourites = frozenset([TABLE, UNMATCHED]) if calibrated or not noisy else noisy
    race = Race(Judge.of(examples, settings.free, study.data_range, study.seed), plans, TABLE, favourites)
    with study.model.metered() as cost:
        first, *others = race.run(ROUNDS)
    told = {name: _told(race.distances[name].white) for name in race.plans}
    then = ", ".join(f"{name} {told[name]}" for name in others[:2])
    why = "the network is calibrated" if calibrated else "the network is miscalibrated, which noise forgives"
    nearest = f"is as near as any ({why})" if first in favourites and _passed(race, first, others) else "is nearest"
    reason = (
        f"{first} {nearest} to the examples of {len(plans)} candidates: energy distance in white coordinates, in thousandths,"
        f" {told[first]}{f' (then {then})' if then else ''}{_barred(race, others)}; choosing took {cost.evaluations} network"
        " evaluations."
    )
    return {"chosen": first, "reason": reason}


def _calibrated(study: Reportable, settings: Few) -> bool:
    """At all levels of the paths."""
    levels = few.levels(study, settings)
    known = study.moments.log_snr
    gap, size = study.moments.calibration()
    wrong = (abs(size) > ERRORS) & (abs(gap) > SHARE) & (known >= levels[0]) & (known <= levels[-1])
    return not wrong.any()


def _told(distance: Measured) -> str:
    return f"{1000.0 * distance.value:.3g} ± {1000.0 * distance.stderr:.2g}"


def _passed(race: Race, first: str, others: list[str]) -> bool:
    """By one that may win, within the error."""
    return any(race.allowed(name) and race.distances[name].white.value < race.distances[first].white.value for name in others)


def _barred(race: Race, others: list[str]) -> str:
    barred = [name for name in others if not race.allowed(name)]
    return f"; out, as further than the table in plain coordinates: {', '.join(barred)}" if barred else ""
