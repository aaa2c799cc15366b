"""Reference states x_t ~ q(x_t | x_0) of images that samples are compared with, and the noise that they are shown under.

The noise is a function of the sample and of the noise level alone, so that equal seeds give equal samples whatever the batch,
and a solver that asks twice about a level is answered about the same state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from score_sde_analytic.arrays import as_array
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.conditions import WAYS, Conditions
from score_sde_analytic.process.level import Level, finite
from score_sde_analytic.process.noise import SampleNoise, stream_seed

#: The condition that is the image, and that which says of which stream its noise is.
REFERENCE, STREAM = "reference", "reference_stream"
#: Levels closer than this in log-SNR are one.
RESOLUTION = 2.0**-16


def streams(seed: int, indices: Iterable[int]) -> Int64[Tensor, " batch"]:
    """The streams of the samples of a run: those that their first states are drawn from.

    >>> from score_sde_analytic.process.noise import stream_seed
    >>> bool(streams(3, range(5))[4] == stream_seed(3, 4))
    True
    """
    return torch.tensor([stream_seed(seed, i) for i in indices], dtype=torch.int64)


def shown(given: Conditions, x_t: Float[Tensor, " batch *dims"], level: Level, shared: bool) -> Float[Tensor, " batch *dims"]:
    """The reference states of a batch at its level, or at its levels.

    Args:
        given: conditions, the reference among them.
        shared: one draw of noise for all levels, that which the sample starts from, in place of a fresh one at each.

    Raises:
        InputError: no reference, or one of another shape than the states.

    >>> level = model.schedule.level(1e-9)
    >>> given = Conditions.of({"reference": torch.ones(2, 3)})
    >>> torch.allclose(shown(given, torch.zeros(2, 3), level, shared=False), torch.ones(2, 3), atol=0.1)
    True
    """
    if REFERENCE not in given.names:
        raise InputError(f"energies compare with a reference, an image per sample: {WAYS.format(REFERENCE)}")
    x_0 = given.arguments(len(x_t))[REFERENCE].to(x_t)
    if x_0.shape != x_t.shape:
        raise InputError(f"references are of the shape of the states, {tuple(x_t.shape)}, got {tuple(x_0.shape)}")
    own = _own(given, len(x_t))
    seeds = own if shared else [stream_seed(s, at) for s, at in zip(own, _marks(level, len(own)), strict=True)]
    return level.diffuse(x_0, SampleNoise.of_streams(seeds, x_t.device).draw(x_t))


def _own(given: Conditions, count: int) -> list[int]:
    """Streams of the samples; outside of a run those of the references, by their content."""
    rows = given.arguments(count)
    if STREAM in rows:
        return [int(s) for s in rows[STREAM].tolist()]
    return [_content(row) for row in rows[REFERENCE].detach().cpu()]


def _content(x_0: Tensor) -> int:
    return int.from_bytes(hashlib.blake2b(x_0.float().numpy().tobytes(), digest_size=8).digest(), "little") >> 1


def _marks(level: Level, count: int) -> list[int]:
    """Of the levels, a whole number each."""
    places: Any = as_array(finite(level.log_snr)) / RESOLUTION
    marks = [round(place) for place in places.ravel().tolist()]
    return marks * count if len(marks) == 1 else marks
