"""What a file may hold, as its reader declares it: JSON of a shape, arrays of dtypes and sizes.

int, str, bool, ..    a value of that type; float also takes whole numbers, and only finite ones
range(1, 10)          a whole number of the range
{"a", "b"}            one of these
[shape]               a list of such elements
{"key": shape}        a mapping with at least these keys; a name that ends in "?" may be absent
{str: shape}          a mapping whose other values are such
(shape, None)         one of several
object                anything
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from score_sde_analytic.errors import InputError, UserError

AGAIN = "delete it and measure again"
#: What making an object of a file's content may raise where that is not what it should be.
UNFIT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


def require_shape(value: Any, shape: Any, path: str | Path, cure: str = AGAIN) -> None:
    """Raise InputError naming what of a file's content is not of the declared shape.

    >>> require_shape({"times": [1.0, "0"]}, {"times": [float]}, "grid.json")
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: grid.json is not what it should be: times.1 is '0', not a number; delete it
    and measure again
    """
    if fault := _fault(value, shape, ""):
        raise InputError(f"{path} is not what it should be: {fault}; {cure}")


def _fault(value: Any, shape: Any, place: str) -> str | None:
    """The first place where a value is not of a shape."""
    if isinstance(shape, tuple):
        faults = [_fault(value, each, place) for each in shape]
        return None if None in faults else faults[0]
    if isinstance(shape, list) and isinstance(value, list):
        return next(filter(None, (_fault(item, shape[0], f"{place}.{i}") for i, item in enumerate(value))), None)
    if isinstance(shape, Mapping) and isinstance(value, dict):
        named = (_entry(value, key, each, place) for key, each in shape.items() if key is not str)
        others = (_fault(value[key], shape[str], f"{place}.{key}") for key in value if str in shape and key not in shape)
        return next(filter(None, chain(named, others)), None)
    fits, name = _alone(value, shape)
    return None if fits else f"{place.lstrip('.') or 'its content'} is {value!r:.80}, not {name}"


def _entry(value: Mapping[str, Any], key: str, shape: Any, place: str) -> str | None:
    name = key.removesuffix("?")
    if name in value:
        return _fault(value[name], shape, f"{place}.{name}")
    return None if name != key else f"it lacks {f'{place}.{name}'.lstrip('.')}"


def _alone(value: Any, shape: Any) -> tuple[bool, str]:
    """Whether a value fits a shape without parts, and that shape in words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if shape is float:
        return number and math.isfinite(value), "a number"
    if shape is int:
        return number and isinstance(value, int), "a whole number"
    if isinstance(shape, range):
        return number and isinstance(value, int) and value in shape, f"a whole number from {shape.start} to {shape.stop - 1}"
    if isinstance(shape, set | frozenset):
        return isinstance(value, str) and value in shape, f"one of {', '.join(map(str, sorted(shape)))}"
    if shape is None:
        return value is None, "null"
    kind = dict if isinstance(shape, Mapping) else list if isinstance(shape, list) else shape
    return isinstance(value, kind), {dict: "a mapping", list: "a list", str: "text"}.get(kind, kind.__name__)


def require_arrays(found: Mapping[str, np.ndarray], declared: Mapping[str, str], path: str | Path, cure: str = AGAIN) -> None:
    """Raise InputError unless the arrays are there, of their declared dtypes and shapes, and finite.

    >>> arrays = {"log_snr": np.zeros(3), "y": np.zeros(2)}
    >>> require_arrays(arrays, {"log_snr": "float64 m", "y": "float64 m"}, "curve")
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: curve is not what it should be: y is float64 (2,), not float64 m with m=3; delete
    it and measure again

    Args:
        declared: name -> dtypes and sizes: numbers, names that stand for the same size everywhere, "_" or "..." for any. A name
            that ends in "?" may be absent.
    """
    missing = [name for name in declared if not name.endswith("?") and name not in found]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; it is of another version: {cure}")
    sizes: dict[str, int] = {}
    for name, spec in declared.items():
        array = found.get(name.rstrip("?"))
        if array is None:
            continue
        dtype, *axes = spec.split()
        if str(array.dtype) not in dtype.split("|") or not _fits(array.shape, axes, sizes):
            known = "".join(f" with {axis}={sizes[axis]}" for axis in axes if axis in sizes)
            shown = f"{name.rstrip('?')} is {array.dtype} {array.shape}, not {spec}{known}"
            raise InputError(f"{path} is not what it should be: {shown}; {cure}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path} holds NaN or inf in {name.rstrip('?')}; {cure}")


def _fits(shape: tuple[int, ...], axes: list[str], sizes: dict[str, int]) -> bool:
    """Whether a shape has these axes; sizes seen first are entered."""
    if axes == ["..."]:
        return True
    return len(shape) == len(axes) and all(_size(n, axis, sizes) for n, axis in zip(shape, axes, strict=True))


def _size(n: int, axis: str, sizes: dict[str, int]) -> bool:
    return axis == "_" or n == (int(axis) if axis.isdigit() else sizes.setdefault(axis, n))


def shape_of(kind: Any) -> Any:
    """The shape of a dataclass, or of another annotated type, as JSON.

    >>> shape_of(tuple[float, ...] | None)
    ([<class 'float'>], None)
    """
    arguments = get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: shape_of(hints[field.name]) for field in fields(kind)}
    if get_origin(kind) is Literal:
        return set(arguments)
    if get_origin(kind) is tuple:
        return [shape_of(arguments[0])]
    if arguments:
        return tuple(map(shape_of, arguments))
    return None if kind is NoneType else kind


@contextmanager
def reading(path: str | Path, cure: str = AGAIN) -> Iterator[None]:
    """Making an object of a file's content: what it raises names the file.

    >>> with reading("grid.json"):
    ...     int("ten")
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: grid.json does not hold what it should (invalid literal for int() with base 10:
    'ten'); delete it and measure again
    """
    try:
        yield
    except UserError as error:
        if str(path) in str(error) or isinstance(error, OSError):
            raise
        raise InputError(f"{path}: {error}") from error
    except UNFIT as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} does not hold what it should ({reason}); {cure}") from error
