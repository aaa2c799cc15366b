"""Variational bound of a K-step chain (eta = 1), any grid, any covariance.

    -log p(x_0) <= KL(q(x_T | x_0) || p(x_T)) + sum_{k=2..K} KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)) - log p(x_0 | x_1)

(Ho et al., 2020, eq. 5.) Each term needs the network at one time only, so chains with times in common share its calls: on one
lattice, the bounds for every K come from one pass. An example's noise is a function of log-SNR, so that any two chains compare
with common random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.grids import grid as grids
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood.evaluation import Batch, Method, Terms, digest, prior_nats
from score_sde_analytic.models.model import Prediction, ScoreModel
from score_sde_analytic.process.decoder import Decoder, GaussianDecoder, as_decoder
from score_sde_analytic.process.kernel import Kernel, kernels, reverse_kernel
from score_sde_analytic.process.noise import LevelNoise
from score_sde_analytic.process.schedule import Level, Schedule


@dataclass(frozen=True)
class Chain(Method):
    """A generative chain: where it stops, what each step adds, how the last one decodes.

    Attributes:
        grid: its times.
        covariance: of the transitions.
        decoder: p(x_0 | x_{t_1}); a number is the std of a `GaussianDecoder`.
    """

    grid: Grid
    covariance: Covariance
    decoder: Decoder

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", as_decoder(self.decoder))
        if self.grid.times[0] != 1.0:
            raise ValueError(f"a chain starts from the prior at t = 1, this grid at {self.grid.times[0]:.6g}; begin it with 1")

    def columns(self) -> tuple[str, ...]:
        return ("prior", *["transitions"] * (self.grid.steps - 1), "reconstruction")

    def config(self, model: ScoreModel) -> dict[str, Any]:
        levels = self.grid.levels(model.schedule)
        steps = self.covariance.fingerprint(kernels(levels[:-1]), levels[:-2])
        return {"name": "chain", "times": digest(self.grid.times), "covariance": digest(steps)} | self.decoder.config()

    def check(self, model: ScoreModel, data_range: DataRange | None) -> None:
        self.decoder.check(data_range)

    @property
    def calls(self) -> int:
        """Network calls per example: K, or K - 1 where the decoder needs none."""
        return self.grid.steps - (not self.decoder.needs_network)

    def terms(self, model: ScoreModel, batch: Batch) -> Terms:
        return self.together({"": self}, model, batch)[""]

    @classmethod
    def together(cls, methods: Mapping[str, Chain], model: ScoreModel, batch: Batch) -> dict[str, Terms]:
        """All chains from one network call per distinct time."""
        noise = batch.noise()
        plans = {name: _Plan.of(chain, model.schedule) for name, chain in methods.items()}
        columns: dict[str, list[Tensor]] = {name: [prior_nats(model.schedule, batch.x_0)] for name in methods}
        levels = {level.t: level for plan in plans.values() for level in plan.levels}
        for done, t in enumerate(sorted(levels, reverse=True)):
            users = {name: plan.position[t] for name, plan in plans.items() if t in plan.position}
            found = _at(model, batch, noise, levels[t], {name: (plans[name], k) for name, k in users.items()})
            for name, value in found.items():
                columns[name].append(value)
            batch.tick((done + 1) / len(levels))
        size, device = len(batch.x_0), batch.x_0.device
        stacked = {name: torch.stack([v.to(device) for v in values], 1) for name, values in columns.items()}
        return {
            name: Terms(stacked[name], size * methods[name].calls + plan.evaluations, plan.products)
            for name, plan in plans.items()
        }


@dataclass
class _Plan:
    """What a chain does at each of its levels t_K .. t_1, and what its covariance costs besides the chain's own calls."""

    levels: list[Level]
    position: dict[float, int]
    kernels: list[Kernel]
    covariances: list[StepCovariance]
    covariance: Covariance
    decoder: Decoder
    evaluations: int = 0
    products: int = 0

    def kl(self, k: int, model: ScoreModel, prediction: Prediction, x_0: Tensor) -> Tensor:
        """The KL divergence of step k."""
        before = self.covariance.products
        with model.metered() as cost:
            value = self.covariances[k].kl(self.kernels[k], prediction, x_0)
        self.evaluations += cost.evaluations
        self.products += self.covariance.products - before
        return value

    @classmethod
    def of(cls, chain: Chain, schedule: Schedule) -> _Plan:
        levels = chain.grid.levels(schedule)[:-1]
        ks = kernels(levels)
        covariances = chain.covariance.steps(ks, levels[:-1])
        position = {level.t: k for k, level in enumerate(levels)}
        return cls(levels, position, ks, covariances, chain.covariance, chain.decoder)


def _at(
    model: ScoreModel, batch: Batch, noise: LevelNoise, level: Level, users: Mapping[str, tuple[_Plan, int]]
) -> dict[str, Tensor]:
    """The term of every chain at one level, in nats per dimension, (batch,); at most one network call."""
    x_0, found, waiting = batch.x_0, {}, {}
    for name, (plan, k) in users.items():
        exact = plan.decoder.expected(x_0, level, batch.data_range) if k == len(plan.kernels) else None
        if exact is None:
            waiting[name] = (plan, k)
        else:
            found[name] = exact
    if not waiting:
        return found
    x_t = level.alpha * x_0 + level.sigma * noise.at(level.log_snr, x_0)
    prediction = model.predict(x_t, level)
    for name, (plan, k) in waiting.items():
        if k < len(plan.kernels):
            found[name] = plan.kl(k, model, prediction, x_0)
        else:
            found[name] = plan.decoder.nats(x_0, x_t, prediction.x_0, level, batch.data_range)
    return found


def paper_chain(schedule: Schedule, covariance: Covariance, steps: int, table: int = 1000, grid: Grid | None = None) -> Chain:
    """The convention of published Analytic-DPM tables: t_1 = 1/N and a decoder with variance beta-tilde(1, 2).

    Args:
        steps: K of the even grid over the table's indices; ignored when `grid` is given.
        table: N, the steps of the discrete model.
        grid: another grid whose first time is 1/N.

    Raises:
        ValueError: a grid whose first time is not 1/N.
    """
    grid = grids.even(steps, 1.0 / table) if grid is None else grid
    if not math.isclose(grid.times[-2], 1.0 / table):
        raise ValueError(f"the paper's convention forces t_1 = 1/{table}, got {grid.times[-2]:.6g}")
    decoder = reverse_kernel(schedule.level(1.0 / table), schedule.level(2.0 / table)).rho2
    return Chain(grid, covariance, GaussianDecoder(math.sqrt(decoder)))
