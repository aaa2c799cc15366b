"""The page of a study: how few network calls, at which times, with which noise, and what that costs in bits/dim.

    write("results/report/report.html", content, folder="results/report")

`content` is the plain data that `study.report.content` gathers; the page is one HTML file that needs nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from score_sde_analytic.report import advice, charts, study_charts, svg
from score_sde_analytic.report.document import Album, Sheet, as_text, environment, portable, write_page
from score_sde_analytic.report.results import plain, with_error
from score_sde_analytic.report.study_content import (
    GRIDS,
    KINDS,
    Content,
    by_chain,
    infinite,
    label,
    middle,
    minus,
    own_cells,
    printed,
    totals,
)

#: Names of the sample sheets, beside the page: of K network calls, and of the data.
SHEET, FEWEST_SHEET, DATA_SHEET = "samples_K{}.png", "fewest_K{}.png", "data.png"
#: Width of a sheet on the page, in CSS pixels.
SHEET_WIDTH = 320
NOISE = {"residual": "analytic", "beta": "β", "beta_tilde": "β̃"}
#: Parts of the provenance that share a line.
TOGETHER = ("seeds", "versions")
#: Of distances between samples and data.
UNIT = "energy distance, whitened"


@dataclass(frozen=True)
class Entry:
    """A cell of a table: a value, what is said below it, and what its column is sorted by where that is no text."""

    text: str
    small: str = ""
    order: float | None = None


#: A row: its name, and its cells.
Line = tuple[Entry, Sequence[Entry]]


@dataclass(frozen=True)
class Table:
    """Named rows; a row with a single cell has it across all columns.

    Attributes:
        foot: rows that stay below the others.
        sorted_by: column whose values ascend as the rows lie; "" where their order is another.
        fixed: whether no other order makes sense.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Line]
    foot: Sequence[Line] = ()
    sorted_by: str = ""
    fixed: bool = False


@dataclass(frozen=True)
class Row:
    """Sheets of samples of a number of calls, each with what it is and what it shows in words."""

    title: str
    sheets: Sequence[tuple[str, str, Sheet]]


def write(path: str | Path, content: Content, folder: str | Path) -> Path:
    """Write the page; the file is whole or absent.

    Args:
        content: as `study.report.content` gives it.
        folder: where its sample sheets are.
    """
    return write_page(path, render(content, Path(folder)))


def render(content: Content, folder: Path) -> str:
    """The page as text: the same for the same content."""
    return environment().get_template("study.html").render(_view(portable(content), folder), swatch=svg.swatch)


def _view(content: Content, folder: Path) -> dict[str, Any]:
    """Everything the template shows, worked out."""
    album = Album(folder, width=SHEET_WIDTH)
    return {
        "title": "How few network calls?",
        "subject": _subject(content),
        "summary": _unbroken(_summary(content)),
        "within": [(f"{row['excess']:g} bits/dim", _needed(row, content)) for row in content["within"]],
        "advice": [(about, _unbroken(said)) for about, said in advice.recommendations(content)],
        "remarks": [_unbroken(f"{remark[:1].upper()}{remark[1:]}.") for remark in content["remarks"]],
        "continuous": content["data_range"] is None or content["data_range"]["levels"] is None,
        "of_first": content["density_of_first"],
        "code": content["code"],
        "facts": _facts(content["provenance"]),
        **_of_bits(content),
        **_of_times(content),
        **_of_curve(content),
        **_of_noise(content),
        **_of_samples(content, album),
        "sheet_notes": album.notes,
    }


def _of_bits(content: Content) -> dict[str, Any]:
    """Predicted and measured bits/dim."""
    lines = _by_label(content, "predicted")
    return {
        "bits": study_charts.bits(lines, totals(own_cells(content), "measured"), infinite(content)),
        "predicted": _predicted(content),
        "below": _below(content),
        "measured": _measured(content),
    }


def _of_times(content: Content) -> dict[str, Any]:
    """Where the network is called."""
    return {
        "covariance": label(content["covariance"]),
        "grid": GRIDS.get(content["grid"], content["grid"]),
        "times": [study_charts.times(content["grids"], content["density"])],
        "on_curve": [study_charts.on_curve(content["curve"], content["grids"])],
        "grids": {f"K = {steps}": _times(steps, content) for steps in content["grids"]},
    }


def _of_curve(content: Content) -> dict[str, Any]:
    """The curve and its calibration."""
    calibration = content["calibration"]
    return {
        "curve": study_charts.curve(content["curve"]),
        "linear": "linear" in content["curve"]["fine"],
        "calibration": [replace(panel, title="1 − Λ − R in standard errors") for panel in charts.calibration(calibration)[-1:]],
        "outside": charts.outside(calibration),
        "calibrated": _unbroken(advice.calibration(content)),
        "rescaling": printed(content["rescaling"], ".4f"),
    }


