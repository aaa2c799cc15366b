"""Which decoder ends a chain: of each kind the best one at every first level, and what it costs.

gaussian      the std that is best by the measured table           min_std E[-log p(x_0 | x_t)]
categorical   exact from the histogram of the data's levels        histogram @ E[-log p(level | x_t)]
none          the chain ends in x_{t_1}: its first time is given
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.decoder import CategoricalDecoder, Decoder, NoDecoder
from score_sde_analytic.process.schedule import Schedule

#: Levels at which the categorical decoder is worked out; between them it is interpolated.
KNOTS = 64


@dataclass(frozen=True)
class LastStep(ABC):
    """The last step of chains over one kind of data, whatever their first time.

    Attributes:
        histogram: share of every level in the data; None for continuous data.
        data_range: of the data.
    """

    #: Whether bounds with different first times are bounds on the same thing, so that the first time can be optimised.
    comparable: ClassVar[bool] = True

    schedule: Schedule
    histogram: Float64[Array, " levels"] | None = None
    data_range: DataRange | None = None

    @abstractmethod
    def nats(self, table: Reconstruction, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"]:
        """Nats per dimension from each of these first log-SNRs."""

    @abstractmethod
    def decoder(self, table: Reconstruction, log_snr: float) -> Decoder:
        """The decoder at one of them."""


class BestGaussian(LastStep):
    """The Gaussian decoder of the best std.

    >>> BestGaussian(model.schedule).decoder(study.reconstruction, log_snr=5.0)
    GaussianDecoder(std=0.0783)
    """

    def nats(self, table: Reconstruction, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"]:
        return table.best(log_snr)[0]

    def decoder(self, table: Reconstruction, log_snr: float) -> Decoder:
        return table.decoder(log_snr)


class Categorical(LastStep):
    """The categorical decoder, of discrete data."""

    def nats(self, table: Reconstruction, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"]:
        if self.histogram is None or self.data_range is None:
            raise InputError("evaluate.decoder='categorical' is for discrete data; set data.levels, or use 'gaussian'")
        knots = np.linspace(log_snr.min(), log_snr.max(), KNOTS)
        tables = [CategoricalDecoder.table(self.schedule.level_at(knot), self.data_range) for knot in knots]
        return scipy.interpolate.PchipInterpolator(knots, np.array(tables) @ self.histogram)(log_snr)

    def decoder(self, table: Reconstruction, log_snr: float) -> Decoder:
        return CategoricalDecoder()


class Undecoded(LastStep):
    """No last step. Bounds on data with different noise do not compare: the first time is the largest log-SNR offered.

    >>> Undecoded(model.schedule).nats(study.reconstruction, np.array([5.0, 4.0]))
    array([ 0., inf])
    """

    comparable: ClassVar[bool] = False

    def nats(self, table: Reconstruction, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"]:
        return np.where(log_snr == log_snr.max(), 0.0, np.inf)

    def decoder(self, table: Reconstruction, log_snr: float) -> Decoder:
        return NoDecoder()


#: By the name that settings give them.
DECODERS: dict[str, type[LastStep]] = {"gaussian": BestGaussian, "categorical": Categorical, "none": Undecoded}
