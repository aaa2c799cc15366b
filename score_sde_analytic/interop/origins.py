"""Where a scheduler's config comes from, and what its class means by the keys that are not there.

A config read from a file names its class; that of a scheduler in memory often does not, but has all of its parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import diffusers
from diffusers.configuration_utils import FrozenDict

from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.models.diffusers_folder import FLOWS, TABLES

#: Under which a config lists the keys whose values were its class' defaults.
DEFAULTED = "_use_default_values"
KNOWN = TABLES | FLOWS
#: Classes that have no setting for it.
SPACED = {"DPMSolverSinglestepScheduler": "linspace"}


def table_settings(config: Mapping[str, Any], ours: type) -> dict[str, Any]:
    """A config of a table of betas, with its own class' defaults in place of ours; classes that never clip do not.

    Raises:
        UnsupportedError: a flow, EDM, or a scheduler of distilled networks.
    """
    name = class_of(config)
    known = _known(config)
    if known.get("use_flow_sigmas") or name in FLOWS:
        raise UnsupportedError(f"{name or 'a scheduler with use_flow_sigmas'} is of a flow; take AnalyticFlowScheduler")
    if name in (None, ours.__name__):
        return known
    if name not in TABLES:
        raise UnsupportedError(
            f"a {name} is not one of a table of betas, so {ours.__name__} cannot stand for it; it can for DDPMScheduler,"
            " DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler and others like them"
        )
    shared = set(_parameters(ours))
    defaults = {key: default for key, default in _parameters(getattr(diffusers, name)).items() if key in shared}
    return {"clip_sample": False, "timestep_spacing": SPACED.get(name, "leading")} | defaults | known


def flow_settings(config: Mapping[str, Any], ours: type) -> dict[str, Any]:
    """A config of a flow; of other classes with use_flow_sigmas, what the two have in common.

    Raises:
        UnsupportedError: a scheduler of a table of betas, EDM, or one of distilled networks.
    """
    name = class_of(config)
    known = _known(config)
    shared = set(_parameters(ours))
    kept = {key: value for key, value in known.items() if key in shared or key.startswith("_")}
    if known.get("use_flow_sigmas"):
        return kept | {"shift": known.get("flow_shift") or 1.0, "_class_name": ours.__name__}
    if name not in (None, ours.__name__, *FLOWS):
        raise UnsupportedError(
            f"a {name} is not of a flow, so {ours.__name__} cannot stand for it; take AnalyticDPMScheduler for a table of betas"
        )
    return kept


def class_of(config: Mapping[str, Any]) -> str | None:
    """The name of the class that a config is of; None where nothing tells.

    >>> class_of(diffusers.EulerDiscreteScheduler().config), class_of({"beta_schedule": "linear"})
    ('EulerDiscreteScheduler', None)
    """
    named = config.get("_class_name")
    if named is not None or not isinstance(config, FrozenDict):
        return named
    fitting = {name: (len(keys), name in KNOWN, -len(name)) for name, keys in _stock().items() if keys <= set(config)}
    return max(fitting, key=lambda name: fitting[name], default=None)


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    # Left in, the mark of values that were defaults would have them replaced by the defaults of another class.
    return {key: value for key, value in config.items() if key != DEFAULTED}


def _parameters(kind: type) -> dict[str, Any]:
    """Of a constructor, with their defaults."""
    known = inspect.signature(vars(kind).get("__init__", kind.__init__)).parameters  # type: ignore[misc]
    return {key: each.default for key, each in known.items() if each.kind is each.POSITIONAL_OR_KEYWORD and key != "self"}


@cache
def _stock() -> dict[str, set[str]]:
    """Parameters of all schedulers of diffusers."""
    names = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
    kinds = {name: getattr(diffusers, name) for name in names}
    return {name: set(_parameters(kind)) for name, kind in kinds.items() if hasattr(kind, "set_timesteps")}
