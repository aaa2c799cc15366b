"""Float64 scalars that stay in the container they came in: float, numpy array or tensor."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]


Scalars = TypeVar("Scalars", float, Array, Tensor)


def softplus(x: ArrayLike) -> Array:
    """log(1 + exp(x)) without overflow.

    >>> softplus([0.0, 100.0])
    array([  0.693, 100.0 ])
    """
    return np.logaddexp(0.0, x)


def like(value: ArrayLike, reference: Any) -> Any:
    """Return a float64 `value` in the container of `reference`: float, numpy array or tensor on its device.

    >>> like(np.array(2.0), 1), like([1.0, 2.0], torch.zeros(2))
    (2.0, tensor([1., 2.], dtype=torch.float64))
    """
    if isinstance(reference, Tensor):
        return torch.as_tensor(np.asarray(value, dtype=np.float64), device=reference.device)
    return float(value) if np.ndim(reference) == 0 else np.asarray(value, dtype=np.float64)  # type: ignore[arg-type]


def as_array(value: Any) -> Array:
    """A float64 numpy array of a float, array or tensor.

    >>> as_array(torch.ones(2, requires_grad=True))
    array([1., 1.])
    """
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
