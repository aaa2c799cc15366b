"""Pictures: the curve with its errors and bounds, variances against the handcrafted ones, bits/dim against K, samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from scipy.special import logit
from torch import Tensor

from score_sde_analytic.covariance.isotropic import IsotropicCovariance
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import transition_costs
from score_sde_analytic.grids.optimal import Objective
from score_sde_analytic.measure.curve import NoiseCurve, ResidualCap
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.process.kernel import kernels
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.report.style import COLOURS, GRID_COLOURS, LABELS, STYLE, colour_of, label_of, mosaic, save
from score_sde_analytic.uncertainty import Estimate

#: What is known of chains, by (grid, covariance, K).
Cells = Mapping[Any, Mapping[str, Any]]


@plt.rc_context(STYLE)
def curve(
    path: Path,
    moments: Moments,
    curves: Mapping[str, NoiseCurve],
    bound: ResidualCap,
    linear: Callable[[np.ndarray], np.ndarray | None] = lambda log_snr: None,
) -> Path:
    """R, beside that of the best linear denoiser, and Lambda; effective variance with error bars and bounds; calibration in
    standard errors; over log-SNR.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    lam = moments.log_snr
    fine = np.linspace(lam[0], lam[-1], 400)
    _residual_panel(axes[0], moments, curves, bound, fine)
    if (alone := linear(fine)) is not None:
        axes[0].plot(fine, alone, color="0.35", lw=1.0, ls=":", label="best linear denoiser")
    _variance_panel(axes[1], moments, curves, bound, fine)
    difference, size = moments.calibration()
    error = np.abs(difference / np.where(size == 0, 1.0, size))
    label = r"$1 - \Lambda - R$ ± 2 SE"
    axes[2].errorbar(lam, difference, 2 * error, fmt="o", ms=3, lw=0.8, color="0.2", label=label)
    axes[2].axhline(0.0, color="0.5", lw=0.8)
    axes[2].set(title="Calibration: zero for an exact score", xlabel="log-SNR", ylabel="difference")
    for axis in axes:
        axis.legend(fontsize=8, framealpha=0.9)
    return save(figure, path)


def _residual_panel(
    axis: Axes, moments: Moments, curves: Mapping[str, NoiseCurve], bound: ResidualCap, fine: np.ndarray
) -> None:
    lam = moments.log_snr
    axis.fill_between(fine, bound(fine), 1.0, color="0.9", label="above the data's bound")
    for source, fitted in curves.items():
        values = moments.residual if source == "residual" else 1.0 - moments.noise_power
        name = "R" if source == "residual" else r"1 - $\Lambda$"
        axis.errorbar(
            lam, values, 2 * moments.stderr(source), fmt="o", ms=2.5, lw=0.8, color=COLOURS[source], label=f"{name} ± 2 SE"
        )
        axis.plot(fine, fitted.residual(fine), color=COLOURS[source], lw=1.2)
    axis.set(title="Residual power of the network", xlabel="log-SNR", ylabel="R", ylim=(-0.02, 1.02))


def _variance_panel(
    axis: Axes, moments: Moments, curves: Mapping[str, NoiseCurve], bound: ResidualCap, fine: np.ndarray
) -> None:
    lam = moments.log_snr
    for source, fitted in curves.items():
        r = moments.residual if source == "residual" else 1.0 - moments.noise_power
        error = moments.stderr(source)
        # Knots that determine C to within a factor of e.
        known = (r > 0) & (r < 1) & (error < 0.5 * r * (1 - r))
        y, spread = lam[known] - logit(r[known]), 2 * error[known] / (r * (1 - r))[known]
        c = np.exp(-y)
        axis.errorbar(
            lam[known], c, [c - c * np.exp(-spread), c * np.exp(spread) - c], fmt="o", ms=2.5, lw=0.8, color=COLOURS[source]
        )
        axis.plot(fine, fitted.effective_variance(fine), color=COLOURS[source], lw=1.2, label=f"C, {LABELS[source]}")
    with np.errstate(divide="ignore"):
        axis.plot(fine, np.exp(logit(bound(fine)) - fine), "--", color="0.4", lw=1, label="bound from the data alone")
    axis.set(title="Effective data variance", xlabel="log-SNR", ylabel="C", yscale="log")


