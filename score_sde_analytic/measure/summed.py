"""Residuals summed as they come, where every draw times every label would be too much to keep.

A cell has the draws of one knot, of examples that are equal modulo `GROUPS`, and of one of B bins of a statistic; of each its
sum of squares is kept, label by label. So means over groups and bins, all that fits and their held-out prices are made of, are
those of the draws. Bins are placed by the quantiles of the first draws of a knot: those that take as much memory as their sums.

Of every draw remain knot, example and statistics, and the residuals of a few labels, evenly chosen: settings are chosen by
these (`HeldOut.choose`), and so are the same as if everything was kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import COUNT
from score_sde_analytic.data.basis import Basis
from score_sde_analytic.declared import require_arrays
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.draws import GROUPS, Recorder, ResidualDraws, evenly
from score_sde_analytic.measure.statistics import Statistic

#: Labels of which every draw is kept, as many as `HeldOut.choose` looks at.
WATCHED = 64
#: Name of the cells of a recorder without statistics.
ALL = ""


@dataclass(frozen=True)
class SummedDraws:
    """Draws in cells.

    Attributes:
        watched: every draw of a few labels.
        cells: all labels, the draws in the cells of each statistic.
    """

    watched: ResidualDraws
    cells: Mapping[str, ResidualDraws]

    @property
    def log_snr(self) -> Float64[Array, " m"]:
        return self.watched.log_snr

    @property
    def example(self) -> Int64[np.ndarray, " n"]:
        return self.watched.example

    @property
    def phi(self) -> Mapping[str, Float[np.ndarray, "n _"]]:
        return self.watched.phi

    @property
    def sizes(self) -> Int64[np.ndarray, " L"]:
        return self.seen_by(None).sizes

    def seen_by(self, statistic: str | None) -> ResidualDraws:
        """The draws in the cells of a statistic; in any without one, since all have the same means."""
        return self.cells.get(statistic or ALL) or next(iter(self.cells.values()))

    def dealt(self, parts: int) -> Int64[np.ndarray, " n"]:
        """The part of every draw, by its example.

        Raises:
            InputError: parts that would cut cells.
        """
        return self.seen_by(None).dealt(parts)

    def some_labels(self, count: int) -> ResidualDraws:
        """Every draw of at most `count` of the labels that are watched."""
        return self.watched.some_labels(count)

    def pooled(self) -> ResidualDraws:
        """The draws with all coefficients under one label, and no statistics."""
        return self.seen_by(None).pooled()

    def take(self, rows: Bool[np.ndarray, " n"]) -> SummedDraws:
        """Some of the draws."""
        return SummedDraws(self.watched.take(rows), {name: draws.take(rows) for name, draws in self.cells.items()})


class SummingRecorder(Recorder):
    """A recorder of many labels, in memory for (groups x bins) x labels numbers a knot and statistic, however many the draws.

    Args:
        basis: U and its labels.
        statistics: by name; one number per state each.
        bins: of each statistic; fits have as many at most. A divisor of it loses nothing.

    Raises:
        InputError: a statistic that is a number per pixel.

    >>> from score_sde_analytic.data import DCT
    >>> SummingRecorder(DCT(), bins=8).config()["summed"]
    {'bins': 8, 'watched': 64}
    """

    def __init__(self, basis: Basis, statistics: Mapping[str, Statistic] | None = None, bins: int = 16) -> None:
        self.bins = COUNT("bins", bins)
        for name, statistic in (statistics or {}).items():
            if statistic.local:
                raise InputError(f"statistic {name!r} is a number per pixel, which only a Recorder of every draw keeps")
        super().__init__(basis, statistics)

    def begin(self) -> None:
        super().begin()
        self._first: dict[int, list[np.ndarray]] = {}
        self._sums: dict[int, dict[str, _Sums]] = {}
        self._shards: list[SummingRecorder] = []

    def config(self) -> dict[str, Any]:
        return super().config() | {"summed": {"bins": self.bins, "watched": WATCHED}}

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.statistics) or (ALL,)

    @property
    def _most(self) -> int:
        """Draws in float16 that take as much memory as their sums in float32."""
        return 2 * GROUPS * (self.bins * len(self.statistics) or 1)

    def add(self, knot: int, examples: Int64[np.ndarray, " batch"], observed: Mapping[str, np.ndarray]) -> None:
        rms = observed["rms"]
        super().add(knot, examples, {**observed, "rms": rms[:, evenly(rms.shape[1], WATCHED)]})
        if knot in self._sums:
            self._sum(knot, np.asarray(examples), observed, rms)
            return
        self._first.setdefault(knot, []).append(rms)
        if sum(map(len, self._first[knot])) > self._most:
            self._begin_sums(knot)

    def _begin_sums(self, knot: int) -> None:
        kept = super().arrays()
        rows = kept["knot"] == knot
        draws = {name: values[rows] for name, values in kept.items() if name != "sizes"}
        ranks = np.arange(1, self.bins) / self.bins
        edges = {name: np.quantile(draws[f"phi.{name}"].astype(np.float64), ranks) for name in self.statistics}
        cells = {name: _Sums.begun(edges.get(name, np.zeros(0)), len(self._sizes)) for name in self._names}
        self._sums[knot] = cells
        start = 0
        for rms in self._first.pop(knot):
            part = slice(start, start := start + len(rms))
            self._sum(knot, draws["example"][part], {name: values[part] for name, values in draws.items()}, rms)

    def _sum(self, knot: int, examples: np.ndarray, values: Mapping[str, np.ndarray], rms: np.ndarray) -> None:
        square = rms.astype(np.float32) ** 2
        for name, sums in self._sums[knot].items():
            sums.add(sums.cell(examples, values.get(f"phi.{name}")), square)

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = super().arrays()
        for knot, parts in self._first.items():
            self._first[knot] = [np.concatenate(parts)]
            arrays[f"first.{knot}"] = self._first[knot][0]
        for knot, cells in self._sums.items():
            for name, sums in cells.items():
                arrays |= {f"edges.{knot}.{name}": sums.edges, f"sums.{knot}.{name}": sums.squares}
        return arrays | _by_shard([shard.arrays() for shard in self._shards])

    def merge(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """All that the shards kept, side by side: the bins of each lie where its own first draws put them."""
        return _by_shard([part for part in parts if "knot" in part]) | {"sizes": max((p["sizes"] for p in parts), key=len)}

    def result(self, log_snr: Array, order: Sequence[int] | None = None) -> SummedDraws | ResidualDraws:
        if not self._shards:
            return super().result(log_snr, order)
        parts: list[Any] = [shard.result(log_snr, order) for shard in self._shards]
        if self._parts:
            parts.append(super().result(log_snr, order))
        if not any(shard._sums for shard in (*self._shards, self)):
            return ResidualDraws.joined(parts)
        watched = ResidualDraws.joined([part.some_labels(WATCHED) for part in parts])
        return SummedDraws(
            watched, {name: ResidualDraws.joined([part.seen_by(name) for part in parts]) for name in self._names}
        )

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        arrays, shards = _of_shards(arrays)
        self._shards = [SummingRecorder(self.basis, self.statistics, self.bins) for _ in shards]
        for shard, kept in zip(self._shards, shards, strict=True):
            shard.restore(kept)
        own = {name: array for name, array in arrays.items() if name.startswith(("first.", "edges.", "sums."))}
        require_arrays(arrays, {"sizes": "int64 labels"} | {name: self._declared(name) for name in own}, "the record")
        labels = len(arrays["sizes"])
        watched = {name: array for name, array in arrays.items() if name not in own}
        super().restore(watched | {"sizes": arrays["sizes"][evenly(labels, WATCHED)]})
        self._sizes = np.asarray(arrays["sizes"])
        places = [name.split(".", 2) for name in own]
        self._first = {int(knot): [own[f"first.{knot}"]] for kind, knot, *_ in places if kind == "first"}
        self._sums = {}
        for kind, knot, *name in places:
            if kind == "sums":
                sums = _Sums(np.array(own[f"edges.{knot}.{name[0]}"]), np.array(own[f"sums.{knot}.{name[0]}"]))
                self._sums.setdefault(int(knot), {})[name[0]] = sums

    def _declared(self, name: str) -> str:
        cells = GROUPS * (self.bins if self.statistics else 1)
        kinds = {"first": "float16 _ labels", "edges": "float64 _", "sums": f"float32 {cells} labels"}
        return kinds[name.partition(".")[0]]

    def _made(self, knots: Array, rank: np.ndarray, a: Mapping[str, np.ndarray]) -> SummedDraws | ResidualDraws:
        if not self._sums:
            return super()._made(knots, rank, {**a, "rms": self._every_draw(a["knot"])})
        sizes = a["sizes"][evenly(len(a["sizes"]), WATCHED)]
        watched = super()._made(knots, rank, {**a, "sizes": sizes})
        return SummedDraws(watched, {name: self._in_cells(name, watched, a) for name in self._names})

    def _every_draw(self, knot: np.ndarray) -> np.ndarray:
        """All labels of draws that were not summed yet."""
        rms = np.empty((len(knot), len(self._sizes)), dtype=np.float16)
        for m, parts in self._first.items():
            rms[knot == m] = np.concatenate(parts)
        return rms

    def _in_cells(self, name: str, watched: ResidualDraws, a: Mapping[str, np.ndarray]) -> ResidualDraws:
        phi = a.get(f"phi.{name}")
        cell, means, start = np.empty(len(a["knot"]), dtype=np.int64), [], 0
        for m in np.unique(a["knot"]):
            rows = a["knot"] == m
            place, rms = self._cells_of(m, name, a["example"][rows], None if phi is None else phi[rows])
            cell[rows] = place + start
            start += len(rms)
            means.append(rms)
        return replace(watched, rms=np.concatenate(means), sizes=self._sizes, cell=cell)

    def _cells_of(self, m: int, name: str, example: np.ndarray, phi: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(cell of every draw of a knot, root mean squares of its cells)."""
        if m not in self._sums:
            return np.arange(len(example)), np.concatenate(self._first[m]).astype(np.float32)
        sums = self._sums[m][name]
        occupied, place, counts = np.unique(sums.cell(example, phi), return_inverse=True, return_counts=True)
        return place, np.sqrt(sums.squares[occupied] / counts[:, None].astype(np.float32))


