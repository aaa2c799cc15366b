"""Where to put the steps, and what they cost."""

from score_sde_analytic.grids.dynamic import StepCosts, monge_path, monge_paths, shortest_paths
from score_sde_analytic.grids.grid import Grid, even, even_log_snr, karras, quadratic
from score_sde_analytic.grids.lattice import Lattice, transition_costs
from score_sde_analytic.grids.optimal import Objective, budget_law, closed_form, entropic, refined, steps_for
from score_sde_analytic.grids.zolotarev import zolotarev, zolotarev_rate

__all__ = [
    "Grid",
    "Lattice",
    "Objective",
    "StepCosts",
    "budget_law",
    "closed_form",
    "entropic",
    "even",
    "even_log_snr",
    "karras",
    "monge_path",
    "monge_paths",
    "quadratic",
    "refined",
    "shortest_paths",
    "steps_for",
    "transition_costs",
    "zolotarev",
    "zolotarev_rate",
]