@plt.rc_context(STYLE)
def variances(
    path: Path,
    schedule: Schedule,
    grid: Grid,
    price: NoiseCurve,
    covariances: Mapping[str, IsotropicCovariance],
    placed: str = "even grid",
) -> Path:
    """Variance of each step, and what each step costs, against log-SNR (Figure 1 of the Analytic-DPM paper).

    Args:
        placed: how the steps are, for the title.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    levels = grid.levels(schedule)[:-1]
    lam = schedule.log_snr(np.array(grid.times[:-2]))
    ks = kernels(levels)
    for name, covariance in sorted(covariances.items(), key=lambda item: item[0] == "score"):
        steps = covariance.steps(ks, levels[:-1])
        dashed = ".--" if name == "score" else ".-"  # drawn last, over the residual's line
        axes[0].plot(lam, [s.variance for s in steps], dashed, color=colour_of(name, list(covariances)), label=label_of(name))  # type: ignore[attr-defined]
        cost = transition_costs(schedule, price, covariance, grid) / np.log(2.0)
        axes[1].plot(
            lam, cost, dashed, color=colour_of(name, list(covariances)), label=f"{label_of(name)}: {cost.sum():.2f} bits/dim"
        )
    axes[0].set(
        title=f"Variance of each step, {placed}, K = {grid.steps}",
        xlabel="log-SNR the step starts from",
        ylabel="variance",
        yscale="log",
    )
    axes[1].set(
        title="Predicted cost of each step (legend: their sum)",
        xlabel="log-SNR the step starts from",
        ylabel="bits/dim",
        yscale="log",
    )
    for axis in axes:
        axis.legend(fontsize=8)
    return save(figure, path)


@plt.rc_context(STYLE)
def bits(path: Path, cells: Cells, grids: Sequence[str], choices: Sequence[str]) -> Path:
    """Bits/dim against K: predicted lines with their error bands, measured points with bars, a panel per grid, one scale."""
    size = (4.6 * len(grids), 4)
    figure, axes = plt.subplots(1, len(grids), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axis, grid in zip(axes[0], grids, strict=True):
        for name in choices:
            rows = _of(cells, grid, name)
            for kind in ("predicted", "measured"):
                points = [(k, cell[kind]["total"]["value"], cell[kind]["total"]["stderr"]) for k, cell in rows if kind in cell]
                if not points:
                    continue
                k, value, error = np.array(points, dtype=np.float64).T  # an error that is not known (None) has no bar
                if kind == "predicted":
                    style = "--" if name == "score" else "-"
                    axis.plot(k, value, style, color=colour_of(name, choices), lw=1.2, label=label_of(name))
                    axis.fill_between(k, value - 2 * error, value + 2 * error, color=colour_of(name, choices), alpha=0.15, lw=0)
                else:
                    label = None if any("predicted" in cell for _, cell in rows) else label_of(name)
                    axis.errorbar(k, value, 2 * error, fmt="o", ms=4, capsize=2, color=colour_of(name, choices), label=label)
        titles = {"dp": "optimal grid (dynamic programming)", "even": "even in t", "even_tuned": "even in t, best first time"}
        axis.set(title=titles.get(grid, grid), xlabel="network calls K", xscale="log")
        ticks = [3, 5, 10, 25, 50, 100]
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.minorticks_off()
    axes[0][0].set_ylabel("bits/dim")
    _cut_above(axes[0], {grid: {name: _totals(cells, grid, name) for name in choices} for grid in grids})
    axes[0][-1].legend(title="line: predicted ± 2 SE\npoint: measured ± 2 SE", fontsize=8, title_fontsize=8)
    return save(figure, path)


def _cut_above(axes: Sequence[Axes], prices: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Leave what is far worse than the analytic variance above the common axis, and say so."""
    known = [by_name for by_name in prices.values() if by_name.get("residual") and all(by_name.values())]
    if not known:
        return
    low = min(min(values) for by_name in known for values in by_name.values())
    own = [by_name["residual"] for by_name in known]
    best, lowest = min(own, key=max), max(map(min, own))
    # Upwards of negative values, too, which densities have; the second so that no panel is empty.
    high = max(max(best) + 0.2 * max(map(abs, best)), lowest + 0.05 * abs(lowest))
    if max(max(values) for by_name in known for values in by_name.values()) <= high:
        return
    margin = max(high - low, 0.05 * abs(high))
    axes[0].set_ylim(low - 0.08 * margin, high + 0.15 * margin)
    for axis, by_name in zip(axes, prices.values(), strict=True):
        least = {name: min(values) for name, values in by_name.items() if values}
        beyond = [f"{label_of(name)}: {value:.3g} at best" for name, value in least.items() if value > high]
        if beyond:
            text = "beyond the axis: " + ",\n".join(beyond)
            axis.text(0.5, 0.97, text, transform=axis.transAxes, ha="center", va="top", fontsize=8)


