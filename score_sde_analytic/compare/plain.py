"""Numbers and data that JSON has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def finite(value: float) -> float | None:
    """A number that JSON has."""
    return float(value) if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Data that JSON has: arrays and tuples as lists, numbers that are not finite as None.

    >>> plain({"bits": np.array([1.5, np.inf])})
    {'bits': [1.5, None]}
    """
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
