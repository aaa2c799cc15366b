"""Where people already work: other packages' networks, samplers, schedulers and files, each in a module of its own.

A module is imported on demand; what it needs of the other package is said where it is absent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from score_sde_analytic.extras import optional

if TYPE_CHECKING:
    from score_sde_analytic.interop.analytic_dpm import load_ms_eps, save_ms_eps
    from score_sde_analytic.interop.artefacts import load_pipeline, open_study, push_pipeline, save_pipeline
    from score_sde_analytic.interop.azula import as_azula, from_azula
    from score_sde_analytic.interop.diffusers import AnalyticDPMScheduler, AnalyticFlowScheduler
    from score_sde_analytic.interop.edm import from_edm
    from score_sde_analytic.interop.elsewhere import sigmas_for, timesteps_for
    from score_sde_analytic.interop.guided_diffusion import from_guided_diffusion
    from score_sde_analytic.interop.k_diffusion import as_denoiser, from_denoiser, sample_analytic
    from score_sde_analytic.interop.lucidrains import from_gaussian_diffusion
    from score_sde_analytic.interop.pipelines import Fitted, fit_pipeline, from_pipeline
    from score_sde_analytic.interop.score_sde import from_score_sde, load_checkpoint

#: Names by the module that they live in.
HOMES = {
    "analytic_dpm": (
        "load_ms_eps",
        "save_ms_eps",
    ),
    "artefacts": (
        "load_pipeline",
        "open_study",
        "push_pipeline",
        "save_pipeline",
    ),
    "azula": (
        "as_azula",
        "from_azula",
    ),
    "diffusers": (
        "AnalyticDPMScheduler",
        "AnalyticFlowScheduler",
    ),
    "edm": ("from_edm",),
    "elsewhere": (
        "sigmas_for",
        "timesteps_for",
    ),
    "guided_diffusion": ("from_guided_diffusion",),
    "k_diffusion": (
        "as_denoiser",
        "from_denoiser",
        "sample_analytic",
    ),
    "lucidrains": ("from_gaussian_diffusion",),
    "pipelines": (
        "Fitted",
        "fit_pipeline",
        "from_pipeline",
    ),
    "score_sde": (
        "from_score_sde",
        "load_checkpoint",
    ),
}

__all__ = [
    "AnalyticDPMScheduler",
    "AnalyticFlowScheduler",
    "Fitted",
    "as_azula",
    "as_denoiser",
    "fit_pipeline",
    "from_azula",
    "from_denoiser",
    "from_edm",
    "from_gaussian_diffusion",
    "from_guided_diffusion",
    "from_pipeline",
    "from_score_sde",
    "load_checkpoint",
    "load_ms_eps",
    "load_pipeline",
    "open_study",
    "push_pipeline",
    "sample_analytic",
    "save_ms_eps",
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
