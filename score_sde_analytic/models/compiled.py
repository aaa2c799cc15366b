"""Networks compiled by torch."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.models.identity import Wrapper
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.networks import Output


def compiled(model: ScoreModel, mode: str) -> ScoreModel:
    """The same model with its network compiled by torch; known by the same fingerprint.

    Args:
        mode: of torch.compile: "default", "reduce-overhead" (CUDA graphs), ..
    """
    net: Any = torch.compile(model.net, mode=mode)
    return model.with_network(_Compiled(net), model.fingerprint()["network"])


class _Compiled(Wrapper):
    """A compiled network, whose answers stay what they are."""

    def forward(
        self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"], **conditions: Shaped[Tensor, " batch ..."]
    ) -> Output:
        answer = self.wrapped(x, labels, **conditions)
        extra, learned_range = (getattr(answer, name, None) for name in ("extra", "learned_range"))
        return Output(*map(_copied, (getattr(answer, "sample", answer), extra, learned_range)))


def _copied(part: Any) -> Any:
    """CUDA graphs write every output to the same place."""
    return None if part is None else part.clone()
