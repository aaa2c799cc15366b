"""What a likelihood method is: from a batch of examples to the nats per dimension of each, and what they cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import LevelNoise


def _nobody(position: float) -> None: ...


@dataclass(frozen=True)
class Progress:
    """A stretch of a longer way, which tells its listener how far the whole has come.

    Attributes:
        listener: told the position on the way.
        start, length: of this stretch.

    >>> Progress(listener=print).part(1, 4).reached(0.5)
    0.375
    """

    listener: Callable[[float], None] = _nobody
    start: float = 0.0
    length: float = 1.0

    def part(self, index: int, count: int) -> Progress:
        """The stretch of one of `count` equal parts."""
        length = self.length / count
        return Progress(self.listener, self.start + index * length, length)

    def reached(self, share: float) -> None:
        """Tell that so much of the stretch, 0 to 1, lies behind."""
        self.listener(self.start + share * self.length)


@dataclass(frozen=True)
class Batch:
    """Examples on their way through a method.

    Attributes:
        x_0: the examples, on the device.
        indices: of the examples in their data set.
        repetition, seed: with the index, the key of an example's noise.
        data_range: declared range and levels, or None.
        rows: most samples in one network call, for methods that make more of an example than one.
        progress: told how much of the batch is done.

    >>> Batch(torch.zeros(2, 3), indices=[7, 8], repetition=0, seed=0, data_range=None, rows=64).keys
    [(7, 0), (8, 0)]
    """

    x_0: Float[Tensor, " batch *dims"]
    indices: Sequence[int]
    repetition: int
    seed: int
    data_range: DataRange | None
    rows: int
    progress: Progress = field(default_factory=Progress)

    @property
    def keys(self) -> list[tuple[int, ...]]:
        """One key per example."""
        return [(i, self.repetition) for i in self.indices]

    def noise(self, sample: int = 0) -> LevelNoise:
        """Noise of the forward process as a function of log-SNR; the same for every method, so that they compare in pairs.

        Args:
            sample: number of an independent copy.
        """
        return LevelNoise(self.seed, [(*key, sample) for key in self.keys], self.x_0.device)


@dataclass(frozen=True)
class Terms:
    """What a method measured of a batch, nats per dimension, and what it cost."""

    values: Float64[Tensor, "batch columns"]
    evaluations: int
    vector_products: int = 0


class Method(ABC):
    """A way to measure -log p(x_0) / d, or a bound on it."""

    @property
    def block(self) -> int | None:
        """Examples that are measured together whatever the batch size, because they share something; None for none."""
        return None

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The part each column of the terms belongs to; the columns of an example add up to its value."""

    @abstractmethod
    def config(self, model: ScoreModel) -> dict[str, Any]:
        """Plain data that identifies the method (finished work is found again by it)."""

    @abstractmethod
    def check(self, model: ScoreModel, data_range: DataRange | None) -> None:
        """Raise ValueError where the method does not fit the model or the data."""

    @abstractmethod
    def terms(self, model: ScoreModel, batch: Batch) -> Terms:
        """Measure one batch."""

    @classmethod
    def together(cls, methods: Mapping[str, Any], model: ScoreModel, batch: Batch) -> dict[str, Terms]:
        """Measure one batch by several methods of this class; those that can share network calls override it."""
        return {name: method.terms(model, batch) for name, method in methods.items()}
