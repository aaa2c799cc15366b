"""Which of many samplers comes nearest to examples, by successive halving: more samples for fewer and fewer of them.

All begin with the same noise, and with the same examples, so that differences know more than the distances themselves.
The distance is the energy distance in coordinates in which the Gaussian of the data is white: there the directions of small
variance, which say whether an image is clean, count as much as those of large. Where there are many more of the small, they
outvote the others: a sampler whose large directions are wrong has the right noise in all of the small. So in plain coordinates
none may be further from the examples than the anchor, beyond the error of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
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
#: Samples are nearer, or further, beyond so many standard errors of the difference.
BEYOND = 1.0


def whitening(free: LinearDenoiser) -> Float64[Tensor, " d"]:
    """1 / sqrt(c + FLOOR mean(c)) of every coefficient of the basis.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> linear = LinearDenoiser.of(data)
    >>> y = linear.basis.forward(data.double() - linear.mean.double()) * whitening(linear)
    >>> abs(y.std(0) - 1.0).max() < 0.1
    tensor(True)
    """
    variance = torch.from_numpy(free.spectrum).flatten()
    return (variance + FLOOR * variance.mean()).rsqrt()


@dataclass(frozen=True)
class Distance:
    """Of samples to examples, in both kinds of coordinates."""

    white: Measured
    plain: Measured

    def further(self, other: Distance) -> bool:
        """Than another in plain coordinates, beyond the error of the difference."""
        gap = difference(self.plain, other.plain)
        return gap.value > BEYOND * gap.stderr

    def nearer(self, other: Distance) -> bool:
        """Than another in white coordinates, beyond the error of the difference."""
        gap = difference(self.white, other.white)
        return gap.value < -BEYOND * gap.stderr


@dataclass(frozen=True, eq=False)
class Judge:
    """Distance of samples to examples.

    Attributes:
        free: whose basis and mean samples are seen in.
        scale: that makes its coefficients white.
        white, plain: the examples in both kinds of coordinates.
        shown: range that samples are clamped to, as they are when they are looked at; None for data without one.
        seed: of samples: nothing else draws from it.
    """

    free: LinearDenoiser
    scale: Float64[Tensor, " d"]
    white: Reference
    plain: Reference
    shown: DataRange | None
    seed: int

    @classmethod
    def of(cls, examples: Examples, free: LinearDenoiser, shown: DataRange | None, seed: int) -> Judge:
        """With the first examples."""
        scale = whitening(free)
        y = _coefficients(free, examples.take(np.arange(min(JUDGED, len(examples)))))
        return cls(free, scale, Reference(y * scale), Reference(y), shown, seed + 1_000_003)

    def draw(self, plan: SamplingPlan, first: int, count: int) -> Float64[Tensor, " {count} d"]:
        """Coefficients of samples first .. first + count - 1."""
        x = plan(range(first, first + count), self.seed, batch_size=100)
        return _coefficients(self.free, x if self.shown is None else x.clamp(self.shown.lo, self.shown.hi))

    def __call__(self, y: Float64[Tensor, " n d"]) -> Distance:
        """Of samples by their coefficients."""
        energy = EnergyDistance()
        return Distance(energy(y * self.scale, self.white), energy(y, self.plain))


def _coefficients(free: LinearDenoiser, x: Tensor) -> Tensor:
    return free.basis.forward(x.double().cpu() - free.mean.double()).flatten(1)


@dataclass
class Race:
    """Candidates under way.

    Attributes:
        anchor: no further from the examples in plain coordinates may the winner be than this one.
        favourites: those that none but a clearly nearer one replaces.
    """

    judge: Judge
    plans: Mapping[str, SamplingPlan]
    anchor: str
    favourites: frozenset[str]
    samples: dict[str, Tensor] = field(default_factory=dict)
    distances: dict[str, Distance] = field(default_factory=dict)

    def run(self, rounds: Sequence[tuple[int, int]] = ROUNDS) -> list[str]:
        """Those of the last round, the winner first and the others by distance; anchor and best favourite run in all."""
        left = list(self.plans)
        for count, stay in rounds:
            left = self._ranked(left, count)
            if stay:
                left = list(dict.fromkeys([*left[:stay], self.anchor, self._favourite(left)]))
        return sorted(left, key=lambda name: name != self.winner(left))

    def _ranked(self, names: Sequence[str], count: int) -> list[str]:
        """By distance, but first those that are allowed to win."""
        for name in names:
            known = self.samples.get(name)
            done = 0 if known is None else len(known)
            more = self.judge.draw(self.plans[name], done, count - done)
            self.samples[name] = more if known is None else torch.cat([known, more])
            self.distances[name] = self.judge(self.samples[name])
        return sorted(names, key=lambda name: (not self.allowed(name), self.distances[name].white.value))

    def allowed(self, name: str) -> bool:
        """To win: as near as the anchor in plain coordinates."""
        return not self.distances[name].further(self.distances[self.anchor])

    def winner(self, ranked: Sequence[str]) -> str:
        """The nearest, unless a favourite is as near within the error of the difference."""
        favourite = self._favourite(ranked)
        return ranked[0] if self.distances[ranked[0]].nearer(self.distances[favourite]) else favourite

    def _favourite(self, ranked: Sequence[str]) -> str:
        """The best of those that may win; the anchor, where none may."""
        return next((name for name in ranked if name in self.favourites and self.allowed(name)), self.anchor)
