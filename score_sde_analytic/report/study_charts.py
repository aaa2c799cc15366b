"""The pictures of a study's page: bits/dim against calls, where the steps lie, the curve, noise per step, points of samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from markupsafe import Markup

from score_sde_analytic.report import svg
from score_sde_analytic.report.charts import Panel, bare_line
from score_sde_analytic.report.results import Z, floats, plain
from score_sde_analytic.report.study_content import Content, estimate, printed
from score_sde_analytic.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame, Point, Scale, Series
from score_sde_analytic.uncertainty import Estimate

Vectors = Sequence[Sequence[float]]

#: Height of a row of the chart that shows where the steps lie.
ROW = 30.0
#: The largest share of a row that the density of the steps may fill.
SHARE = 0.9
GAMMA = "Fitted: (1 − R)/σ². It leaves the measured Λ/σ² where the network is not calibrated, or R is lost in its error."
#: Coordinates of vectors.
AXES = ("x₁", "x₂", "x₃")


def across(values: Iterable[float], log: bool = False, margin: float = 0.05) -> Scale:
    """A horizontal scale that holds the values."""
    return Scale.over(values, LEFT, WIDTH - RIGHT, log, margin)


def upward(values: Iterable[float], log: bool = False) -> Scale:
    """A vertical scale that holds the values."""
    return Scale.over(values, HEIGHT - BOTTOM, TOP, log)


def estimated(x: float, estimate: Estimate, said: str, hollow: bool = False) -> Point:
    """A point with its 95 % interval."""
    reach = Z * estimate.stderr
    return Point(x, estimate.value, estimate.value - reach, estimate.value + reach, said, hollow)


def ends(series: Iterable[Series]) -> list[float]:
    """All that a vertical scale must hold."""
    return [value for one in series for point in one.drawable for value in (point.y, point.low, point.high)]


def panel(title: str, frame: Frame, series: Sequence[Series], *behind: Markup, note: str = "") -> Panel:
    """Series over what lies behind them; those without a marker are lines only, those with a key have it at their end."""
    drawn = [svg.draw(frame, one) if one.marker else bare_line(frame, one) for one in series]
    keys = svg.end_keys(frame, [one for one in series if one.key])
    label = f"{title}: {frame.y_label} against {frame.x_label}"
    chart = svg.picture(frame.axes(), *behind, *drawn, keys, label=label, height=frame.height)
    return Panel(title, chart, series if len(series) > 1 else (), note)


def numbered(index: int, label: str, points: Sequence[Point]) -> Series:
    """A line that its number tells from the others of its chart, in colour, key, marker and dash."""
    return Series(label, points, f"series-{index % 6 + 1}", "abcdef"[index % 6], svg.MARKERS[index % 6], svg.DASHES[index % 6])


# --- bits/dim -------------------------------------------------------------------------------------------------------


def bits(predicted: Mapping[str, Content], measured: Content, limit: Content) -> Panel:
    """Bits/dim over the network calls.

    Args:
        predicted: label -> K -> estimate.
        measured: K -> estimate, on other data.
        limit: the estimate for infinitely many calls.
    """
    named = [numbered(i, label, _points(label, by_steps)) for i, (label, by_steps) in enumerate(predicted.items())]
    lines = [replace(one, band=True) for one in named]
    points = _points("measured", measured, hollow=True)
    series = [*lines, *([Series("measured", points, "series-6", marker="square", line=False)] if points else [])]
    calls = sorted({point.x for one in series for point in one.points})
    x = across(calls, log=True)
    level = [Point(x.low, limit["value"]), Point(x.high, limit["value"])]
    series.append(Series("infinitely many calls", level, "series-6", marker="", dash=svg.DASHES[2]))
    frame = Frame(x, upward(ends(series)), "network calls per sample", "bits/dim", x_ticks=calls)
    return panel("Bits/dim against network calls", frame, series)


def _points(label: str, by_steps: Content, hollow: bool = False) -> list[Point]:
    return [
        estimated(int(steps), estimate(found), f"{label}: {printed(found)} bits/dim with {steps} calls", hollow)
        for steps, found in sorted(by_steps.items(), key=lambda one: int(one[0]))
    ]


# --- samples ----------------------------------------------------------------------------------------------------------


def quality(distances: Mapping[str, Mapping[str, Content]], unit: str) -> Panel:
    """Distance of samples to data over the network calls.

    Args:
        distances: label -> K -> value with its 95 % interval.
    """
    series = [numbered(i, label, _distances(label, by_steps)) for i, (label, by_steps) in enumerate(distances.items())]
    calls = sorted({point.x for one in series for point in one.points})
    y = upward([*ends(series), 0.0])
    frame = Frame(across(calls, log=len(calls) > 1), y, "network calls per sample", unit, x_ticks=calls)
    zero = svg.tag("path", d=f"M{LEFT:g},{y(0.0):.1f}H{WIDTH - RIGHT:g}", class_="limit")
    return panel("Distance of samples to data", frame, series, zero, note="Dashed: that of data to other data, zero.")


def _distances(label: str, by_steps: Mapping[str, Content]) -> list[Point]:
    return [
        Point(int(steps), one["value"], one["low"], one["high"], f"{label}: {plain(one['value'])} with {steps} calls")
        for steps, one in by_steps.items()
    ]


# --- where the steps lie --------------------------------------------------------------------------------------------


def times(grids: Mapping[str, Content], density: Content) -> Panel:
    """A row of strokes per number of steps, over the density that is best for many."""
    rows = sorted(grids, key=int)
    height = TOP + ROW * len(rows) + BOTTOM
    x = across([value for grid in grids.values() for value in grid["log_snr"]], margin=0.02)
    frame = Frame(x, Scale(0.0, len(rows), height - BOTTOM, TOP), "log-SNR", "K", y_ticks=(), height=height)
    strokes = [_row(frame, i + 0.5, steps, grids[steps]) for i, steps in enumerate(reversed(rows))]
    label = f"Where the steps lie, for K = {', '.join(rows)}"
    chart = svg.picture(frame.axes(), _density(frame, density), *strokes, label=label, height=height)
    return Panel("Where the network is called", chart, note="Shaded: the density of steps that is best for many.")


def _row(frame: Frame, place: float, steps: str, grid: Content) -> Markup:
    y = frame.y(place)
    name = svg.tag("text", steps, x=LEFT - 5, y=y + 3.5, class_="tick", text_anchor="end")
    strokes = [
        svg.tag(
            "path",
            svg.tag("title", f"K = {steps}: t = {plain(t, 4)}, log-SNR {plain(log_snr)}"),
            d=f"M{frame.x(log_snr):.1f},{y - 8:.1f}v16",
            class_="line",
        )
        for t, log_snr in zip(grid["times"], grid["log_snr"], strict=True)
    ]
    return name + svg.tag("g", *strokes, class_="series-1")


def _density(frame: Frame, density: Content) -> Markup:
    """sqrt(w) from the lower edge upwards, as high as the frame where it is largest."""
    values = floats(density["root_spread"])
    highest = max(values, default=0.0)
    if not highest > 0.0:
        return Markup("")
    outline = [(x, value / highest * SHARE * frame.y.high) for x, value in zip(density["log_snr"], values, strict=True)]
    inside = [(x, y) for x, y in outline if frame.x.low <= x <= frame.x.high]
    closed = [(inside[0][0], 0.0), *inside, (inside[-1][0], 0.0)] if inside else []
    return svg.tag("path", d=svg.polyline(frame.x, frame.y, closed) + "Z" if closed else "", class_="density")


def on_curve(content: Content, grids: Mapping[str, Content], most: int = 3) -> Panel:
    """Calls of the smallest numbers of steps on the fitted curve R."""
    fine = content["fine"]
    x, residual = floats(fine["log_snr"]), floats(fine["residual"])
    chosen = sorted(grids, key=int)[:most]
    series = [
        Series(f"K = {steps}", _calls(steps, grids[steps], x, residual), f"series-{i + 2}", marker=svg.MARKERS[i], line=False)
        for i, steps in enumerate(chosen)
    ]
    line = _line("fitted R", x, residual, "series-1")
    frame = Frame(across(x), upward(ends([line, *series])), "log-SNR", "R")
    return panel("The calls on the curve", frame, [line, *series])


def _calls(steps: str, grid: Content, x: Sequence[float], residual: Sequence[float]) -> list[Point]:
    places = floats(grid["log_snr"])
    heights = np.interp(places, x, residual).tolist()
    return [
        Point(place, height, title=f"K = {steps}: log-SNR {plain(place)}")
        for place, height in zip(places, heights, strict=True)
    ]


# --- the curve ------------------------------------------------------------------------------------------------------


def curve(content: Content) -> list[Panel]:
    """R and Gamma: measured at the knots with their errors, and as fitted between them."""
    knots = floats(content["log_snr"])
    residual = _knots("R", knots, content["residual"], content["residual_stderr"])
    gamma = _knots("Γ", knots, content["gamma"], content["gamma_stderr"])
    fine = content["fine"]
    cap = _line("most that an exact score can have", fine["log_snr"], fine["cap"], "series-6", svg.DASHES[1])
    lines = [cap, _line("fitted", fine["log_snr"], fine["residual"], "series-1"), residual]
    if "linear" in fine:
        lines.insert(1, _line("best linear denoiser", fine["log_snr"], fine["linear"], "series-5", svg.DASHES[2]))
    other = [_line("fitted", fine["log_snr"], fine["gamma"], "series-1"), gamma]
    x = across(knots)
    positive = [value for value in ends(other) if value > 0.0]
    return [
        panel("Error of the noise estimate, R = E‖ε − ε̂‖²/d", Frame(x, upward(ends(lines)), "log-SNR", "R"), lines),
        panel(
            "Power of the score, Γ = E‖score‖²/d",
            Frame(x, upward(positive, log=True), "log-SNR", "Γ, log scale"),
            other,
            note=GAMMA,
        ),
    ]


def _knots(name: str, x: Sequence[float], values: Sequence[Any], errors: Sequence[Any]) -> Series:
    estimates = [Estimate(value, error) for value, error in zip(floats(values), floats(errors), strict=True)]
    points = [
        estimated(place, estimate, f"{name} = {estimate:.3g} at log-SNR {plain(place)}")
        for place, estimate in zip(x, estimates, strict=True)
    ]
    return Series("measured", points, "series-2", line=False)


def _line(label: str, x: Sequence[float], y: Sequence[Any], colour: str, dash: str = "") -> Series:
    points = [Point(a, b) for a, b in zip(x, floats(y), strict=True)]
    return Series(label, points, colour, marker="", dash=dash)


# --- the noise of each step -----------------------------------------------------------------------------------------


def deviations(content: Content, labels: Mapping[str, str]) -> Panel:
    """Standard deviation of the noise that each step adds, by covariance."""
    x = floats(content["log_snr"])
    series: list[Series] = []
    for name, values in content["std"].items():
        label = labels.get(name, name)
        pairs = zip(x, floats(values), strict=True)
        points = [Point(a, b, title=f"{label}: {plain(b)} from log-SNR {plain(a)}") for a, b in pairs]
        series.append(numbered(len(series), label, points))
    y = upward([value for value in ends(series) if value > 0.0], log=True)
    frame = Frame(across(x), y, "log-SNR the step starts from", "standard deviation, log scale")
    return panel(f"Noise added by each step, K = {content['steps']}", frame, series)


# --- points of samples ----------------------------------------------------------------------------------------------


def scatter(samples: Mapping[str, Vectors], data: Vectors) -> list[Panel]:
    """Vectors of at most three coordinates, for each set of samples a panel per pair of coordinates, on the same axes.

    A single coordinate is shown over the number of the sample.

    Args:
        samples: title -> vectors.
        data: examples to show behind them, or none.
    """
    sets = {title: _columns(vectors) for title, vectors in samples.items()}
    examples = _columns(data) if data else np.empty((0, next(iter(sets.values())).shape[1]))
    frames = _frames(np.concatenate([*sets.values(), examples]))
    return [
        _scatter(title, columns, examples, *pair, frame) for title, columns in sets.items() for pair, frame in frames.items()
    ]


def _columns(vectors: Vectors) -> np.ndarray:
    """(n, coordinates); a single coordinate beside the number of its vector."""
    values = np.array(vectors, dtype=np.float64)
    return values if values.shape[1] > 1 else np.column_stack([values, np.arange(len(values))])


def _frames(every: np.ndarray) -> dict[tuple[int, int], Frame]:
    """Axes for each pair of coordinates."""
    pairs = combinations(range(every.shape[1]), 2)
    return {(i, j): Frame(across(every[:, i]), upward(every[:, j]), AXES[i], AXES[j]) for i, j in pairs}


def _scatter(title: str, samples: np.ndarray, data: np.ndarray, i: int, j: int, frame: Frame) -> Panel:
    behind = Series("data", [Point(row[i], row[j]) for row in data.tolist()], "series-6", marker="cross", line=False)
    dots = Series("samples", [Point(row[i], row[j]) for row in samples.tolist()], "series-1", line=False)
    return panel(title, frame, [behind, dots] if behind.points else [dots])
