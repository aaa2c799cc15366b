"""The report of a comparison of solvers: one HTML file that needs nothing else, not even a network.

    write("results/compare/report.html", content, folder="results/compare")

`content` is plain data, as JSON would hold it; every part may be missing. The page says less then, but stays whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_sde_analytic.report import charts, leading, svg
from score_sde_analytic.report.document import Album, Sheet, as_text, environment, portable, write_page
from score_sde_analytic.report.results import (
    BITS,
    FAMILIES,
    Cell,
    Comparison,
    Criterion,
    Ranking,
    Reading,
    Row,
    conclusion,
    findings,
    floats,
    joined,
    plain,
)

#: Added to the calls that were not enough, so that they come after all that were.
UNREACHED = 1e6


@dataclass(frozen=True)
class Shown:
    """One cell of a table as the page shows it; by `order` its column is sorted, where it is finite."""

    text: str = ""
    small: str = ""
    mark: str = ""
    reason: str = ""
    sheet: Sheet | None = None
    order: float = math.nan

    @property
    def failed(self) -> bool:
        return self.mark == "failed"


@dataclass(frozen=True)
class Table:
    """Rows of a solver on a grid, a column per budget; a cell of the data is an `Shown`, several may meet in one place.

    Attributes:
        sorted_by: the column that rows are sorted by, best first.
        lower: whether the best is the lowest.
    """

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[Row, Sequence[Sequence[Shown]]]]
    sorted_by: str = ""
    lower: bool = True


@dataclass(frozen=True)
class Result:
    """A table and the pictures of the same numbers."""

    table: Table
    panels: Sequence[charts.Panel] = ()
    about: str = ""


def write(path: str | Path, content: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the report; the file is whole or absent.

    Args:
        content: title, data, command, config, versions, seed, model, count, device, created, metrics, budgets, solvers,
            cells, calibration, paths, data_sheet: plain numbers, strings, lists and mappings. None and NaN mean unknown.
            A density's values are rows of equal y. Optional besides: grids (name -> about), clock, first_log_snr, the tolerance
            of a cell, paths.failed (name -> reason). Intervals are of 95 %.
        folder: what the paths of sample sheets (PNG) in the content are relative to.

    Raises:
        KeyError: a solver or a metric without a name, a cell without a solver.
    """
    return write_page(path, render(content, Path(folder)))


def render(content: Mapping[str, Any], folder: Path) -> str:
    """The page as text: the same for the same content."""
    return (
        environment().get_template("page.html").render(_view(portable(content), folder), swatch=svg.swatch, families=FAMILIES)
    )


