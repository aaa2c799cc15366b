"""What a study is asked to measure, to try and to search, as values that travel together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from score_sde_analytic.measure.curve import Source


@dataclass(frozen=True)
class Knots:
    """Noise levels of the pass, about even in log-SNR, as far as the schedule has them.

    Attributes:
        low, high: log-SNR of the first and the last.
        count: how many to begin with.
        most: how many there may be in the end; they are added where the curve between them is in doubt.
    """

    low: float = -10.0
    high: float = 10.2
    count: int = 50
    most: int = 128


@dataclass(frozen=True)
class Structure:
    """Which covariances diagonal in a basis are recorded, and how they are fitted and chosen, by held-out bits.

    Attributes:
        bases, statistics: recorded besides those that are named; empty for those that suit the data, where "auto" is named.
        pca_rank: components of the basis "pca"; 0 for all, exactly.
        bins, shrinkage, smooth: settings of the fit to choose among.
        steps: of the chain, even in log-SNR, whose held-out bits decide.
    """

    bases: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    pca_rank: int = 0
    bins: tuple[int, ...] = (1, 4, 8, 16)
    shrinkage: tuple[float, ...] = (0.0, 30.0, 300.0, math.inf)
    smooth: tuple[bool, ...] = (False, True)
    steps: int = 10


@dataclass(frozen=True)
class Search:
    """Where the times of a grid may lie.

    Attributes:
        points: levels of the dynamic programme, even in log-SNR.
        table: N > 0 takes the times n/N instead, for networks that know whole indices only.
        log_snr_max: of the first time t_1: of fixed grids, and the highest that is searched.
        min_spacing: smallest difference of log-SNR between neighbouring times.
        most: grids by dynamic programming are found for every number of steps up to this at once.
    """

    points: int = 1000
    table: int = 0
    log_snr_max: float = 9.0
    min_spacing: float = 0.0
    most: int = 100


@dataclass(frozen=True)
class Settings:
    """Everything a study decides by itself unless told otherwise.

    Attributes:
        covariance: of grids, chains and samples that name none.
        decoder: the last step of bounds: "gaussian" at its best width, "categorical", or "none" (the density of x_{t_1}).
        capped: curves capped by what the data's covariance allows an exact score.
        products: vector products per sampling step of the covariance "tweedie".
        two_sided: whether they are with the symmetrised Jacobian.
        knots, structure, search: see there.
    """

    covariance: str = "isotropic"
    decoder: str = "gaussian"
    capped: tuple[Source, ...] = ("score",)
    products: int = 3
    two_sided: bool = False
    knots: Knots = field(default_factory=Knots)
    structure: Structure = field(default_factory=Structure)
    search: Search = field(default_factory=Search)
