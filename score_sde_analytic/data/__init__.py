"""Declared ranges, statistics of data, readers, and orthonormal changes of coordinates."""

from score_sde_analytic.data.basis import Basis, Block, Channel, Pixel, PixelChannel, Scalar
from score_sde_analytic.data.caching import Cached, cached
from score_sde_analytic.data.emoji import Emoji, emoji
from score_sde_analytic.data.examples import Batch, Examples
from score_sde_analytic.data.images import Images, images
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.sources import digit_labels, digits, patches, photographs, read_idx_images, read_idx_labels
from score_sde_analytic.data.splits import split
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.data.transforms import DCT, PCA, ColourDCT

__all__ = [
    "DCT",
    "PCA",
    "Basis",
    "Batch",
    "Block",
    "Cached",
    "Channel",
    "ColourDCT",
    "DataRange",
    "DataStatistics",
    "Emoji",
    "Examples",
    "Images",
    "Pixel",
    "PixelChannel",
    "Scalar",
    "cached",
    "digit_labels",
    "digits",
    "emoji",
    "images",
    "patches",
    "photographs",
    "read_idx_images",
    "read_idx_labels",
    "split",
]
