"""Samplers: one interface, one loop."""

from score_sde_analytic.samplers.analytic_multistep import AnalyticMultistep
from score_sde_analytic.samplers.ancestral import Ancestral
from score_sde_analytic.samplers.base import Sampler, Step, carry, generate
from score_sde_analytic.samplers.callback import Callback
from score_sde_analytic.samplers.corrector import (
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
)
from score_sde_analytic.samplers.flow_paths import FlowPaths, record_paths
from score_sde_analytic.samplers.gaussian_tables import gaussian_price, spectrum_table
from score_sde_analytic.samplers.heun import Heun
from score_sde_analytic.samplers.multistep import DPMSolverPP, UniPC
from score_sde_analytic.samplers.ode import ProbabilityFlow
from score_sde_analytic.samplers.reverse_sde import AdaptiveSDE, ReverseSDE
from score_sde_analytic.samplers.table import Table, TableSampler
from score_sde_analytic.samplers.table_fit import Fitting, fit_table, matched
from score_sde_analytic.samplers.table_reading import table_of
from score_sde_analytic.samplers.table_rows import Rule

__all__ = [
    "AdaptiveSDE",
    "AnalyticMultistep",
    "Ancestral",
    "AnnealedLangevin",
    "Callback",
    "DPMSolverPP",
    "EulerMaruyama",
    "Fitting",
    "FlowPaths",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "ReverseSDE",
    "Rule",
    "Sampler",
    "Step",
    "Table",
    "TableSampler",
    "UniPC",
    "carry",
    "fit_table",
    "gaussian_price",
    "generate",
    "matched",
    "record_paths",
    "spectrum_table",
    "table_of",
]
