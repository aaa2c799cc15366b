"""The pictures of the comparison report: quality against network calls, paths of samples, calibration of the network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from contourpy import ContourGenerator, FillType, contour_generator
from markupsafe import Markup

from score_sde_analytic.report import svg
from score_sde_analytic.report.results import FAMILIES, Cell, Comparison, Criterion, Row, as_float, floats, plain
from score_sde_analytic.report.svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Frame, Point, Scale, Series

#: Series a single panel can hold; with more, each family has panels of its own.
CROWD = 6
#: Ratio of largest to smallest from which an axis is logarithmic.
WIDE = 8.0
#: Paths drawn in one panel, and states of each.
MOST_PATHS, MOST_STATES = 48, 200


@dataclass(frozen=True)
class Panel:
    """A chart with its heading and legend."""

    title: str
    chart: Markup
    legend: Sequence[Series] = ()
    note: str = ""


# --- a number against network calls ---------------------------------------------------------------------------------


def against_calls(comparison: Comparison, metric: Criterion) -> list[Panel]:
    """A metric over the network calls, with 95 % intervals."""
    values = [(cell, reading) for cell, reading in comparison.values(metric) if cell.budget != 0]
    return _small_multiples(comparison, values, metric.title)


def overhead(comparison: Comparison) -> list[Panel]:
    """Time over the time of as many bare network calls."""
    known = [(cell, cell.ratio) for cell in comparison.cells if not cell.failed and math.isfinite(cell.ratio)]
    return _small_multiples(comparison, known, "Time / time of bare network calls")


def _small_multiples(comparison: Comparison, values: Sequence[tuple[Cell, Any]], label: str) -> list[Panel]:
    points: dict[Row, list[Point]] = {}
    for cell, value in values:
        points.setdefault(cell.row, []).append(point_of(cell, value))
    everything = [point for row in points.values() for point in row if point.drawable]
    if not everything:
        return []
    frame = frame_of(everything, label, [b for b in comparison.budgets if b is not None])
    rows = [row for row in comparison.rows if row in points]
    groups = [("", rows)] if len(rows) <= CROWD else _groups(rows)
    return [_panel(title, group, points, frame) for title, group in groups]


def point_of(cell: Cell, value: Any) -> Point:
    """A cell's number with its interval, over its network calls."""
    number, low, high = (value, math.nan, math.nan) if isinstance(value, float) else (value.value, *value.interval)
    said = plain(number) if isinstance(value, float) else str(value)
    title = f"{cell.row.title}: {said} at {cell.effort or 'an unknown number of calls'}"
    return Point(cell.calls, number, low, high, title, hollow=cell.budget is None)


def frame_of(points: Sequence[Point], label: str, budgets: Sequence[int]) -> Frame:
    """Axes that hold the points; logarithmic where these spread widely."""
    calls = [p.x for p in points]
    ends = [v for p in points for v in (p.y, p.low, p.high) if math.isfinite(v)]
    floor = _floor(points)
    log = floor is not None
    if floor is not None:  # what may be zero must not stretch the axis
        ends = [max(v, floor / 3) for v in ends]
    log_x = min(calls) > 0 and max(calls) > 4 * min(calls)
    x = Scale.over(calls, LEFT, WIDTH - RIGHT, log_x)
    y = Scale.over(ends, svg.HEIGHT - BOTTOM, TOP, log)
    label = f"{label}, log scale" if log else label
    beyond = [tick for tick in x.ticks() if tick > 1.2 * max(budgets, default=0)]
    ticks = [float(b) for b in budgets if x.low <= b <= x.high]
    return Frame(x, y, "network calls per sample", label, x_ticks=[*ticks, *beyond])


