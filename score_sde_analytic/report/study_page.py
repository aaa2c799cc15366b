"""The page of a study: how few network calls, at which times, with which noise, and what that costs in bits/dim.

    write("results/report/report.html", content, folder="results/report")

`content` is the plain data that `study.report.content` gathers; the page is one HTML file that needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from score_sde_analytic.report import charts, study_charts, svg
from score_sde_analytic.report.document import Album, as_text, environment, write_page
from score_sde_analytic.report.results import floats, plain
from score_sde_analytic.uncertainty import Estimate

Content = Mapping[str, Any]

#: Names of the sample sheets, beside the page: of K network calls, and of the data.
SHEET, DATA_SHEET = "samples_K{}.png", "data.png"
#: Standard errors that the farthest of a few dozen levels may differ by.
CHANCE = 3.0
#: Width of a sheet on the page, in CSS pixels.
SHEET_WIDTH = 320
LABELS = {"residual": "isotropic", "score": "isotropic, from the score", "beta": "β", "beta_tilde": "β̃"}
NOISE = {"residual": "analytic", "beta": "β", "beta_tilde": "β̃"}
GRIDS = {"dp": "optimal times", "refined": "times optimal for isotropic", "even_tuned": "times even in t, best first one"}


@dataclass(frozen=True)
class Entry:
    """A cell of a table: a value and what is said below it."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Table:
    """Named rows; a row with a single cell has it across all columns."""

    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[Entry, Sequence[Entry]]]


def write(path: str | Path, content: Content, folder: str | Path) -> Path:
    """Write the page; the file is whole or absent.

    Args:
        content: as `study.report.content` gives it.
        folder: where its sample sheets are.
    """
    return write_page(path, render(content, Path(folder)))


def render(content: Content, folder: Path) -> str:
    """The page as text: the same for the same content."""
    return environment().get_template("study.html").render(_view(content, folder), swatch=svg.swatch)


def _view(content: Content, folder: Path) -> dict[str, Any]:
    """Everything the template shows, worked out."""
    album = Album(folder, width=SHEET_WIDTH)
    calibration = content["calibration"]
    return {
        "title": "How few network calls?",
        "subject": _subject(content),
        "summary": _summary(content),
        "within": [(f"{row['excess']:g} bits/dim", _needed(row, content)) for row in content["within"]],
        "predicted": _predicted(content),
        "below": _below(content),
        "measured": _measured(content),
        "bits": study_charts.bits(_by_label(content, "predicted"), _total(_own(content), "measured"), _limit(content)),
        "continuous": content["data_range"] is None or content["data_range"]["levels"] is None,
        "of_first": content["density_of_first"],
        "times": study_charts.times(content["grids"], content["density"]),
        "grids": {f"K = {steps}": _times(steps, content) for steps in content["grids"]},
        "curve": study_charts.curve(content["curve"]),
        "calibration": [replace(panel, title="1 − Λ − R in standard errors") for panel in charts.calibration(calibration)[-1:]],
        "outside": charts.outside(calibration),
        "remarks": content["remarks"],
        "largest": _largest(calibration),
        "rescaling": _shown(content["rescaling"], ".4f"),
        "deviations": study_charts.deviations(content["deviations"], NOISE),
        "structures": _structures(content["structures"]),
        "structure_steps": content["structures"] and content["structures"]["steps"],
        "best": content["structures"] and _label(content["structures"]["best"]),
        "samples": [(said, album.sheet(name)) for said, name in _sheets(content)] if len(content["shape"]) == 3 else [],
        "sheet_notes": album.notes,
        "scatters": _scatters(content),
        "costs": [_cost(steps, sample) for steps, sample in content["samples"].items()],
        "covariance": _label(content["covariance"]),
        "grid": GRIDS.get(content["grid"], content["grid"]),
        "facts": _facts(content["provenance"]),
        "code": content["code"],
    }


# --- words ----------------------------------------------------------------------------------------------------------


def minus(text: str) -> str:
    """Numbers with the sign that print has."""
    return text.replace("-", "−")


def _label(name: str) -> str:
    """A covariance as the page names it."""
    return LABELS.get(name, name.replace("|", " given ").replace("_", " "))


