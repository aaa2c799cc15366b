"""Solvers on the same network, from the same noise, within the same budgets of network calls."""

from score_sde_analytic.compare.comparison import Comparison, Result, compare
from score_sde_analytic.compare.examples import Examples
from score_sde_analytic.compare.likelihoods import Evaluation, FlowLikelihood
from score_sde_analytic.compare.registry import SOLVERS, Options, Solver, SolverName, covariances
from score_sde_analytic.compare.settings import PRESETS, ComparisonSettings

__all__ = [
    "PRESETS",
    "SOLVERS",
    "Comparison",
    "ComparisonSettings",
    "Evaluation",
    "Examples",
    "FlowLikelihood",
    "Options",
    "Result",
    "Solver",
    "SolverName",
    "compare",
    "covariances",
]
