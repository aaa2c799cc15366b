"""Data in a declared range: their levels, and whether values keep to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer, Shaped
from torch import Tensor

from score_sde_analytic.arrays import all_finite, wide
from score_sde_analytic.checks import number, optional, settle, whole
from score_sde_analytic.errors import InputError

#: Largest distance from a level, in bins, at which a value still says which level it is.
CLEAR = 0.25


@dataclass(frozen=True)
class DataRange:
    """The interval data live in and, for discrete data, its number of evenly spaced levels.

    >>> DataRange(levels=256).bin_width == 2 / 255
    True

    Args:
        lo, hi: smallest and largest possible value.
        levels: number of grid values in [lo, hi] (256 for 8-bit images), None for continuous data.
    """

    lo: Annotated[float, number()] = -1.0
    hi: Annotated[float, number()] = 1.0
    levels: Annotated[int | None, optional(whole(2))] = None

    def __post_init__(self) -> None:
        settle(self)
        if not self.lo < self.hi:
            raise InputError(f"need lo < hi, got [{self.lo}, {self.hi}]")

    @property
    def bin_width(self) -> float:
        """Distance between neighbouring levels.

        Raises:
            InputError: the data are continuous.
        """
        if self.levels is None:
            raise InputError("continuous data have no bins; set levels of the DataRange (256 for 8-bit data)")
        return (self.hi - self.lo) / (self.levels - 1)

    def encode(self, integers: Integer[np.ndarray, "*shape"]) -> Float32[Tensor, "*shape"]:
        """Integers 0 .. levels - 1 as float32 values in [lo, hi].

        >>> DataRange(levels=17).encode(np.array([0, 8, 16]))
        tensor([-1., 0., 1.])

        Raises:
            InputError: an integer outside 0 .. levels - 1.
        """
        width = self.bin_width
        if integers.size and not (integers.min() >= 0 and integers.max() < self.levels):
            raise InputError(f"values {integers.min()}..{integers.max()} do not fit {self.levels} levels; check data.levels")
        return torch.from_numpy((self.lo + width * integers.astype(np.float64)).astype(np.float32))

    def index(self, x: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """The level 0 .. levels - 1 of every value, which must lie on the grid (`check`).

        >>> DataRange(levels=17).index(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([ 0, 8, 16])
        """
        return self._places(x).round_().long()

    def check(self, x: Shaped[Tensor, " ..."]) -> None:
        """Raise InputError for values that are not finite, outside [lo, hi], or off the grid of levels, by more than rounding.

        >>> DataRange(levels=17).check(torch.full((1, 2), 0.1))
        Traceback (most recent call last):
            ...
        score_sde_analytic.errors.InputError: data lie off the grid of 17 levels; declare their levels, or levels=None
        """
        check_examples(x)
        rounding = self._rounding(x)
        slack = max(1e-5 * (self.hi - self.lo), rounding)
        if x.min() < self.lo - slack or x.max() > self.hi + slack:
            raise InputError(
                f"data in [{x.min():.4g}, {x.max():.4g}] leave the declared range [{self.lo:g}, {self.hi:g}];"
                " rescale the data or declare their DataRange"
            )
        if self.levels is not None:
            self._check_levels(x, rounding / self.bin_width)

    def _rounding(self, x: Tensor) -> float:
        """What values in the range may be off by: data in float64 may have been float32 before."""
        eps = max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
        return eps * max(abs(self.lo), abs(self.hi))

    def _places(self, x: Tensor) -> Tensor:
        """Where values lie among the levels, in bins and float64."""
        return (wide(x) - self.lo).div_(self.bin_width)

    def _check_levels(self, x: Tensor, rounding: float) -> None:
        if rounding > CLEAR:
            raise InputError(f"{x.dtype} may be too coarse for {self.levels} levels in [{self.lo:g}, {self.hi:g}]; use float32")
        places = self._places(x)
        if places.round().sub_(places).abs_().max() > 1e-3 + rounding:
            raise InputError(f"data lie off the grid of {self.levels} levels; declare their levels, or levels=None")


def check_examples(x: Shaped[Tensor, " ..."]) -> None:
    """Raise InputError unless x is a batch of finite floating-point examples."""
    if not x.is_floating_point():
        raise InputError(f"the data are {x.dtype}; give floating-point values (DataRange.encode converts integers)")
    if x.ndim < 2 or 0 in x.shape:
        raise InputError(f"a batch of examples has shape {tuple(x.shape)}; each example needs at least one dimension")
    if not all_finite(x):
        raise InputError("the data hold NaN or inf; clean them first")
