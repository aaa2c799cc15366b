"""Which examples a pass visits, in which order, and what must be known of them before it begins."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.data.portions import is_large
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics


def visited(total: int, places: Int64[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " n"]:
    """The examples at some places of an endless chain of seeded permutations.

    >>> sorted(visited(3, np.arange(3, 6), seed=0).tolist())
    [0, 1, 2]
    """
    epochs = {e: np.random.default_rng([seed, e]).permutation(total) for e in np.unique(places // total)}
    return np.array([epochs[p // total][p % total] for p in places])


def known(
    dataset: Examples, statistics: DataStatistics | None, most: int, seed: int, data_range: DataRange | None, progress: bool
) -> tuple[DataStatistics, str]:
    """(statistics, digest of the examples where the statistics do not tell it); of large data only those visited are read.

    Args:
        statistics: as they are given; None measures them.
        most: draws at a knot.

    >>> known(Examples(test_set), None, 300, 0, None, False)[0].count
    100
    """

    dim = dataset.first.numel() if statistics is None else statistics.mean.numel()
    large = is_large(len(dataset), dim)

    def measured() -> DataStatistics:
        if large:
            first = visited(len(dataset), np.arange(min(len(dataset), most)), seed)
            return DataStatistics.of_some(dataset, first, data_range, 0, progress)
        return DataStatistics.of(dataset, data_range, max_eigen=0, progress=progress)

    if statistics is None:
        return measured(), ""
    # A closed form says nothing of the examples drawn from it.
    return statistics, "" if statistics.count and not large else measured().digest