def _of_noise(content: Content) -> dict[str, Any]:
    """What steps add, and what other covariances save."""
    structures = content["structures"]
    return {
        "deviations": study_charts.deviations(content["deviations"], NOISE),
        "structures": _structures(structures),
        "structure_steps": structures and structures["steps"],
        "best": structures and label(structures["best"]),
    }


def _of_samples(content: Content, album: Album) -> dict[str, Any]:
    """Samples, what they cost, and how far they are from data."""
    images = len(content["shape"]) == 3
    quality = content["quality"]
    return {
        "samples": _sheets(content, album) if images else [],
        "data_sheet": album.sheet(DATA_SHEET) if images and _measured(content) else None,
        "scatters": _scatters(content),
        "costs": [said for said, _ in _drawn(content)],
        "lost": content["fewest_lost"],
        "few": bool(content["fewest"]),
        "quality": quality and study_charts.quality({KINDS[kind]: row for kind, row in quality["distance"].items()}, UNIT),
        "distances": quality and _distances(quality),
        "judged": quality and f"{quality['count']} samples of each against {quality['examples']} examples of the data given",
    }


# --- words ----------------------------------------------------------------------------------------------------------


def _unbroken(text: str) -> str:
    """Numbers that stay on the line of what they belong to."""
    return re.sub(r" (=|±) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)


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
    prices = totals(own_cells(content), "predicted")
    if not prices:
        return f"The covariance {label(content['covariance'])} has no price before it is measured."
    told = [f"{printed(price)} with {steps}" for steps, price in prices.items()]
    text = f"Predicted bits/dim of the {label(content['covariance'])} covariance: {', '.join(told)} network calls"
    return f"{text}; {printed(infinite(content))} with infinitely many."


def _needed(row: Content, content: Content) -> str:
    law = ", by the law for many steps" if row["steps"] > content["searched"] else ""
    return f"{row['steps']} network calls{law}"


# --- bits/dim -------------------------------------------------------------------------------------------------------


def _by_label(content: Content, kind: str) -> dict[str, dict[str, Content]]:
    """label -> K -> estimate, of the covariances on optimal times."""
    found = {label(name): totals(row, kind) for (grid, name), row in by_chain(content).items() if grid != "even_tuned"}
    return {name: by_steps for name, by_steps in found.items() if by_steps}


def _predicted(content: Content) -> Table:
    """A row per chain, a column per K, best first by the middle one."""
    goal, steps = infinite(content), [str(k) for k in content["steps"]]
    prices = {chain: totals(row, "predicted") for chain, row in by_chain(content).items()}
    known = {chain: row for chain, row in prices.items() if len(row) == len(steps)}
    at = middle(steps)
    lines = [
        (Entry(label(covariance), GRIDS.get(grid, grid)), [_over(row[k], goal) for k in steps])
        for (grid, covariance), row in sorted(known.items(), key=lambda one: one[1][at]["value"])
    ]
    last = (Entry("infinitely many calls", "any of these covariances"), [Entry(printed(goal))])
    return Table("Predicted bits/dim", ["covariance", *(f"K = {k}" for k in steps)], lines, [last], f"K = {at}")


def _below(content: Content) -> bool:
    """Whether a chain is priced below infinitely many steps."""
    goal = infinite(content)["value"]
    prices = [price for row in by_chain(content).values() for price in totals(row, "predicted").values()]
    return any(price["value"] < goal for price in prices)


def _over(price: Content, goal: Content) -> Entry:
    """A price, and how far it is above that of infinitely many steps."""
    return Entry(printed(price), minus(f"limit {price['value'] - goal['value']:+.3f}"), price["value"])


def _measured(content: Content) -> Table | None:
    """Predicted beside measured, where data were given."""
    lines = [(Entry(f"K = {k}"), _beside(cell)) for k, cell in own_cells(content).items() if "measured" in cell]
    header = ["network calls", "predicted", "measured", "difference / its error", "calls per example"]
    return Table("Measured bits/dim beside predicted", header, lines, fixed=True) if lines else None


def _beside(cell: Content) -> list[Entry]:
    predicted = printed(cell["predicted"]["total"]) if "predicted" in cell else "–"
    size = cell.get("disagreement_in_standard_errors")
    apart = "–" if size is None else minus(f"{size:+.1f}")
    return [Entry(one) for one in (predicted, printed(cell["measured"]["total"]), apart, f"{cell['calls_per_example']:g}")]


# --- times ----------------------------------------------------------------------------------------------------------


def _times(steps: str, content: Content) -> Table:
    """Every network call of a chain: where it is made, what the network is fed, and what the step is predicted to cost."""
    grid, predicted = content["grids"][steps], own_cells(content)[steps].get("predicted")
    columns = {"t": [f"{t:.5f}" for t in grid["times"]], "log-SNR": [minus(f"{v:+.2f}") for v in grid["log_snr"]]}
    if grid["labels"]:
        columns["network is fed"] = [plain(fed, 5) for fed in grid["labels"]]
    if predicted:
        columns["cost, bits/dim"] = [*_per_step(predicted), printed(predicted["reconstruction"], ".4f")]
    lines = [
        (Entry(f"{number}"), [Entry(value) for value in values])
        for number, values in enumerate(zip(*columns.values(), strict=True), 1)
    ]
    return Table(f"Times of K = {steps}", ["call", *columns], lines, fixed=True)


def _per_step(predicted: Content) -> list[str]:
    pairs = zip(predicted["per_step"], predicted["per_step_stderr"], strict=True)
    return [printed({"value": value, "stderr": error}, ".4f") for value, error in pairs]


# --- covariances ----------------------------------------------------------------------------------------------------


def _structures(structures: Content | None) -> Table | None:
    """Best first."""
    if structures is None:
        return None
    lines = [
        (Entry(label(name), "best" if name == structures["best"] else ""), [_saving(row), Entry(row["fitted_with"])])
        for name, row in structures["rows"].items()
    ]
    return Table("Held-out bits/dim saved", ["covariance", "bits/dim saved", "fitted with"], lines)


def _saving(row: Content) -> Entry:
    return Entry(printed({"value": row["saved"], "stderr": row["stderr"]}, "+.4f"), order=row["saved"])


# --- samples, provenance --------------------------------------------------------------------------------------------


def _cost(steps: str, sample: Content) -> str:
    """Network calls that a sample took."""
    products = f" and {sample['vector_products']:g} vector products" if sample["vector_products"] else ""
    calls = f"{sample['calls']:g} network call{'' if sample['calls'] == 1 else 's'}"
    return f"K = {steps}: {calls}{products} per sample"


def _drawn(content: Content) -> list[tuple[str, Content]]:
    """Samples with what they are, by number of calls."""
    chains = [(int(k), 1, _cost(k, one), one) for k, one in content["samples"].items()]
    few = [(int(k), 0, f"{KINDS['fewest'].capitalize()}, {_cost(k, one)}", one) for k, one in content["fewest"].items()]
    return [(said, one) for *_, said, one in sorted([*chains, *few], key=lambda each: each[:2])]


def _sheets(content: Content, album: Album) -> list[Row]:
    """A row of sheets for every number of calls, smallest first."""
    kinds = {"fewest": content["fewest"], "chain": content["samples"]}
    calls = sorted({k for drawn in kinds.values() for k in drawn}, key=int)
    found = {k: [one for kind, drawn in kinds.items() for one in _of_kind(k, drawn, kind, album)] for k in calls}
    return [Row(f"K = {k}", sheets) for k, sheets in found.items() if sheets]


def _of_kind(steps: str, drawn: Content, kind: str, album: Album) -> list[tuple[str, str, Sheet]]:
    """The sheet of a kind of samplers, with its caption and what it shows."""
    if steps not in drawn:
        return []
    sheet = album.sheet({"chain": SHEET, "fewest": FEWEST_SHEET}[kind].format(steps))
    products = drawn[steps]["vector_products"]
    said = KINDS[kind].capitalize() + (f", {products:g} vector products besides" if products else "")
    return [(said, f"samples of {steps} network calls, {KINDS[kind]}", sheet)] if sheet else []


def _scatters(content: Content) -> list[charts.Panel]:
    """Points of the samples over those of the data."""
    drawn = {said: one["points"] for said, one in _drawn(content) if one["points"]}
    return study_charts.scatter(drawn, content["data_points"] or ()) if drawn else []


def _distances(quality: Content) -> Table:
    """A row per kind of samples, a column per K, best first by the middle one."""
    kinds = quality["distance"]
    calls = sorted({k for row in kinds.values() for k in row}, key=int)
    at = middle(calls)
    ordered = sorted(kinds.items(), key=lambda one: one[1][at]["value"] if at in one[1] else math.inf)
    lines = [(Entry(KINDS[kind]), [_distance(row.get(k)) for k in calls]) for kind, row in ordered]
    return Table(
        "Energy distance of samples to data", ["samples by", *(f"K = {k}" for k in calls)], lines, sorted_by=f"K = {at}"
    )


def _distance(found: Content | None) -> Entry:
    return Entry("–") if found is None else Entry(with_error(found["value"], found["stderr"]), order=found["value"])


def _facts(provenance: Content) -> list[tuple[str, str]]:
    """Provenance, one line each."""
    facts: list[tuple[str, Any]] = []
    for name, value in provenance.items():
        if name in TOGETHER:
            facts.append((name, ", ".join(f"{key} {item}" for key, item in value.items())))
        else:
            inner = value.items() if isinstance(value, Mapping) else [("", value)]
            facts += [(f"{name}: {key}" if key else name, item) for key, item in inner]
    return as_text(facts)
