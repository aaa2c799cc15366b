"""--mode=evaluate: bits/dim by every method on the test split, predicted and measured, and how far they agree."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict

from score_sde_analytic.files import write_text
from score_sde_analytic.likelihood import (
    BITS,
    Bound,
    Chain,
    ContinuousTime,
    Flow,
    Method,
    Priced,
)
from score_sde_analytic.likelihood.chain import paper_chain
from score_sde_analytic.report import figures, tables
from score_sde_analytic.study.names import ChainName, CovarianceName
from score_sde_analytic.uncertainty import Estimate

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


def run(experiment: Experiment) -> list[Any]:
    """Evaluate by config.evaluate.methods; writes tables, pictures and a report, returns their paths."""
    settings = experiment.config.evaluate
    unknown = set(settings.methods) - {"predicted", "bound", *LIMITS, "exact"}
    if unknown:
        raise ValueError(f"unknown method {sorted(unknown)[0]!r}; choose from predicted, bound, {', '.join(LIMITS)}, exact")
    if not set(settings.methods) - ({"exact"} if experiment.config.data.name != "mixture" else set()):
        raise ValueError("evaluate.methods names no method that applies; the exact density is known for mixtures only")
    methods = _methods(experiment)  # bad settings are found before the work
    written = _chains(experiment) if {"predicted", "bound"} & set(settings.methods) else []
    return [*written, *_agreement(experiment, methods), experiment.workdir / "bounds"]


# --- chains: grids x variances x K --------------------------------------------------------------------------------------


def _chains(experiment: Experiment) -> list[Any]:
    settings, work = experiment.config.evaluate, experiment.workdir
    every = sorted({*settings.predicted_steps, *settings.steps})
    study, names = experiment.study, (*settings.grids, *settings.predicted_grids)
    variances = experiment.covariances(settings.variances)
    chains = {ChainName(g, str(v), k): study.chain(k, g, v) for g in names for v in variances for k in every}
    chains |= {
        ChainName("paper", str(v), k): paper_chain(experiment.schedule, study.covariance(v), k)
        for v in variances
        for k in settings.steps
        # The convention fixes the first time, below t = 1, and the decoder.
        if settings.paper and k > 1 and settings.decoder == "gaussian"
    }
    predicted = _predicted(experiment, {name: chain for name, chain in chains.items() if study.priceable(chain)})
    measured = measure(experiment, {name: chain for name, chain in chains.items() if _is_measured(name, settings)})
    content: dict[str, Any] = {
        "units": "bits/dim" if settings.decoder != "none" else "bits/dim of the density of x_{t_1}",
        "test_examples": len(experiment.test),
        "cells": {str(name): _cell(chains[name], predicted.get(name), measured.get(name)) for name in chains},
        "orderings": _orderings(measured, settings, variances),
    }
    text = tables.bounds(content["cells"])
    if content["orderings"]:
        text += "\n\nPaired differences on the test split:\n\n" + tables.orderings(content["orderings"])
    print("\n" + text)
    write_text(work / "bits_per_dim.md", text + "\n")
    picture = figures.bits(work / "bits_per_dim.png", content["cells"], names, [str(v) for v in variances])
    return [work / "bits_per_dim.md", picture, experiment.record("bits_per_dim", content)]


def _is_measured(name: ChainName, settings: ConfigDict) -> bool:
    return "bound" in settings.methods and name.grid in (*settings.grids, "paper") and name.steps in settings.steps


def _predicted(experiment: Experiment, methods: Mapping[Name, Chain | ContinuousTime]) -> dict[Name, Priced]:
    if "predicted" not in experiment.config.evaluate.methods:
        return {}
    return experiment.study.price(methods)


def measure(experiment: Experiment, methods: Mapping[Name, Method]) -> dict[Name, Bound]:
    """Bits/dim of the test split; unfinished work is continued, finished work read, from WORKDIR/bounds."""
    settings = experiment.config.evaluate
    bounds = experiment.study.evaluate(
        experiment.test,
        {str(name): method for name, method in methods.items()},
        experiment.workdir / "bounds",
        draws=settings.draws,
        batch_size=settings.batch_size,
    )
    return {name: bounds[str(name)] for name in methods}


def _cell(chain: Chain, predicted: Priced | None, measured: Bound | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"times": chain.grid.times, "decoder": chain.decoder.config()}
    if predicted is not None:
        cell["predicted"] = predicted.summary()
    if measured is not None:
        cell["measured"] = measured.summary()
    if predicted is not None and measured is not None:
        cell["disagreement_in_standard_errors"] = measured.total.from_other(predicted.total)
    return cell


def _orderings(
    measured: Mapping[ChainName, Bound], settings: ConfigDict, variances: Sequence[CovarianceName]
) -> list[dict[str, Any]]:
    """Paired comparisons on the same examples: each better variance on each grid, and DP against even."""
    pairs = []
    for k in settings.steps:
        for grid in settings.grids:
            structured = [str(v) for v in variances if v.structured]
            for covariance, other in [*((v, "residual") for v in structured), *BETTER]:
                pairs.append((ChainName(grid, covariance, k), ChainName(grid, other, k)))
        pairs += [(ChainName("dp", str(v), k), ChainName("even", str(v), k)) for v in variances]
    lines = []
    for better, worse in pairs:
        if better in measured and worse in measured:
            mean, error = _paired(measured[worse].per_example, measured[better].per_example)
            claim = f"{better} < {worse}"
            lines.append({"claim": claim, "difference": mean, "standard_errors": mean / max(error, 1e-300)})
    return lines


def _paired(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of a - b over examples, with its standard error."""
    return Estimate.of(a - b)


