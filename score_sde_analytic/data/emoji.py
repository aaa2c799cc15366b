"""Noto Color Emoji, 3,926 glyphs of 32x32 pixels in colour on white, and a split that keeps near copies on one side.

Emoji that differ by skin tone or gender only are near copies of one *base*. A part of the data gets whole bases; the parts that
are measured get one image of each, so that their examples may be taken for independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray

from score_sde_analytic.checks import whole
from score_sde_analytic.data.splits import part_counts
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import optional
from score_sde_analytic.files import read_plain_json

#: Images (one sheet), labels and licence.
FOLDER = Path(__file__).parent.parent / "assets" / "emoji32"
SIDE = 32
DAMAGED = "install the package again"


@dataclass(frozen=True)
class Emoji:
    """The images and what is known of them.

    Attributes:
        images: integers 0..255.
        group: index of each image's group in `groups`.
        base: which of them are near copies of each other: equal numbers.
        code_points: each image's sequence of Unicode code points, as "1f600" or "1f468-200d-1f373".
        groups: names of Unicode's groups.
    """

    images: UInt8[np.ndarray, "3926 3 32 32"]
    group: Int64[np.ndarray, " 3926"]
    base: Int64[np.ndarray, " 3926"]
    code_points: tuple[str, ...]
    groups: tuple[str, ...]

    def split(self, sizes: Sequence[float], seed: int, variants: int = 6) -> list[NDArray[np.int64]]:
        """Indices of disjoint parts, of `sizes` bases or shares of them; the first has up to `variants` images of each,
        the others one.

        >>> from score_sde_analytic.data import emoji
        >>> [len(part) for part in emoji().split((1000, 100, 50), seed=0)]
        [1514, 100, 50]

        Raises:
            InputError: there are fewer bases.
        """
        bases, variants = int(self.base.max()) + 1, whole(1)("variants", variants)
        counts = part_counts(bases, sizes)
        generator = np.random.default_rng(whole(0)("seed", seed))
        order = generator.permutation(bases)
        if sum(counts) > bases:
            raise InputError(f"the split {tuple(sizes)} needs {sum(counts)} base emoji, there are {bases}")
        copies = [generator.permutation(np.flatnonzero(self.base == base)) for base in order]
        ends = np.cumsum([0, *counts])
        kept = [variants, *[1] * (len(counts) - 1)]
        return [
            np.concatenate([[], *(near[:most] for near in copies[start:end])]).astype(np.int64)
            for start, end, most in zip(ends, ends[1:], kept, strict=False)
        ]


def emoji() -> Emoji:
    """Google's Noto Color Emoji (font under the SIL Open Font License 1.1, images under Apache 2.0), groups by Unicode 15.

    Raises:
        ImportError: Pillow is not installed.
    """
    image: Any = optional("PIL.Image", extra="images", user="the set of emoji", package="Pillow")
    labels = read_plain_json(FOLDER / "labels.json", "labels", dict, DAMAGED)
    with image.open(FOLDER / "images.png") as sheet:
        pixels = np.asarray(sheet)
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    return Emoji(
        tiles[: len(labels["group"])].copy(),
        np.array(labels["group"], np.int64),
        np.array(labels["base"], np.int64),
        tuple(labels["emoji"]),
        tuple(labels["groups"]),
    )
