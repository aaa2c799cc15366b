"""Optimal variances, grids and our solvers in pipelines of diffusers.

    pipe.scheduler = AnalyticDPMScheduler.from_config(pipe.scheduler.config).with_curve(curve, grids={10: grid})
    pipe(num_inference_steps=10)

What is measured is carried under one private key of a scheduler's config (`carried.py`): it is saved, loaded and handed from
class to class like any setting. The path of this module stands in saved pipelines.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.arrays import onto
from score_sde_analytic.covariance import Beta, BetaTilde, Interpolated
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.carried import KEY, Carried
from score_sde_analytic.interop.carrying import Carrying
from score_sde_analytic.interop.driving import Answered, Desk, Plan
from score_sde_analytic.interop.origins import flow_settings, table_settings
from score_sde_analytic.interop.timesteps import grid_of_indices, grid_of_shares, grid_of_sigmas, indices_of, spaced
from score_sde_analytic.models.diffusers_folder import training_of
from score_sde_analytic.process.gaussian import expand
from score_sde_analytic.process.schedule import RectifiedFlow, Tabulated

#: variance_type -> the covariance where no other is carried; the logarithms are of the same variances.
VARIANCES: dict[str, type[Covariance]] = {
    "fixed_small": BetaTilde,
    "fixed_small_log": BetaTilde,
    "fixed_large": Beta,
    "fixed_large_log": Beta,
    "learned_range": Interpolated,
}


def parameters_of(stock: type) -> Any:
    """Let a constructor take what that of a class of diffusers takes, with its defaults, and write it to the config."""

    signature = inspect.signature(vars(stock)["__init__"])

    def decorate(init: Any) -> Any:
        def checked(self: Any, *values: Any, **settings: Any) -> None:
            signature.bind(self, *values, **settings)  # raises TypeError as the stock constructor does
            init(self, *values, **settings)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return register_to_config(functools.wraps(init)(checked))

    return decorate


@dataclass
class AnalyticDPMSchedulerOutput(BaseOutput):
    """What a step gives, as DDPMScheduler's does.

    Attributes:
        prev_sample: x_s.
        pred_original_sample: x0_hat, confined as the config says.
    """

    prev_sample: Float[Tensor, " batch *dims"]
    pred_original_sample: Float[Tensor, " batch *dims"] | None = None


class AnalyticDPMScheduler(Carrying, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """DDPMScheduler with KL-optimal variances, on optimal grids and with our solvers, wherever that one works.

    Its parameters are DDPMScheduler's, with their defaults; without a curve it takes the same steps, with tables in float64.

    >>> scheduler = AnalyticDPMScheduler().with_curve(curve, grids={3: (1.0, 0.5, 0.1, 0.0)})
    >>> scheduler.set_timesteps(3)
    >>> scheduler.timesteps
    tensor([999, 499,  99])
    """

    _compatibles = [each.name for each in KarrasDiffusionSchedulers]  # noqa: RUF012

    @parameters_of(DDPMScheduler)
    def __init__(self, *values: Any, **settings: Any) -> None:
        schedule = _schedule(self._internal_dict)
        alpha, sigma = schedule.alpha(schedule.times), schedule.sigma(schedule.times)
        self._coefficients = torch.from_numpy(np.stack([alpha, sigma]))
        self.betas = torch.tensor(schedule.betas, dtype=torch.float32)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.tensor(alpha**2, dtype=torch.float32)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(len(schedule.betas) - 1, -1, -1)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **settings: Any) -> Any:
        """From the config of any scheduler of a table of betas; settings replace what it says.

        Where a key is absent the class of the config decides: those that never clip x_0 do not, and timesteps are spaced as
        that class spaces them.

        Raises:
            UnsupportedError: a flow, EDM, or a scheduler of distilled networks.
        """
        known = table_settings(config, cls) if isinstance(config, Mapping) else config
        return super().from_config(known, return_unused_kwargs, **settings)

    @property
    def schedule(self) -> Tabulated:
        """The forward process."""
        return self._desk.model.schedule  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.betas)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Plan a run of so many steps, or of these timesteps or noise levels sigma / alpha, whole or not; one of the three.

        Raises:
            InputError: none or several of them, or values outside the table.
        """
        given = {"steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas}
        asked = [(name, value) for name, value in given.items() if value is not None]
        if len(asked) != 1:
            raise InputError("pass exactly one of num_inference_steps, timesteps and sigmas")
        self._begin(_hashable(*asked[0]), device)
        self.num_inference_steps = len(self.timesteps)

    def _desk_of(self, config: Mapping[str, Any]) -> Desk:
        training = training_of({**config, "_class_name": "DDPMScheduler"})
        model = Answered(training.schedule, training.predicts, training.clamp)
        return Desk(config, model, Carried(config.get(KEY) or {}, _by_hand(config), self.hand_eta))

    def _planned(self, desk: Desk, request: Any) -> Plan:
        table = len(self.betas)
        name, value = request or ("spaced", table)
        own = desk.carried.grids.get(value) if name == "steps" else None
        grid = self._grid(name, value) if own is None else own
        rule = desk.carried.sampler(desk.model, None if own is None else own.steps)
        return Plan.of(rule, grid, indices_of(grid, table))

    def _grid(self, name: str, value: Any) -> Grid:
        """Of a request, without those that are carried."""
        if name == "timesteps":
            return grid_of_indices(value, len(self.betas))
        if name == "sigmas":
            return grid_of_sigmas(value, self.schedule)
        config = self._internal_dict
        indices = spaced(value, len(self.betas), config["timestep_spacing"], config["steps_offset"])
        return grid_of_indices(indices, len(self.betas))

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
        """x_s = a x_t + b x0_hat + Sigma^{1/2} z, or what another solver makes of x_t and the past.

        Args:
            timestep: the next of `timesteps`; another of them is looked up.
            variance_noise: z; None to draw it.
            ignored: what pipelines tell other schedulers, such as an eta of their own; ours is carried.
        """
        x_s, prediction = self._taken(model_output, timestep, sample, generator, variance_noise)
        x_s, x_0 = x_s.to(sample.dtype), prediction.x_0.to(sample.dtype)
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
        """(alpha, sigma) of every sample; whole timesteps are looked up where the samples lie."""
        flat = timesteps.flatten().expand(len(like)) if timesteps.numel() == 1 else timesteps.flatten()
        if flat.is_floating_point():
            level = self.schedule.level(((flat.cpu().double() + 1.0) / len(self.betas)).clamp(0.0, 1.0))
            return [expand(level.alpha, like), expand(level.sigma, like)]
        self._coefficients = onto(self._coefficients, like.device)
        return [expand(column[flat.to(like.device)], like) for column in self._coefficients]


def _schedule(config: Mapping[str, Any]) -> Tabulated:
    """The table of a config.

    Raises:
        InputError: zero terminal SNR for a network of epsilon.
    """
    training = training_of({**config, "_class_name": "DDPMScheduler"})
    if training.schedule.ends_in_noise and training.predicts == "eps":
        raise InputError(
            "rescale_betas_zero_snr ends in pure noise, of which a network of epsilon says nothing: it takes one of"
            " v_prediction or sample"
        )
    return training.schedule  # type: ignore[return-value]


def _by_hand(config: Mapping[str, Any]) -> Covariance:
    """By `variance_type`.

    Raises:
        UnsupportedError: variances that a network learned for the steps of its training.
    """
    name = config.get("variance_type") or "fixed_small"
    if name in VARIANCES:
        return VARIANCES[name]()
    if config.get(KEY):
        return BetaTilde()
    raise UnsupportedError(
        f"variance_type {name!r} is of the training's own steps alone; carry a curve, with_curve(..), or take 'learned_range'"
        f" or one of {', '.join(VARIANCES)}"
    )


def _hashable(name: str, value: Any) -> tuple[str, Any]:
    return name, value if name == "steps" else tuple(float(each) for each in value)


class FlowRun(NamedTuple):
    """What a run of a flow is asked for by."""

    steps: int | None
    sigmas: tuple[float, ...] | None
    mu: float | None
    timesteps: tuple[float, ...] | None
    shift: float

    @property
    def plain_steps(self) -> int:
        """How many steps are asked for where nothing is said of which; 0 where it is."""
        if self.timesteps is not None:
            return 0
        if self.sigmas is None:
            return self.steps or 0
        count = len(self.sigmas)
        even = np.arange(count, 0, -1) / max(count, 1)
        return count if np.allclose(self.sigmas, even, rtol=0.0, atol=1e-6) else 0


class AnalyticFlowScheduler(Carrying, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """FlowMatchEulerDiscreteScheduler with our grids, covariances and solvers; without them the same steps.

    Its parameters are those of that class, and so are its shifts, which grids that are carried go without: they hold shares of
    noise. eta = 0 is Euler's step; with a curve, `with_curve(curve, eta=..)`, steps add noise of the optimal variance.

    >>> scheduler = AnalyticFlowScheduler(shift=3.0).with_curve(curve, grids={2: (1.0, 0.5, 0.0)})
    >>> scheduler.set_timesteps(2)
    >>> scheduler.timesteps
    tensor([1000.,  500.])
    """

    hand_eta = 0.0

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **settings: Any) -> Any:
        """From the config of a flow's scheduler, or of another with use_flow_sigmas; settings replace what it says.

        Raises:
            UnsupportedError: a table of betas, EDM, or a scheduler of distilled networks.
        """
        known = flow_settings(config, cls) if isinstance(config, Mapping) else config
        return super().from_config(known, return_unused_kwargs, **settings)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Plan a run; a number of steps that has a grid takes it, as do the even sigmas that pipelines pass by themselves.

        Raises:
            InputError: sigmas that do not fall.
        """
        known = None if sigmas is None else tuple(float(each) for each in sigmas)
        fed = None if timesteps is None else tuple(float(each) for each in timesteps)
        plan = self._begin(FlowRun(num_inference_steps, known, mu, fed, self._shift), device)
        self.num_inference_steps = len(plan.steps)
        self.sigmas = plan.sigmas.to(self.timesteps.device, copy=True)  # type: ignore[union-attr]

    def _desk_of(self, config: Mapping[str, Any]) -> Desk:
        refused = [key for key in ("invert_sigmas", "stochastic_sampling") if config.get(key)]
        if refused:
            raise UnsupportedError(
                f"{refused[0]} has no place in AnalyticFlowScheduler: its networks count from noise to data, and its noise is"
                " that of eta (with_curve(curve, eta=1.0))"
            )
        return Desk(config, Answered(RectifiedFlow(), "velocity"), Carried(config.get(KEY) or {}, BetaTilde(), self.hand_eta))

    def _planned(self, desk: Desk, request: Any) -> Plan:
        own = None if request is None else desk.carried.grids.get(request.plain_steps)
        rule = desk.carried.sampler(desk.model, None if own is None else own.steps)
        if own is not None:
            sigmas = torch.tensor(own.times, dtype=torch.float64)
            timesteps = sigmas[:-1] * desk.config["num_train_timesteps"]
            return Plan.of(rule, own, timesteps.float(), sigmas.float())
        stock = self._stock(desk.config, request)
        sigmas = stock.sigmas[: len(stock.timesteps)]
        return Plan.of(rule, grid_of_shares(sigmas.tolist()), stock.timesteps, torch.cat([sigmas, torch.zeros(1)]))

    def _stock(self, config: Mapping[str, Any], request: FlowRun | None) -> Any:
        """That of diffusers with its run; the one over all timesteps of the training where none was asked for."""
        parameters = inspect.signature(FlowMatchEulerDiscreteScheduler).parameters
        made: Any = FlowMatchEulerDiscreteScheduler(**{key: config[key] for key in parameters})
        if request is not None:
            made.set_shift(request.shift)
            fed = {} if request.timesteps is None else {"timesteps": request.timesteps}  # which older versions do not take
            made.set_timesteps(request.steps, "cpu", request.sigmas, request.mu, **fed)
        return made

    def step(  # type: ignore[override]
        self,
        model_output: Float[Tensor, " batch *outs"],
        timestep: Any,
        sample: Float[Tensor, " batch *dims"],
        generator: Any = None,
        variance_noise: Float[Tensor, " batch *dims"] | None = None,
        return_dict: bool = True,
        **ignored: Any,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Float[Tensor, " batch *dims"], ...]:
        """x_s = a x_t + b x0_hat + Sigma^{1/2} z; at eta = 0 x_t + (sigma_s - sigma_t) v.

        Raises:
            UnsupportedError: a timestep for each token.
        """
        if ignored.get("per_token_timesteps") is not None:
            raise UnsupportedError("per_token_timesteps are of FlowMatchEulerDiscreteScheduler alone; take that")
        taken, _ = self._taken(model_output, timestep, sample, generator, variance_noise)
        x_s: Any = taken.to(model_output.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=x_s) if return_dict else (x_s,)
