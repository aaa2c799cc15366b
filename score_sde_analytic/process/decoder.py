"""Decoders p(x_0 | x_{t_1}): the last step of a chain, in nats per dimension.

GaussianDecoder      N(x0_hat, std^2 I), integrated over the bins of discrete data; a density for continuous data
CategoricalDecoder   prod_i q(z_i | x_i) / sum_levels q(z_i | level)                discrete data, no network call
NoDecoder            q(x_{t_1} | x_0) itself: the bound is then on the density of x_{t_1}, the data with noise added

(Ho et al., 2020, eq. 13, for the first; Kingma et al., VDM, 2021, eq. 6 of its appendix, for the second.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from scipy.special import ndtr, softmax
from torch import Tensor

from score_sde_analytic.arrays import Array, as_array, float64_place, readable, sent, wide
from score_sde_analytic.checks import number, scalar, settle
from score_sde_analytic.data.portions import together
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.process.categorical import expected_table, log_sum
from score_sde_analytic.process.gaussian import discretised_log_prob, expand, mean_square
from score_sde_analytic.process.level import Level

LOG_2PI = math.log(2.0 * math.pi)


@runtime_checkable
class NatsTable(Protocol):
    """E[-log p(x_0 | x_t)] of Gaussian decoders, as it was measured with the network (`measure.reconstruction`)."""

    def at(self, log_snr: float, std: float) -> float:
        """Nats per dimension at one level and decoder std."""
        ...

    def slope(self, log_snr: float, std: float) -> float:
        """Their change for a unit of y there."""
        ...

    def doubt(self, log_snr: float, std: float) -> float:
        """Standard error of what was interpolated of them."""
        ...


class Decoder(ABC):
    """-log p(x_0 | x_t) at the first level of a chain."""

    #: Whether it leads back to the data; a bound without is one on the density of noisy data.
    decodes: ClassVar[bool] = True

    @abstractmethod
    def nats(
        self,
        x_0: Float[Tensor, " batch *dims"],
        x_t: Float[Tensor, " batch *dims"],
        x_0_hat: Float[Tensor, " batch *dims"] | None,
        level: Level,
        data_range: DataRange | None,
    ) -> Float64[Tensor, " batch"]:
        """-log p(x_0 | x_t) / d. `x_0_hat` is the network's prediction, None where `needs_network` is false."""

    def expected(
        self, x_0: Float[Tensor, " batch *dims"], level: Level, data_range: DataRange | None
    ) -> Float64[Tensor, " batch"] | None:
        """The mean of `nats` over q(x_t | x_0) where it is known exactly; else None."""
        return None

    def probabilities(
        self,
        x_t: Float[Tensor, " batch *dims"],
        x_0_hat: Float[Tensor, " batch *dims"] | None,
        level: Level,
        data_range: DataRange,
    ) -> Float64[Array, "batch *dims levels"]:
        """p(x_0 | x_t) of every level of discrete data, coordinate by coordinate.

        Raises:
            UnsupportedError: a decoder that does not lead back to the data.
        """
        raise UnsupportedError(f"{type(self).__name__} gives levels of the data no probabilities; take GaussianDecoder(std)")

    @abstractmethod
    def expected_nats(
        self, level: Level, table: NatsTable, histogram: Float64[Array, " L"] | None, data_range: DataRange | None
    ) -> float:
        """E[-log p(x_0 | x_t)] / d over the data too: the price of the last step, without a network call.

        Args:
            table: what was measured with the network; decide by it only where `needs_network`.
            histogram: share of every level in the data; None for continuous data.

        Raises:
            InputError: the decoder's std lies outside the table, or a histogram that it needs is missing.
        """

    def sensitivity(self, log_snr: float, table: NatsTable) -> tuple[float, float]:
        """(change of `expected_nats` for a unit of y at the first level, standard error of what the table interpolates)."""
        return 0.0, 0.0

    @property
    def needs_network(self) -> bool:
        """Whether `nats` depends on the network's prediction."""
        return False

    def check(self, data_range: DataRange | None) -> None:  # noqa: B027 - most fit all data
        """Raise ValueError where the decoder does not fit the data."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data that identifies the decoder."""


