"""Residuals kept draw by draw in a basis, with free statistics of the state: the raw material of structured covariances.

For every draw of the moments' pass: the knot, the example, phi for each statistic, and for each label of the basis the root
mean square of U (eps - eps_hat) over its coefficients. Everything fitted later comes from here, without another network call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float64, Int64
from torch import Tensor

from score_sde_analytic.arrays import Array, as_array, sent
from score_sde_analytic.data.basis import Basis, Pixel, PixelChannel
from score_sde_analytic.declared import require_arrays
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.statistics import Statistic, checked, finite
from score_sde_analytic.models.prediction import Prediction


@dataclass(frozen=True)
class ResidualDraws:
    """n draws.

    Attributes:
        log_snr: knots, ascending.
        knot: of each draw.
        example: its index in the data set.
        rms: root mean square residual of each label.
        phi: values of each statistic, one or as many as pixels.
        sizes: coefficients per label.

    >>> draws = study.structures.draws("pixel")
    >>> draws.square(draws.at(0)).shape
    (300, 2)
    """

    log_snr: Float64[Array, " m"]
    knot: Int64[np.ndarray, " n"]
    example: Int64[np.ndarray, " n"]
    rms: Float16[np.ndarray, "n L"]
    phi: Mapping[str, Float[np.ndarray, "n _"]]
    sizes: Int64[np.ndarray, " L"]

    def at(self, m: int) -> Int64[np.ndarray, " rows"]:
        """Indices of the draws at knot m."""
        return np.flatnonzero(self.knot == m)

    def square(self, rows: Int64[np.ndarray, " rows"]) -> Float64[Array, "rows L"]:
        """Squared residuals of some draws."""
        return self.rms[rows].astype(np.float64) ** 2

    def some_labels(self, count: int) -> ResidualDraws:
        """The draws of at most `count` labels, evenly chosen."""
        labels = np.unique(np.linspace(0, len(self.sizes) - 1, count).round().astype(int))
        phi = {name: v if v.shape[1] == 1 else v[:, labels] for name, v in self.phi.items()}
        return ResidualDraws(self.log_snr, self.knot, self.example, self.rms[:, labels], phi, self.sizes[labels])

    def pooled(self) -> ResidualDraws:
        """The draws with all coefficients under one label, and no statistics."""
        power = self.rms.astype(np.float64) ** 2 @ (self.sizes / self.sizes.sum())
        rms = np.sqrt(power)[:, None].astype(np.float16)
        return ResidualDraws(self.log_snr, self.knot, self.example, rms, {}, np.array([self.sizes.sum()]))

    def take(self, rows: Bool[np.ndarray, " n"]) -> ResidualDraws:
        """Some of the draws."""
        phi = {name: values[rows] for name, values in self.phi.items()}
        return ResidualDraws(self.log_snr, self.knot[rows], self.example[rows], self.rms[rows], phi, self.sizes)


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
        self._labels: Tensor | None
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
        """Root mean square residuals and statistics of a batch of draws."""
        square = self.basis.forward((eps - prediction.eps).float()).square().flatten(1)
        if self._labels is None:
            labels = self.basis.labels(tuple(eps.shape[1:])).ravel()
            self._labels = sent(torch.from_numpy(labels), eps.device)
            self._sizes = np.bincount(labels)
        pooled = torch.zeros(len(square), len(self._sizes), device=square.device).index_add_(1, self._labels, square)
        rms = (pooled.cpu() / torch.from_numpy(self._sizes)).sqrt()
        new = {"rms": rms.numpy().astype(np.float16)}
        for name, statistic in self.statistics.items():
            values = checked(statistic(prediction), prediction)
            if values.shape[1] > 1 and not self._per_pixel(tuple(eps.shape[1:])):
                raise InputError(f"statistic {name!r} is per pixel: it fits the basis Pixel, not {type(self.basis).__name__}")
            new[f"phi.{name}"] = finite(values.cpu()).numpy()
        return new

    def add(self, knot: int, examples: Int64[np.ndarray, " batch"], observed: Mapping[str, np.ndarray]) -> None:
        """Keep what was observed of a batch of draws at one knot."""
        keys = {"knot": np.full(len(examples), knot, dtype=np.int64), "example": np.asarray(examples, dtype=np.int64)}
        for name, array in (keys | dict(observed)).items():
            self._parts.setdefault(name, []).append(array)

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

    def result(self, log_snr: Array, order: Sequence[int] | None = None) -> ResidualDraws:
        """The draws, for the knots they were made at, ascending (`Moments.log_snr`).

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
        phi = {name: a[f"phi.{name}"] for name in self.statistics}
        rank = np.arange(len(knots)) if order is None else np.argsort(order)
        return ResidualDraws(knots, rank[a["knot"]], a["example"], a["rms"], phi, a["sizes"])
