"""What a study consists of: a model, what one pass measured, and how it is to be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.judged import Judged
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.study.names import CovarianceName
from score_sde_analytic.study.settings import Settings


@dataclass(frozen=True)
class Kept:
    """What earlier work on a study left: it is not worked out again.

    Attributes:
        covariances: structured ones, by name.
        best: what "auto" stands for, or None where nobody asked.
        grids: by dynamic programming: covariance -> steps -> grid.
    """

    covariances: Mapping[CovarianceName, Diagonal] = field(default_factory=dict)
    best: CovarianceName | None = None
    grids: Mapping[CovarianceName, Mapping[int, Grid]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Record:
    """A measured network.

    Attributes:
        model: the network under its schedule.
        moments: what the pass measured.
        statistics: of the data that it was measured on.
        data_range: their declared range and levels, or None for continuous data.
        shape: of one example.
        recorders: what the pass kept for structured covariances, by basis.
        settings: what is decided unless told otherwise.
        seed: of the pass; bounds are measured with other noise, that of seed + 1.
        device, dtype: of samples.
        heads: kind -> folder of a trained head (`with_heads`).
        own: covariances that were written elsewhere, by name (`with_covariance`).
        kept: what earlier work on it left (`load`).
        free: a Gaussian of the training data, judged on those of the pass: the prior and the start "gaussian".
    """

    model: ScoreModel
    moments: Moments
    statistics: DataStatistics
    data_range: DataRange | None
    shape: tuple[int, ...]
    recorders: Mapping[str, Recorder] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    heads: Callable[[str], str | Path] | None = field(default=None, repr=False)
    own: Mapping[str, Covariance] = field(default_factory=dict, repr=False)
    kept: Kept = field(default_factory=Kept, repr=False)
    free: Judged | None = field(default=None, repr=False)

    @property
    def schedule(self) -> Schedule:
        """The model's noise schedule."""
        return self.model.schedule
