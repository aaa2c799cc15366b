"""Bits per dimension of a K-step chain: predicted from the curve, and measured by Monte Carlo.

    -log p(x_0) <= KL(q(x_T | x_0) || p(x_T)) + sum_{k=2..K} KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)) - log p(x_0 | x_1)

The decoder p(x_0 | x_{t_1}) = N(x0_hat, std^2), integrated over the bins of discrete data, is part of the chain.
Values are in nats per dimension inside and bits per dimension at the edge. (Ho et al., 2020, eq. 5.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from score_sde_analytic import grid as grids
from score_sde_analytic.cost import Reconstruction, prior_cost, transition_costs
from score_sde_analytic.covariance import Covariance, IsotropicCovariance
from score_sde_analytic.curve import NoiseCurve
from score_sde_analytic.data import DataRange, as_dataset, batches
from score_sde_analytic.gaussian import mean_square, normal_kl
from score_sde_analytic.grid import Grid
from score_sde_analytic.kernel import kernels, reverse_kernel
from score_sde_analytic.model import ScoreModel
from score_sde_analytic.moments import Moments, decoder_nats
from score_sde_analytic.noise import SampleNoise
from score_sde_analytic.schedule import Array, Schedule

BITS = 1.0 / math.log(2.0)


@dataclass(frozen=True)
class Chain:
    """A generative chain: where it stops, what each step adds, how the last one decodes (eta = 1).

    Attributes:
        grid: its times.
        covariance: of the transitions.
        decoder_std: standard deviation of p(x_0 | x_{t_1}).
    """

    grid: Grid
    covariance: Covariance
    decoder_std: float

    def __post_init__(self) -> None:
        if not 0.0 < self.decoder_std < math.inf:
            raise ValueError(f"decoder_std must be positive and finite, got {self.decoder_std}")
        if self.grid.times[0] != 1.0:
            raise ValueError(f"a chain starts from the prior at t = 1, this grid at {self.grid.times[0]:.6g}; begin it with 1")


class Part(NamedTuple):
    """A value with its standard error, in bits per dimension."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Bound:
    """An upper bound on -log2 p(x_0) / d with its three parts, in bits per dimension.

    Attributes:
        total, prior, transitions, reconstruction: values with standard errors.
        per_step: bits/dim of each transition in visiting order, (K - 1,).
        terms: bits/dim of each term of each example, (n, K + 1): prior, transitions, reconstruction; (0, K + 1) for a
            prediction.
        evaluations: network evaluations spent on it (those of a shared pass count for each of its chains).
    """

    total: Part
    prior: Part
    transitions: Part
    reconstruction: Part
    per_step: Array
    terms: Array
    evaluations: int

    @property
    def per_example(self) -> Array:
        """Totals of the examples, (n,)."""
        return self.terms.sum(1)

    def summary(self) -> dict[str, Any]:
        """Plain data for reports."""
        parts = ("total", "prior", "transitions", "reconstruction")
        return {name: getattr(self, name)._asdict() for name in parts} | {"evaluations": self.evaluations}


def predict(moments: Moments, schedule: Schedule, chains: Mapping[str, Chain], second_moment: float) -> dict[str, Bound]:
    """The bounds of chains (any grids) from measured moments alone, with jackknife errors.

    A chain is held fixed while the moments that price it vary, so the errors are those of the price.

    Args:
        moments: of the network on data like those to be coded, with their decoder table.
        second_moment: E||x_0||^2 / d of the data, for the prior.

    Raises:
        TypeError: a covariance depends on the state, so that the curve alone cannot price it.
        ValueError: a decoder std outside the measured table.
    """

    def steps(curve: NoiseCurve) -> list[Array]:
        return [transition_costs(schedule, curve, _isotropic(c.covariance), c.grid) for c in chains.values()]

    def parts(m: Moments) -> Array:
        transitions = np.array([costs.sum() for costs in steps(NoiseCurve.fit(m))])
        table = Reconstruction.of(m)
        reconstruction = [table.at(schedule.log_snr(c.grid.times[-2]), c.decoder_std) for c in chains.values()]
        return np.stack([transitions + reconstruction, transitions, reconstruction], 1)

    values, errors = (BITS * a for a in moments.jackknife(parts))
    prior = BITS * prior_cost(schedule, second_moment)
    per_step = steps(NoiseCurve.fit(moments))
    return {
        name: Bound(
            total=Part(float(value[0]) + prior, float(error[0])),
            prior=Part(prior, 0.0),
            transitions=Part(float(value[1]), float(error[1])),
            reconstruction=Part(float(value[2]), float(error[2])),
            per_step=BITS * costs,
            terms=np.zeros((0, len(costs) + 2)),
            evaluations=moments.evaluations,
        )
        for name, value, error, costs in zip(chains, values, errors, per_step, strict=True)
    }


def _isotropic(covariance: Covariance) -> IsotropicCovariance:
    if not isinstance(covariance, IsotropicCovariance):
        raise TypeError("only isotropic covariances can be priced from a scalar curve; measure the bound instead")
    return covariance


