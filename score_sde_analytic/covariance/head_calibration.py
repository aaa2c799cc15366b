"""Heads on held-out data: calibration of their residuals, and the bits that their covariances cost there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.arrays import slices
from score_sde_analytic.covariance.head_networks import Head, RangeHead, hats
from score_sde_analytic.covariance.head_training import Draw, Recipe, chain_nats, draw, score, step_kernels
from score_sde_analytic.covariance.heads import Interpolated, LearnedDiagonal
from score_sde_analytic.data.examples import Rows
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.gaussian import diagonal_kl, expand, square_error
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.process.schedule import Schedule

#: Keeps a shift that held-out data do not determine from running away.
RIDGE = 1e-8


def held_out_draws(
    model: ScoreModel,
    data: Float[Tensor, " n *dims"],
    recipe: Recipe,
    draws: int = 8,
    batch_size: int = 100,
    seed: int = 0,
    conditions: Rows | None = None,
) -> Iterator[Draw]:
    """`draws` noisy states of every example, batch by batch."""
    recipe = recipe.within(model.schedule)
    generator = torch.Generator().manual_seed(stream_seed(seed, 0))
    for _ in range(draws):
        for part in slices(len(data), batch_size):
            rows = {name: values[part] for name, values in (conditions or {}).items()}
            yield draw(model, data[part], recipe, generator, probe=False, conditions=rows)


@torch.no_grad()
def transition_bits(
    covariances: Mapping[str, LearnedDiagonal | Interpolated],
    draws: Sequence[Draw],
    schedule: Schedule,
    log_snr: tuple[float, float],
    steps: int = 10,
) -> dict[str, float]:
    """Bits/dim of the transitions of a chain of `steps` calls even in log-SNR, estimated from draws with log-SNR uniform.

    Args:
        log_snr: (lo, hi) where the chain's first and last noisy states are. Its h = (hi - lo) / (steps - 1), and its
            transitions stand for starts from lo to hi - h/2 (midpoint rule; below lo they cost next to nothing).

    Raises:
        InputError: fewer than two steps, or no draw within.
    """
    if steps < 2:
        raise InputError(f"a chain has transitions from two steps on, got {steps}")
    low, high = log_snr
    sums = dict.fromkeys(covariances, 0.0)
    count = 0
    h = (high - low) / (steps - 1)
    for batch in draws:
        level = batch.prediction.level
        x_0 = batch.x_0
        lam = np.asarray(level.log_snr.cpu())
        t = np.asarray(level.t.cpu())
        inside = (lam >= low) & (lam <= high - 0.5 * h)
        later = np.where(inside, np.minimum(lam + h, schedule.log_snr_range[1]), np.inf)
        kernel = step_kernels(schedule, schedule.time(later), t, x_0.device)
        error = kernel.error(square_error(x_0, batch.prediction.x_0))
        for name, covariance in covariances.items():
            kl = diagonal_kl(error, expand(kernel.rho2, error), covariance.excess(kernel, batch.prediction))
            sums[name] += float(kl[torch.from_numpy(inside).to(kl.device)].sum())
        count += int(inside.sum())
    if not count:
        raise InputError(f"no draw has a log-SNR in [{low:.4g}, {high - 0.5 * h:.4g}]; widen the recipe's log_snr")
    return {name: (steps - 1.5) * value / count / math.log(2.0) for name, value in sums.items()}


def calibrate(head: Head, draws: Sequence[Draw], recipe: Recipe, schedule: Schedule, knots: int = 10) -> tuple[float, float]:
    """Fit the head's shift on held-out draws, linear between `knots` even in log-SNR, by the score "step" (or L_vlb), L-BFGS.

    A network's residual on its own training data may be too small, an OCM head believes the network and an SN head an exact
    mean: held-out residuals (eps - eps_hat)^2 are the target for all of them.

    Returns:
        (mean score before, after); the score is twice a step's KL divergence, or L_vlb's transitions in nats per dimension.

    Raises:
        InputError: no draws, or fewer than one knot.
    """
    if not draws or knots < 1:
        raise InputError(f"calibration needs held-out draws and a knot, got {len(draws)} batches and {knots} knots")
    recipe = recipe.within(schedule)
    places = torch.linspace(*recipe.log_snr, knots, dtype=torch.float64, device=draws[0].x_0.device)
    with torch.no_grad():
        weights = [hats(d.prediction.level.log_snr, places) for d in draws]
        values = [head.decode(head.output(d.prediction), d.prediction) for d in draws]

    def mean_score(shift: Tensor) -> Tensor:
        scores = [
            _held_out_score(head, value + expand(weight @ shift, value), d, recipe, schedule)
            for weight, value, d in zip(weights, values, draws, strict=True)
        ]
        return torch.cat(scores).mean()

    start = torch.zeros_like(places)
    shift = _minimum(mean_score, start)
    head.set_calibration(places, shift)
    return float(mean_score(start)), float(mean_score(shift))


def _minimum(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth objective is smallest, by L-BFGS."""
    point = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([point], max_iter=60, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = objective(point) + RIDGE * point.square().mean()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)
    return point.detach()


def _held_out_score(head: Head, value: Tensor, draw: Draw, recipe: Recipe, schedule: Schedule) -> Tensor:
    if isinstance(head, RangeHead):
        return chain_nats(value, draw, schedule, recipe)
    return score(torch.sigmoid(value), draw.square, "step", draw.step).flatten(1).mean(1)