def _of(cells: Cells, grid: str, covariance: str) -> list[tuple[int, Mapping[str, Any]]]:
    """(K, cell) of one grid and covariance, by K."""
    chosen = {steps: cell for (g, c, steps), cell in cells.items() if (g, c) == (grid, covariance)}
    return sorted(chosen.items())


def _totals(cells: Cells, grid: str, covariance: str) -> list[float]:
    """Predicted bits/dim of one grid and covariance."""
    return [cell["predicted"]["total"]["value"] for _, cell in _of(cells, grid, covariance) if "predicted" in cell]


@plt.rc_context(STYLE)
def placement(path: Path, schedule: Schedule, objective: Objective, grids: Mapping[str, Grid]) -> Path:
    """Where each grid puts its steps, over log-SNR and over t, above the optimal density sqrt(w)."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.8 + 0.32 * len(grids)), layout="constrained")
    lam = np.linspace(objective.low, objective.high, 1000)
    root = np.sqrt(objective.curve.spread(lam))
    t = np.asarray(schedule.time(lam))
    t[0] = 1.0
    density_t = root * np.abs(np.gradient(lam, t))
    for axis, x, density, label in ((axes[0], lam, root, "log-SNR"), (axes[1], t, density_t, "t")):
        height = len(grids) * 0.5
        axis.fill_between(x, 0, density / density.max() * height, color="0.88", lw=0)
        for row, grid in enumerate(grids.values()):
            times = np.array(grid.times[:-1])
            where = schedule.log_snr(times) if label == "log-SNR" else times
            colour = GRID_COLOURS[row % len(GRID_COLOURS)]
            axis.plot(where, np.full(len(times), -(row + 1)), "|", ms=9, mew=1.3, color=colour)
        axis.set_yticks([-(row + 1) for row in range(len(grids))], list(grids))
        axis.set(xlabel=label, title=rf"optimal density $\sqrt{{w}}$ (grey) and the steps, K = {grid.steps}")
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
    axes[1].set_xscale("log")
    return save(figure, path)


@plt.rc_context(STYLE)
def invariance(path: Path, chains: Mapping[str, tuple[Schedule, Grid, float]]) -> Path:
    """The optimal grids of several schedules on the same data, over log-SNR and over t; labels carry bits/dim."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.2 + 0.4 * len(chains)), layout="constrained", sharey=True)
    for row, (schedule, grid, _) in enumerate(chains.values()):
        times, colour = np.array(grid.times[:-1]), GRID_COLOURS[row]
        axes[0].plot(schedule.log_snr(times), np.full(len(times), -row), "|", ms=12, mew=1.5, color=colour)
        axes[1].plot(times, np.full(len(times), -row), "|", ms=12, mew=1.5, color=colour)
    labels = [f"{name}: {bits:.6f} bits/dim" for name, (_, _, bits) in chains.items()]
    axes[0].set_yticks([-row for row in range(len(chains))], labels)
    axes[0].set(xlabel="log-SNR", title="The same optimal levels for every schedule ...")
    axes[1].set(xlabel="t", title="... at each schedule's own times")
    axes[0].set_ylim(-len(chains) + 0.4, 0.6)
    return save(figure, path)


