"""--mode=schedule: the schedule that makes the bound's estimator vary least, and how much it varies under others.

Nothing here calls the network beyond the moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde_analytic.errors import InputError
from score_sde_analytic.files import write_text
from score_sde_analytic.likelihood import VarianceOfBound, variance_of_bound
from score_sde_analytic.measure import EndPoints, end_points
from score_sde_analytic.process import CosineVP, Density, Learned, LinearVP, Schedule
from score_sde_analytic.report import schedules as pictures
from score_sde_analytic.report.tables import error_bar, markdown
from score_sde_analytic.study import Study

from .experiment import Experiment

#: Standard error in bits/dim that the table asks a number of draws for.
PRECISE = 0.01
#: Names of the densities that are best in closed form, by the sampling that they are best for.
BEST = {"independent": "sqrt(E r^2): best for independent times", "stratified": "sd(r): best for stratified times"}
#: Of the schedules that others are trained with.
OTHERS = {"linear VP": "linear VP, even in t", "cosine": "cosine, even in t"}


def usual(low: float, high: float) -> dict[str, Density]:
    """Densities at uniform t of linear VP and cosine schedules that begin at `low`, up to `high`."""
    schedules: dict[str, Schedule] = {
        OTHERS["linear VP"]: LinearVP(0.1, 2.0 * float(np.logaddexp(0.0, -low)) - 0.1),
        OTHERS["cosine"]: CosineVP(log_snr_min=low),
    }
    return {name: Density.of(schedule, low, high) for name, schedule in schedules.items()}


def densities(study: Study, low: float, high: float) -> dict[str, Density]:
    """Of others, even in log-SNR, and those that moments lead to, by name."""
    best = {name: Density.from_moments(study.moments, sampling, low, high) for sampling, name in BEST.items()}  # type: ignore[arg-type]
    measured = {"proportional to R": Density.from_curve(study.curve, low, high)} | best
    return usual(low, high) | {"even in log-SNR": Density.uniform(low, high)} | measured


def ends(experiment: Experiment) -> tuple[EndPoints, tuple[float, float]]:
    """The best ends, and those that are used: the best that were measured, unless the config names others."""
    study, settings = experiment.study, experiment.config.learned
    best = end_points(study.curve, study.reconstruction, study.statistics.second_moment, settings.tolerance)
    low, high = tuple(settings.ends) or (max(best.low, float(study.moments.log_snr[0])), best.high)
    if not low < high:
        raise InputError(f"learned.ends are a lower and a higher log-SNR, got {low:g} and {high:g}")
    return best, (low, high)


def run(experiment: Experiment) -> list[Path]:
    """Write WORKDIR/schedule.safetensors, the table of variances and the picture of both."""
    study, work = experiment.study, experiment.workdir
    best, (low, high) = ends(experiment)
    of = densities(study, low, high)
    schedule = Learned(of[BEST[experiment.config.learned.sampling]])
    schedule.save(work / "schedule.safetensors")
    found = {name: variances(study, density) for name, density in of.items()}
    write_text(work / "schedule.md", table(found) + "\n")
    print(f"\n{_told(best)}; here {low:.2f} to {high:.2f}.\n\n{table(found)}\n\n{_use(work / 'schedule.safetensors')}")
    content = {"ends": vars(best) | {"used": [low, high]}, "schedule": schedule.config(), "variances": _plain(found)}
    picture = pictures.densities(work / "schedule.png", of, study.moments)
    return [work / "schedule.safetensors", work / "schedule.md", picture, experiment.record("schedule", content)]


def _told(best: EndPoints) -> str:
    where = ", the last level that was measured" if best.at_last_knot else ""
    return f"Best ends: log-SNR {best.low:.2f}, where the prior costs {best.prior:.2g} bits/dim, and {best.high:.2f}{where}"


def _use(path: Path) -> str:
    setting = {"name": "learned", "path": str(path)}
    return f'Use the schedule, with a network that is fed log-SNR, as --config.schedule="{setting}"'


def variances(study: Study, density: Density) -> dict[str, VarianceOfBound]:
    """Of one draw, by sampling."""
    return {sampling: variance_of_bound(study.moments, density, sampling) for sampling in BEST}  # type: ignore[arg-type]


def table(found: Mapping[str, Mapping[str, VarianceOfBound]]) -> str:
    """Variance of one draw over L^2, by density and sampling, and the independent draws that a standard error takes."""
    rows = [
        [name, *(error_bar(one.relative._asdict()) for one in by.values()), f"{by['independent'].draws(PRECISE):,}"]
        for name, by in found.items()
    ]
    return markdown(["times drawn", "independent", "stratified", f"draws for ± {PRECISE} bits/dim"], rows)


def _plain(found: Mapping[str, Mapping[str, VarianceOfBound]]) -> dict[str, Any]:
    return {name: {kind: _values(one) for kind, one in by.items()} for name, by in found.items()}


def _values(one: VarianceOfBound) -> dict[str, dict[str, float]]:
    return {name: estimate._asdict() for name, estimate in vars(one).items()}
