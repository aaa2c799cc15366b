"""Samplers: one interface, one loop."""

from score_sde_analytic.samplers.ancestral import Ancestral
from score_sde_analytic.samplers.base import Sampler, Step, generate, run

__all__ = ["Ancestral", "Sampler", "Step", "generate", "run"]
