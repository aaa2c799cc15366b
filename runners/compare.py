"""--mode=compare: every solver on the same network, by budgets of network calls; kept in WORKDIR/compare."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from score_sde_analytic.compare import ComparisonSettings, Evaluation, Examples, FlowLikelihood, compare, covariances
from score_sde_analytic.compare.examples import SPLITS
from score_sde_analytic.compare.settings import PRESETS
from score_sde_analytic.study import CovarianceName

from . import build, datasets
from .experiment import Experiment


def run(experiment: Experiment) -> list[Path]:
    """Measure all cells that are not there yet; write tables, pictures, the page and compare.json; returns their paths."""
    config, folder = experiment.config, experiment.workdir / "compare"
    asked = settings(config).resolved()
    experiment = recording(experiment, covariances(asked.solvers))
    filled = {name: getattr(asked, name) for name in PRESETS[asked.budget]}
    result = compare(
        experiment.study,
        examples(experiment),
        asked,
        folder,
        bounds=experiment.workdir / "bounds",
        command=experiment.command,
        config=config.to_dict() | {"compare": config.compare.to_dict() | filled},
    )
    print(f"\n{result}")
    brief = {name: result.content[name] for name in ("budgets", "grids", "first_log_snr", "cells", "count")}
    return [*result.written, folder / "cells", experiment.record("compare", brief)]


def settings(config: ConfigDict) -> ComparisonSettings:
    """config.compare, with what it takes from config.sample and config.evaluate."""
    evaluate = config.evaluate
    evaluation = Evaluation(evaluate.draws, evaluate.batch_size, evaluate.examples)
    flow = _flow(evaluate.flow) if config.compare.flow else None
    shared = {"final": config.sample.final, "evaluation": evaluation, "flow": flow}
    return ComparisonSettings(**(config.compare.to_dict() | shared))


def _flow(flow: ConfigDict) -> FlowLikelihood:
    entry = partial(build.entry, flow)
    return FlowLikelihood(entry, build.divergence(flow), flow.importance_samples, flow.examples_per_block, flow.to_dict())


def examples(experiment: Experiment) -> Examples:
    """The splits of the data, and their distribution where the config names it."""
    splits = experiment.splits
    train, validation, test = (splits.held(name) for name in SPLITS)
    conditions = {name: splits.conditions(name) for name in SPLITS}
    return Examples(train, validation, test, datasets.data_title(experiment.config), splits.exact, conditions)


def recording(experiment: Experiment, named: Iterable[CovarianceName]) -> Experiment:
    """The experiment, or one whose pass over the validation split records what these covariances need besides."""
    other = Experiment(experiment.config, experiment.workdir, [str(name) for name in named], experiment.command)
    return experiment if experiment.recorded == other.recorded else other
