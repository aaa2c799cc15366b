"""Calls of public functions with valid, edge and hostile arguments: a finite result, or a refusal that names the cause.

A trial draws valid arguments for one call and spoils up to two of them: numbers become extreme, subnormal, NaN, of another type
or container; arrays become huge, tiny, empty, of one example, another shape or dtype. The same value in another container (a
scalar of numpy or torch) must give the same result.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.faults.fuzz_calls import CALLS, Call
from benchmarks.faults.outcome import Outcome, Verdict
from score_sde_analytic.errors import UserError

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 0.0, -0.0, 1.0, 0.5, -0.5, 3.7, 50, 2**70, -(2**70)),
    *(1e-30, 1e30, -1e30, 1e-300, 1e300, 5e-324, 1e-310, 1.0 - 1e-16, 1.0 + 1e-12, 59.9, -700.0, 700.0),
    *(math.nan, math.inf, -math.inf, True, None, "0.5", "", (1.0,), [], np.nan, np.float32(1e-45), np.float64(math.inf)),
    *(np.array([0.5]), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5, 0.5]), torch.tensor(3), np.bool_(True), 1j),
)
SCALES = (1e-30, 1e30, 1e-300, 1e300, 5e-324, 1e8, 1e-8, 0.0, -1.0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool, torch.complex64)
SPOILABLE = (int, float, str, tuple, list, dict, Tensor, np.ndarray, type(None))
#: The same number in another container.
CONTAINERS: tuple[Callable[[Any], Any], ...] = (
    lambda v: np.float64(v) if isinstance(v, float) else np.int64(v),
    lambda v: np.array(v),
    lambda v: torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else torch.tensor(v),
)


@dataclass(frozen=True)
class Trial:
    """One call with its arguments.

    Attributes:
        plain: the arguments whose result must be the same, or None.
    """

    call: Call
    arguments: Mapping[str, Any]
    plain: Mapping[str, Any] | None = None

    @classmethod
    def draw(cls, call: Call, rng: np.random.Generator) -> Trial:
        valid = {name: make(rng) for name, make in call.arguments.items()}
        names = [name for name, value in valid.items() if isinstance(value, SPOILABLE)]
        plain_numbers = [name for name in names if type(valid[name]) in (int, float)]
        if rng.random() < 0.15 and plain_numbers:
            name = plain_numbers[rng.integers(len(plain_numbers))]
            container = CONTAINERS[rng.integers(len(CONTAINERS))]
            return cls(call, valid | {name: container(valid[name])}, valid)
        spoilt = rng.choice(names, size=min(len(names), rng.integers(0, 3)), replace=False) if names else []
        return cls(call, valid | {str(name): hostile(valid[str(name)], rng) for name in spoilt})

    def outcome(self) -> Outcome:
        verdict, detail = self._judged()
        shown = ", ".join(f"{name}={described(value)}" for name, value in self.arguments.items())
        return Outcome(self.call.kind, f"{self.call.name}({shown})", verdict, detail)

    def _judged(self) -> tuple[Verdict, str]:
        try:
            result = self.call.act(**self.arguments)
        except UserError as error:
            return self._refused(str(error))
        except Exception as error:  # the verdict of the campaign
            return "raw", f"{type(error).__name__}: {error}"
        if self.plain is not None and not same(result, self.call.act(**self.plain)):
            return "silent", "another container of the same number gives another result"
        if self.call.infinite or finite(result):
            return "right", ""
        return ("silent", f"not finite: {described(result)}") if finite(tuple(self.arguments.values())) else ("right", "")

    def _refused(self, message: str) -> tuple[Verdict, str]:
        """A refusal, which must not depend on the container of a number."""
        if self.plain is None:
            return "refused", message
        try:
            self.call.act(**self.plain)
        except UserError:
            return "refused", message
        return "silent", f"only in this container: {message}"


def hostile(value: Any, rng: np.random.Generator) -> Any:
    """Something else in the place of a valid value."""
    if isinstance(value, Tensor | np.ndarray) and np.ndim(value):
        spoilt = _tensor(torch.as_tensor(value), rng)
        kept = isinstance(value, Tensor) or not spoilt.dtype.is_floating_point or spoilt.dtype == torch.bfloat16
        return spoilt if kept else spoilt.numpy()
    if isinstance(value, tuple | list) and rng.random() < 0.6:
        items = list(value)
        if items:
            items[rng.integers(len(items))] = hostile(items[0], rng)
        return (items, tuple(items), items[:0], items[:1], items[::-1])[rng.integers(5)]
    return NUMBERS[rng.integers(len(NUMBERS))]


def _tensor(x: Tensor, rng: np.random.Generator) -> Tensor:
    way = rng.integers(7)
    if way == 0:
        return x * SCALES[rng.integers(len(SCALES))]
    if way == 1:
        return x.to(DTYPES[rng.integers(len(DTYPES))])
    if way == 2:
        spoilt = x.clone().double()
        spoilt.view(-1)[:1] = (math.nan, math.inf, -math.inf, 1e30)[rng.integers(4)]
        return spoilt.to(x.dtype) if x.is_floating_point() else spoilt
    if way == 3:
        return x[: rng.integers(0, 2)]
    if way == 4:
        return x.flatten() if rng.random() < 0.5 else x[None]
    if way == 5:
        return x[..., :0] if rng.random() < 0.3 else x[..., :1]
    return x[:1].expand_as(x).clone()  # no spread


def numbers_of(value: Any) -> Iterator[Any]:
    """All numbers in a result or an argument, as tensors."""
    if isinstance(value, Tensor):
        yield value.detach()
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "fiub":
            yield torch.from_numpy(np.array(value))
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield torch.tensor(float(value), dtype=torch.float64)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from numbers_of(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from numbers_of(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if (found := getattr(value, field.name, None)) is not field.default:
                yield from numbers_of(found)


def finite(value: Any) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in numbers_of(value) if x.is_floating_point())


def same(a: Any, b: Any) -> bool:
    """The same numbers."""
    pairs = list(numbers_of(a)), list(numbers_of(b))
    if len(pairs[0]) != len(pairs[1]):
        return False
    return all(
        x.shape == y.shape and torch.equal(x.double().nan_to_num(), y.double().nan_to_num())
        for x, y in zip(*pairs, strict=True)
    )


def described(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray) and np.ndim(value):
        x = torch.as_tensor(value)
        return f"{x.dtype}{tuple(x.shape)} {x.flatten()[:3].tolist()}"
    return repr(value)[:120]


def outcomes(trials: int, seed: int) -> Iterator[Outcome]:
    """So many trials, the calls in turn."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for i in range(trials):
        yield Trial.draw(CALLS[i % len(CALLS)], np.random.default_rng([seed, i])).outcome()
