"""The sampler interface and the only sampling loop.

A sampler is a rule x_t -> x_s along the steps of a plan. Every run starts from a draw z of the noise of its samples, so that
equal seeds give equal starts to all samplers: x_T = z times the prior's standard deviation, or x_t at any level where a free
model's own flow carries z, for no network call. It ends in data by x0_hat at the grid's last noisy time (one call, counted)
unless the sampler says otherwise.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, Generic, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.arrays import all_finite, available, precise, slices
from score_sde_analytic.checks import each, whole
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.conditions import OfSamples, of_samples
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import dealt
from score_sde_analytic.process.gaussian import axpy
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise, SampleNoise
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers.callback import Callback, Reported
from score_sde_analytic.samplers.starts import Examples, Start, starts


@dataclass(frozen=True, slots=True)
class Step:
    """One step from level t to level s; samplers extend it by their coefficients, as Python floats."""

    t: Level
    s: Level

    @property
    def last(self) -> bool:
        """Whether it ends in the data, at time 0."""
        return self.s.sigma == 0.0


S = TypeVar("S", bound=Step)


class Sampler(ABC, Generic[S]):
    """A rule x_t -> x_s; state is passed along, never stored, so one sampler serves many runs at once."""

    model: ScoreModel
    #: What a run begins with unless it is told otherwise; None for the prior at t = 1.
    beginning: Start | None = None

    @property
    def name(self) -> str:
        """A label for tables and messages: the class with the settings that are not at their defaults.

        >>> from score_sde_analytic.samplers import Heun
        >>> Heun(model, s_churn=10.0).name
        'Heun(s_churn=10)'
        """
        return _label(self)

    def config(self) -> dict[str, Any]:
        """The sampler's settings as plain data, its model apart; a covariance is known by its class.

        >>> from score_sde_analytic.samplers import ProbabilityFlow
        >>> ProbabilityFlow(model).config()
        {'name': 'ProbabilityFlow', 'solver': 'euler', 'variable': 'log_snr', 'per_sample': True}
        """
        return _plain(self)

    def with_model(self, model: ScoreModel) -> Self:
        """The same rule for a view of its model, such as that for one batch.

        >>> from score_sde_analytic.samplers import Heun
        >>> Heun(model).with_model(model.unclamped()).name
        'Heun()'
        """
        if model is self.model:
            return self
        other = copy.copy(self)
        object.__setattr__(other, "model", model)  # of a frozen sampler as well
        return other

    @abstractmethod
    def calls(self, grid: Grid) -> int | None:
        """Network calls of a run on this grid; None where the solver decides as it goes."""

    def extra_calls(self, grid: Grid) -> int:
        """Network calls and vector products per sample beyond `calls`, of a covariance that asks the network itself."""
        return 0

    def fingerprints(self, grid: Grid) -> list[Any]:
        """Plain data that identify the covariances of its steps, which `config` knows by their class alone."""
        return []

    @abstractmethod
    def plan(self, grid: Grid) -> Sequence[S]:
        """Everything about the steps that does not depend on x."""

    def init(self, plan: Sequence[S], x: Float[Tensor, " batch *dims"]) -> Any:
        """State before the first step."""
        return None

    @abstractmethod
    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: S, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        """(x_s, next state)."""


def _settings(value: Any) -> list[Field[Any]]:
    return [f for f in fields(value) if f.init and f.name != "model"] if is_dataclass(value) else []


def _is_composite(value: Any) -> bool:
    """Whether plain data can tell it: a part of a sampler, or settings such as a solver's tolerances."""
    return isinstance(value, Sampler) or (
        is_dataclass(value) and all(_is_scalar(part) for f in _settings(value) for part in _parts(getattr(value, f.name)))
    )


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _parts(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else [value]


def _plain(value: Any) -> Any:
    if _is_scalar(value):
        return value
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if not _is_composite(value):
        return type(value).__name__
    return {"name": type(value).__name__} | {f.name: _plain(getattr(value, f.name)) for f in _settings(value)}


def _label(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if _is_scalar(value):
        return str(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_label, value))})"
    if not _is_composite(value):
        return type(value).__name__
    changed = [f"{f.name}={_label(v)}" for f in _settings(value) if (v := getattr(value, f.name)) != f.default]
    return f"{type(value).__name__}({', '.join(changed)})"


