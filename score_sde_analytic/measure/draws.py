"""Residuals kept draw by draw in a basis, with free statistics of the state: the raw material of structured covariances.

For every draw of the moments' pass: the knot, the example, phi for each statistic, and for each label of the basis the root
mean square of U (eps - eps_hat) over its coefficients. Everything fitted later comes from here, without another network call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from score_sde_analytic.arrays import Array, as_array, sent
from score_sde_analytic.data.basis import Basis, Pixel, PixelChannel
from score_sde_analytic.declared import require_arrays
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.statistics import Statistic, checked, finite
from score_sde_analytic.models.prediction import Prediction

#: Groups of examples for standard errors, as of `estimate`, and folds of them.
GROUPS, FOLDS = 32, 8


@dataclass(frozen=True)
class ResidualDraws:
    """n draws.

    Attributes:
        log_snr: knots, ascending.
        knot: of each draw.
        example: its index in the data set.
        rms: root mean square residual of each label: of every draw, or of cells of them.
        phi: values of each statistic, one or as many as pixels.
        sizes: coefficients per label.
        cell: of every draw, the row of `rms` that holds the mean of its cell; None where each has a row of its own. A cell
            has draws of one knot and of examples that are equal modulo `GROUPS`.

    >>> draws = study.structures.draws("pixel")
    >>> draws.square(draws.at(0)).shape
    (300, 2)
    """

    log_snr: Float64[Array, " m"]
    knot: Int64[np.ndarray, " n"]
    example: Int64[np.ndarray, " n"]
    rms: Float[np.ndarray, "rows L"]
    phi: Mapping[str, Float[np.ndarray, "n _"]]
    sizes: Int64[np.ndarray, " L"]
    cell: Int64[np.ndarray, " n"] | None = None

    @classmethod
    def joined(cls, parts: Sequence[ResidualDraws]) -> ResidualDraws:
        """The draws of all parts at the same knots; cells stay those of their part."""
        starts = np.cumsum([0, *(len(part.rms) for part in parts)])
        rows = [start + part.rows for start, part in zip(starts, parts, strict=False)]
        return cls(
            parts[0].log_snr,
            np.concatenate([part.knot for part in parts]),
            np.concatenate([part.example for part in parts]),
            np.concatenate([part.rms for part in parts]),
            {name: np.concatenate([part.phi[name] for part in parts]) for name in parts[0].phi},
            parts[0].sizes,
            None if all(part.cell is None for part in parts) else np.concatenate(rows),
        )

    @property
    def rows(self) -> Int64[np.ndarray, " n"]:
        """The row of `rms` for every draw."""
        return np.arange(len(self.knot)) if self.cell is None else self.cell

    def at(self, m: int) -> Int64[np.ndarray, " rows"]:
        """Indices of the draws at knot m."""
        return np.flatnonzero(self.knot == m)

    def seen_by(self, statistic: str | None) -> ResidualDraws:
        """The draws as a fit with this statistic needs them."""
        return self

    def square(self, rows: Int64[np.ndarray, " rows"]) -> Float64[Array, "rows L"]:
        """Squared residuals of some draws."""
        return self.rms[rows if self.cell is None else self.cell[rows]].astype(np.float64) ** 2

    def alike(
        self, rows: Int64[np.ndarray, " rows"], bins: Int64[np.ndarray, " rows _"]
    ) -> tuple[Int64[np.ndarray, " some"], Float64[Array, " some"]]:
        """(one of all draws of a cell and bin, as a place in `rows`, how many there are), for all of them."""
        if self.cell is None:
            return np.arange(len(rows)), np.ones(len(rows))
        pairs = np.stack([self.cell[rows], bins[:, 0]])
        _, first, counts = np.unique(pairs, axis=1, return_index=True, return_counts=True)
        return first, counts.astype(np.float64)

    def dealt(self, parts: int) -> Int64[np.ndarray, " n"]:
        """The part of every draw, by its example.

        Raises:
            InputError: parts that would cut cells.
        """
        if self.cell is not None and GROUPS % parts:
            raise InputError(f"draws were summed in {GROUPS} groups of examples: take folds that divide it, not {parts}")
        return self.example % parts

    def some_labels(self, count: int) -> ResidualDraws:
        """The draws of at most `count` labels, evenly chosen."""
        labels = evenly(len(self.sizes), count)
        phi = {name: v if v.shape[1] == 1 else v[:, labels] for name, v in self.phi.items()}
        return replace(self, rms=self.rms[:, labels], phi=phi, sizes=self.sizes[labels])

    def pooled(self) -> ResidualDraws:
        """The draws with all coefficients under one label, and no statistics."""
        power = self.rms.astype(np.float64) ** 2 @ (self.sizes / self.sizes.sum())
        rms = np.sqrt(power)[:, None].astype(self.rms.dtype)
        return replace(self, rms=rms, phi={}, sizes=np.array([self.sizes.sum()]))

    def take(self, rows: Bool[np.ndarray, " n"]) -> ResidualDraws:
        """Some of the draws."""
        phi = {name: values[rows] for name, values in self.phi.items()}
        kept = {"rms": self.rms[rows]} if self.cell is None else {"cell": self.cell[rows]}
        return replace(self, knot=self.knot[rows], example=self.example[rows], phi=phi, **kept)


class Draws(Protocol):
    """What fits ask of draws, kept one by one or summed in cells."""

    @property
    def log_snr(self) -> Array: ...
    @property
    def example(self) -> np.ndarray: ...
    @property
    def phi(self) -> Mapping[str, np.ndarray]: ...
    @property
    def sizes(self) -> np.ndarray: ...
    def seen_by(self, statistic: str | None) -> ResidualDraws: ...
    def dealt(self, parts: int) -> np.ndarray: ...
    def some_labels(self, count: int) -> ResidualDraws: ...
    def pooled(self) -> ResidualDraws: ...
    def take(self, rows: np.ndarray) -> Draws: ...


def evenly(labels: int, count: int) -> Int64[np.ndarray, " some"]:
    """At most so many of the labels.

    >>> evenly(5, 3).tolist()
    [0, 2, 4]
    """
    return np.unique(np.linspace(0, labels - 1, count).round().astype(np.int64))


class Recorder:
    """Keeps the residuals of `estimate` in one basis.

    Args:
        basis: U and its labels.
        statistics: by name; free functions of the state.

    >>> Recorder(Pixel()).config()
    {'basis': {'name': 'Pixel'}, 'statistics': {}}
    """

    def __init__(self, basis: Basis, statistics: Mapping[str, Statistic] | None = None) -> None:
        self.basis = basis
        self.statistics = dict(statistics or {})
        self._parts: dict[str, list[np.ndarray]]
        self._labels: tuple[Tensor, np.ndarray] | None
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier pass left."""
        self._parts = {}
        self._labels = None
        self._sizes = np.zeros(0, dtype=np.int64)

    def config(self) -> dict[str, Any]:
        """Identity of what is recorded."""
        return {"basis": self.basis.config(), "statistics": {n: s.config() for n, s in self.statistics.items()}}

    def observed(
        self, examples: Int64[np.ndarray, " batch"], eps: Float[Tensor, " batch *dims"], prediction: Prediction
    ) -> dict[str, np.ndarray]:
        """What a batch of draws has to say, wherever it is looked at; `add` keeps it."""
        labels, sizes = self._labelled(tuple(eps.shape[1:]), eps.device)
        energies = self.basis.energies((eps - prediction.eps).float(), labels, len(sizes)).cpu().numpy()
        new = {"sizes": sizes, "rms": np.sqrt(energies / sizes).astype(np.float16)}
        for name, statistic in self.statistics.items():
            values = checked(statistic(prediction), prediction)
            if values.shape[1] > 1 and not self._per_pixel(tuple(eps.shape[1:])):
                raise InputError(f"statistic {name!r} is per pixel: it fits the basis Pixel, not {type(self.basis).__name__}")
            new[f"phi.{name}"] = finite(values.cpu()).numpy()
        return new

    def add(self, knot: int, examples: Int64[np.ndarray, " batch"], observed: Mapping[str, np.ndarray]) -> None:
        """Keep what `observed` found of a batch of draws at one knot; in which order batches come decides the result's."""
        new = dict(observed)
        self._sizes = new.pop("sizes")
        new["knot"] = np.full(len(examples), knot, dtype=np.int64)
        new["example"] = np.asarray(examples, dtype=np.int64)
        for name, array in new.items():
            self._parts.setdefault(name, []).append(array)

    def _labelled(self, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, np.ndarray]:
        """(the curve of every coefficient, flat, how many each has)."""
        if self._labels is None:
            labels = self.basis.labels(shape).ravel()
            self._labels = sent(torch.from_numpy(labels), device), np.bincount(labels)
        return self._labels

    def _per_pixel(self, shape: tuple[int, ...]) -> bool:
        """Whether the curves belong to pixels; as many coefficients as pixels are not enough."""
        return isinstance(self.basis, PixelChannel) and np.array_equal(self.basis.labels(shape), Pixel().labels(shape))

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was recorded so far."""
        joined = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        self._parts = {name: [values] for name, values in joined.items()}
        return joined | {"sizes": self._sizes}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from saved arrays.

        Raises:
            InputError: they are not what this recorder keeps.
        """
        declared = {"sizes": "int64 labels", "knot?": "int64 n", "example?": "int64 n", "rms?": "float16 n labels"}
        declared |= {f"phi.{name}?": "float32 n _" for name in self.statistics}
        require_arrays(arrays, declared, "the record")
        if set(arrays) not in ({"sizes"}, {name.rstrip("?") for name in declared}):
            raise InputError("the record lacks a part of its draws; delete the file of the pass and measure again")
        self._parts = {name: [values] for name, values in arrays.items() if name != "sizes"}
        self._sizes = np.asarray(arrays["sizes"])

    def merge(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """All draws of the shards of a pass."""
        names = [name for name in parts[0] if name != "sizes"]
        return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names} | {
            "sizes": max((part["sizes"] for part in parts), key=len)
        }

    def result(self, log_snr: Array, order: Sequence[int] | None = None) -> Any:
        """The `ResidualDraws`, for the knots they were made at, ascending (`Moments.log_snr`).

        Args:
            order: the number that each knot had in the pass (`Moments.order`); absent, they were numbered as they ascend.

        Raises:
            InputError: nothing was recorded, or the knots are others.
        """
        a = self.arrays()
        knots = as_array(log_snr)
        if "knot" not in a:
            raise InputError("nothing was recorded; pass this recorder to estimate(observers=...)")
        if knots.ndim != 1 or np.any(np.diff(knots) <= 0) or len(knots) != a["knot"].max() + 1:
            raise InputError(f"need the {a['knot'].max() + 1} knots of the draws in ascending order, as in Moments.log_snr")
        rank = np.arange(len(knots)) if order is None else np.argsort(order)
        return self._made(knots, rank, a)

    def _made(self, knots: Array, rank: np.ndarray, a: Mapping[str, np.ndarray]) -> Any:
        phi = {name: a[f"phi.{name}"] for name in self.statistics}
        return ResidualDraws(knots, rank[a["knot"]], a["example"], a["rms"], phi, a["sizes"])
