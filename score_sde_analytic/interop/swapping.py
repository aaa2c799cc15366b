"""Schedulers in each other's place: ours for one of diffusers, and the one of diffusers by whose name ours is saved."""

from __future__ import annotations

from typing import Any

from score_sde_analytic.extras import optional
from score_sde_analytic.models.diffusers_folder import training_of

#: Schedulers of this package, by the class of diffusers whose parameters they have.
STOCK = {"AnalyticDPMScheduler": "DDPMScheduler", "AnalyticFlowScheduler": "FlowMatchEulerDiscreteScheduler"}


def config_of(scheduler: Any) -> dict[str, Any]:
    """A scheduler's config with its class; schedulers of this package by the class whose parameters they have.

    Args:
        scheduler: it, or its config, which names its class where it was read from a file.
    """
    config = getattr(scheduler, "config", None)
    said = dict(scheduler) if config is None else dict(config) | {"_class_name": type(scheduler).__name__}
    name = str(said.get("_class_name"))
    return said | {"_class_name": STOCK.get(name, name)}


def analytic(scheduler: Any) -> Any:
    """The scheduler of this package that stands for one of diffusers, with what that one's config carries.

    Raises:
        UnsupportedError: a scheduler that none of this package stands for.
    """
    optional("diffusers", extra="images", user="a scheduler for diffusers")
    from score_sde_analytic.interop import diffusers as ours

    config = config_of(scheduler)
    flow = training_of(config).predicts == "velocity"
    return (ours.AnalyticFlowScheduler if flow else ours.AnalyticDPMScheduler).from_config(config)


def stock(scheduler: Any) -> Any:
    """The scheduler of diffusers by whose name ours is saved; it carries along what ours does."""
    kind = getattr(optional("diffusers", extra="images", user="a pipeline"), config_of(scheduler)["_class_name"])
    return kind.from_config(scheduler.config)
