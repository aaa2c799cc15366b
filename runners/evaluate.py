"""--mode=evaluate: bits/dim by every method on the test split, predicted and measured, and how far they agree."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import write_text
from score_sde_analytic.likelihood import BITS, Bound, Chain, ContinuousTime, Flow, Method, Priced, paper_chain
from score_sde_analytic.report import figures, tables
from score_sde_analytic.study.agreement import Agreement, cells, orderings
from score_sde_analytic.study.names import ChainName, CovarianceName

from . import build
from .experiment import Experiment

Name = TypeVar("Name", bound=Hashable)

#: (better, worse) as the theory has it for an accurate network; beta against beta-tilde depends on schedule and grid, and a
#: learned diagonal against principal components on the data.
BETTER = [
    ("residual", "score"),
    ("residual", "beta"),
    ("residual", "beta_tilde"),
    ("score", "beta"),
    ("score", "beta_tilde"),
    ("beta", "beta_tilde"),
    *(("npr", other) for other in ("residual", "pixel", "pca", "npr|uncalibrated", "sn", "ocm", "interpolated")),
]


def run(experiment: Experiment) -> list[Path]:
    """Evaluate by config.evaluate.methods; writes tables, pictures and a report, returns their paths."""
    settings = experiment.config.evaluate
    if not set(settings.methods) - ({"exact"} if experiment.splits.exact is None else set()):
        raise InputError("evaluate.methods names no method that applies; the exact density is known for mixtures only")
    methods = _methods(experiment)  # bad settings are found before the work
    written = _chains(experiment) if {"predicted", "bound"} & set(settings.methods) else []
    return [*written, *_agreement(experiment, methods), experiment.workdir / "bounds"]


def measure(experiment: Experiment, methods: Mapping[Name, Method]) -> dict[Name, Bound]:
    """Bits/dim of the test split; unfinished work is continued, finished work read, from WORKDIR/bounds."""
    settings = experiment.config.evaluate
    named = {str(name): method for name, method in methods.items()}
    shard = experiment.shard
    options = {"draws": settings.draws, "batch_size": settings.batch_size, "shard": shard.pair}
    bounds = experiment.study.evaluate(experiment.test, named, experiment.workdir / "bounds", **options)
    return {name: bounds[str(name)] for name in methods}


def measured_methods(experiment: Experiment) -> dict[Hashable, Method]:
    """All that the test split is measured by."""
    settings = experiment.config.evaluate
    chains = _every_chain(experiment) if {"predicted", "bound"} & set(settings.methods) else {}
    measured: dict[Hashable, Method] = {name: chain for name, chain in chains.items() if _is_measured(name, settings)}
    measured.update(_methods(experiment))
    return measured


def _predicted(experiment: Experiment, methods: Mapping[Name, Chain | ContinuousTime]) -> dict[Name, Priced]:
    return experiment.study.price(methods) if "predicted" in experiment.config.evaluate.methods else {}


def _every(settings: ConfigDict) -> list[int]:
    """Every number of steps that is predicted."""
    return sorted({*settings.predicted_steps, *settings.steps})


# --- chains: grids x covariances x K ------------------------------------------------------------------------------------


def _chains(experiment: Experiment) -> list[Path]:
    settings, study, work = experiment.config.evaluate, experiment.study, experiment.workdir
    names = (*settings.grids, *settings.predicted_grids)
    covariances = experiment.covariances(settings.variances)
    chains = _every_chain(experiment)
    predicted = _predicted(experiment, {name: chain for name, chain in chains.items() if study.priceable(chain)})
    measured = measure(experiment, {name: chain for name, chain in chains.items() if _is_measured(name, settings)})
    known = cells(chains, predicted, measured)
    compared = orderings(measured, _pairs(settings, covariances))
    text = tables.bounds(known)
    if compared:
        text += "\n\nPaired differences on the test split:\n\n" + tables.orderings(compared)
    print("\n" + text)
    write_text(work / "bits_per_dim.md", text + "\n")
    picture = figures.bits(work / "bits_per_dim.png", known, names, [str(c) for c in covariances])
    content: dict[str, Any] = {
        "units": "bits/dim" if settings.decoder != "none" else "bits/dim of the density of x_{t_1}",
        "test_examples": len(as_dataset(experiment.test)),
        "cells": {str(name): cell for name, cell in known.items()},
        "orderings": compared,
    }
    return [work / "bits_per_dim.md", picture, experiment.record("bits_per_dim", content)]


def _every_chain(experiment: Experiment) -> dict[ChainName, Chain]:
    settings, study = experiment.config.evaluate, experiment.study
    names = (*settings.grids, *settings.predicted_grids)
    covariances = experiment.covariances(settings.variances)
    chains = {ChainName(g, str(c), k): study.chain(k, g, c) for g in names for c in covariances for k in _every(settings)}
    papers = {ChainName("paper", str(c), k): _paper(experiment, c, k) for c in covariances for k in _paper_steps(settings)}
    return chains | papers


def _paper(experiment: Experiment, covariance: CovarianceName, steps: int) -> Chain:
    return paper_chain(experiment.schedule, experiment.study.covariance(covariance), steps)


def _paper_steps(settings: ConfigDict) -> list[int]:
    """Numbers of steps in the convention of published tables, which fixes the first time, below t = 1, and the decoder."""
    return [k for k in settings.steps if settings.paper and k > 1 and settings.decoder == "gaussian"]


def _is_measured(name: ChainName, settings: ConfigDict) -> bool:
    return "bound" in settings.methods and name.grid in (*settings.grids, "paper") and name.steps in settings.steps


def _pairs(settings: ConfigDict, covariances: Sequence[CovarianceName]) -> Iterator[tuple[ChainName, ChainName]]:
    """(better, worse) chains: covariances on each grid, then the optimal grid against the even one."""
    structured = [(str(c), "residual") for c in covariances if c.structured]
    for k in settings.steps:
        for grid in settings.grids:
            for better, worse in [*structured, *BETTER]:
                yield ChainName(grid, better, k), ChainName(grid, worse, k)
        for c in covariances:
            yield ChainName("dp", str(c), k), ChainName("even", str(c), k)


# --- agreement: every method on the same examples -----------------------------------------------------------------------


def _continuous(experiment: Experiment) -> ContinuousTime:
    settings = experiment.config.evaluate.continuous
    return experiment.study.continuous(settings.times, settings.importance_sampling)


def _flow(experiment: Experiment) -> Flow:
    settings, schedule = experiment.config.evaluate.flow, experiment.schedule
    t_min, decoder = experiment.study.first()
    if settings.log_snr_max:
        t_min = float(schedule.time(settings.log_snr_max))
    return build.flow(settings, t_min, decoder)


#: Methods that need no grid.
LIMITS: dict[str, Callable[[Experiment], Method]] = {"continuous": _continuous, "flow": _flow}


def _methods(experiment: Experiment) -> dict[str, Method]:
    """The methods to measure side by side."""
    settings = experiment.config.evaluate
    chains: dict[str, Method] = {f"K = {k}": experiment.study.chain(k, *settings.agreement) for k in settings.steps}
    limits = {name: make(experiment) for name, make in LIMITS.items() if name in settings.methods}
    return (chains if "bound" in settings.methods else {}) | limits


def _agreement(experiment: Experiment, methods: dict[str, Method]) -> list[Path]:
    """One table and one picture of all methods on the same examples."""
    settings, study, work = experiment.config.evaluate, experiment.study, experiment.workdir
    measured = measure(experiment, methods)
    steps = _every(settings) if "predicted" in settings.methods else []
    line: dict[str, Chain | ContinuousTime] = {f"K = {k}": study.chain(k, *settings.agreement) for k in steps}
    predicted = _predicted(experiment, line | {"continuous": _continuous(experiment)})
    exact = _exact(experiment) if "exact" in settings.methods else None
    agreement = Agreement(measured, predicted, exact)
    shown = dict.fromkeys([*agreement.per_example, *(name for name in predicted if name in methods or not measured)])
    content = {
        "grid": settings.agreement[0],
        "variance": str(study.resolve(settings.agreement[1])),
        "reference": agreement.reference,
        "methods": agreement.rows(shown),
        "predicted_steps": {k: predicted[f"K = {k}"].total for k in steps},
    }
    table = tables.agreement(content)
    print("\n" + table)
    write_text(work / "likelihoods.md", table + "\n")
    picture = figures.agreement(work / "likelihoods.png", content)
    return [work / "likelihoods.md", picture, experiment.record("likelihoods", content)]


def _exact(experiment: Experiment) -> Array | None:
    """Bits/dim of the test examples under the true density, where that is known."""
    exact = experiment.splits.exact
    if exact is None:
        return None
    x_0 = experiment.splits.held("test", experiment.config.evaluate.examples)
    nats = -exact.log_density(x_0, experiment.schedule.level(0.0))
    return BITS * nats.numpy() / x_0.shape[1]
