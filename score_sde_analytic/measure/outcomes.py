"""What is measured of a batch of draws, where the network is: numbers of every draw, for the sums of a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.arrays import Cast, as_array
from score_sde_analytic.data.portions import together
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.measure.moments import DECODER_RATIOS, decoder_scale
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.process.decoder import nats_by_std
from score_sde_analytic.process.gaussian import mean_product, mean_square

#: Lambda, X, R and three controls.
COLUMNS = 6
#: Coordinates per draw that enter the decoder table; a random subset keeps it cheap beside the network.
DECODER_COORDINATES = 256


@dataclass(frozen=True)
class Draws:
    """A batch of draws at one knot, on the device.

    Attributes:
        cost: of the network.
        read: waits for what was measured of them, (batch, columns and decoders).
    """

    index: NDArray[Any]
    eps: Float[Tensor, " batch *dims"]
    prediction: Prediction
    cost: Receipt
    read: Callable[[], NDArray[Any]]


def some_coordinates(dim: int, generator: torch.Generator) -> Int64[Tensor, " some"]:
    """At most `DECODER_COORDINATES` of so many, one of each of as many equal stretches; all are as likely.

    >>> some_coordinates(3, torch.Generator())
    tensor([0, 1, 2])
    """
    count = min(dim, DECODER_COORDINATES)
    places = torch.arange(count) + torch.rand(count, dtype=torch.float64, generator=generator)
    return (places * (dim / count)).long().clamp_max_(dim - 1)


class Outcomes:
    """[Lambda, X, R, controls minus their means] of every draw, and its nats by decoders of several widths.

    >>> from score_sde_analytic.data import DataStatistics
    >>> prediction = model(torch.ones(1, 2), 0.5)
    >>> outcomes, x_0 = Outcomes(DataStatistics.of(data), None), torch.zeros(1, 2)
    >>> outcomes.of(x_0, outcomes.centred(x_0), torch.ones(1, 2), prediction, torch.arange(2)).shape
    torch.Size([1, 19])
    """

    def __init__(self, statistics: DataStatistics, data_range: DataRange | None) -> None:
        self._statistics = statistics
        self._data_range = data_range
        self._mean = Cast(as_array(statistics.mean))

    def centred(self, x_0: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """Examples less the mean of the data; once for all levels that they are seen at."""
        return x_0 - self._mean.like(x_0)

    def of(
        self,
        x_0: Float[Tensor, " batch *dims"],
        centred: Float[Tensor, " batch *dims"],
        eps: Float[Tensor, " batch *dims"],
        prediction: Prediction,
        subset: Int64[Tensor, " some"],
    ) -> Float64[Tensor, "batch columns"]:
        """All of it, one row per draw.

        Args:
            centred: of x_0.
            subset: the coordinates that decoders are measured on.
        """
        parts = zip(*map(together, (centred, eps, prediction.error(x_0, eps))), strict=True)
        values = torch.cat([self._values(*part) for part in parts])
        some, some_hat = (x.flatten(1)[:, subset] for x in (x_0, prediction.x_0))
        return torch.cat([values, self._nats(some, some_hat, prediction.level.log_snr)], 1)

    def _values(self, centred: Tensor, eps: Tensor, error: Tensor) -> Tensor:
        power, residual = mean_square(eps), mean_square(error)
        product = power - mean_product(eps, error)
        # For a finite data set the energy of x_0 has no known population mean; its control is switched off.
        known = self._statistics.count == 0
        energy = mean_square(centred) - self._statistics.variance if known else torch.zeros_like(residual)
        columns = [2.0 * product - power + residual, product, residual, power - 1.0, mean_product(centred, eps), energy]
        return torch.stack(columns, 1)

    def _nats(self, x_0: Tensor, x_0_hat: Tensor, log_snr: float) -> Tensor:
        stds = (DECODER_RATIOS * decoder_scale(log_snr, self._statistics.variance)).tolist()
        return nats_by_std(x_0, x_0_hat, stds, self._data_range)
