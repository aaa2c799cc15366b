"""--mode=grid: where to put the steps, what each grid costs at each K, and how many steps a given excess takes.

Nothing here calls the network beyond the moments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde_analytic.arrays import Array
from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.files import write_text
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.grids.optimal import budget_law, steps_for
from score_sde_analytic.likelihood import Chain, price
from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, SubVP
from score_sde_analytic.report import figures, tables

from . import build
from .experiment import Experiment

VARIANCE = "residual"


def run(experiment: Experiment) -> list[Path]:
    """Tables and pictures of grids; the configured grid as WORKDIR/grid.json."""
    settings, work = experiment.config.grid, experiment.workdir
    grids = {(name, k): experiment.study.grid(k, name, VARIANCE) for name in settings.compare for k in settings.steps_table}
    for (name, k), grid in grids.items():
        grid.save(work / "grids" / f"{Path(name).stem}_K{k}.json")
    experiment.study.grid(settings.steps, settings.name, VARIANCE).save(work / "grid.json")
    costs = _price(experiment, grids)
    optimum = _optimum(experiment, range(2, settings.max_steps + 1), settings.excess)
    content = {
        "units": "bits/dim",
        "costs": {name: {str(k): costs[name, k] for k in settings.steps_table} for name in settings.compare},
        "objectives": {name: grid.objective for (name, _), grid in grids.items()},
        "optimum": optimum,
    }
    text = tables.grids(content)
    print("\n" + text)
    write_text(work / "grids.md", text + "\n")
    shown = {name: experiment.study.grid(settings.shown_steps, name, VARIANCE) for name in settings.compare}
    pictures = [
        figures.placement(work / "grids.png", experiment.schedule, experiment.study.search.objective, shown),
        figures.excess(work / "excess.png", settings.compare, settings.steps_table, costs, optimum),
    ]
    if experiment.config.data.name == "mixture":
        pictures.append(_invariance(experiment, settings.steps))
    return [work / "grid.json", work / "grids", work / "grids.md", *pictures, experiment.record("grids", content)]


def _invariance(experiment: Experiment, steps: int) -> Path:
    """Optimal grids of four schedules that end at the same log-SNR, each from moments measured under it."""
    distribution, settings = build.mixture(experiment.config), experiment.config.estimate
    end, top = -10.0, 8.0
    alpha, sub_vp = np.logaddexp(0.0, -end), 2.0 * np.arcsinh(0.5 * np.exp(-0.5 * end))
    schedules = {
        "linear VP": LinearVP(0.1, 2 * alpha - 0.1),
        "cosine VP": CosineVP(log_snr_min=end),
        "sub-VP": SubVP(0.1, 2 * sub_vp - 0.1),
        "VE": VE(math.exp(-top / 2) / 2, math.exp(-end / 2)),
    }
    chains = {}
    for name, schedule in schedules.items():
        moments = estimate(
            distribution.score_model(schedule),
            experiment.splits.validation,
            np.linspace(end, top, settings.knots),
            Budget(max_draws=1000),
            statistics=distribution.statistics(),
            seed=experiment.config.seed,
        )
        curve, lattice = NoiseCurve.fit(moments), Lattice.even_log_snr(schedule, experiment.config.grid.points, top)
        first = Reconstruction.of(moments).best(lattice.levels.log_snr)[0]
        grid = lattice.optimal_grids(curve, Isotropic(curve), first, steps)[steps]
        chains[name] = (schedule, grid, BITS * grid.cost)
    return figures.invariance(experiment.workdir / "invariance.png", chains)


def _price(experiment: Experiment, grids: dict[tuple[str, int], Grid]) -> dict[tuple[str, int], tuple[float, float]]:
    """Predicted bits/dim of every grid with the analytic variance, and its standard error."""
    chains = {f"{name}/{k}": _chain(experiment, grid) for (name, k), grid in grids.items()}
    bounds = price(experiment.study.moments, experiment.schedule, chains, experiment.study.statistics)
    return {(name, k): tuple(bounds[f"{name}/{k}"].total) for name, k in grids}  # type: ignore[misc]


def _chain(experiment: Experiment, grid: Grid) -> Chain:
    return Chain(grid, experiment.study.covariance(VARIANCE), experiment.study.decoder(grid.times[-2]))


def _optimum(experiment: Experiment, steps: Sequence[int], excess: Sequence[float]) -> dict[str, Any]:
    """DP's bits/dim for every K, the limit, the 1/K law and step budgets, all re-derived per jackknife replicate."""

    def statistic(moments: Moments) -> Array:
        objective = experiment.study.search.objective_of(moments)
        costs = experiment.study.search.costs(moments, steps[-1])
        limit = objective.continuous_limit
        law = [limit + objective.excess_law(k) for k in steps]
        # Whole steps do not vary smoothly from replicate to replicate; interpolated ones do.
        log_k, log_excess = np.log(np.array(steps)), np.log(np.maximum(costs[1:] - limit, 1e-12))
        budgets = [np.exp(np.interp(-np.log(bits / BITS), -log_excess, log_k)) for bits in excess]
        laws = [budget_law(objective, bits / BITS) for bits in excess]
        return np.concatenate([BITS * np.array([limit, *costs[1:], *law]), budgets, laws])

    values, errors = experiment.study.moments.jackknife(statistic)
    n, e = len(steps), len(excess)
    parts = np.split(np.stack([values, errors]), np.cumsum([1, n, n, e]), axis=1)
    limit, costs, law, budgets, laws = parts
    whole = [steps_for(bits / BITS, [math.inf, *costs[0] / BITS], limit[0, 0] / BITS) for bits in excess]
    return {
        "limit": limit[:, 0],
        "steps": list(steps),
        "dp": costs,
        "law": law,
        "excess": list(excess),
        "steps_for": whole,
        "steps_for_interpolated": budgets,
        "steps_for_law": laws,
    }
