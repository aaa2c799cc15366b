"""Covariances diagonal in a basis: what the pass must record for them, and which is best by held-out bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from score_sde_analytic.arrays import Array
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.data.bases import BASES, shared
from score_sde_analytic.data.basis import Basis, Pixel
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.measure.draws import Draws, Recorder
from score_sde_analytic.measure.held_out import PLAIN, Choice, HeldOut, jackknife_error
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.statistics import STATISTICS, Statistic
from score_sde_analytic.measure.summed import WATCHED, SummingRecorder
from score_sde_analytic.study.names import AUTO, CovarianceName, choose
from score_sde_analytic.study.settings import Structure
from score_sde_analytic.uncertainty import Estimate


def usual(shape: Sequence[int], count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(bases, statistics) that are worth trying on so many examples of this shape.

    >>> usual(shape=(3, 32, 32), count=400)
    (('scalar', 'pixel', 'colour_dct'), ('high_frequency',))
    """
    principal = ("pca",) if count > math.prod(shape) else ()
    if len(shape) < 3:
        return ("scalar", "pixel", *principal), ("energy",)
    return ("scalar", "pixel", "colour_dct" if shape[0] > 1 else "dct", *principal), ("high_frequency",)


def recorders(names: Sequence[CovarianceName], train: Data, settings: Structure) -> dict[str, Recorder]:
    """What a pass has to keep for these covariances, by basis.

    Args:
        train: data that bases are fitted to.

    Raises:
        InputError: an unknown basis or statistic in the settings.
    """
    examples = as_dataset(train)
    suitable = usual(examples.shape, len(examples)) if CovarianceName(AUTO) in names else ((), ())
    structured = [name for name in names if name.structured]
    bases: dict[str, Any] = dict.fromkeys([*(settings.bases or suitable[0]), *(name.base for name in structured)])
    given = [*(settings.statistics or suitable[1]), *(name.given for name in structured if name.given)]
    statistics = {name: choose(STATISTICS, name, "statistic")() for name in dict.fromkeys(given)}
    everywhere = {name: statistic for name, statistic in statistics.items() if not statistic.local}
    if len(everywhere) < len(statistics) and "pixel" in bases:
        bases["pixel"] = Recorder(Pixel(), statistics)
    for name in bases:
        if bases[name] is None:
            basis = choose(BASES, name, "basis")(examples, settings.pca_rank or None)
            bases[name] = _recorder(basis, everywhere, examples.shape, max(settings.bins))
    return bases


def _recorder(basis: Basis, statistics: Mapping[str, Statistic], shape: tuple[int, ...], bins: int) -> Recorder:
    """Of every draw, or of their sums where the examples are large and their curves many."""
    many = shared(shape) and basis.labels(shape).max() >= WATCHED
    return SummingRecorder(basis, statistics, bins) if many else Recorder(basis, statistics)


def moments_file(folder: str | Path, recorded: Mapping[str, Recorder]) -> Path:
    """Where a pass is kept: every set of recorded bases and statistics, which are part of it, has a file of its own."""
    if not recorded:
        return Path(folder) / "moments.safetensors"
    name = digest({basis: recorder.config() for basis, recorder in recorded.items()})
    return Path(folder) / f"moments_{name[:8]}.safetensors"