def _by_shard(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"shard.{i}.{name}": array for i, part in enumerate(parts) for name, array in part.items()}


def _of_shards(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """(what belongs to no shard, what belongs to each)."""
    own: dict[str, np.ndarray] = {}
    shards: dict[int, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if name.startswith("shard."):
            _, number, rest = name.split(".", 2)
            shards.setdefault(int(number), {})[rest] = array
        else:
            own[name] = array
    return own, [shards[i] for i in sorted(shards)]


@dataclass(frozen=True)
class _Sums:
    """Sums of squared residuals of one knot by cell and label.

    Attributes:
        edges: between the bins.
        squares: (groups x bins, L).
    """

    edges: Array
    squares: np.ndarray

    @classmethod
    def begun(cls, edges: Array, labels: int) -> _Sums:
        return cls(edges, np.zeros((GROUPS * (len(edges) + 1), labels), dtype=np.float32))

    def cell(self, examples: np.ndarray, phi: np.ndarray | None) -> Int64[np.ndarray, " batch"]:
        """Of draws."""
        within = 0 if phi is None else np.searchsorted(self.edges, phi[:, 0].astype(np.float64), side="right")
        return examples % GROUPS * (len(self.edges) + 1) + within

    def add(self, cell: np.ndarray, square: np.ndarray) -> None:
        """A draw's squares to each cell, one after another, whatever the batch."""
        for place, row in zip(cell, square, strict=True):
            self.squares[place] += row
