"""Variational bound of a K-step chain (eta = 1), any grid, any covariance.

    -log p(x_0) <= KL(q(x_T | x_0) || p(x_T)) + sum_{k=2..K} KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)) - log p(x_0 | x_1)

(Ho et al., 2020, eq. 5.) Each term needs the network at one time only, so chains with times in common share its calls: on one
lattice, the bounds for every K come from one pass. An example's noise is a function of log-SNR, so that any two chains compare
with common random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import whole
from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids import grid as grids
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import transition_costs, transition_slopes
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.likelihood.method import Batch, Method, Terms
from score_sde_analytic.likelihood.prior import check_top, prior_nats, settings_of
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.decoder import Decoder, GaussianDecoder, as_decoder
from score_sde_analytic.process.kernel import Kernel, kernels, reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import LevelNoise
from score_sde_analytic.process.schedule import Schedule


@dataclass(frozen=True)
class Chain(Method):
    """A generative chain: where it stops, what each step adds, how the last one decodes.

    Attributes:
        grid: its times.
        covariance: of the transitions.
        decoder: p(x_0 | x_{t_1}); a number is the std of a `GaussianDecoder`.
        prior: a free model of the data, p(x_{t_K}) at whatever level the grid begins; None for N(0, prior_variance I) at t = 1.
        choice: (moments without a fold of their groups, number of the fold) -> the chain of as many steps that they would have
            led to, by which `price` cross-fits; None for a chain that was not chosen from moments.

    >>> Chain(Grid((1.0, 0.5, 0.1, 0.0)), study.covariance("isotropic"), decoder=0.1).columns()
    ('prior', 'transitions', 'transitions', 'reconstruction')
    """

    grid: Grid
    covariance: Covariance
    decoder: Decoder
    choice: Callable[[Moments, int], Chain] | None = field(default=None, compare=False, repr=False)
    prior: FreeModel | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", as_decoder(self.decoder))
        check_top("a chain", self.prior, self.top)

    def columns(self) -> tuple[str, ...]:
        return ("prior", *["transitions"] * (self.grid.steps - 1), "reconstruction")

    def config(self, model: ScoreModel) -> dict[str, Any]:
        levels = self.grid.levels(model.schedule)
        steps = self.covariance.fingerprint(kernels(levels[:-1]), levels[:-2])
        settings = {"name": "chain", "times": digest(self.grid.times), "covariance": digest(steps)}
        return settings | self.decoder.config() | settings_of(self.prior)

    def check(self, model: ScoreModel, data_range: DataRange | None) -> None:
        self.decoder.check(data_range)

    @property
    def top(self) -> float:
        """t_K, where the prior is."""
        return self.grid.times[0]

    @property
    def first_time(self) -> float:
        """t_1, where the decoder takes over."""
        return self.grid.times[-2]

    def transition_nats(self, schedule: Schedule, curve: NoiseCurve, group: int | None) -> Float64[Array, " transitions"]:
        """Price of each transition in visiting order, nats per dimension, without a group of the curve's examples.

        Raises:
            TypeError: a covariance that depends on the state: no curve knows its price.
        """
        nats = transition_costs(schedule, curve, self.covariance, self.grid)
        correction = self.covariance.correction
        if correction is None:
            return nats
        log_snr = schedule.log_snr(np.array(self.grid.times[:-1]))
        return nats + correction(log_snr[1:], log_snr[:-1], group)

    @property
    def judged(self) -> bool:
        """Whether the price of transitions is that of recorded draws: the covariance knows what they cost."""
        return self.covariance.judged

    def slopes(
        self, schedule: Schedule, curve: NoiseCurve
    ) -> tuple[Float64[Array, "transitions 1"], Float64[Array, "transitions 1"]]:
        """(log-SNR that each transition starts from, change of its price for a unit of y there), nats per dimension."""
        log_snr, slopes = transition_slopes(schedule, curve, self.covariance, self.grid)
        return log_snr[:, None], slopes[:, None]

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
        usual = prior_nats(None, model.schedule, 1.0, batch)  # of many chains
        columns: dict[str, list[Tensor]] = {
            name: [usual if chain.prior is None else prior_nats(chain.prior, model.schedule, chain.top, batch)]
            for name, chain in methods.items()
        }
        levels = {level.t: level for plan in plans.values() for level in plan.levels}
        for visited, t in enumerate(sorted(levels, reverse=True), 1):
            steps = [(name, plan, plan.position[t]) for name, plan in plans.items() if t in plan.position]
            for name, nats in _at(model, batch, noise, levels[t], steps).items():
                columns[name].append(nats)
            batch.progress.reached(visited / len(levels))
        return {
            name: Terms(
                torch.stack([column.to(usual.device) for column in columns[name]], 1),
                len(batch.x_0) * methods[name].calls + plan.evaluations,
                plan.vector_products,
            )
            for name, plan in plans.items()
        }


@dataclass
class _Plan:
    """What a chain does at each of its levels t_K .. t_1, and what its covariance costs besides the chain's own calls."""

    levels: list[Level]
    position: dict[float, int]
    kernels: list[Kernel]
    covariances: list[StepCovariance]
    decoder: Decoder
    evaluations: int = 0
    vector_products: int = 0

    @classmethod
    def of(cls, chain: Chain, schedule: Schedule) -> _Plan:
        levels = chain.grid.levels(schedule)[:-1]
        steps = kernels(levels)
        position = {level.t: k for k, level in enumerate(levels)}
        return cls(levels, position, steps, chain.covariance.steps(steps, levels[:-1]), chain.decoder)

    def is_last(self, k: int) -> bool:
        """Whether step k leads to the data."""
        return k == len(self.kernels)

    def kl(self, k: int, model: ScoreModel, prediction: Prediction, x_0: Tensor) -> Tensor:
        """The KL divergence of step k, nats per dimension, (batch,)."""
        with model.metered() as cost:
            nats = self.covariances[k].kl(self.kernels[k], prediction, x_0)
        self.evaluations += cost.evaluations
        self.vector_products += cost.vector_products
        return nats


