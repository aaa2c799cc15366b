"""Every noise schedule: what all have in common, those with a closed form, and those of a table."""

from score_sde_analytic.process.continuous import VE, CosineVP, LinearVP, RectifiedFlow, SubVP
from score_sde_analytic.process.forward import LARGEST, Functions, Schedule, VariancePreserving
from score_sde_analytic.process.learned import Learned
from score_sde_analytic.process.tabulated import Sigmas, Tabulated

__all__ = [
    "LARGEST",
    "VE",
    "CosineVP",
    "Functions",
    "Learned",
    "LinearVP",
    "RectifiedFlow",
    "Schedule",
    "Sigmas",
    "SubVP",
    "Tabulated",
    "VariancePreserving",
]
