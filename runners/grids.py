"""--mode=grid: where to put the steps, what each grid costs at each K, and how many steps a given excess takes.

Nothing here calls the network beyond the moments.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.files import write_text
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, SubVP
from score_sde_analytic.report import figures, tables
from score_sde_analytic.study.names import GridName
from score_sde_analytic.study.optimum import optimum

from .experiment import Experiment

VARIANCE = "residual"


def run(experiment: Experiment) -> list[Path]:
    """Tables and pictures of grids; the configured grid as WORKDIR/grid.json."""
    settings, study, work = experiment.config.grid, experiment.study, experiment.workdir
    names = {name: GridName.parse(name) for name in settings.compare}
    chains = {(name, k): study.chain(k, names[name], VARIANCE) for name in names for k in settings.steps_table}
    for (name, k), chain in chains.items():
        chain.grid.save(work / "grids" / f"{names[name].label}_K{k}.json")
    study.grid(settings.steps, settings.name, VARIANCE).save(work / "grid.json")
    costs = {place: tuple(bits.total) for place, bits in study.price(chains).items()}
    content = {
        "units": "bits/dim",
        "costs": {name: {str(k): costs[name, k] for k in settings.steps_table} for name in names},
        "objectives": {name: chain.grid.objective for (name, _), chain in chains.items()},
        "optimum": optimum(study.search, range(2, settings.max_steps + 1), settings.excess),
    }
    text = tables.grids(content)
    print("\n" + text)
    write_text(work / "grids.md", text + "\n")
    shown = {name: study.grid(settings.shown_steps, names[name], VARIANCE) for name in names}
    pictures = [
        figures.placement(work / "grids.png", experiment.schedule, study.search.objective, shown),
        figures.excess(work / "excess.png", settings.compare, settings.steps_table, costs, content["optimum"]),
    ]
    if experiment.splits.exact is not None:
        pictures.append(_invariance(experiment, experiment.splits.exact, settings.steps))
    return [work / "grid.json", work / "grids", work / "grids.md", *pictures, experiment.record("grids", content)]


def _invariance(experiment: Experiment, distribution: GaussianMixture, steps: int) -> Path:
    """Optimal grids of four schedules that end at the same log-SNR, each from moments measured under it."""
    settings = experiment.config.estimate
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
        first = Reconstruction.of(moments).best(lattice.log_snr)[0]
        grid = lattice.optimal_grids(curve, Isotropic(curve), first, steps)[steps]
        chains[name] = (schedule, grid, BITS * grid.cost)
    return figures.invariance(experiment.workdir / "invariance.png", chains)
