"""Normal draws of Philox4x64-10 (Salmon, Moraes, Dror, Shaw, SC'11): every number is a function of a key and a counter.

A stream's draw k of n numbers has ceil(n / 2) pairs, made of as many radii and angles by Box and Muller:

    r = sqrt(-2 log u),   z = r cos a, r sin a,   u in (0, 1], a in [-pi, pi]

Key (stream, 2n + [float64]), counters from 1 + 2hk on: h blocks of four words for the radii, then h for the angles. A word
makes two 32-bit integers, the low one first, or one of 64 bits in float64; an integer i of b bits is u = |i + 1/2| / 2^(b-1)
and a = pi i / 2^(b-1). So float32 reaches 6.66 standard deviations, and float64 9.42.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from threading import local
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.arrays import slices
from score_sde_analytic.extras import installed

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
LOW = 0xFFFFFFFF
#: Most draws, and numbers in them, that the CPU makes at a time: a call costs as much as hundreds of numbers.
AHEAD, NUMBERS = 16, 2**18
#: Numbers that are worked on at a time, so that they stay in the cache.
PART = 3 * 2**15
#: More streams than FEW, of fewer blocks than BLOCKS each, are faster all at once than one by one.
FEW, BLOCKS = 200, 16


def signed(word: int) -> int:
    """The 64-bit word as int64 holds it.

    >>> signed(2**64 - 1)
    -1
    """
    return (word + 2**63) % 2**64 - 2**63


def kind(n: int, dtype: torch.dtype) -> int:
    """Second word of the key: what the draws of a stream hold."""
    return 2 * n + (dtype == torch.float64)


def half(n: int, dtype: torch.dtype) -> int:
    """h, blocks of a draw's radii."""
    return -(-n // (8 if dtype == torch.float64 else 16))


def _words(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The four words of each block, as int64, of the four of its counter and the two of its key, which are broadcast.

    >>> zero = torch.tensor(0)
    >>> hex(_words([zero] * 4, [zero] * 2)[0])
    '0x16554d9eca36314c'
    """
    (a, b, c, d), (first, second) = counter, key
    for i in range(ROUNDS):
        (high_a, low_a), (high_c, low_c) = _product(a, MULTIPLIERS[0]), _product(c, MULTIPLIERS[1])
        a, c = high_c ^ b ^ (first + signed(i * WEYL[0])), high_a ^ d ^ (second + signed(i * WEYL[1]))
        b, d = low_c, low_a
    return a, b, c, d


def blocks(streams: Int64[Tensor, " ..."], second: int, at: Int64[Tensor, " ..."]) -> Int64[Tensor, "... 4"]:
    """The blocks at some places of streams, which are broadcast."""
    none = torch.zeros_like(at)
    made = _words((at, none, none, none), (streams, at.new_full((), second)))
    return torch.stack(torch.broadcast_tensors(*made), -1)


def _product(x: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """High and low word of x m, both unsigned, by halves."""
    high, low = x >> 32 & LOW, x & LOW
    outer, inner = high * (m & LOW), low * (m >> 32)
    carried = (low * (m & LOW) >> 32 & LOW) + (outer & LOW) + (inner & LOW)
    return high * (m >> 32) + (outer >> 32 & LOW) + (inner >> 32 & LOW) + (carried >> 32), x * signed(m)


def normals(
    streams: Int64[Tensor, " batch"], k: int | Int64[Tensor, ""], n: int, dtype: torch.dtype
) -> Float[Tensor, " batch n"]:
    """Draw k of every stream on its device, by operations that a compiler fuses; in float32 or float64.

    Float32 draws are rounded from float64, within 6 units in the last place of what the CPU draws by `HostDraws`.

    >>> normals(torch.tensor([3, 5]), 0, 4, torch.float32).shape
    torch.Size([2, 4])
    """
    h, pairs = half(n, dtype), -(-n // 2)
    counter = torch.arange(2 * h, device=streams.device).reshape(2, 1, h) + (1 + 2 * h * k)
    integers = blocks(streams[:, None], kind(n, dtype), counter)
    if dtype != torch.float64:
        integers = torch.stack((integers << 32 >> 32, integers >> 32), -1)
    radii, angles = integers.flatten(2)[..., :pairs].to(dtype).unbind()
    r, *ways = _polar(radii, angles, 64 if dtype == torch.float64 else 32)
    return torch.cat([r * way for way in ways], 1)[:, :n].to(dtype)


def _polar(radii: Tensor, angles: Tensor, bits: int) -> tuple[Tensor, ...]:
    """r, cos a and sin a in float64."""
    r = ((radii + 0.5).abs() * 2.0 ** (1 - bits)).double().log().mul(-2.0).sqrt()
    a = (angles * (math.pi * 2.0 ** (1 - bits))).double()
    return r, a.cos(), a.sin()


def drawn(streams: Int64[Tensor, " batch"], k: int, n: int, dtype: torch.dtype) -> Float[Tensor, " batch n"]:
    """`normals`, as one kernel on devices that a compiler knows; the host does not wait."""
    if streams.device.type != "cuda" or not installed("triton"):
        return normals(streams, k, n, dtype)
    rows = 1 << (len(streams) - 1).bit_length()  # few kernels serve all sizes of batches
    padded = torch.nn.functional.pad(streams, (0, rows - len(streams)))
    return _compiled(rows, n, dtype, streams.device)(padded, torch.full((), k, device=streams.device))[: len(streams)]


@cache
def _compiled(rows: int, n: int, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """`normals` of so many streams and numbers, as one kernel; made at the first call."""
    from torch.fx.experimental.proxy_tensor import make_fx  # which takes its time

    examples = torch.zeros(rows, dtype=torch.int64, device=device), torch.zeros((), dtype=torch.int64, device=device)
    operations = make_fx(lambda streams, k: normals(streams, k, n, dtype))(*examples)
    return torch.compile(operations, dynamic=False)


class HostDraws:
    """The same draws on the CPU, several at a time.

    >>> streams = [3, 5]
    >>> found, same = HostDraws(streams, (2, 4), torch.float32).draw(7), normals(torch.tensor(streams), 7, 4, torch.float32)
    >>> torch.allclose(found, same, rtol=1e-6, atol=0.0)
    True

    Args:
        streams: first words of the keys, one per row.
        shape: (batch, *dims) of a draw.
        dtype: float32 or float64.
        draws: those before this one are made ahead.
    """

    def __init__(self, streams: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype, draws: int = 1) -> None:
        self.shape, self.dtype = shape, dtype
        self._streams, self._draws = streams, draws
        self._n = math.prod(shape[1:])
        self._half = half(self._n, dtype)
        self._most = max(1, min(AHEAD, NUMBERS // max(1, len(streams) * self._n)))
        self._room = _Room()
        self._first = 0
        self._made: tuple[Tensor, ...] = ()

    def draw(self, k: int) -> Float[Tensor, " batch *dims"]:
        """Draw k; what it lies in is used again."""
        if not 0 <= k - self._first < len(self._made):
            made = self._normals(k, max(1, min(self._draws - k, self._most)))
            self._first, self._made = k, made.reshape(len(made), *self.shape).unbind()
        return self._made[k - self._first]

    def _normals(self, k: int, draws: int) -> Tensor:
        """(draws, batch, n); some rows at a time, that stay in the cache from one operation to the next."""
        z = self._room("z", (draws, len(self._streams), self._n), KINDS[self.dtype][1])
        for rows in slices(len(self._streams), max(1, PART // max(1, draws * self._n))):
            self._fill(z[:, rows], self._integers(self._streams[rows], k, draws))
        return torch.from_numpy(z)

    def _fill(self, z: NDArray[Any], integers: NDArray[Any]) -> None:
        """z of some rows."""
        r, *ways = POLAR[self.dtype](integers)
        pairs = r.shape[-1]
        np.multiply(r, ways[0], out=z[..., :pairs])
        np.multiply(r[..., : self._n - pairs], ways[1][..., : self._n - pairs], out=z[..., pairs:])

    def _integers(self, streams: Sequence[int], k: int, draws: int) -> NDArray[Any]:
        """(2, draws, rows, pairs), of the radii and of the angles, rounded to the floats of the draws."""
        rows, blocks, (integer, floating) = len(streams), 2 * self._half * draws, KINDS[self.dtype]
        fill = _all_at_once if rows > FEW and blocks < BLOCKS else ONE_BY_ONE
        words = fill(streams, kind(self._n, self.dtype), 2 * self._half * k, blocks).view(integer)
        made = SCRATCH("integers", (2, draws, rows, -(-self._n // 2)), floating)
        made[...] = words.reshape(rows, draws, 2, -1)[..., : made.shape[-1]].transpose(2, 1, 0, 3)
        return made


class _Room(local):
    """A thread's arrays that are filled again and again: memory that is new costs more than the numbers in it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, type], NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        size, key = math.prod(shape), (name, dtype)
        if key not in self._kept or self._kept[key].size < size:
            self._kept[key] = np.empty(size, dtype)
        return self._kept[key][:size].reshape(shape)


#: What is not needed beyond the numbers that are worked on at a time.
SCRATCH = _Room()


class _OneByOne(local):
    """Words of streams, (rows, 4 blocks) of the blocks after `counter`, by numpy's compiled generator: a call for each."""

    def __init__(self) -> None:
        self._generator = np.random.Philox(key=0)
        # Python's integers are read faster than those of arrays.
        self._place: dict[str, Sequence[int]] = {}
        self._state: Any = {**self._generator.state, "state": self._place, "buffer": (0, 0, 0, 0)}

    def __call__(self, streams: Sequence[int], second: int, counter: int, blocks: int) -> NDArray[np.uint64]:
        words = SCRATCH("words", (len(streams), 4 * blocks), np.uint64)
        self._place["counter"] = counter, 0, 0, 0
        for row, first in zip(words, streams, strict=True):
            self._place["key"] = first, second
            self._generator.state = self._state
            row[:] = self._generator.random_raw(4 * blocks)
        return words


ONE_BY_ONE = _OneByOne()


def _all_at_once(streams: Sequence[int], second: int, counter: int, count: int) -> NDArray[np.int64]:
    """The same of many streams of few blocks."""
    at = torch.arange(counter + 1, counter + 1 + count)
    return blocks(torch.tensor(streams)[:, None], second, at).flatten(1).numpy()


def _polar_float32(integers: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """r, cos a, sin a, in the place of the integers: numpy's loops of float32 are several times faster than torch's."""
    r, a = integers
    r += np.float32(0.5)
    np.abs(r, out=r)
    r *= np.float32(2.0**-31)
    np.log(r, out=r)
    r *= np.float32(-2.0)
    np.sqrt(r, out=r)
    a *= np.float32(math.pi * 2.0**-31)
    return r, np.cos(a, out=SCRATCH("cos", a.shape, np.float32)), np.sin(a, out=a)


def _polar_float64(integers: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    radii, angles = torch.from_numpy(integers)
    r, cos, sin = _polar(radii, angles, 64)
    return r.numpy(), cos.numpy(), sin.numpy()


POLAR = {torch.float32: _polar_float32, torch.float64: _polar_float64}
#: The integers that become floats, and these.
KINDS: dict[torch.dtype, tuple[type[np.integer[Any]], type[np.floating[Any]]]] = {
    torch.float32: (np.int32, np.float32),
    torch.float64: (np.int64, np.float64),
}
