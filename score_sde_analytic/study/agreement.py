"""Bounds side by side on the same examples: predicted against measured, one chain against another, every method at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.likelihood import Bound, Chain, Priced
from score_sde_analytic.study.names import ChainName
from score_sde_analytic.uncertainty import Estimate


def cells(
    chains: Mapping[ChainName, Chain], predicted: Mapping[ChainName, Priced], measured: Mapping[ChainName, Bound]
) -> dict[ChainName, dict[str, Any]]:
    """What is known of every chain, as plain data, and how far prediction and measurement agree."""
    return {name: _cell(chain, predicted.get(name), measured.get(name)) for name, chain in chains.items()}


def _cell(chain: Chain, predicted: Priced | None, measured: Bound | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"times": chain.grid.times, "decoder": chain.decoder.config()}
    if predicted is not None:
        cell["predicted"] = predicted.summary()
    if measured is not None:
        cell["measured"] = measured.summary()
    if predicted is not None and measured is not None:
        cell["disagreement_in_standard_errors"] = measured.total.apart(predicted.total)
    return cell


def orderings(measured: Mapping[ChainName, Bound], pairs: Iterable[tuple[ChainName, ChainName]]) -> list[dict[str, Any]]:
    """Paired differences of (better, worse) chains on the same examples; pairs that were not measured are left out."""
    lines = []
    for better, worse in pairs:
        if better in measured and worse in measured:
            saved = Estimate.of(measured[worse].per_example - measured[better].per_example)
            claim = f"{better} < {worse}"
            size = saved.value / max(saved.stderr, 1e-300)
            lines.append({"claim": claim, "difference": saved.value, "standard_errors": size})
    return lines


@dataclass(frozen=True)
class Agreement:
    """Methods on the same examples.

    Attributes:
        measured: bounds by method.
        predicted: prices by method, for those that have one.
        exact: bits/dim of every example under the true density, where that is known.
    """

    measured: Mapping[str, Bound]
    predicted: Mapping[str, Priced]
    exact: Float64[Array, " n"] | None = None

    @property
    def per_example(self) -> dict[str, Float64[Array, " n"]]:
        """Bits/dim of every example, by method."""
        values = {name: bound.per_example for name, bound in self.measured.items()}
        return values if self.exact is None else values | {"exact": self.exact}

    @property
    def reference(self) -> str:
        """The method that others are compared with: the exact density, continuous time, or the first; empty for none."""
        values = self.per_example
        return next((name for name in ("exact", "continuous", *values) if name in values), "")

    def rows(self, shown: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What is known of these methods, as plain data, with paired differences from the reference."""
        return {name: self._row(name) for name in shown}

    def _row(self, name: str) -> dict[str, Any]:
        row = self._measured(name) if name in self.per_example else {}
        if name in self.predicted:
            row["predicted"] = self.predicted[name].summary()
        if name in self.predicted and name in self.measured:
            row["disagreement_in_standard_errors"] = self.measured[name].total.apart(self.predicted[name].total)
        return row

    def _measured(self, name: str) -> dict[str, Any]:
        values = self.per_example
        bound = self.measured.get(name)
        row: dict[str, Any] = {
            "measured": bound.summary() if bound else {"total": Estimate.of(values[name])._asdict(), "evaluations": 0},
            "calls_per_example": bound.calls_per_example if bound else 0.0,
            "vector_products_per_example": bound.vector_products / len(values[name]) if bound else 0.0,
        }
        if name != self.reference:
            row["above_reference"] = Estimate.of(values[name] - values[self.reference])._asdict()
        return row
