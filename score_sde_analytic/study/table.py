"""Bits per dimension by number of steps, as a table that prints itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from score_sde_analytic.likelihood.bound import BitsPerDim

B = TypeVar("B", bound=BitsPerDim)


class Bits(dict[int, B]):
    """Steps -> bits per dimension, with their errors and parts; prints a line for each number of steps.

    >>> print(study.bits(5, 10))
    K = 5: 1.181 ± 0.059 bits/dim
    K = 10: 1.109 ± 0.063 bits/dim

    Args:
        of: what they are bits of, where that stands for something else, as latents for pictures.
    """

    def __init__(self, values: Mapping[int, B], of: str = "") -> None:
        super().__init__(values)
        self.of = of

    def __str__(self) -> str:
        unit = f"bits/dim of {self.of}" if self.of else "bits/dim"
        return "\n".join(f"K = {steps}: {bits.total:.3f} {unit}" for steps, bits in self.items())
