"""Divergence of the flow's field: the trace of its Jacobian, exactly or by random probes.

div f = sum_v v^T J v      v the d unit vectors (ExactTrace), or random with E v v^T = I (Hutchinson)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import one_of, settle, whole
from score_sde_analytic.models.probability_flow import Probes, one_hot_probes
from score_sde_analytic.process.noise import SampleNoise


class Divergence(ABC):
    """The vectors v over which v^T J v is summed."""

    #: Whether the sum is the divergence itself, not an estimate of it.
    exact: ClassVar[bool] = False

    @abstractmethod
    def probes(self, x: Float[Tensor, " batch *dims"], noise: SampleNoise) -> Probes:
        """The vectors for samples like x, the same along their whole trajectory."""

    @abstractmethod
    def config(self) -> list[Any]:
        """Plain data that identifies it."""


@dataclass(frozen=True)
class ExactTrace(Divergence):
    """The divergence by d vector products per evaluation; for small d."""

    exact: ClassVar[bool] = True

    def probes(self, x: Float[Tensor, " batch *dims"], noise: SampleNoise) -> Probes:
        return one_hot_probes

    def config(self) -> list[Any]:
        return ["ExactTrace", {}]


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """E v^T J v over random v with E v v^T = I, held fixed along a trajectory: unbiased.

    Attributes:
        probes_per_sample: how many v are averaged.
        law: "rademacher" (no variance from the diagonal of J) or "gaussian".
    """

    probes_per_sample: Annotated[int, whole(1)] = 1
    law: Annotated[Literal["rademacher", "gaussian"], one_of(("rademacher", "gaussian"))] = "rademacher"

    def __post_init__(self) -> None:
        settle(self)

    def probes(self, x: Float[Tensor, " batch *dims"], noise: SampleNoise) -> Probes:
        draws = [noise.draw(x).clone() for _ in range(self.probes_per_sample)]
        if self.law == "rademacher":
            draws = [torch.where(v < 0, -1.0, 1.0).to(v) for v in draws]
        scale = 1.0 / math.sqrt(self.probes_per_sample)

        def fixed(x: Tensor, part: slice) -> Iterable[Tensor]:
            return (scale * v[part] for v in draws)

        return fixed

    def config(self) -> list[Any]:
        return ["Hutchinson", asdict(self)]
