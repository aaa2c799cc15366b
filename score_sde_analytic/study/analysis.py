"""The front door: one resumable Monte Carlo pass over a pretrained network, and what it makes possible."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import whole
from score_sde_analytic.data.examples import Data, Examples, as_dataset, batches
from score_sde_analytic.data.portions import batch_by_bytes, portion
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.measure.knots import irregular
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.shards import Shard
from score_sde_analytic.study import free
from score_sde_analytic.study.conditions import of_examples
from score_sde_analytic.study.names import AUTO, CovarianceName, covariance_names
from score_sde_analytic.study.settings import Knots, Settings
from score_sde_analytic.study.structures import moments_file, recorders
from score_sde_analytic.study.study import Study

#: The pass of those who ask for none in particular.
CHEAP = Budget(tolerance=0.05, min_draws=100, max_draws=1000, answer="bits")


def knots(schedule: Schedule, settings: Knots) -> Float64[Array, " m"]:
    """Log-SNRs of the pass, as far as the schedule has them, ascending.

    Inner ones lie up to a quarter of a spacing off even places, so that no ripple of a network, of whatever period, hides
    between them.

    >>> knots(model.schedule, Knots(count=3)).round(2)
    array([-10. ,   0.7,  10.2])
    """
    low, high = schedule.log_snr_range
    place = np.arange(settings.count, dtype=np.float64)
    place[1:-1] += 0.5 * irregular(np.arange(1, settings.count - 1)) - 0.25
    even = np.linspace(max(settings.low, low), min(settings.high, high), settings.count)
    return np.interp(place, np.arange(settings.count), even)


def _check(examples: Examples, data_range: DataRange) -> None:
    """Refuse examples off their range; the first ones tell, where there are many."""
    for x_0 in batches(examples, range(min(len(examples), free.MOST)), batch_by_bytes(examples.first.numel())):
        data_range.check(x_0)


def analyse(
    model: ScoreModel,
    data: Data,
    data_range: DataRange | None = None,
    *,
    record: Iterable[str | CovarianceName] = (AUTO,),
    train: Data | None = None,
    statistics: DataStatistics | None = None,
    settings: Settings | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Study:
    """Measure a network once, on data that it was not trained on.

    Args:
        data: examples x_0, (n, *dims) or a map-style data set; a few hundred are enough for images.
        data_range: their declared range and levels (256 for 8-bit images); None for continuous data.
        record: covariances diagonal in a basis that are to be had afterwards, by name ("pca", "dct|high_frequency"); "auto"
            are those that suit the data; () keeps nothing besides the moments, which saves memory with large images.
        train: data that bases such as principal components, and the free model, are fitted to; absent, the data themselves.
        statistics: of the data's distribution, where it is known in closed form.
        settings: what the study decides by itself.
        budget: network evaluations per noise level, and the precision at which fewer are enough; by default 100, and up to
            1,000 where they matter for bits/dim, until these are known to 0.05.
        path: folder of the pass: an interrupted one goes on to the identical result, a finished one is read.
        device: of the model's network.

    Warns:
        what `Study.remarks` says.

    Raises:
        ValueError: unknown names, empty or out-of-range data, or a folder that holds another pass.
        RuntimeError: the network returned a wrong shape or numbers that are not finite.

    >>> study = analyse(model, mixture.sample(400), budget=Budget(max_draws=300), progress=False)
    >>> study.sample(count=5, steps=10).shape
    torch.Size([5, 2])
    """
    settings, seed = settings or Settings(), whole(0)("seed", seed)
    if budget is not None and not isinstance(budget, Budget):
        raise InputError(f"budget must be a Budget, as Budget(answer='bits', tolerance=0.05), got {budget!r}")
    named = covariance_names((settings.covariance, *record))
    examples = as_dataset(data, data_range)
    others = None if train is None else as_dataset(train, data_range)
    some = examples if others is None else others
    some = some if some.in_memory else portion(some)
    if others is not None and data_range is not None:
        _check(some, data_range)
    recorded = recorders(named, examples if others is None else others, settings.structure)
    statistics = DataStatistics.of(examples, data_range, progress=progress) if statistics is None else statistics
    known = free.fitted(some, None, model.schedule) if others is None else free.fitted(examples, some, model.schedule)
    budget = replace(budget or CHEAP, most_knots=settings.knots.most)
    moments = estimate(
        model,
        examples,
        knots(model.schedule, settings.knots),
        budget,
        statistics=statistics,
        data_range=data_range,
        seed=seed,
        path=None if path is None else moments_file(path, recorded),
        observers=recorded,
        device=device,
        progress=progress,
    )
    dtype = examples.first.dtype
    study = Study(model, moments, statistics, data_range, examples.shape, recorded, settings, seed, device, dtype, free=known)
    study = replace(study, conditions=of_examples(model, examples, seed))
    if Shard(*budget.shard):  # a part of a pass says little by itself
        return study
    for remark in study.remarks:
        warnings.warn(remark, stacklevel=2)
    return study
