"""Markdown tables: their text, from plain content."""

import numpy as np

from score_sde_analytic.report import tables

SUMMARY = {"value": 2.34567, "stderr": 0.0123}
PARTS = {"prior": {"value": 0.001234}, "transitions": {"value": 1.5}, "reconstruction": {"value": 0.84567}}


def cells_of(text):
    """Rows of a table as lists of words."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_columns_are_even_and_bars_do_not_end_cells():
    text = tables.markdown(["a", "long header"], [["pca|energy", 1], ["x", 22]])
    assert len({len(line) for line in text.splitlines()}) == 1
    assert cells_of(text)[2:] == [["pca given energy", "1"], ["x", "22"]]


def test_bounds():
    """A chain that was not measured is left out, one that was not predicted says so."""
    measured = {"total": SUMMARY} | PARTS
    cells = {
        ("dp", "pca|energy", 10): {
            "measured": measured,
            "predicted": {"total": {"value": 2.3, "stderr": 0.02}},
            "disagreement_in_standard_errors": 1.96,
        },
        ("even", "beta", 10): {"measured": measured},
        ("even", "beta", 99): {"predicted": {"total": SUMMARY}},
    }
    assert cells_of(tables.bounds(cells))[2:] == [
        ["dp", "pca given energy", "10", "0.00123", "1.5", "0.846", "2.346 ± 0.012", "2.300 ± 0.020", "+2.0"],
        ["even", "beta", "10", "0.00123", "1.5", "0.846", "2.346 ± 0.012", "-", "-"],
    ]


def test_orderings():
    lines = [{"claim": "a < b", "difference": 0.01234, "standard_errors": -2.04}]
    assert cells_of(tables.orderings(lines))[2] == ["a < b", "+0.0123", "-2.0"]


def test_agreement():
    row = {"measured": {"total": SUMMARY}, "calls_per_example": 10.0, "vector_products_per_example": 0.0}
    methods = {"K = 5": row | {"above_reference": {"value": 0.5, "stderr": 0.01}}, "flow": row, "continuous": {}}
    found = cells_of(tables.agreement({"reference": "flow", "methods": methods}))
    assert found[0][4] == "above probability flow, paired"
    assert found[2] == ["chain, K = 5", "2.346 ± 0.012", "-", "-", "+0.5000 ± 0.0100", "10", "0"]
    assert found[3][0] == "probability flow"
    assert found[4] == ["continuous time", *["-"] * 6]


def test_grids():
    """From arrays as from the lists that JSON has."""
    optimum = {
        "limit": np.array([2.0, 0.01]),
        "steps": [2, 3],
        "excess": [0.5, 0.1],
        "steps_for": [3, None],
        "steps_for_interpolated": np.array([[2.9, 4.0], [0.25, 0.5]]),
        "steps_for_law": np.array([[2.75, 9.0], [0.2, 1.0]]),
    }
    content = {"costs": {"dp": {"2": (3.0, 0.1), "3": (2.5, 0.2)}}, "objectives": {"dp": "bits"}, "optimum": optimum}
    text = tables.grids(content)
    rows = cells_of(text)
    assert rows[:1] + rows[2:3] == [
        ["grid", "K = 2", "K = 3", "serves"],
        ["dp", "3.000 ± 0.100", "2.500 ± 0.200", "bits"],
    ]
    assert "Continuous limit: 2.0000 ± 0.0100 bits/dim." in text
    assert rows[-2:] == [["0.5", "3 ± 0.2", "2.8 ± 0.2"], ["0.1", "more than 3", "9.0 ± 1.0"]]
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in optimum.items()}
    assert tables.grids(content | {"optimum": plain}) == text


def test_covariances():
    fitted = {"bins": 4, "shrinkage": 0.5, "smooth": True, "pooled": False}
    rows = {"residual": {"I": 2.0}, "pca|energy": fitted | {"saved": 0.0123, "stderr": 0.001, "I": 1.0}}
    found = cells_of(tables.covariances(rows))
    assert found[2][:5] == ["residual", "-", "0", "2.000", "1.00"]
    assert found[3][:5] == ["pca given energy", "4 bins, shrinkage 0.5, smooth", "+0.0123 ± 0.0010", "1.000", "0.25"]
    assert found[2][5] == f"{1 + 4 / (4 * 0.05 * np.log(2)):.0f}"
