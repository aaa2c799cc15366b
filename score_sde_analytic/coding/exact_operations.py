"""The operations of networks in exact arithmetic, by their names in aten; arguments are as aten's.

Three kinds are as torch has them: those that move numbers, those that IEEE 754 rounds in one way, and sums of integers. The
rest is made of sums on grids and of functions by tables. What is in none of the lists is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from score_sde_analytic.coding import exact_functions as functions
from score_sde_analytic.coding.exact_sums import Grids, location_and_scale, mean, total


def _named(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Views and copies: numbers are what they were.
MOVES = _named(
    """
    _local_scalar_dense _reshape_alias _unsafe_view _upsample_nearest_exact1d
    _upsample_nearest_exact2d alias as_strided channel_shuffle clone constant_pad_nd detach diagonal
    embedding expand flip gather im2col index index_select is_same_size lift_fresh narrow permute
    pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d repeat replication_pad1d
    replication_pad2d roll select slice split split_with_sizes squeeze t transpose tril triu unbind
    unfold unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d view
    """
)
#: New tensors of given numbers.
CREATIONS = _named(
    """
    empty empty_like empty_strided full full_like new_empty new_full new_ones new_zeros ones
    ones_like scalar_tensor zeros zeros_like
    """
)
#: Rounded in one way, number by number, or not at all.
ROUNDED_ONCE = _named(
    """
    abs all amax amin any bitwise_and bitwise_not bitwise_or bitwise_xor bucketize cat ceil clamp
    clamp_max clamp_min copy eq equal fill floor ge gt hardtanh isfinite isinf isnan le leaky_relu
    logical_and logical_not logical_or logical_xor lt masked_fill max max_pool2d_with_indices
    max_pool3d_with_indices maximum min minimum mul ne neg reciprocal relu searchsorted sign sqrt
    stack threshold trunc where
    """
)
#: Why, and what to do.
REFUSED = {
    "upsample_bilinear2d": "use nearest interpolation or a transposed convolution",
    "upsample_bicubic2d": "use nearest interpolation or a transposed convolution",
    "_transformer_encoder_layer_fwd": "switch it off: torch.backends.mha.set_fastpath_enabled(False)",
}


class NotExactError(Exception):
    """Arguments for which an operation is not reproducible: why, and what to do."""


def _number(x: Any) -> bool:
    return not isinstance(x, Tensor)


def wide(x: Any) -> Any:
    """Floating-point tensors in float64, also inside lists; all else as it is."""
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    return [wide(part) for part in x] if isinstance(x, list | tuple) and any(isinstance(p, Tensor) for p in x) else x


def real(x: Any) -> Any:
    """Numbers of any kind in float64."""
    return x.double() if isinstance(x, Tensor) else x


def _add(grids: Grids, x: Any, y: Any, alpha: float = 1) -> Tensor:
    scaled = wide(y) if alpha == 1 else wide(y) * alpha
    return torch.add(wide(x), scaled)


def _sub(grids: Grids, x: Any, y: Any, alpha: float = 1) -> Tensor:
    scaled = wide(y) if alpha == 1 else wide(y) * alpha
    return torch.sub(wide(x), scaled)


def _rsub(grids: Grids, x: Tensor, y: Any, alpha: float = 1) -> Any:
    return wide(y) - (wide(x) if alpha == 1 else wide(x) * alpha)


def _div(grids: Grids, x: Any, y: Any, rounding_mode: str | None = None) -> Tensor:
    floating = any(isinstance(part, float) or (isinstance(part, Tensor) and part.is_floating_point()) for part in (x, y))
    if rounding_mode is None:
        return torch.div(real(x), real(y))
    if floating:
        raise NotExactError("division with rounding of floating-point numbers")
    return torch.div(x, y, rounding_mode=rounding_mode)


def _lerp(grids: Grids, start: Tensor, end: Tensor, weight: Any) -> Tensor:
    start, end = wide(start), wide(end)
    return start + (end - start) * wide(weight)


def _addcmul(grids: Grids, x: Tensor, a: Tensor, b: Tensor, value: float = 1) -> Tensor:
    return wide(x) + wide(a) * wide(b) * value


def _pow(grids: Grids, base: Any, exponent: Any) -> Tensor:
    if _number(base):
        logarithm = functions.log(torch.full((), float(base), dtype=torch.float64))
        return functions.exp(real(exponent) * logarithm)
    known: dict[float, Callable[[Tensor], Tensor]] = {
        0.5: torch.sqrt,
        1: lambda x: x.clone(),
        2: lambda x: x * x,
        3: lambda x: x * x * x,
        4: lambda x: (x * x) * (x * x),
        -0.5: lambda x: 1.0 / x.sqrt(),
        -1: lambda x: 1.0 / x,
    }
    if not _number(exponent) or exponent not in known:
        raise NotExactError(f"powers other than {', '.join(map(str, known))}")
    whole = not base.is_floating_point() and exponent in (1, 2, 3, 4)
    return known[exponent](base if whole else real(base))


def _rsqrt(grids: Grids, x: Tensor) -> Tensor:
    return 1.0 / real(x).sqrt()


def _arange(grids: Grids, *span: Any, **kwargs: Any) -> Tensor:
    if any(value != int(value) for value in span):
        raise NotExactError("a range of fractions; use a range of whole numbers times a step")
    return torch.arange(*span, **kwargs)


def _convolution(grids: Grids, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    y = grids.convolution(x, weight, geometry[3], *geometry)
    return y if bias is None else y.add_(wide(bias).reshape(-1, *(1,) * (y.ndim - 2)))


def _mm(grids: Grids, a: Tensor, b: Tensor) -> Tensor:
    return grids.product(a, b)


def _mv(grids: Grids, a: Tensor, b: Tensor) -> Tensor:
    return grids.product(a, b[:, None])[:, 0]


def _dot(grids: Grids, a: Tensor, b: Tensor) -> Tensor:
    return grids.product(a[None], b[:, None])[0, 0]


def _addmm(grids: Grids, x: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    product = grids.product(a, b)
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product
    return product + (wide(x) if beta == 1 else wide(x) * beta)


def _sum(grids: Grids, x: Tensor, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    if not x.is_floating_point():
        return x.sum(tuple(_all(x, dims)), keepdim=keepdim) if x.ndim else x.long()
    return total(x.double(), _all(x, dims), keepdim) if x.ndim else x.double()


def _mean(grids: Grids, x: Tensor, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return mean(x.double(), _all(x, dims), keepdim) if x.ndim else x.double()


def _norm(grids: Grids, x: Tensor, order: float = 2, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    if order != 2:
        raise NotExactError("norms other than the Euclidean one")
    x = x.double()
    return total(x * x, _all(x, dims), keepdim).sqrt()


def _variance(grids: Grids, x: Tensor, dims: Any = None, correction: float = 1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    x, dims = x.double(), _all(x, dims)
    centre = mean(x, dims, keepdim=True)
    squares = (x - centre) * (x - centre)
    terms = math.prod(x.shape[dim] for dim in dims)
    return total(squares, dims, keepdim) / (terms - correction), centre if keepdim else mean(x, dims)


def _all(x: Tensor, dims: Any) -> Sequence[int]:
    if dims is None or dims == []:
        return range(x.ndim)
    return [dims] if isinstance(dims, int) else dims


def _softmax(grids: Grids, x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    x = x.double()
    shares = functions.exp(x - x.amax(dim, keepdim=True))
    return shares / total(shares, [dim], keepdim=True)


def _safe_softmax(grids: Grids, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    nothing = (x == -torch.inf).all(dim, keepdim=True)
    return _softmax(grids, x, dim).masked_fill_(nothing, 0.0)


def _group_norm(
    grids: Grids, x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, size: int, groups: int, eps: float
) -> tuple[Tensor, ...]:
    x, ones = x.double(), (1,) * (x.ndim - 2)
    centre, scale = location_and_scale(x.reshape(n, groups, -1), [2], eps)
    a = scale.expand(n, groups, c // groups).reshape(n, c)
    a = a if weight is None else a * wide(weight)
    b = -(centre.expand(n, groups, c // groups).reshape(n, c) * a)
    b = b if bias is None else b + wide(bias)
    return (x * a.reshape(n, c, *ones)).add_(b.reshape(n, c, *ones)), centre[..., 0], scale[..., 0]


def _layer_norm(
    grids: Grids, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    x = x.double()
    centre, scale = location_and_scale(x, range(x.ndim - len(shape), x.ndim), eps)
    return _affine((x - centre) * scale, weight, bias, tuple(shape)), centre, scale


def _rms_norm(grids: Grids, x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, ...]:
    x = x.double()
    margin = torch.finfo(torch.float64).eps if eps is None else eps
    scale = 1.0 / (mean(x * x, range(x.ndim - len(shape), x.ndim), keepdim=True) + margin).sqrt()
    return _affine(x * scale, weight, None, tuple(shape)), scale


def _batch_norm(
    grids: Grids, x: Tensor, weight: Tensor | None, bias: Tensor | None, centre: Tensor, variance: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    if len(settings) == 3 and settings[0]:
        raise NotExactError("batch normalisation in training mode; call net.eval()")
    shape = (-1, *(1,) * (x.ndim - 2))
    scale = 1.0 / (wide(variance) + settings[-1]).sqrt()
    y = (x.double() - wide(centre).reshape(shape)) * scale.reshape(shape)
    return _affine(y, weight, bias, shape), centre.new_empty(0), centre.new_empty(0)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    x = x if weight is None else x * wide(weight).reshape(shape)
    return x if bias is None else x + wide(bias).reshape(shape)


def _average(
    grids: Grids,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    if ceil_mode or (any(padding) and not count_include_pad):
        raise NotExactError("averages over windows of different sizes; use ceil_mode=False, count_include_pad=True")
    kernel = [*kernel, *kernel][:2]
    example = range(x.ndim - 3, x.ndim)
    rounded = grids(x, example, 53 - (math.prod(kernel) - 1).bit_length() - 2)
    sums = torch.nn.functional.avg_pool2d(rounded, kernel, [*stride] or None, [*padding], divisor_override=1)
    return sums / (divisor_override or math.prod(kernel))


def _elu(grids: Grids, x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    x = x.double()
    return torch.where(x > 0, x * scale, (functions.exp(x * input_scale) - 1.0) * (alpha * scale))


def _function(name: str) -> Callable[..., Tensor]:
    return lambda grids, x, **settings: functions.FUNCTIONS[name](real(x), **settings)


COMPUTED: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "div": _div,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "pow": _pow,
    "rsqrt": _rsqrt,
    "arange": _arange,
    "convolution": _convolution,
    "mm": _mm,
    "bmm": _mm,
    "mv": _mv,
    "dot": _dot,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "sum": _sum,
    "mean": _mean,
    "linalg_vector_norm": _norm,
    "var": lambda *args, **kwargs: _variance(*args, **kwargs)[0],
    "var_mean": _variance,
    "_softmax": _softmax,
    "_safe_softmax": _safe_softmax,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "avg_pool2d": _average,
    "elu": _elu,
    **{name: _function(name) for name in functions.FUNCTIONS},
}
