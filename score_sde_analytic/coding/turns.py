"""Changes of coordinates of latents, in float64, in the arithmetic of a codec."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.basis import Basis
from score_sde_analytic.files import plain

#: In which what surrounds the network is worked out.
Around = Callable[[], AbstractContextManager[Any]]


class Turn:
    """U and U^T of batches of images, (n, *dims).

    >>> from contextlib import nullcontext
    >>> from score_sde_analytic.data import Scalar
    >>> turn = Turn(Scalar(), nullcontext)
    >>> turn.back(turn.there(np.ones((1, 2))))
    array([[1., 1.]])
    """

    def __init__(self, basis: Basis, around: Around) -> None:
        self.basis = basis
        self._around = around
        self._config: Any = plain(basis.config())

    def same(self, other: Turn) -> bool:
        """Whether the two have the same coefficients, which then need no turning."""
        return self.basis is other.basis or bool(self._config == other._config)

    def there(self, x: Array) -> Array:
        """U x."""
        with self._around():
            w = self.basis.forward(torch.from_numpy(x))
        return w.numpy()

    def back(self, w: Array) -> Array:
        """U^T w."""
        with self._around():
            x = self.basis.inverse(torch.from_numpy(w))
        return x.numpy()
