"""The modes that use a pretrained network: estimate, sample, evaluate and demo."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from runners import grids
from runners.experiment import Experiment, markdown
from score_sde_analytic.data import DataStatistics, as_dataset
from score_sde_analytic.files import load_arrays, save_arrays, write_text
from score_sde_analytic.likelihood import Bound, Chain, measure, predict
from score_sde_analytic.likelihood.bound import bound_of_terms, paper_chain
from score_sde_analytic.report import figures
from score_sde_analytic.samplers import Ancestral, generate


def estimate(experiment: Experiment) -> list[Path]:
    """Moments -> curves, calibration report and the pictures of both."""
    work, moments = experiment.workdir, experiment.moments
    written = [work / "moments.safetensors"]
    for source, curve in experiment.curves.items():
        curve.save(work / f"curve_{source}.safetensors")
        written.append(work / f"curve_{source}.safetensors")
    difference, size = moments.calibration()
    calibration = {"1-noise_power-residual": difference, "1-noise_power-residual_in_standard_errors": size}
    knots = {name: getattr(moments, name) for name in ("noise_power", "cross", "residual")}
    errors = {f"{name}_stderr": moments.stderr(name) for name in knots}
    table = {"log_snr": moments.log_snr, "draws": moments.draws} | knots | errors | calibration
    content = {
        "network_evaluations": moments.evaluations,
        "network_calls": experiment.model.calls,
        "groups": moments.groups,
        "knots": table,
        "y": {source: curve.y_at(moments.log_snr) for source, curve in experiment.curves.items()},
        "upper_bound_on_residual": experiment.bound(moments.log_snr),
    }
    report = experiment.record("moments", content)
    worst = int(np.abs(difference).argmax())
    print(f"\nMoments: {moments.evaluations} network evaluations at {len(moments.log_snr)} noise levels.")
    print(
        f"Calibration: 1 - Lambda and R differ most at log-SNR {moments.log_snr[worst]:.1f},"
        f" by {difference[worst]:+.4f} ({size[worst]:+.1f} standard errors)."
    )
    written.append(figures.curve(work / "curve.png", moments, experiment.curves, experiment.bound))
    written.append(_variance_figure(experiment))
    return [*written, report]


def _variance_figure(experiment: Experiment) -> Path:
    """The paper's Figure 1 for an even grid of many steps."""
    steps = 25
    grid = experiment.grid("even", "residual", steps)
    names = experiment.config.evaluate.variances
    return figures.variances(
        experiment.workdir / "variance.png",
        experiment.schedule,
        grid,
        experiment.curves["residual"],
        {name: experiment.covariance(name) for name in names},
    )


def sample(experiment: Experiment) -> list[Path]:
    """Sample sheets: one picture per grid, one sheet per variance, rows of K, all from the same seed."""
    settings, work, written = experiment.config.sample, experiment.workdir, []
    calls: dict[str, float] = {}
    data, declared = experiment.splits.test[: settings.count], experiment.splits.data_range
    for grid in settings.grids:
        sheets = {variance: _sheet(experiment, grid, variance, calls) for variance in settings.variances}
        label = Path(grid).stem  # a saved grid is named by its file
        written.append(figures.samples(work / f"samples_{label}.png", sheets, data, declared))
        path = work / f"samples_{label}.safetensors"
        arrays = {f"{variance}_K{steps}": x.numpy() for variance, sheet in sheets.items() for steps, x in sheet.items()}
        save_arrays(path, arrays, {"kind": "samples", "seed": settings.seed})
        written.append(path)
    content = {"network_calls_per_batch": calls, "settings": settings.to_dict()}
    return [*written, work / "grids", experiment.record("samples", content)]


def _sheet(experiment: Experiment, grid: str, variance: str, calls: dict[str, float]) -> dict[int, Tensor]:
    """Samples of one grid and variance for every K; counts the network calls per batch."""
    settings, sheet = experiment.config.sample, {}
    clip = settings.clip_pixels * experiment.splits.data_range.bin_width if settings.clip_pixels else 0.0
    sampler = Ancestral(experiment.model, experiment.covariance(variance), settings.eta, settings.final, clip)
    for steps in settings.steps:
        times, before = experiment.grid(grid, settings.grid_variance, steps), experiment.model.calls
        times.save(experiment.workdir / "grids" / f"{Path(grid).stem}_K{steps}.json")
        sheet[steps] = generate(
            sampler,
            times,
            tuple(experiment.splits.test.shape[1:]),
            settings.count,
            settings.seed,
            settings.batch_size,
            device=experiment.device,
            dtype=experiment.splits.test.dtype,
            progress=True,
        ).cpu()
        batches = math.ceil(settings.count / settings.batch_size)
        calls[f"{grid} {variance} K={steps}"] = (experiment.model.calls - before) / batches
    return sheet


