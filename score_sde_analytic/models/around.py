"""Models around a model: they change what it says, and are used as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from score_sde_analytic.models.model import ScoreModel


class Around(ScoreModel):
    """A model with the wiring of another, which it asks.

    Attributes:
        model: the other.
    """

    def __init__(self, model: ScoreModel) -> None:
        vars(self).update(vars(model))
        self.viewed = None
        self.model = model

    @property
    def guidance(self) -> str:
        return self.model.guidance

    @property
    def branches(self) -> int:
        return self.model.branches

    @property
    def inner(self) -> ScoreModel:
        """The other model on the conditions of this one."""
        return self.model.on(self.bound)

    def drawn(self, seed: int, indices: Iterable[int]) -> dict[str, Shaped[Tensor, " batch ..."]]:
        return self.model.drawn(seed, indices)

    def with_network(self, net: Any, fingerprint: str) -> ScoreModel:
        other = copy.copy(self)
        other.model = self.model.with_network(net, fingerprint)
        other.net, other.viewed = net, None
        return other
