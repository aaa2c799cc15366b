"""How few network calls, at which times, with which noise, and at what cost in bits: for any pretrained diffusion model.

The front door is `analyse`; what lies behind it is found by room: `grids.karras`, `samplers.Heun`, `metrics.KID`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from score_sde_analytic.data import DataRange, images
    from score_sde_analytic.grids import Grid
    from score_sde_analytic.interop import fit_pipeline
    from score_sde_analytic.likelihood import Chain, ContinuousTime, Flow, bits_per_dim
    from score_sde_analytic.measure import Budget
    from score_sde_analytic.models import Continuous, GaussianMixture, LogSNR, OneBased, ScoreModel, Sigma, ZeroBased
    from score_sde_analytic.process import VE, CosineVP, LinearVP, RectifiedFlow, SubVP, Tabulated
    from score_sde_analytic.samplers import Ancestral, generate
    from score_sde_analytic.study import Settings, Study, analyse
    from score_sde_analytic.uncertainty import Estimate

#: From the ground up; a room imports only from those before it.
ROOMS = (
    "data",
    "process",
    "models",
    "measure",
    "guidance",
    "covariance",
    "grids",
    "samplers",
    "likelihood",
    "coding",
    "metrics",
    "report",
    "study",
    "compare",
    "interop",
)

#: Names of the front door, by the room or module that they live in.
HOMES = {
    "data": (
        "DataRange",
        "images",
    ),
    "grids": ("Grid",),
    "interop": ("fit_pipeline",),
    "likelihood": (
        "Chain",
        "ContinuousTime",
        "Flow",
        "bits_per_dim",
    ),
    "measure": ("Budget",),
    "models": (
        "Continuous",
        "GaussianMixture",
        "LogSNR",
        "OneBased",
        "ScoreModel",
        "Sigma",
        "ZeroBased",
    ),
    "process": (
        "VE",
        "CosineVP",
        "LinearVP",
        "RectifiedFlow",
        "SubVP",
        "Tabulated",
    ),
    "samplers": (
        "Ancestral",
        "generate",
    ),
    "study": (
        "Settings",
        "Study",
        "analyse",
    ),
    "uncertainty": ("Estimate",),
}

__all__ = [
    "VE",
    "Ancestral",
    "Budget",
    "Chain",
    "Continuous",
    "ContinuousTime",
    "CosineVP",
    "DataRange",
    "Estimate",
    "Flow",
    "GaussianMixture",
    "Grid",
    "LinearVP",
    "LogSNR",
    "OneBased",
    "RectifiedFlow",
    "ScoreModel",
    "Settings",
    "Sigma",
    "Study",
    "SubVP",
    "Tabulated",
    "ZeroBased",
    "analyse",
    "bits_per_dim",
    "fit_pipeline",
    "generate",
    "images",
]


_HOME = {name: home for home, names in HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Names and rooms, imported when they are first asked for: the command line's help waits for no library."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it may be in one of the rooms {', '.join(ROOMS)}")


def __dir__() -> list[str]:
    return [*__all__, *ROOMS]
