"""Training that can be interrupted: the learning rate's law, one step downhill, checkpoints, and the only loop.

Every random number of a step is a function of (seed, step), so an interrupted run continues to the identical result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from score_sde_analytic import processes
from score_sde_analytic.checks import number
from score_sde_analytic.declared import reading, require_arrays
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.files import differences, load_arrays, plain, save_arrays
from score_sde_analytic.interruption import save_points

KIND = "training state"
AFRESH = "delete it to train from the start"
#: What an optimiser may be told.
LEARNING_RATE = number(above=0.0, most=10.0)
WEIGHT_DECAY = number(0.0, 10.0)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """peak min(1, (step + 1) / warmup) (1 + cos(pi step / steps)) / 2: linear warm-up, then a cosine to zero.

    >>> learning_rate(50, 100, peak=1.0, warmup=10)
    0.5
    """
    return float(peak * min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * (step / steps))))


def descend(
    net: nn.Module, optimiser: torch.optim.Optimizer, loss: Float[Tensor, ""], rate: float, clip: float | None = 1.0
) -> float:
    """One step of the optimiser at this learning rate; returns the loss, its mean over all processes.

    Args:
        clip: largest norm of the gradient; None for any.

    Raises:
        RunError: the loss is not finite.
    """
    return descend_all([(net, optimiser)], [loss], rate, clip)[0]


def descend_all(
    trained: Sequence[tuple[nn.Module, torch.optim.Optimizer]],
    losses: Sequence[Float[Tensor, ""]],
    rate: float,
    clip: float | None = 1.0,
) -> list[float]:
    """`descend` of several networks, none of which moves before the gradients of all are there."""
    parts = processes.exchanged([loss.item() for loss in losses])
    values = [sum(each) / len(parts) for each in zip(*parts, strict=True)]
    for value in values:
        if not math.isfinite(value):
            raise RunError(f"the training loss became {value}; lower the learning_rate")
    for (_, optimiser), loss in zip(trained, losses, strict=True):
        optimiser.zero_grad()
        loss.backward()
    for net, optimiser in trained:
        optimiser.param_groups[0]["lr"] = rate
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimiser.step()
    return values


class Trainer(Protocol):
    """What the loop trains."""

    step: int

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    def advance(self) -> Mapping[str, float]:
        """One step; returns the losses by name."""
        ...

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished training run is kept.

    Attributes:
        path: its file.
        identity: plain data of what is trained on what.
        seconds: how often it is written.
    """

    path: Path
    identity: Mapping[str, Any]
    seconds: float = 60.0

    def write(self, state: Mapping[str, Any]) -> None:
        """Keep a state, atomically; the states of all processes are the same, and the first keeps it."""
        if processes.number():
            return
        arrays: dict[str, np.ndarray] = {}
        tree = _packed(state, arrays)
        save_arrays(self.path, arrays, {"kind": KIND, "identity": plain(self.identity), "state": tree})

    def read(self, device: torch.device | str) -> dict[str, Any] | None:
        """The state that was kept; None where there is none.

        Raises:
            InputError: a damaged file, or one of another run; the message says what differs.
        """
        if not self.path.exists():
            return None
        arrays, metadata = load_arrays(self.path, KIND, shape={"identity": dict, "state": dict}, cure=AFRESH)
        lines = differences(metadata["identity"], plain(self.identity))
        if lines:
            raise InputError(f"{self.path} belongs to another training run ({'; '.join(lines)}); use another --workdir")
        with self.reading():
            return dict(_unpacked(metadata["state"], arrays, device))

    def reading(self) -> AbstractContextManager[None]:
        """Restoring what was read: what it raises names the file."""
        return reading(self.path, AFRESH)


def _packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A tree of mappings, sequences, tensors and scalars as JSON; its tensors are put into `arrays`."""
    if isinstance(value, Tensor):
        name = str(len(arrays))
        arrays[name] = value.detach().cpu().numpy()
        return {"tensor": [name, " ".join(map(str, (arrays[name].dtype, *value.shape)))]}
    if isinstance(value, Mapping):
        return {"mapping": [[name, _packed(item, arrays)] for name, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_packed(item, arrays) for item in value]}
    return value


def _unpacked(value: Any, arrays: Mapping[str, np.ndarray], device: torch.device | str) -> Any:
    """What was packed; tuples are lists."""
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "tensor":
        name, declared = content
        require_arrays(arrays, {name: declared}, "the state", AFRESH)
        return torch.from_numpy(arrays[name]).to(device)
    if kind == "mapping":
        return {name: _unpacked(item, arrays, device) for name, item in content}
    return [_unpacked(item, arrays, device) for item in content]


def train(trainer: Trainer, checkpoint: Checkpoint | None, device: torch.device | str, title: str = "train") -> None:
    """Train to the end, from where the checkpoint stands; an interruption keeps the last whole step."""
    state = None if checkpoint is None else checkpoint.read(device)
    if state is not None:
        with checkpoint.reading():  # type: ignore[union-attr]
            trainer.restore(state)
    averages: dict[str, float] = {}
    with (
        tqdm(total=trainer.steps, initial=trainer.step, desc=title, unit="step") as bar,
        _save_points(trainer, checkpoint) as point,
    ):
        while trainer.step < trainer.steps:
            for name, loss in trainer.advance().items():
                averages[name] = 0.99 * averages.get(name, loss) + 0.01 * loss
            bar.set_postfix({name: f"{loss:.4f}" for name, loss in averages.items()}, refresh=False)
            bar.update()
            point()
    if checkpoint is not None:
        checkpoint.write(trainer.state())


def _save_points(trainer: Trainer, checkpoint: Checkpoint | None) -> AbstractContextManager[Callable[[], None]]:
    if checkpoint is None:
        return save_points(lambda: None, lambda: f"no checkpoint keeps the {trainer.step} steps", math.inf)
    return save_points(
        lambda: checkpoint.write(trainer.state()),
        lambda: f"{trainer.step} of {trainer.steps} steps are in {checkpoint.path}",
        checkpoint.seconds,
    )
