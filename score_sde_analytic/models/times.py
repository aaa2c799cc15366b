"""What a network is fed for its time argument."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from score_sde_analytic.checks import flag, number, optional, settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.level import Level

#: Relative; of a time that was a quotient of whole numbers.
ROUNDING = 1e-12
Number = float | Float[Tensor, ""] | Float[Tensor, " batch"]


class Times(Protocol):
    """What a network is fed for its time argument."""

    def label(self, level: Level) -> Number | Int64[Tensor, ""] | Int64[Tensor, " batch"]: ...


@dataclass(frozen=True)
class Continuous:
    """label = scale * t; score SDE's VP networks were trained with scale 999.

    >>> Continuous(999.0).label(model.schedule.level(0.5))
    499.5
    """

    scale: Annotated[float, number()] = 1.0

    def __post_init__(self) -> None:
        settle(self)

    def label(self, level: Level) -> Number:
        return self.scale * level.t


def _whole_where_rounded(index: Any) -> Any:
    """n/N * N may lie just below n, where networks that truncate would see n - 1."""
    if isinstance(index, Tensor):
        near = index.round()
        return torch.where((index - near).abs() <= ROUNDING * near, near, index)
    near = round(index)
    return float(near) if abs(index - near) <= ROUNDING * near else index


@dataclass(frozen=True)
class ZeroBased:
    """Table index n - 1 of time t = n / steps, as DDPM counts: 0 .. steps - 1.

    >>> ZeroBased(1000).label(model.schedule.level(0.5))
    499.0

    Args:
        steps: N of the discrete model.
        scale: None, or the range the index is rescaled to: label = index * scale / steps.
        integer: round to whole indices, for networks that accept nothing else.
    """

    steps: Annotated[int, whole(1)]
    scale: Annotated[float | None, optional(number())] = None
    integer: Annotated[bool, flag()] = False
    first: ClassVar[int] = 0

    def __post_init__(self) -> None:
        settle(self)

    def rounded(self) -> ZeroBased:
        """The same in whole indices."""
        return replace(self, integer=True)

    def label(self, level: Level) -> Number | Int64[Tensor, ""] | Int64[Tensor, " batch"]:
        # The network saw nothing below its first index; times before it share that label.
        index = _whole_where_rounded(level.t * self.steps) - 1.0
        index = index.clamp_min(0.0) if isinstance(index, Tensor) else max(index, 0.0)
        index = index + self.first
        if self.scale is not None:
            index = index * (self.scale / self.steps)
        if self.integer:
            return index.round().long() if isinstance(index, Tensor) else round(index)
        return index


@dataclass(frozen=True)
class OneBased(ZeroBased):
    """Table index n of time t = n / steps: 1 .. steps.

    >>> OneBased(1000).label(model.schedule.level(0.5))
    500.0
    """

    first: ClassVar[int] = 1


@dataclass(frozen=True)
class DescendingIndex:
    """Whole index round((1 - t) (steps - 1)), 0 for the noisiest: score SDE's discrete VE networks.

    >>> DescendingIndex(1000).label(model.schedule.level(0.25)), DescendingIndex(1000).label(model.schedule.level(1.0))
    (749, 0)
    """

    steps: Annotated[int, whole(1)]

    def __post_init__(self) -> None:
        settle(self)

    def label(self, level: Level) -> int | Int64[Tensor, ""] | Int64[Tensor, " batch"]:
        index = (1.0 - level.t) * (self.steps - 1)
        return index.round().long() if isinstance(index, Tensor) else round(index)


@dataclass(frozen=True)
class Interpolant:
    """scale * sigma / (alpha + sigma), the share of noise: t itself of a rectified flow, whatever the schedule.

    Scale 1000 for Stable Diffusion 3, 1 for Flux. Networks that count from the noise to the data are fed what is left.

    >>> level = Level(0.5, 0.75, 0.25, 2.197)
    >>> Interpolant(1000.0).label(level), Interpolant(from_noise=True).label(level)
    (250.0, 0.75)

    Args:
        from_noise: 1 minus it.
    """

    scale: Annotated[float, number()] = 1.0
    from_noise: Annotated[bool, flag()] = False

    def __post_init__(self) -> None:
        settle(self)

    def label(self, level: Level) -> Number:
        share = level.alpha if self.from_noise else level.sigma
        return self.scale * (share / (level.alpha + level.sigma))


@dataclass(frozen=True)
class Sigma:
    """sigma / alpha, the noise level in variance-exploding coordinates.

    >>> Sigma().label(model.schedule.level(0.5))
    3.413
    """

    def label(self, level: Level) -> Number:
        return level.ratio


@dataclass(frozen=True)
class LogSNR:
    """scale * (log-SNR + shift), the log-SNR first confined to [lo, hi], the range the network was trained on.

    EDM's c_noise = log(sigma/alpha)/4 is `LogSNR(scale=-1/8)`.

    >>> LogSNR(scale=-1 / 8).label(model.schedule.level(0.5)) == math.log(Sigma().label(model.schedule.level(0.5))) / 4
    True
    """

    scale: Annotated[float, number()] = 1.0
    shift: Annotated[float, number()] = 0.0
    lo: Annotated[float, number(-math.inf)] = -math.inf
    hi: Annotated[float, number(most=math.inf)] = math.inf

    def __post_init__(self) -> None:
        settle(self)
        if not self.lo < self.hi:
            raise InputError(f"need lo < hi, got [{self.lo}, {self.hi}]")

    def label(self, level: Level) -> Number:
        log_snr = level.log_snr
        if isinstance(log_snr, Tensor):
            return self.scale * (log_snr.clamp(self.lo, self.hi) + self.shift)
        return self.scale * (min(max(log_snr, self.lo), self.hi) + self.shift)
