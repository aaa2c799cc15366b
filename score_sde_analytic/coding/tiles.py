"""Pictures of any size as images of one size, and back.

Rows of tiles from the upper left; what the last ones lack is filled with the picture's edge, and cut off again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from score_sde_analytic.errors import InputError


@dataclass(frozen=True)
class Tiling:
    """Of a picture.

    >>> picture = np.arange(15).reshape(1, 3, 5)
    >>> tiling = Tiling(3, 5, (2, 2))
    >>> tiling.count, tiling.cut(picture)[-1].tolist(), bool((tiling.joined(tiling.cut(picture)) == picture).all())
    (6, [[[14, 14], [14, 14]]], True)

    Attributes:
        height, width: of the picture.
        tile: (height, width) of its tiles.
    """

    height: int
    width: int
    tile: tuple[int, int]

    @property
    def rows(self) -> int:
        return math.ceil(self.height / self.tile[0])

    @property
    def columns(self) -> int:
        return math.ceil(self.width / self.tile[1])

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    def cut(self, picture: Shaped[np.ndarray, "channels height width"]) -> Shaped[np.ndarray, "n channels h w"]:
        """Its tiles, row by row."""
        height, width = self.tile
        below, right = self.rows * height - self.height, self.columns * width - self.width
        whole = np.pad(picture, ((0, 0), (0, below), (0, right)), mode="edge")
        grid = whole.reshape(len(picture), self.rows, height, self.columns, width)
        return np.ascontiguousarray(grid.transpose(1, 3, 0, 2, 4).reshape(self.count, len(picture), height, width))

    def joined(self, tiles: Shaped[np.ndarray, "n channels h w"]) -> Shaped[np.ndarray, "channels height width"]:
        """The picture of its tiles.

        Raises:
            InputError: there are more or fewer.
        """
        if len(tiles) != self.count:
            raise InputError(f"a picture of {self.height} x {self.width} has {self.count} tiles, not {len(tiles)}")
        grid = tiles.reshape(self.rows, self.columns, *tiles.shape[1:]).transpose(2, 0, 3, 1, 4)
        whole = grid.reshape(tiles.shape[1], self.rows * self.tile[0], self.columns * self.tile[1])
        return np.ascontiguousarray(whole[:, : self.height, : self.width])
