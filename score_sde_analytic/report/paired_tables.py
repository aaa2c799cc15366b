"""What cells of a comparison say in pairs, as Markdown: differences to the best, who cannot be told apart, calls needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from score_sde_analytic.report.tables import error_bar, markdown

Content = Mapping[str, Any]


def undecided(difference: Mapping[str, Any]) -> bool:
    """Whether the 95 % interval of a paired difference holds 0, or nothing is known of it.

    >>> undecided({"low": -0.1, "high": 0.2}), undecided({"low": 0.1, "high": 0.2})
    (True, False)
    """
    low, high = difference["low"], difference["high"]
    return low is None or high is None or low <= 0.0 <= high


def told(content: Content, metric: Content) -> str:
    """Everything of one metric; empty where nothing was paired."""
    columns = (content.get("paired") or {}).get(metric["name"])
    if not columns:
        return ""
    return "\n\n".join([_about(metric), _differences(content, columns), _sentences(content, columns)])


def _about(metric: Content) -> str:
    return (
        f"{metric['label']}, difference to the best of each K: all cells share their starts and the reference, and the standard"
        " error is that of the difference, with the same groups left out of both. =: the 95 % interval holds 0."
    )


def _labels(content: Content) -> dict[str, str]:
    free = content.get("free")
    own = {free["solver"]: f"K = 0: {free['label']}"} if free else {}
    return own | {solver["name"]: solver["label"] for solver in content["solvers"]}


def _differences(content: Content, columns: Mapping[str, Content]) -> str:
    labels = _labels(content)
    entries: dict[tuple[str, str], dict[str, str]] = {}
    for k, column in columns.items():
        best = column["best"]
        entries.setdefault((best["solver"], best["grid"]), {})[k] = "best"
        for one in column["differences"]:
            entries.setdefault((one["solver"], one["grid"]), {})[k] = _entry(one)
    order = list(labels)
    rows = [
        [labels[solver], grid, *(places.get(k, "-") for k in columns)]
        for (solver, grid), places in sorted(entries.items(), key=lambda item: order.index(item[0][0]))
    ]
    return markdown(["solver", "grid", *(f"K = {k}" for k in columns)], rows)


def _entry(difference: Content) -> str:
    if difference["value"] is None:
        return "-"
    return error_bar(difference, "+") + (" =" if undecided(difference) else "")


def _sentences(content: Content, columns: Mapping[str, Content]) -> str:
    labels = _labels(content)
    return "\n".join(f"- K = {k}: {_sentence(labels, column)}" for k, column in columns.items())


def _sentence(labels: Mapping[str, str], column: Content) -> str:
    best = f"{labels[column['best']['solver']]} ({column['best']['grid']})"
    ties = [f"{labels[one['solver']]} ({one['grid']})" for one in column["differences"] if undecided(one) and one["budget"]]
    if not column["differences"]:
        return f"{best}; nothing to compare it with."
    if not ties:
        return f"{best} is best, and every other is worse by more than the error of the difference."
    return f"{best} has the best value; one cannot tell it apart from {'; '.join(ties)}."


def calls_needed(content: Content, metric: Content) -> str:
    """The fewest calls of every row that reach what the best of each K reaches; empty where nothing was paired."""
    columns = (content.get("paired") or {}).get(metric["name"])
    if not columns:
        return ""
    labels = _labels(content)
    rows = [["quality of", "", *(f"{labels[c['best']['solver']]} ({c['best']['grid']})" for c in columns.values())]]
    needs = [{(one["solver"], one["grid"]): one for one in column["calls"]} for column in columns.values()]
    for solver, grid in dict.fromkeys(row for need in needs for row in need):
        rows.append([labels[solver], grid, *(_calls(need.get((solver, grid))) for need in needs)])
    about = (
        f"Calls needed for the quality that the best has at K, by {metric['label']}: the fewest among those measured with which"
        " the paired difference to it leaves room for no loss."
    )
    return "\n\n".join([about, markdown(["solver", "grid", *(f"as at K = {k}" for k in columns)], rows)])


def _calls(need: Content | None) -> str:
    if need is None:
        return "-"
    return f"> {need['most']:g}" if need["calls"] is None else f"{need['calls']:g}"


def choices(content: Content) -> str:
    """The grids that were chosen on the metric itself; empty where none was."""
    chosen: dict[str, dict[int, Content]] = {}
    for cell in content["cells"]:
        if cell.get("choice"):
            chosen.setdefault(cell["solver"], {})[cell["budget"]] = cell["choice"]
    if not chosen:
        return ""
    labels = _labels(content)
    rows = [[labels[name], *(_choice(found.get(k)) for k in content["budgets"])] for name, found in chosen.items()]
    main: Sequence[Content] = content["metrics"]
    about = (
        f"Grids that were chosen on the metric itself ({main[0]['label']}, on the samples that are reported), as log-SNR of the"
        " first time, and how many were tried. The value on a chosen grid is optimistic: on new samples it is worse on average."
    )
    return "\n\n".join([about, markdown(["solver", *(f"K = {k}" for k in content["budgets"])], rows)])


def _choice(choice: Content | None) -> str:
    return "-" if choice is None else f"{choice['grid']} to {choice['first_log_snr']:g} (of {choice['tried']})"