def _shown(estimate: Content, spec: str = ".3f") -> str:
    """value ± error."""
    return minus(f"{Estimate(estimate['value'], estimate['stderr']):{spec}}")


def _subject(content: Content) -> str:
    """The data in one line."""
    examples = content["provenance"]["data"]["examples"]
    counted = f"{examples:,} examples" if isinstance(examples, int) else examples
    facts = ["shape " + " × ".join(map(str, content["shape"])), f"measured on {counted}"]
    declared = content["data_range"]
    if declared is not None:
        levels = f", {declared['levels']} levels" if declared["levels"] else ""
        facts.insert(1, minus(f"values in [{declared['lo']:g}, {declared['hi']:g}]{levels}"))
    return "; ".join(facts)


def _summary(content: Content) -> str:
    """The price of every K in one or two sentences."""
    prices, limit = _total(_own(content), "predicted"), _limit(content)
    if not prices:
        return f"The covariance {_label(content['covariance'])} has no price before it is measured."
    told = [f"{_shown(price)} with {steps}" for steps, price in prices.items()]
    text = f"Predicted bits/dim of the {_label(content['covariance'])} covariance: {', '.join(told)} network calls"
    return f"{text}; {_shown(limit)} with infinitely many."


def _needed(row: Content, content: Content) -> str:
    law = ", by the law for many steps" if row["steps"] > content["searched"] else ""
    return f"{row['steps']} network calls{law}"


# --- bits/dim -------------------------------------------------------------------------------------------------------


def _rows(content: Content) -> dict[tuple[str, str], dict[str, Content]]:
    """(grid, covariance) -> K -> cell."""
    rows: dict[tuple[str, str], dict[str, Content]] = {}
    for name, cell in content["cells"].items():
        grid, covariance, steps = name.split("/")
        rows.setdefault((grid, covariance), {})[steps] = cell
    return rows


def _own(content: Content) -> dict[str, Content]:
    """Cells of the study's own chains, by K."""
    return _rows(content)[content["grid"], content["covariance"]]


def _total(row: Mapping[str, Content], kind: str) -> dict[str, Content]:
    """Predicted or measured bits/dim by K, where they are known."""
    return {steps: cell[kind]["total"] for steps, cell in row.items() if kind in cell}


def _limit(content: Content) -> Content:
    """Bits/dim of infinitely many calls."""
    return content["limit"]["total"]


def _by_label(content: Content, kind: str) -> dict[str, dict[str, Content]]:
    """label -> K -> estimate, of the covariances on optimal times."""
    totals = {
        _label(covariance): _total(row, kind) for (grid, covariance), row in _rows(content).items() if grid != "even_tuned"
    }
    return {label: by_steps for label, by_steps in totals.items() if by_steps}


def _predicted(content: Content) -> Table:
    """A row per chain, a column per K."""
    limit = _limit(content)
    rows = [
        (Entry(_label(covariance), GRIDS.get(grid, grid)), [_over(cell["predicted"]["total"], limit) for cell in row.values()])
        for (grid, covariance), row in _rows(content).items()
        if all("predicted" in cell for cell in row.values())
    ]
    rows.append((Entry("infinitely many calls", "any of these covariances"), [Entry(_shown(limit))]))
    header = ["covariance", *(f"K = {steps}" for steps in content["steps"])]
    return Table("Predicted bits/dim", header, rows)


def _below(content: Content) -> bool:
    """Whether a chain is priced below infinitely many steps."""
    limit = _limit(content)
    prices = [price for row in _rows(content).values() for price in _total(row, "predicted").values()]
    return any(price["value"] < limit["value"] for price in prices)


def _over(price: Content, limit: Content) -> Entry:
    """A price, and how far it is above that of infinitely many steps."""
    return Entry(_shown(price), minus(f"limit {price['value'] - limit['value']:+.3f}"))


def _measured(content: Content) -> Table | None:
    """Predicted beside measured, where data were given."""
    rows = []
    for steps, cell in _own(content).items():
        if "measured" in cell:
            predicted = _shown(cell["predicted"]["total"]) if "predicted" in cell else "–"
            size = cell.get("disagreement_in_standard_errors")
            apart = "–" if size is None else minus(f"{size:+.1f}")
            entries = [predicted, _shown(cell["measured"]["total"]), apart, f"{cell['calls_per_example']:g}"]
            rows.append((Entry(f"K = {steps}"), [Entry(entry) for entry in entries]))
    header = ["network calls", "predicted", "measured", "difference / its error", "calls per example"]
    return Table("Measured bits/dim beside predicted", header, rows) if rows else None


