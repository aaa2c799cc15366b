"""What a study says about few steps, gathered as plain data, and written as one page with the pictures beside it.

`content` gathers, `report.study_page` draws; every number is the study's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from scipy.integrate import trapezoid

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import each, flag, or_none, settle, unknown, whole
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic
from score_sde_analytic.data.examples import Data
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import versions
from score_sde_analytic.files import plain, write_text
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood import BITS, Bound, Chain, ContinuousTime
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.metrics import EnergyDistance
from score_sde_analytic.process.kernel import kernels
from score_sde_analytic.report import figures, study_page, tables
from score_sde_analytic.study.drawn import Drawn, Samples, examples, fewest, points, quality, sheets
from score_sde_analytic.study.names import DP, ChainName, CovarianceName
from score_sde_analytic.study.reportable import Reportable, code
from score_sde_analytic.uncertainty import Estimate

ISOTROPIC = CovarianceName("residual")
#: Chains that were not optimised for the network, to see what that saves: (grid, covariance).
USUAL = (("even_tuned", "residual"), ("even_tuned", "beta_tilde"))
#: Excess over infinitely many steps that a number of steps is asked for, bits/dim.
EXCESSES = (0.1, 0.05, 0.02)
#: Steps whose noise is shown.
SHOWN_STEPS = 10
#: Points of fitted curves and of the density of steps.
POINTS = 200


@dataclass(frozen=True)
class Request:
    """What a report is to show.

    Attributes:
        steps: network calls K whose bits/dim and times are given.
        samples_at: K that samples are drawn with.
        count: of samples for each.
        seed: of the samples: the same noise for every K.
        fewest: whether samples are drawn by `Study.fewest`, too, with K up to 10; paths of the network's flow are recorded.
        judged: samples of each kind whose distance to the data is measured, four or more, at most as many as there are
            examples; 0 for none.
        date: of the report, as the page gives it; that of today where it is empty.

    Raises:
        InputError: one number of steps twice, none or a single one, no samples, or too few to judge.
    """

    steps: Annotated[tuple[int, ...], each(whole())] = (3, 5, 10, 25, 50)
    samples_at: Annotated[tuple[int, ...], each(whole(1))] = (1, 2, 3, 5, 10)
    count: int = 24
    seed: int = 0
    fewest: Annotated[bool, flag()] = True
    judged: Annotated[int, or_none(whole(EnergyDistance.least))] = 200
    date: str = ""

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "date", self.date or datetime.now(UTC).date().isoformat())
        for steps in (self.steps, self.samples_at):
            if len(set(steps)) < len(steps):
                raise InputError(f"a report has each number of steps once, got {steps}; leave out what is there twice")
        if not self.steps or self.count < 1:
            raise InputError("a report needs a number of steps and at least one sample for each; give steps=(5, 10), count=24")
        if min(self.steps) < 2:
            raise InputError(f"bits/dim of a report are of chains of two steps or more, got steps={self.steps}")

    @classmethod
    def of(cls, shown: Mapping[str, Any]) -> Request:
        """By names.

        >>> Request.of({"steps": [5, 10]}).steps
        (5, 10)

        Raises:
            InputError: an unknown name, or what makes no report.
        """
        known = [field.name for field in fields(cls)]
        for name in shown:
            if name not in known:
                raise unknown("part of a report", name, known)
        return cls(**shown)


def write(study: Reportable, folder: str | Path, data: Data | None = None, request: Request | None = None) -> list[Path]:
    """Write report.html, study_report.json and the pictures; returns their paths.

    Args:
        data: that the pass did not see: their bits/dim are measured, unfinished work in FOLDER/bounds is continued.

    Raises:
        InputError: chains of fewer than two steps, or of more than the grids can have.
    """
    target, asked = Path(folder), request or Request()
    samples = _samples(study, asked, target / "fewest")
    told = content(study, data, asked, samples, target / "bounds")
    pictures = [*sheets(study, samples, examples(data, asked.count), target), *_figures(study, told, target)]
    write_text(target / "study_report.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    page = study_page.write(target / "report.html", told, target)
    return [page, target / "study_report.json", *pictures]


def content(
    study: Reportable,
    data: Data | None = None,
    request: Request | None = None,
    samples: Samples | None = None,
    path: str | Path | None = None,
) -> dict[str, Any]:
    """All that the page says, as plain data.

    Args:
        samples: where they are at hand; else those of chains are drawn.
        path: folder that keeps measured bits/dim.

    Raises:
        InputError: chains of fewer than two steps, or of more than the grids can have.
    """
    asked = request or Request()
    samples = Samples(draw(study, asked), {}) if samples is None else samples
    chains = {name: study.chain(name.steps, name.grid, name.covariance) for name in _names(study, asked)}
    cells, limit = _cells(study, chains, _measured(study, data, asked, path))
    mine = _mine(study)
    told = {
        "shape": study.shape,
        "data_range": None if study.data_range is None else vars(study.data_range),
        "steps": asked.steps,
        "covariance": str(study.resolve()),
        "covariance_setting": study.settings.covariance,
        "grid": mine[0],
        "density_of_first": study.settings.decoder == "none",
        "cells": cells,
        "limit": limit,
        "within": [{"excess": excess, "steps": study.steps_for(excess)} for excess in EXCESSES],
        "searched": study.settings.search.most,
        "grids": {str(k): _times(study, chains[ChainName(*mine, k)].grid) for k in asked.steps},
        "density": _density(study),
        "curve": _curve(study),
        "calibration": study.calibration,
        "remarks": study.remarks,
        "rescaling": _rescaling(study)._asdict(),
        "deviations": _deviations(study, SHOWN_STEPS),
        "structures": _structures(study),
        "samples": {str(k): one.content() for k, one in samples.chain.items()},
        "fewest": {str(k): one.content() for k, one in samples.fewest.items()},
        "fewest_lost": samples.lost,
        "quality": quality(study, samples, data, asked.judged),
        "data_points": points(examples(data, asked.count)),
        "provenance": _provenance(study, asked),
        "code": code(study, asked, measured=data is not None),
    }
    return plain(told)


# --- chains and their bits ------------------------------------------------------------------------------------------


def _grid(study: Reportable, name: CovarianceName) -> str:
    """The grid that is optimal for a covariance; for one without a price, that of the isotropic covariance."""
    return DP if study.covariance(name).priced else "refined"


def _mine(study: Reportable) -> tuple[str, str]:
    """Grid and covariance of the study's own chains."""
    name = study.resolve()
    return _grid(study, name), str(name)


