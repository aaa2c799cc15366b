"""Pictures of a comparison of solvers, from the content of compare.json: quality and bits/dim against calls, samples, paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.files import atomic
from score_sde_analytic.report.style import STYLE, mosaic, save

#: A map of colours per family; its members differ in shade and marker.
FAMILIES = {"analytic": "Blues", "ode": "Greens", "sde": "Oranges", "multistep": "Purples", "corrector": "Greys"}
MARKERS = "osD^v<>PX*hd"
Content = Mapping[str, Any]


def styles(solvers: Sequence[Content]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every solver."""
    looks = {}
    for family, name in FAMILIES.items():
        members = [solver["name"] for solver in solvers if solver["family"] == family]
        shades = plt.get_cmap(name)(np.linspace(0.9, 0.4, max(len(members), 2)))
        for i, member in enumerate(members):
            looks[member] = {"color": shades[i], "marker": MARKERS[i % len(MARKERS)]}
    return looks


def readable(path: Path) -> None:
    """Read a picture; whatever its reader raises says that it is damaged."""
    plt.imread(path)


def sheet(
    path: Path,
    x: Float[Tensor, " samples *dims"],
    data: Float[Tensor, " n *dims"],
    declared: DataRange,
    columns: int = 8,
    scale: int = 4,
) -> Path:
    """Samples as one picture: images in a mosaic, each pixel `scale` wide, or points in the range of the data."""
    if x.ndim == 4:
        pixels = np.kron(mosaic(x, columns, declared), np.ones((scale, scale) + (1,) * (x.shape[1] > 1)))
    else:
        here, there = (each.flatten(1)[:, :2].double().numpy() for each in (x, data))
        pixels = _points(here, there)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        plt.imsave(temporary, pixels, cmap="gray", vmin=0.0, vmax=1.0, format="png")
    return path


