"""What a sampling loop reports of each step, under the names that k-diffusion gave them.

A callback is given one dictionary per step, after the step and before the next:

    x           state before the step, (batch, *dims)
    x_s         state after it: the next step's x, or the samples
    i           number of the step, from 0
    sigma       sigma / alpha of the level the step starts from
    sigma_hat   sigma / alpha at which the network was first asked: above sigma where noise was added first
    denoised    x0_hat of the step's first network call, (batch, *dims), put together where a solver takes the batch in parts;
                None where the parts do not make up the batch
    t, s        the levels the step goes from and to
    indices     of the batch's samples, a range: which part of the whole set they are

so that the first x and every x_s are the whole path. The tensors are the sampler's own: copy them before writing to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import as_array
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import Noise

#: Told of every step; what it raises ends the run.
Callback = Callable[[dict[str, Any]], object]


@runtime_checkable
class Interval(Protocol):
    """What every step knows: where it starts and where it ends."""

    @property
    def t(self) -> Level: ...

    @property
    def s(self) -> Level: ...


class Reported:
    """A sampler's rule that tells a callback of each step.

    Args:
        model: whose answers are watched.
        take: the rule, (x_t, step, state, noise) -> (x_s, next state).
        indices: of the samples in the batch.
    """

    def __init__(
        self,
        model: ScoreModel,
        take: Callable[..., tuple[Float[Tensor, " batch *dims"], Any]],
        callback: Callback,
        indices: range,
    ) -> None:
        self._model = model
        self._take = take
        self._callback = callback
        self._indices = indices
        self._done = 0

    def __call__(
        self, x_t: Float[Tensor, " batch *dims"], step: Interval, state: Any, noise: Noise
    ) -> tuple[Float[Tensor, " batch *dims"], Any]:
        first = _FirstAnswers(len(x_t))
        with self._model.watched(first):
            x_s, state = self._take(x_t, step, state, noise)
        self._callback(
            {
                "x": x_t,
                "x_s": x_s,
                "i": self._done,
                "sigma": step.t.ratio,
                "sigma_hat": (first.level or step.t).ratio,
                "denoised": first.x_0,
                "t": step.t,
                "s": step.s,
                "indices": self._indices,
            }
        )
        self._done += 1
        return x_s, state


class _FirstAnswers:
    """The network's first answers for the rows of a batch, whether it is asked for all at once or part by part.

    A solver that takes a batch in parts starts each of them at one level; an answer there to the same question again is not
    the start of another part.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._answers: list[Prediction] = []

    def __call__(self, prediction: Prediction) -> None:
        if not self._answers or (self._missing > 0 and self._starts_a_part(prediction)):
            self._answers.append(prediction)

    @property
    def _missing(self) -> int:
        return self._rows - sum(len(answer.x_t) for answer in self._answers)

    def _starts_a_part(self, prediction: Prediction) -> bool:
        recent = self._answers[-1]
        same_level = np.array_equal(as_array(prediction.level.log_snr), as_array(recent.level.log_snr))
        return same_level and not torch.equal(prediction.x_t, recent.x_t)

    @property
    def level(self) -> Level | None:
        """Where the network was first asked, if it was."""
        return self._answers[0].level if self._answers else None

    @property
    def x_0(self) -> Float[Tensor, " batch *dims"] | None:
        """x0_hat of all rows, or None."""
        if self._missing:
            return None
        return self._answers[0].x_0 if len(self._answers) == 1 else torch.cat([answer.x_0 for answer in self._answers])
