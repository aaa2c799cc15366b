"""The sampler interface and the only sampling loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.covariance import StepCovariance
from score_sde_analytic.grid import Grid
from score_sde_analytic.kernel import Kernel
from score_sde_analytic.model import ScoreModel
from score_sde_analytic.noise import Noise, SampleNoise
from score_sde_analytic.schedule import Level, Schedule


@dataclass(frozen=True, slots=True)
class Step:
    """One step from level t to level s, with its coefficients as Python floats."""

    t: Level
    s: Level
    kernel: Kernel
    covariance: StepCovariance
    noisy: bool


class Sampler(ABC):
    """A rule x_t -> x_s; state is passed along, never stored, so one sampler serves many runs at once."""

    model: ScoreModel

    @abstractmethod
    def plan(self, grid: Grid) -> list[Step]:
        """Everything about the steps that does not depend on x."""

    def init(self, x: Tensor) -> Any:
        """State before the first step."""
        return None

    @abstractmethod
    def step(self, x_t: Tensor, step: Step, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """(x_s, next state)."""


@torch.no_grad()
def run(
    sampler: Sampler, plan: Sequence[Step], x: Tensor, noise: Noise, progress: bool = False, desc: str = "sample"
) -> Tensor:
    """Carry x, a draw of x_T, through all steps to data.

    Raises:
        RuntimeError: the result is not finite.
    """
    state = sampler.init(x)
    for step in tqdm(plan, desc=desc, unit="step", leave=False, disable=not progress):
        x, state = sampler.step(x, step, state, noise)
    if not torch.isfinite(x).all():
        raise RuntimeError("the samples hold NaN or inf: the network diverged on this grid; clamp x_0 or use more steps")
    return x


def prior_sample(schedule: Schedule, noise: Noise, like: Tensor) -> Tensor:
    """x_T ~ N(0, prior_variance I)."""
    return noise.draw(like) * schedule.prior_variance**0.5


def generate(
    sampler: Sampler,
    grid: Grid,
    shape: Sequence[int],
    count: int,
    seed: int = 0,
    batch_size: int = 64,
    first_index: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> Tensor:
    """`count` samples (count, *shape), each a function of (seed, its index) whatever the batch size.

    Args:
        first_index: index of the first sample; continue a set by starting where it ended.
        progress: show a progress bar over steps and batches.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"count and batch_size must be positive, got {count} and {batch_size}")
    if grid.times[0] != 1.0:
        raise ValueError(
            f"samples start from the prior at t = 1, this grid at {grid.times[0]:.6g}; begin it with 1, or use run()"
        )
    plan, parts = sampler.plan(grid), []
    with tqdm(total=count, desc=f"sample K={grid.steps}", unit="sample", disable=not progress, leave=False) as bar:
        for start in range(0, count, batch_size):
            size = min(batch_size, count - start)
            noise = SampleNoise(seed, range(first_index + start, first_index + start + size), device)
            x = prior_sample(sampler.model.schedule, noise, torch.empty(size, *shape, device=device, dtype=dtype))
            parts.append(run(sampler, plan, x, noise))
            bar.update(size)
    return torch.cat(parts)
