"""Likelihoods by the probability-flow ODE: a change of variables from data to the prior (Song et al., ICLR 2021, app. D.2).

    log p(x_{t_min}) = log N(x_1; 0, prior_variance) + integral from t_min to 1 of div(dx/dt) dt

A network knows nothing below t_min, so the data enter the flow in one of three ways:

- continuous data: the score at t_min is held constant below it. With tau = (sigma / alpha)^2 the flow of z = x / alpha is
  dz / dtau = -score / 2, so one step z = x - tau score(x) / 2, counted in the density, leaves an error of order tau^2.
- `Uniform` dequantisation of discrete data: p(bin) >= bin_width^d exp E log p(x + u), u uniform in the bin, then as above.
- `Diffused`: z ~ q(x_{t_min} | x_0), -log p(x_0) <= E[-log p(z) + log q(z | x_0) - log p(x_0 | z)], nothing neglected.

With k importance samples E log becomes E log of a mean of k weights: never larger in expectation, and exact as k grows
(Burda et al., ICLR 2016; Ho et al., Flow++, ICML 2019, for dequantisation). Weights need the exact trace.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.likelihood.evaluation import Batch, Method, Terms
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive, Fixed, integrate
from score_sde_analytic.models.probability_flow import CLOCKS, Probes, eps_and_divergence, one_hot_probes, velocity
from score_sde_analytic.process.decoder import LOG_2PI, Decoder, NoDecoder, as_decoder
from score_sde_analytic.process.gaussian import mean_square
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import Level

# --- divergence ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExactTrace:
    """The divergence by d vector products per evaluation; for small d."""

    def probes(self, x: Tensor, noise: SampleNoise) -> Probes:
        return one_hot_probes


@dataclass(frozen=True)
class Hutchinson:
    """E v^T J v over random v with E v v^T = I, held fixed along a trajectory: unbiased.

    Attributes:
        probes_per_sample: how many v are averaged.
        law: "rademacher" (no variance from the diagonal of J) or "gaussian".
    """

    probes_per_sample: int = 1
    law: Literal["rademacher", "gaussian"] = "rademacher"

    def __post_init__(self) -> None:
        if self.probes_per_sample < 1 or self.law not in ("rademacher", "gaussian"):
            raise ValueError(f"need at least one probe, rademacher or gaussian; got {self.probes_per_sample}, {self.law!r}")

    def probes(self, x: Tensor, noise: SampleNoise) -> Probes:
        draws = [noise.draw(x).clone() for _ in range(self.probes_per_sample)]
        if self.law == "rademacher":
            draws = [torch.where(v < 0, -1.0, 1.0).to(v) for v in draws]
        scale = 1.0 / math.sqrt(self.probes_per_sample)

        def fixed(x: Tensor, part: slice) -> Iterable[Tensor]:
            return (scale * v[part] for v in draws)

        return fixed


# --- ways into the flow -------------------------------------------------------------------------------------------------


class Entry(ABC):
    """How data enter the flow at t_min."""

    @abstractmethod
    def check(self, data_range: DataRange | None) -> None: ...

    @abstractmethod
    def config(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Direct(Entry):
    """Continuous data as they are."""

    def check(self, data_range: DataRange | None) -> None:
        if data_range is not None and data_range.levels is not None:
            raise ValueError("discrete data have no density: enter by Uniform() or Diffused(decoder), or declare levels=None")

    def config(self) -> dict[str, Any]:
        return {"entry": "direct"}


@dataclass(frozen=True)
class Uniform(Entry):
    """Uniform dequantisation: noise uniform over the bin of each value."""

    def check(self, data_range: DataRange | None) -> None:
        if data_range is None or data_range.levels is None:
            raise ValueError("uniform dequantisation is for discrete data; declare their levels, or enter by Direct()")

    def config(self) -> dict[str, Any]:
        return {"entry": "uniform"}


@dataclass(frozen=True)
class Diffused(Entry):
    """Gaussian dequantisation by the forward process itself, x_{t_min} ~ q(. | x_0), undone by a decoder."""

    decoder: Decoder

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", as_decoder(self.decoder))

    def check(self, data_range: DataRange | None) -> None:
        self.decoder.check(data_range)

    def config(self) -> dict[str, Any]:
        return {"entry": "diffused"} | self.decoder.config()


# --- the method ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow(Method):
    """The probability-flow likelihood.

    Attributes:
        t_min: where the flow starts. The network must be trained there; score SDE uses 1e-5.
        entry: `Direct()`, `Uniform()` or `Diffused(decoder)`.
        divergence: `ExactTrace()` or `Hutchinson(...)`.
        solver: `Adaptive(rtol, atol)` or `Fixed(steps)`.
        importance_samples: k of the importance-weighted bound, for discrete data or `Diffused`.
        variable: integrate in "log_snr" (the same flow for every schedule), "t" or "ve" (sigma / alpha).
        examples_per_block: an adaptive solver chooses one step for all samples of a solve; blocks of examples, the same
            whatever the batch size, keep the result independent of it.
    """

    t_min: float = 1e-5
    entry: Entry = Direct()
    divergence: ExactTrace | Hutchinson = Hutchinson()
    solver: Adaptive | Fixed = field(default_factory=Adaptive)
    importance_samples: int = 1
    variable: Literal["log_snr", "t", "ve"] = "log_snr"
    examples_per_block: int = field(default=100)

    def __post_init__(self) -> None:
        if not 0.0 < self.t_min < 1.0:
            raise ValueError(f"t_min must lie in (0, 1), got {self.t_min}")
        if self.importance_samples < 1 or self.examples_per_block < 1:
            raise ValueError("importance_samples and examples_per_block must be at least 1")
        if self.variable not in CLOCKS:
            raise ValueError(f"variable must be one of {', '.join(CLOCKS)}, got {self.variable!r}")
        if not isinstance(self.entry, Entry):
            raise ValueError(f"entry must be Direct(), Uniform() or Diffused(decoder), got {self.entry!r}")
        if self.importance_samples > 1 and isinstance(self.entry, Diffused) and isinstance(self.entry.decoder, NoDecoder):
            raise ValueError("without a decoder the value is a density of noisy data: importance_samples must be 1")
        if self.importance_samples > 1 and isinstance(self.entry, Direct):
            raise ValueError("continuous data enter the flow in one way only: importance_samples must be 1")
        if self.importance_samples > 1 and isinstance(self.divergence, Hutchinson):
            # E exp(estimate) exceeds exp(E estimate): noisy weights would feign a tighter bound.
            raise ValueError("importance weights need exact densities; use divergence=ExactTrace(), or importance_samples=1")

    @property
    def block(self) -> int:
        return self.examples_per_block

    def columns(self) -> tuple[str, ...]:
        entry = {Direct: (), Uniform: ("dequantisation",), Diffused: ("dequantisation", "reconstruction")}[type(self.entry)]
        return ("prior", "volume", *entry, *(["weighting"] if self.importance_samples > 1 else []))

    def config(self, model: ScoreModel) -> dict[str, Any]:
        settings = {"name": "flow", "t_min": self.t_min, "variable": self.variable, "block": self.block}
        settings |= {"solver": asdict(self.solver), "divergence": [type(self.divergence).__name__, asdict(self.divergence)]}
        return settings | {"importance_samples": self.importance_samples} | self.entry.config()

    def check(self, model: ScoreModel, data_range: DataRange | None) -> None:
        self.entry.check(data_range)

    def terms(self, model: ScoreModel, batch: Batch) -> Terms:
        k = self.importance_samples
        with model.metered() as cost:
            samples = [self._sample(model, replace(batch, tick=_share(batch, j, k)), j) for j in range(k)]
        columns, products = zip(*samples, strict=True)
        values = torch.stack(columns)  # (k, batch, columns)
        if k > 1:
            dim = batch.x_0[0].numel()
            total = values.sum(-1)
            weighted = (math.log(k) - torch.logsumexp(-dim * total, 0)) / dim
            values = torch.cat([values.mean(0), (weighted - total.mean(0))[:, None]], 1)
        else:
            values = values[0]
        return Terms(values, cost.evaluations, sum(products))

    def _sample(self, model: ScoreModel, batch: Batch, j: int) -> tuple[Tensor, int]:
        """One importance sample of every example: columns but the weighting, (batch, columns), and vector products."""
        level, x_0 = model.schedule.level(self.t_min), batch.x_0
        probes = self.divergence.probes(x_0.double(), _probe_noise(batch, j))
        path = _Path(model, self, probes, x_0.dtype, batch.rows, batch.tick)
        if isinstance(self.entry, Diffused):
            x_t = level.alpha * x_0 + level.sigma * batch.noise(j).at(level.log_snr, x_0)
            x_0_hat = torch.cat([model.predict(x, level).x_0 for x in x_t.split(batch.rows)]) if self._calls_decoder else None
            entry = [
                -NoDecoder().nats(x_0, x_t, None, level, batch.data_range),
                self.entry.decoder.nats(x_0, x_t, x_0_hat, level, batch.data_range),
            ]
            latent, volume = path.to_prior(x_t.double())
        else:
            x, entry = x_0.double(), []
            if isinstance(self.entry, Uniform):
                assert batch.data_range is not None  # Uniform.check
                width = batch.data_range.bin_width
                uniform = torch.special.ndtr(batch.noise(j).at(level.log_snr, x_0).double())
                x = x + width * (uniform - 0.5)
                entry = [torch.full((len(x),), -math.log(width), dtype=torch.float64, device=x.device)]
            x_t, start = path.enter(x, level)
            latent, volume = path.to_prior(x_t)
            volume = volume + start
        variance = model.schedule.prior_variance
        prior = 0.5 * (LOG_2PI + math.log(variance) + mean_square(latent) / variance)
        return torch.stack([prior, volume, *entry], 1), path.products

    @property
    def _calls_decoder(self) -> bool:
        return isinstance(self.entry, Diffused) and self.entry.decoder.needs_network

    # --- both ways, without densities ---

    @torch.no_grad()
    def encode(self, model: ScoreModel, x_0: Tensor, batch_size: int = 256) -> Tensor:
        """The latent x_1 of continuous data x_0, (batch, *dims), float64."""
        path, level = _Path(model, self, None, x_0.dtype, batch_size), model.schedule.level(self.t_min)
        eps = path.eps(level.alpha * x_0.double(), level)
        x_t = level.alpha * x_0.double() + 0.5 * level.sigma * eps
        return path.transport(x_t, forward=True)

    @torch.no_grad()
    def decode(self, model: ScoreModel, x_1: Tensor, dtype: torch.dtype = torch.float32, batch_size: int = 256) -> Tensor:
        """The data of a latent x_1: `encode` undone, but for the order tau^2 of the last step. `dtype` is the network's."""
        path, level = _Path(model, self, None, dtype, batch_size), model.schedule.level(self.t_min)
        x_t = path.transport(x_1.double(), forward=False)
        return ((x_t - 0.5 * level.sigma * path.eps(x_t, level)) / level.alpha).to(dtype)


