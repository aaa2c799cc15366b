"""The front door: a network measured once, and everything that follows from it."""

from score_sde_analytic.study.analysis import analyse
from score_sde_analytic.study.names import ChainName, CovarianceName, GridName, covariance_names
from score_sde_analytic.study.settings import Knots, Search, Settings, Structure
from score_sde_analytic.study.study import Study
from score_sde_analytic.study.translation import grid_from, translation

__all__ = [
    "ChainName",
    "CovarianceName",
    "GridName",
    "Knots",
    "Search",
    "Settings",
    "Structure",
    "Study",
    "analyse",
    "covariance_names",
    "grid_from",
    "translation",
]
