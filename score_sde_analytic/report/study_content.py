"""How the page of a study reads its numbers, and what it calls things."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from score_sde_analytic.report.results import as_float
from score_sde_analytic.uncertainty import Estimate

Content = Mapping[str, Any]
#: Estimates by number of steps K.
ByCalls = Mapping[str, Content]

LABELS = {"residual": "isotropic", "score": "isotropic, from the score", "beta": "β", "beta_tilde": "β̃"}
GRIDS = {"dp": "optimal times", "refined": "times optimal for isotropic", "even_tuned": "times even in t, best first one"}
#: Kinds of samples.
KINDS = {"fewest": "fewest calls", "chain": "chain"}


def minus(text: str) -> str:
    """Numbers with the sign that print has.

    >>> minus("-1.5")
    '−1.5'
    """
    return text.replace("-", "−")


def label(name: str) -> str:
    """A covariance as the page names it.

    >>> label("dct|high_frequency")
    'dct given high frequency'
    """
    return LABELS.get(name, name.replace("|", " given ").replace("_", " "))


def estimate(found: Content) -> Estimate:
    """A value with its standard error, NaN where that is not known, as that of one example."""
    return Estimate(found["value"], as_float(found["stderr"]))


def printed(found: Content, spec: str = ".3f") -> str:
    """value ± error, as far as that is known.

    >>> printed({"value": -0.5, "stderr": 0.01}, ".2f"), printed({"value": -0.5, "stderr": None}, ".2f")
    ('−0.50 ± 0.01', '−0.50')
    """
    one = estimate(found)
    return minus(f"{one:{spec}}" if math.isfinite(one.stderr) else f"{one.value:{spec}}")


def by_chain(content: Content) -> dict[tuple[str, str], dict[str, Content]]:
    """(grid, covariance) -> K -> cell."""
    found: dict[tuple[str, str], dict[str, Content]] = {}
    for name, cell in content["cells"].items():
        grid, covariance, steps = name.split("/")
        found.setdefault((grid, covariance), {})[steps] = cell
    return found


def own_cells(content: Content) -> dict[str, Content]:
    """Cells of the study's own chains, by K."""
    return by_chain(content)[content["grid"], content["covariance"]]


def totals(row: Mapping[str, Content], kind: str) -> dict[str, Content]:
    """Predicted or measured bits/dim by K, where they are known."""
    return {steps: cell[kind]["total"] for steps, cell in row.items() if kind in cell}


def infinite(content: Content) -> Content:
    """Bits/dim of infinitely many calls."""
    return content["limit"]["total"]


def middle(steps: list[str]) -> str:
    """The number of steps that tables are sorted by, and sentences speak of: the middle one, of two the smaller.

    >>> middle(["3", "5", "10", "25"])
    '5'
    """
    return sorted(steps, key=int)[(len(steps) - 1) // 2]