# --- agreement: every method on the same examples -----------------------------------------------------------------------


def _continuous(experiment: Experiment) -> ContinuousTime:
    settings = experiment.config.evaluate.continuous
    t_min, decoder = experiment.study.first()
    curve = experiment.study.curve if settings.importance_sampling else None
    return ContinuousTime(t_min, decoder, settings.times, curve)


def _flow(experiment: Experiment) -> Flow:
    settings = experiment.config.evaluate.flow
    t_min, decoder = experiment.study.first()
    if settings.log_snr_max:
        t_min = float(experiment.schedule.time(settings.log_snr_max))
    return Flow(
        t_min,
        build.entry(settings, decoder),
        build.divergence(settings),
        build.ode_solver(settings),
        settings.importance_samples,
        settings.variable,
        settings.examples_per_block,
    )


#: Methods that need no grid.
LIMITS: dict[str, Callable[[Experiment], Method]] = {"continuous": _continuous, "flow": _flow}


def _methods(experiment: Experiment) -> dict[str, Method]:
    """The methods to measure side by side."""
    settings = experiment.config.evaluate
    if settings.examples < 0:
        raise ValueError(f"evaluate.examples must not be negative, got {settings.examples}; 0 takes all")
    grid, variance = settings.agreement[0], experiment.study.resolve(settings.agreement[1])
    chains: dict[str, Method] = {f"K = {k}": experiment.study.chain(k, grid, variance) for k in settings.steps}
    limits = {name: make(experiment) for name, make in LIMITS.items() if name in settings.methods}
    return (chains if "bound" in settings.methods else {}) | limits


def _agreement(experiment: Experiment, methods: dict[str, Method]) -> list[Any]:
    """One table and one picture of all methods on the same examples."""
    settings, work = experiment.config.evaluate, experiment.workdir
    grid, variance = settings.agreement[0], experiment.study.resolve(settings.agreement[1])
    measured = measure(experiment, methods)
    every = sorted({*settings.predicted_steps, *settings.steps})
    line = {k: experiment.study.chain(k, grid, variance) for k in every} if "predicted" in settings.methods else {}
    predicted = _predicted(
        experiment, {f"K = {k}": chain for k, chain in line.items()} | {"continuous": _continuous(experiment)}
    )
    values = {name: bound.per_example for name, bound in measured.items()}
    exact = _exact(experiment) if "exact" in settings.methods else None
    reference = "exact" if exact is not None else next((name for name in ("continuous", *values) if name in values), "")
    if exact is not None:
        values["exact"] = exact
    rows = {}
    for name in dict.fromkeys([*values, *(n for n in predicted if n in methods or not measured)]):
        rows[name] = _row(name, values, measured.get(name), predicted.get(name), reference)
    content = {
        "grid": grid,
        "variance": str(variance),
        "reference": reference,
        "methods": rows,
        "predicted_steps": {k: predicted[f"K = {k}"].total for k in every} if predicted else {},
    }
    table = tables.agreement(content)
    print("\n" + table)
    write_text(work / "likelihoods.md", table + "\n")
    picture = figures.agreement(work / "likelihoods.png", content)
    return [work / "likelihoods.md", picture, experiment.record("likelihoods", content)]


def _exact(experiment: Experiment) -> np.ndarray | None:
    """Bits/dim of the test examples under the true density, where that is known."""
    if experiment.config.data.name != "mixture":
        return None
    x = experiment.test
    nats = -build.mixture(experiment.config).log_density(x, experiment.schedule.level(0.0))
    return BITS * nats.numpy() / x.shape[1]


def _row(
    name: str, values: Mapping[str, np.ndarray], bound: Bound | None, predicted: Priced | None, reference: str
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if name in values:
        x = values[name]
        row["measured"] = bound.summary() if bound else {"total": _paired(x, np.zeros_like(x))._asdict(), "evaluations": 0}
        row["calls_per_example"] = bound.calls_per_example if bound else 0.0
        row["vector_products_per_example"] = bound.vector_products / len(x) if bound else 0.0
        if name != reference:
            row["above_reference"] = _paired(x, values[reference])._asdict()
    if predicted:
        row["predicted"] = predicted.summary()
        if name in values:
            row["disagreement_in_standard_errors"] = bound.total.from_other(predicted.total)  # type: ignore[union-attr]
    return row
