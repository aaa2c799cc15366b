"""Changes of coordinates of latents, in float64: by the basis itself, or by a matrix whose sums do not depend on their order.

Encoder and decoder must get the same bits. `Turn` does on one machine with batches of the same sizes. `ExactTurn` does with any
batch, threads and BLAS: entries of U are multiples of 2^-20 and numbers multiples of 2^-22, so that all partial sums are whole
multiples of 2^-42, below 2^53 of them. (A latent is w; that U^T w is off by 2^-20 changes nothing but which x is looked at.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.basis import Basis
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.files import plain

#: Bits behind the point.
MATRIX_BITS, VALUE_BITS = 20, 22
#: Numbers of an image for which U is written out.
MOST_DIM = 4096


class Turn:
    """U and U^T of images of one shape, of batches (n, *dims).

    >>> from score_sde_analytic.data import Scalar
    >>> turn = Turn(Scalar(), (2,))
    >>> turn.back(turn.there(np.ones((1, 2))))
    array([[1., 1.]])
    """

    def __init__(self, basis: Basis, shape: tuple[int, ...]) -> None:
        self.basis = basis
        self.shape = shape
        self._config: Any = plain(basis.config())

    def same(self, other: Turn) -> bool:
        """Whether the two have the same coefficients, which then need no turning."""
        return self.basis is other.basis or bool(self._config == other._config)

    def there(self, x: Array) -> Array:
        """U x."""
        return self.basis.forward(torch.from_numpy(x)).numpy()

    def back(self, w: Array) -> Array:
        """U^T w."""
        return self.basis.inverse(torch.from_numpy(w)).numpy()


class ExactTurn(Turn):
    """The same by a matrix, exactly.

    Raises:
        UnsupportedError: the matrix is too large.
    """

    def __init__(self, basis: Basis, shape: tuple[int, ...]) -> None:
        super().__init__(basis, shape)
        dim = math.prod(shape)
        probe = np.linspace(-1.0, 1.0, dim).reshape(1, *shape)
        self._matrix: Array | None = None
        if np.array_equal(super().there(probe), probe):
            return
        if dim > MOST_DIM:
            raise UnsupportedError(
                f"exact arithmetic writes a basis out as a matrix, up to {MOST_DIM} numbers of an image; these have {dim}: use"
                " an isotropic covariance, or tiles"
            )
        self._matrix = _rounded(super().there(np.eye(dim).reshape(dim, *shape)).reshape(dim, dim), MATRIX_BITS)

    def there(self, x: Array) -> Array:
        return self._times(_rounded(x, VALUE_BITS), transposed=False)

    def back(self, w: Array) -> Array:
        return self._times(_rounded(w, VALUE_BITS), transposed=True)

    def _times(self, x: Array, transposed: bool) -> Array:
        """Rows of x by the matrix, whose row i is U e_i."""
        if self._matrix is None:
            return x
        matrix = self._matrix.T if transposed else self._matrix
        return (x.reshape(len(x), -1) @ matrix).reshape(x.shape)


def _rounded(x: Array, bits: int) -> Array:
    """x to multiples of 2^-bits.

    >>> _rounded(np.array([0.3]), 2)
    array([0.25])
    """
    return np.ldexp(np.rint(np.ldexp(x, bits)), -bits)
