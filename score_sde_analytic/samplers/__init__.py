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
from score_sde_analytic.samplers.heun import Heun
from score_sde_analytic.samplers.multistep import DPMSolverPP, UniPC
from score_sde_analytic.samplers.ode import ProbabilityFlow
from score_sde_analytic.samplers.reverse_sde import AdaptiveSDE, ReverseSDE

__all__ = [
    "AdaptiveSDE",
    "AnalyticMultistep",
    "Ancestral",
    "AnnealedLangevin",
    "Callback",
    "DPMSolverPP",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "ReverseSDE",
    "Sampler",
    "Step",
    "UniPC",
    "carry",
    "generate",
]
