"""A number with its standard error, and the delete-group jackknife that finds it.

    variance = (g - 1)/g sum_i (T_(-i) - mean T_(-i))^2        not too small on average (Efron & Stein 1981)

with T_(-i) the statistic without group i of g groups of independent examples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from score_sde_analytic.arrays import Array


class Estimate(NamedTuple):
    """A value with its standard error, in the same units.

    >>> print(Estimate(2.5, 0.0123))
    2.500 ± 0.012
    >>> f"{Estimate(-0.25, 0.0123):+.2f}"
    '-0.25 ± 0.01'
    """

    value: float
    stderr: float

    @classmethod
    def of(cls, values: Float[Array, " n"]) -> Estimate:
        """The mean of independent values; NaN where there are too few for a mean, or for its error.

        >>> print(Estimate.of(np.array([1.0, 2.0, 3.0])))
        2.000 ± 0.577
        """
        count = len(values)
        if count == 0:
            return cls(math.nan, math.nan)
        error = values.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
        return cls(float(values.mean()), float(error))

    def apart(self, other: Estimate) -> float:
        """How far it lies above another, independent estimate, in standard errors of the difference.

        >>> Estimate(1.0, 0.3).apart(Estimate(0.5, 0.4))
        1.0
        """
        return (self.value - other.value) / math.hypot(self.stderr, other.stderr)

    def __str__(self) -> str:
        return f"{self:.3f}"

    def __format__(self, spec: str) -> str:
        """`value ± stderr`, both by the format of a float; a sign that it asks for is the value's."""
        if not spec:
            return str(self)
        return f"{self.value:{spec}} ± {self.stderr:{spec.removeprefix('+')}}"


def jackknife_variance(replicates: Float64[Array, " groups *shape"]) -> float | Float64[Array, "*shape"]:
    """Variance of a statistic from its values without each group (axis 0); infinite with fewer than two groups.

    >>> float(jackknife_variance(np.array([1.0, 2.0, 3.0])))
    1.3333333333333333
    """
    groups = len(replicates)
    if groups < 2:  # one example says nothing about another
        return np.full(replicates.shape[1:], math.inf)
    spread = ((replicates - replicates.mean(0)) ** 2).sum(0)
    return (groups - 1) / groups * spread