def _at(
    model: ScoreModel, batch: Batch, noise: LevelNoise, level: Level, steps: Sequence[tuple[str, _Plan, int]]
) -> dict[str, Tensor]:
    """The term of every chain that steps from one level, in nats per dimension, (batch,); at most one network call."""
    x_0, data_range = batch.x_0, batch.data_range
    nats: dict[str, Tensor] = {}
    for name, plan, k in steps:
        exact = plan.decoder.expected(x_0, level, data_range) if plan.is_last(k) else None
        if exact is not None:
            nats[name] = exact
    if len(nats) == len(steps):
        return nats
    x_t = level.diffuse(x_0, noise.at(level.log_snr, x_0))
    prediction = model.predict(x_t, level)
    for name, plan, k in steps:
        if name in nats:
            continue
        if plan.is_last(k):
            nats[name] = plan.decoder.nats(x_0, x_t, prediction.x_0, level, data_range)
        else:
            nats[name] = plan.kl(k, model, prediction, x_0)
    return nats


def paper_chain(schedule: Schedule, covariance: Covariance, steps: int, table: int = 1000, grid: Grid | None = None) -> Chain:
    """The convention of published Analytic-DPM tables: t_1 = 1/N and a decoder with variance beta-tilde(1, 2).

    Args:
        steps: K of the even grid over the table's indices; ignored when `grid` is given.
        table: N, the steps of the discrete model.
        grid: another grid whose first time is 1/N.

    Raises:
        InputError: a grid whose first time is not 1/N.

    >>> paper_chain(model.schedule, study.covariance("isotropic"), steps=10, table=1000).first_time
    0.001
    """
    table = whole(2)("table", table)
    grid = grids.even(steps, 1.0 / table) if grid is None else grid
    if not math.isclose(grid.times[-2], 1.0 / table):
        raise InputError(f"the paper's convention forces t_1 = 1/{table}, got {grid.times[-2]:.6g}")
    decoder = reverse_kernel(schedule.level(1.0 / table), schedule.level(2.0 / table)).rho2
    return Chain(grid, covariance, GaussianDecoder(math.sqrt(decoder)))
