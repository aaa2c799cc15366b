"""What a study consists of: a model, what one pass measured, and how it is to be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.data.examples import Rows
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import plain
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.guidance.classifier_free import ClassifierFree
from score_sde_analytic.guidance.conditional import VARIANCES, ConditionalMoments
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.conditions import OfSamples, of_samples
from score_sde_analytic.models.judged import Judged
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers import Sampler
from score_sde_analytic.study.conditions import in_turn
from score_sde_analytic.study.names import CovarianceName
from score_sde_analytic.study.plan import SamplingPlan
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


@dataclass(frozen=True, eq=False, repr=False)
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
        conditions: of some examples of the pass, row by row, which samples take in turn.
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
    conditions: Rows = field(default_factory=dict, repr=False)

    @property
    def schedule(self) -> Schedule:
        """The model's noise schedule."""
        return self.model.schedule

    @property
    def space(self) -> str:
        """What the examples are where they stand for something else, as "latents" of pictures; else nothing."""
        return str(self.moments.fingerprint.get("space", ""))

    def __repr__(self) -> str:
        """In a line.

        >>> study
        Study(15000 evaluations at 50 noise levels, examples of shape (2,))
        """
        about = f"{self.moments.evaluations} evaluations at {len(self.moments.log_snr)} noise levels"
        guidance = f", {self.model.guidance}" if self.model.guidance else ""
        return f"{type(self).__name__}({about}, examples of shape {tuple(self.shape)}{guidance})"

    @property
    def of_samples(self) -> OfSamples | None:
        """What samples are conditioned on unless they are told otherwise."""
        return in_turn(self.conditions)

    @property
    def marks(self) -> tuple[str, ...]:
        """What tells the files of a guided study from those of the network's own."""
        return (digest(plain(self.model.fingerprint())),) if self.model.guidance else ()

    def plan(self, sampler: Sampler[Any], grid: Grid, **how: Any) -> SamplingPlan:
        """A sampler on a grid, for samples like the examples: `how` are further fields of the plan.

        >>> from score_sde_analytic import Ancestral
        >>> study.plan(Ancestral(model, study.covariance()), study.grid(5))(2).shape
        torch.Size([2, 2])
        """
        return SamplingPlan(sampler, grid, self.shape, self.device, self.dtype, **({"conditions": self.of_samples} | how))

    def model_of(self, indices: range) -> ScoreModel:
        """The model on the conditions of some samples."""
        return self.model.conditioned(of_samples(self.of_samples, indices)) if self.conditions else self.model

    def with_covariance(self, name: str, covariance: Covariance) -> Self:
        """The same study, with a covariance of one's own that grids, chains, bits and samples may ask for by this name.

        >>> from score_sde_analytic.covariance import BetaTilde
        >>> study.with_covariance("mine", BetaTilde()).sampler(5, covariance="mine").calls
        5

        Raises:
            InputError: the name means another covariance already.
        """
        if CovarianceName.known(name):
            raise InputError(f"the name {name!r} means a covariance already; choose another")
        return replace(self, own={**self.own, name: covariance})

    def guided(
        self,
        scale: float,
        null: Mapping[str, Any],
        interval: tuple[float, float] | None = None,
        measured: ConditionalMoments | None = None,
    ) -> Self:
        """The same study, whose samples and measured bits are those of the guided model: `guidance.ClassifierFree` says how.

        Its curves, grids and variances stay those of the conditional model, which are the best at every scale; its predicted
        bits are that model's too.

        Args:
            measured: of `guidance.estimate_guided`, which gives the variances "guided_residual", "guided_score" and
                "guided_tweedie" of this scale their names, to be compared.

        >>> from score_sde_analytic import Budget, analyse
        >>> from score_sde_analytic.data import Examples
        >>> classes = Examples(data, conditions={"component": mixture.labelled(400)[1]})
        >>> conditional = analyse(mixture.conditional(model.schedule), classes, budget=Budget(max_draws=300), progress=False)
        >>> conditional.guided(2.0, null={"component": 3}).sample(3, steps=5, conditions={"component": 1}).shape
        torch.Size([3, 2])
        """
        others = {} if measured is None else {f"guided_{name}": measured.curve(scale, name) for name in VARIANCES}
        own = {name: Isotropic(curve) for name, curve in others.items()}
        pushed = self.around(lambda model: ClassifierFree(model, scale, null, interval))
        return replace(pushed, own={**self.own, **own})

    def around(self, make: Callable[[ScoreModel], ScoreModel]) -> Self:
        """The same study, whose samples and measured bits are those of a model around its own, as `guidance` has them.

        Its curves, grids and variances stay those of the model inside.

        >>> from score_sde_analytic.guidance import Energies
        >>> toward = [(lambda y, reference, level: (y - reference).square().sum(1), 1.0)]
        >>> moved = study.around(lambda model: Energies(model, toward, fingerprint="toward"))
        >>> source = torch.ones(3, 2)
        >>> moved.sample(3, steps=5, start=(source, -1.0), conditions={"reference": source}).shape
        torch.Size([3, 2])
        """
        return replace(self, model=make(self.model))

    def with_heads(self, folder: str | Path | Callable[[str], str | Path]) -> Self:
        """The same study, with the trained heads of a folder among its covariances.

        Args:
            folder: one for all kinds, or the folder as a function of the kind.
        """
        return replace(self, heads=folder if callable(folder) else lambda kind: folder)
