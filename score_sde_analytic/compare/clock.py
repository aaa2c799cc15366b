"""Time of a run, and of the network calls in it alone; of several processes, each tells its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic import processes
from score_sde_analytic.models.model import ScoreModel

T = TypeVar("T")


def timed(run: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """(result, seconds): time of the GPU between two events, or the process's own time on a CPU, whoever else uses it."""
    if device.type != "cuda":
        start = time.process_time()
        result = run()
        return result, time.process_time() - start
    with torch.cuda.device(device):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        result = run()
        last.record()
        torch.cuda.synchronize()
    return result, first.elapsed_time(last) / 1e3


def described(device: torch.device) -> str:
    """What is told as the time of a run.

    >>> described(torch.device("cuda"))
    'CUDA events'
    """
    kind = "CUDA events" if device.type == "cuda" else f"CPU time, {torch.get_num_threads()} thread(s)"
    return kind if processes.count() == 1 else f"{kind}, the sum of {processes.count()} processes"


@torch.no_grad()
def bare_seconds(model: ScoreModel, like: Float[Tensor, " batch *dims"], calls: int) -> float:
    """Time of one network call on a batch like this, without anything around it; the median of so many after a first one."""
    level = model.schedule.level(0.5)
    seconds = [timed(lambda: model.called(like, level), like.device)[1] for _ in range(calls + 1)]
    return float(np.median(seconds[1:]))
