"""What a comparison says in one picture: quality against calls, the best solver of each family, and this package's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from score_sde_analytic.report import svg
from score_sde_analytic.report.charts import Panel, frame_of, point_of
from score_sde_analytic.report.results import FAMILIES, Cell, Comparison, Criterion
from score_sde_analytic.report.svg import BOTTOM, LEFT, TOP, WIDTH, Frame, Point, Scale, Series

#: Room for the names at the ends of lines, and height of the picture.
RIGHT, HEIGHT = 98.0, 280.0
OURS = "ours"
#: What is written at the end of a line.
NAMES = {
    OURS: "this package",
    "analytic": "ancestral",
    "ode": "ODE",
    "sde": "SDE",
    "multistep": "multistep",
    "corrector": "corrector",
    "other": "other",
}


@dataclass(frozen=True)
class Group:
    """Solvers of one family, and the best of them at every budget."""

    key: str
    best: Mapping[int, Cell]

    @property
    def ours(self) -> bool:
        return self.key == OURS

    @property
    def name(self) -> str:
        return NAMES[self.key]


def groups(comparison: Comparison, metric: Criterion) -> list[Group]:
    """This package's solvers, and those of others by family, best first by the middle budget; none without a value."""
    found: dict[str, dict[int, Cell]] = {key: {} for key in (OURS, *FAMILIES)}
    for cell, reading in comparison.values(metric):
        if cell.budget and cell.within_budget:
            best = found[OURS if cell.row.ours else cell.row.family]
            if cell.budget not in best or sign(metric) * (reading.value - _value(best[cell.budget], metric)) < 0.0:
                best[cell.budget] = cell
    known = [Group(key, dict(sorted(best.items()))) for key, best in found.items() if best]
    return sorted(known, key=lambda group: _place(group, comparison.middle, metric))


def sign(metric: Criterion) -> int:
    """1 where less is better, else -1."""
    return 1 if metric.lower else -1


def _value(cell: Cell, metric: Criterion) -> float:
    reading = cell.reading(metric)
    return math.nan if reading is None else reading.value


def _place(group: Group, budget: int | None, metric: Criterion) -> float:
    cell = group.best.get(budget or 0)
    return math.inf if cell is None else sign(metric) * _value(cell, metric)


def picture(comparison: Comparison, metric: Criterion, leaders: Sequence[Group]) -> Panel | None:
    """The best of each group against calls, named at the right ends; ours last, over the others."""
    series = [_series(index, group, metric) for index, group in enumerate(leaders)]
    points = [point for one in series for point in one.drawable]
    if not points:
        return None
    frame = _frame(comparison, points, metric)
    behind = _without_calls(comparison, metric, frame)
    drawn = [svg.draw(frame, one) for one, _ in sorted(zip(series, leaders, strict=True), key=lambda pair: pair[1].ours)]
    label = f"{frame.y_label} against {frame.x_label}: the best of each family, {', '.join(group.name for group in leaders)}"
    chart = svg.picture(frame.axes(), *behind, *drawn, svg.end_keys(frame, series), label=label, height=HEIGHT)
    return Panel("", chart, note="Dashed line: the model of the data that needs no network call." if behind else "")


def _series(index: int, group: Group, metric: Criterion) -> Series:
    points = [point_of(cell, cell.reading(metric)) for cell in group.best.values()]
    colour = OURS if group.ours else f"family-{group.key} theirs"
    dash = "" if group.ours else svg.DASHES[1 + index % (len(svg.DASHES) - 1)]
    return Series(group.name, points, colour, group.name, "circle" if group.ours else svg.MARKERS[1 + index % 5], dash)


def _frame(comparison: Comparison, points: Sequence[Point], metric: Criterion) -> Frame:
    """Axes with room for names; logarithmic down to the errors where values spread widely and some may be zero."""
    made = frame_of(points, metric.title, [budget for budget in comparison.budgets if budget])
    y = replace(made.y, start=HEIGHT - BOTTOM, stop=TOP)
    errors = [(point.high - point.low) / 4.0 for point in points if point.high > point.low]
    if y.log and errors and any(point.y <= y.low or point.low <= 0.0 for point in points):
        values = [value for point in points for value in (point.y, point.low, point.high)]
        y = Scale.around_zero(values, HEIGHT - BOTTOM, TOP, knee=median(errors))
    x = replace(made.x, start=LEFT, stop=WIDTH - RIGHT)
    label = f"{made.y_label}, linear near zero" if y.knee else made.y_label
    return replace(made, x=x, y=y, y_label=label, height=HEIGHT, right=RIGHT)


def _without_calls(comparison: Comparison, metric: Criterion, frame: Frame) -> list[svg.Markup]:
    """A dotted line where a model that needs no call lies, as far as the picture holds it."""
    free = [reading.value for cell, reading in comparison.values(metric) if cell.budget == 0]
    shown = [value for value in free if frame.y.low <= value <= frame.y.high]
    return [svg.tag("path", d=f"M{LEFT:g},{frame.y(value):.1f}H{frame.edge:g}", class_="limit") for value in shown]
