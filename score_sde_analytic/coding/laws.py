"""Distributions that symbols are coded by, in units of a lattice: each can pop, push, and tell what its symbols are worth.

Truncated     a normal within 6.5 standard deviations, renormalised        what latents are drawn from
Windowed      a normal within a window, and an escape to all beyond        what latents are coded with
Table         a row of probabilities per symbol                            what pixels are coded with

Every symbol of a coder has a probability of at least 2^-24. So an alphabet that is far wider than its law draws outliers and
taxes all others: both normals keep to a window about their means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from score_sde_analytic.arrays import Array
from score_sde_analytic.coding.stack import MOST_SYMBOLS, Stack, Symbols, normals, tables, uniform
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.process.gaussian import log_interval

#: Standard deviations about the mean.
DRAWN, WINDOW = 6.5, 12.0
#: Of what escapes are coded with, low part first.
HALF = 2**16
LOG2_E = 1.0 / math.log(2.0)


class Law(Protocol):
    """Of a batch of symbols, flat."""

    def pop(self, stack: Stack) -> Symbols:
        """Symbols from a stack."""
        ...

    def push(self, stack: Stack, symbols: Symbols) -> None:
        """Symbols onto a stack."""
        ...

    def bits(self, symbols: Symbols) -> Float64[Array, " n"]:
        """-log2 p of each, without what a coder rounds."""
        ...


def normal_bits(symbols: Symbols, mean: Float64[Array, " n"], std: Any) -> Float64[Array, " n"]:
    """-log2 of the mass of N(mean, std^2) between the halves about each symbol.

    >>> normal_bits(np.zeros(1, np.int32), np.zeros(1), 10.0).round(3)
    array([4.648])
    """
    below, above = (torch.from_numpy((symbols + half - mean) / std) for half in (-0.5, 0.5))
    return -LOG2_E * log_interval(below, above).numpy()


def _whole(mean: Array) -> Symbols:
    """The nearest symbols.

    Raises:
        RunError: there are none.
    """
    if not np.all(np.abs(mean) < 2.0**30):  # NaN too
        raise RunError("a latent's mean is not finite, or too far from zero for its lattice; choose a larger ratio")
    return np.rint(mean).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Truncated:
    """N(mean, std^2) within `DRAWN` standard deviations of the symbol nearest to its mean.

    >>> law, stack = Truncated(np.array([0.3, -7.9]), 2.0), Stack(np.arange(1, 20, dtype=np.uint32))
    >>> symbols = law.pop(stack)
    >>> law.push(stack, symbols)
    >>> stack.words[-2:]
    array([19,  1], dtype=uint32)
    """

    mean: Float64[Array, " n"]
    std: float

    @cached_property
    def _nearest(self) -> Symbols:
        return _whole(self.mean)

    @property
    def _reach(self) -> int:
        return math.ceil(DRAWN * self.std)

    @property
    def _parameters(self) -> tuple[Any, Array, Array]:
        offset = self.mean - self._nearest
        return normals(-self._reach, self._reach), offset, np.full_like(offset, self.std)

    def pop(self, stack: Stack) -> Symbols:
        return stack.pop(*self._parameters) + self._nearest

    def push(self, stack: Stack, symbols: Symbols) -> None:
        """Symbols onto a stack.

        Raises:
            InputError: one that cannot have been drawn.
        """
        offset = symbols.astype(np.int64) - self._nearest
        if np.abs(offset).max(initial=0) > self._reach:
            raise InputError("a latent lies where none is drawn")
        stack.push(offset.astype(np.int32), *self._parameters)

    def bits(self, symbols: Symbols) -> Float64[Array, " n"]:
        return normal_bits(symbols, self.mean, self.std)


@dataclass(frozen=True, eq=False)
class Windowed:
    """N(mean, std^2); beyond `WINDOW` standard deviations of the mean the two ends of the window stand for all that is there.

    Coordinates of about the same deviation share an alphabet, 2^k on either side of the mean.

    >>> law, stack = Windowed(np.array([0.3, 2.0]), np.array([1.0, 50.0])), Stack(np.arange(1, 20, dtype=np.uint32))
    >>> law.push(stack, np.array([-700, 20], np.int32))
    >>> law.pop(stack), stack.words[-2:]
    (array([-700,   20], dtype=int32), array([19,  1], dtype=uint32))
    """

    mean: Float64[Array, " n"]
    std: Float64[Array, " n"]

    @cached_property
    def _nearest(self) -> Symbols:
        return _whole(self.mean)

    @cached_property
    def _groups(self) -> list[tuple[int, Int64[np.ndarray, " m"], tuple[Any, Array, Array]]]:
        """(reach, which coordinates, model and its parameters), the narrowest first."""
        if not np.all((self.std > 0.0) & (self.std < MOST_SYMBOLS / (4.0 * WINDOW))):
            raise RunError("a latent's deviation is zero, or too large for its lattice; choose a larger ratio")
        power = np.frexp(WINDOW * self.std + 2.0)[1]
        offset = self.mean - self._nearest
        found = []
        for k in np.unique(power).tolist():
            which = np.flatnonzero(power == k)
            found.append((2**k, which, (normals(-(2**k), 2**k), offset[which], self.std[which])))
        return found

    def pop(self, stack: Stack) -> Symbols:
        offset = np.zeros(len(self.mean), np.int64)
        for reach, which, model in self._groups:
            inside = stack.pop(*model).astype(np.int64)
            beyond = np.flatnonzero(np.abs(inside) == reach)
            if len(beyond):
                low, high = (stack.pop(uniform(HALF), len(beyond)).astype(np.int64) for _ in range(2))
                inside[beyond] += np.sign(inside[beyond]) * (low + HALF * high)
            offset[which] = inside
        symbols = offset + self._nearest
        if np.abs(symbols).max(initial=0) >= 2**31:
            raise InputError("a latent lies beyond all numbers")
        return symbols.astype(np.int32)

    def push(self, stack: Stack, symbols: Symbols) -> None:
        """Symbols onto a stack."""
        offset = symbols.astype(np.int64) - self._nearest
        for reach, which, model in reversed(self._groups):
            inside = np.clip(offset[which], -reach, reach)
            beyond = np.abs(offset[which][np.abs(inside) == reach]) - reach
            if len(beyond):
                for part in (beyond // HALF, beyond % HALF):
                    stack.push(part.astype(np.int32), uniform(HALF))
            stack.push(inside.astype(np.int32), *model)

    def bits(self, symbols: Symbols) -> Float64[Array, " n"]:
        return normal_bits(symbols, self.mean, self.std)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of probabilities, which are worked out a part at a time.

    >>> law, stack = Table([np.array([[0.9, 0.1], [0.5, 0.5]])]), Stack(np.arange(1, 5, dtype=np.uint32))
    >>> law.push(stack, np.array([0, 1], np.int32))
    >>> law.pop(stack), law.bits(np.array([0, 1], np.int32)).round(2)
    (array([0, 1], dtype=int32), array([0.15, 1.  ]))
    """

    parts: list[Array]  # (m, levels), each m its own

    def _each(self, symbols: Symbols) -> Iterator[tuple[Array, Symbols]]:
        start = 0
        for part in self.parts:
            yield part, symbols[start : start + len(part)]
            start += len(part)

    def pop(self, stack: Stack) -> Symbols:
        return np.concatenate([stack.pop(tables(), part) for part in self.parts])

    def push(self, stack: Stack, symbols: Symbols) -> None:
        for part, own in reversed(list(self._each(symbols))):
            stack.push(own, tables(), part)

    def bits(self, symbols: Symbols) -> Float64[Array, " n"]:
        chosen = [part[np.arange(len(own)), own] for part, own in self._each(symbols)]
        return -np.log2(np.maximum(np.concatenate(chosen), 2.0**-24))


def key(index: int, count: int, levels: int) -> NDArray[np.int64]:
    """Numbers below `levels` that hide what is added to them, of the image of this index: the same everywhere and always."""
    raw = np.random.Philox(key=[0x53534143, index]).random_raw(count)
    return (raw % np.uint64(levels)).astype(np.int64)
