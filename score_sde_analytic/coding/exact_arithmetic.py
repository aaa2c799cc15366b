"""Exact arithmetic for whatever runs inside: results are equal to the last bit for any batch, order of sums, threads and BLAS.

Every operation of torch, however it is called, arrives here and is carried out in float64 by `exact_operations`; floating-point
tensors of other precisions are read as they are and widened. What is not known to be reproducible is refused, never passed on.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import FrameType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward
from torch.utils._python_dispatch import TorchDispatchMode

from score_sde_analytic.coding.exact_operations import COMPUTED, CREATIONS, MOVES, REFUSED, ROUNDED_ONCE, NotExactError, wide
from score_sde_analytic.coding.exact_sums import Grids
from score_sde_analytic.errors import UnsupportedError

#: In place, by themselves.
WRITES = ("copy_", "fill_", "zero_")
COMPLEX = (torch.complex32, torch.complex64, torch.complex128)
WAY_OUT = "use another layer, or code in float32 arithmetic"


class RefusalError(Exception):
    """Of an operation, in words for whoever asked."""


class _State(threading.local):
    """Of a thread: whether an operation is being carried out, now and where each mode was entered."""

    def __init__(self) -> None:
        self.busy = False
        self.before: list[bool] = []


_state = _State()


class _Carrying(TorchDispatchMode):
    """Carries operations out; raises `NotExactError`, as operators of Python swallow any TypeError."""

    def __init__(self, grids: Grids) -> None:
        super().__init__()
        self.grids = grids

    def __enter__(self) -> Any:
        _state.before.append(_state.busy)
        _state.busy = False
        return super().__enter__()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        _state.busy = _state.before.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _state.busy:  # by a mode inside this one
            return func(*args, **kwargs)
        _check_place(args)
        _state.busy = True
        try:
            return _way(func)(self, args, kwargs)
        except NotExactError as error:
            raise _refusal(func, str(error)) from None
        finally:
            _state.busy = False


class ExactArithmetic(_Carrying):
    """`with ExactArithmetic():` all of torch's operations inside are exact or refused.

    Args:
        weights: tensors that stay as they are, which are rounded once instead of at every use.

    >>> x = torch.randn(64, 100)
    >>> with ExactArithmetic():
    ...     sums, one = x.exp().sum(1), x[5:6].flip(1).exp().sum(1)
    >>> sums.dtype, torch.equal(sums[5:6], one)
    (torch.float64, True)
    >>> with ExactArithmetic():
    ...     x.cumsum(1)
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.UnsupportedError: exact arithmetic has no aten.cumsum: use another layer, or code in float32
    arithmetic
    """

    def __init__(self, weights: Iterable[Shaped[Tensor, " ..."]] = ()) -> None:
        super().__init__(Grids(weights))

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, RefusalError):
            raise UnsupportedError(str(error)) from None


def _attention(mode: _Carrying, q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, **settings: Any) -> Any:
    """By products and softmax, as it is where torch has no fused form."""
    mask, scale = settings.get("attn_mask"), settings.get("scale")
    with mode:
        answer = torch.ops.aten._scaled_dot_product_attention_math(q, k, v, mask, dropout, causal, scale=scale)[0]
    return answer, answer.new_empty(0)


def _attention_of_heads(mode: _Carrying, q: Any, k: Any, v: Any, dim: int, heads: int, *given: Any) -> Any:
    """As nn.MultiheadAttention has it where it is trained; arguments as torch gives them, by position."""
    into, into_bias, out, out_bias, mask, need, average = (*given, *(None, True, True)[len(given) - 4 :])[:7]
    if mask is not None:
        raise NotExactError(REFUSED["_transformer_encoder_layer_fwd"])
    first = (x.transpose(0, 1) for x in (q, k, v))
    weights = (into, into_bias, None, None, False, 0.0, out, out_bias, False)
    shown = {"need_weights": need, "average_attn_weights": average}
    attend: Any = multi_head_attention_forward
    with mode:
        answer, shares = attend(*first, dim, heads, *weights, **shown)
        return answer.transpose(0, 1), answer.new_empty(0) if shares is None else shares


#: What torch has one kernel for, written out.
FUSED: dict[str, Callable[..., Any]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_native_multi_head_attention": _attention_of_heads,
}
#: How an operation is carried out.
Way = Callable[[_Carrying, tuple[Any, ...], dict[str, Any]], Any]


@cache
def _way(func: Any) -> Way:
    """Found once for each operation."""
    name = func.overloadpacket.__name__
    if func.namespace != "aten" or any(argument.is_out for argument in func._schema.arguments):
        return _refused("")
    if name in FUSED:
        return lambda mode, args, kwargs: FUSED[name](_Carrying(mode.grids), *args, **kwargs)
    if name in MOVES or name in WRITES:
        return lambda mode, args, kwargs: func(*args, **kwargs)
    if name.endswith("_") and not name.endswith("__"):
        way = _by_name(name[:-1])
        return lambda mode, args, kwargs: args[0].copy_(way(mode, args, kwargs))
    if name not in COMPUTED and name not in CREATIONS and func._can_decompose():
        return _decomposed(func)
    return _by_name(name)


def _by_name(name: str) -> Way:
    operation: Any = getattr(torch.ops.aten, name, None)
    if name in MOVES:
        return lambda mode, args, kwargs: operation(*args, **kwargs)
    if name in CREATIONS:
        return lambda mode, args, kwargs: operation(*args, **_widened(kwargs))
    if name == "_to_copy":
        return lambda mode, args, kwargs: operation(args[0], **_widened(kwargs))
    if name in ROUNDED_ONCE:
        return lambda mode, args, kwargs: operation(*map(wide, args), **kwargs)
    if name in COMPUTED:
        return lambda mode, args, kwargs: COMPUTED[name](mode.grids, *args, **kwargs)
    return _refused(REFUSED.get(name, ""))


def _decomposed(func: Any) -> Way:
    def way(mode: _Carrying, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with _Carrying(mode.grids):
            return func.decompose(*args, **kwargs)

    return way


def _refused(why: str) -> Way:
    def way(mode: _Carrying, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotExactError(why or WAY_OUT)

    return way


def _widened(kwargs: dict[str, Any]) -> dict[str, Any]:
    """float64 where another precision was asked for."""
    dtype = kwargs.get("dtype")
    return kwargs | ({"dtype": torch.float64} if dtype is not None and dtype.is_floating_point else {})


def _check_place(args: tuple[Any, ...]) -> None:
    for x in args:
        if isinstance(x, Tensor) and (not x.is_cpu or x.dtype in COMPLEX or x.layout is not torch.strided):
            raise RefusalError("exact arithmetic is for real, dense tensors on the CPU; move model and data there")


def _refusal(func: Any, why: str) -> RefusalError:
    layer = next(_layers(sys._getframe(2)), None)
    where = "" if layer is None else f", of which {layer} makes use"
    name = func.overloadpacket.__name__
    return RefusalError(f"exact arithmetic has no {func.namespace}.{name}{where}: {why}")


def _layers(frame: FrameType | None) -> Iterator[str]:
    """The modules at work, innermost first."""
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            yield type(owner).__name__
        frame = frame.f_back