def from_noise(
    prediction: Prediction, s: Level, z: Float[Tensor, " batch *dims"] | None = None
) -> Float[Tensor, " batch *dims"]:
    """alpha_s x0_hat + sigma_s z: the exact first-order step from pure noise, whatever is integrated in.

    >>> from score_sde_analytic import RectifiedFlow
    >>> prediction = mixture.score_model(RectifiedFlow())(torch.ones(1, 2), 1.0)
    >>> torch.allclose(from_noise(prediction, Level(0.5, 0.5, 0.5, 0.0)), 0.5 * prediction.x_0 + 0.5)
    True

    Args:
        z: fresh noise, as where all is forgotten; None for the noise x_t / sigma_t that there is, as on the flow.
    """
    if z is None:
        return prediction.combine(s.sigma / prediction.level.sigma, s.alpha)
    return axpy(s.alpha * prediction.x_0, z, s.sigma)


def intervals(schedule: Schedule, grid: Grid) -> list[Step]:
    """The grid's steps, the last of them to the data.

    >>> from score_sde_analytic import grids
    >>> [(step.t.t, step.s.t, step.last) for step in intervals(model.schedule, grids.even(2, 0.1))]
    [(1.0, 0.1, False), (0.1, 0.0, True)]
    """
    return [Step(t, s) for t, s in pairwise(grid.levels(schedule))]


@torch.no_grad()
def carry(
    sampler: Sampler[S],
    plan: Sequence[S],
    x: Float[Tensor, " batch *dims"],
    noise: Noise,
    progress: bool = False,
    desc: str = "sample",
    callback: Callback | None = None,
    first_index: int = 0,
) -> Float[Tensor, " batch *dims"]:
    """Carry x, a draw of x_T, through all steps to data.

    >>> from score_sde_analytic import grids
    >>> from score_sde_analytic.samplers import Heun
    >>> sampler, noise = Heun(model), SampleNoise(0, range(3))
    >>> carry(sampler, sampler.plan(grids.even(2, 0.1)), torch.zeros(3, 2), noise).shape
    torch.Size([3, 2])

    Args:
        x: in the dtype that the samples shall have; steps are taken in float32 or better.
        callback: told of every step (`callback.py`); what it raises ends the run.
        first_index: index of the first sample, which only a callback is told.

    Raises:
        RunError: the result is not finite.
    """
    take: Callable[[Tensor, S, Any, Noise], tuple[Tensor, Any]] = sampler.step
    if callback is not None:
        take = Reported(sampler.model, sampler.step, callback, range(first_index, first_index + len(x)))
    dtype, x = x.dtype, precise(x)  # in half precision sums of steps would round step by step
    state = sampler.init(plan, x)
    for step in tqdm(plan, desc=desc, unit="step", leave=False) if progress else plan:  # a hidden bar takes its time too
        x, state = take(x, step, state, noise)
    x = x.to(dtype)
    if not all_finite(x):
        raise RunError(
            f"the samples of {sampler.name} hold NaN or inf: it diverged on this grid; use more steps, a grid that takes"
            " smaller ones where the samples grew, or clamp x_0"
        )
    return x


def prior_sample(
    schedule: Schedule,
    noise: Noise,
    like: Float[Tensor, " batch *dims"],
    start: Start | None = None,
    first: float = 1.0,
) -> Float[Tensor, " batch *dims"]:
    """x_T ~ N(0, prior_variance I), or x_t of a free model at time `first`, from the same draw.

    >>> from score_sde_analytic import VE
    >>> round(float(prior_sample(VE(), SampleNoise(0, [0]), torch.empty(1, 10_000)).std()))
    49
    """
    z = noise.draw(like)
    return z * schedule.prior_variance**0.5 if start is None else start.start(z, schedule.level(first))


