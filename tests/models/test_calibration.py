"""Error bars that cover the truth as often as they say: 200 small evaluations each.

The number of 95 % intervals out of 200 that cover lies in 180 .. 198 but for a probability of 0.16 % (binomial(200, 0.95)), or
of 0.36 % with the 94.5 % that 1.96 standard errors of 60 examples truly have. Seeds are fixed.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from score_sde_analytic.covariance.isotropic import Beta, Isotropic
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.likelihood import BITS, Chain, ContinuousTime, Fixed, Flow, Hutchinson, bits_per_dim, price
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.decoder import GaussianDecoder
from score_sde_analytic.process.gaussian import normal_kl
from score_sde_analytic.process.kernel import kernels
from score_sde_analytic.process.schedule import LinearVP

QUIET = {"progress": False}
TIMES, EXAMPLES = 200, 60
SCHEDULE, DIM = LinearVP(), 2
#: Data, and a network that takes them for something else.
MEAN, VARIANCE = 0.3, 0.4
DATA = GaussianMixture([1.0], np.full((1, DIM), MEAN), VARIANCE)
OTHER_MEAN, OTHER_VARIANCE = 0.1, 0.8
WRONG = GaussianMixture([1.0], np.full((1, DIM), OTHER_MEAN), OTHER_VARIANCE)


def coverage(truth, values, errors):
    return int((np.abs(np.asarray(values) - truth) < 1.96 * np.asarray(errors)).sum())


def covered(bound, truth):
    """How many of 200 evaluations of 60 examples each cover; all noise belongs to the example, so one pass makes them all."""
    slices = [slice(i, i + EXAMPLES) for i in range(0, TIMES * EXAMPLES, EXAMPLES)]
    totals = [replace(bound, terms=bound.terms[part], indices=bound.indices[part]).total for part in slices]
    return coverage(truth, *zip(*totals, strict=True))


def assert_calibrated(count):
    assert 180 <= count <= 198


def wrong_error(level):
    """E (x_0 - x0_hat)^2 of the wrong network, which is linear."""
    gain = level.alpha * OTHER_VARIANCE / (level.alpha**2 * OTHER_VARIANCE + level.sigma**2)
    spread = VARIANCE + (MEAN - OTHER_MEAN) ** 2
    return (1 - gain * level.alpha) ** 2 * spread + (gain * level.sigma) ** 2


def ends(last, std):
    """Prior and Gaussian decoder of a bound, in nats per dimension."""
    top = SCHEDULE.level(1.0)
    prior = float(normal_kl(top.alpha**2 * (VARIANCE + MEAN**2), top.sigma**2, 1.0))
    return prior + 0.5 * math.log(2 * math.pi) + math.log(std) + 0.5 * wrong_error(last) / std**2


def measured(method, **options):
    x = DATA.sample(TIMES * EXAMPLES, seed=1)
    return bits_per_dim(WRONG.score_model(SCHEDULE), x, method, batch_size=len(x), **options, **QUIET)


@pytest.mark.slow
def test_errors_of_a_chain():
    grid = even_log_snr(SCHEDULE, 6, SCHEDULE.time(3.0))
    levels = grid.levels(SCHEDULE)[:-1]
    steps = [
        float(normal_kl(torch.tensor(k.b**2 * wrong_error(level)), k.rho2, k.beta))
        for k, level in zip(kernels(levels), levels[:-1], strict=True)
    ]
    truth = BITS * (ends(levels[-1], 0.3) + sum(steps))
    assert_calibrated(covered(measured(Chain(grid, Beta(), 0.3), seed=2), truth))


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 3])
def test_errors_of_continuous_time(draws):
    """Repetitions of an example are averaged before errors are taken."""
    low, high = SCHEDULE.log_snr(1.0), 3.0
    integral = quad(lambda lam: 0.5 * math.exp(lam) * wrong_error(SCHEDULE.level_at(lam)), low, high, epsrel=1e-9)[0]
    last = SCHEDULE.level_at(high)
    curve = NoiseCurve(np.zeros(1), np.array([-math.log(OTHER_VARIANCE)]))
    bound = measured(ContinuousTime(last.t, GaussianDecoder(0.3), 4, curve), draws=draws, seed=3)
    assert_calibrated(covered(bound, BITS * (ends(last, 0.3) + integral)))


@pytest.mark.slow
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_errors_of_a_flow(law):
    """With random probes; the truth is the entropy of the data."""
    covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
    data, schedule = GaussianMixture([1.0], [[0.3, -0.2]], covariance[None]), LinearVP(0.1, 60.0)
    x = data.sample(TIMES * EXAMPLES, seed=4)
    flow = Flow(1e-4, divergence=Hutchinson(law=law), solver=Fixed(25), examples_per_block=len(x))
    bound = bits_per_dim(data.score_model(schedule), x, flow, batch_size=len(x), seed=5, **QUIET)
    truth = 0.25 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1] * BITS
    assert_calibrated(covered(bound, truth))


@pytest.mark.slow
def test_errors_of_predictions():
    """The jackknife errors of a chain priced from 12 knots; the truth from the same knots and 125 times the draws.

    100 repetitions: 87 .. 99 cover but for 0.6 % per part (1.96 errors from 32 groups are a 94 % interval).
    """
    means = [[-1.0, 0.5], [0.2, -1.0], [1.0, 0.8]]
    mixture = GaussianMixture([0.3, 0.3, 0.4], means, [0.05, 0.15, 0.08])
    model, knots, statistics = mixture.score_model(SCHEDULE), np.linspace(-10.0, 5.0, 12), mixture.statistics()

    def moments(draws, seed):
        budget = Budget(min_draws=draws, max_draws=draws, batch_size=draws)
        return estimate(model, mixture.sample(draws, seed=seed), knots, budget, seed=seed, **QUIET)

    large = moments(320 * 125, 10_000)
    chain = Chain(
        even_log_snr(SCHEDULE, 8, SCHEDULE.time(4.0)), Isotropic(NoiseCurve.fit(large)), Reconstruction.of(large).decoder(4.0)
    )
    truth, *found = (price(m, SCHEDULE, {"": chain}, statistics)[""] for m in (large, *(moments(320, i) for i in range(100))))
    for part in ("total", "transitions", "reconstruction"):
        count = coverage(getattr(truth, part).value, *zip(*(getattr(p, part) for p in found), strict=True))
        assert 87 <= count <= 99, part
