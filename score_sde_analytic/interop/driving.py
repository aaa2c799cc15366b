"""Our samplers one step at a time, driven by a pipeline that calls the network itself.

A pipeline asks for a run, `set_timesteps`, feeds its network each of `timesteps`, and hands `step` what that said. Here a run
is a plan of one of our samplers, whose model repeats the answer. Plans are kept: the same run again costs a look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
from score_sde_analytic.samplers.starts import Start

#: Plans that are kept.
MOST_PLANS = 32


class Answered(ScoreModel):
    """A model whose network somebody else has called: it predicts what that said."""

    prediction: Prediction

    def __init__(self, schedule: Schedule, predicts: Quantity, clamp: Clamp | None = None) -> None:
        super().__init__(_uncalled, schedule, predicts, clamp=clamp, fingerprint="of a pipeline")

    def answer(self, out: Float[Tensor, " batch *outs"], x_t: Float[Tensor, " batch *dims"], level: Level) -> Prediction:
        """What the network said of x_t; of twice its channels the second half is a learned range."""
        learned = None
        if out.shape != x_t.shape:
            if out.shape != (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:]):
                raise InputError(f"the network said {tuple(out.shape)} of a sample of shape {tuple(x_t.shape)}")
            out, learned = out.tensor_split(2, 1)
        said = Prediction(x_t, level, out, self.predicts, None, learned)  # type: ignore[arg-type]
        self.prediction = confined(said, self.clamp)
        return self.prediction

    def predict(self, x_t: Float[Tensor, " batch *dims"], level: Level, **conditions: Any) -> Prediction:
        return self.prediction


def _uncalled(*_: Any) -> Tensor:
    raise RunError("the network of a pipeline is called by the pipeline alone")


class Given:
    """Noise that a pipeline gives, or that its generators draw: one for the batch, or one per sample."""

    def __init__(self, generator: Any, given: Float[Tensor, " batch *dims"] | None) -> None:
        self._generator = generator
        self._given = given

    def draw(self, like: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        if self._given is not None:
            return self._given.to(like)
        return randn_tensor(like.shape, generator=self._generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class Plan:
    """A sampler's steps, and what the pipeline feeds its network at each.

    Attributes:
        labels: the timesteps as numbers.
        start: what carries z to the first state; None where z is it.
        sigmas: what else a scheduler shows.
    """

    sampler: Sampler[Any]
    steps: Sequence[Step]
    timesteps: Tensor
    labels: list[float]
    start: Start | None = None
    sigmas: Tensor | None = None

    @classmethod
    def of(
        cls,
        rule: tuple[Sampler[Any], Start | None],
        grid: Grid,
        timesteps: Shaped[Tensor, " steps"],
        sigmas: Float[Tensor, " levels"] | None = None,
    ) -> Plan:
        """Of a sampler, and what its runs begin with, on a grid."""
        sampler, start = rule
        steps = sampler.plan(getattr(sampler, "grid", grid))
        plain = getattr(start, "starts_from_noise", False) and abs(steps[0].t.norm - 1.0) < 1e-12
        return cls(sampler, steps, timesteps, timesteps.tolist(), None if plain else start, sigmas)

    def begun(self, index: int, x: Float[Tensor, " batch *dims"]) -> Any:
        """The sampler's state before a step.

        Raises:
            InputError: a table in the middle of its run.
        """
        if index > 0 and self.sampler.beginning is not None:
            raise InputError(
                f"{self.sampler.name} weighs all of its calls and cannot begin with call {index + 1}; start at the first"
                " timestep (strength=1), or ask for a number of steps without a table"
            )
        return self.sampler.init(self.steps[index:], x)


@dataclass
class Desk:
    """What follows from a config: the model, what is carried, plans by what was asked for, and the one in use."""

    config: Mapping[str, Any]
    model: Answered
    carried: Carried
    plans: dict[Any, Plan] = field(default_factory=dict)
    plan: Plan | None = None


class Driven:
    """A scheduler whose steps are those of a sampler. Configs are read late: pipelines replace them."""

    order = 1
    init_noise_sigma = 1.0
    timesteps: Tensor
    _internal_dict: Mapping[str, Any]
    _kept: Desk | None = None
    _request: Any = None
    _step_index: int | None = None
    _begin_index: int | None = None
    _state: Any = None
    _shape: tuple[int, ...] = ()
    _started = False

    def _desk_of(self, config: Mapping[str, Any]) -> Desk:
        raise NotImplementedError

    def _planned(self, desk: Desk, request: Any) -> Plan:
        """None stands for a run that was not asked for: one over all timesteps of the training."""
        raise NotImplementedError

    @property
    def _desk(self) -> Desk:
        """Made anew where the config is another."""
        if self._kept is None or self._kept.config is not self._internal_dict:
            self._kept = self._desk_of(self._internal_dict)
        return self._kept

    def _plan(self, desk: Desk) -> Plan:
        return desk.plan or self._asked(desk, self._request)

    def _asked(self, desk: Desk, request: Any) -> Plan:
        """The plan of a request, from now on the one in use."""
        plan = desk.plans.get(request)
        if plan is None:
            if len(desk.plans) >= MOST_PLANS:
                desk.plans.clear()
            plan = desk.plans[request] = self._planned(desk, request)
        self._request, desk.plan = request, plan
        return plan

    def _begin(self, request: Any, device: Any) -> Plan:
        """A run to come."""
        plan = self._asked(self._desk, request)
        self.timesteps = plan.timesteps.clone() if device is None else plan.timesteps.to(device, copy=True)
        self._step_index = self._begin_index = self._state = None
        self._started = False
        return plan

    @property
    def step_index(self) -> int | None:
        """Of the step to come; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Of the first step of a run; None where its timestep tells."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin runs at a later step, as pipelines do that start from an image."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Float[Tensor, " batch *dims"], timestep: Any = None) -> Float[Tensor, " batch *dims"]:
        """The sample; before the first call of a run that begins elsewhere than with noise, the state that is made of it."""
        plan = self._plan(self._desk)
        if plan.start is None or (self._step_index or 0) > 0:
            return sample
        self._started = True
        return plan.start.start(sample, plan.steps[0].t)

    def _place(self, plan: Plan, timestep: Any) -> int:
        """The index of a timestep; an accelerator is not waited for.

        A part of `timesteps` tells by where it lies there; of others the next one is expected, and the rest are looked up.
        """
        expected = self._begin_index if self._step_index is None else self._step_index
        due = expected is not None and expected < len(plan.steps)
        if isinstance(timestep, Tensor):
            if timestep.untyped_storage().data_ptr() == self.timesteps.untyped_storage().data_ptr():
                return int(timestep.storage_offset())
            if due and not timestep.is_cpu:
                return expected  # type: ignore[return-value]
        label = _label(timestep)
        if due and plan.labels[expected] == label:  # type: ignore[index]
            return expected  # type: ignore[return-value]
        if label in plan.labels:
            return plan.labels.index(label)
        if due and self._step_index is None:
            return expected  # type: ignore[return-value]
        raise InputError(
            f"timestep {label:g} is none of this run's {_shown(plan.labels)}; step through scheduler.timesteps, or call"
            " set_timesteps for another run"
        )

    def _taken(
        self, out: Tensor, timestep: Any, sample: Tensor, generator: Any, variance_noise: Tensor | None
    ) -> tuple[Tensor, Prediction]:
        """(x_s, what the network said), in float32 or better."""
        desk = self._desk
        plan = self._plan(desk)
        index = self._place(plan, timestep)
        step = plan.steps[index]
        x_t = onto(sample, sample.device)
        if index == 0 and plan.start is not None:
            x_t = self._first(plan, x_t)
        if index != self._step_index:
            self._state, self._shape = plan.begun(index, x_t), x_t.shape
        elif x_t.shape != self._shape:
            raise InputError(
                f"samples of shape {tuple(x_t.shape)} cannot go on one of {tuple(self._shape)}; call set_timesteps"
            )
        prediction = desk.model.answer(onto(out, out.device), x_t, step.t)
        x_s, self._state = plan.sampler.step(x_t, step, self._state, Given(generator, variance_noise))
        self._step_index = index + 1
        return x_s, prediction

    def _first(self, plan: Plan, z: Tensor) -> Tensor:
        """The state that the network was shown.

        Raises:
            InputError: it was shown z.
        """
        if not self._started:
            raise InputError(
                f"{plan.sampler.name} begins with a first state that is made of noise in scale_model_input; this pipeline does"
                " not call that: ask for a number of steps without a solver of its own, or draw with Study.fewest(..)"
            )
        self._started = False
        assert plan.start is not None
        return plan.start.start(z, plan.steps[0].t)


def _label(timestep: Any) -> float:
    """A timestep as float32 has it; of a batch's, the first."""
    return float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(np.float32(timestep))


def _shown(labels: Sequence[float]) -> str:
    """A few of them."""
    listed = [f"{label:g}" for label in labels]
    return ", ".join(listed if len(listed) <= 8 else [*listed[:4], "..", *listed[-2:]])