def _names(study: Reportable, request: Request) -> list[ChainName]:
    """The study's own chains, isotropic ones, the best recorded ones, and the usual ones."""
    best = [study.structures.best] if study.recorders else []
    covariances = dict.fromkeys([study.resolve(), ISOTROPIC, *best])
    pairs = dict.fromkeys([*((_grid(study, name), str(name)) for name in covariances), *USUAL])
    return [ChainName(grid, covariance, steps) for grid, covariance in pairs for steps in request.steps]


def _cells(
    study: Reportable, chains: Mapping[ChainName, Chain], measured: Mapping[ChainName, Bound]
) -> tuple[dict[ChainName, dict[str, Any]], dict[str, Any]]:
    """Priced and measured bits/dim of every chain, as far as it has them, and the price of infinitely many steps."""
    methods: dict[str, Chain | ContinuousTime] = {str(name): chain for name, chain in chains.items() if study.priceable(chain)}
    priced = study.price(methods | {"continuous": ContinuousTime(*study.first())})
    cells = {name: _cell(chain, priced.get(str(name)), measured.get(name)) for name, chain in chains.items()}
    return cells, priced["continuous"].summary()


def _cell(chain: Chain, predicted: Any, measured: Bound | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"decoder": chain.decoder.config()}
    if predicted is not None:
        cell["predicted"] = predicted.summary()
    if measured is not None:
        cell["measured"] = measured.summary()
        cell["calls_per_example"] = measured.calls_per_example
    if predicted is not None and measured is not None:
        cell["disagreement_in_standard_errors"] = measured.total.apart(predicted.total)
    return cell


def _measured(study: Reportable, data: Data | None, request: Request, path: str | Path | None) -> dict[ChainName, Bound]:
    """Bits/dim of data by the study's own chains."""
    if data is None:
        return {}
    grid, covariance = _mine(study)
    bounds = study.measure(data, *request.steps, grid=grid, covariance=covariance, path=path)
    return {ChainName(grid, covariance, steps): bound for steps, bound in bounds.items()}


# --- times, curve, noise --------------------------------------------------------------------------------------------


def _times(study: Reportable, grid: Grid) -> dict[str, Any]:
    """Where a grid calls the network: times, log-SNRs, and what the network is fed there where that is another number."""
    levels = grid.levels(study.schedule)[:-1]
    times = np.array([level.t for level in levels])
    log_snr = np.array([level.log_snr for level in levels])
    labels = np.array([float(study.model.times.label(level)) for level in levels])
    known = np.allclose(labels, times) or np.allclose(labels, log_snr)
    drawn = np.maximum(log_snr, study.schedule.finite_range[0])  # pure noise has its place on an axis, too
    return {"times": times, "log_snr": drawn, "labels": None if known else labels}


def _thinned(values: Array) -> Array:
    return values[np.linspace(0, len(values) - 1, POINTS).round().astype(int)]


def _density(study: Reportable) -> dict[str, Array]:
    """sqrt(w), which the steps follow where there are many."""
    objective = study.search.objective
    return {"log_snr": _thinned(objective.levels), "root_spread": _thinned(objective.root_spread)}


