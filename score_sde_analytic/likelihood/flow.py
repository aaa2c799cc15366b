"""Likelihoods by the probability-flow ODE: a change of variables from data to the prior (Song et al., ICLR 2021, app. D.2).

    log p(x_{t_min}) = log N(x_1; 0, prior_variance) + integral from t_min to 1 of div(dx/dt) dt

How data enter the flow at t_min is an `Entry`, how the divergence is found a `Divergence`.

With k importance samples E log becomes E log of a mean of k weights: never larger in expectation, and exact as k grows
(Burda et al., ICLR 2016; Ho et al., Flow++, ICML 2019, for dequantisation). Weights need the exact trace.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import float64_place, slices, wide
from score_sde_analytic.checks import number, settle, whole
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood.divergence import Divergence, Hutchinson
from score_sde_analytic.likelihood.entries import Direct, Entry, Gate, as_entry
from score_sde_analytic.likelihood.method import Batch, Method, Progress, Terms
from score_sde_analytic.likelihood.prior import check_top, settings_of
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive, Fixed, integrate
from score_sde_analytic.models.probability_flow import (
    CLOCKS,
    Clock,
    Coefficients,
    Probes,
    clock_of,
    eps_and_divergence,
    transport,
)
from score_sde_analytic.process.decoder import LOG_2PI
from score_sde_analytic.process.gaussian import mean_square
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import Schedule


@dataclass(frozen=True)
class Flow(Method):
    """The probability-flow likelihood.

    Attributes:
        t_min: where the flow starts. The network must be trained there; score SDE uses 1e-5.
        entry: `Direct()`, `Uniform()`, `Diffused(decoder)` or an `Entry` of one's own.
        divergence: `ExactTrace()` or `Hutchinson(...)`.
        solver: `Adaptive(rtol, atol)` or `Fixed(steps)`.
        importance_samples: k of the importance-weighted bound, for discrete data or `Diffused`.
        variable: integrate in "log_snr" (the same flow for every schedule), "t" or "ve" (sigma / alpha).
        prior: a free model of the data, p(x_{t_max}); None for N(0, prior_variance I) at t = 1.
        t_max: where the flow ends; below 1 with a free prior only.
        examples_per_block: an adaptive solver chooses one step for all samples of a solve; blocks of examples, the same
            whatever the batch size, keep the result independent of it.

    >>> Flow(solver=Fixed(8)).encode(model, data[:2]).shape
    torch.Size([2, 2])
    """

    t_min: Annotated[float, number(above=0, below=1)] = 1e-5
    entry: Entry = field(default_factory=Direct)
    divergence: Divergence = field(default_factory=Hutchinson)
    solver: Adaptive | Fixed = field(default_factory=Adaptive)
    importance_samples: Annotated[int, whole(1)] = 1
    variable: Literal["log_snr", "t", "ve"] = "log_snr"
    examples_per_block: Annotated[int, whole(1)] = 100
    prior: FreeModel | None = None
    t_max: Annotated[float, number(above=0, most=1)] = 1.0

    def __post_init__(self) -> None:
        settle(self)
        check_top("the flow", self.prior, self.t_max)
        if not self.t_min < self.t_max:
            raise InputError(f"need t_min < t_max, got {self.t_min:g} and {self.t_max:g}")
        if self.variable not in CLOCKS:
            raise InputError(f"variable must be one of {', '.join(CLOCKS)}, got {self.variable!r}")
        refusal = as_entry(self.entry).unweightable
        if self.importance_samples > 1 and refusal is not None:
            raise InputError(f"{refusal}: importance_samples must be 1")
        if self.importance_samples > 1 and not self.divergence.exact:
            # E exp(estimate) exceeds exp(E estimate): noisy weights would feign a tighter bound.
            raise InputError("importance weights need exact densities; use divergence=ExactTrace(), or importance_samples=1")

    @property
    def block(self) -> int:
        return self.examples_per_block

    def columns(self) -> tuple[str, ...]:
        weighting = ("weighting",) if self.importance_samples > 1 else ()
        return ("prior", "volume", *self.entry.columns(), *weighting)

    def config(self, model: ScoreModel) -> dict[str, Any]:
        settings = {"name": "flow", "t_min": self.t_min, "variable": self.variable, "block": self.block}
        settings |= {"solver": asdict(self.solver), "divergence": self.divergence.config()}
        top = {} if self.prior is None else {"t_max": self.t_max}
        settings |= {"importance_samples": self.importance_samples} | self.entry.config()
        return settings | settings_of(self.prior) | top

    def check(self, model: ScoreModel, data_range: DataRange | None) -> None:
        self.entry.check(data_range)

    def terms(self, model: ScoreModel, batch: Batch) -> Terms:
        k = self.importance_samples
        with model.metered() as cost:
            samples = [self._sample(model, replace(batch, progress=batch.progress.part(j, k)), j) for j in range(k)]
        values = samples[0] if k == 1 else _weighted(torch.stack(samples), batch.x_0[0].numel())
        return Terms(values, cost.evaluations, cost.vector_products)

    def _sample(self, model: ScoreModel, batch: Batch, j: int) -> Tensor:
        """One importance sample of every example: columns but the weighting, (batch, columns)."""
        probes = self.divergence.probes(wide(batch.x_0), _probe_noise(batch, j))
        path = _Path.of(self, model, batch.x_0.dtype, batch.rows)
        solve = _Densities(path, probes, batch.progress)
        entered = self.entry.enter(Gate(model, path.level, batch, j, solve.eps_and_divergence))
        latent, volume = solve.to_prior(entered.x_t)
        return torch.stack([self._prior_nats(model.schedule, latent), volume + entered.volume, *entered.terms], 1)

    def _prior_nats(self, schedule: Schedule, latent: Tensor) -> Tensor:
        """-log p of the latent, per dimension."""
        if self.prior is not None:
            return -self.prior.log_prob(latent, schedule.level(self.t_max)) / latent[0].numel()
        variance = schedule.prior_variance
        return 0.5 * (LOG_2PI + math.log(variance) + mean_square(latent) / variance)

    # --- both ways, without densities ---

    @torch.no_grad()
    def encode(
        self, model: ScoreModel, x_0: Float[Tensor, " batch *dims"], batch_size: int = 256
    ) -> Float64[Tensor, " batch *dims"]:
        """The latent x_1 of continuous data x_0."""
        path = _Path.of(self, model, x_0.dtype, batch_size)
        x = path.level.alpha * wide(x_0)
        return path.carry(x + 0.5 * path.level.sigma * path.eps(x), path.span)

    @torch.no_grad()
    def decode(
        self, model: ScoreModel, x_1: Float[Tensor, " batch *dims"], dtype: torch.dtype = torch.float32, batch_size: int = 256
    ) -> Float[Tensor, " batch *dims"]:
        """The data of a latent x_1: `encode` undone, but for the order tau^2 of the last step. `dtype` is the network's."""
        path = _Path.of(self, model, dtype, batch_size)
        x_t = path.carry(wide(x_1), path.span[::-1])
        return ((x_t - 0.5 * path.level.sigma * path.eps(x_t)) / path.level.alpha).to(dtype)


