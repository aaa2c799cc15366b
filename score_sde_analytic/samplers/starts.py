"""What samples start from: the prior at t = 1, a free model of the data, or examples that are diffused to some level.

    x_t = alpha x_0 + sigma z

is where SDEdit begins (Meng et al., ICLR 2022): a picture, led back to data by the model of another domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import onto
from score_sde_analytic.checks import number
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule

#: Log-SNRs closer than this are one level.
SAME = 1e-6
LOG_SNR = number(-math.inf)


@runtime_checkable
class Start(Protocol):
    """What carries a draw of noise to a first state: a free model of the data, or a table."""

    def start(self, z: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        """x_t at a level from z ~ N(0, I)."""
        ...


#: (x_0, log-SNR): examples, a row per sample or what gives these for a range of indices, and the level that they start at.
Examples = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Diffused:
    """x_t = alpha x_0 + sigma z of some examples.

    >>> Diffused(torch.ones(1, 2)).start(torch.zeros(1, 2), Level(0.5, 0.6, 0.8, -0.575))
    tensor([[0.6000, 0.6000]])
    """

    x_0: Float[Tensor, " batch *dims"]

    def start(self, z: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, " batch *dims"]:
        return level.diffuse(onto(self.x_0, z.device), z).to(z)


def starts(
    start: Start | Examples | None, grid: Grid, schedule: Schedule, indices: range, shape: Sequence[int]
) -> Callable[[slice], Start | None]:
    """The start of some of the samples.

    Raises:
        InputError: a grid that does not begin where they do, or other than an example of the shape per sample.

    >>> from score_sde_analytic import grids
    >>> grid = grids.even_log_snr(model.schedule, 4, 0.001).begun(model.schedule.time(-1.0))
    >>> part = starts((torch.ones(5, 2), -1.0), grid, model.schedule, range(5), (2,))
    >>> part(slice(3, 5)).x_0.shape
    torch.Size([2, 2])
    """
    if not isinstance(start, tuple):
        if start is None and grid.times[0] != 1.0:
            raise InputError(
                f"samples start from the prior at t = 1, this grid at {grid.times[0]:.6g}; begin it with 1, name a free"
                " model of the data as the start, or examples and their log-SNR, or use carry()"
            )
        return lambda part: start
    if len(start) != 2:
        raise InputError("a start of examples is (x_0, log_snr), a row per sample and the level that they start at")
    given, log_snr = start
    _check_level(grid, schedule, LOG_SNR("the log-SNR of a start", log_snr))
    if callable(given):
        return lambda part: Diffused(_checked(given(indices[part]), len(indices[part]), shape))
    rows = _checked(given, len(indices), shape)
    return lambda part: Diffused(rows[part])


def _check_level(grid: Grid, schedule: Schedule, log_snr: float) -> None:
    begins = float(schedule.log_snr(grid.times[0]))
    if begins != log_snr and abs(begins - log_snr) > SAME:
        raise InputError(
            f"the start is at log-SNR {log_snr:.6g}, the grid begins at {begins:.6g}: begin it there, by the grid's own"
            " begun(schedule.time(log_snr)), by top=schedule.time(log_snr) of even, even_log_snr or karras, or ask a study"
        )


def _checked(x_0: Any, count: int, shape: Sequence[int]) -> Tensor:
    if not isinstance(x_0, Tensor) or not x_0.is_floating_point() or x_0.shape != (count, *shape):
        told = tuple(x_0.shape) if isinstance(x_0, Tensor) else type(x_0).__name__
        raise InputError(f"a start of examples has one of shape {tuple(shape)} per sample, {count} in all, got {told}")
    if not torch.isfinite(x_0).all():
        raise InputError("the examples of a start hold NaN or inf")
    return x_0
