"""Samples against a Gaussian mixture, whose density, moments and modes are known.

cross-entropy gap   E_p[-log q] - H(q): how much less likely samples are than data; 0 for p = q, negative for samples that
                    crowd into the modes
KL(p || q)          by nearest neighbours, with exact draws for the reference (neighbours.py)
energy distance     to exact draws
Frechet             to the exact mean and covariance: no error from the reference
mean, covariance    ||m - m'||^2 and ||C - C'||_F^2, bias removed
mode distance       1/2 sum_k |E_p[r_k(x)] - w_k|, total variation; r_k is the posterior probability of mode k, w_k its weight
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics.base import Reference, require_features
from score_sde_analytic.metrics.frechet import GaussianSummary, frechet_distance, sample_moments
from score_sde_analytic.metrics.kernels import EnergyDistance
from score_sde_analytic.metrics.measured import Measured, jackknife, mean_difference, without_groups
from score_sde_analytic.metrics.neighbours import entropy
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import stream_seed

DATA = Level(0.0, 1.0, 0.0, math.inf)


def cross_entropy_gap(
    samples: Float[Tensor, "n d"], draws: Float[Tensor, "m d"], mixture: GaussianMixture, level: float = 0.95
) -> Measured:
    """E_p[-log q] - E_q[-log q] in nats, with exact draws for the second.

    >>> print(cross_entropy_gap(mixture.sample(500, seed=1), mixture.sample(500, seed=2), mixture))
    0.008 ± 0.080
    """
    return mean_difference(-mixture.log_density(samples, DATA), -mixture.log_density(draws, DATA), level)


def kl_divergence(
    samples: Float[Tensor, "n d"],
    draws: Float[Tensor, "n d"],
    mixture: GaussianMixture,
    k: int = 5,
    groups: int = 20,
    seed: int = 0,
    level: float = 0.95,
) -> Measured:
    """KL(p || q) in nats of the samples' density p from the mixture's, by the delete-group jackknife over both.

    Args:
        draws: exact, as many as samples.
        k: which nearest neighbour measures entropy.
    """

    def above_zero(x: Tensor) -> float:
        return float(-mixture.log_density(x, DATA).mean()) - entropy(x, k)

    other = above_zero(draws)
    without_x = [value - other for value in without_groups(above_zero, samples, groups, seed)]
    value = above_zero(samples)
    without_y = [value - zero for zero in without_groups(above_zero, draws, groups, seed + 1)]
    # Fewer examples make both entropies larger by as much: the jackknife's bias would be noise.
    return jackknife(value - other, without_x, without_y, correct=False, level=level)


def against_known(
    statistic: Callable[[Float[Tensor, "n d"]], float],
    samples: Float[Tensor, "n d"],
    groups: int = 20,
    seed: int = 0,
    level: float = 0.95,
    correct: bool = True,
) -> Measured:
    """A statistic of the samples alone, by the delete-group jackknife.

    >>> against_known(lambda part: float(part.var()), data).value - float(data.var()) < 1e-3  # already unbiased
    True
    """
    replicates = without_groups(statistic, samples, groups, seed)
    return jackknife(statistic(samples), replicates, correct=correct, level=level)


def mixture_metrics(
    samples: Float[Tensor, " ..."],
    mixture: GaussianMixture,
    count: int = 0,
    seed: int = 0,
    groups: int = 20,
    level: float = 0.95,
) -> dict[str, Measured]:
    """Everything above.

    >>> print(mixture_metrics(mixture.sample(100, seed=1), mixture)["mode distance"])
    0.022 ± 0.036

    Args:
        samples: (n, d).
        count: exact draws to compare with, where that is more than there are samples.
        seed: of the draws and the jackknife's groups.

    Raises:
        InputError: NaN, another dimension, or too few samples.
    """
    require_features(samples, "the samples")
    if samples.shape[1] != mixture.dim:
        raise InputError(f"the samples have dimension {samples.shape[1]}, the mixture {mixture.dim}")
    seed, count = whole(0)("seed", seed), whole(0)("count", count)
    x = samples.double()
    draws = _draws(mixture, len(x), count, seed).to(x.device)
    equal = draws[: len(x)]

    def mode_distance(part: Tensor) -> float:
        return float(0.5 * (mixture.responsibilities(part, DATA).mean(0) - mixture.weights).abs().sum())

    statistics = _of_moments(mixture)
    settings: dict[str, Any] = {"groups": groups, "seed": seed, "level": level}
    return (
        {"cross-entropy gap": cross_entropy_gap(x, draws, mixture, level)}
        | {"KL": kl_divergence(x, equal, mixture, **settings)}
        | {"energy distance": EnergyDistance(level=level)(x, Reference(draws))}
        | {name: against_known(statistic, x, **settings) for name, statistic in statistics.items()}
        | {"mode distance": against_known(mode_distance, x, correct=False, **settings)}
    )


def energy_distance(samples: Float[Tensor, "n d"], mixture: GaussianMixture, count: int = 0, seed: int = 0) -> Measured:
    """The energy distance of `mixture_metrics` alone.

    >>> print(energy_distance(mixture.sample(100, seed=1), mixture))
    -0.016 ± 0.014
    """
    return EnergyDistance()(samples.double(), Reference(_draws(mixture, len(samples), count, seed).to(samples.device)))


def _draws(mixture: GaussianMixture, samples: int, count: int, seed: int) -> Tensor:
    return mixture.sample(max(count, samples), stream_seed(seed, 7))


def _of_moments(mixture: GaussianMixture) -> dict[str, Callable[[Tensor], float]]:
    """Distances of samples (n, d) that need no more of the mixture than its mean and covariance."""
    mean, covariance = mixture.moments()
    known = GaussianSummary.of(mean, covariance)
    return {
        "Frechet": lambda part: frechet_distance(GaussianSummary.of(*sample_moments(part)), known),
        "mean": lambda part: float((part.mean(0) - mean).square().sum()),
        "covariance": lambda part: float((sample_moments(part)[1] - covariance).square().sum()),
    }
