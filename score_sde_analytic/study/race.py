"""Which of many samplers comes nearest to examples, by successive halving: more samples for fewer and fewer of them.

All begin with the same noise, and with the same examples, so that differences know more than the distances themselves.
The distance is the energy distance in coordinates in which the Gaussian of the data is white: there the directions of small
variance, which say whether an image is clean, count as much as those of large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.metrics import EnergyDistance, Measured, Reference, difference
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.study.plan import SamplingPlan

#: (samples of each, candidates that go on) of every round.
ROUNDS = ((100, 6), (300, 2), (1000, 0))
#: Most examples that judge.
JUDGED = 3000
#: Variances below this share of their mean count as this much: what no eye and no network sees shall not decide.
FLOOR = 0.01
#: The best of the favourites wins unless another is nearer by so many standard errors of the difference.
BEYOND = 1.0


def white(free: LinearDenoiser) -> Callable[[Float[Tensor, " batch *dims"]], Float64[Tensor, " batch d"]]:
    """x -> U (x - mean) / sqrt(c + FLOOR mean(c)), flat and in float64.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> y = white(LinearDenoiser.of(data))(data)
    >>> abs(y.std(0) - 1.0).max() < 0.1
    tensor(True)
    """
    variance = torch.from_numpy(free.spectrum)
    scale = (variance + FLOOR * variance.mean()).rsqrt()

    def of(x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch d"]:
        return (free.basis.forward(x.double().cpu() - free.mean.double()) * scale).flatten(1)

    return of


@dataclass(frozen=True, eq=False)
class Judge:
    """Distance of samples to examples.

    Attributes:
        reference: examples in the coordinates.
        coordinates: of samples.
        shown: range that samples are clamped to, as they are when they are looked at; None for data without one.
        seed: of samples: nothing else draws from it.
    """

    reference: Reference
    coordinates: Callable[[Tensor], Tensor]
    shown: DataRange | None
    seed: int

    @classmethod
    def of(cls, examples: Examples, free: LinearDenoiser, shown: DataRange | None, seed: int) -> Judge:
        """With the first examples."""
        coordinates = white(free)
        some = examples.take(np.arange(min(JUDGED, len(examples))))
        return cls(Reference(coordinates(some)), coordinates, shown, seed + 1_000_003)

    def draw(self, plan: SamplingPlan, first: int, count: int) -> Float64[Tensor, " {count} d"]:
        """Samples first .. first + count - 1, in the coordinates."""
        x = plan(range(first, first + count), self.seed, batch_size=100)
        return self.coordinates(x if self.shown is None else x.clamp(self.shown.lo, self.shown.hi))

    def __call__(self, samples: Float64[Tensor, " n d"]) -> Measured:
        """Of samples in the coordinates."""
        return EnergyDistance()(samples, self.reference)


@dataclass
class Race:
    """Candidates under way.

    Attributes:
        favourites: those that none but a clearly nearer one replaces; the best of them takes part in every round.
    """

    judge: Judge
    plans: Mapping[str, SamplingPlan]
    favourites: frozenset[str]
    samples: dict[str, Tensor] = field(default_factory=dict)
    distances: dict[str, Measured] = field(default_factory=dict)

    def run(self, rounds: Sequence[tuple[int, int]] = ROUNDS) -> list[str]:
        """Those of the last round, the winner first and the others by distance."""
        left = list(self.plans)
        for count, stay in rounds:
            left = self._ranked(left, count)
            if stay:
                left = list(dict.fromkeys([*left[:stay], self._favourite(left)]))
        return sorted(left, key=lambda name: name != self.winner(left))

    def _ranked(self, names: Sequence[str], count: int) -> list[str]:
        for name in names:
            known = self.samples.get(name)
            done = 0 if known is None else len(known)
            more = self.judge.draw(self.plans[name], done, count - done)
            self.samples[name] = more if known is None else torch.cat([known, more])
            self.distances[name] = self.judge(self.samples[name])
        return sorted(names, key=lambda name: self.distances[name].value)

    def winner(self, ranked: Sequence[str]) -> str:
        """The nearest, unless a favourite is as near within the error of the difference."""
        favourite = self._favourite(ranked)
        gap = difference(self.distances[ranked[0]], self.distances[favourite])
        return ranked[0] if gap.value < -BEYOND * gap.stderr else favourite

    def _favourite(self, ranked: Sequence[str]) -> str:
        return next(name for name in ranked if name in self.favourites)