def evaluate(experiment: Experiment) -> list[Path]:
    """Predicted bits/dim of every variance x grid x K, measured ones on the test split, and how far they agree."""
    settings, work = experiment.config.evaluate, experiment.workdir
    every = sorted({*settings.predicted_steps, *settings.steps})
    names = (*settings.grids, *settings.predicted_grids)
    cells = [(grid, variance, k) for grid in names for variance in settings.variances for k in every]
    chains = {_name(*cell): experiment.chain(*cell) for cell in cells}
    chains |= {
        f"paper/{v}/{k}": paper_chain(experiment.schedule, experiment.covariance(v), k)
        for v in settings.variances
        for k in settings.steps
        if k > 1  # the convention fixes the first time below t = 1
    }
    predictable = {name: chain for name, chain in chains.items() if _in_table(experiment, chain)}
    predicted = predict(experiment.moments, experiment.schedule, predictable, experiment.statistics.second_moment)
    measured = _measured(experiment, {name: chain for name, chain in chains.items() if _is_measured(name, settings)})
    content: dict[str, Any] = {
        "units": "bits/dim",
        "test_examples": len(experiment.test),
        "cells": {name: _cell(chains[name], predicted.get(name), measured.get(name)) for name in chains},
        "orderings": _orderings(measured, settings),
    }
    tables = (
        _bounds_table(content["cells"])
        + "\n\nPaired differences on the test split:\n\n"
        + _orderings_table(content["orderings"])
    )
    print("\n" + tables)
    write_text(work / "bits_per_dim.md", tables + "\n")
    report = experiment.record("bits_per_dim", content)
    return [
        work / "bounds",
        work / "bits_per_dim.md",
        figures.bits(work / "bits_per_dim.png", content["cells"], names, settings.variances),
        report,
    ]


def _is_measured(name: str, settings: ConfigDict) -> bool:
    grid, _, steps = name.split("/")
    return grid in (*settings.grids, "paper") and int(steps) in settings.steps


def _name(grid: str, variance: str, steps: int) -> str:
    return f"{grid}/{variance}/{steps}"


def _in_table(experiment: Experiment, chain: Chain) -> bool:
    """Whether the reconstruction table covers the chain's first time and decoder."""
    try:
        lam = experiment.schedule.log_snr(chain.grid.times[-2])
        experiment.reconstruction.at(lam, chain.decoder_std)
    except ValueError:
        return False
    return bool(lam <= experiment.moments.log_snr[-1] + 1e-9)


def _measured(experiment: Experiment, chains: dict[str, Chain]) -> dict[str, Bound]:
    """Measured bounds; chains on one grid share their network calls, finished cells are read from WORKDIR/bounds."""
    settings, folder = experiment.config.evaluate, experiment.workdir / "bounds"
    digest = DataStatistics.of(as_dataset(experiment.test), experiment.splits.data_range, max_eigen=0).digest
    shared = {"model": experiment.model.fingerprint(), "data": digest, "seed": experiment.config.seed, "draws": settings.draws}
    groups: dict[tuple[float, ...], dict[str, Chain]] = {}
    for name, chain in chains.items():
        groups.setdefault(chain.grid.times, {})[name] = chain
    measured: dict[str, Bound] = {}
    for group in groups.values():
        todo = {}
        for name, chain in group.items():
            path, identity = (
                folder / f"{name.replace('/', '_')}.safetensors",
                shared | {"chain": _chain_digest(experiment, chain)},
            )
            if path.exists():
                arrays, metadata = load_arrays(path, "bound")
                if metadata["identity"] == json.loads(json.dumps(identity)):
                    measured[name] = bound_of_terms(arrays["terms"], metadata["evaluations"])
                    continue
            todo[name] = chain
        if not todo:
            continue
        results = measure(
            experiment.model,
            experiment.test,
            todo,
            experiment.splits.data_range,
            draws=settings.draws,
            seed=experiment.config.seed + 1,
            batch_size=settings.batch_size,
            device=experiment.device,
        )
        for name, result in results.items():
            identity = shared | {"chain": _chain_digest(experiment, todo[name])}
            metadata = {"kind": "bound", "identity": identity, "evaluations": result.evaluations}
            save_arrays(folder / f"{name.replace('/', '_')}.safetensors", {"terms": result.terms}, metadata)
        measured |= results
    return {name: measured[name] for name in chains}


