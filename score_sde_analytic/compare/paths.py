"""The way samples take from noise to data, state by state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.compare.failures import FAILURES, reason
from score_sde_analytic.errors import RunError
from score_sde_analytic.files import finite
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.forward import BLANK
from score_sde_analytic.process.level import Level
from score_sde_analytic.study.plan import SamplingPlan

#: Samples whose paths are kept: points of the plane, and images.
POINTS, IMAGES = 60, 6
#: Points per side of a density.
SIDE = 80


@dataclass
class Trace:
    """A callback of a sampling loop that keeps two coordinates of every state of one batch, the start first.

    Attributes:
        pair: the coordinates, of flattened samples.
        levels: of the states.
        states: (batch, 2) each, float64.
    """

    pair: tuple[int, int]
    levels: list[Level] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def __call__(self, step: Mapping[str, Any]) -> None:
        if not self.states:
            self._keep(step["t"], step["x"])
        if not torch.isfinite(step["x_s"]).all():
            raise RunError("diverged")
        self._keep(step["s"], step["x_s"])

    def _keep(self, level: Level, x: Tensor) -> None:
        self.levels.append(level)
        self.states.append(x.flatten(1)[:, list(self.pair)].double().cpu())

    def content(self) -> dict[str, Any]:
        """Plain data: times, log-SNRs (None for the data) and states, (steps + 1, batch, 2)."""
        return {
            "times": [float(level.t) for level in self.levels],
            "log_snr": [BLANK if level.pure_noise else finite(level.log_snr) for level in self.levels],
            "states": torch.stack(self.states).tolist(),
        }


def coordinates(data: Float[Tensor, " n *dims"]) -> tuple[int, int]:
    """Two pixels to watch: the one of largest variance and, of the quarter that vary most, the one least correlated with it.

    >>> coordinates(data)
    (0, 1)
    """
    flat = data.double().flatten(1)
    variance = flat.var(0)
    first = int(variance.argmax())
    many = variance.topk(max(2, flat.shape[1] // 4)).indices
    centred = flat - flat.mean(0)
    correlation = (centred[:, many] * centred[:, [first]]).mean(0) / (variance[many] * variance[first]).sqrt()
    return first, int(many[correlation.abs().argmin()])


def record(
    planned: Mapping[str, Callable[[], SamplingPlan]],
    data: Float[Tensor, " n *dims"],
    seed: int = 0,
    exact: GaussianMixture | None = None,
) -> dict[str, Any] | None:
    """Paths in two coordinates of the data, per solver; those that fail are named with their reason. None in one dimension.

    Args:
        planned: solver -> its sampler on its grid, when they are needed.
        data: examples.
        exact: the data's distribution, if it is known: its density is kept too.
    """
    if data[0].numel() < 2:
        return None
    vectors = data.ndim == 2
    pair = (0, 1) if vectors else coordinates(data)
    count = POINTS if vectors else IMAGES
    solvers: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, plan in planned.items():
        trace = Trace(pair)
        try:
            plan()(count, seed, batch_size=count, callback=trace)
            solvers[name] = trace.content()
        except FAILURES as error:
            failed[name] = reason(error)
    content = {"kind": "points" if vectors else "pixels", "axes": _axes(data, pair), "solvers": solvers, "failed": failed}
    return content if exact is None else content | {"density": density(exact, data)}


def _axes(data: Tensor, pair: tuple[int, int]) -> list[str]:
    if data.ndim == 2:
        return [f"x[{i}]" for i in pair]
    places = [np.unravel_index(i, tuple(data.shape[1:])) for i in pair]
    if data.ndim != 4:
        return [f"x[{', '.join(str(int(i)) for i in place)}]" for place in places]
    return [f"pixel (row {int(row)}, column {int(column)}), channel {int(c)}" for c, row, column in places]


def density(mixture: GaussianMixture, data: Float[Tensor, "n d"]) -> dict[str, Any]:
    """The density of the first two coordinates on a lattice that holds the data."""
    covariances = torch.einsum("kij,kj,klj->kil", mixture.basis, mixture.eigenvalues, mixture.basis)[:, :2, :2]
    plane = GaussianMixture(mixture.weights.numpy(), mixture.means[:, :2].numpy(), covariances.numpy())
    low, high = data[:, :2].min(0).values, data[:, :2].max(0).values
    margin = 0.15 * (high - low)
    x, y = (
        torch.linspace(float(a), float(b), SIDE, dtype=torch.float64) for a, b in zip(low - margin, high + margin, strict=True)
    )
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
    values = plane.log_density(points, Level(0.0, 1.0, 0.0, math.inf)).exp().reshape(SIDE, SIDE)
    return {"x": x.tolist(), "y": y.tolist(), "values": values.tolist()}
