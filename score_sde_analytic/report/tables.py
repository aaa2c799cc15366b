"""Markdown tables of bounds, grids and covariances, from the plain content of their reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from score_sde_analytic.likelihood.bound import BITS
from score_sde_analytic.uncertainty import Estimate

Content = Mapping[str, Any]

#: Methods without steps, as tables name them.
TITLES = {"continuous": "continuous time", "flow": "probability flow", "exact": "exact density"}
#: Excess over the continuous limit that the table of covariances asks a number of steps for, bits/dim.
WITHIN = 0.05


def markdown(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A small table for the terminal and for reports.

    >>> print(markdown(["K", "bits/dim"], [[5, "2.31"]]))
    | K | bits/dim |
    | - | -------- |
    | 5 | 2.31     |
    """
    # A covariance "pca|energy" would end the cell.
    lines = [list(header), *[[str(cell).replace("|", " given ") for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines)


def error_bar(part: Mapping[str, float | None] | None, sign: str = "") -> str:
    """Value and standard error to two digits of the error.

    >>> error_bar({"value": 2.34567, "stderr": 0.0123}), error_bar({"value": 0.12, "stderr": 0.1}, "+")
    ('2.346 ± 0.012', '+0.12 ± 0.10')

    Args:
        sign: "+" to show it always.
    """
    if not part or part["value"] is None:
        return "-"
    value, error = part["value"], part["stderr"]
    return f"{value:{sign}.4g}" if not error else f"{value:{sign}.{_digits(error)}f} ± {error:.{_digits(error)}f}"


def _digits(error: float) -> int:
    return max(0, 1 - int(f"{error:e}".split("e")[1]))


def _with_error(total: Content | None) -> str:
    return f"{Estimate(**total):.3f}" if total else "-"


def _total(bits: Content | None) -> Content | None:
    return bits["total"] if bits else None


def bounds(cells: Mapping[Any, Content]) -> str:
    """Measured and predicted bits/dim of chains, by (grid, covariance, K); those that were not measured are left out."""
    rows = []
    for name, cell in cells.items():
        measured, predicted = cell.get("measured"), cell.get("predicted")
        if measured is None:
            continue
        parts = [f"{measured[part]['value']:.3g}" for part in ("prior", "transitions", "reconstruction")]
        totals = [_with_error(_total(measured)), _with_error(_total(predicted))]
        rows.append([*name, *parts, *totals, _disagreement(cell)])
    header = ["grid", "variance", "K", "prior", "transitions", "reconstr.", "bits/dim measured", "predicted", "diff/SE"]
    return markdown(header, rows)


def _disagreement(row: Content) -> str:
    """Of measured and predicted bits/dim, in standard errors of their difference."""
    size = row.get("disagreement_in_standard_errors")
    return "-" if size is None else f"{size:+.1f}"


def orderings(lines: Sequence[Content]) -> str:
    """Paired differences between chains, each with what it claims.

    >>> print(orderings([{"claim": "dp/pca/10 < even/beta/10", "difference": 0.0123, "standard_errors": 4.2}]))
    | grid/variance/K          | bits/dim saved | in standard errors |
    | ------------------------ | -------------- | ------------------ |
    | dp/pca/10 < even/beta/10 | +0.0123        | +4.2               |
    """
    rows = [[line["claim"], f"{line['difference']:+.4f}", f"{line['standard_errors']:+.1f}"] for line in lines]
    return markdown(["grid/variance/K", "bits/dim saved", "in standard errors"], rows)


def agreement(content: Content) -> str:
    """Every likelihood method on the same examples, with paired differences from the reference."""
    versus = TITLES.get(content["reference"], content["reference"])
    rows = [_method_row(name, row) for name, row in content["methods"].items()]
    header = ["method", "bits/dim", "predicted", "diff/SE", f"above {versus}, paired", "network calls", "vector products"]
    return markdown(header, rows)


def _method_row(name: str, row: Content) -> list[str]:
    measured, above = row.get("measured"), row.get("above_reference")
    return [
        TITLES.get(name, f"chain, {name}"),
        _with_error(_total(measured)),
        _with_error(_total(row.get("predicted"))),
        _disagreement(row),
        f"{Estimate(**above):+.4f}" if above else "-",
        f"{row['calls_per_example']:.0f}" if measured else "-",
        f"{row['vector_products_per_example']:.0f}" if measured else "-",
    ]


def grids(content: Content) -> str:
    """Predicted bits/dim of every grid at each K, and the steps that an excess over the limit takes.

    Args:
        content: costs, name -> K -> (value, standard error); objectives, name -> text; optimum.
    """
    costs, optimum = content["costs"], content["optimum"]
    steps = list(next(iter(costs.values()), {}))
    rows = [
        [name, *(f"{Estimate(*cost):.3f}" for cost in by_steps.values()), content["objectives"][name]]
        for name, by_steps in costs.items()
    ]
    table = markdown(["grid", *(f"K = {k}" for k in steps), "serves"], rows)
    limit = f"{Estimate(*optimum['limit']):.4f}"
    budgets = markdown(
        ["excess, bits/dim", "K, dynamic programming", "K, law 1 + I²/(4 excess log 2)"],
        [_budget_row(optimum, i) for i in range(len(optimum["excess"]))],
    )
    return (
        f"Predicted bits/dim with the analytic variance (residual):\n\n{table}\n\nContinuous limit: {limit} bits/dim.\n\n"
        f"Steps within an excess of the limit:\n\n{budgets}"
    )


def _budget_row(optimum: Content, i: int) -> list[str]:
    """Steps that the i-th excess takes, by dynamic programming and by the law."""
    steps, spread = optimum["steps_for"][i], optimum["steps_for_interpolated"][1][i]
    whole = f"more than {optimum['steps'][-1]}" if steps is None else f"{steps} ± {spread:.1f}"
    law = Estimate(optimum["steps_for_law"][0][i], optimum["steps_for_law"][1][i])
    return [f"{optimum['excess'][i]:g}", whole, f"{law:.1f}"]


def covariances(rows: Mapping[str, Content]) -> str:
    """What every recorded covariance saves on held-out data, its integral I, and the steps it needs."""
    scalar = rows["residual"]["I"]
    header = ["covariance", "chosen settings", "bits/dim saved", "I", "I^2 of isotropic", f"K for {WITHIN} bits/dim"]
    return markdown(header, [[name, *_covariance_row(row, scalar)] for name, row in rows.items()])


def _covariance_row(row: Content, scalar: float) -> list[str]:
    fitted = "bins" in row
    needed = 1.0 + row["I"] ** 2 / (4.0 * WITHIN / BITS)
    return [
        fit_settings(row) if fitted else "-",
        f"{Estimate(row['saved'], row['stderr']):+.4f}" if fitted else "0",
        f"{row['I']:.3f}",
        f"{(row['I'] / scalar) ** 2:.2f}",
        f"{needed:.0f}",
    ]


def fit_settings(row: Content) -> str:
    """How a covariance was fitted: bins, shrinkage, and whether smooth or pooled."""
    bins = f"{row['bins']} bins, shrinkage {row['shrinkage']:g}" if row["bins"] > 1 else "one bin"
    return ", ".join([bins, *(word for word in ("smooth", "pooled") if row[word])])