def _view(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything the template shows, worked out."""
    comparison = Comparison.of(content)
    first = comparison.metrics[0] if comparison.metrics else None
    album = Album(folder)
    leaders = leading.groups(comparison, first) if first else []
    return {
        "title": str(content.get("title") or "Comparison of solvers"),
        "subject": _subject(content),
        "summary": _summary(content, comparison, first),
        "findings": findings(comparison, first) if first else [],
        "metric": first,
        "paired": bool(content.get("paired")),
        "needed": _needed(content, first) if first else None,
        "lead": leading.picture(comparison, first, leaders) if first else None,
        "leaders": _leaders(comparison, first, leaders) if first and leaders else None,
        "results": [_result(comparison, metric) for metric in comparison.metrics],
        "bits": _bits(comparison),
        "cost": _cost(comparison),
        "overhead": charts.overhead(comparison),
        "data_sheet": album.sheet(str(content["data_sheet"])) if content.get("data_sheet") else None,
        "sheets": _sheets(comparison, album, first),
        "sheet_notes": album.notes,
        "paths": _paths(content),
        "lost_paths": _lost_paths(content),
        "paths_kind": (content.get("paths") or {}).get("kind"),
        "calibration": charts.calibration(content.get("calibration") or {}),
        "outside": charts.outside(content.get("calibration") or {}),
        "facts": _facts(content),
        "command": str(content.get("command") or ""),
        "config": _pretty(content.get("config")),
        "failures": comparison.failures,
        "solvers": [_described(solver) for solver in content.get("solvers") or ()],
        "metrics": comparison.metrics,
        "grids": content.get("grids") or {},
    }


def _subject(content: Mapping[str, Any]) -> str:
    """The data in one line."""
    data = content.get("data") or {}
    facts = [str(data["name"])] if data.get("name") else []
    if data.get("shape"):
        facts.append("shape " + " × ".join(map(str, data["shape"])))
    if ends := floats(data.get("range")):
        facts.append("values in [" + ", ".join(f"{v:g}".replace("-", "−") for v in ends) + "]")
    facts += [f"{data[key]:,} {what}" for key, what in _COUNTS.items() if isinstance(data.get(key), int)]
    return "; ".join(facts)


_COUNTS = {"test_examples": "test examples", "reference_examples": "reference examples"}


def _summary(content: Mapping[str, Any], comparison: Comparison, first: Criterion | None) -> str:
    """What was compared, who wins, what failed."""
    if not comparison.cells:
        return "There are no measurements in this report."
    solvers = len({cell.row.solver for cell in comparison.cells if cell.budget != 0})
    grids = len({cell.row.grid for cell in comparison.cells if cell.budget})  # adaptive solvers make their own
    fixed = joined([str(b) for b in comparison.budgets if b], 99)
    budgets = [f"with {fixed} network calls per sample"] if fixed else []
    budgets += ["with adaptive steps"] if None in comparison.budgets else []
    count = f"; {content['count']:,} samples each" if isinstance(content.get("count"), int) else ""
    text = f"{_plural(solvers, 'solver')} on {_plural(grids, 'time grid')}, {' and '.join(budgets)}{count}."
    if first:
        text += " " + conclusion(comparison, first)
    failed = len(comparison.failures)
    if failed:
        text += f" {failed} of {_plural(len(comparison.cells), 'run')} failed; the reasons are listed below."
    return text


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


# --- tables ---------------------------------------------------------------------------------------------------------


def _table(comparison: Comparison, title: str, caption: str, entry: Any, lower: bool = True) -> Table:
    """A table whose cells are entry(cell), best first, what needs no call in the last column; no row or column is empty."""
    entries = [(cell, shown) for cell in comparison.cells if (shown := entry(cell)) is not None]
    there = {cell.budget for cell, _ in entries}
    budgets = sorted((budget for budget in comparison.budgets if budget in there), key=lambda budget: budget == 0)
    places: dict[Row, dict[int | None, list[Shown]]] = {cell.row: {} for cell, _ in entries}
    for cell, shown in entries:
        places[cell.row].setdefault(cell.budget, []).append(shown)

    def order(row: Row) -> float:
        known = [sign * shown.order for shown in places[row].get(comparison.middle, ()) if math.isfinite(shown.order)]
        return min(known, default=math.inf)

    sign = 1 if lower else -1
    rows = sorted((row for row in comparison.rows if row in places), key=order)
    lines = [(row, [places[row].get(budget, []) for budget in budgets]) for row in rows]
    sorted_by = _column(comparison.middle) if any(math.isfinite(order(row)) for row in rows) else ""
    return Table(title, caption, [_column(budget) for budget in budgets], lines, sorted_by, lower)


def _column(budget: int | None) -> str:
    return "adaptive" if budget is None else f"K = {budget}"


def _leaders(comparison: Comparison, metric: Criterion, leaders: Sequence[leading.Group]) -> dict[str, Any]:
    """Which solver of each group is best at each budget."""
    budgets = [budget for budget in comparison.budgets if budget and any(budget in group.best for group in leaders)]
    rows = [(group, [_led(group.best.get(budget), metric) for budget in budgets]) for group in leaders]
    caption = f"Best of each family by {metric.title}, {metric.direction}"
    known = comparison.middle in budgets
    return {
        "caption": caption,
        "columns": [_column(budget) for budget in budgets],
        "rows": rows,
        "own": any(group.ours for group in leaders),
        "sorted_by": _column(comparison.middle) if known else "",
        "lower": metric.lower,
    }


def _led(cell: Cell | None, metric: Criterion) -> Shown | None:
    reading = None if cell is None else cell.reading(metric)
    return None if cell is None or reading is None else Shown(_shown(reading), cell.row.title, order=reading.value)


def _result(comparison: Comparison, metric: Criterion) -> Result:
    rankings = {budget: comparison.ranking(metric, budget) for budget in comparison.budgets}

    def entry(cell: Cell) -> Shown | None:
        return _scored(cell, cell.reading(metric), rankings[cell.budget])

    table = _table(comparison, metric.label, f"{metric.title}, {metric.direction}", entry, metric.lower)
    return Result(table, charts.against_calls(comparison, metric), metric.about)


def _bits(comparison: Comparison) -> Result | None:
    if not any(cell.bits for cell in comparison.cells):
        return None
    rankings = {budget: comparison.ranking(BITS, budget) for budget in comparison.budgets}

    def entry(cell: Cell) -> Shown | None:
        return _scored(cell, cell.bits, rankings[cell.budget], cell.bits.kind) if cell.bits and not cell.failed else None

    table = _table(comparison, "Bits/dim", "Bits/dim, lower is better", entry)
    return Result(table, charts.against_calls(comparison, BITS))


def _scored(cell: Cell, reading: Reading | None, ranking: Ranking | None, small: str = "") -> Shown | None:
    if cell.failed:
        return _failed(cell)
    if reading is None:
        return None
    over = cell.budget is not None and not cell.within_budget
    notes = [cell.effort, "over the budget, not ranked" if over else "", small, _apart(cell, ranking)]
    said = "; ".join(note for note in notes if note)
    return Shown(_shown(reading), said, _mark(cell, ranking), order=reading.value)


def _apart(cell: Cell, ranking: Ranking | None) -> str:
    """The paired difference to the best of the column."""
    apart = None if ranking is None else cell.behind.get(ranking.metric.name)
    return "" if apart is None else f"{apart} from the best"


def _failed(cell: Cell) -> Shown:
    return Shown(mark="failed", reason=cell.reason or "no reason given")


def _shown(reading: Reading) -> str:
    if reading.known and not math.isfinite(reading.stderr) and math.isfinite(reading.low + reading.high):
        return f"{plain(reading.value, 4)} [{plain(reading.low)}, {plain(reading.high)}]"
    return str(reading)


def _mark(cell: Cell, ranking: Ranking | None) -> str:
    if ranking is None or ranking.candidates < 2:
        return ""
    if cell is ranking.best:
        return "best" if ranking.clear else "lead"
    return "tie" if any(cell is tie for tie in ranking.ties) else ""


def _cost(comparison: Comparison) -> Table | None:
    def entry(cell: Cell) -> Shown | None:
        if cell.failed or not math.isfinite(cell.seconds):
            return None
        return Shown(_seconds(cell.seconds), f"× {plain(cell.ratio)}" if math.isfinite(cell.ratio) else "", order=cell.seconds)

    table = _table(comparison, "Cost", "Seconds per sample", entry)
    return table if table.rows else None


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{plain(value / size)} {unit}"
    return f"{plain(value)} s"


def _sheets(comparison: Comparison, album: Album, metric: Criterion | None) -> Table | None:
    """The sheets of whole budgets, smallest first, so that those of one budget can be compared; best rows first."""
    order = sorted((cell for cell in comparison.cells if cell.sheet and not cell.failed), key=lambda c: c.budget or math.inf)
    sheets = {id(cell): album.sheet(cell.sheet) for cell in order}

    def entry(cell: Cell) -> Shown | None:
        if cell.failed and any(sheets.values()):
            return _failed(cell)
        sheet = sheets.get(id(cell))
        where = "adaptive" if cell.budget is None else f"K = {cell.budget}"
        reading = cell.reading(metric) if metric else None
        order = math.nan if reading is None else reading.value
        return Shown(f"{cell.row.title}, {where}", cell.effort, sheet=sheet, order=order) if sheet else None

    lower = metric is None or metric.lower
    table = _table(comparison, "Samples", "Samples from the same seeds", entry, lower)
    return table if table.rows else None


def _needed(content: Mapping[str, Any], metric: Criterion) -> dict[str, Any] | None:
    """The fewest calls of every row that reach what the best of each K reaches."""
    columns = (content.get("paired") or {}).get(metric.name) or {}
    labels = {str(solver["name"]): str(solver.get("label") or solver["name"]) for solver in content.get("solvers") or ()}
    needs = {k: {(one["solver"], one["grid"]): one for one in column["calls"]} for k, column in columns.items()}
    rows = [row for row in dict.fromkeys(row for need in needs.values() for row in need) if row[0] in labels]
    if not rows:
        return None
    heads = [
        f"{labels.get(c['best']['solver'], c['best']['solver'])} · {c['best']['grid']}, K = {k}" for k, c in columns.items()
    ]
    lines = [(labels[s], g, [_calls_of(need.get((s, g))) for need in needs.values()]) for s, g in rows]
    at = (len(heads) - 1) // 2
    return {"heads": heads, "sorted_by": heads[at], "rows": sorted(lines, key=lambda line: _missing_last(line[2][at].order))}


def _missing_last(order: float) -> tuple[bool, float]:
    return math.isnan(order), order


def _calls_of(need: Mapping[str, Any] | None) -> Shown:
    if need is None:
        return Shown("–")
    if need["calls"] is None:
        return Shown(f"> {need['most']:g}", order=UNREACHED + need["most"])
    return Shown(f"{need['calls']:g}", order=float(need["calls"]))


# --- the rest -------------------------------------------------------------------------------------------------------


def _paths(content: Mapping[str, Any]) -> list[charts.Panel]:
    solvers = content.get("solvers") or ()
    names = {str(s["name"]): str(s.get("label") or s["name"]) for s in solvers}
    families = {str(s["name"]): str(s["family"]) for s in solvers if s.get("family") in FAMILIES}
    return charts.paths(content.get("paths") or {}, names, families)


def _lost_paths(content: Mapping[str, Any]) -> list[str]:
    """Solvers whose paths could not be recorded, with the reason."""
    labels = {str(s["name"]): str(s.get("label") or s["name"]) for s in content.get("solvers") or ()}
    failed = (content.get("paths") or {}).get("failed") or {}
    return [f"{labels.get(name, name)}: {reason}" for name, reason in failed.items()]


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance, one line each."""
    facts = [(key, content.get(name)) for key, name in _FACTS.items()]
    for name in ("data", "model", "versions"):
        facts += [(f"{name}: {key}", value) for key, value in (content.get(name) or {}).items()]
    return as_text(facts)


_FACTS = {
    "date": "created",
    "seed": "seed",
    "samples per cell": "count",
    "device": "device",
    "clock": "clock",
    "log-SNR at the first grid time": "first_log_snr",
}


def _pretty(config: Any) -> str:
    return json.dumps(config, indent=2, default=str, ensure_ascii=False) if config else ""


def _described(solver: Mapping[str, Any]) -> dict[str, str]:
    family = str(solver.get("family"))
    return {
        "label": str(solver.get("label") or solver["name"]),
        "family": family if family in FAMILIES else "other",
        "order": str(solver.get("order") or ""),
        "noise": {True: "no", False: "yes"}.get(solver.get("deterministic"), ""),  # type: ignore[arg-type]
        "about": str(solver.get("about") or ""),
    }
