"""Float64 scalars that stay in the container they came in: float, numpy array or tensor."""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from score_sde_analytic.errors import InputError

Array = NDArray[np.float64]
#: Kinds of arrays that are packed.
PACKED = ("float64", "int64")
#: Bytes that a driver takes at once; more of them go through memory that it may read later.
AT_ONCE = 65_536
#: Coordinates that are summed in float32 with an error of some 1e-8; long sums of it would lose digits.
STRETCH = 1024
_RECORDING: ContextVar[bool] = ContextVar("whether a graph is recorded", default=False)


Scalars = TypeVar("Scalars", float, Array, Tensor)
T = TypeVar("T")


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


def slices(count: int, size: int) -> list[slice]:
    """Neighbouring parts of at most `size` rows.

    >>> slices(5, 3)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def available(device: torch.device | str) -> torch.device:
    """The device, where there is one.

    Raises:
        InputError: there is none.

    >>> available("cpu")
    device(type='cpu')
    """
    try:
        empty = torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise InputError(f"device {str(device)!r} is not available here; take 'cpu'") from error
    return empty.device


@cache
def has_float64(device: str) -> bool:
    """Whether a kind of device, such as "mps", has float64.

    >>> has_float64("cpu")
    True
    """
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def float64_place(device: torch.device) -> torch.device:
    """Where float64 numbers of a device are kept: there, or on the host where it has none."""
    return device if has_float64(device.type) else torch.device("cpu")


def wide(x: Shaped[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """x in float64, in which everything is measured: where it lies, or on the host where its device has no float64."""
    return x.double() if has_float64(x.device.type) else x.cpu().double()


def sent(x: Shaped[Tensor, "*shape"], device: torch.device | str, dtype: torch.dtype | None = None) -> Shaped[Tensor, "*shape"]:
    """x on a device; from the host without waiting for what the device has to do first.

    >>> sent(torch.ones(1), "cpu", torch.float64)
    tensor([1.], dtype=torch.float64)
    """
    place = torch.device(device)
    if not x.is_cpu or place.type in ("cpu", "mps"):
        return x.to(place, dtype)
    x = x.to(dtype)
    if place.type == "cuda" and x.numel() * x.element_size() > AT_ONCE:
        x = x.pin_memory()
    return x.to(place, non_blocking=True)


def fetched(x: Shaped[Tensor, "*shape"]) -> Callable[[], NDArray[Any]]:
    """x on its way to the host, and what waits for it to be there.

    >>> fetched(torch.ones(2))()
    array([1., 1.], dtype=float32)
    """
    if x.device.type != "cuda":
        return lambda: x.cpu().numpy()
    there = x.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(x.device))

    def read() -> NDArray[Any]:
        arrived.synchronize()
        return there.numpy()

    return read


def ahead(work: Iterable[T], device: torch.device) -> Iterator[T]:
    """The items in order; on an accelerator the next is under way before one is looked at, so that it does not wait.

    >>> list(ahead(range(3), torch.device("cpu")))
    [0, 1, 2]
    """
    waiting: deque[T] = deque()
    for item in work:
        waiting.append(item)
        if len(waiting) > (device.type != "cpu"):
            yield waiting.popleft()
    yield from waiting


def readable(x: Shaped[Tensor, "*shape"]) -> bool:
    """Whether the host may look at numbers now: elsewhere it would wait for the device, and in a graph there are none yet.

    >>> readable(torch.ones(1))
    True
    """
    return x.is_cpu and not _RECORDING.get()


def unwatched(x: Shaped[Tensor, "*shape"]) -> bool:
    """Whether nothing follows the operations on x, no derivative, graph or arithmetic of one's own: numpy may take them over.

    >>> unwatched(torch.ones(1)), unwatched(torch.ones(1, requires_grad=True))
    (True, False)
    """
    forward = forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
    return readable(x) and not (x.requires_grad or forward) and _get_current_dispatch_mode() is None


@contextmanager
def recording() -> Iterator[None]:
    """A block whose operations are recorded, so that no decision may depend on their results."""
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def onto(x: Float[Tensor, "*shape"], device: torch.device | str) -> Float[Tensor, "*shape"]:
    """x on a device, in float32 or better: as states are kept, whatever the precision of data and network.

    >>> onto(torch.ones(1, dtype=torch.float16), "cpu").dtype
    torch.float32
    """
    if x.dtype == torch.float32 and x.device == device:
        return x
    place = torch.device(device)
    if x.dtype == torch.float64 and has_float64(place.type):
        return sent(x, place)
    return sent(x, place, torch.float32)


def precise(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x where it lies, in float32 or better.

    >>> precise(torch.ones(1, dtype=torch.float16)).dtype
    torch.float32
    """
    return x if x.dtype is torch.float32 else onto(x, x.device)


