"""The table of a deterministic sampler, read out by unit vectors.

A sampler of states and predictions is linear in them. Driven in R^{K+2} with z = e_0 and the answer e_j at its j-th call, its
states are its rows: weight j stands in coordinate j. The last coordinate collects what it takes from noise, which must be none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.level import finite
from score_sde_analytic.samplers.base import Sampler
from score_sde_analytic.samplers.table import Table


class _Units:
    """A network whose j-th answer is the unit vector e_j, and a source of noise that is the last of them."""

    def __init__(self) -> None:
        self.answers = 0

    def __call__(self, x: Tensor, log_snr: Tensor) -> Tensor:
        self.answers += 1
        return _unit(x, min(self.answers, x.shape[1] - 1))

    def draw(self, like: Tensor) -> Tensor:
        return _unit(like, like.shape[1] - 1)


def _unit(like: Tensor, place: int) -> Tensor:
    return torch.zeros_like(like).index_fill_(1, torch.tensor([place]), 1.0)


@dataclass
class _Calls:
    """Log-SNR and variance-preserving state of every call."""

    log_snrs: list[float] = field(default_factory=list)
    states: list[Array] = field(default_factory=list)

    def __call__(self, prediction: Prediction) -> None:
        level = prediction.level
        self.log_snrs.append(finite(float(level.log_snr)))
        self.states.append((prediction.x_t[0] / level.norm).numpy().copy())


def table_of(sampler: Sampler[Any], grid: Grid, start: LinearDenoiser | None = None) -> Table:
    """The rows of a deterministic sampler on a grid: the same samples as its own, up to rounding.

    Args:
        grid: may begin below t = 1 where a start is given.
        start: begin on the flow of Gaussian data instead of at z.

    Raises:
        UnsupportedError: it takes noise, chooses its calls as it goes, or asks twice at a level.

    >>> from score_sde_analytic import covariance, grids, samplers
    >>> ddim = samplers.Ancestral(model, covariance.BetaTilde(), eta=0.0)
    >>> table_of(ddim, grids.even(2, 0.1)).rows[1].round(3)
    array([0.322, 0.945])
    """
    width = sampler.calls(grid)
    if width is None:
        raise UnsupportedError(
            f"{sampler.name} chooses its calls as it goes; a table is of a sampler with a fixed number of them"
        )
    states, log_snrs = _driven(sampler, grid, width)
    if len(log_snrs) != width or any(later <= earlier for earlier, later in pairwise(log_snrs)):
        raise UnsupportedError(f"{sampler.name} asks the network twice at a level; a table's calls ascend in log-SNR")
    if any(state[-1] != 0.0 for state in states):
        raise UnsupportedError(f"{sampler.name} takes noise, so no table holds it; choose a deterministic sampler, as eta=0")
    rows = tuple(state[: i + 1] for i, state in enumerate(states))
    table = Table(np.array(log_snrs), rows, label=sampler.name)
    return table if start is None else _started(table, start)


def _driven(sampler: Sampler[Any], grid: Grid, width: int) -> tuple[list[Array], list[float]]:
    """(states of the calls and the sample, log-SNRs of the calls)."""
    units, calls = _Units(), _Calls()
    model = ScoreModel(units, sampler.model.schedule, "x_0", LogSNR(), fingerprint="unit vectors")
    driven: Any = replace(sampler, model=model)  # type: ignore[type-var]
    plan = driven.plan(grid)
    x = _unit(torch.zeros(1, width + 2, dtype=torch.float64), 0)
    x = x * (model.schedule.prior_variance**0.5 if grid.times[0] == 1.0 else plan[0].t.norm)
    state = driven.init(plan, x)
    with torch.no_grad(), model.watched(calls):
        for step in plan:
            x, state = driven.step(x, step, state, units)
    return [*calls.states, x[0].numpy()], calls.log_snrs


def _started(table: Table, start: LinearDenoiser) -> Table:
    """Its first state in place of z: w_K = sqrt(alpha^2 c + sigma^2), and its share of every state after."""
    alpha2 = 1.0 / (1.0 + np.exp(-table.log_snrs[0]))
    first = np.sqrt(alpha2 * start.spectrum + 1.0 - alpha2)
    rows = [np.array([row[0] / table.rows[0][0], *row[1:]]) for row in table.rows]  # of x_K instead of z
    shifts = np.array([alpha2**0.5 * row[0] + row[1:].sum() for row in rows])
    rows = [np.stack([row[0] * first, *(np.full_like(first, w) for w in row[1:])]) for row in rows]
    label = f"{table.label}, Gaussian start"
    return Table(table.log_snrs, tuple(rows), shifts, start.mean, start.basis, label)
