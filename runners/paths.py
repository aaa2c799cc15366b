"""The way samples take from noise to data, state by state, for the pictures of --mode=compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import Level
from score_sde_analytic.samplers import Sampler
from score_sde_analytic.samplers.base import prior_sample

from . import build
from .cells import FAILURES
from .experiment import Experiment

#: Samples whose paths are kept: points of the plane, and images.
POINTS, IMAGES = 60, 6
#: Points per side of a density.
SIDE = 80


@torch.no_grad()
def states(sampler: Sampler[Any], grid: Grid, like: Tensor, seed: int) -> list[Tensor]:
    """x after every step of a plan, the start first.

    Raises:
        RuntimeError: a state is not finite.
    """
    noise, plan = SampleNoise(seed, range(len(like)), like.device), sampler.plan(grid)
    found = [prior_sample(sampler.model.schedule, noise, like)]
    state = sampler.init(plan, found[0])
    for step in plan:
        x, state = sampler.step(found[-1], step, state, noise)
        if not torch.isfinite(x).all():
            raise RuntimeError("diverged")
        found.append(x.clone())
    return found


def coordinates(data: Tensor) -> tuple[int, int]:
    """Two pixels to watch: the one of largest variance and, of the quarter that vary most, the one least correlated with it."""
    flat = data.double().flatten(1)
    variance = flat.var(0)
    first = int(variance.argmax())
    many = variance.topk(max(2, flat.shape[1] // 4)).indices
    centred = flat - flat.mean(0)
    correlation = (centred[:, many] * centred[:, [first]]).mean(0) / (variance[many] * variance[first]).sqrt()
    return first, int(many[correlation.abs().argmin()])


def record(
    experiment: Experiment, planned: Mapping[str, Callable[[], tuple[Sampler[Any], Grid]]], seed: int
) -> dict[str, Any] | None:
    """Paths in two coordinates of the data, per solver; those that fail are named with their reason. None in one dimension."""
    test, vectors = experiment.splits.test, experiment.splits.test.ndim == 2
    if test[0].numel() < 2:
        return None
    pair = (0, 1) if vectors else coordinates(test)
    like = torch.empty(POINTS if vectors else IMAGES, *test.shape[1:], dtype=test.dtype, device=experiment.device)
    found, failed = {}, {}
    for name, plan in planned.items():
        try:
            sampler, grid = plan()
            ways = torch.stack(states(sampler, grid, like, seed)).flatten(2)[:, :, list(pair)].double().cpu()
            steps = sampler.plan(grid)
        except FAILURES as error:
            failed[name] = " ".join(str(error).split())
            continue
        levels = [steps[0].t, *(step.s for step in steps)]
        found[name] = {
            "times": [float(level.t) for level in levels],
            "log_snr": [float(lam) if math.isfinite(lam := level.log_snr) else None for level in levels],
            "states": ways.tolist(),
        }
    content = {"kind": "points" if vectors else "pixels", "axes": _axes(test, pair), "solvers": found, "failed": failed}
    if experiment.config.data.name == "mixture":
        content["density"] = density(build.mixture(experiment.config), test)
    return content


def _axes(test: Tensor, pair: tuple[int, int]) -> list[str]:
    if test.ndim == 2:
        return [f"x[{i}]" for i in pair]
    places = [np.unravel_index(i, tuple(test.shape[1:])) for i in pair]
    return [f"pixel (row {int(row)}, column {int(column)}), channel {int(c)}" for c, row, column in places]


def density(mixture: GaussianMixture, data: Tensor) -> dict[str, Any]:
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
