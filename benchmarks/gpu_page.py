"""The page of what `benchmarks/gpu.py` measured."""

from __future__ import annotations

from typing import Any

from score_sde_analytic.report.tables import markdown

WORDS = """\
Bare calls are a loop of nothing but the network, each fed what the one before said; every other row takes exactly as many.
"Of its kind" compares step by step with the loop, and one graph with a CUDA graph of bare calls. Times are medians of rounds,
the device waited for at both ends of each; what is made once, compiled or recorded, is told in "made in s". A network as small
as that of the digits waits for the host, which starts its kernels one by one: rows step by step move by a fifth from one to the
next there, and may fall below the bare calls that were measured first. Graphs do not.
"""


def page(record: dict[str, Any]) -> str:
    """The record in words and tables."""
    lines = [
        "# On a GPU",
        "",
        f"{record['card']}, torch {record['torch']}; `make gpu` measures it again, `python -m benchmarks.gpu --page` writes"
        " this page from [gpu.json](gpu.json).",
        "",
        WORDS,
    ]
    for name, case in record["cases"].items():
        shape = "x".join(map(str, case["shape"]))
        rows = [row for row in record["samples"] if row["network"] == name]
        if not rows:
            continue
        lines += [f"## {name}: {case['weights']:,} weights, {shape}, batches of {case['batch']}, K = {case['steps']}", ""]
        lines += [_samples([row for row in rows if "failed" not in row]), ""]
        lines += [f"{row['way']} failed: {row['failed']}\n" for row in rows if "failed" in row]
        lines += [_passes([row for row in record["pass"] if row["network"] == name]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _samples(rows: list[dict[str, Any]]) -> str:
    bare_ms = next((row["ms_per_call"] for row in rows if row["way"] == "bare calls"), float("nan"))
    own = {row["way"]: row["ms_per_call"] for row in rows if row["way"].startswith("bare")}
    table = [
        [
            row["way"],
            f"{row['ms_per_call']:.3g}",
            f"{row['ms_per_call'] / bare_ms:.2f}",
            _against(row, own),
            f"{row['samples_per_second']:.4g}",
            f"{row['first_seconds']:.1f}",
            f"{row['gigabytes']:.2f}",
        ]
        for row in rows
    ]
    heads = ["", "ms per call", "to bare calls", "to the bare calls of its kind", "samples per second", "made in s", "GB"]
    return markdown(heads, table)


def _against(row: dict[str, Any], own: dict[str, float]) -> str:
    """Beside bare calls that are compiled and recorded alike."""
    kind = "bare calls" + (", compiled" if "compiled" in row["way"] or "program" in row["way"] else "")
    graph = kind + (", as a CUDA graph" if "compiled" in kind else " as a CUDA graph")
    base = own.get(graph if "one " in row["way"] and "stream" not in row["way"] else kind)
    return "" if base is None or row["way"].startswith("bare") else f"{row['ms_per_call'] / base:.2f}"


def _passes(rows: list[dict[str, Any]]) -> str:
    table = [[row["work"], f"{row['ms_per_call']:.3g}", _share(row["in_network"]), f"{row['gigabytes']:.2f}"] for row in rows]
    return markdown(["", "ms per call", "time in the network", "GB"], table)


def _share(inside: float | None) -> str:
    return "" if inside is None else f"{inside:.1%}"