@plt.rc_context(STYLE)
def excess(
    path: Path, names: Sequence[str], steps: Sequence[int], costs: Mapping[tuple[str, int], Any], optimum: Mapping[str, Any]
) -> Path:
    """Excess over the continuous limit against K, log-log, with the 1/K law and the error of the optimum."""
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    limit, error = optimum["limit"]
    k = np.array(optimum["steps"])
    value = optimum["dp"][0]
    axis.plot(k, value - limit, color=GRID_COLOURS[0], lw=1.4, label="dp, every K")
    axis.plot(k, optimum["law"][0] - limit, "k--", lw=1, label=r"law $I^2 / (4 (K-1) \log 2)$")
    for row, name in enumerate(names):
        points = np.array([costs[name, n][0] for n in steps]) - limit
        axis.plot(steps, points, "o-", ms=3.5, lw=0.8, color=GRID_COLOURS[row % len(GRID_COLOURS)], label=name)
    title = f"Excess over the continuous limit, {Estimate(limit, error):.3f} bits/dim"
    axis.set(xlabel="network calls K", ylabel="excess, bits/dim", xscale="log", yscale="log", title=title)
    axis.set_xticks(list(steps), [str(n) for n in steps])
    _plain_ticks(axis)
    axis.legend(fontsize=8, ncols=2)
    return save(figure, path)


def _plain_ticks(axis: Axes) -> None:
    """Readable numbers on a logarithmic y axis, whether it spans a few percent or decades."""
    low, high = axis.get_ylim()
    wide = [d * 10.0**e for e in range(-2, 4) for d in (1, 2, 5)]
    ticks = [v for v in wide if low <= v <= high]
    if len(ticks) < 4:
        ticks = [v for v in np.arange(0.1, 20.01, 0.1 if high - low < 1.2 else 0.5).round(1) if low <= v <= high]
    axis.set_yticks(ticks, [f"{v:g}" for v in ticks])
    axis.minorticks_off()


