"""Pictures of the fewest calls: sheets from the same noise, quality against calls, where the calls lie over the spectrum."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.few_public import Choice, drawn
from benchmarks.few_worlds import Draw, World
from score_sde_analytic.report.style import GRID_COLOURS, STYLE, mosaic, save
from score_sde_analytic.samplers import FlowPaths, Table, TableSampler, fit_table, matched, spectrum_table
from score_sde_analytic.uncertainty import Estimate

#: Calls on sheets; images of each.
SHOWN, COUNT, COLUMNS = (1, 2, 3, 5), 16, 8
Content = Mapping[str, Any]
#: What rows of scores are drawn as, the others are public solvers.
LINES = {"the table": "the table", "as fitted": "as fitted", "spectrum alone": "spectrum alone"}
#: Panels of the picture of quality.
TITLES = {
    "digits": "digits, 8x8",
    "mnist": "MNIST, a network of others",
    "fashion": "Fashion-MNIST, a network of others",
    "mnist_unet": "MNIST, shipped network",
}
#: Colours of the places of calls.
PLACES = (GRID_COLOURS[0], GRID_COLOURS[1], GRID_COLOURS[5])
LEVELS = {"free, no call": "no call: the Gaussian alone", "flow, 48 calls": "the flow itself, 48 calls"}


def choices(scores: Content, steps: int) -> list[Choice]:
    return [Choice(**choice) for choice in scores[str(steps)]["choices"]]


def families(scores: Content, steps: int) -> dict[str, Choice]:
    """The best of each family, whichever network it runs on."""
    return {choice.family: choice for choice in reversed(choices(scores, steps))}


def measured_steps(scores: Content) -> list[int]:
    return sorted(int(steps) for steps in scores if steps != "0")


def rows(content: Content) -> dict[str, np.ndarray]:
    """The first column of every row, by seed."""
    return {name: np.array(values)[:, 0] for name, values in content["rows"].items()}


@plt.rc_context(STYLE | {"axes.grid": False})
def sheets(path: Path, world: World, ours: Mapping[int, Draw], scores: Content) -> Path:
    """Ours beside public solvers at their best, from the same noise."""
    names = ["the table", "DPM-Solver++", "UniPC"]
    figure, axes = plt.subplots(len(ours), 3, figsize=(8.4, 0.72 * len(ours) + 0.3), layout="constrained", squeeze=False)
    for row, (steps, draw) in enumerate(ours.items()):
        best = families(scores, steps)
        draws = [draw, *(best[name].draw(world, steps) for name in names[1:])]
        for column, (axis, each) in enumerate(zip(axes[row], draws, strict=True)):
            _images(axis, world, each)
            if row == 0:
                axis.set_title(names[column])
        axes[row][0].set_ylabel(f"K = {steps}")
    return save(figure, path)


def _images(axis: Axes, world: World, draw: Draw) -> None:
    assert world.judge.data_range is not None
    axis.imshow(mosaic(draw(COUNT, 0), COLUMNS, world.judge.data_range), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


@plt.rc_context(STYLE)
def quality(path: Path, worlds: Mapping[str, Content]) -> Path:
    """Distance against calls, a panel per data set; errors are over seeds."""
    figure, axes = plt.subplots(1, len(worlds), figsize=(1.5 + 3.4 * len(worlds), 3.8), layout="constrained", squeeze=False)
    for axis, (title, scores) in zip(axes[0], worlds.items(), strict=True):
        _quality_panel(axis, scores)
        axis.set(title=title, xlabel="network calls per sample, K")
    axes[0][0].set_ylabel("Fréchet distance, classifier features")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, 1 + len(worlds)), fontsize=8)
    return save(figure, path)


def _quality_panel(axis: Axes, scores: Content) -> None:
    steps = measured_steps(scores)
    for style, (name, values) in zip(("--", ":"), rows(scores["0"]).items(), strict=False):
        axis.axhline(values.mean(), color="0.35", ls=style, lw=1.1, label=LEVELS.get(name, name))
    by_steps = [rows(scores[str(k)]) for k in steps]
    for colour, (name, label) in zip(GRID_COLOURS[:3], LINES.items(), strict=True):
        if all(name in each for each in by_steps):
            _line(axis, steps, [each[name] for each in by_steps], label, color=colour, marker="o")
    public = {"best public solver, best grid": None, "the same, on the network as published": ""}
    for colour, (label, network) in zip(GRID_COLOURS[5:3:-1], public.items(), strict=True):
        values = [_best(scores, k, network) for k in steps]
        if network is None or len({c.network for k in steps for c in choices(scores, k)}) > 1:
            _line(axis, steps, values, label, color=colour, marker="s")
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(steps, [str(k) for k in steps])
    low, high = axis.get_ylim()
    digits = (1, 2, 5) if high > 30.0 * low else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [d * 10.0**e for e in range(-3, 4) for d in digits if low <= d * 10.0**e <= high]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _best(scores: Content, steps: int, network: str | None) -> np.ndarray:
    """Of public solvers, on one network or on any."""
    known = rows(scores[str(steps)])
    allowed = [choice for choice in choices(scores, steps) if network is None or choice.network == network]
    return min((known[str(choice)] for choice in allowed), key=np.mean)


def _line(axis: Axes, steps: Sequence[int], values: Sequence[np.ndarray], label: str, **style: Any) -> None:
    found = [Estimate.of(each) for each in values]
    axis.errorbar(steps, [e.value for e in found], [e.stderr for e in found], label=label, ms=4, lw=1.3, capsize=2, **style)


@plt.rc_context(STYLE)
def placement(path: Path, world: World, calls: Mapping[str, Mapping[int, np.ndarray]]) -> Path:
    """Where calls lie: each coefficient of the data becomes known where e^-log-SNR passes its variance."""
    figure, axis = plt.subplots(figsize=(8.4, 0.9 + 0.24 * sum(map(len, calls.values()))), layout="constrained")
    known = -np.log(world.linear.spectrum.ravel().clip(1e-12))
    known = known[known < world.end + 2.0]
    height = sum(map(len, calls.values())) + 1.0
    counts, edges = np.histogram(known, bins=40)
    axis.stairs(counts / counts.max() * height, edges, fill=True, color="0.88")
    labels, row = [], 0
    for colour, (name, by_steps) in zip(PLACES, calls.items(), strict=True):
        for steps, log_snrs in by_steps.items():
            row += 1
            axis.plot(log_snrs, np.full(len(log_snrs), height - row), "o", ms=5, color=colour)
            labels.append(f"{name}, K = {steps}")
    axis.set_yticks([height - 1 - i for i in range(len(labels))], labels)
    axis.set(xlabel="log-SNR of the call (more noise on the left)", ylim=(0, height))
    axis.set_title("Where calls lie. Grey: how many coefficients of the data have the variance exp(-log-SNR)", fontsize=9)
    axis.grid(axis="y", visible=False)
    return save(figure, path)


def fitted_tables(world: World, paths: FlowPaths, steps: Sequence[int]) -> dict[int, Table]:
    return {k: matched(fit_table(world.model, paths, world.linear, k)) for k in steps}


def public_levels(world: World, scores: Content, steps: int) -> np.ndarray:
    """Log-SNRs of the best public solver's calls."""
    known = rows(scores[str(steps)])
    choice = min(choices(scores, steps), key=lambda choice: known[str(choice)].mean())
    return np.array([world.model.schedule.log_snr(t) for t in choice.times(world, steps).times[:-1]])


def draw_all(world: World, name: str, paths: FlowPaths, workdir: Path, folder: Path) -> list[Path]:
    """Sheets and places of the calls of one data set, and the quality of all that were measured."""
    every = {file.stem: json.loads(file.read_text()) for file in sorted(workdir.glob("*.json"))}
    scores = every[name]
    steps = [k for k in SHOWN if str(k) in scores]
    tables = fitted_tables(world, paths, steps)
    samplers = {k: TableSampler(world.model, table) for k, table in tables.items()}
    several = [k for k in steps if k > 1]
    calls = {
        "the table": {k: tables[k].log_snrs for k in steps},
        "Zolotarev's": {k: spectrum_table(world.linear, k).log_snrs for k in several},
        "best public": {k: public_levels(world, scores, k) for k in several},
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [
        sheets(folder / f"few_calls_{name}.png", world, {k: drawn(world, s, s.grid) for k, s in samplers.items()}, scores),
        placement(folder / f"few_calls_levels_{name}.png", world, calls),
        quality(folder / "few_calls_quality.png", {TITLES[key]: every[key] for key in TITLES if key in every}),
    ]