def _floor(points: Sequence[Point]) -> float | None:
    """The least value that is surely positive, if a logarithmic axis suits: values spread widely, none is far below zero."""
    surely = [p.y for p in points if p.y > 0 and not p.low <= 0]
    if not surely or min(p.y for p in points) < -0.02 * max(surely) or max(surely) <= WIDE * min(surely):
        return None
    return min(surely)


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by family; a large family in several shares, each with all grids of its solvers where they fit."""
    groups = []
    for family, name in FAMILIES.items():
        shares = _shares([row for row in rows if row.family == family])
        for number, share in enumerate(shares, 1):
            title = f"{name} ({number} of {len(shares)})" if len(shares) > 1 else name
            groups.append((title[:1].upper() + title[1:], share))
    return groups


def _shares(rows: Sequence[Row]) -> list[list[Row]]:
    shares: list[list[Row]] = []
    most = math.ceil(len(rows) / math.ceil(len(rows) / CROWD)) if rows else CROWD
    for _, members in groupby(rows, key=lambda row: row.solver):
        grids = list(members)
        if shares and len(shares[-1]) + len(grids) <= most:
            shares[-1] += grids
        else:
            shares += [grids[i : i + most] for i in range(0, len(grids), most)]
    return shares


def _panel(title: str, members: Sequence[Row], points: Mapping[Row, Sequence[Point]], frame: Frame) -> Panel:
    before = [sum(other.family == row.family for other in members[:index]) for index, row in enumerate(members)]
    series = [_series(row, index, before[index], points[row]) for index, row in enumerate(members)]
    others = [tuple((p.x, p.y) for p in points[row] if not p.hollow) for row in points if row not in members]
    context = svg.tag("path", d="".join(svg.polyline(frame.x, frame.y, line) for line in others), class_="context")
    lines = [svg.draw(frame, one) for one in series]
    label = f"{frame.y_label} against {frame.x_label}: {title or 'all solvers'}"
    chart = svg.picture(frame.axes(), context, *lines, svg.end_keys(frame, series), label=label)
    notes = ["Grey: the other solvers."] if others else []
    if any(p.y < frame.y.low for one in series for p in one.drawable):
        notes.append("Values below the axis, zero and less among them, lie on its lower edge.")
    return Panel(title, chart, series, " ".join(notes))


def _series(row: Row, index: int, before: int, points: Sequence[Point]) -> Series:
    """The index sets the key, the marker and the dash; `before`, how many of its family precede, the shade of its colour."""
    colour = f"family-{row.family}" + (" shade" if before % 2 else "")
    ordered = sorted(points, key=lambda p: p.x)
    return Series(row.title, ordered, colour, "abcdefghij"[index % 10], svg.MARKERS[index % 6], svg.DASHES[index % 6])


# --- paths of samples -----------------------------------------------------------------------------------------------


def paths(data: Mapping[str, Any], names: Mapping[str, str], families: Mapping[str, str]) -> list[Panel]:
    """A panel per solver: the way of 2-D points over the density, or of a few pixels over log-SNR."""
    kept = {key: value for key, value in (data.get("solvers") or {}).items() if _states(value) is not None}
    if not kept:
        return []
    draw = _pixel_panels if data.get("kind") == "pixels" else _point_panels
    panels = draw(data, kept, families)
    return [replace(panel, title=names.get(panel.title, panel.title)) for panel in panels]


def _states(data: Mapping[str, Any]) -> np.ndarray | None:
    """States as an array, (steps + 1, n, 2) or (steps + 1, n, pixels), thinned to what a panel can show."""
    rows = data.get("states")
    try:
        states = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if states.ndim < 2 or states.size == 0:
        return None
    return states[_thinned(len(states)), :MOST_PATHS]


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_STATES)).round().astype(int))


def _point_panels(data: Mapping[str, Any], solvers: Mapping[str, Any], families: Mapping[str, str]) -> list[Panel]:
    states = {name: array for name, one in solvers.items() if (array := _states(one)) is not None and array.ndim == 3}
    if not states:
        return []
    x_range, y_range = _window(data.get("density"), states.values())
    x_label, y_label = [*map(str, data.get("axes") or ()), "x", "y"][:2]
    side = WIDTH - LEFT - RIGHT
    x = Scale(*x_range, LEFT, WIDTH - RIGHT)
    frame = Frame(x, Scale(*y_range, TOP + side, TOP), x_label, y_label, height=TOP + side + BOTTOM)
    ground = _contours(data.get("density"), frame)
    return [
        Panel(name, _point_chart(frame, ground, array, name, families.get(name, "other"))) for name, array in states.items()
    ]


Ranges = tuple[tuple[float, float], tuple[float, float]]


def _window(density: Mapping[str, Any] | None, states: Iterable[np.ndarray]) -> Ranges:
    """A square that holds the density and where the paths end; they may start outside."""
    ends = np.concatenate([array[-1] for array in states])
    ends = ends[np.isfinite(ends).all(1)]
    corners = [np.array([floats(density.get(axis)) for axis in "xy"], dtype=object)] if density else []
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for axis in range(2):
        values = [*(ends[:, axis] if len(ends) else ()), *(v for c in corners for v in c[axis] if math.isfinite(v))] or [-1, 1]
        low[axis], high[axis] = min(values), max(values)
    middle, half = (low + high) / 2, 0.53 * max(high - low) or 1.0
    return (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half)


def _contours(density: Mapping[str, Any] | None, frame: Frame) -> Markup:
    """Regions of the highest density that hold 30, 60, 90 and 99 % of the mass, one shade upon the other."""
    if not density:
        return Markup("")
    values = np.nan_to_num(np.array([floats(row) for row in density["values"]]), nan=0.0, posinf=0.0, neginf=0.0)
    x, y = floats(density["x"]), floats(density["y"])
    placed = values.shape == (len(y), len(x)) and bool(np.isfinite([*x, *y]).all())
    if not placed or min(values.shape) < 2 or not values.max() > 0:
        return Markup("")
    ordered = np.sort(values.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    generator = contour_generator(x, y, values, fill_type=FillType.OuterOffset)
    shapes = []
    for share in (0.99, 0.9, 0.6, 0.3):
        polygons, offsets = _filled(generator, float(ordered[np.searchsorted(mass, share)]))
        rings = [p[a:b] for p, o in zip(polygons, offsets, strict=True) for a, b in pairwise(o)]
        outline = "".join(svg.polyline(frame.x, frame.y, ring) + "Z" for ring in rings)
        shapes.append(svg.tag("path", d=outline, class_="density"))
    return Markup("").join(shapes)


def _filled(generator: ContourGenerator, level: float) -> Any:
    """Polygons around what is at least `level`, and where their rings begin and end."""
    return generator.filled(level, np.inf)


def _point_chart(frame: Frame, ground: Markup, states: np.ndarray, name: str, family: str) -> Markup:
    # Shares of the frame rather than its scales, which hold values inside: a path that leaves is cut off by the window.
    unit = [(states[..., i] - s.low) / (s.high - s.low) for i, s in enumerate((frame.x, frame.y))]
    side = WIDTH - LEFT - RIGHT
    xs, ys = side * unit[0], side * (1 - unit[1])
    lines = "".join(_open_line(xs[:, j], ys[:, j]) for j in range(states.shape[1]))
    ends = [(a, b) for a, b in zip(xs[-1], ys[-1], strict=True) if math.isfinite(a) and math.isfinite(b)]
    dots = "".join(svg.marker("circle", a, b, 2.6) for a, b in ends)
    window = svg.tag(
        "svg",
        svg.tag("path", d=lines, class_="path"),
        svg.tag("path", d=dots, class_="mark"),
        x=LEFT,
        y=TOP,
        width=side,
        height=side,
    )
    label = f"Paths of {states.shape[1]} samples of {name} in {len(states) - 1} steps, over the density of the data"
    return svg.picture(frame.axes(), ground, svg.tag("g", window, class_=f"family-{family}"), label=label, height=frame.height)


def _open_line(xs: np.ndarray, ys: np.ndarray) -> str:
    """A path that stops where the state is no longer finite; far excursions are shortened to what a renderer can hold."""
    finite = [(a, b) for a, b in zip(xs, ys, strict=True) if math.isfinite(a) and math.isfinite(b)]
    inside = [(min(max(a, -1e4), 1e4), min(max(b, -1e4), 1e4)) for a, b in finite]
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in inside) if inside else ""


def _pixel_panels(data: Mapping[str, Any], solvers: Mapping[str, Any], families: Mapping[str, str]) -> list[Panel]:
    read = {name: (_abscissa(one), array) for name, one in solvers.items() if (array := _states(one)) is not None}
    ways = {name: (x, _by_pixel(array)) for name, (x, array) in read.items() if array.ndim <= 3 and len(x) == len(array)}
    if not ways:
        return []
    labels = [*map(str, data.get("axes") or ())] + [f"pixel {i + 1}" for i in range(CROWD)]
    over = "log-SNR" if any(one.get("log_snr") for one in solvers.values()) else "time"
    ends = (LEFT, WIDTH - RIGHT) if over == "log-SNR" else (WIDTH - RIGHT, LEFT)  # noise on the left: time runs down
    x = Scale.over((v for xs, _ in ways.values() for v in xs), *ends, margin=0.02)
    low, high = _usual_range([array for _, array in ways.values()])
    frame = Frame(x, Scale.over([low, high], svg.HEIGHT - BOTTOM, TOP), over, "pixel value")
    return [Panel(name, *_pixel_chart(frame, xs, array, labels, name)) for name, (xs, array) in ways.items()]


def _usual_range(ways: Sequence[np.ndarray]) -> tuple[float, float]:
    """Where nearly all values lie, but no more than twice as far as those of the middle solver: others may have diverged."""
    finite = [array[np.isfinite(array)] for array in ways]
    known = [values for values in finite if values.size]
    if not known:
        return -1.0, 1.0
    low, high = np.quantile(np.concatenate(known), [0.002, 0.998])
    lowest, highest = (float(np.median([end(values) for values in known])) for end in (np.min, np.max))
    room = highest - lowest
    return max(float(low), lowest - room / 2), min(float(high), highest + room / 2)


def _by_pixel(states: np.ndarray) -> np.ndarray:
    """(steps + 1, images, pixels); states without an axis of images are of one."""
    return (states if states.ndim == 3 else states[:, None])[..., :CROWD]


def _abscissa(data: Mapping[str, Any]) -> list[float]:
    """Log-SNR of the states, or else their times; infinite log-SNR (the data) lies one step past the last finite one."""
    values = floats(data.get("log_snr") or data.get("times"))
    known = [value for value in values if math.isfinite(value)]
    if data.get("log_snr") and known:
        beyond = max(known) + 0.06 * (max(known) - min(known) or 1.0)
        values = [value if math.isfinite(value) else beyond for value in values]
    return [values[i] for i in _thinned(len(values))] if values else []


def _pixel_chart(
    frame: Frame, xs: Sequence[float], states: np.ndarray, labels: Sequence[str], name: str
) -> tuple[Markup, list[Series]]:
    _, images, pixels = states.shape
    series, lines = [], []
    for j in range(pixels):
        ways = [[Point(x, v) for x, v in zip(xs, states[:, i, j], strict=True)] for i in range(images)]
        key = "abcdef"[j] if images == 1 else ""  # the lines of several images have no common end to put it at
        series.append(Series(labels[j], ways[0], f"series-{j + 1}", key, marker=""))
        lines += [bare_line(frame, replace(series[-1], points=way)) for way in ways]
    label = f"Paths of {len(series)} pixels of {name} over {frame.x_label}"
    ends = svg.end_keys(frame, [one for one in series if one.key])
    return svg.picture(frame.axes(), *lines, ends, label=label), series


def bare_line(frame: Frame, series: Series) -> Markup:
    """The line of a series without markers."""
    way = svg.polyline(frame.x, frame.y, [(p.x, p.y) for p in series.points])
    line = svg.tag("path", svg.tag("title", series.label), d=way, class_="line thin", stroke_dasharray=series.dash or None)
    return svg.tag("g", line, class_=series.colour)


# --- calibration ----------------------------------------------------------------------------------------------------


def calibration(data: Mapping[str, Any]) -> list[Panel]:
    """1 - Lambda - R with errors, the same in standard errors, and the two sides; over log-SNR."""
    x = floats(data.get("log_snr"))
    difference, sizes = _named(data, "difference"), _named(data, "in_standard_errors")
    errors = floats(data.get("stderr")) or _errors(difference, sizes)
    if errors and difference and not sizes:
        sizes = [d / e if e > 0 else math.nan for d, e in zip(difference, errors, strict=False)]
    panels = [
        _calibration_panel(
            "1 − Λ against R",
            x,
            {"1 − Λ": [1 - v for v in floats(data.get("noise_power"))]} | {"R": floats(data.get("residual"))},
            "power",
            None,
        ),
        _calibration_panel("Their difference ± 2 standard errors", x, {"1 − Λ − R": difference}, "1 − Λ − R", errors),
        _calibration_panel("In standard errors", x, {"(1 − Λ − R) / error": sizes}, "standard errors", None, band=True),
    ]
    return [panel for panel in panels if panel is not None]


def _errors(difference: Sequence[float], sizes: Sequence[float]) -> list[float]:
    return [abs(d / s) if s else math.nan for d, s in zip(difference, sizes, strict=False)]


def _named(data: Mapping[str, Any], name: str) -> list[float]:
    """Numbers by the report's name, or by the name of the estimate mode's table."""
    table = {"difference": "1-noise_power-residual", "in_standard_errors": "1-noise_power-residual_in_standard_errors"}
    return floats(data.get(name) or data.get(table[name]))


def outside(data: Mapping[str, Any]) -> tuple[int, int]:
    """How many knots differ by more than two standard errors, and of how many.

    >>> outside({"in_standard_errors": [0.5, -3.0, 1.0]})
    (1, 3)
    """
    sizes = _named(data, "in_standard_errors")
    if not sizes:
        pairs = zip(_named(data, "difference"), floats(data.get("stderr")), strict=False)
        sizes = [d / e if e > 0 else math.nan for d, e in pairs]
    known = [size for size in sizes if math.isfinite(size)]
    return sum(abs(size) > 2 for size in known), len(known)


def _calibration_panel(
    title: str,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    label: str,
    errors: Sequence[float] | None,
    band: bool = False,
) -> Panel | None:
    series = []
    for index, (name, values) in enumerate(lines.items()):
        reach = [2 * as_float(e) for e in errors] if errors else [0.0] * len(values)
        points = [
            Point(a, v, v - r, v + r, f"{name} = {plain(v)} at log-SNR {plain(a)}")
            for a, v, r in zip(x, values, reach, strict=False)
        ]
        series.append(Series(name, points, f"series-{index + 1}", marker=svg.MARKERS[index], line=False))
    shown = [one for one in series if one.drawable]
    if not shown:
        return None
    points = [p for one in shown for p in one.drawable]
    lines_at = [0.0, 2.0, -2.0] if band else [0.0] if errors else []
    y = Scale.over([*(v for p in points for v in (p.y, p.low, p.high)), *lines_at], svg.HEIGHT - BOTTOM, TOP)
    frame = Frame(Scale.over((p.x for p in points), LEFT, WIDTH - RIGHT), y, "log-SNR", label)
    rules = [
        svg.tag("path", d=f"M{LEFT:g},{y(v):.1f}H{WIDTH - RIGHT:g}", class_="zero" if v == 0 else "limit") for v in lines_at
    ]
    chart = svg.picture(frame.axes(), *rules, *[svg.draw(frame, one) for one in shown], label=title)
    return Panel(title, chart, shown if len(shown) > 1 else ())