@torch.no_grad()
def measure(
    model: ScoreModel,
    data: Tensor | Dataset[Any] | DataLoader[Any],
    chains: Mapping[str, Chain],
    data_range: DataRange | None = None,
    *,
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Bound]:
    """Monte Carlo bounds of several chains that share one grid, from the same K network calls per draw.

    Noise is a function of (seed, example, draw, step), so the result does not depend on the batch size.

    Args:
        chains: by name; all with the same grid.
        data_range: range and levels of discrete data; without levels the bound is on a density.
        draws: noise draws per example and step.

    Raises:
        ValueError: chains of different grids, empty data, or data off their declared range or levels.
    """
    if draws < 1 or batch_size < 1:
        raise ValueError(f"draws and batch_size must be at least 1, got {draws} and {batch_size}")
    if not chains:
        raise ValueError("no chains to measure: pass at least one")
    if len({chain.grid.times for chain in chains.values()}) != 1:
        raise ValueError("chains measured together must share one grid; call measure once per grid")
    dataset = as_dataset(data)
    grid = next(iter(chains.values())).grid
    total, steps = len(dataset), grid.steps  # type: ignore[arg-type]
    # Per chain and example: prior, K - 1 transitions, reconstruction.
    terms = {name: torch.zeros(total, steps + 1, dtype=torch.float64) for name in chains}
    with tqdm(total=total * steps * draws, desc=f"bound K={steps}", unit="eval", disable=not progress, leave=False) as bar:
        start = 0
        for x_0 in batches(dataset, range(total), batch_size):
            (data_range or DataRange(-math.inf, math.inf)).check(x_0)
            rows, x_0 = slice(start, start + len(x_0)), x_0.to(device)
            for draw in range(draws):
                noise = SampleNoise(seed, ((i * draws + draw) for i in range(rows.start, rows.stop)), device)
                for name, values in _terms(model, x_0, chains, data_range, noise, bar).items():
                    terms[name][rows] += values / draws
            start = rows.stop
    return {name: bound_of_terms(BITS * terms[name].numpy(), steps * total * draws) for name in chains}


def _terms(
    model: ScoreModel, x_0: Tensor, chains: Mapping[str, Chain], data_range: DataRange | None, noise: SampleNoise, bar: Any
) -> dict[str, Tensor]:
    """Bound terms in nats per dimension of every chain, from one draw of noise per step: (batch, K + 1) each."""
    levels = next(iter(chains.values())).grid.levels(model.schedule)
    top = levels[0]
    prior = normal_kl(top.alpha**2 * mean_square(x_0), top.sigma**2, model.schedule.prior_variance).cpu()
    ks = kernels(levels[:-1])
    covariances = {name: chain.covariance.steps(ks, levels[:-2]) for name, chain in chains.items()}
    columns: dict[str, list[Tensor]] = {name: [prior] for name in chains}
    for k, t in enumerate(levels[:-1]):
        x_t = t.alpha * x_0 + t.sigma * noise.draw(x_0)
        prediction = model.predict(x_t, t)
        for name, chain in chains.items():
            if k < len(ks):
                value = covariances[name][k].kl(ks[k], prediction, x_0)
            else:
                value = decoder_nats(x_0, prediction.x_0, chain.decoder_std, data_range)
            columns[name].append(value.cpu())
        bar.update(len(x_0))
    return {name: torch.stack(values, 1) for name, values in columns.items()}


def bound_of_terms(terms: Array, evaluations: int) -> Bound:
    """The bound of measured terms (n, K + 1) in bits per dimension, with standard errors over examples.

    Raises:
        RuntimeError: a term is not finite.
    """
    if not np.isfinite(terms).all():
        raise RuntimeError("the bound holds NaN or inf: the decoder or a variance is far too small for the network's error")

    def part(values: Array) -> Part:
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Part(float(values.mean()), float(error))

    return Bound(
        total=part(terms.sum(1)),
        prior=part(terms[:, 0]),
        transitions=part(terms[:, 1:-1].sum(1)),
        reconstruction=part(terms[:, -1]),
        per_step=terms[:, 1:-1].mean(0),
        terms=terms,
        evaluations=evaluations,
    )


def paper_chain(schedule: Schedule, covariance: Covariance, steps: int, table: int = 1000, grid: Grid | None = None) -> Chain:
    """The convention of published Analytic-DPM tables: t_1 = 1/N and a decoder with variance beta-tilde(1, 2).

    Args:
        steps: K of the even grid over the table's indices; ignored when `grid` is given.
        table: N, the steps of the discrete model.
        grid: another grid whose first time is 1/N.

    Raises:
        ValueError: a grid whose first time is not 1/N.
    """
    grid = grids.even(steps, 1.0 / table) if grid is None else grid
    if not math.isclose(grid.times[-2], 1.0 / table):
        raise ValueError(f"the paper's convention forces t_1 = 1/{table}, got {grid.times[-2]:.6g}")
    decoder = reverse_kernel(schedule.level(1.0 / table), schedule.level(2.0 / table)).rho2
    return Chain(grid, covariance, math.sqrt(decoder))
