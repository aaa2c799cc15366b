"""Arrays of numpy inside pickles of others, read without running what a pickle names.

Stand-ins take the places of numpy's types, and nothing else may be named.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from score_sde_analytic.arrays import Array
from score_sde_analytic.errors import InputError


class PickledType:
    """What stands for numpy's dtype while a file is read: two letters, and nothing that numpy itself would have to trust."""

    def __init__(self, code: str | bytes, *flags: object) -> None:
        self.code, self.order = _text(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])


class PickledArray:
    """What stands for numpy's array while a file is read."""

    def __init__(self, *empty: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def numbers(self, *codes: str) -> Array:
        """The array, of one of these types, as "f4".

        Raises:
            ValueError: it is of another type.
        """
        _, shape, kind, by_columns, data = self.state
        if kind.code not in codes or kind.order not in ("<", ">", "|"):
            names = " or ".join(np.dtype(code).name for code in codes)
            raise ValueError(f"an array of {kind.code}, not of {names}")
        order = "" if kind.order == "|" else kind.order
        return np.frombuffer(data, order + kind.code).reshape(shape, order="F" if by_columns else "C")


def _text(said: str | bytes) -> str:
    return said.decode("ascii") if isinstance(said, bytes) else said


#: The names in the pickle of an array; numpy 1 had its constructor elsewhere.
STANDING_IN = [
    (PickledArray, "numpy.ndarray"),
    (PickledType, "numpy.dtype"),
    *((PickledArray, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {place: kind for kind, place in STANDING_IN}
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[f"{module}.{name}"]


def read_pickle(path: Path) -> Any:
    """Plain data and `PickledArray`s; text of Python 2 stays bytes.

    Raises:
        InputError: it is damaged, or names something else, which might run code.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # damaged bytes say anything
        raise InputError(f"{path} is damaged, or holds more than plain data and arrays ({error}); copy it again") from error
