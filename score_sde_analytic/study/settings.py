"""What a study is asked to measure, to try and to search, as values that travel together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

from score_sde_analytic.checks import COUNT, COUNT_OR_NONE, LOG_SNR, each, flag, number, one_of, settle, whole
from score_sde_analytic.data.bases import BASES
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.curve import Source
from score_sde_analytic.measure.last_step import DECODERS
from score_sde_analytic.measure.statistics import STATISTICS
from score_sde_analytic.study.names import COVARIANCE, SOURCES


@dataclass(frozen=True)
class Knots:
    """Noise levels of the pass, about even in log-SNR, as far as the schedule has them.

    Attributes:
        low, high: log-SNR of the first and the last.
        count: how many to begin with.
        most: how many there may be in the end; they are added where the curve between them is in doubt.
    """

    low: Annotated[float, LOG_SNR] = -10.0
    high: Annotated[float, LOG_SNR] = 10.2
    count: Annotated[int, whole(1, 10_000)] = 50
    most: Annotated[int, whole(0, 10_000)] = 128

    def __post_init__(self) -> None:
        settle(self)
        if not self.low < self.high:
            raise InputError(f"knots need a lowest log-SNR below the highest, got {self.low:g} and {self.high:g}")


@dataclass(frozen=True)
class Structure:
    """Which covariances diagonal in a basis are recorded, and how they are fitted and chosen, by held-out bits.

    Attributes:
        bases, statistics: recorded besides those that are named; empty for those that suit the data, where "auto" is named.
        pca_rank: components of the basis "pca"; 0 for all, exactly.
        bins, shrinkage, smooth: settings of the fit to choose among.
        steps: of the chain, even in log-SNR, whose held-out bits decide.
    """

    bases: Annotated[tuple[str, ...], each(one_of(BASES))] = ()
    statistics: Annotated[tuple[str, ...], each(one_of(STATISTICS))] = ()
    pca_rank: Annotated[int, COUNT_OR_NONE] = 0
    bins: Annotated[tuple[int, ...], each(whole(1, 10_000), least=1)] = (1, 4, 8, 16)
    shrinkage: Annotated[tuple[float, ...], each(number(0.0, math.inf), least=1)] = (0.0, 30.0, 300.0, math.inf)
    smooth: Annotated[tuple[bool, ...], each(flag(), least=1)] = (False, True)
    steps: Annotated[int, whole(1, 10_000)] = 10

    def __post_init__(self) -> None:
        settle(self)


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

    points: Annotated[int, whole(2, 100_000)] = 1000
    table: Annotated[int, whole(0, 100_000)] = 0
    log_snr_max: Annotated[float, LOG_SNR] = 9.0
    min_spacing: Annotated[float, number(0.0, 100.0)] = 0.0
    most: Annotated[int, whole(1, 100_000)] = 100

    def __post_init__(self) -> None:
        settle(self)


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

    covariance: Annotated[str, COVARIANCE] = "isotropic"
    decoder: Annotated[str, one_of(DECODERS)] = "gaussian"
    capped: Annotated[tuple[Source, ...], each(one_of(SOURCES))] = ("score",)
    products: Annotated[int, COUNT] = 3
    two_sided: Annotated[bool, flag()] = False
    knots: Knots = field(default_factory=Knots)
    structure: Structure = field(default_factory=Structure)
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        settle(self)