def _weighted(samples: Tensor, dim: int) -> Tensor:
    """(k, batch, c) -> (batch, c + 1): mean columns of k importance samples and, last, what their weights' mean changes."""
    total = samples.sum(-1)
    weighted = (math.log(len(samples)) - torch.logsumexp(-dim * total, 0)) / dim
    return torch.cat([samples.mean(0), (weighted - total.mean(0))[:, None]], 1)


def _probe_noise(batch: Batch, j: int) -> SampleNoise:
    return SampleNoise(batch.seed, [(*key, j) for key in batch.keys], float64_place(batch.x_0.device))


@dataclass(frozen=True)
class _Path:
    """The flow of a model between t_min and the prior, in the variable of its clock.

    Attributes:
        level: of t_min.
        span: the clock's variable at t_min and at t_max.
        dtype, rows: of network calls.
    """

    model: ScoreModel
    clock: Clock
    solver: Adaptive | Fixed
    level: Level
    span: tuple[float, float]
    first_step: float
    dtype: torch.dtype
    rows: int

    @classmethod
    def of(cls, flow: Flow, model: ScoreModel, dtype: torch.dtype, rows: int) -> _Path:
        schedule, t_min = model.schedule, flow.t_min
        clock = clock_of(flow.variable, schedule)
        span, first_step = clock.span(schedule, t_min, flow.t_max), clock.first_step(schedule, t_min)
        return cls(model, clock, flow.solver, schedule.level(t_min), span, first_step, dtype, rows)

    def at(self, s: float) -> Coefficients:
        """The field at one value of the variable."""
        return self.clock.at(self.model.schedule, s)

    def eps(self, x_t: Tensor) -> Tensor:
        """eps_hat at t_min, (batch, *dims) float64."""
        x = x_t.to(self.dtype)
        parts = slices(len(x), self.rows)
        return torch.cat([wide(self.model.rows(part).predict(x[part], self.level).eps) for part in parts])

    def carry(self, x: Tensor, span: tuple[float, float]) -> Tensor:
        """x at the end of a span."""
        return transport(self.model, self.clock, x, span, self.solver, self.first_step, self.dtype, self.rows)


@dataclass(frozen=True)
class _Densities:
    """The volume of a path, by probes of its divergence."""

    path: _Path
    probes: Probes
    progress: Progress

    def eps_and_divergence(self, x_t: Tensor, level: Level, quantity: str = "eps") -> tuple[Tensor, Tensor]:
        """(batch, *dims) and (batch,), float64."""
        path = self.path
        return eps_and_divergence(path.model, level, x_t, self.probes, path.dtype, path.rows, quantity)

    def to_prior(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_1, -integral of the divergence / d) of x_{t_min}."""
        path, dim = self.path, x_t[0].numel()
        start, end = path.span
        first, last = path.at(start), path.at(end)

        def field(s: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            c = path.at(float(s))
            self.progress.reached(min(1.0, abs(float(s) - start) / abs(end - start)))
            said, divergence = self.eps_and_divergence(c.scale * state[0], c.level, c.quantity)
            return c.drift * state[0] + c.gain * said, c.drift + c.gain * c.scale * divergence / dim

        state = (x_t / first.scale, torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device))
        u, volume = integrate(field, state, path.span, path.solver, path.first_step, path.clock.max_step)
        # log det of the change of coordinates at both ends.
        return last.scale * u, -volume - math.log(last.scale / first.scale)