def _probe_noise(batch: Batch, j: int) -> SampleNoise:
    return SampleNoise(batch.seed, [(*key, j) for key in batch.keys], batch.x_0.device)


def _share(batch: Batch, j: int, k: int) -> Callable[[float], None]:
    return lambda share: batch.tick((j + share) / k)


class _Path:
    """One solve: the field, what it has cost, and its ends."""

    def __init__(
        self,
        model: ScoreModel,
        flow: Flow,
        probes: Probes | None,
        dtype: torch.dtype,
        rows: int,
        tick: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.model, self.flow, self.probes, self.dtype, self.rows, self.tick = model, flow, probes, dtype, rows, tick
        self.clock, self.products = CLOCKS[flow.variable], 0

    def eps(self, x_t: Tensor, level: Level) -> Tensor:
        return torch.cat([self.model.predict(x.to(self.dtype), level).eps.double() for x in x_t.split(self.rows)])

    def _eps_and_divergence(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        assert self.probes is not None
        eps, divergence, products = eps_and_divergence(self.model, level, x_t, self.probes, self.dtype, self.rows)
        self.products += products
        return eps, divergence

    def enter(self, x_0: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """(x_{t_min}, -log|det dx_{t_min}/dx_0| / d): the flow below t_min with the score held constant."""
        x, dim = level.alpha * x_0, x_0[0].numel()
        eps, divergence = self._eps_and_divergence(x, level)
        return x + 0.5 * level.sigma * eps, -math.log(level.alpha) - 0.5 * level.sigma * divergence / dim

    def to_prior(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_1, -integral of the divergence / d) of x_{t_min}."""
        schedule, dim = self.model.schedule, x_t[0].numel()
        start, end = self._span()
        first, last = (self.clock.at(schedule, s) for s in (start, end))

        def field(s: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            c = self.clock.at(schedule, float(s))
            self.tick(min(1.0, abs(float(s) - start) / abs(end - start)))
            eps, divergence = self._eps_and_divergence(c.scale * state[0], c.level)
            return c.drift * state[0] + c.gain * eps, c.drift + c.gain * c.scale * divergence / dim

        state = (x_t / first.scale, torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device))
        u, volume = integrate(field, state, (start, end), self.flow.solver, self._first_step(), self.clock.max_step)
        # log det of the change of coordinates at both ends.
        return last.scale * u, -volume - math.log(last.scale / first.scale)

    def transport(self, x: Tensor, forward: bool) -> Tensor:
        """x_{t_min} to x_1, or back."""
        schedule = self.model.schedule
        span = self._span() if forward else self._span()[::-1]
        first, last = (self.clock.at(schedule, s) for s in span)

        def field(s: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
            c = self.clock.at(schedule, float(s))
            return (velocity(self.model, c, state[0], self.dtype, self.rows),)

        steps = self._first_step(), self.clock.max_step
        return last.scale * integrate(field, (x / first.scale,), span, self.flow.solver, *steps)[0]

    def _span(self) -> tuple[float, float]:
        return self.clock.span(self.model.schedule, self.flow.t_min)

    def _first_step(self) -> float:
        return self.clock.first_step(self.model.schedule, self.flow.t_min)
