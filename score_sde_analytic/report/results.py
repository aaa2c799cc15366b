"""The plain data of a comparison of solvers, read into rows, cells and readings; and which differences the data can tell.

Where the data have paired differences to the best of a column, a reading is worse when the 95 % interval of its difference
leaves out 0. Elsewhere when the two intervals do not overlap: a cautious rule, since two readings may differ significantly
while their intervals still touch, and the only one that errors of unknown correlation allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Half the width of a 95 % interval of a normal estimate, in standard errors.
Z = 1.959964

FAMILIES = {
    "analytic": "analytic variance",
    "ode": "probability-flow ODE",
    "sde": "reverse SDE",
    "multistep": "multistep",
    "corrector": "predictor-corrector",
    "other": "other",
}


def as_float(value: Any) -> float:
    """A number of the data; NaN for what is missing (None) or is no number.

    >>> as_float("1e-3"), as_float(None)
    (0.001, nan)
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def floats(values: Iterable[Any] | None) -> list[float]:
    numbers = list(values or ())
    try:
        return np.array(numbers, dtype=np.float64).tolist()
    except (TypeError, ValueError):
        return [as_float(value) for value in numbers]


@dataclass(frozen=True)
class Reading:
    """A value with its standard error and 95 % interval; NaN where unknown.

    >>> Reading(1.0, 0.1).overlaps(Reading(1.3, 0.1)), Reading(1.0, 0.1).overlaps(Reading(1.5, 0.1))
    (True, False)
    """

    value: float
    stderr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    kind: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any] | None) -> Reading | None:
        if not data:
            return None
        numbers = {name: as_float(data.get(name)) for name in ("value", "stderr", "low", "high")}
        return cls(**numbers, kind=str(data.get("kind") or ""))

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)

    @property
    def interval(self) -> tuple[float, float]:
        """The given 95 % interval, else value ± 1.96 standard errors, else the whole line: nothing is known to differ."""
        reach = Z * self.stderr if math.isfinite(self.stderr) else math.inf
        low = self.low if math.isfinite(self.low) else self.value - reach
        high = self.high if math.isfinite(self.high) else self.value + reach
        return low, high

    def overlaps(self, other: Reading) -> bool:
        (low, high), (other_low, other_high) = self.interval, other.interval
        return low <= other_high and other_low <= high

    def __str__(self) -> str:
        return with_error(self.value, self.stderr)


def superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def plain(value: float, digits: int = 3) -> str:
    """A number to some significant digits, with a power of ten where it has many zeros.

    >>> plain(0.012345), plain(1.2345e7)
    ('0.0123', '1.23 × 10⁷')
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    exponent = math.floor(math.log10(abs(value))) if value else 0
    if -4 < exponent < 6:
        return f"{value:.{max(0, digits - 1 - exponent)}f}".replace("-", "−")
    return f"{value / 10.0**exponent:.{digits - 1}f} × 10{superscript(exponent)}".replace("-", "−")


def with_error(value: float, stderr: float) -> str:
    """`value ± stderr`, rounded to two significant digits of the error: the digits that mean something.

    >>> with_error(2.34567, 0.0123)
    '2.346 ± 0.012'
    """
    if not (math.isfinite(value) and math.isfinite(stderr) and stderr >= 0):
        return plain(value, 4)
    if stderr == 0:
        return f"{plain(value, 4)} ± 0"
    size = max(abs(value), stderr)
    exponent = math.floor(math.log10(size))
    scale = 0 if -4 < exponent < 6 else exponent
    decimals = max(0, 1 - math.floor(math.log10(stderr)) + scale)
    text = f"{value / 10.0**scale:.{decimals}f} ± {stderr / 10.0**scale:.{decimals}f}".replace("-", "−")
    return f"({text}) × 10{superscript(scale)}" if scale else text


def joined(names: Sequence[str], most: int = 3) -> str:
    """An English list, cut short: "a, b, c and 2 others"; with semicolons where a name has a comma.

    >>> joined(["a", "b", "c", "d", "e"])
    'a, b, c and 2 others'
    """
    shown, rest = list(names[:most]), len(names) - most
    if rest > 0:
        shown.append(f"{rest} other{'s' if rest > 1 else ''}")
    if any("," in name for name in shown[:-1]):
        return "; ".join(shown)
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


@dataclass(frozen=True)
class Criterion:
    """What solvers are compared by: a metric, or bits/dim."""

    name: str
    label: str
    lower: bool = True
    unit: str = ""
    about: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Criterion:
        name = str(data["name"])
        lower = data.get("better", "lower") != "higher"
        return cls(name, str(data.get("label") or name), lower, str(data.get("unit") or ""), str(data.get("about") or ""))

    @property
    def direction(self) -> str:
        return "lower is better" if self.lower else "higher is better"

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


#: Bits/dim compare like a metric.
BITS = Criterion("bits", "Bits/dim")


@dataclass(frozen=True)
class Row:
    """A solver on a grid: one line of the tables, one series of the pictures."""

    solver: str
    grid: str
    label: str
    family: str = "other"
    ours: bool = False

    @property
    def title(self) -> str:
        return f"{self.label} · {self.grid}" if self.grid else self.label


@dataclass(frozen=True)
class Cell:
    """One row at one budget; `budget` None chose its own steps."""

    row: Row
    budget: int | None
    steps: float = math.nan
    calls: float = math.nan
    tolerance: float = math.nan
    failed: bool = False
    reason: str = ""
    metrics: Mapping[str, Reading | None] = field(default_factory=dict)
    bits: Reading | None = None
    seconds: float = math.nan
    ratio: float = math.nan
    sheet: str = ""
    behind: Mapping[str, Reading] = field(default_factory=dict)

    def tied(self, metric: Criterion, top: Cell) -> bool:
        """Whether the data cannot tell this cell from the best one: by their paired difference, or else by both intervals."""
        apart = self.behind.get(metric.name)
        if apart is not None and apart.known and metric is not BITS:
            low, high = apart.interval
            return low <= 0.0 <= high
        mine, best = self.reading(metric), top.reading(metric)
        return mine is not None and best is not None and mine.overlaps(best)

    def reading(self, metric: Criterion) -> Reading | None:
        return self.bits if metric is BITS else self.metrics.get(metric.name)

    @property
    def within_budget(self) -> bool:
        return self.budget is not None and not self.calls > self.budget

    @property
    def effort(self) -> str:
        """The network calls, the steps where these are another number, and the tolerance of an adaptive solver."""
        parts = [f"{self.calls:.4g} call{'' if self.calls == 1 else 's'}"] if math.isfinite(self.calls) else []
        parts += [f"{self.steps:.4g} steps"] if math.isfinite(self.steps) and self.steps != self.calls else []
        parts += [f"tolerance {self.tolerance:g}"] if math.isfinite(self.tolerance) else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Ranking:
    """The best cell of a column, and the others that the data cannot tell from it.

    Attributes:
        paired: whether by the errors of paired differences.
    """

    best: Cell
    ties: tuple[Cell, ...]
    candidates: int
    metric: Criterion
    paired: bool = False

    @property
    def clear(self) -> bool:
        return not self.ties and self.candidates > 1


@dataclass(frozen=True)
class Comparison:
    """What the tables and pictures of the report are made from."""

    metrics: tuple[Criterion, ...]
    rows: tuple[Row, ...]
    budgets: tuple[int | None, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Comparison:
        """Read the report's content; rows come in the order of the solvers, then of the cells."""
        solvers = {str(data["name"]): data for data in content.get("solvers") or ()}
        behind = _behind(content.get("paired") or {})
        every = [*(content.get("cells") or ()), *([content["free"]] if content.get("free") else ())]
        cells = tuple(_cell(data, solvers, behind) for data in every)
        order = {name: index for index, name in enumerate(solvers)}
        rows = sorted(dict.fromkeys(cell.row for cell in cells), key=lambda row: order.get(row.solver, len(order)))
        given = {*map(int, content.get("budgets") or ())} | {cell.budget for cell in cells if cell.budget is not None}
        budgets: list[int | None] = [*sorted(given)]
        if any(cell.budget is None for cell in cells):
            budgets.append(None)
        return cls(tuple(Criterion.of(data) for data in content.get("metrics") or ()), tuple(rows), tuple(budgets), cells)

    @property
    def middle(self) -> int | None:
        """The budget that rows are sorted by: the middle one, of two the smaller."""
        fixed = [budget for budget in self.budgets if budget]
        return fixed[(len(fixed) - 1) // 2] if fixed else None

    def at(self, row: Row, budget: int | None) -> list[Cell]:
        return [cell for cell in self.cells if cell.row == row and cell.budget == budget]

    @property
    def failures(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.failed]

    def values(self, metric: Criterion) -> Iterator[tuple[Cell, Reading]]:
        """Cells that have a value of this metric."""
        for cell in self.cells:
            reading = cell.reading(metric)
            if not cell.failed and reading is not None and reading.known:
                yield cell, reading

    def ranking(self, metric: Criterion, budget: int | None) -> Ranking | None:
        """The best within a budget. None without a candidate, for adaptive solvers, or where bounds of several kinds meet."""
        candidates = [(cell, e) for cell, e in self.values(metric) if cell.budget == budget and cell.within_budget]
        if not candidates or len({reading.kind for _, reading in candidates}) > 1:
            return None
        best, _ = min(candidates, key=lambda pair: pair[1].value if metric.lower else -pair[1].value)
        ties = tuple(cell for cell, _ in candidates if cell is not best and cell.tied(metric, best))
        paired = all(metric.name in cell.behind for cell, _ in candidates if cell is not best) and metric is not BITS
        return Ranking(best, ties, len(candidates), metric, paired)


#: Paired differences to the best of its column: (solver, grid, budget) -> metric -> reading.
Behind = Mapping[tuple[str, str, int], Mapping[str, Reading]]


def _behind(paired: Mapping[str, Mapping[str, Any]]) -> Behind:
    found: dict[tuple[str, str, int], dict[str, Reading]] = {}
    for metric, columns in paired.items():
        for k, column in columns.items():
            for one in column["differences"]:
                reading = Reading.of(one)
                if reading is not None and one["budget"] == int(k):
                    found.setdefault((str(one["solver"]), str(one["grid"]), int(k)), {})[metric] = reading
    return found


def _cell(data: Mapping[str, Any], solvers: Mapping[str, Mapping[str, Any]], behind: Behind) -> Cell:
    name = str(data["solver"])
    solver = solvers.get(name, data)
    family = str(solver.get("family"))
    known = family if family in FAMILIES else "other"
    row = Row(name, str(data.get("grid") or ""), str(solver.get("label") or name), known, bool(solver.get("ours")))
    budget = data.get("budget")
    return Cell(
        row=row,
        budget=None if budget is None else int(budget),
        steps=as_float(data.get("steps")),
        calls=as_float(data.get("calls")),
        tolerance=as_float(data.get("tolerance")),
        failed=data.get("status", "ok") != "ok",
        reason=str(data.get("reason") or ""),
        metrics={str(key): Reading.of(value) for key, value in (data.get("metrics") or {}).items()},
        bits=Reading.of(data.get("bits")),
        seconds=as_float(data.get("seconds_per_sample")),
        ratio=as_float(data.get("ratio_to_bare")),
        sheet=str(data.get("sheet") or ""),
        behind=behind.get((name, row.grid, -1 if budget is None else int(budget)), {}),
    )


def findings(comparison: Comparison, metric: Criterion) -> list[tuple[int, str]]:
    """One sentence per budget: the best solver with its error, or that none can be named."""
    lines = []
    for budget in comparison.budgets:
        ranking = comparison.ranking(metric, budget)
        if budget and ranking is not None:
            lines.append((budget, _finding(ranking, metric)))
    return lines


def _finding(ranking: Ranking, metric: Criterion) -> str:
    reading = ranking.best.reading(metric)
    named = f"{ranking.best.row.title}: {reading}"
    if ranking.candidates == 1:
        return f"{named}; nothing to compare it with."
    others = joined([cell.row.title for cell in ranking.ties])
    extreme = "lowest" if metric.lower else "highest"
    if ranking.paired and ranking.ties:
        return f"No winner. {named} is {extreme}, but one cannot tell it apart from {others}: their paired differences hold 0."
    if ranking.paired:
        return f"{named}, the best of {ranking.candidates}; every paired difference to it is beyond its error."
    if ranking.clear:
        return f"{named}, the best of {ranking.candidates}; no other interval reaches its."
    return f"No winner. {named} is {extreme}, but overlaps the interval{'s' if len(ranking.ties) > 1 else ''} of {others}."


def conclusion(comparison: Comparison, metric: Criterion) -> str:
    """The findings in one or two sentences: who wins at which budgets, and where nobody does."""
    winners: dict[str, list[str]] = {}
    open_at: list[str] = []
    for budget in comparison.budgets:
        ranking = comparison.ranking(metric, budget)
        if ranking is not None and ranking.candidates > 1:
            (winners.setdefault(ranking.best.row.title, []) if ranking.clear else open_at).append(str(budget))
    parts = [f"{name} is best at {joined(budgets, 99)} network calls" for name, budgets in winners.items()]
    if open_at:
        parts.append(f"at {joined(open_at, 99)} calls the best cannot be told apart and no winner can be named")
    if not parts:
        return f"No budget has two solvers with a value of {metric.label}, so none can be called best."
    return f"By {metric.label} ({metric.direction}), {'; '.join(parts)}."
