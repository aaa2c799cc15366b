"""k-diffusion: our models for its samplers, its denoisers for ours, and the analytic chain as one of its samplers.

Its states are x = x_t / alpha_t = x_0 + sigma eps, sigma = sigma_t / alpha_t; a denoiser is (x, sigma) -> E[x_0 | x]:

    x_s = x + (sigma_down - sigma) d + sqrt(sigma_up^2 + (1 - sigma_down / sigma)^2 V0) z,   d = (x - denoised) / sigma

with sigma_up^2 = eta^2 sigma_s^2 (1 - sigma_s^2 / sigma^2), sigma_down^2 = sigma_s^2 - sigma_up^2: `sample_euler_ancestral`
with the posterior variance V0 added; without it, at eta = 0, `sample_euler`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import trange

from score_sde_analytic.arrays import as_array, like
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.times import Sigma
from score_sde_analytic.process.gaussian import expand
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import VE
from score_sde_analytic.samplers.kernel_steps import kernel_steps

ROUNDING = 1e-6  # of a sigma that was a float32
State = Float[Tensor, " batch *dims"]


class Denoiser:
    """A model as k-diffusion calls one, `f(x, sigma, **conditions) -> denoised`; made by `as_denoiser`."""

    def __init__(self, model: ScoreModel, covariance: Covariance | None = None) -> None:
        self.model = model
        self.covariance = covariance

    def __call__(self, x: State, sigma: Float[Tensor, " batch"], **conditions: Any) -> State:
        return self.prediction(x, _level(self.model, sigma), **conditions).x_0

    def prediction(self, x: State, level: Level, **conditions: Any) -> Prediction:
        """All that the network says of alpha_t x."""
        return self.model.predict(expand(level.alpha, x) * x, level, **conditions)

    def sigmas(self, grid: Grid) -> Float[Tensor, " steps_and_data"]:
        """sigma_t / alpha_t of a grid, falling to 0, in float64; InputError where it begins in pure noise."""
        levels = grid.levels(self.model.schedule)
        if levels[0].pure_noise:
            raise InputError("the grid begins in pure noise, alpha = 0 and sigma infinite: begin it below t = 1")
        return torch.tensor([level.ratio for level in levels], dtype=torch.float64)


def as_denoiser(model: ScoreModel, covariance: Covariance | None = None) -> Denoiser:
    """The model for k-diffusion's samplers, with what `sample_analytic` adds to its steps.

    >>> as_denoiser(model)(torch.zeros(2, 2), torch.tensor([0.5, 3.0])).shape
    torch.Size([2, 2])
    """
    return Denoiser(model, covariance)


def from_denoiser(f: Callable[..., State], sigma_min: float, sigma_max: float, **settings: Any) -> ScoreModel:
    """A denoiser f(x, sigma, **conditions), trained between two sigmas, as a model of VE(sigma_min, sigma_max).

    >>> from_denoiser(lambda x, sigma: 0.5 * x, 0.01, 80.0)(torch.ones(1, 2), 1.0).x_0
    tensor([[0.5000, 0.5000]])
    """
    return ScoreModel(f, VE(sigma_min, sigma_max), "x_0", Sigma(), **settings)


@torch.no_grad()
def sample_analytic(
    model: Callable[..., State],
    x: State,
    sigmas: Float[Tensor, " steps_and_data"],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Callable[..., State] | None = None,
) -> State:
    """The analytic chain, by k-diffusion's conventions: one call per step, no noise in a last step to sigma = 0.

    The model is that of `as_denoiser(model, covariance)`, or what holds it as its `inner_model`, as for guidance.

    >>> from score_sde_analytic import covariance, grids
    >>> denoiser = as_denoiser(model, covariance.Isotropic(curve))
    >>> sigmas = denoiser.sigmas(grids.even(5, 0.01))
    >>> sample_analytic(denoiser, torch.randn(4, 2) * sigmas[0].float(), sigmas, disable=True).shape
    torch.Size([4, 2])

    Raises:
        UnsupportedError, InputError: no covariance; sigmas that do not fall, or leave the model's.
    """
    denoiser, covariance = _inside(model)
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas.diff() < 0.0).all()):
        raise InputError(f"sigmas must be two or more that fall, the last of them 0 for samples, got {sigmas.tolist()}")
    draw = noise_sampler or (lambda sigma, sigma_next: torch.randn_like(x))
    levels = [_level(denoiser.model, sigma) if sigma else Level(0.0, 1.0, 0.0, math.inf) for sigma in sigmas.tolist()]
    for i, step in zip(trange(len(levels) - 1, disable=disable), kernel_steps(levels, covariance, eta), strict=True):
        prediction = _asked(model, denoiser, x, sigmas[i], step.t, extra_args or {})
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": prediction.x_0})
        x = step.mean(prediction)
        if not step.last:
            x = step.covariance.add_noise(x, prediction, draw(sigmas[i], sigmas[i + 1]) * s_noise)
        x = x / step.s.alpha
    return x


def _level(model: ScoreModel, sigma: float | Tensor) -> Level:
    """Where sigma_t / alpha_t is this."""
    schedule, wanted = model.schedule, as_array(sigma)
    low, high = schedule.log_snr_range
    log_snr = -2.0 * np.log(wanted, where=wanted > 0.0, out=np.full_like(wanted, np.nan))
    inside = log_snr.clip(low, high)
    if not np.all(np.abs(inside - log_snr) <= 2.0 * ROUNDING):
        raise InputError(
            f"sigma {wanted.min():.6g} to {wanted.max():.6g} leaves those of the model, {math.exp(-0.5 * high):.6g} to"
            f" {math.exp(-0.5 * low):.6g}; take those of a grid, denoiser.sigmas(grid), and no churn above the largest"
        )
    return schedule.level(schedule.time(like(inside, sigma)))


def _asked(model: Any, denoiser: Denoiser, x: Tensor, sigma: Tensor, level: Level, conditions: Mapping[str, Any]) -> Prediction:
    if model is denoiser:
        return denoiser.prediction(x, level, **conditions)
    return Prediction(level.alpha * x, level, model(x, sigma * x.new_ones(len(x)), **conditions), "x_0")


def _inside(model: Any) -> tuple[Denoiser, Covariance]:
    """Our denoiser that it is or holds, and its covariance."""
    while not isinstance(model, Denoiser | None):
        model = getattr(model, "inner_model", None)
    if model is None or model.covariance is None:
        raise UnsupportedError(
            "the analytic chain needs a covariance: give as_denoiser(model, Isotropic(curve)); of a denoiser f of k-diffusion,"
            " as_denoiser(from_denoiser(f, sigma_min, sigma_max), Isotropic(curve))"
        )
    return model, model.covariance