@dataclass(frozen=True)
class GaussianDecoder(Decoder):
    """N(x0_hat, std^2 I): bins of discrete data get its integral (exact normal CDF), continuous data its density."""

    std: Annotated[float, number(above=0)]

    def __post_init__(self) -> None:
        settle(self)

    @property
    def needs_network(self) -> bool:
        return True

    def nats(
        self,
        x_0: Float[Tensor, " batch *dims"],
        x_t: Float[Tensor, " batch *dims"] | None,
        x_0_hat: Float[Tensor, " batch *dims"] | None,
        level: Level | None,
        data_range: DataRange | None,
    ) -> Float64[Tensor, " batch"]:
        assert x_0_hat is not None
        nats = decoder_nats(x_0, x_0_hat, self.std, data_range)
        if readable(nats) and not torch.isfinite(nats).all():  # elsewhere whoever reads them finds out
            raise InputError(
                f"a decoder of std {self.std:g} has no finite nats: it is too narrow, or the examples are not finite"
            )
        return nats

    def probabilities(
        self,
        x_t: Float[Tensor, " batch *dims"],
        x_0_hat: Float[Tensor, " batch *dims"] | None,
        level: Level,
        data_range: DataRange,
    ) -> Float64[Array, "batch *dims levels"]:
        assert x_0_hat is not None
        edges = data_range.lo + (np.arange(data_range.levels - 1) + 0.5) * data_range.bin_width  # type: ignore[operator]
        below = ndtr((edges - as_array(x_0_hat)[..., None]) / self.std)
        return np.diff(below, prepend=0.0, append=1.0)

    def expected_nats(
        self, level: Level, table: NatsTable, histogram: Float64[Array, " L"] | None, data_range: DataRange | None
    ) -> float:
        return table.at(level.log_snr, self.std)

    def sensitivity(self, log_snr: float, table: NatsTable) -> tuple[float, float]:
        return table.slope(log_snr, self.std), table.doubt(log_snr, self.std)

    def config(self) -> dict[str, Any]:
        return {"decoder": "gaussian", "std": self.std}


@dataclass(frozen=True)
class CategoricalDecoder(Decoder):
    """p(x | z) proportional to q(z | x), coordinate by coordinate over the data's levels."""

    def check(self, data_range: DataRange | None) -> None:
        if data_range is None or data_range.levels is None:
            raise InputError("the categorical decoder is for discrete data; declare their levels, or use GaussianDecoder")

    def nats(
        self,
        x_0: Float[Tensor, " batch *dims"],
        x_t: Float[Tensor, " batch *dims"],
        x_0_hat: Float[Tensor, " batch *dims"] | None,
        level: Level,
        data_range: DataRange | None,
    ) -> Float64[Tensor, " batch"]:
        self.check(data_range)
        assert data_range is not None
        if x_0.ndim < 2 or x_0.shape != x_t.shape or 0 in x_0.shape:
            raise InputError(
                f"need examples and states of one shape (batch, *dims), got {tuple(x_0.shape)}, {tuple(x_t.shape)}"
            )
        if not torch.as_tensor(level.sigma > 0).all():
            raise InputError("a decoder leads from a noisy level to the data; at the data themselves there is none")
        if isinstance(level.alpha, Tensor) and level.alpha.ndim:  # one level per example
            each = zip(x_0.split(1), x_t.split(1), level.alpha.tolist(), level.sigma.tolist(), strict=True)
            return torch.cat([self._nats(x, y, alpha, sigma, data_range) for x, y, alpha, sigma in each])
        return self._nats(x_0, x_t, float(level.alpha), float(level.sigma), data_range)

    def probabilities(
        self,
        x_t: Float[Tensor, " batch *dims"],
        x_0_hat: Float[Tensor, " batch *dims"] | None,
        level: Level,
        data_range: DataRange,
    ) -> Float64[Array, "batch *dims levels"]:
        self.check(data_range)
        values = data_range.lo + np.arange(data_range.levels or 0) * data_range.bin_width
        return softmax(-0.5 * ((as_array(x_t)[..., None] - level.alpha * values) / level.sigma) ** 2, axis=-1)

    @staticmethod
    def _nats(x_0: Tensor, x_t: Tensor, alpha: float, sigma: float, data_range: DataRange) -> Tensor:
        assert data_range.levels is not None
        z = (wide(x_t) - alpha * wide(x_0)) / sigma
        above = data_range.levels - 1 - data_range.index(x_0)
        return log_sum(z, above, alpha / sigma * data_range.bin_width, data_range.levels).flatten(1).mean(1)

    def expected(
        self, x_0: Float[Tensor, " batch *dims"], level: Level, data_range: DataRange | None
    ) -> Float64[Tensor, " batch"] | None:
        self.check(data_range)
        index = data_range.index(x_0)  # type: ignore[union-attr]
        table = sent(torch.from_numpy(self.table(level, data_range)), index.device)  # type: ignore[arg-type]
        return table[index].flatten(1).mean(1)

    @staticmethod
    def table(level: Level, data_range: DataRange) -> Float64[Array, " L"]:
        """E[-log p(x | z)] in nats of every level x.

        >>> CategoricalDecoder.table(Level(0.5, 1.0, 1.0, 0.0), DataRange(levels=3))
        array([0.749, 1.037, 0.749])
        """
        return expected_table(float(level.alpha / level.sigma) * data_range.bin_width, data_range.levels or 0).copy()

    def expected_nats(
        self, level: Level, table: NatsTable, histogram: Float64[Array, " L"] | None, data_range: DataRange | None
    ) -> float:
        if histogram is None or data_range is None:
            raise InputError("a categorical decoder is priced from the histogram of levels: declare the data_range everywhere")
        return float(histogram @ self.table(level, data_range))

    def config(self) -> dict[str, Any]:
        return {"decoder": "categorical"}


