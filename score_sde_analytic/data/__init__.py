"""Declared ranges, statistics of data, and readers."""

from score_sde_analytic.data.ranges import DataRange, DataStatistics
from score_sde_analytic.data.sources import digit_labels, digits, patches, photographs, read_idx_images, read_idx_labels, split

__all__ = [
    "DataRange",
    "DataStatistics",
    "digit_labels",
    "digits",
    "patches",
    "photographs",
    "read_idx_images",
    "read_idx_labels",
    "split",
]