def _curve(study: Reportable) -> dict[str, Any]:
    """R and Gamma at the knots, and as fitted between them."""
    moments, schedule = study.moments, study.schedule
    fine = np.linspace(moments.log_snr[0], moments.log_snr[-1], POINTS)
    linear = study.linear(fine)
    precision = np.exp(-2.0 * np.asarray(schedule.log_sigma(schedule.time(moments.log_snr))))
    fitted = {"residual": study.curve.residual(fine), "gamma": study.curve.gamma(schedule, schedule.time(fine))}
    return {
        "log_snr": moments.log_snr,
        "residual": moments.residual,
        "residual_stderr": moments.stderr("residual"),
        "gamma": precision * moments.noise_power,
        "gamma_stderr": precision * moments.stderr("noise_power"),
        "fine": {"log_snr": fine, "cap": study.cap(fine)} | fitted | ({} if linear is None else {"linear": linear}),
    }


def _rescaling(study: Reportable) -> Estimate:
    """Bits/dim that scaling the noise estimate to its best, X / Lambda, would save: 1/2 integral of (X - Lambda)^2 / Lambda."""
    paid = study.moments.log_snr <= study.schedule.log_snr(study.first()[0])

    def saved(moments: Moments) -> float:
        excess = (moments.cross - moments.noise_power) ** 2 / moments.noise_power
        return BITS * 0.5 * float(trapezoid(excess[paid], moments.log_snr[paid]))

    value, error = study.moments.jackknife(saved)
    return Estimate(float(value), float(error))


def _deviations(study: Reportable, steps: int) -> dict[str, Any]:
    """Standard deviation of what each step adds, by isotropic covariance, on the times of the study's own chain."""
    grid, covariance = _mine(study)
    levels = study.chain(steps, grid, covariance).grid.levels(study.schedule)[:-1]
    transitions = list(zip(kernels(levels), levels[:-1], strict=True))
    choices = {"beta": Beta(), "residual": Isotropic(study.curve), "beta_tilde": BetaTilde()}
    stds = {name: [math.sqrt(choice.variance(k, t)) for k, t in transitions] for name, choice in choices.items()}
    lowest = study.schedule.finite_range[0]
    return {"steps": steps, "log_snr": [max(level.log_snr, lowest) for level in levels[:-1]], "std": stds}


def _structures(study: Reportable) -> dict[str, Any] | None:
    """Held-out bits/dim that every recorded covariance saves, best first; None where nothing was recorded."""
    if not study.recorders:
        return None
    rows = {}
    for name, saved in study.structures.saved.items():
        choice = study.structures.choice(name)
        fit = {key: getattr(choice, key) for key in ("bins", "shrinkage", "smooth", "pooled")}
        rows[name] = {"saved": BITS * saved.value, "stderr": BITS * saved.stderr, "fitted_with": tables.fit_settings(fit)} | fit
    return {"steps": study.settings.structure.steps, "best": str(study.structures.best), "rows": rows}


# --- samples --------------------------------------------------------------------------------------------------------


def draw(study: Reportable, request: Request) -> dict[int, Drawn]:
    """Samples for every K from the same seeds, by the study's own covariance on its own times."""
    grid, covariance = _mine(study)
    plans = {k: study.sampler(k, grid=grid, covariance=covariance) for k in request.samples_at}
    return {k: Drawn.of(plan, request.count, request.seed) for k, plan in plans.items()}


def _samples(study: Reportable, request: Request, path: Path) -> Samples:
    """By both kinds of samplers, the fewest calls where they are asked for."""
    few = Samples({}, {})
    if request.fewest:
        few = fewest(study, request.samples_at, request.count, request.seed, path)
    return replace(few, chain=draw(study, request))


# --- pictures, provenance -------------------------------------------------------------------------------------------


def _figures(study: Reportable, told: Mapping[str, Any], folder: Path) -> list[Path]:
    """The pictures of papers: bits/dim, curve, variances."""
    steps, grid = told["deviations"]["steps"], told["grid"]
    times = study.chain(steps, grid, told["covariance"]).grid
    choices = {"beta": Beta(), "beta_tilde": BetaTilde(), "residual": Isotropic(study.curve)}
    cells = {ChainName.parse(name): cell for name, cell in told["cells"].items()}
    named = dict.fromkeys(name.covariance for name in cells if name.grid == grid)
    return [
        figures.bits(folder / "bits_per_dim.png", cells, [grid], list(named)),
        figures.curve(folder / "curve.png", study.moments, {"residual": study.curve}, study.cap, study.linear),
        figures.variances(folder / "variances.png", study.schedule, times, study.curve, choices, "optimal grid"),
    ]


def _provenance(study: Reportable, request: Request) -> dict[str, Any]:
    """Where the numbers come from."""
    moments = study.moments
    return {
        "model": moments.fingerprint["model"],
        "data": {"examples": study.statistics.count or "a distribution in closed form", "digest": study.statistics.digest},
        "knots": f"{len(moments.log_snr)}, log-SNR {moments.log_snr[0]:g} to {moments.log_snr[-1]:g}",
        "draws": f"{moments.draws.min():.0f} to {moments.draws.max():.0f} for each knot",
        "evaluations": moments.evaluations,
        "date": request.date,
        "seeds": {"pass": study.seed, "samples": request.seed, "measured bits/dim": study.seed + 1},
        "versions": versions(),
    }
