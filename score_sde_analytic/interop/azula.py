"""azula: its denoisers as models, under their own schedule, and our models as its denoisers.

    denoiser(x_t, t, **conditions).mean = E[x_0 | x_t],   denoiser.schedule(t) = (alpha_t, sigma_t)

Its schedules are not score SDE's (VP has alpha^2 + sigma^2 = 1 + sigma_min^2, and sigma_0 > 0): they are read from the object,
in float64. Nothing of the package is imported: its samplers ask a denoiser for no more than these two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from score_sde_analytic.arrays import Array
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.models.identity import Wrapper
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import Continuous
from score_sde_analytic.process.schedule import Schedule


class Mean(Wrapper):
    """A denoiser of azula as a network of x_0."""

    def forward(self, x: Float[Tensor, " batch *dims"], t: Float[Tensor, " batch"], **conditions: Any) -> Any:
        return self.wrapped(x, t, **conditions).mean


def from_azula(denoiser: nn.Module, **settings: Any) -> ScoreModel:
    """The denoiser as a model: it predicts x_0, fed x_t and t.

    Settings, as of `ScoreModel`, replace.

    >>> class Shrunk(nn.Module):
    ...     schedule = staticmethod(lambda t: (1 - 0.99 * t, 0.01 + 0.99 * t))
    ...     def forward(self, x_t, t):
    ...         return Posterior(0.5 * x_t)
    >>> from_azula(Shrunk()).schedule.sigma(0.5)
    0.505

    Raises:
        UnsupportedError: an object without a schedule.
        InputError: a schedule whose signal-to-noise ratio does not fall.
    """
    schedule = getattr(denoiser, "schedule", None)
    if not callable(schedule):
        raise UnsupportedError(
            f"{type(denoiser).__name__} has no schedule, as azula's denoisers have: give a denoiser of azula"
        )

    def log_scale(which: int, t: Array) -> Array:
        return np.log(schedule(torch.from_numpy(t))[which].numpy())

    process = Schedule.from_functions(lambda t: log_scale(0, t), lambda t: log_scale(1, t))
    wiring: dict[str, Any] = {"schedule": process, "predicts": "x_0", "times": Continuous()}
    return ScoreModel(Mean(denoiser), **(wiring | settings))


@dataclass(frozen=True)
class Posterior:
    """What azula's denoisers return: E[x_0 | x_t]."""

    mean: Float[Tensor, " batch *dims"]


class Denoiser(nn.Module):
    """A model as azula's samplers call one; made by `as_azula`."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model = model
        self.net = model.net if isinstance(model.net, nn.Module) else None  # whose weights are its own

    def schedule(self, t: Float[Tensor, " ..."]) -> tuple[Float[Tensor, " ..."], Float[Tensor, " ..."]]:
        """(alpha_t, sigma_t) in the dtype of t; sigma is 0 at t = 0."""
        alpha, sigma = (torch.as_tensor(law(t.double())) for law in (self.model.schedule.alpha, self.model.schedule.sigma))
        return alpha.to(t), sigma.to(t)

    def forward(self, x_t: Float[Tensor, " batch *dims"], t: Float[Tensor, " ..."], **conditions: Any) -> Posterior:
        """The posterior's mean at a time, or at one per example."""
        return Posterior(self.model(x_t, t, **conditions).x_0)


def as_azula(model: ScoreModel) -> Denoiser:
    """The model for azula's samplers; those that work in log(sigma / alpha) need stop > 0, as sigma = 0 at t = 0.

    >>> denoiser = as_azula(model)
    >>> denoiser(torch.zeros(3, 2), torch.tensor(0.5)).mean.shape, denoiser.schedule(torch.tensor(0.0))
    (torch.Size([3, 2]), (tensor(1.), tensor(0.)))
    """
    return Denoiser(model)
