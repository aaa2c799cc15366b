"""Our grids in schedulers of others: the timesteps or sigmas that `set_timesteps` of another scheduler takes.

tables    index N t - 1; sigma / alpha where sigmas are asked for
flow      share of noise s = sigma / (alpha + sigma); sigmas go through the scheduler's own shift,
          y -> shift y / (1 + (shift - 1) y), so what is given is undone: y = s / (shift - (shift - 1) s)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.carried import KEY
from score_sde_analytic.interop.swapping import config_of
from score_sde_analytic.models.diffusers_folder import Training, training_of
from score_sde_analytic.process.level import Level

#: Schedulers that interpolate their table; all others read it at whole indices.
BETWEEN = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
#: Those that take the last sigma that they are given for the end of the run, and so need the data's.
TO_THE_DATA = ("EulerDiscreteScheduler",)
#: Settings by which a flow's scheduler moves the sigmas that it is given.
MOVED = ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "shift_terminal")
#: A schedule that ends in pure noise has no larger sigma than this in a table's coordinates.
LARGEST = 1e4


def timesteps_for(grid: Grid, scheduler: Any) -> list[float] | list[int]:
    """What `scheduler.set_timesteps(timesteps=..)` takes for a grid, whole where its class reads a table at whole indices.

    >>> from score_sde_analytic import Grid
    >>> timesteps_for(Grid((1.0, 0.5, 0.2504, 0.0)), {"_class_name": "DDPMScheduler"})
    [999, 499, 249]
    >>> timesteps_for(Grid((1.0, 0.5, 0.2504, 0.0)), {"_class_name": "EulerDiscreteScheduler"})
    [999.0, 499.0, 249.4]

    Args:
        scheduler: it, or its config with its class.

    Raises:
        InputError: more steps than the table has indices, or a scheduler that takes no timesteps, or moves them.
        UnsupportedError: a scheduler without a forward process of this package.
    """
    config = config_of(scheduler)
    training = training_of(config)
    if training.predicts == "edm":
        raise InputError(f"{config['_class_name']} takes sigmas, no timesteps; use sigmas_for")
    if training.shift != 1.0 and config.get(KEY) is None:
        raise InputError(f"{config['_class_name']} shifts the sigmas of the timesteps that it is given; use sigmas_for")
    _require_taken(config, "timesteps")
    labels = [float(training.times.label(level)) for level in grid.levels(training.schedule)[:-1]]
    if config["_class_name"] in BETWEEN or config.get(KEY) is not None:
        return labels
    return _whole(labels, training)


def _whole(labels: list[float], training: Training) -> list[int]:
    """The nearest whole indices, each once: neighbours make room."""
    last = round(float(training.times.label(training.schedule.level(1.0))))
    if len(labels) > last + 1:
        raise InputError(f"{len(labels)} steps on a table of {last + 1}; ask for a grid of fewer")
    nearest = np.round(labels).astype(int)
    steps = np.arange(len(nearest))
    falling = np.minimum.accumulate(nearest + steps) - steps  # each at least one below the one before it
    room = np.arange(len(nearest))[::-1]
    return [int(index) for index in np.maximum(falling, room)]


def sigmas_for(grid: Grid, scheduler: Any) -> list[float]:
    """What `scheduler.set_timesteps(sigmas=..)` takes for a grid; a flow's shift is undone, as the scheduler applies it.

    >>> from score_sde_analytic import Grid
    >>> shifted = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    >>> [round(sigma, 3) for sigma in sigmas_for(Grid((1.0, 0.75, 0.25, 0.0)), shifted)]
    [1.0, 0.5, 0.1]

    Args:
        scheduler: it, or its config with its class.

    Raises:
        InputError: a scheduler that takes no sigmas, or moves them by more than a shift.
        UnsupportedError: a scheduler without a forward process of this package.
    """
    config = config_of(scheduler)
    training = training_of(config)
    levels = grid.levels(training.schedule)[:-1]
    if training.predicts == "edm":
        raise InputError(f"{config['_class_name']} takes sigmas for places on a ramp of its own, not for sigmas")
    _require_taken(config, "sigmas")
    if training.predicts != "velocity":
        end = [0.0] if config["_class_name"] in TO_THE_DATA else []
        return [min(level.ratio, LARGEST) for level in levels] + end
    moved = [name for name in MOVED if config.get(name)]
    if moved:
        raise InputError(f"this scheduler moves the sigmas that it is given; build it without {', '.join(moved)}")
    return [_unshifted(level, training.shift) for level in levels]


def _require_taken(config: Mapping[str, Any], argument: str) -> None:
    """Raises InputError where set_timesteps of a scheduler of diffusers has no such argument."""
    import diffusers

    name = str(config["_class_name"])
    kind = getattr(diffusers, name, None)
    if kind is not None and argument not in inspect.signature(kind.set_timesteps).parameters:
        raise InputError(f"set_timesteps of {name} takes no {argument}=; take another scheduler")


def _unshifted(level: Level, shift: float) -> float:
    share = level.sigma / (level.alpha + level.sigma)
    return share / (shift - (shift - 1.0) * share)
