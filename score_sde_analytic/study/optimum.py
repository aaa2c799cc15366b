"""What the best grids of every number of steps cost, and how many steps an excess over the limit takes, with errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_sde_analytic.arrays import Array
from score_sde_analytic.grids.optimal import budget_law, steps_for
from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.study.search import GridSearch


def optimum(search: GridSearch, steps: Sequence[int], excess: Sequence[float]) -> dict[str, Any]:
    """Bits/dim with the optimal isotropic variance: by dynamic programming for every K, the limit, the 1/K law, step budgets.

    All of it is worked out again without each group of examples: jackknife errors hold the choice of the grids.

    Args:
        steps: K = 2 .. the largest.
        excess: bits/dim over the continuous limit that budgets are asked for.
    """

    def statistic(moments: Moments) -> Array:
        objective = search.objective_of(moments)
        costs = search.costs(moments, steps[-1])
        limit = objective.continuous_limit
        law = [limit + objective.excess_law(k) for k in steps]
        # Whole steps do not vary smoothly from replicate to replicate; interpolated ones do.
        log_k = np.log(np.array(steps))
        log_excess = np.log(np.maximum(costs[1:] - limit, 1e-12))
        budgets = [np.exp(np.interp(-np.log(bits / BITS), -log_excess, log_k)) for bits in excess]
        laws = [budget_law(objective, bits / BITS) for bits in excess]
        return np.concatenate([BITS * np.array([limit, *costs[1:], *law]), budgets, laws])

    both = np.stack(search.moments.jackknife(statistic))  # values, errors
    n, e = len(steps), len(excess)
    limit, costs, law, budgets, laws = np.split(both, np.cumsum([1, n, n, e]), axis=1)
    return {
        "limit": limit[:, 0],
        "steps": list(steps),
        "dp": costs,
        "law": law,
        "excess": list(excess),
        "steps_for": [steps_for(bits / BITS, [math.inf, *costs[0] / BITS], limit[0, 0] / BITS) for bits in excess],
        "steps_for_interpolated": budgets,
        "steps_for_law": laws,
    }
