"""The forward process, its exact reverse, and the last step."""

from score_sde_analytic.process.decoder import CategoricalDecoder, Decoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.density import Density
from score_sde_analytic.process.kernel import Kernel, kernels, reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import BatchNoise, LevelNoise, SampleNoise
from score_sde_analytic.process.schedule import (
    VE,
    CosineVP,
    Learned,
    LinearVP,
    RectifiedFlow,
    Schedule,
    Sigmas,
    SubVP,
    Tabulated,
)

__all__ = [
    "VE",
    "BatchNoise",
    "CategoricalDecoder",
    "CosineVP",
    "Decoder",
    "Density",
    "GaussianDecoder",
    "Kernel",
    "Learned",
    "Level",
    "LevelNoise",
    "LinearVP",
    "NoDecoder",
    "RectifiedFlow",
    "SampleNoise",
    "Schedule",
    "Sigmas",
    "SubVP",
    "Tabulated",
    "kernels",
    "reverse_kernel",
]
