"""Noise that belongs to a sample, not to a batch: draw k of sample i is a function of (seed, i, k) alone.

Each sample owns a stream of a counter-based generator (`philox.py`), keyed by (seed, index), and takes one draw per step: a
sample is the same whatever batch it was drawn in and on whatever device, and needs no state but the number of draws taken.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import float64_place, sent
from score_sde_analytic.checks import number, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.gaussian import axpy, expand
from score_sde_analytic.process.level import finite
from score_sde_analytic.process.philox import HostDraws, drawn, normals

WHOLE, FINITE = whole(), number()


def stream_seed(*key: int) -> int:
    """A 63-bit seed from a tuple of integers; different tuples give independent streams.

    >>> stream_seed(0, 12), stream_seed(1, 2)
    (8925983003198993522, 5142973159532490859)
    """
    plain = tuple(number if type(number) is int else WHOLE("a seed", number) for number in key)
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=8).digest(), "little") >> 1


@runtime_checkable
class Noise(Protocol):
    """A source of standard normal draws, one per step."""

    def draw(self, like: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """N(0, I) in the shape, dtype and device of `like`; the tensor may be reused by the next draw."""
        ...


class SampleNoise:
    """Per-sample streams: row i of draw k depends on (seed, indices[i], k) only.

    >>> batch = SampleNoise(0, range(4)).draw(torch.empty(4, 2))
    >>> torch.equal(SampleNoise(0, [3]).draw(torch.empty(1, 2)), batch[3:])
    True

    Args:
        seed: non-negative integer.
        indices: global sample indices, one per row of the batch; or tuples that begin with one, for independent streams of
            the same sample.
        device: where the draws are made. The bits are the same everywhere (`philox.py`), float32 numbers within 6 units in
            the last place; a device without float64 is sent what the CPU draws.
        draws: how many are expected; the CPU makes several ahead, the same numbers faster.
    """

    def __init__(
        self, seed: int, indices: Iterable[int | tuple[int, ...]], device: torch.device | str = "cpu", draws: int = 1
    ) -> None:
        keys = (i if isinstance(i, tuple) else (i,) for i in indices)
        self._open([stream_seed(seed, *key) for key in keys], device, draws)

    @classmethod
    def of_streams(cls, seeds: Iterable[int], device: torch.device | str = "cpu") -> SampleNoise:
        """The streams of some seeds of `stream_seed`, one per row.

        >>> one, same = SampleNoise(0, [3]), SampleNoise.of_streams([stream_seed(0, 3)])
        >>> torch.equal(one.draw(torch.empty(1, 2)), same.draw(torch.empty(1, 2)))
        True
        """
        noise = cls.__new__(cls)
        noise._open(list(seeds), device, 1)
        return noise

    def _open(self, streams: list[int], device: torch.device | str, draws: int) -> None:
        self._streams, self._draws, self._taken = streams, draws, 0
        self._device = float64_place(torch.device(device))
        self._on_host = self._device.type == "cpu"
        self._host: HostDraws | None = None

    def draw(self, like: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        if like.shape[0] != len(self._streams):
            raise InputError(f"noise for {len(self._streams)} samples was asked for a batch of {len(like)}")
        self._taken += 1
        return self._draw(self._taken - 1, like.shape, _precision(like)).to(like)

    def _draw(self, k: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if torch.compiler.is_compiling():
            return normals(self._keys, k, math.prod(shape[1:]), dtype).reshape(shape)
        if not self._on_host:
            return drawn(self._keys, k, math.prod(shape[1:]), dtype).reshape(shape)
        if self._host is None or self._host.shape != shape or self._host.dtype != dtype:
            self._host = HostDraws(self._streams, shape, dtype, self._draws)
        return self._host.draw(k)

    @cached_property
    def _keys(self) -> Tensor:
        return sent(torch.tensor(self._streams, dtype=torch.int64), self._device)


#: Distance in log-SNR over which `LevelNoise` forgets.
KNOTS = 1.0


class LevelNoise:
    """Per-sample noise as a continuous function of log-SNR: common random numbers for whatever levels are asked for.

    eps(lam) = cos(p) z_i + sin(p) z_{i+1},   p = pi/2 (lam / KNOTS - i),   i = floor(lam / KNOTS),   z_i ~ N(0, I) independent

    so eps is N(0, I) at every level, nearly the same at neighbouring levels, and independent at levels 2 KNOTS apart.

    >>> noise, x = LevelNoise(0, [(0,)]), torch.empty(1, 4000)
    >>> [round(float((noise.at(0.0, x) * noise.at(level, x)).mean()), 1) for level in (0.1, 1.0, 2.0)]
    [1.0, 0.0, 0.0]

    Args:
        seed: non-negative integer.
        keys: one tuple of integers per sample; z_i of a sample is a function of (seed, its key, i).
    """

    def __init__(self, seed: int, keys: Sequence[tuple[int, ...]], device: torch.device | str = "cpu") -> None:
        self._seed = seed
        self._keys = keys
        self._device = device
        self._recent: dict[int, Tensor] = {}

    def at(
        self, log_snr: float | Float[Tensor, " batch"], like: Float[Tensor, " batch *dims"]
    ) -> Float[Tensor, " batch *dims"]:
        """eps at one level, or at one level per sample, in the shape, dtype and device of `like`."""
        if isinstance(log_snr, Tensor) and log_snr.ndim:
            return self._each(finite(log_snr.double().cpu()) / KNOTS, like)
        log_snr = FINITE("log-SNR", finite(log_snr))
        knot = math.floor(log_snr / KNOTS)
        angle = 0.5 * math.pi * (log_snr / KNOTS - knot)
        # Levels are visited in order: a knot serves many of them.
        self._recent = {i: self._recent[i] if i in self._recent else self._draw([i], like) for i in (knot, knot + 1)}
        return axpy(math.cos(angle) * self._recent[knot], self._recent[knot + 1], math.sin(angle)).to(like)

    def _each(self, position: Tensor, like: Tensor) -> Tensor:
        knots = position.floor().long()
        angle = 0.5 * math.pi * (position - knots)
        first, second = (self._draw((knots + i).tolist(), like) for i in (0, 1))
        return (expand(angle.cos(), first) * first + expand(angle.sin(), second) * second).to(like)

    def _draw(self, knots: Sequence[int], like: Tensor) -> Tensor:
        """z of one knot per sample, or of one for all."""
        each = knots if len(knots) == len(self._keys) else list(knots) * len(self._keys)
        keys = [(*key, knot) for key, knot in zip(self._keys, each, strict=True)]
        return SampleNoise(self._seed, keys, self._device).draw(like)


class BatchNoise:
    """One generator for the whole batch: the fastest source, whose samples depend on the batch size."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self._generator = torch.Generator(device).manual_seed(stream_seed(seed))
        self._z = torch.empty(0, device=device)

    def draw(self, like: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        dtype = _precision(like)
        if self._z.shape != like.shape or self._z.dtype != dtype:
            self._z = torch.empty(like.shape, dtype=dtype, device=self._generator.device)
        return self._z.normal_(generator=self._generator).to(like)


def _precision(like: Tensor) -> torch.dtype:
    """Half precision draws are rounded float32 draws, so that precision does not change the stream."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32