def generate(
    sampler: Sampler[S],
    grid: Grid,
    shape: Sequence[int],
    count: int | range,
    seed: int = 0,
    batch_size: int = 64,
    conditions: OfSamples | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
    callback: Callback | None = None,
    start: Start | Examples | None = None,
) -> Float[Tensor, " n *shape"]:
    """`count` samples of the given shape, each a function of (seed, its index) whatever the batch size.

    >>> from score_sde_analytic import covariance, grids, samplers
    >>> sampler, grid = samplers.Ancestral(model, covariance.BetaTilde()), grids.even(2, 0.1)
    >>> x = generate(sampler, grid, shape=(2,), count=8, callback=lambda step: print(step["i"], f"{step['sigma']:.3f}"))
    0 152.167
    1 0.340

    Args:
        count: how many, or their indices: range(8, 12) goes on where a set of 8 ended.
        conditions: what samples are conditioned on, by the names of the network's arguments: a row per sample or a number for
            all, or what gives these for a range of indices.
        progress: show a progress bar over steps and batches.
        callback: called after each step of each batch with a dictionary of k-diffusion's "x", "i", "sigma", "sigma_hat" and
            "denoised", and of "x_s", "t", "s" and "indices" (`callback.py` says what they are); what it raises ends the run.
        start: a free model of the data, from whose x_t the grid may begin at any time; (x_0, log_snr), examples, a row per
            sample or what gives these for a range of indices, diffused to the level that the grid begins at (SDEdit); None for
            what the sampler begins with, the prior at t = 1 for all but tables.

    Raises:
        InputError: count or batch_size not positive, a grid that does not begin at t = 1 without a start, or where the
            examples do, or conditions or examples of another number of samples, or that are fixed for all.
        RunError: samples are not finite.
    """
    indices, device = _indices(count), available(device)
    seed, batch_size = whole(0)("seed", seed), whole(1)("batch_size", batch_size)
    shape = each(whole(1))("shape", shape)
    if not dtype.is_floating_point:
        raise InputError(f"samples are floating-point, got {dtype}; round them to levels afterwards (DataRange.index)")
    start = sampler.beginning if start is None else start
    start_of = starts(start, grid, sampler.model.schedule, indices, shape)
    plan = sampler.plan(grid)
    model_of = _models(sampler.model, conditions, indices, device)

    def draw(part: slice) -> Tensor:
        some = indices[part]
        noise = SampleNoise(seed, some, device, draws=1 + len(plan))
        like = torch.empty(len(some), *shape, device=device, dtype=dtype)
        x = prior_sample(sampler.model.schedule, noise, like, start_of(part), grid.times[0])
        batch = sampler.with_model(model_of(part).of_run(seed, some))
        return carry(batch, plan, x, noise, callback=callback, first_index=some[0])

    parts = slices(len(indices), batch_size)
    drawn = map(draw, parts) if callback is not None else dealt(sampler.model, draw, parts)  # every process tells its own
    samples = []
    with tqdm(total=len(indices), desc=f"sample K={grid.steps}", unit="sample", disable=not progress, leave=False) as bar:
        for x in drawn:
            samples.append(x.to(device))
            bar.update(len(x))
    return torch.cat(samples)


def _indices(count: int | range) -> range:
    if not isinstance(count, range):
        return range(whole(1)("count", count))
    if not len(count) or count.step != 1 or count[0] < 0:
        raise InputError(f"need the indices of at least one sample, one after the other from 0 on, got {count}")
    return count


def _models(
    model: ScoreModel, conditions: OfSamples | None, indices: range, device: torch.device | str
) -> Callable[[slice], ScoreModel]:
    """The model for some of the samples."""
    if callable(conditions):
        given = conditions
        return lambda part: model.asked(of_samples(given, indices[part]).to(device))
    return model.rows if conditions is None else model.asked(of_samples(conditions, indices).to(device)).rows
