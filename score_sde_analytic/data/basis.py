"""Fixed orthonormal changes of coordinates in which a reverse covariance is diagonal.

y = U x,   x = U^T y,   U U^T = I,   ||y|| = ||x||,   Cov = U^T diag(v_l(1), ..., v_l(d)) U

Coefficient i belongs to the curve of label l(i). Pooling (few labels) costs likelihood but needs fewer examples.

Pixel, PixelChannel, Channel, Scalar     U = I, labels per position, per coordinate, per channel, one for all
Block                                    U = I, labels per square of positions
DCT                                      y = C_h x C_w^T,   C_n[k, j] = sqrt((2 - [k = 0]) / n) cos(pi k (2j + 1) / 2n)
ColourDCT                                y = C_h (R x) C_w^T with an orthonormal R over the channels
PCA                                      r rows of U are given, Householder reflectors complete them

An example of three or more dimensions is (channels, ..., height, width); one of fewer has no channels.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.arrays import wide
from score_sde_analytic.checks import COUNT


class Basis(ABC):
    """An orthonormal map U of one example's coordinates, and which of its coefficients share a curve.

    Everything a new basis needs (with `labels` when coefficients are pooled):

        class Mirrored(Basis):
            def forward(self, x):
                return -x.flip(-1)
            def inverse(self, y):
                return -y.flip(-1)
            def config(self):
                return {"name": "Mirrored"}
    """

    @abstractmethod
    def forward(self, x: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """Coefficients U x of every example, of the same norm.

        Raises:
            ValueError: integers, or examples of a shape that does not fit.
        """

    @abstractmethod
    def inverse(self, y: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        """Examples U^T y of coefficients."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data that identify the map and its labels."""

    def labels(self, shape: Sequence[int]) -> Int64[np.ndarray, "*dims"]:
        """The curve 0 .. m - 1 of every coefficient of an example of this shape, in that shape; all different here."""
        return np.arange(math.prod(shape), dtype=np.int64).reshape(tuple(shape))

    def energies(
        self, x: Float[Tensor, " batch *dims"], labels: Int64[Tensor, " d"], count: int
    ) -> Float64[Tensor, "batch {count}"]:
        """||U x||^2 of the coefficients of each label, summed in float64.

        >>> import torch
        >>> Pixel().energies(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0, 1, 0]), 2)
        tensor([[10.,  4.]], dtype=torch.float64)

        Args:
            labels: of every coefficient, flat, as `labels` gives them.
        """
        square = wide(self.forward(x).flatten(1).square())
        return square.new_zeros(len(x), count).index_add_(1, labels.to(square.device), square)


class BuiltIn(Basis):
    """Settings and float64 arrays that are attributes named as the arguments that made them."""

    _settings: ClassVar[tuple[str, ...]] = ()
    _arrays: ClassVar[tuple[str, ...]] = ()

    def config(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in self._settings}
        return {"name": type(self).__name__, **settings, **self._digests}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: array_digest(getattr(self, name)) for name in self._arrays}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BuiltIn) and other.config() == self.config()

    def __hash__(self) -> int:
        return hash(tuple(self.config().items()))


class PixelChannel(BuiltIn):
    """U = I, one curve per coordinate.

    >>> PixelChannel().labels((2, 1, 3)).tolist()
    [[[0, 1, 2]], [[3, 4, 5]]]
    """

    def forward(self, x: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        return x

    def inverse(self, y: Float[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        return y


class Pixel(PixelChannel):
    """U = I, one curve per pixel, which all channels share.

    >>> Pixel().labels((2, 1, 3)).tolist()
    [[[0, 1, 2]], [[0, 1, 2]]]
    """

    def labels(self, shape: Sequence[int]) -> Int64[np.ndarray, "*dims"]:
        return np.broadcast_to(super().labels(shape[1:] if len(shape) > 2 else shape), tuple(shape)).copy()


class Block(PixelChannel):
    """U = I, one curve per square of pixels, which all channels share; per stretch of examples of one dimension.

    Args:
        side: of a square, in pixels; those at the far edges are cut.

    Raises:
        InputError: `side` is not a whole number from 1.

    >>> Block(2).labels((1, 2, 4)).tolist()
    [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    """

    _settings = ("side",)

    def __init__(self, side: int) -> None:
        self.side = COUNT("side", side)

    def labels(self, shape: Sequence[int]) -> Int64[np.ndarray, "*dims"]:
        pixels = tuple(shape[1:] if len(shape) > 2 else shape)
        blocks = [np.arange(n, dtype=np.int64) // self.side for n in pixels]
        label = np.ravel_multi_index(np.meshgrid(*blocks, indexing="ij"), [b[-1] + 1 for b in blocks])
        return np.broadcast_to(label, tuple(shape)).astype(np.int64)


class Channel(PixelChannel):
    """U = I, one curve per channel; one for all coordinates of an example without channels.

    >>> Channel().labels((2, 1, 3)).tolist()
    [[[0, 0, 0]], [[1, 1, 1]]]
    """

    def labels(self, shape: Sequence[int]) -> Int64[np.ndarray, "*dims"]:
        channels = np.arange(shape[0] if len(shape) > 2 else 1, dtype=np.int64)
        return np.broadcast_to(channels.reshape(-1, *(1,) * (len(shape) - 1)), tuple(shape)).copy()


class Scalar(PixelChannel):
    """U = I, one curve: the isotropic covariance.

    >>> Scalar().labels((2, 1, 3)).tolist()
    [[[0, 0, 0]], [[0, 0, 0]]]
    """

    def labels(self, shape: Sequence[int]) -> Int64[np.ndarray, "*dims"]:
        return np.zeros(tuple(shape), dtype=np.int64)


def array_digest(array: NDArray[np.float64]) -> str:
    """Shape and contents of an array, as one word.

    >>> array_digest(np.zeros((2, 3)))[:4]
    '2x3:'
    """
    sha = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"{'x'.join(map(str, array.shape))}:{sha}"
