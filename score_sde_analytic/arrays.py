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
    """log(1 + exp(x)) without overflow."""
    return np.logaddexp(0.0, x)


def like(value: ArrayLike, reference: Any) -> Any:
    """Return a float64 `value` in the container of `reference`: float, numpy array or tensor on its device."""
    if isinstance(reference, Tensor):
        return torch.as_tensor(np.asarray(value, dtype=np.float64), device=reference.device)
    return float(value) if np.ndim(reference) == 0 else np.asarray(value, dtype=np.float64)  # type: ignore[arg-type]


def as_array(value: Any) -> Array:
    """A float64 numpy array of a float, array or tensor."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
