"""How alike two images are, pair by pair: what a translation kept of its source.

root mean square      sqrt(mean (x - y)^2), in data units
low-pass difference   the same of means over blocks of pixels
structural similarity SSIM, 1 for equal images (Wang et al., IEEE TIP 2004), as scikit-image has it: uniform windows
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import Array, wide
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import optional
from score_sde_analytic.guidance.experts import LowPass

#: Side of the windows in which structure is compared, where images have room for it.
WINDOW = 7


def root_mean_square(x: Float[Tensor, " n *dims"], y: Float[Tensor, " n *dims"]) -> Float64[Array, " n"]:
    """sqrt(mean (x - y)^2) of every pair.

    >>> root_mean_square(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    array([1.])
    """
    _require_alike(x, y)
    return wide(x - y).square().flatten(1).mean(1).sqrt().cpu().numpy()


def low_pass_difference(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], factor: int) -> Float64[Array, " n"]:
    """sqrt(mean (P x - P y)^2) of every pair, P the means over blocks of `factor` x `factor` pixels.

    >>> y = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
    >>> low_pass_difference(torch.zeros(1, 1, 2, 2), y, factor=2)
    array([0.])
    """
    low_pass = LowPass(factor)
    return root_mean_square(low_pass.image(x), low_pass.image(y))


def structural_similarity(
    x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], data_range: DataRange
) -> Float64[Array, " n"]:
    """SSIM of every pair, the mean over windows of 7 x 7 pixels (or less, of small images) and channels.

    >>> x = torch.rand(1, 1, 8, 8)
    >>> float(structural_similarity(x, x, DataRange(0.0, 1.0))[0])
    1.0

    Raises:
        InputError: images of other shapes, or of a side below 3.
        MissingExtraError: scikit-image is not installed.
    """
    _require_alike(x, y)
    side = min(*x.shape[-2:])
    if side < 3:
        raise InputError(f"SSIM compares windows of at least 3 x 3 pixels, the images are {tuple(x.shape[1:])}")
    settings = {"data_range": data_range.hi - data_range.lo, "channel_axis": 0, "win_size": min(WINDOW, side - 1 + side % 2)}
    ssim = _scikit_image().structural_similarity
    pairs = zip(wide(x).cpu().numpy(), wide(y).cpu().numpy(), strict=True)
    return np.array([ssim(a, b, **settings) for a, b in pairs])


def _scikit_image() -> Any:
    return optional("skimage.metrics", extra="translate", user="SSIM", package="scikit-image")


def _require_alike(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise InputError(f"images are compared pair by pair, got {tuple(x.shape)} and {tuple(y.shape)}")
