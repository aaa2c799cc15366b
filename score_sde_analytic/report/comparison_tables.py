"""Markdown tables of a comparison, from the content of compare.json; failed cells are marked, their reasons footnotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from score_sde_analytic.report import paired_tables
from score_sde_analytic.report.tables import error_bar, markdown

Content = Mapping[str, Any]


def summary(content: Content) -> str:
    """The main metric, a row per solver and grid, a column per budget."""
    metric = content["metrics"][0]
    return "\n\n".join([_heading(content, metric), _budgets(content, metric), _adaptive(content), _footnotes(content)]).strip()


def text(content: Content) -> str:
    """Everything: a table of budgets per metric and of bits/dim, then all cells with their steps, calls and times."""
    parts = [f"# {content['title']}", _preface(content)]
    for metric in content["metrics"]:
        parts += [f"## {metric['label']}", _heading(content, metric), _budgets(content, metric)]
        parts += [paired_tables.told(content, metric)]
    parts += [paired_tables.calls_needed(content, content["metrics"][0]), paired_tables.choices(content)]
    if any(cell["bits"] for cell in content["cells"]):
        parts += ["## bits/dim", _bits_heading(content), _budgets(content, None)]
    parts += ["## All cells", _all(content)]
    return "\n\n".join(part for part in [*parts, _footnotes(content)] if part).strip()


def _preface(content: Content) -> str:
    grids = "; ".join(f"{name}: {about}" for name, about in content["grids"].items())
    return (
        f"{content['count']} samples per cell, seed {content['seed']}, the same noise at the start of all; reference:"
        f" {content['data']['reference_examples']} examples. A column K holds the largest number of steps that at most K"
        " network calls allow. Every grid begins at t = 1 and ends at the same first time, log-SNR"
        f" {content['first_log_snr']:.2f} (those named *_tuned at their own), from where solvers step to the data by x0_hat."
        f" Grids: {grids}. Errors are standard errors. Time: {content['clock']}, {content['device']}; ratio: to as many bare"
        " network calls on the same batch."
    )


def _heading(content: Content, metric: Content) -> str:
    unit = f", {metric['unit']}" if metric["unit"] else ""
    return f"{metric['label']} ({metric['better']} is better{unit}; {metric['about']}), {content['count']} samples per cell:"


def _bits_heading(content: Content) -> str:
    kinds = ", ".join(sorted({cell["bits"]["kind"] for cell in content["cells"] if cell["bits"]}))
    return f"Chains with eta = 1, {kinds}; other solvers have no such bound."


def marks(content: Content) -> dict[str, int]:
    """Number of the footnote of every reason.

    >>> marks({"cells": [{"status": "failed", "reason": "diverged"}]})
    {'diverged': 1}
    """
    reasons = dict.fromkeys(cell["reason"] for cell in content["cells"] if cell["status"] == "failed")
    return {reason: number for number, reason in enumerate(reasons, 1)}


def _footnotes(content: Content) -> str:
    return "\n".join(f"[{number}] failed: {reason}" for reason, number in marks(content).items())


def _text(cell: Content | None, metric: Content | None, notes: Mapping[str, int]) -> str:
    if cell is None:
        return "-"
    if cell["status"] == "failed":
        return f"failed [{notes[cell['reason']]}]"
    return error_bar(cell["metrics"][metric["name"]] if metric else cell["bits"])


def _budgets(content: Content, metric: Content | None) -> str:
    """A column per budget; without a metric, of bits/dim, for those that have any."""
    notes, labels = marks(content), {solver["name"]: solver["label"] for solver in content["solvers"]}
    cells = {(c["solver"], c["grid"], c["budget"]): c for c in content["cells"] if c["budget"]}
    rows = []
    for solver, grid in dict.fromkeys((s, g) for s, g, _ in cells):
        line = [cells.get((solver, grid, k)) for k in content["budgets"]]
        if metric or any(cell and cell["bits"] for cell in line):
            rows.append([labels[solver], grid, *(_text(cell, metric, notes) for cell in line)])
    if metric and content.get("free"):
        free = content["free"]
        rows.append([f"K = 0: {free['label']}", free["grid"], *[_text(free, metric, notes)] * len(content["budgets"])])
    return markdown(["solver", "grid", *(f"K = {k}" for k in content["budgets"])], rows)


def _adaptive(content: Content) -> str:
    metric, notes = content["metrics"][0], marks(content)
    labels = {solver["name"]: solver["label"] for solver in content["solvers"]}
    rows = [
        [labels[c["solver"]], f"{c['tolerance']:g}", _calls(c), _text(c, metric, notes)]
        for c in content["cells"]
        if c["budget"] is None
    ]
    return markdown(["adaptive solver", "tolerance", "calls used", metric["label"]], rows) if rows else ""


def _calls(cell: Content) -> str:
    return "-" if cell["calls"] is None else f"{cell['calls']:g}"


def _all(content: Content) -> str:
    notes, labels = marks(content), {solver["name"]: solver["label"] for solver in content["solvers"]}
    metrics: Sequence[Content] = content["metrics"]
    rows = []
    for cell in content["cells"]:
        ok = cell["status"] == "ok"
        limit = str(cell["budget"]) if cell["budget"] else f"tol {cell['tolerance']:g}"
        values = (
            [_text(cell, metric, notes) for metric in metrics]
            if ok
            else [_text(cell, None, notes), *["-"] * (len(metrics) - 1)]
        )
        times = [f"{1e3 * cell['seconds_per_sample']:.3g}", f"{cell['ratio_to_bare']:.2f}"] if ok else ["-", "-"]
        steps = "own" if cell["budget"] is None else str(cell["steps"] or "-")
        bits = error_bar(cell["bits"]) + (f" ({cell['bits']['kind']})" if cell["bits"] else "")
        rows.append([labels[cell["solver"]], cell["grid"], limit, steps, _calls(cell), *values, bits, *times])
    header = [
        "solver",
        "grid",
        "K",
        "steps",
        "calls",
        *(m["label"] for m in metrics),
        "bits/dim",
        "ms per sample",
        "ratio to bare",
    ]
    return markdown(header, rows)
