"""Analytic variances, optimal grids and our solvers in pipelines of diffusers.

    scheduler = AnalyticDPMScheduler.from_config(pipe.scheduler.config).with_curve(curve, grids={10: grid})
    pipe.scheduler = scheduler

A scheduler carries what was measured under one private key of its config (`carried.py`), so that it is saved, loaded and handed
from scheduler to scheduler like any setting; the path of this module stands in saved pipelines.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.covariance import Beta, BetaTilde, Interpolated
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.carried import KEY, Carried, content_of
from score_sde_analytic.interop.driving import Answered, Desk, Driven, Plan
from score_sde_analytic.interop.timesteps import grid_of_indices, grid_of_sigmas, indices_of, spaced
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.diffusers_folder import TABLES, Training, training_of
from score_sde_analytic.process.gaussian import expand
from score_sde_analytic.process.tabulated import Tabulated

#: What a network returns of its variance, or a hand chose -> the covariance where no other is carried.
VARIANCES: dict[str, type[Covariance]] = {
    "fixed_small": BetaTilde,
    "fixed_small_log": BetaTilde,
    "fixed_large": Beta,
    "fixed_large_log": Beta,
    "learned_range": Interpolated,
}


@dataclass
class AnalyticDPMSchedulerOutput(BaseOutput):
    """A step's result, as of DDPMScheduler.

    Attributes:
        prev_sample: x_s.
        pred_original_sample: x0_hat, confined as the config says.
    """

    prev_sample: Float[Tensor, " batch *dims"]
    pred_original_sample: Float[Tensor, " batch *dims"] | None = None


def _as_of(stock: type) -> Any:
    """Let a constructor have the parameters of a class of diffusers, with their defaults."""

    def decorate(init: Any) -> Any:
        init.__signature__ = inspect.signature(vars(stock)["__init__"])
        return register_to_config(init)

    return decorate


class AnalyticDPMScheduler(Driven, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Ancestral sampling with KL-optimal variances on optimal grids, wherever DDPMScheduler works.

    Without a curve it is DDPMScheduler with tables in float64. It takes DDPMScheduler's parameters, with their defaults.
    """

    _compatibles = [each.name for each in KarrasDiffusionSchedulers]  # noqa: RUF012

    @_as_of(DDPMScheduler)
    def __init__(self, *positional: Any, **settings: Any) -> None:
        training = self._at_desk_training(self._internal_dict)
        schedule = _table(training)
        alpha_bar = np.exp(2.0 * schedule.log_alpha(schedule.times))
        self.betas = torch.tensor(schedule.betas, dtype=torch.float32)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.tensor(alpha_bar, dtype=torch.float32)
        self.num_inference_steps: int | None = None
        self.custom_timesteps = False
        self.timesteps = torch.arange(len(schedule.betas) - 1, -1, -1)

    @staticmethod
    def _at_desk_training(config: Mapping[str, Any]) -> Training:
        return training_of({**config, "_class_name": "DDPMScheduler"})

    @classmethod
    def from_config(
        cls,
        config: Any = None,
        return_unused_kwargs: bool = False,
        *,
        covariance: Covariance | NoiseCurve | None = None,
        grids: Mapping[int, Any] | None = None,
        eta: float = 1.0,
        **settings: Any,
    ) -> Any:
        """From the config of any scheduler of a table of betas, which keeps that class's own clipping and spacing.

        Raises:
            UnsupportedError: a flow, EDM, or a scheduler of distilled networks.
        """
        made: Any = super().from_config(_resolved(config), return_unused_kwargs, **settings)
        scheduler = made[0] if return_unused_kwargs else made
        if covariance is not None:
            scheduler.with_curve(covariance, grids, eta=eta)
        return made

    def with_curve(
        self,
        curve: NoiseCurve | Covariance,
        grids: Mapping[int, Any] | None = None,
        *,
        eta: float = 1.0,
        clip: float = 0.0,
    ) -> Self:
        """The scheduler itself, from now on with the variances of a curve, or another covariance, and with these grids.

        Args:
            grids: number of steps -> `Grid`, or its times; other numbers are spaced as the config says.
            eta: 1 for DDPM's kernel, 0 for DDIM's.
            clip: of the last noisy step, as of `Ancestral`.
        """
        self.register_to_config(**{KEY: content_of(curve, grids, eta, clip)})
        return self

    @property
    def curve(self) -> NoiseCurve | None:
        """The carried curve; None without one."""
        return self._at_desk.carried.curve

    @property
    def covariance(self) -> Covariance:
        """Of its steps."""
        return self._at_desk.carried.covariance

    @property
    def eta(self) -> float:
        """Of its kernel."""
        return self._at_desk.carried.eta

    @property
    def grids(self) -> dict[int, Grid]:
        """Carried grids by their numbers of steps."""
        return self._at_desk.carried.grids

    @property
    def schedule(self) -> Tabulated:
        """The forward process."""
        return self._at_desk.model.schedule  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.betas)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Plan a run of so many steps, or of these timesteps or noise levels, whole or not; exactly one of the three.

        Raises:
            InputError: none or several of them, or values outside the table.
        """
        given = {"steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas}
        named = [(name, value) for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise InputError("pass exactly one of num_inference_steps, timesteps and sigmas")
        name, value = named[0]
        self._begin((name, value if name == "steps" else tuple(value)), device)  # type: ignore[arg-type]
        self.num_inference_steps = len(self.timesteps)
        self.custom_timesteps = name != "steps"

    def _desk_of(self, config: Mapping[str, Any]) -> Desk:
        training = self._at_desk_training(config)
        model = Answered(training.schedule, training.predicts, training.clamp)
        return Desk(config, model, Carried.of(config, _handcrafted(config), 1.0))

    def _planned(self, desk: Desk, request: Any) -> Plan:
        grid = self._grid(desk, request)
        timesteps = indices_of(grid, len(_betas(desk)))
        return Plan.of(desk.carried.sampler(desk.model), grid, timesteps)

    def _grid(self, desk: Desk, request: Any) -> Grid:
        """Of a request; None stands for the whole table."""
        name: str
        value: Any
        name, value = request or ("steps", len(_betas(desk)))
        if name == "timesteps":
            return grid_of_indices(value, len(_betas(desk)))
        if name == "sigmas":
            return grid_of_sigmas(value, desk.model.schedule)
        if value in desk.carried.grids and request is not None:
            return desk.carried.grids[value]
        config = desk.config
        return grid_of_indices(
            spaced(value, len(_betas(desk)), config["timestep_spacing"], config["steps_offset"]), len(_betas(desk))
        )

    def step(
        self,
        model_output: Float[Tensor, " batch *outs"],
        timestep: Any,
        sample: Float[Tensor, " batch *dims"],
        generator: Any = None,
        variance_noise: Float[Tensor, " batch *dims"] | None = None,
        return_dict: bool = True,
        **ignored: Any,
    ) -> AnalyticDPMSchedulerOutput | tuple[Float[Tensor, " batch *dims"], ...]:
        """x_s = a x_t + b x0_hat + Sigma^{1/2} z.

        Args:
            timestep: one of `timesteps`; another than the one to come is looked up.
            variance_noise: z; drawn where it is not given.
            ignored: what pipelines tell other schedulers, such as an eta of their own.
        """
        x_s, x_0 = self._taken(model_output, timestep, sample, generator, variance_noise)
        if not return_dict:
            return x_s, x_0
        return AnalyticDPMSchedulerOutput(x_s, x_0)

    def add_noise(
        self,
        original_samples: Float[Tensor, " batch *dims"],
        noise: Float[Tensor, " batch *dims"],
        timesteps: Shaped[Tensor, " ..."],
    ) -> Float[Tensor, " batch *dims"]:
        """x_t = alpha x_0 + sigma eps at these timesteps, whole or not."""
        alpha, sigma = self._scalars(timesteps, original_samples)
        return alpha * original_samples + sigma * noise

    def get_velocity(
        self,
        sample: Float[Tensor, " batch *dims"],
        noise: Float[Tensor, " batch *dims"],
        timesteps: Shaped[Tensor, " ..."],
    ) -> Float[Tensor, " batch *dims"]:
        """v = alpha eps - sigma x_0, what a network of v is trained on."""
        alpha, sigma = self._scalars(timesteps, sample)
        return alpha * noise - sigma * sample

    def _scalars(self, timesteps: Tensor, like: Tensor) -> list[Any]:
        """(alpha, sigma) per sample, in the shape of what they multiply."""
        times = ((timesteps.flatten().double().cpu() + 1.0) / len(self.betas)).clamp(0.0, 1.0)
        level = self.schedule.level(times.expand(len(like)) if len(times) == 1 else times)
        return [expand(level.alpha, like), expand(level.sigma, like)]


def _betas(desk: Desk) -> Any:
    return desk.model.schedule.betas  # type: ignore[attr-defined]


def _table(training: Training) -> Tabulated:
    if training.schedule.ends_in_noise and training.predicts == "eps":
        raise InputError(
            "rescale_betas_zero_snr ends in pure noise, of which a network of epsilon says nothing; it takes one of"
            " v_prediction or sample"
        )
    return training.schedule  # type: ignore[return-value]


def _handcrafted(config: Mapping[str, Any]) -> Covariance:
    """By `variance_type`."""
    name = config.get("variance_type", "fixed_small")
    if name not in VARIANCES:
        raise UnsupportedError(
            f"variance_type {name!r} is a variance of the training's own steps; carry a curve, with_curve(..)"
        )
    return VARIANCES[name]()


def _resolved(config: Any) -> Any:
    """A config with the defaults of its own class in place of ours."""
    if not isinstance(config, Mapping):
        return config
    name = config.get("_class_name")
    known = {key: value for key, value in config.items() if key != "_use_default_values"}
    if config.get("use_flow_sigmas"):
        raise UnsupportedError(f"{name} with use_flow_sigmas is of a flow; take AnalyticFlowScheduler")
    if name in (None, "AnalyticDPMScheduler"):
        return known
    if name not in TABLES:
        raise UnsupportedError(
            f"a {name} is not one of a table of betas, so AnalyticDPMScheduler cannot stand for it; flows take"
            " AnalyticFlowScheduler"
        )
    import diffusers

    stock = inspect.signature(getattr(diffusers, name).__init__).parameters
    ours = inspect.signature(AnalyticDPMScheduler.__init__).parameters
    defaults = {key: each.default for key, each in stock.items() if key in ours and key != "self"}
    return {"clip_sample": False} | defaults | known
