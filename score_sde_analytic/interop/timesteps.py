"""Timesteps as diffusers counts them: the index i = 0 .. N - 1 of a table of betas, which is our time t = (i + 1) / N."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from score_sde_analytic.arrays import Array, as_array, numbers
from score_sde_analytic.checks import one_of, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.process.schedule import Schedule

#: How far beyond a schedule's own a noise level may be rounded.
ROUNDED = 1e-3
#: Below this an index is a whole number.
WHOLE = 1e-6


def spaced(steps: int, table: int, spacing: str, offset: int) -> Array:
    """Indices of so many steps in a table, from the noise on, as diffusers spaces them.

    >>> spaced(3, 10, "leading", 1), spaced(3, 10, "trailing", 0), spaced(3, 10, "linspace", 0)
    (array([7., 4., 1.]), array([9., 6., 2.]), array([9., 4., 0.]))

    Raises:
        InputError: more steps than the table has, or an unknown spacing.
    """
    steps = whole(1, table)("num_inference_steps", steps)
    spacing = one_of(("linspace", "leading", "trailing"))("timestep_spacing", spacing)
    if spacing == "linspace":
        return as_array(np.linspace(0, table - 1, steps).round()[::-1])
    if spacing == "trailing":
        return as_array(np.round(np.arange(table, 0, -table / steps)) - 1.0)
    last = (steps - 1) * (table // steps)
    # The offset of a full table would lead out of it.
    return as_array(np.arange(steps)[::-1] * (table // steps) + min(offset, table - 1 - last))


def grid_of_indices(indices: Sequence[float] | Array, table: int) -> Grid:
    """The grid of such timesteps.

    Raises:
        InputError: they do not fall strictly from N - 1 or below to 0 or above.

    >>> grid_of_indices([9, 4.5, 0], 10).times
    (1.0, 0.55, 0.1, 0.0)
    """
    given = numbers("timesteps", indices)
    if given.ndim != 1 or not len(given) or np.any(np.diff(given) >= 0.0) or given[0] > table - 1 or given[-1] < 0.0:
        raise InputError(f"timesteps must fall strictly from at most {table - 1} to at least 0, got {list(indices)}")
    return Grid((*((given + 1.0) / table).tolist(), 0.0), "timesteps")


def grid_of_sigmas(sigmas: Sequence[float] | Array, schedule: Schedule) -> Grid:
    """The grid of noise levels sigma / alpha; a closing 0 may stand there.

    Raises:
        InputError: levels outside the schedule, or that do not fall.
    """
    given = numbers("sigmas", sigmas)
    given = given[:-1] if given.ndim == 1 and len(given) > 1 and given[-1] == 0.0 else given
    if given.ndim != 1 or not len(given) or np.any(np.diff(given) >= 0.0) or given[-1] <= 0.0:
        raise InputError(f"sigmas must be positive and fall strictly, a closing 0 apart, got {list(sigmas)}")
    log_snr = -2.0 * np.log(given)
    low = schedule.log_snr_range[0]
    # Published lists round the first level.
    log_snr = np.where((log_snr < low) & (log_snr > low - ROUNDED), low, log_snr)
    return Grid((*np.atleast_1d(schedule.time(log_snr)).tolist(), 0.0), "sigmas")


def grid_of_shares(sigmas: Sequence[float]) -> Grid:
    """The grid of a flow's shares of noise.

    Raises:
        InputError: they do not fall strictly from 1 or below to above 0.
    """
    given = numbers("sigmas", sigmas)
    if not len(given) or np.any(np.diff(given) >= 0.0) or given[0] > 1.0 or given[-1] <= 0.0:
        raise InputError(f"the sigmas of a flow must fall strictly from at most 1 to above 0, got {list(sigmas)}")
    return Grid((*given.tolist(), 0.0), "sigmas")


def indices_of(grid: Grid, table: int) -> Shaped[Tensor, " steps"]:
    """What a network is fed at a grid's times: whole indices where all are, else float32; 0 for times before the first.

    >>> indices_of(Grid((1.0, 0.5, 0.0)), 10), indices_of(Grid((1.0, 0.55, 0.05, 0.0)), 10)
    (tensor([9, 4]), tensor([9.0000, 4.5000, 0.0000]))
    """
    index = np.maximum(np.array(grid.times[:-1]) * table - 1.0, 0.0)
    index = np.where(np.abs(index - index.round()) <= WHOLE, index.round(), index)
    return torch.from_numpy(index.astype(np.int64 if np.all(index == index.round()) else np.float32))
