"""EDM (Karras et al., 2022) and EDM2: their preconditioned networks, which return the denoised image at a sigma.

    net(x, sigma, class_labels) -> E[x_0 | x],   x = x_0 + sigma eps,   sigma in [net.sigma_min, net.sigma_max]

of EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond and EDM2's Precond alike. Their files are pickles that bring source code and
run it when they are opened: this package never opens one. Load it yourself, where you trust it, and give the network.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from score_sde_analytic.checks import number
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.models.identity import Wrapper
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import Sigma
from score_sde_analytic.process.schedule import VE

#: Where a network says nothing of its own, as EDM's do not: the range of their sampler.
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


class Classes(Wrapper):
    """Their network with classes by number; rows of one-hot, or mixed, classes go on as they are."""

    def __init__(self, net: nn.Module, count: int) -> None:
        super().__init__(net)
        self.count = count

    def forward(
        self, x: Float[Tensor, " batch *dims"], sigma: Shaped[Tensor, " batch"], class_labels: Shaped[Tensor, " batch ..."]
    ) -> Any:
        if class_labels.ndim == 1:
            class_labels = nn.functional.one_hot(class_labels, self.count)
        return self.wrapped(x, sigma, class_labels.to(x))


def from_edm(net: Any, sigma_min: float | None = None, sigma_max: float | None = None, **settings: Any) -> ScoreModel:
    """The network under VE(sigma_min, sigma_max); where it was trained with classes, they are the condition class_labels.

    Settings, as of `ScoreModel`, replace.

    >>> class Precond(nn.Module):
    ...     sigma_min, sigma_max, sigma_data, label_dim = 0, float("inf"), 0.5, 0
    ...     def forward(self, x, sigma):
    ...         return x * 0.25 / (sigma**2 + 0.25)[:, None]
    >>> from_edm(Precond()).schedule
    VE(sigma_min=0.002, sigma_max=80.0)

    Args:
        net: "ema" of their file, in eval mode.
        sigma_min, sigma_max: None for the network's own, and 0.002 and 80 where it names none.

    Raises:
        InputError: sigmas outside the network's own; or a path, which is not opened.
        UnsupportedError: an object without their label_dim.
    """
    if isinstance(net, str | Path):
        raise InputError(
            f"{net} is not opened: their pickles bring source code and run it. Where you trust the file, load it with their"
            " dnnlib and torch_utils on the path, and give its network, from_edm(pickle.load(file)['ema'])"
        )
    if not hasattr(net, "label_dim"):
        raise UnsupportedError(
            f"{type(net).__name__} has no label_dim, as their preconditioned networks have; of a raw network F, give"
            " ScoreModel(F, VE(..), predicts='edm', times=LogSNR(scale=-1/8), coordinates='edm', sigma_data=)"
        )
    classes = int(net.label_dim)
    fed = Classes(net, classes) if classes else net
    schedule = VE(*_range(net, sigma_min, sigma_max))
    wiring: dict[str, Any] = {"predicts": "x_0", "times": Sigma(), "conditions": ("class_labels",) if classes else ()}
    return ScoreModel(fed, **({"schedule": schedule} | wiring | settings))


def _range(net: Any, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """Of the process, within the network's own."""
    low, high = float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", math.inf))
    inside = number(low, high)
    begin = (low or SIGMA_MIN) if sigma_min is None else inside("sigma_min", sigma_min)
    end = SIGMA_MAX if math.isinf(high) else high
    return begin, end if sigma_max is None else inside("sigma_max", sigma_max)
