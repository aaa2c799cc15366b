"""All steps of a sampler as one graph: nothing is decided between them, and the host is not asked.

x_0 = graph(x_T, z_1 .. z_n, conditions)       the plan's scalars and the time labels are constants of the graph

On CUDA the kernels of all K steps are recorded once as a CUDA graph and launched together ever after. With `fuse` the steps are
traced before, whatever Python they run through, to one list of tensor operations that torch.compile makes one program of:
there can be no graph break. The noise of all steps is drawn beforehand, from the same streams as step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import recording
from score_sde_analytic.checks import flag, settle
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.conditions import Conditions
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.receipt import unheard
from score_sde_analytic.process.noise import Noise
from score_sde_analytic.samplers.base import Sampler, Start, Step

Run = Callable[..., Tensor]
#: What torch says where a program cannot be traced: a number is read, or a part is compiled already.
UNTRACEABLE = ("tracing tensor", "dynamo", "Dynamo")


@dataclass(frozen=True, slots=True)
class WholeStep(Step):
    """All steps of a plan, and the graphs that were made of them."""

    steps: Sequence[Any]
    graphs: dict[Any, _Graph]


@dataclass(frozen=True)
class OneGraph(Sampler[WholeStep]):
    """Any sampler whose steps do not depend on what they find, all of them at once; `generate` and `carry` take it as it is.

    >>> from score_sde_analytic import grids
    >>> from score_sde_analytic.samplers import Heun, generate
    >>> grid = grids.even(3, 0.1)
    >>> torch.equal(generate(OneGraph(Heun(model)), grid, (2,), 5), generate(Heun(model), grid, (2,), 5))
    True

    A graph is for one grid and one size of batches: a smaller batch is filled up. Making it takes another run of the steps, two
    with `fuse`, which receipts count. Weights may change in place, not move. Callbacks see one step.

    Args:
        sampler: with as many calls as its grid says.
        fuse: compile all steps, the network in each of them, as one program: minutes for large networks. False for networks
            that are compiled themselves, and on the CPU, where it then does nothing at all.

    Raises:
        UnsupportedError: as it samples, a sampler that decides its steps by what it finds.
    """

    sampler: Sampler[Any]
    fuse: Annotated[bool, flag()] = False
    _plans: dict[Any, WholeStep] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        settle(self)

    @property
    def model(self) -> ScoreModel:  # type: ignore[override]
        return self.sampler.model

    @property
    def beginning(self) -> Start | None:  # type: ignore[override]
        return self.sampler.beginning

    @property
    def name(self) -> str:
        return self.sampler.name

    def config(self) -> dict[str, Any]:
        """That of the sampler: the samples are the same but for rounding."""
        return self.sampler.config()

    def with_model(self, model: ScoreModel) -> Self:
        same = model.schedule is self.model.schedule
        return replace(self, sampler=self.sampler.with_model(model), _plans=self._plans if same else {})

    def calls(self, grid: Grid) -> int | None:
        return self.sampler.calls(grid)

    def extra_calls(self, grid: Grid) -> int:
        return self.sampler.extra_calls(grid)

    def fingerprints(self, grid: Grid) -> list[Any]:
        return self.sampler.fingerprints(grid)

    def plan(self, grid: Grid) -> list[WholeStep]:
        if self.calls(grid) is None:
            raise UnsupportedError(f"{self.name} decides as it goes how many steps it takes: use a solver of fixed steps")
        if grid.times not in self._plans:
            steps = self.sampler.plan(grid)
            self._plans[grid.times] = WholeStep(steps[0].t, steps[-1].s, steps, {})
        return [self._plans[grid.times]]

    def step(
        self, x_t: Float[Tensor, " batch *dims"], step: WholeStep, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        if not (self.fuse or x_t.is_cuda):
            return _all(self.sampler, step.steps, x_t, noise), state
        rows = self.model.bound.rows
        key = (x_t.shape[1:], x_t.dtype, x_t.device, self.fuse, _settings(self.model))
        graph = step.graphs.get(key)
        if graph is None or graph.size < len(x_t):
            graph = step.graphs[key] = _Graph(self.sampler, step.steps, x_t, self.fuse)
        return graph(self.model, x_t, noise, rows), state


def _settings(model: ScoreModel) -> tuple[Any, ...]:
    """What makes a model another one, the rows of a batch apart."""
    kept = [(name, id(value)) for name, value in sorted(vars(model).items()) if name not in ("bound", "viewed")]
    constants = [(name, id(value)) for name, value in model.bound.constants.items()]
    rows = [(name, value.dtype, value.shape[1:]) for name, value in model.bound.rows.items()]
    return (*kept, *constants, *rows)


class _Graph:
    """The steps for batches of one size."""

    def __init__(self, sampler: Sampler[Any], steps: Sequence[Any], x: Tensor, fuse: bool) -> None:
        self.size = len(x)
        self._sampler = sampler
        self._steps = steps
        rows = sampler.model.bound.rows
        counted = _Counted()
        with sampler.model.metered() as self._cost:
            _all(sampler, steps, x, counted)
        self._draws = counted.draws
        inputs = [x, x.new_zeros(self._draws, *x.shape), *rows.values()]
        run = _fused(self._run, inputs) if fuse else self._run
        self._replay = _Recorded(run, inputs, sampler.name) if x.is_cuda else run

    def __call__(self, model: ScoreModel, x: Tensor, noise: Noise, rows: Mapping[str, Tensor]) -> Tensor:
        count = len(x)
        z = x.new_empty(self._draws, self.size, *x.shape[1:])
        for draw in z:
            draw[:count] = noise.draw(x)
        if count < self.size:
            z[:, count:] = 0.0
            places = torch.arange(self.size, device=x.device) % count
            x, rows = x[places], {name: value[places] for name, value in rows.items()}
        with unheard():
            x_0 = self._replay(x, z, *rows.values())
        model.pay(self._cost)
        return x_0[:count]

    def _run(self, x: Tensor, z: Tensor, *rows: Tensor) -> Tensor:
        """The samples of x_T, of the draws of all steps and of conditions."""
        sampler, model = self._sampler, self._sampler.model
        if rows:
            bound = Conditions(dict(zip(model.bound.rows, rows, strict=True)), model.bound.constants)
            sampler = sampler.with_model(model.on(bound))
        return _all(sampler, self._steps, x, _Drawn(z))


def _all(sampler: Sampler[Any], steps: Sequence[Any], x: Tensor, noise: Noise) -> Tensor:
    """The end of all steps, one by one."""
    state = sampler.init(steps, x)
    for step in steps:
        x, state = sampler.step(x, step, state, noise)
    return x


class _Counted:
    """No noise, and how often it was asked for."""

    draws = 0

    def draw(self, like: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        self.draws += 1
        return torch.zeros_like(like)


class _Drawn:
    """Draws that were made beforehand, in order."""

    def __init__(self, z: Tensor) -> None:
        self._draws = iter(z.unbind())

    def draw(self, like: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        return next(self._draws).to(like)


def _fused(run: Run, inputs: Sequence[Tensor]) -> Run:
    """One program of all operations.

    Raises:
        UnsupportedError: one depends on a number that another found.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # which takes its time

    try:
        with recording():
            traced = make_fx(run, _allow_non_fake_inputs=True)(*inputs)
    except RuntimeError as error:
        if not any(mark in str(error) for mark in UNTRACEABLE):
            raise
        raise UnsupportedError(
            "the steps are no one graph of operations: a number decides what comes next, or a part is compiled already"
            f" ({error}); leave fuse out"
        ) from error
    return torch.compile(traced, fullgraph=True, dynamic=False)


class _Recorded:
    """A function as a CUDA graph, with places of its own for what it is given.

    Raises:
        UnsupportedError: it waits for the host, or sends it something.
    """

    def __init__(self, run: Run, inputs: Sequence[Tensor], name: str) -> None:
        self._inputs = [value.clone() for value in inputs]
        self._graph = torch.cuda.CUDAGraph()
        device = inputs[0].device
        with torch.cuda.device(device), unheard():
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(aside):  # kernels are chosen and compiled at their first call
                run(*self._inputs)
            torch.cuda.current_stream(device).wait_stream(aside)
            try:
                with recording(), torch.cuda.graph(self._graph):
                    self._output = run(*self._inputs)
            except RuntimeError as error:
                raise UnsupportedError(
                    f"{name} cannot be recorded: its steps wait for the host, or copy from there ({error}); use it step by step"
                ) from error

    def __call__(self, *inputs: Tensor) -> Tensor:
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value, non_blocking=True)
        self._graph.replay()
        return self._output.clone()
