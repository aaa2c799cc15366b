"""What confines x_0: the data's range, or a threshold that follows each prediction."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import onto
from score_sde_analytic.checks import each, number, settle
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.prediction import Prediction


@dataclass(frozen=True)
class DynamicThreshold:
    """x_0 confined to [-s, s] and divided by s, s the `ratio` quantile of each sample's |x_0|, within [1, maximum].

    For data in [-1, 1] (Saharia et al., Imagen, NeurIPS 2022).

    >>> DynamicThreshold(ratio=0.5)(torch.tensor([[0.5, 2.0, -8.0]]))
    tensor([[ 0.2500,  1.0000, -1.0000]])
    """

    ratio: Annotated[float, number(0, 1)] = 0.995
    maximum: Annotated[float, number(1, math.inf)] = math.inf

    def __post_init__(self) -> None:
        settle(self)

    def __call__(self, x_0: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        wide = onto(x_0, x_0.device)
        # Sample by sample: torch.quantile has a largest size.
        thresholds = [torch.quantile(sample.abs().flatten(), self.ratio) for sample in wide]
        s = torch.stack(thresholds).clamp(1.0, self.maximum).reshape(-1, *(1,) * (x_0.ndim - 1))
        return (torch.maximum(torch.minimum(wide, s), -s) / s).to(x_0)


Clamp = tuple[float, float] | DynamicThreshold


def checked_clamp(clamp: Any) -> Clamp | None:
    """The clamp as given, a range as plain numbers.

    Raises:
        InputError: something else, or an empty range.

    >>> checked_clamp([-1, 1])
    (-1.0, 1.0)
    """
    if clamp is None or isinstance(clamp, DynamicThreshold):
        return clamp
    lo, hi = each(number(), 2, 2)("clamp", clamp)
    if not lo < hi:
        raise InputError(f"clamp needs lo < hi, got {clamp}")
    return lo, hi


def confined(prediction: Prediction, clamp: Clamp | None) -> Prediction:
    """The prediction with x_0 confined; itself without a clamp."""
    if clamp is None:
        return prediction
    if isinstance(clamp, DynamicThreshold):
        return replace(prediction, value=clamp(prediction.x_0), kind="x_0")
    return prediction.clamp(*clamp)


def config_of(clamp: Clamp) -> Any:
    """Plain data that identify it."""
    if isinstance(clamp, DynamicThreshold):
        return {"name": "dynamic_threshold"} | {name: str(value) for name, value in asdict(clamp).items()}
    return list(clamp)
