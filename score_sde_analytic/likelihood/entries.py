"""Ways of data into the flow at t_min, below which a network knows nothing.

- `Direct`, continuous data: the score at t_min is held constant below it. With tau = (sigma / alpha)^2 the flow of
  z = x / alpha is dz / dtau = -score / 2, so one step z = x - tau score(x) / 2, counted in the density, leaves an error of
  order tau^2.
- `Uniform` dequantisation of discrete data: p(bin) >= bin_width^d exp E log p(x + u), u uniform in the bin, then as above.
- `Diffused`: z ~ q(x_{t_min} | x_0), -log p(x_0) <= E[-log p(z) + log q(z | x_0) - log p(x_0 | z)], nothing neglected.

An entry of another kind is a class that answers the five questions of `Entry`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import slices, wide
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood.method import Batch
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import Decoder, NoDecoder, as_decoder
from score_sde_analytic.process.level import Level


@dataclass(frozen=True)
class Gate:
    """The model at t_min, as examples meet it on their way in.

    Attributes:
        level: of t_min.
        sample: number of the importance sample, which has noise of its own.
        eps_and_divergence: of states at a level, both float64: (batch, *dims) and (batch,).
    """

    model: ScoreModel
    level: Level
    batch: Batch
    sample: int
    eps_and_divergence: Callable[[Tensor, Level], tuple[Tensor, Tensor]]

    @property
    def x_0(self) -> Float[Tensor, " batch *dims"]:
        """The examples, in the dtype of the network's calls."""
        return self.batch.x_0

    @property
    def data_range(self) -> DataRange | None:
        """Their declared range and levels."""
        return self.batch.data_range

    @property
    def bin_width(self) -> float:
        """Distance of neighbouring levels of discrete data."""
        if self.data_range is None:
            raise InputError("bins have no width without a range of the data; declare it with its levels")
        return self.data_range.bin_width

    def noise(self) -> Float[Tensor, " batch *dims"]:
        """N(0, I) like x_0; a function of the example and the sample alone."""
        return self.batch.noise(self.sample).at(self.level.log_snr, self.x_0)

    def x_0_hat(self, x_t: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """The network's prediction at t_min."""
        parts = slices(len(x_t), self.batch.rows)
        return torch.cat([self.model.rows(part).predict(x_t[part], self.level).x_0 for part in parts])

    def hold_score(
        self, x_0: Float64[Tensor, " batch *dims"]
    ) -> tuple[Float64[Tensor, " batch *dims"], Float64[Tensor, " batch"]]:
        """(x_{t_min}, -log|det dx_{t_min}/dx_0| / d) of continuous data: the score is constant below t_min."""
        alpha, sigma, dim = self.level.alpha, self.level.sigma, x_0[0].numel()
        x = alpha * x_0
        eps, divergence = self.eps_and_divergence(x, self.level)
        return x + 0.5 * sigma * eps, -math.log(alpha) - 0.5 * sigma * divergence / dim


@dataclass(frozen=True)
class Entered:
    """Examples at t_min.

    Attributes:
        x_t: their states.
        volume: -log of the volume's change on the way there, nats per dimension.
        terms: the entry's own columns, nats per dimension.
    """

    x_t: Float64[Tensor, " batch *dims"]
    volume: Float64[Tensor, " batch"]
    terms: tuple[Float64[Tensor, " batch"], ...] = ()


class Entry(ABC):
    """How data enter the flow at t_min."""

    @abstractmethod
    def check(self, data_range: DataRange | None) -> None:
        """Raise ValueError where the entry does not fit the data."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data that identifies the entry."""

    def columns(self) -> tuple[str, ...]:
        """The part that each of its own terms belongs to."""
        return ()

    @property
    def unweightable(self) -> str | None:
        """Why a mean of importance weights is not a bound on the data's likelihood; None where it is."""
        return None

    @abstractmethod
    def enter(self, gate: Gate) -> Entered:
        """Take the gate's examples to t_min."""


@dataclass(frozen=True)
class Direct(Entry):
    """Continuous data as they are."""

    def check(self, data_range: DataRange | None) -> None:
        if data_range is not None and data_range.levels is not None:
            raise InputError("discrete data have no density: enter by Uniform() or Diffused(decoder), or declare levels=None")

    def config(self) -> dict[str, Any]:
        return {"entry": "direct"}

    @property
    def unweightable(self) -> str:
        return "continuous data enter the flow in one way only"

    def enter(self, gate: Gate) -> Entered:
        return Entered(*gate.hold_score(wide(gate.x_0)))


@dataclass(frozen=True)
class Uniform(Entry):
    """Uniform dequantisation: noise uniform over the bin of each value.

    >>> Uniform().columns()
    ('dequantisation',)
    """

    def check(self, data_range: DataRange | None) -> None:
        if data_range is None or data_range.levels is None:
            raise InputError("uniform dequantisation is for discrete data; declare their levels, or enter by Direct()")

    def config(self) -> dict[str, Any]:
        return {"entry": "uniform"}

    def columns(self) -> tuple[str, ...]:
        return ("dequantisation",)

    def enter(self, gate: Gate) -> Entered:
        width = gate.bin_width
        uniform = torch.special.ndtr(wide(gate.noise()))
        x = wide(gate.x_0) + width * (uniform - 0.5)
        density = torch.full((len(x),), -math.log(width), dtype=torch.float64, device=x.device)
        return Entered(*gate.hold_score(x), (density,))


@dataclass(frozen=True)
class Diffused(Entry):
    """Gaussian dequantisation by the forward process itself, x_{t_min} ~ q(. | x_0), undone by a decoder.

    >>> Diffused(decoder=0.1).columns()
    ('dequantisation', 'reconstruction')
    """

    decoder: Decoder

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", as_decoder(self.decoder))

    def check(self, data_range: DataRange | None) -> None:
        self.decoder.check(data_range)

    def config(self) -> dict[str, Any]:
        return {"entry": "diffused"} | self.decoder.config()

    def columns(self) -> tuple[str, ...]:
        return ("dequantisation", "reconstruction")

    @property
    def unweightable(self) -> str | None:
        return None if self.decoder.decodes else "without a decoder the value is a density of noisy data"

    def enter(self, gate: Gate) -> Entered:
        x_0, level = gate.x_0, gate.level
        x_t = level.diffuse(x_0, gate.noise())
        x_0_hat = gate.x_0_hat(x_t) if self.decoder.needs_network else None
        log_q = -NoDecoder().nats(x_0, x_t, None, level, gate.data_range)
        decoded = self.decoder.nats(x_0, x_t, x_0_hat, level, gate.data_range)
        return Entered(wide(x_t), torch.zeros_like(log_q), (log_q, decoded))


def as_entry(value: Entry) -> Entry:
    """The entry itself.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, Entry):
        raise InputError(f"entry must be Direct(), Uniform() or Diffused(decoder), got {value!r}")
    return value