def _chain_digest(experiment: Experiment, chain: Chain) -> str:
    """Identity of grid, decoder and the variance of every step."""
    sampler = Ancestral(experiment.model, chain.covariance)
    variances = [step.covariance.variance for step in sampler.plan(chain.grid)]  # type: ignore[attr-defined]
    return hashlib.sha256(repr((chain.grid.times, chain.decoder_std, variances)).encode()).hexdigest()[:16]


def _cell(chain: Chain, predicted: Bound | None, measured: Bound | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"times": chain.grid.times, "decoder_std": chain.decoder_std}
    if predicted is not None:
        cell["predicted"] = predicted.summary()
    if measured is not None:
        cell["measured"] = measured.summary()
    if predicted is not None and measured is not None:
        error = math.hypot(predicted.total.stderr, measured.total.stderr)
        cell["disagreement_in_standard_errors"] = (measured.total.value - predicted.total.value) / error
    return cell


#: (better, worse) as the theory has it for an accurate network; beta against beta-tilde depends on schedule and grid.
BETTER = [
    ("residual", "score"),
    ("residual", "beta"),
    ("residual", "beta_tilde"),
    ("score", "beta"),
    ("score", "beta_tilde"),
    ("beta", "beta_tilde"),
]


def _orderings(measured: dict[str, Bound], settings: ConfigDict) -> list[dict[str, Any]]:
    """Paired comparisons on the same examples: each better variance on each grid, and DP against even."""
    pairs = []
    for k in settings.steps:
        for grid in settings.grids:
            for better, worse in BETTER:
                pairs.append((_name(grid, better, k), _name(grid, worse, k)))
        pairs += [(_name("dp", v, k), _name("even", v, k)) for v in settings.variances]
    lines = []
    for better, worse in pairs:
        if better in measured and worse in measured:
            difference = measured[worse].per_example - measured[better].per_example
            error = difference.std(ddof=1) / math.sqrt(len(difference))
            lines.append(
                {
                    "claim": f"{better} < {worse}",
                    "difference": float(difference.mean()),
                    "standard_errors": float(difference.mean() / max(error, 1e-300)),
                }
            )
    return lines


def _orderings_table(lines: list[dict[str, Any]]) -> str:
    rows = [[line["claim"], f"{line['difference']:+.4f}", f"{line['standard_errors']:+.1f}"] for line in lines]
    return markdown(["grid/variance/K", "bits/dim saved", "in standard errors"], rows)


def _bounds_table(cells: dict[str, Any]) -> str:
    rows = []
    for name, cell in cells.items():
        grid, variance, steps = name.split("/")
        if "measured" not in cell:
            continue
        m, p = cell["measured"], cell.get("predicted")
        text = [f"{m[part]['value']:.3g}" for part in ("prior", "transitions", "reconstruction")]
        total = f"{m['total']['value']:.3f} ± {m['total']['stderr']:.3f}"
        forecast = f"{p['total']['value']:.3f} ± {p['total']['stderr']:.3f}" if p else "-"
        agreement = f"{cell['disagreement_in_standard_errors']:+.1f}" if p else "-"
        rows.append([grid, variance, steps, *text, total, forecast, agreement])
    header = ["grid", "variance", "K", "prior", "transitions", "reconstr.", "bits/dim measured", "predicted", "diff/SE"]
    return markdown(header, rows)


def demo(experiment: Experiment) -> list[Path]:
    """The whole: estimate -> curve -> grids -> samples -> bits/dim."""
    return list(dict.fromkeys([*estimate(experiment), *sample(experiment), *evaluate(experiment)]))


def _mode(steps: Callable[[Experiment], list[Path]]) -> Callable[[ConfigDict, Path], list[Path]]:
    def run(config: ConfigDict, workdir: Path) -> list[Path]:
        torch.manual_seed(config.seed)
        return steps(Experiment(config, workdir))

    return run


MODES = {
    "grid": _mode(grids.run),
    "demo": _mode(demo),
    "estimate": _mode(estimate),
    "sample": _mode(sample),
    "evaluate": _mode(evaluate),
}
