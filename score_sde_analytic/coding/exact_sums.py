"""Sums that do not depend on their order: of numbers on a grid, in float64.

The numbers of a sum are multiples of a unit u, and n of them, each at most 2^b u, make partial sums that are multiples of u,
at most n 2^b u. Where n 2^b <= 2^53 all of these are float64 numbers, so no addition rounds, in whatever order and whether or
not it is fused with a multiplication. For products of numbers of b bits u is a product of units, the condition n 2^2b <= 2^53.

Units follow the largest number of a row, a column, a filter or an example, never that of a batch: nothing leaves the range,
whatever the scale of a network, and what a row gives does not depend on its neighbours. Rounding costs half a unit:
2^-22 of the largest number for sums of 512 products, 2^-20 for 8,192.

This holds for all that sums products: loops, any BLAS, im2col. It would not for Strassen's or Winograd's algorithm, which
sum before they multiply, nor for Fourier transforms; torch uses none of these for float64 on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

#: Of a float64 number.
BITS = 53
#: To which x + magic - magic rounds: magic lies in the middle of its binade.
MOST_BITS = 51
#: Smaller numbers are rounded as this one: units of products stay far from the least normal number.
TINY = 2.0**-300
#: Where a float64 number has its exponent.
EXPONENT = 0x7FF << 52
#: Numbers that a convolution unfolds at once; they should stay near the processor.
UNFOLDED = 2**17


def bits_of_terms(terms: int) -> int:
    """b of sums of so many numbers.

    >>> bits_of_terms(1024)
    43
    """
    return min(BITS - (terms - 1).bit_length(), MOST_BITS)


def bits_of_products(terms: int) -> int:
    """b of both factors in sums of so many products.

    >>> bits_of_products(512)
    22
    """
    return (BITS - (terms - 1).bit_length()) // 2


def on_grid(x: Float64[Tensor, "*shape"], dims: Sequence[int], bits: int) -> Float64[Tensor, "*shape"]:
    """x rounded to multiples of 2^(e - bits), |x| <= 2^e, with one e for all that differ in `dims` alone.

    >>> on_grid(torch.tensor([[1.0, 0.3], [100.0, 0.3]], dtype=torch.float64), [1], bits=8)
    tensor([[  1.0000,   0.2969],
            [100.0000,   0.5000]], dtype=torch.float64)
    """
    power = x.abs().amax(tuple(dims), keepdim=True).clamp_min_(TINY)
    power.view(torch.int64).bitwise_and_(EXPONENT)  # 2^(e-1); neither exp2 nor pow need be exact
    magic = power.mul_(1.5 * 2.0 ** (BITS - bits))
    return (x + magic).sub_(magic)


class Grids:
    """Operands on their grids; those that are weights are rounded once.

    Args:
        weights: tensors that stay as they are.
    """

    def __init__(self, weights: Iterable[Shaped[Tensor, " ..."]] = ()) -> None:
        held = (weight.untyped_storage() for weight in weights)
        self._weights = {storage.data_ptr(): storage for storage in held}  # held: no other tensor can lie there
        self._rounded: dict[Any, Tensor] = {}

    def __call__(self, x: Float[Tensor, "*shape"], dims: Sequence[int], bits: int) -> Float64[Tensor, "*shape"]:
        """`on_grid`."""
        place = x.untyped_storage().data_ptr()
        if place not in self._weights:
            return on_grid(x.double(), dims, bits)
        version = None if x.is_inference() else x._version
        key = (place, x.storage_offset(), tuple(x.shape), x.stride(), x.dtype, version, tuple(dims), bits)
        if key not in self._rounded:
            self._rounded[key] = on_grid(x.double(), dims, bits)
        return self._rounded[key]

    def product(
        self, a: Float[Tensor, "*batch rows terms"], b: Float[Tensor, "*batch terms columns"]
    ) -> Float64[Tensor, "*batch rows columns"]:
        """a b: every number is a function of its row and its column alone."""
        bits = bits_of_products(a.shape[-1])
        return self(a, [-1], bits) @ self(b, [-2], bits)

    def convolution(
        self, x: Float[Tensor, " batch *dims"], weight: Float[Tensor, " filters *kernel"], transposed: bool, *geometry: Any
    ) -> Float64[Tensor, " batch *out"]:
        """x * weight: every number is a function of its example and its filter alone.

        Args:
            geometry: as aten.convolution has it: stride, padding, dilation, transposed, output_padding, groups.
        """
        terms = math.prod(weight.shape) // weight.shape[1] if transposed else math.prod(weight.shape[1:])
        bits = bits_of_products(terms)
        own = range(weight.ndim) if transposed else range(1, weight.ndim)
        operands = self(x, range(1, x.ndim), bits), self(weight, own, bits)
        together = max(1, UNFOLDED // (terms * math.prod(x.shape[2:])))
        parts = [torch.ops.aten.convolution(part, operands[1], None, *geometry) for part in operands[0].split(together)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def total(x: Float64[Tensor, "*shape"], dims: Sequence[int], keepdim: bool = False) -> Float64[Tensor, "*out"]:
    """Sums over some dimensions.

    >>> x = torch.randn(64, 100, dtype=torch.float64)
    >>> torch.equal(total(x, [1]), total(x.flip(1), [1]))
    True
    """
    terms = math.prod(x.shape[dim] for dim in dims)
    return on_grid(x, dims, bits_of_terms(terms)).sum(tuple(dims), keepdim=keepdim)


def mean(x: Float64[Tensor, "*shape"], dims: Sequence[int], keepdim: bool = False) -> Float64[Tensor, "*out"]:
    """Means over some dimensions."""
    return total(x, dims, keepdim) / math.prod(x.shape[dim] for dim in dims)


def location_and_scale(
    x: Float64[Tensor, "*shape"], dims: Sequence[int], eps: float
) -> tuple[Float64[Tensor, "*ones"], Float64[Tensor, "*ones"]]:
    """The mean and 1 / sqrt(variance + eps) over some dimensions, of x on a grid of sums of squares."""
    terms = math.prod(x.shape[dim] for dim in dims)
    rounded = on_grid(x, dims, bits_of_products(terms))
    centre = rounded.sum(tuple(dims), keepdim=True).div_(terms)
    square = rounded.square_().sum(tuple(dims), keepdim=True).div_(terms)
    return centre, 1.0 / (square - centre * centre).clamp_min_(0.0).add_(eps).sqrt_()
