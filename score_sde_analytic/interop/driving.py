"""Our samplers one step at a time, driven by a pipeline that calls the network itself, as diffusers' schedulers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Shaped
from torch import Tensor

from score_sde_analytic.arrays import onto
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.carried import Carried
from score_sde_analytic.models.clamps import Clamp, confined
from score_sde_analytic.models.model import Quantity, ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers import Sampler, Step

#: Plans that are kept by what they were asked for.
MOST_PLANS = 32


class Answered(ScoreModel):
    """A model whose network somebody else has called: it predicts what the network is known to have said."""

    prediction: Prediction

    def __init__(self, schedule: Schedule, predicts: Quantity, clamp: Clamp | None) -> None:
        super().__init__(_uncalled, schedule, predicts, clamp=clamp, fingerprint="of a pipeline")

    def answer(self, out: Float[Tensor, " batch *outs"], x_t: Float[Tensor, " batch *dims"], level: Level) -> Prediction:
        """What the network said of x_t; of twice its channels the second half is a learned range."""
        learned = None
        if out.shape[1:2] != x_t.shape[1:2]:
            out, learned = out.tensor_split(2, 1)
        said = Prediction(x_t, level, out, self.predicts, None, learned)  # type: ignore[arg-type]
        self.prediction = confined(said, self.clamp)
        return self.prediction

    def predict(self, x_t: Float[Tensor, " batch *dims"], level: Level, **conditions: Any) -> Prediction:
        return self.prediction


def _uncalled(*_: Any) -> Tensor:
    raise RunError("the network of a pipeline is called by the pipeline")


class Given:
    """Noise that a pipeline gives, or that its generators draw, one for the batch or one per sample."""

    def __init__(self, generator: Any, given: Float[Tensor, " batch *dims"] | None) -> None:
        self._generator = generator
        self._given = given

    def draw(self, like: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        if self._given is not None:
            return self._given.to(like)
        return randn_tensor(like.shape, generator=self._generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class Plan:
    """A sampler's steps, and what the pipeline feeds its network at each."""

    sampler: Sampler[Any]
    steps: Sequence[Step]
    timesteps: Tensor
    labels: list[float]

    @classmethod
    def of(cls, sampler: Sampler[Any], grid: Grid, timesteps: Shaped[Tensor, " steps"]) -> Plan:
        """On a grid."""
        return cls(sampler, sampler.plan(grid), timesteps, timesteps.tolist())

    def index(self, timestep: Any) -> int | None:
        """The first step whose timestep this is."""
        label = float(torch.as_tensor(timestep, dtype=torch.float32).flatten()[0])
        return self.labels.index(label) if label in self.labels else None


@dataclass
class Desk:
    """What follows from a config: the model, what is carried, plans by what was asked for, and the one in use."""

    config: Mapping[str, Any]
    model: Answered
    carried: Carried
    plans: dict[Any, Plan] = field(default_factory=dict)
    plan: Plan | None = None


class Driven:
    """A scheduler whose steps are those of a sampler of ours. Configs are read late: pipelines replace them."""

    order = 1
    init_noise_sigma = 1.0
    timesteps: Tensor
    _internal_dict: Mapping[str, Any]
    _desk: Desk | None = None
    _request: Any = None
    _step_index: int | None = None
    _begin_index: int | None = None
    _state: Any = None

    def _desk_of(self, config: Mapping[str, Any]) -> Desk:
        raise NotImplementedError

    def _planned(self, desk: Desk, request: Any) -> Plan:
        raise NotImplementedError

    @property
    def _at_desk(self) -> Desk:
        """Made anew where the config is another."""
        if self._desk is None or self._desk.config is not self._internal_dict:
            self._desk = self._desk_of(self._internal_dict)
        return self._desk

    def _asked(self, request: Any) -> Plan:
        """The plan of a request, from now on the one in use."""
        desk = self._at_desk
        plan = desk.plans.get(request)
        if plan is None:
            if len(desk.plans) >= MOST_PLANS:
                desk.plans.clear()
            plan = desk.plans[request] = self._planned(desk, request)
        self._request, desk.plan = request, plan
        return plan

    def _begin(self, request: Any, device: Any) -> None:
        """A run to come."""
        plan = self._asked(request)
        self.timesteps = plan.timesteps.clone() if device is None else plan.timesteps.to(device, copy=True)
        self._step_index = self._begin_index = self._state = None

    @property
    def step_index(self) -> int | None:
        """Of the step to come; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Of the first step of a run."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin runs at a later step, as pipelines do that start from an image."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Float[Tensor, " batch *dims"], timestep: Any = None) -> Float[Tensor, " batch *dims"]:
        """The sample itself."""
        return sample

    def _place(self, plan: Plan, timestep: Any) -> int:
        """The index of a timestep, without waiting for an accelerator: by where it lies in `timesteps`, or the one to come."""
        expected = self._begin_index if self._step_index is None else self._step_index
        if isinstance(timestep, Tensor):
            if timestep.untyped_storage().data_ptr() == self.timesteps.untyped_storage().data_ptr():
                return int(timestep.storage_offset())
            if expected is not None and not timestep.is_cpu and expected < len(plan.steps):
                return expected
        elif expected is not None and expected < len(plan.steps) and plan.labels[expected] == timestep:
            return expected
        found = plan.index(timestep)
        if found is None and self._step_index is None:
            found = self._begin_index
        if found is None:
            raise InputError(
                f"timestep {timestep} is none of this run's {_shown(plan.labels)}; step through scheduler.timesteps, or call"
                " set_timesteps for another run"
            )
        return found

    def _taken(
        self, out: Tensor, timestep: Any, sample: Tensor, generator: Any, variance_noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(x_s, x0_hat) in the precision of the sample."""
        desk = self._at_desk
        plan = desk.plan or self._asked(self._request)
        index = self._place(plan, timestep)
        step = plan.steps[index]
        x_t = onto(sample, sample.device)
        prediction = desk.model.answer(onto(out, out.device), x_t, step.t)
        if index != self._step_index:
            self._state = plan.sampler.init(plan.steps, x_t)
        x_s, self._state = plan.sampler.step(x_t, step, self._state, Given(generator, variance_noise))
        self._step_index = index + 1
        return x_s.to(sample.dtype), prediction.x_0.to(sample.dtype)


def _shown(labels: Sequence[float]) -> str:
    """A few of them."""
    listed = [f"{label:g}" for label in labels]
    return ", ".join(listed if len(listed) <= 8 else [*listed[:4], "..", *listed[-2:]])
