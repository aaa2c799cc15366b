"""How fast solvers converge: errors without Monte Carlo on laws whose flow, mean and variance are known."""

from __future__ import annotations

import math

import torch

from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.models.mixture import GaussianMixture

MEAN, VARIANCE = 0.7, 0.3
GAUSSIAN = GaussianMixture([1.0], [[MEAN]], VARIANCE)
MILD = GaussianMixture([0.5, 0.5], [[-0.8], [0.6]], [0.1, 0.2])
FIRST = 0.1


class Silent:
    """No noise."""

    def draw(self, like):
        return torch.zeros_like(like)


class Basis:
    """The k-th draw moves row 2 + k alone, by one."""

    def __init__(self):
        self.draws = 0

    def draw(self, like):
        z = torch.zeros_like(like)
        z[2 + self.draws] = 1.0
        self.draws += 1
        return z


def to_first_level(sampler, plan, x, noise):
    """The state at the grid's last noisy time."""
    state = sampler.init(plan, x)
    for step in plan[:-1]:
        x, state = sampler.step(x, step, state, noise)
    return x


def slope(errors):
    """Order of convergence between the last two of errors at steps that double."""
    return math.log2(errors[-2] / errors[-1])


def cdf(mixture, x, level):
    """F_t(x_t) of a one-dimensional mixture, which its flow keeps."""
    variance = level.alpha**2 * mixture.eigenvalues[:, 0] + level.sigma**2
    return (mixture.weights * torch.special.ndtr((x - level.alpha * mixture.means[:, 0]) / variance.sqrt())).sum(-1)


def flow_error(make, schedule, steps, mixture=MILD):
    """Largest change of F_t(x_t) from t = 1 to the first level."""
    sampler = make(mixture.score_model(schedule))
    plan = sampler.plan(even_log_snr(schedule, steps + 1, FIRST))
    x = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None] * schedule.prior_variance**0.5
    end = to_first_level(sampler, plan, x, Silent())
    return float((cdf(mixture, end, plan[-1].t) - cdf(mixture, x, plan[0].t)).abs().max())


def moments(make, schedule, steps, per_step=4):
    """Errors of mean and variance at t_1 of a linear sampler started from the exact law of Gaussian data.

    Rows: origin, unit state, one per draw; no Monte Carlo.
    """
    sampler = make(GAUSSIAN.score_model(schedule))
    plan = sampler.plan(even_log_snr(schedule, steps + 1, FIRST))
    x = torch.zeros(2 + per_step * steps, 1, dtype=torch.float64)
    x[1] = 1.0
    x = to_first_level(sampler, plan, x, Basis()).flatten()
    top, end, response = plan[0].t, plan[-1].t, x[1:] - x[0]
    mean = x[0] + response[0] * top.alpha * MEAN
    variance = response[0] ** 2 * (top.alpha**2 * VARIANCE + top.sigma**2) + response[1:].square().sum()
    return float(mean) - end.alpha * MEAN, float(variance) - end.alpha**2 * VARIANCE - end.sigma**2
