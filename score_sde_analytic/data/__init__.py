"""Declared ranges, statistics of data, readers, and orthonormal changes of coordinates."""

from score_sde_analytic.data.basis import Basis, Channel, Pixel, PixelChannel, Scalar
from score_sde_analytic.data.emoji import Emoji, emoji
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.sources import digit_labels, digits, patches, photographs, read_idx_images, read_idx_labels, split
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.data.transforms import DCT, PCA, ColourDCT

__all__ = [
    "DCT",
    "PCA",
    "Basis",
    "Channel",
    "ColourDCT",
    "DataRange",
    "DataStatistics",
    "Emoji",
    "Examples",
    "Pixel",
    "PixelChannel",
    "Scalar",
    "digit_labels",
    "digits",
    "emoji",
    "patches",
    "photographs",
    "read_idx_images",
    "read_idx_labels",
    "split",
]
