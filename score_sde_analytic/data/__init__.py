"""Declared ranges, statistics of data, and readers."""

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.sources import digit_labels, digits, patches, photographs, read_idx_images, read_idx_labels, split
from score_sde_analytic.data.statistics import DataStatistics

__all__ = [
    "DataRange",
    "DataStatistics",
    "Examples",
    "digit_labels",
    "digits",
    "patches",
    "photographs",
    "read_idx_images",
    "read_idx_labels",
    "split",
]
