"""Fourier features of a network's input, which tell how far a pixel is from the nearest level.

    [x, sin(2^n pi z), cos(2^n pi z)],   z = (2 k + 1) / 2^N - 1,   k = (x - lo) / bin

for the highest frequencies n up to N = floor(log2 levels): N = 8 and n = 7, 8 for 256 levels, as in Kingma et al., Variational
diffusion models, NeurIPS 2021. z is theirs: data in [-1, 1] with levels 2 / 2^N apart, so the highest frequency has a period of
one level. x is what the network is fed, x_t in coordinates with alpha^2 + sigma^2 = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from score_sde_analytic.checks import number, whole
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.identity import Wrapper

#: What a network's record says of them.
SHAPE = {"frequencies": [int], "scale": float, "shift": float}


class FourierFeatures(Wrapper):
    """A network of C (1 + 2 F) input channels, given C: the input itself, then sines and cosines of F frequencies.

    Args:
        net: called with the channels.
        frequencies: n.
        scale, shift: z = scale x + shift.
    """

    def __init__(self, net: nn.Module, frequencies: Sequence[int], scale: float, shift: float) -> None:
        super().__init__(net)
        self.frequencies = tuple(whole(0, 30)("frequencies", n) for n in frequencies)
        self.scale = number(above=0.0)("scale", scale)
        self.shift = number()("shift", shift)

    @property
    def settings(self) -> dict[str, Any]:
        return {"fourier": {"frequencies": list(self.frequencies), "scale": self.scale, "shift": self.shift}}

    def forward(self, x: Float[Tensor, " batch *dims"], labels: Shaped[Tensor, " batch"], **conditions: Any) -> Any:
        return self.wrapped(torch.cat([x, self.features(x)], 1), labels, **conditions)

    def features(self, x: Float[Tensor, "batch c *dims"]) -> Float[Tensor, "batch features *dims"]:
        """Sines of all channels and frequencies, then cosines; worked out in float32 at least, in the dtype of x."""
        z = self.scale * x.to(torch.promote_types(x.dtype, torch.float32)) + self.shift
        angles = torch.cat([2.0**n * math.pi * z for n in self.frequencies], 1)
        return torch.cat([angles.sin(), angles.cos()], 1).to(x)


def fourier_of(data_range: DataRange, count: int) -> dict[str, Any]:
    """Frequencies, scale and shift for data of these levels: the `count` highest frequencies.

    >>> fourier_of(DataRange(0.5, 127.5, levels=128), 2)  # bins of 1, z = 2 x / 128 - 1
    {'frequencies': (6, 7), 'scale': 0.015625, 'shift': -1.0}

    Raises:
        InputError: continuous data, or more frequencies than levels have bits.
    """
    if data_range.levels is None:
        raise InputError("Fourier features tell levels apart, continuous data have none: set data.levels, or train.fourier=0")
    highest = int(math.log2(data_range.levels))
    if count > highest:
        raise InputError(f"{data_range.levels} levels have {highest} frequencies, not {count}: lower train.fourier")
    scale = 2.0 / (2**highest * data_range.bin_width)
    shift = 1.0 / 2**highest - 1.0 - scale * data_range.lo
    return {"frequencies": tuple(range(highest - count + 1, highest + 1)), "scale": scale, "shift": shift}