def _points(x: np.ndarray, data: np.ndarray, side: int = 160) -> np.ndarray:
    """Dots where the points are, (side, side), the second coordinate upwards; of one coordinate, along a line."""
    low, high = data.min(0), data.max(0)
    place = np.round((x - low) / (high - low) * 0.9 * side + 0.05 * side).astype(int)
    place = np.column_stack([place, np.full(len(place), side // 2)])[:, :2]
    picture = np.ones((side, side))
    for right, up in place[((place >= 1) & (place < side - 1)).all(1)]:
        picture[side - 1 - up - 1 : side - 1 - up + 1, right - 1 : right + 1] = 0.0
    return picture


def _cells(content: Content, solver: str, grid: str) -> list[Content]:
    return [c for c in content["cells"] if (c["solver"], c["grid"], c["status"]) == (solver, grid, "ok")]


def _grids(content: Content) -> list[str]:
    return list(dict.fromkeys(cell["grid"] for cell in content["cells"] if cell["budget"]))


#: What solvers that choose their own times have for a grid.
INTERVAL = "interval"


@plt.rc_context(STYLE)
def quality(path: Path, content: Content, metric: Content) -> Path:
    """One metric against network calls, a panel per grid; adaptive solvers, which need none, are in every panel."""
    grids = _grids(content) or [INTERVAL]
    figure, axes = _panels(len(grids))
    look, errors = styles(content["solvers"]), []
    for axis, grid in zip(axes[0], grids, strict=True):
        for solver in content["solvers"]:
            name = solver["name"]
            cells = _cells(content, name, grid) or _cells(content, name, INTERVAL)
            points = [(c["calls"], c["metrics"][metric["name"]]) for c in cells]
            known = [(calls, m["value"], m["stderr"] or 0.0) for calls, m in points if m["value"] is not None]
            if known:
                calls, value, error = np.array(sorted(known)).T
                errors += error.tolist()
                axis.errorbar(calls, value, 2 * error, ms=4, lw=1, capsize=2, label=solver["label"], **look[name])
        free = content["free"]["metrics"].get(metric["name"], {}).get("value") if content.get("free") else None
        if free is not None:
            axis.axhline(free, color="0.4", lw=0.8, ls=":", label="K = 0: " + content["free"]["label"])
        axis.set(title=f"grid {grid}", xlabel="network calls", xscale="log")
        axis.set_xticks(content["budgets"], [str(k) for k in content["budgets"]])
        axis.minorticks_off()
    if errors and metric["better"] == "lower":
        for axis in axes[0]:  # logarithmic down to the noise: distances with their bias removed may be negative
            noise = max(float(np.median(errors)), 1e-12)
            axis.set_yscale("symlog", linthresh=noise)
            axis.set_ylim(bottom=-3.0 * noise)
    axes[0][0].set_ylabel(f"{metric['label']} ({metric['better']} is better), ± 2 SE")
    _legend(figure, axes[0])
    return save(figure, path)


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    """A row of panels with room for a legend at the right."""
    width = 4.4 * count + 2.4
    figure, axes = plt.subplots(1, count, figsize=(width, 4.6), squeeze=False)
    figure.subplots_adjust(left=0.7 / width, right=1.0 - 2.4 / width, bottom=0.11, top=0.92, wspace=0.22)
    return figure, axes


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels."""
    entries = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="upper right", fontsize=7)


@plt.rc_context(STYLE)
def bits(path: Path, content: Content) -> Path | None:
    """Bits/dim of the chains against K, a panel per grid; nothing where no solver has any."""
    grids = [g for g in _grids(content) if any(c["bits"] for c in content["cells"] if c["grid"] == g)]
    if not grids:
        return None
    figure, axes = _panels(len(grids))
    look = styles(content["solvers"])
    for axis, grid in zip(axes[0], grids, strict=True):
        for solver in content["solvers"]:
            cells = [c for c in _cells(content, solver["name"], grid) if c["bits"] and c["bits"]["value"] is not None]
            if cells:
                calls, value = ([c["calls"] for c in cells], [c["bits"]["value"] for c in cells])
                error = [2 * (c["bits"]["stderr"] or 0.0) for c in cells]
                axis.errorbar(calls, value, error, lw=1, ms=4, capsize=2, label=solver["label"], **look[solver["name"]])
        axis.set(title=f"grid {grid}", xlabel="network calls K", ylabel="bits/dim, ± 2 SE", xscale="log")
        axis.set_xticks(content["budgets"], [str(k) for k in content["budgets"]])
        axis.minorticks_off()
    _legend(figure, axes[0])
    return save(figure, path)


@plt.rc_context(STYLE | {"axes.grid": False})
def sheets(path: Path, content: Content, folder: Path, grid: str) -> Path:
    """Sample sheets side by side: a row per budget, a column per solver, the same seeds in all; failed cells say so."""
    cells = {(c["solver"], c["budget"]): c for c in content["cells"] if c["budget"] and c["grid"] == grid}
    names = [solver for solver in content["solvers"] if (solver["name"], content["budgets"][0]) in cells]
    rows, pictures = content["budgets"], [plt.imread(folder / c["sheet"]) for c in cells.values() if c["sheet"]]
    height, width = pictures[0].shape[:2] if pictures else (1, 1)
    size = (1.7 * len(names) + 0.4, 1.7 * height / width * len(rows) + 0.4)
    figure, axes = plt.subplots(len(rows), len(names), figsize=size, squeeze=False)
    figure.subplots_adjust(left=0.4 / size[0], right=0.99, bottom=0.02, top=1.0 - 0.4 / size[1], wspace=0.05, hspace=0.05)
    for column, solver in enumerate(names):
        axes[0][column].set_title(solver["label"], fontsize=7)
        for row, budget in enumerate(rows):
            axis, cell = axes[row][column], cells[solver["name"], budget]
            if column == 0:
                axis.set_ylabel(f"K = {budget}")
            if cell["sheet"] is None:
                axis.text(0.5, 0.5, "failed", ha="center", va="center", transform=axis.transAxes, fontsize=7)
            else:
                axis.imshow(plt.imread(folder / cell["sheet"]), cmap="gray", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    return save(figure, path)


@plt.rc_context(STYLE | {"axes.grid": False})
def paths(path: Path, content: Content, columns: int = 6) -> Path:
    """The way of every sample from noise (grey) to data (black), a panel per solver, over the data's density if known."""
    recorded = content["paths"]
    labels = {solver["name"]: solver["label"] for solver in content["solvers"]}
    rows = -(-len(recorded["solvers"]) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.3 * columns, 2.4 * rows), squeeze=False)
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.25 / rows, top=1.0 - 0.15 / rows, wspace=0.25, hspace=0.3)
    for axis in axes.flat[len(recorded["solvers"]) :]:
        axis.set_visible(False)
    for axis, (name, way) in zip(axes.flat, recorded["solvers"].items(), strict=False):
        if recorded.get("density"):
            density = recorded["density"]
            # The square root shows wide modes beside narrow ones.
            ends = (density["x"][0], density["x"][-1], density["y"][0], density["y"][-1])
            axis.imshow(np.sqrt(density["values"]), cmap="Blues", origin="lower", extent=ends, aspect="auto")
        states = np.array(way["states"])
        axis.add_collection(LineCollection(list(states.transpose(1, 0, 2)), colors="0.45", linewidths=0.4))
        axis.scatter(*states[-1].T, s=4, color="black", zorder=3)
        axis.set_title(labels[name], fontsize=8)
        axis.autoscale_view()
        if recorded.get("density"):  # whatever goes astray
            axis.set_xlim(2 * density["x"][0], 2 * density["x"][-1])
            axis.set_ylim(2 * density["y"][0], 2 * density["y"][-1])
        axis.tick_params(labelsize=6)
    figure.supxlabel(recorded["axes"][0], fontsize=8)
    figure.supylabel(recorded["axes"][1], fontsize=8)
    return save(figure, path)
