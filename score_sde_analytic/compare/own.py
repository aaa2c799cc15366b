"""Which solvers are this package's own, and which are published elsewhere."""

from __future__ import annotations

from score_sde_analytic.compare.registry import SolverName
from score_sde_analytic.study.names import AUTO

#: Entries whose method is this package's.
OWN = ("analytic_multistep", "spectrum_table", "fewest", "fewest_chosen")


def own(name: SolverName) -> bool:
    """Whether a solver is this package's own: tables, extrapolation with optimal noise, covariances in a basis.

    >>> own(SolverName.parse("fewest")), own(SolverName.parse("ancestral(pca)")), own(SolverName.parse("ddim"))
    (True, True, False)
    """
    covariance = name.covariance
    in_basis = covariance is not None and (covariance.structured or covariance.base == AUTO)
    return name.base in OWN or name.base == "multistep" or in_basis
