"""Networks compiled by torch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.models.model import ScoreModel


def compiled(model: ScoreModel, mode: str) -> ScoreModel:
    """The same model with its network compiled by torch; known by the same fingerprint.

    Args:
        mode: of torch.compile: "default", "reduce-overhead" (CUDA graphs), ..
    """
    net = torch.compile(model.net, mode=mode)

    def call(x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"]) -> Float[Tensor, " batch *dims"]:
        answer = net(x, labels)
        return getattr(answer, "sample", answer).clone()  # CUDA graphs write every output to the same place

    return model.with_network(call, model.fingerprint()["network"])