# --- times ----------------------------------------------------------------------------------------------------------


def _times(steps: str, content: Content) -> Table:
    """Every network call of a chain: where it is made, what the network is fed, and what the step is predicted to cost."""
    grid, predicted = content["grids"][steps], _own(content)[steps].get("predicted")
    columns = {"t": [f"{t:.5f}" for t in grid["times"]], "log-SNR": [minus(f"{v:+.2f}") for v in grid["log_snr"]]}
    if grid["labels"]:
        columns["network is fed"] = [plain(label, 5) for label in grid["labels"]]
    if predicted:
        columns["cost, bits/dim"] = [*_per_step(predicted), _shown(predicted["reconstruction"], ".4f")]
    rows = [
        (Entry(f"{number}"), [Entry(value) for value in values])
        for number, values in enumerate(zip(*columns.values(), strict=True), 1)
    ]
    return Table(f"Times of K = {steps}", ["call", *columns], rows)


def _per_step(predicted: Content) -> list[str]:
    pairs = zip(predicted["per_step"], predicted["per_step_stderr"], strict=True)
    return [_shown({"value": value, "stderr": error}, ".4f") for value, error in pairs]


# --- calibration, covariances ---------------------------------------------------------------------------------------


def _largest(calibration: Content) -> str:
    """Where 1 - Lambda - R is farthest from zero, and what that says of the network: 1 - Lambda - R = 2 (X - Lambda)."""
    sizes = floats(calibration["1-noise_power-residual_in_standard_errors"])
    differences, powers = floats(calibration["1-noise_power-residual"]), floats(calibration["noise_power"])
    at = max(range(len(sizes)), key=lambda i: abs(sizes[i]))
    farthest = f"{minus(f'{sizes[at]:+.1f}')} standard errors at log-SNR {plain(calibration['log_snr'][at])}"
    if abs(sizes[at]) <= CHANCE:
        return f"The farthest, {farthest}, is within what chance makes of so many levels."
    factor = 1.0 + differences[at] / (2.0 * powers[at])
    side = "small" if factor > 1.0 else "large"
    return f"The farthest is {farthest}: the noise estimate is too {side} there, and errs least if multiplied by {factor:.4g}."


def _structures(structures: Content | None) -> Table | None:
    if structures is None:
        return None
    rows = [
        (Entry(_label(name), "best" if name == structures["best"] else ""), [Entry(_saving(row)), Entry(row["fitted_with"])])
        for name, row in structures["rows"].items()
    ]
    return Table("Held-out bits/dim saved", ["covariance", "bits/dim saved", "fitted with"], rows)


def _saving(row: Content) -> str:
    return _shown({"value": row["saved"], "stderr": row["stderr"]}, "+.4f")


# --- samples, provenance --------------------------------------------------------------------------------------------


def _cost(steps: str, sample: Content) -> str:
    """Network calls that a sample took."""
    products = f" and {sample['vector_products']:g} vector products" if sample["vector_products"] else ""
    return f"K = {steps}: {sample['calls']:g} network calls{products} per sample"


def _sheets(content: Content) -> list[tuple[str, str]]:
    """What each sheet shows, with its name."""
    sheets = [(_cost(steps, sample), SHEET.format(steps)) for steps, sample in content["samples"].items()]
    return [*sheets, *([("Data", DATA_SHEET)] if _measured(content) else [])]


def _scatters(content: Content) -> list[charts.Panel]:
    """Points of the samples over those of the data."""
    drawn = {_cost(steps, sample): sample["points"] for steps, sample in content["samples"].items() if sample["points"]}
    return study_charts.scatter(drawn, content["data_points"] or ()) if drawn else []


def _facts(provenance: Content) -> list[tuple[str, str]]:
    """Provenance, one line each."""
    facts: list[tuple[str, Any]] = []
    for name, value in provenance.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        facts += [(f"{name}: {key}" if key else name, item) for key, item in inner]
    return as_text(facts)
