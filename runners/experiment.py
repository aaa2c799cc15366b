"""One experiment: config -> data, model and study, each made on first use and kept in the workdir."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import versions
from score_sde_analytic.guidance import ConditionalMoments, estimate_guided
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.recalibration import Recalibration, recalibrate
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.recalibrated import Recalibrated
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.shards import Shard
from score_sde_analytic.study import CovarianceName, Study, analyse, covariance_names
from score_sde_analytic.study.structures import moments_file, recorders

from . import build, datasets, networks
from .record import REPORT, record, require_own

#: File of the pass over the training split.
TRAINING = "moments_train.safetensors"


class Experiment:
    """Lazily built parts of one config + workdir.

    Args:
        covariances: recorded besides those that the config names, in a pass over the validation split of its own.
        command: that was run, for pages.
        shard: the part of the work that is this job's.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        covariances: Iterable[str] = (),
        command: str = "",
        shard: Shard | None = None,
    ) -> None:
        self.config = config
        self.workdir = workdir
        self.command = command
        self.shard = shard or Shard()
        require_own(workdir / REPORT)
        self.device = build.device(config)
        self._covariances = tuple(covariances)

    @cached_property
    def splits(self) -> datasets.Splits:
        """Train, validation and test data."""
        return datasets.splits(self.config)

    @cached_property
    def schedule(self) -> Schedule:
        """The forward process."""
        return self.network.schedule

    @cached_property
    def network(self) -> ScoreModel:
        """The pretrained network under the schedule."""
        return networks.model(self.config, self.workdir, self.device)

    @cached_property
    def model(self) -> ScoreModel:
        """The network, with a better mean where config.network.recalibrate asks for one."""
        return self.network if self.recalibration is None else self.recalibration[0]

    @cached_property
    def recalibration(self) -> tuple[Recalibrated, Recalibration] | None:
        """The network stacked with what is free, and what that gains; None where it is left as it is."""
        how = self.config.network.recalibrate
        if how == "off":
            return None
        better, found = recalibrate(
            self.network,
            self.splits.validation,
            LinearDenoiser.of(self.splits.train) if self.splits.exact is None else None,
            "mean" if how == "mean" else "linear",
            draws=self.config.network.recalibration_draws,
            data_range=self.splits.data_range,
            seed=self.config.seed,
            path=self.workdir / "recalibration.safetensors",
            device=self.device,
        )
        if how == "auto" and not found.stack.changes.any():
            print(f"Recalibration: {found}; the network is left as it is.")
            return None
        return better, found

    @cached_property
    def test(self) -> Data:
        """The test examples that bounds are measured on."""
        return self.splits.some("test", self.config.evaluate.examples)

    @cached_property
    def named(self) -> tuple[CovarianceName, ...]:
        """Every covariance that a setting names."""
        config = self.config
        single = (config.covariance.name, config.sample.grid_variance, config.evaluate.agreement[1], config.code.covariance)
        return covariance_names((*single, *config.sample.variances, *config.evaluate.variances, *self._covariances))

    @property
    def _train(self) -> Data:
        """What bases are fitted to. A closed form is not trained on examples: any of its draws will do."""
        return self.splits.train if self.splits.statistics is None else self.splits.validation

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """What the pass over the validation split keeps besides moments, by basis, as plain data."""
        return {basis: recorder.config() for basis, recorder in self.recorders.items()}

    @cached_property
    def recorders(self) -> dict[str, Recorder]:
        """As the study makes them."""
        train = as_dataset(self._train, self.splits.data_range)
        return recorders(self.named, train, build.study_settings(self.config).structure)

    @cached_property
    def study(self) -> Study:
        """The network measured on the validation split, or continued from the workdir."""
        splits = self.splits
        return analyse(
            self.model,
            splits.validation,
            splits.data_range,
            record=self.named,
            train=self._train,
            statistics=splits.statistics,
            settings=build.study_settings(self.config),
            budget=build.budget(self.config, Shard() if self.measured else self.shard),
            seed=self.config.seed,
            path=self.workdir,
            device=self.device,
        ).with_heads(lambda kind: networks.head_directory(self.config, self.workdir, kind))

    @cached_property
    def sampled(self) -> Study:
        """The study that samples are drawn by: guided where config.sample.guidance is not 1."""
        settings, argument = self.config.sample, self.config.network.condition
        if settings.guidance == 1.0:
            return self.study
        if not argument:
            raise InputError("sample.guidance is for networks that are given labels: set network.condition, or leave it at 1")
        return self.study.guided(settings.guidance, {argument: self._null})

    @property
    def _null(self) -> int:
        """The label that says there is none."""
        return self.config.train.classes if self.config.sample.null < 0 else self.config.sample.null

    @cached_property
    def condition(self) -> ConditionalMoments | None:
        """The network with its condition and without it; None of one that has no label for none."""
        knots, argument = self.config.estimate.condition_knots, self.config.network.condition
        has_none = self.config.train.classes > 0 or self.config.sample.null >= 0
        if not knots or not argument or not has_none:
            return None
        settings, (low, high) = self.config.estimate, self.study.moments.log_snr[[0, -1]]
        return estimate_guided(
            self.model,
            self.splits.validation,
            {argument: self._null},
            np.linspace(low, high, knots),
            Budget(min_draws=settings.min_draws, max_draws=settings.min_draws, batch_size=settings.batch_size),
            data_range=self.splits.data_range,
            seed=self.config.seed,
            path=self.workdir / "moments_condition.safetensors",
            device=self.device,
        )

    @property
    def moments_path(self) -> Path:
        """The file of the pass."""
        return moments_file(self.workdir, self.recorders)

    @property
    def measured(self) -> bool:
        """Whether the workdir holds the whole pass, which then is only read."""
        return self.moments_path.exists() and Moments.load(self.moments_path).finished

    @cached_property
    def training(self) -> Moments | None:
        """The same network on its training split, at every few knots: what it learned by heart shows as a smaller R."""
        settings = self.config.estimate
        if not settings.train_knots or self.splits.statistics is not None:  # a closed form has no training data
            return None
        log_snr = self.study.moments.log_snr
        return estimate(
            self.model,
            self.splits.train,
            log_snr[np.unique(np.linspace(0, len(log_snr) - 1, settings.train_knots).round().astype(int))],
            Budget(
                min_draws=settings.min_draws,
                max_draws=settings.min_draws,
                batch_size=settings.batch_size,
                shard=self.shard.pair,
            ),
            data_range=self.splits.data_range,
            seed=self.config.seed,
            path=self.workdir / TRAINING,
            device=self.device,
        )

    def covariances(self, names: Iterable[str]) -> tuple[CovarianceName, ...]:
        """The covariances that names mean, and the one of the config among them."""
        return tuple(dict.fromkeys(self.study.resolve(name) for name in (*names, "")))

    def record(self, section: str, content: Any) -> Path:
        """Put a section into WORKDIR/report.json."""
        about = {"config": self.config.to_dict(), "model": self.model.fingerprint(), "versions": versions()}
        return record(self.workdir, section, content, about)