@dataclass(frozen=True)
class NoDecoder(Decoder):
    """No last step: -log q(x_t | x_0), whose mean is the entropy of the noise, log(2 pi e sigma^2) / 2."""

    decodes: ClassVar[bool] = False

    def nats(
        self,
        x_0: Float[Tensor, " batch *dims"],
        x_t: Float[Tensor, " batch *dims"],
        x_0_hat: Float[Tensor, " batch *dims"] | None,
        level: Level,
        data_range: DataRange | None,
    ) -> Float64[Tensor, " batch"]:
        noise = (x_t - expand(level.alpha, x_t) * x_0) / expand(level.sigma, x_t)
        return self.entropy(level) + 0.5 * (mean_square(noise) - 1.0)

    def expected(
        self, x_0: Float[Tensor, " batch *dims"], level: Level, data_range: DataRange | None
    ) -> Float64[Tensor, " batch"] | None:
        place = float64_place(x_0.device)
        return torch.full((len(x_0),), self.entropy(level), dtype=torch.float64, device=place)

    @staticmethod
    def entropy(level: Level) -> float:
        """Entropy of q(x_t | x_0) in nats per dimension.

        >>> NoDecoder.entropy(Level(0.5, 1.0, 1.0, 0.0))  # log(2 pi e) / 2
        1.4189
        """
        return 0.5 * (LOG_2PI + 1.0) + math.log(level.sigma)

    def expected_nats(
        self, level: Level, table: NatsTable, histogram: Float64[Array, " L"] | None, data_range: DataRange | None
    ) -> float:
        return self.entropy(level)

    def config(self) -> dict[str, Any]:
        return {"decoder": "none"}


def as_decoder(value: Decoder | float) -> Decoder:
    """The decoder itself, or the Gaussian one of this std.

    >>> as_decoder(0.1)
    GaussianDecoder(std=0.1)

    Raises:
        InputError: neither a decoder nor a number.
    """
    if isinstance(value, Decoder):
        return value
    if type(scalar(value)) not in (int, float):
        raise InputError(f"a decoder is GaussianDecoder(std), CategoricalDecoder() or NoDecoder(), got {value!r}")
    return GaussianDecoder(value)


def decoder_of(config: Mapping[str, Any]) -> Decoder:
    """The decoder with this `config`.

    >>> decoder_of(GaussianDecoder(0.1).config())
    GaussianDecoder(std=0.1)

    Raises:
        InputError: there is none.
    """
    made: dict[Any, Callable[[], Decoder]] = {
        "gaussian": lambda: GaussianDecoder(config.get("std")),  # type: ignore[arg-type]
        "categorical": CategoricalDecoder,
        "none": NoDecoder,
    }
    if config.get("decoder") not in made:
        raise InputError(f"there is no decoder {config.get('decoder')!r}; choose one of {', '.join(made)}")
    return made[config["decoder"]]()


def decoder_nats(
    x_0: Shaped[Tensor, " batch *dims"], x_0_hat: Shaped[Tensor, " batch *dims"], std: float, data_range: DataRange | None
) -> Float64[Tensor, " batch"]:
    """-log p(x_0 | x_t) in nats per dimension for the decoder N(x0_hat, std^2 I).

    Integrated over bins for discrete data (`DataRange.levels`), a density for continuous data.

    >>> x = torch.zeros(1, 4)
    >>> decoder_nats(x, x, 1.0, None)  # log(2 pi) / 2
    tensor([0.9189], dtype=torch.float64)

    Raises:
        InputError: shapes differ, or values are no real numbers.
    """
    return nats_by_std(x_0, x_0_hat, [std], data_range)[:, 0]


def nats_by_std(
    x_0: Shaped[Tensor, " batch *dims"],
    x_0_hat: Shaped[Tensor, " batch *dims"],
    stds: Sequence[float],
    data_range: DataRange | None,
) -> Float64[Tensor, "batch stds"]:
    """`decoder_nats` of several decoders.

    >>> x = torch.zeros(1, 4)
    >>> nats_by_std(x, x, [1.0, 2.0], None)
    tensor([[0.9189, 1.6121]], dtype=torch.float64)
    """
    if x_0.shape != x_0_hat.shape:
        raise InputError(f"x_0 has shape {tuple(x_0.shape)}, its prediction {tuple(x_0_hat.shape)}; they must be equal")
    if not (x_0.is_floating_point() and x_0_hat.is_floating_point()):
        raise InputError(f"x_0 is {x_0.dtype}, its prediction {x_0_hat.dtype}; give floating-point values")
    std = sent(torch.tensor(stds, dtype=torch.float64), float64_place(x_0.device))
    if data_range is None or data_range.levels is None:
        return 0.5 * LOG_2PI + std.log() + 0.5 * (mean_square(x_0 - x_0_hat).sqrt()[:, None] / std).square()
    std = std.reshape(-1, *(1,) * x_0.ndim)
    lo, hi, levels = data_range.lo, data_range.hi, data_range.levels
    parts = zip(together(x_0), together(x_0_hat), strict=True)
    return -torch.cat([discretised_log_prob(x, mean, std, lo, hi, levels).flatten(2).mean(2) for x, mean in parts], 1).T
