"""Images onto a stack and back: bits back, in the order of Bit-Swap (Kingma, Abbeel & Ho, 2019).

    pop w_1 ~ q(w_1 | x_0);  push x_0;  pop w_2 ~ q(w_2 | w_1);  push w_1;  ..;  push w_K with the prior

A stack so grows by the chain's bound, and never falls by more than two latents, however many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from tqdm import tqdm

from score_sde_analytic.arrays import Array
from score_sde_analytic.coding.ladder import Ladder
from score_sde_analytic.coding.laws import Law, key
from score_sde_analytic.coding.plan import Plan, seed
from score_sde_analytic.coding.stack import FLOOR, WORD, ShallowError, Stack, Symbols, Words, uniform
from score_sde_analytic.errors import InputError

#: Bits that are kept on a stack, and how much more than was needed before a batch may need.
KEPT, MARGIN = WORD * (FLOOR - 1) + 2, 1.1
#: Of the stream of words that a stack begins with, beyond the index of any image.
BEGINNING = 2**40


@dataclass
class Encoded:
    """What became of images.

    Attributes:
        words: the stack.
        random: words that it began with.
        net: bits by which coded batches let it grow.
        content: bits that the latents and pixels of every coded image are worth by the chain, one draw of its bound.
    """

    words: Words
    plan: Plan
    random: int
    net: int = 0
    content: list[Array] = field(default_factory=list)

    @property
    def coded(self) -> int:
        """Number of images that are not raw."""
        return sum(map(len, self.content))


@dataclass
class _Meter:
    """Bits per image that a stack held for its batches, and how many each may have."""

    ladder: Ladder
    most: int
    needed: float = 0.0

    def watch(self, before: int, lowest: int, count: int) -> None:
        self.needed = max(self.needed, (before - lowest) / count)

    def size(self, bits: int, left: int) -> int:
        """The largest power of two of images that there are bits for, so that plans are short."""
        enough = max(1, min(self.most, int((bits - KEPT) / max(MARGIN * self.needed, 1.0))))
        return min(left, 1 << (enough.bit_length() - 1))


@dataclass(frozen=True, eq=False)
class Coder:
    """Images as levels 0 .. L - 1, (n, d), by a ladder.

    Attributes:
        most: images of a batch.
    """

    ladder: Ladder
    most: int

    @property
    def levels(self) -> int:
        return self.ladder.data_range.levels or 0

    @property
    def raw_bits(self) -> float:
        """Of an image as it is."""
        return self.ladder.dim * math.log2(self.levels)

    # --- batches ---

    def push(self, stack: Stack, pixels: NDArray[np.integer]) -> Float64[Array, " n"]:
        """A batch onto a stack; what each image is worth, in bits.

        Raises:
            ShallowError: the stack is too short.
        """
        ladder, count = self.ladder, len(pixels)
        x_0 = ladder.data_range.encode(pixels.reshape(count, *ladder.shape))
        content = np.zeros(count)

        def draw(law: Law) -> Symbols:
            symbols = law.pop(stack)
            content[:] -= law.bits(symbols).reshape(count, -1).sum(1)
            return symbols

        def code(law: Law, symbols: Symbols) -> None:
            law.push(stack, symbols)
            content[:] += law.bits(symbols).reshape(count, -1).sum(1)

        w = draw(ladder.drawn_first(x_0))
        code(ladder.coded_data(w), pixels.ravel().astype(np.int32))
        for k in reversed(range(ladder.last)):
            above = draw(ladder.drawn(k, w))
            code(ladder.coded(k, above), w)
            w = above
        code(ladder.coded_top(count), w)
        return content

    def pop(self, stack: Stack, count: int) -> NDArray[np.int32]:
        """The batch of so many images that lies on top of a stack.

        Raises:
            ShallowError, InputError: it does not lie there.
        """
        ladder = self.ladder
        w = ladder.coded_top(count).pop(stack)
        for k in range(ladder.last):
            below = ladder.coded(k, w).pop(stack)
            ladder.drawn(k, below).push(stack, w)
            w = below
        pixels = ladder.coded_data(w).pop(stack)
        x_0 = ladder.data_range.encode(pixels.reshape(count, *ladder.shape))
        ladder.drawn_first(x_0).push(stack, w)
        return pixels.reshape(count, -1)

    def push_raw(self, stack: Stack, pixels: NDArray[np.integer], indices: list[int]) -> None:
        """Images as they are, hidden by numbers that are known: what lies on a stack is to look random."""
        for image, index in zip(pixels, indices, strict=True):
            hidden = (image + key(index, len(image), self.levels)) % self.levels
            stack.push(hidden.astype(np.int32), uniform(self.levels))

    def pop_raw(self, stack: Stack, indices: list[int]) -> NDArray[np.int64]:
        """Images that were pushed as they are."""
        images: list[NDArray[np.int64]] = []
        for index in reversed(indices):
            hidden = stack.take(uniform(self.levels), self.ladder.dim)
            images.append((hidden - key(index, len(hidden), self.levels)) % self.levels)
        return np.stack(images[::-1])

    # --- all images ---

    def encode(self, pixels: NDArray[np.integer], progress: bool = False) -> Encoded:
        """All images, with as few bits to begin with as the first coded one asks for."""
        needed, net = self._trial(pixels[:1])
        images, words = seed(needed, net, self.raw_bits, len(pixels))
        while True:
            try:
                return self._encode(pixels, images, words, needed, progress)
            except ShallowError:  # the first image that is coded asks for more than the very first
                words += 1

    def _trial(self, pixels: NDArray[np.integer]) -> tuple[float, float]:
        """(bits that a stack must hold for an image, bits that it grows by)."""
        stack = Stack(beginning(4 * self.ladder.dim + 64))
        before = stack.bits
        net = self.push(stack, pixels)
        return before - stack.lowest + KEPT, float(net[0])

    def _encode(self, pixels: NDArray[np.integer], images: int, words: int, needed: float, progress: bool) -> Encoded:
        stack, done = Stack(beginning(words)), Encoded(np.zeros(0, np.uint32), Plan(), words)
        meter = _Meter(self.ladder, self.most, needed - KEPT)
        first = list(range(images))
        self.push_raw(stack, pixels[:images], first)
        done.plan.add_raw(first)
        with tqdm(total=len(pixels), initial=images, desc="compress", unit="image", disable=not progress) as bar:
            while (start := done.plan.count) < len(pixels):
                count = meter.size(stack.bits, len(pixels) - start)
                self._batch(stack, pixels, list(range(start, start + count)), done, meter)
                bar.update(done.plan.count - start)
                bar.set_postfix_str(f"{stack.bits / (self.ladder.dim * done.plan.count):.3f} bits/dim")
        done.words = stack.words
        return done

    def _batch(self, stack: Stack, pixels: NDArray[np.integer], indices: list[int], done: Encoded, meter: _Meter) -> None:
        """The next images, or the first of them where the stack is too short for all; those that would expand stay raw."""
        mark, before = stack.mark(), stack.bits
        stack.lowest = before
        try:
            content = self.push(stack, pixels[indices])
        except ShallowError:
            stack.back(mark)
            if len(indices) > 1:
                return self._batch(stack, pixels, indices[: len(indices) // 2], done, meter)
            if not done.content:
                raise
            content = np.array([math.inf])
        meter.watch(before, stack.lowest, len(indices))
        expands = content > self.raw_bits
        if not expands.any():
            done.plan.entries.append(len(indices))
            done.net += stack.bits - before
            done.content.append(content)
            return None
        stack.back(mark)
        raw = [index for index, grows in zip(indices, expands, strict=True) if grows]
        self.push_raw(stack, pixels[raw], raw)
        done.plan.add_raw(raw)
        rest = [index for index in indices if index not in raw]
        return self._batch(stack, pixels, rest, done, meter) if rest else None

    def decode(self, words: Words, plan: Plan, random: int, progress: bool = False) -> NDArray[np.int64]:
        """The images of `encode`.

        Raises:
            ShallowError, InputError: the words are those of no images.
        """
        stack = Stack(words, sealed=True)
        found: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
        with tqdm(total=plan.count, desc="decompress", unit="image", disable=not progress) as bar:
            for raw, indices in reversed(list(plan.parts())):
                found.append((indices, self.pop_raw(stack, indices.tolist()) if raw else self.pop(stack, len(indices))))
                bar.update(len(indices))
        if not np.array_equal(stack.words, Stack(beginning(random)).words):
            raise InputError("what is left when all images are read is not what they were put on")
        pixels = np.empty((plan.count, self.ladder.dim), np.int64)
        for indices, images in found:
            pixels[indices] = images
        return pixels


def beginning(words: int) -> Words:
    """So many random words, the same everywhere and always."""
    raw = np.random.Philox(key=[0x53534143, BEGINNING]).random_raw((words + 1) // 2)
    return np.asarray(raw, "<u8").view("<u4")[:words].astype(np.uint32)
