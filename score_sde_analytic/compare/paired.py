"""Cells of a comparison in pairs: all begin with the same noise and see the same reference, so most of their errors are shared.

    difference = T_a - T_b,   error: the jackknife's, with the same groups left out of both (metrics/measured.py)

Errors of single cells add as squares where cells are independent; here they are not, and two cells whose intervals overlap
may be well apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from score_sde_analytic.errors import InputError
from score_sde_analytic.files import finite
from score_sde_analytic.metrics import Measured, difference

Cell = Mapping[str, Any]
#: What is kept of a difference.
KEPT = ("value", "stderr", "low", "high")


@dataclass(frozen=True)
class Pairs:
    """Differences between cells.

    Attributes:
        cells: finished ones within a budget, and that of K = 0.
        measured: a cell -> its metrics with replicates.
    """

    cells: Sequence[Cell]
    measured: Callable[[Cell], dict[str, Measured]]
    _known: dict[int, dict[str, Measured]] = field(default_factory=dict, repr=False)

    def _of(self, cell: Cell, metric: str) -> Measured:
        if id(cell) not in self._known:
            self._known[id(cell)] = self.measured(cell)
        return self._known[id(cell)][metric]

    def told(self, metrics: Sequence[Mapping[str, str]], budgets: Sequence[int]) -> dict[str, Any]:
        """metric -> K -> the best cell, the others' differences to it, and who needs how many calls for its quality."""
        return {
            metric["name"]: {str(k): one for k in budgets if (one := self._at(metric, k)) is not None} for metric in metrics
        }

    def _at(self, metric: Mapping[str, str], budget: int) -> dict[str, Any] | None:
        name = metric["name"]
        sign = 1.0 if metric["better"] == "lower" else -1.0
        column = [cell for cell in self.cells if cell["budget"] == budget and self._has(cell, name)]
        if not column:
            return None
        best = min(column, key=lambda cell: sign * cell["metrics"][name]["value"])
        others = [cell for cell in self.cells if cell["budget"] in (0, budget) and self._has(cell, name)]
        return {
            "best": {"solver": best["solver"], "grid": best["grid"], "value": best["metrics"][name]["value"]},
            "differences": [self._told(cell, best, name) for cell in others if cell is not best],
            "calls": self._calls(best, name, sign),
        }

    def _has(self, cell: Cell, metric: str) -> bool:
        value = cell["metrics"].get(metric, {}).get("value")
        return value is not None and math.isfinite(value) and bool(self._of(cell, metric).replicates)

    def _told(self, cell: Cell, best: Cell, metric: str) -> dict[str, Any]:
        apart = self._apart(cell, best, metric)
        numbers = dict.fromkeys(KEPT) if apart is None else {part: finite(getattr(apart, part)) for part in KEPT}
        return {"solver": cell["solver"], "grid": cell["grid"], "budget": cell["budget"]} | numbers

    def _apart(self, cell: Cell, best: Cell, metric: str) -> Measured | None:
        try:
            return difference(self._of(cell, metric), self._of(best, metric))
        except InputError:  # other groups
            return None

    def _calls(self, best: Cell, metric: str, sign: float) -> list[dict[str, Any]]:
        """The fewest calls of every solver and grid with which it is no worse than `best`, as far as the data can tell."""
        rows: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            if self._has(cell, metric):
                rows.setdefault((cell["solver"], cell["grid"]), []).append(cell)
        return [
            {"solver": solver, "grid": grid, "calls": self._fewest(cells, best, metric, sign), "most": _most(cells)}
            for (solver, grid), cells in rows.items()
        ]

    def _fewest(self, cells: Sequence[Cell], best: Cell, metric: str, sign: float) -> float | None:
        enough = [cell["calls"] for cell in cells if cell is best or self._no_worse(cell, best, metric, sign)]
        return min(enough, default=None)

    def _no_worse(self, cell: Cell, best: Cell, metric: str, sign: float) -> bool:
        apart = self._apart(cell, best, metric)
        return apart is not None and (apart.low if sign > 0 else -apart.high) <= 0.0


def _most(cells: Sequence[Cell]) -> float:
    return max(cell["calls"] for cell in cells)