@plt.rc_context(STYLE | {"axes.grid": False})
def samples(
    path: Path,
    sheets: Mapping[str, Mapping[int, Float[Tensor, " _ *dims"]]],
    data: Float[Tensor, " n *dims"],
    declared: DataRange,
    columns: int = 12,
    title: str = "",
) -> Path:
    """One sheet per variance: a block of images (or a scatter of the first two coordinates) per K, beside real data.

    Args:
        title: of the whole, as the times of the samples.
    """
    rows = [str(k) for k in next(iter(sheets.values()))]
    lines = -(-max(map(len, next(iter(sheets.values())).values())) // columns)
    figure, axes = plt.subplots(
        len(rows) + 1,
        len(sheets),
        figsize=(3.1 * len(sheets) + 0.7, (3.1 * lines / columns + 0.12) * (len(rows) + 1) + 0.7),
        layout="constrained",
        squeeze=False,
    )
    if data.ndim == 2:
        figure.set_size_inches(2.6 * len(sheets) + 0.7, 2.4 * (len(rows) + 1) + 0.3)
    for column, (name, sheet) in enumerate(sheets.items()):
        for row, x in enumerate([*sheet.values(), data]):
            axis = axes[row][column]
            _panel(axis, x, data, declared, columns)
            if column == 0:
                said = f"K = {rows[row]}" if row < len(rows) else "test data"
                axis.set_ylabel(said, rotation=0, ha="right", va="center")
        axes[0][column].set_title(label_of(name))
    figure.suptitle(title or None, fontsize=9)
    return save(figure, path)


def _panel(axis: Axes, x: Tensor, data: Tensor, declared: DataRange, columns: int) -> None:
    if x.ndim == 2:
        axis.scatter(x[:, 0], x[:, 1], s=1.5, alpha=0.4, lw=0)
        spans = data[:, :2].numpy()
        axis.set_xlim(spans[:, 0].min(), spans[:, 0].max())
        axis.set_ylim(spans[:, 1].min(), spans[:, 1].max())
        return
    axis.imshow(mosaic(x[: 4 * columns], columns, declared), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


#: Methods without steps, in the agreement panel.
LIMITS = {
    "continuous": ("continuous-time bound", "#009E73"),
    "flow": ("probability flow", "#D55E00"),
    "exact": ("exact density", "#000000"),
}


@plt.rc_context(STYLE)
def agreement(path: Path, content: Mapping[str, Any]) -> Path:
    """Every likelihood method on the same examples: bits/dim against K, and paired differences from a reference."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    _levels_panel(axes[0], content)
    _differences_panel(axes[1], content)
    return save(figure, path)


def _steps_of(name: str) -> int | None:
    return int(name.removeprefix("K = ")) if name.startswith("K = ") else None


def _levels_panel(axis: Axes, content: Mapping[str, Any]) -> None:
    line = content["predicted_steps"]
    if line:
        k, value, error = np.array([(k, *part) for k, part in line.items()]).T
        axis.plot(k, value, color=COLOURS["residual"], lw=1.2, label="K-step chain, predicted")
        axis.fill_between(k, value - 2 * error, value + 2 * error, color=COLOURS["residual"], alpha=0.15, lw=0)
    rows = [(k, row) for name, row in content["methods"].items() if (k := _steps_of(name)) and "measured" in row]
    points = [(k, row["measured"]["total"]["value"], row["measured"]["total"]["stderr"]) for k, row in rows]
    if points:
        k, value, error = np.array(points).T
        axis.errorbar(k, value, 2 * error, fmt="o", ms=4, capsize=2, color=COLOURS["residual"], label="K-step chain, measured")
    for name, (label, colour) in LIMITS.items():
        row = content["methods"].get(name)
        for kind, style in (("measured", "-"), ("predicted", ":")):
            if row and kind in row:
                part = row[kind]["total"]
                suffix = ", predicted" if kind == "predicted" else ""
                axis.axhline(part["value"], color=colour, lw=1.2, ls=style, label=label + suffix)
                if kind == "measured":
                    axis.axhspan(*(part["value"] + 2 * s * part["stderr"] for s in (-1, 1)), color=colour, alpha=0.12, lw=0)
    title = f"Bits/dim of the test data (bands and bars ± 2 SE)\nchains: grid {content['grid']}, variance {content['variance']}"
    axis.set(title=title, xlabel="network calls K of a chain" if line or points else "", ylabel="bits/dim")
    if not (line or points):
        axis.set_xticks([])
    else:
        axis.set_xscale("log")
        ticks = [3, 5, 10, 25, 50, 100]
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.minorticks_off()
    axis.legend(fontsize=8)


def _differences_panel(axis: Axes, content: Mapping[str, Any]) -> None:
    rows = [(name, row["above_reference"]) for name, row in content["methods"].items() if "above_reference" in row]
    for place, (name, part) in enumerate(rows):
        colour = LIMITS[name][1] if name in LIMITS else COLOURS["residual"]
        axis.errorbar(part["value"], -place, xerr=2 * part["stderr"], fmt="o", ms=4, capsize=3, color=colour)
        text = f"{Estimate(**part):+.4f}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        where = (part["value"], -place)
        axis.annotate(text, where, (0, 7), textcoords="offset points", ha="center", fontsize=8, bbox=box)
    reference = content["reference"]
    label = LIMITS[reference][0] if reference in LIMITS else reference
    axis.axvline(0.0, color=LIMITS.get(reference, ("", "0.5"))[1], lw=1)
    axis.set_yticks([-i for i in range(len(rows))], [LIMITS[n][0] if n in LIMITS else f"chain, {n}" for n, _ in rows])
    axis.set_ylim(-len(rows) + 0.4, 0.7)
    axis.margins(x=0.15)
    axis.set(title=f"Paired difference from the {label}\n(bars ± 2 SE, numbers ± SE)", xlabel="bits/dim")
