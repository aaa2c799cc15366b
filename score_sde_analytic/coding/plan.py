"""Which images are coded together, and which lie there as they are: the order of a file's content.

Batches grow: from no more bits than one image asks for there soon are enough for many. What would expand is kept raw, and some
of the first images too: they are the bits that coding begins with, at less than random words would cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Int64

from score_sde_analytic.errors import InputError

#: Most images of a file, and most numbers of a batch.
MOST_IMAGES, MOST_NUMBERS = 2**24, 2**26


@dataclass
class Plan:
    """Entries from the bottom of the stack to its top: so many images coded together, or, below zero, so many raw ones.

    >>> plan = Plan([-1, 1, 2], [1])
    >>> [(raw, index.tolist()) for raw, index in plan.parts()]
    [(True, [1]), (False, [0]), (False, [2, 3])]

    Attributes:
        raw: indices of the raw images.
    """

    entries: list[int] = field(default_factory=list)
    raw: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(map(abs, self.entries))

    @property
    def sizes(self) -> list[int]:
        """Of batches that are coded together, each once."""
        return sorted({entry for entry in self.entries if entry > 0})

    def add_raw(self, indices: list[int]) -> None:
        """Raw images on top."""
        if indices:
            self.entries.append(-len(indices))
            self.raw += indices

    def parts(self) -> Iterator[tuple[bool, Int64[np.ndarray, " m"]]]:
        """(whether they are raw, their indices) of every entry, from the bottom."""
        raw = np.array(self.raw, np.int64)
        coded = np.setdiff1d(np.arange(self.count), raw)
        places = {True: 0, False: 0}
        for entry in self.entries:
            kind, size = entry < 0, abs(entry)
            start = places[kind]
            yield kind, (raw if kind else coded)[start : start + size]
            places[kind] += size

    def content(self) -> dict[str, Any]:
        """It as JSON has it: entries with how often they follow each other, raw images as [first, how many]."""
        runs = [[entry, len(list(same))] for entry, same in groupby(self.entries)]
        spans: list[list[int]] = []
        for index in self.raw:
            if spans and index == sum(spans[-1]):
                spans[-1][1] += 1
            else:
                spans.append([index, 1])
        return {"batches": runs, "raw": spans}

    @classmethod
    def of_content(cls, content: dict[str, Any], dim: int) -> Plan:
        """The plan of a `content` that a file holds.

        Raises:
            InputError: it is none, or of more than is sensible.
        """
        runs, spans = content["batches"], content["raw"]
        sound = all(len(pair) == 2 and pair[1] > 0 for pair in (*runs, *spans)) and all(run[0] for run in runs)
        count = sum(abs(entry) * times for entry, times in runs) if sound else 0
        raw = sum(-entry * times for entry, times in runs if entry < 0) if sound else 0
        sound = sound and 0 < count <= MOST_IMAGES and max(entry for entry, _ in runs) * dim <= MOST_NUMBERS
        if not sound or sum(times for _, times in spans) != raw:
            raise InputError("the plan of its batches is none")
        plan = cls([entry for entry, times in runs for _ in range(times)])
        plan.raw = [index for first, times in spans for index in range(first, first + times)]
        if plan.raw and (min(plan.raw) < 0 or max(plan.raw) >= count or len(set(plan.raw)) < raw):
            raise InputError("the plan of its raw images is none")
        return plan


def seed(needed: float, net: float, raw: float, count: int) -> tuple[int, int]:
    """(raw images, random words) that the bits of one image may be taken from, at the least cost in a file of so many images.

    A raw image gives its length in bits at the cost of what coding would have saved; random words cost their length.

    >>> seed(300.0, 120.0, 260.0, 50), seed(300.0, 240.0, 260.0, 50), seed(300.0, 120.0, 260.0, 1)
    ((1, 2), (2, 0), (1, 0))

    Args:
        needed: bits that the stack must hold.
        net, raw: bits of an image, coded and as it is.
    """
    images = math.floor(needed / raw)
    left = max(needed - images * raw, 0.0)
    if left > raw - net:
        images, left = images + 1, 0.0
    return (count, 0) if images >= count else (images, math.ceil(left / 32))