@dataclass(frozen=True, eq=False)
class Structures:
    """The recorded covariances of one pass.

    Attributes:
        moments: of the pass.
        recorders: what it kept, by basis.
        settings: how covariances are fitted and chosen.
        made: covariances that were fitted before; more are added as they are asked for.
        known_best: what was best, where that was found out before.
    """

    moments: Moments
    recorders: Mapping[str, Recorder]
    settings: Structure
    made: dict[CovarianceName, Diagonal] = field(default_factory=dict)
    known_best: CovarianceName | None = None

    @property
    def names(self) -> tuple[CovarianceName, ...]:
        """Every covariance that can be had from the pass.

        >>> [str(name) for name in study.structures.names]
        ['scalar', 'scalar|energy', 'pixel', 'pixel|energy', 'pca', 'pca|energy']
        """
        return tuple(
            CovarianceName(basis, given) for basis, recorder in self.recorders.items() for given in ("", *recorder.statistics)
        )

    def draws(self, basis: str) -> Draws:
        """The recorded draws in one basis.

        Raises:
            InputError: it was not recorded.
        """
        if basis not in self.recorders:
            choices = ", ".join(self.recorders) or "none"
            raise InputError(f"basis {basis!r} was not recorded (recorded: {choices}); name it before the pass")
        if basis not in self._draws:
            self._draws[basis] = self.recorders[basis].result(self.moments.log_snr, self.moments.order)
        return self._draws[basis]

    def choice(self, name: CovarianceName) -> Choice:
        """The settings of the fit that are best by held-out bits.

        Raises:
            InputError: basis or statistic was not recorded, or there are no bins to condition on.
        """
        if name not in self._choices:
            self._choices[name] = self._chosen(name)
        return self._choices[name]

    def _chosen(self, name: CovarianceName) -> Choice:
        settings, draws = self.settings, self.draws(name.base)
        if name.given and max(settings.bins) < 2:
            raise InputError(f"{str(name)!r} needs bins to condition on: the settings must hold a number above 1")
        if name.given and name.given not in self.recorders[name.base].statistics:
            raise InputError(f"statistic {name.given!r} was not recorded for {name.base!r}; name it before the pass")
        statistics = [name.given] if name.given else []
        ranked = HeldOut.choose(draws, settings.bins, settings.shrinkage, settings.smooth, statistics, settings.steps)
        return next((choice for choice in ranked if choice.statistic == (name.given or None)), PLAIN)

    def covariance(self, name: CovarianceName) -> Diagonal:
        """The covariance fitted with the best settings, priced by draws that the fit did not see."""
        if name not in self.made:
            choice, draws, recorder = self.choice(name), self.draws(name.base), self.recorders[name.base]
            statistic = recorder.statistics.get(name.given)
            self.made[name] = Diagonal(choice.fit(draws), recorder.basis, statistic, self._judge(name).correction)
        return self.made[name]

    def _judge(self, name: CovarianceName) -> HeldOut:
        if name not in self._judges:
            self._judges[name] = HeldOut(self.draws(name.base), self.choice(name))
        return self._judges[name]

    def without(self, fold: int) -> StructuresWithout:
        """The covariances fitted without a fold of the examples (`held_out.FOLDS`), and priced by it."""
        return StructuresWithout(self, fold)

    @cached_property
    def saved(self) -> dict[CovarianceName, Estimate]:
        """Held-out nats per dimension that every recorded covariance saves over the isotropic one, best first.

        In a chain of `settings.steps` steps even in log-SNR over the knots; errors are paired, over groups of examples.

        Raises:
            InputError: nothing was recorded.
        """
        if not self.names:
            raise InputError("no basis was recorded to choose from; name some before the pass, or 'auto'")
        isotropic = HeldOut(self.draws(self.names[0].base).pooled(), PLAIN).chain(self.settings.steps)
        savings = {name: isotropic - self._cost(name) for name in self.names}
        estimates = {name: Estimate(float(values[0]), jackknife_error(values)) for name, values in savings.items()}
        return dict(sorted(estimates.items(), key=lambda item: -item[1].value))

    def _cost(self, name: CovarianceName) -> Array:
        return HeldOut(self.draws(name.base), self.choice(name)).chain(self.settings.steps)

    @cached_property
    def best(self) -> CovarianceName:
        """The recorded covariance that saves most; the isotropic one where none saves anything."""
        if self.known_best is not None:
            return self.known_best
        name, saved = next(iter(self.saved.items()))
        return name if saved.value > 0.0 else CovarianceName("residual")

    @property
    def chosen(self) -> dict[CovarianceName, Choice]:
        """The settings that were chosen so far."""
        return dict(self._choices)

    @cached_property
    def _draws(self) -> dict[str, Draws]:
        return {}

    @cached_property
    def _judges(self) -> dict[CovarianceName, HeldOut]:
        return {}

    @cached_property
    def _choices(self) -> dict[CovarianceName, Choice]:
        return {}


@dataclass(frozen=True, eq=False)
class StructuresWithout:
    """The covariances of a pass as the examples outside a fold have them, with the settings that were chosen from all."""

    whole: Structures
    fold: int

    @property
    def best(self) -> CovarianceName:
        return self.whole.best

    @cached_property
    def made(self) -> dict[CovarianceName, Diagonal]:
        return {}

    def covariance(self, name: CovarianceName) -> Diagonal:
        """The covariance fitted to the other folds, with this fold's correction of its price."""
        if name not in self.made:
            spectrum, correction = self.whole._judge(name).without(self.fold)
            recorder = self.whole.recorders[name.base]
            self.made[name] = Diagonal(spectrum, recorder.basis, recorder.statistics.get(name.given), correction)
        return self.made[name]
