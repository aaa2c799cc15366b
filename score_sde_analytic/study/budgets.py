"""How few steps are within so many bits of infinitely many."""

from __future__ import annotations

import bisect
import math
from functools import partial

from score_sde_analytic.checks import number
from score_sde_analytic.grids.optimal import budget_law
from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.likelihood.priced import expected_nats
from score_sde_analytic.study.names import DP
from score_sde_analytic.study.reportable import Reportable


def steps_within(study: Reportable, excess: float) -> int:
    """The fewest steps within `excess` bits/dim of the limit, with the optimal isotropic variance.

    >>> steps_within(study, 0.05)
    16
    """
    excess = number(above=0)("the excess", excess) / BITS
    nats = partial(expected_nats, study.moments, study.schedule, statistics=study.statistics)
    most = min(study.settings.search.most, len(study.search.lattice.times))
    limit = nats(study.continuous())

    def within(steps: int) -> bool:
        return nats(study.chain(steps, DP, "isotropic")) - limit <= excess

    if within(most):
        return bisect.bisect_left(range(1, most), True, key=within) + 1
    return max(most + 1, math.ceil(budget_law(study.search.objective, excess)))
