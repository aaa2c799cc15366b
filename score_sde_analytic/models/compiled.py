"""Networks compiled by torch."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from score_sde_analytic.models.model import ScoreModel


def compiled(model: ScoreModel, mode: str) -> ScoreModel:
    """The same model with its network compiled by torch; known by the same fingerprint.

    Args:
        mode: of torch.compile: "default", "reduce-overhead" (CUDA graphs), ..
    """
    return model.with_network(_Compiled(torch.compile(model.net, mode=mode)), model.fingerprint()["network"])


class _Compiled(nn.Module):
    """A compiled network, whose answers stay what they are."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"], **conditions: Shaped[Tensor, " batch ..."]
    ) -> Float[Tensor, " batch *dims"]:
        answer = self.net(x, labels, **conditions)
        return getattr(answer, "sample", answer).clone()  # CUDA graphs write every output to the same place
