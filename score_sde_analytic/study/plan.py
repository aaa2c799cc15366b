"""A sampler on its grid, ready to be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.conditions import OfSamples
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.models.identity import weights_digest
from score_sde_analytic.samplers import Sampler, generate
from score_sde_analytic.samplers.starts import Examples


@dataclass(frozen=True)
class SamplingPlan:
    """Everything about samples but how many and which: `plan(count, seed)` draws them.

    Attributes:
        sampler: the rule x_t -> x_s.
        grid: its times.
        shape: of one sample.
        device, dtype: of samples.
        start: a free model of the data that they start from; None for the prior at t = 1.
        conditions: of samples, as `generate` takes them.
        examples: (x_0, log_snr), what they start from instead, diffused to the level that the grid begins at.
        reason: why this sampler, in words, and what it took to know; empty where it was asked for by name.

    >>> study.sampler(steps=10)(count=3).shape
    torch.Size([3, 2])
    """

    sampler: Sampler[Any]
    grid: Grid
    shape: tuple[int, ...]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    start: FreeModel | None = None
    reason: str = ""
    conditions: OfSamples | None = None
    examples: Examples | None = None

    @property
    def calls(self) -> int | None:
        """Network calls per sample; None where the solver decides as it goes."""
        return self.sampler.calls(self.grid)

    @property
    def beginning(self) -> dict[str, Any]:
        """What it starts from, as plain data that identify it; nothing of the prior."""
        if self.examples is not None:
            x_0, log_snr = self.examples
            return {"start": {"examples": weights_digest({"x_0": x_0}), "log_snr": log_snr}}
        return {} if self.start is None else {"start": self.start.config()}

    def __call__(self, count: int | range, seed: int = 0, batch_size: int = 64, **options: Any) -> Float[Tensor, " n *dims"]:
        """`count` samples, or those of some indices; options are those of `generate`, such as conditions."""
        start = self.start if self.examples is None else self.examples
        settings = {"device": self.device, "dtype": self.dtype, "start": start, "conditions": self.conditions} | options
        return generate(self.sampler, self.grid, self.shape, count, seed, batch_size, **settings)