def kept(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """x on the host, in a dtype that numpy has.

    >>> kept(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.cpu().float() if x.dtype == torch.bfloat16 else x.cpu()


def native(x: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """x in this machine's order of bytes, which torch needs; files of FITS, for one, have the other.

    >>> native(np.ones(2, ">f4")).dtype
    dtype('float32')
    """
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def copied(x: Shaped[ArrayLike, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """An array or a list as a tensor that shares no memory with it.

    >>> copied(np.ones(2, ">i8"))
    tensor([1, 1])
    """
    return torch.from_numpy(native(np.array(x)))


def all_finite(x: Float[Tensor, "*shape"]) -> bool:
    """Whether no number is NaN or inf; where none is, by one pass, of a sum.

    >>> all_finite(torch.full((2,), 3e38)), all_finite(torch.tensor([0.0, math.nan]))
    (True, False)
    """
    return math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())


def square_norm(x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
    """||x||^2 per sample: of stretches in the precision of x, of those and of what is left in float64.

    >>> square_norm(torch.tensor([[3.0, 4.0]]))
    tensor([25.], dtype=torch.float64)
    """
    norms = [wide(torch.linalg.vector_norm(part, dim=2)) for part in _stretches(x)]
    return torch.cat(norms, 1).square().sum(1)


def total(x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, " batch"]:
    """The sum per sample, likewise.

    >>> total(torch.tensor([[3.0, 4.0]]))
    tensor([7.], dtype=torch.float64)
    """
    return torch.cat([wide(part.sum(2)) for part in _stretches(x)], 1).sum(1)


def _stretches(x: Tensor) -> list[Tensor]:
    """(batch, stretches, STRETCH) of x, and (batch, 1, rest) in float64, where there is any."""
    rows = precise(x).flatten(1)
    whole = rows.shape[1] // STRETCH * STRETCH
    parts = [wide(rows[:, None, whole:])] if whole == 0 or whole < rows.shape[1] else []
    return [rows[:, :whole].unflatten(1, (-1, STRETCH)), *parts] if whole else parts


class Cast:
    """A float64 array, sent once to every device in every dtype.

    >>> Cast(np.ones(2)).like(torch.zeros(1))
    tensor([1., 1.])
    """

    def __init__(self, array: ArrayLike) -> None:
        self._array = np.asarray(array, dtype=np.float64)
        self._tensors: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, x: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """It in the dtype of x, where x is."""
        key = (x.dtype, x.device)
        if key not in self._tensors:
            with torch.inference_mode(False):  # what is kept must serve autograd later
                self._tensors[key] = sent(torch.tensor(self._array, dtype=x.dtype), x.device)
        return self._tensors[key]


def numbers(name: str, value: Any) -> Array:
    """A float64 numpy array of finite numbers.

    Raises:
        InputError: something else.

    >>> numbers("betas", [0.1, 0.2])
    array([0.1, 0.2])
    """
    try:
        if not isinstance(value, Tensor) and np.asarray(value).dtype.kind in "SU":
            raise InputError(f"need numbers, got {value!r}")  # which numpy would read
        array = as_array(value)
    except (InputError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error
    if not np.all(np.isfinite(array)):
        raise InputError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
    return array


def as_array(value: Any) -> Array:
    """A float64 numpy array of a float, array or tensor.

    >>> as_array(torch.ones(2, requires_grad=True))
    array([1., 1.])
    """
    try:
        # numpy has no bfloat16.
        return np.asarray(value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"need numbers, got {value!r}") from error


def packed(array: NDArray[Any]) -> dict[str, Any]:
    """An array as JSON has it, every bit of it.

    >>> packed(np.array([[0.5]]))
    {'dtype': 'float64', 'shape': [1, 1], 'base64': 'AAAAAAAA4D8='}
    """
    kind = "int64" if array.dtype.kind in "iu" else "float64"
    data = np.ascontiguousarray(array, np.dtype(kind).newbyteorder("<")).tobytes()
    return {"dtype": kind, "shape": list(array.shape), "base64": base64.b64encode(data).decode()}


def unpacked(content: Mapping[str, Any]) -> NDArray[Any]:
    """The array of what `packed` gave.

    Raises:
        InputError: something else.

    >>> unpacked(packed(np.arange(3.0)))
    array([0., 1., 2.])
    """
    try:
        kind, shape = content["dtype"], [int(size) for size in content["shape"]]
        data = base64.b64decode(content["base64"], validate=True)
        fits = kind in PACKED and min(shape, default=0) >= 0 and len(data) == 8 * math.prod(shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"not a packed array ({error!r})") from error
    if not fits:
        raise InputError(f"{len(data)} bytes are no {kind} of shape {shape}")
    return np.frombuffer(data, np.dtype(kind).newbyteorder("<")).astype(kind).reshape(shape)
