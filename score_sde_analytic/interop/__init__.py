"""Where people already work: other packages' networks, samplers, schedulers and files, each in a module of its own.

A module is imported on demand; what it needs of the other package is said where it is absent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from score_sde_analytic.extras import optional

if TYPE_CHECKING:
    from score_sde_analytic.interop.artefacts import load_pipeline, open_study, push_pipeline, save_pipeline
    from score_sde_analytic.interop.diffusers import AnalyticDPMScheduler, AnalyticFlowScheduler
    from score_sde_analytic.interop.elsewhere import sigmas_for, timesteps_for
    from score_sde_analytic.interop.pipelines import Fitted, fit_pipeline, from_pipeline

#: Names by the module that they live in.
HOMES = {
    "artefacts": (
        "load_pipeline",
        "open_study",
        "push_pipeline",
        "save_pipeline",
    ),
    "diffusers": (
        "AnalyticDPMScheduler",
        "AnalyticFlowScheduler",
    ),
    "elsewhere": (
        "sigmas_for",
        "timesteps_for",
    ),
    "pipelines": (
        "Fitted",
        "fit_pipeline",
        "from_pipeline",
    ),
}

__all__ = [
    "AnalyticDPMScheduler",
    "AnalyticFlowScheduler",
    "Fitted",
    "fit_pipeline",
    "from_pipeline",
    "load_pipeline",
    "open_study",
    "push_pipeline",
    "save_pipeline",
    "sigmas_for",
    "timesteps_for",
]

_HOME = {name: home for home, names in HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if _HOME[name] == "diffusers":
            optional("diffusers", extra="images", user=name)
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
