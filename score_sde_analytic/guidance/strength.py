"""What guided models share: a strength between two noise levels, and the gradient of what pushes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import LOG_SNR, each, number
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.around import Around
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.level import Level


class Scaled(Around):
    """A model with guidance of some strength between two noise levels."""

    def __init__(self, model: ScoreModel, scale: float, interval: tuple[float, float] | None) -> None:
        super().__init__(model)
        self.scale = number()("scale", scale)
        self.interval = None if interval is None else tuple(each(LOG_SNR, 2, 2)("interval", interval))
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise InputError(f"the interval needs a log-SNR lo < hi, got {interval}")

    def strength(self, level: Level, inside: float, outside: float) -> float | Float[Tensor, " batch"]:
        """`inside` the interval, one number per sample where levels differ."""
        if self.interval is None:
            return inside
        low, high = self.interval
        if isinstance(level.log_snr, Tensor) and level.log_snr.ndim:
            held = (level.log_snr >= low) & (level.log_snr <= high)
            return torch.where(held, inside, outside).to(level.log_snr)
        return inside if low <= float(level.log_snr) <= high else outside

    def config(self) -> dict[str, Any]:
        return {"scale": self.scale, "interval": None if self.interval is None else list(self.interval)}


def gradient(value: Callable[[Any], Any], x_t: Float[Tensor, " batch *dims"], what: str) -> Float[Tensor, " batch *dims"]:
    """grad of a function of states, of every sample its own; it can be differentiated again where x_t is recorded.

    Args:
        value: x -> (batch,).
        what: it is, for messages.

    Raises:
        InputError: not one number per sample, or one that does not depend on x.

    >>> gradient(lambda x: x.square().sum(1), torch.ones(1, 2), "the square")
    tensor([[2., 2.]])
    """
    recorded = torch.is_grad_enabled() and x_t.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        x = x_t if recorded else x_t.detach().clone().requires_grad_()
        values = value(x)
        if not isinstance(values, Tensor) or values.shape != (len(x),):
            raise InputError(f"{what} must return one number per sample, ({len(x)},)")
        if not values.requires_grad:
            raise InputError(f"{what} carries no gradient: it detaches, runs under no_grad, or ignores the state")
        (found,) = torch.autograd.grad(values.sum(), x, create_graph=recorded)
    return found
