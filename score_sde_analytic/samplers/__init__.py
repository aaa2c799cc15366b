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
from score_sde_analytic.samplers.dpm_solver_v3 import DPMSolverV3
from score_sde_analytic.samplers.flow_paths import FlowPaths, record_paths
from score_sde_analytic.samplers.gaussian_tables import gaussian_price, spectrum_table
from score_sde_analytic.samplers.heun import Heun
from score_sde_analytic.samplers.linear_multistep import LMS
from score_sde_analytic.samplers.multistep import DEIS, IPNDM, DPMSolverPP, UniPC
from score_sde_analytic.samplers.ode import ProbabilityFlow
from score_sde_analytic.samplers.one_graph import OneGraph
from score_sde_analytic.samplers.reverse_sde import AdaptiveSDE, ReverseSDE
from score_sde_analytic.samplers.sa_solver import SASolver
from score_sde_analytic.samplers.singlestep import DPMSolverSinglestep
from score_sde_analytic.samplers.table import Table, TableSampler
from score_sde_analytic.samplers.table_fit import Fitting, fit_table, matched
from score_sde_analytic.samplers.table_reading import table_of
from score_sde_analytic.samplers.table_rows import Rule

__all__ = [
    "DEIS",
    "IPNDM",
    "LMS",
    "AdaptiveSDE",
    "AnalyticMultistep",
    "Ancestral",
    "AnnealedLangevin",
    "Callback",
    "DPMSolverPP",
    "DPMSolverSinglestep",
    "DPMSolverV3",
    "EulerMaruyama",
    "Fitting",
    "FlowPaths",
    "Heun",
    "Langevin",
    "OneGraph",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "ReverseSDE",
    "Rule",
    "SASolver",
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
