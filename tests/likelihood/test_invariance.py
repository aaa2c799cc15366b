"""The continuous bound knows of a schedule only where it begins and ends; a discrete one tends to it as 1 / T."""

import numpy as np
import pytest

from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.grids import Grid
from score_sde_analytic.likelihood import Chain, ContinuousTime, bits_per_dim, price
from score_sde_analytic.measure import Budget, estimate
from score_sde_analytic.process import VE, CosineVP, Density, GaussianDecoder, Learned, LinearVP
from score_sde_analytic.uncertainty import Estimate

LOW, HIGH = -10.0, 7.0
SCHEDULES = {
    "linear": LinearVP(0.1, 2.0 * np.logaddexp(0.0, -LOW) - 0.1),
    "cosine": CosineVP(log_snr_min=LOW),
    "even": Learned(Density.uniform(LOW, HIGH)),
    "tilted": Learned(Density.from_function(lambda lam: np.exp(0.25 * lam), LOW, HIGH)),
    "ve": VE(np.exp(-0.5 * HIGH) / 3.0, np.exp(-0.5 * LOW)),
}
DECODER = GaussianDecoder(0.03)
QUIET = {"progress": False}


def measured(mixture, schedule, times=24):
    """With times as the training of this schedule would draw them, uniform in t."""
    method = ContinuousTime(schedule.time(HIGH), DECODER, times, density=Density.of(schedule, LOW, HIGH))
    return bits_per_dim(mixture.score_model(schedule), mixture.sample(200, seed=2), method, **QUIET)


def test_schedules_with_the_same_ends_have_the_same_bound(planar):
    """On an exact mixture: moments measured under each schedule price it alike, to 1e-3 bits/dim and much better."""
    knots, budget, statistics = np.linspace(LOW, HIGH, 12), Budget(max_draws=300), planar.statistics()
    x, prices = planar.sample(2000, seed=1), {}
    for name, schedule in SCHEDULES.items():
        moments = estimate(planar.score_model(schedule), x, knots, budget, statistics=statistics, **QUIET)
        method = ContinuousTime(schedule.time(HIGH), DECODER)
        prices[name] = price(moments, schedule, {"limit": method}, statistics)["limit"]
    for name, other in prices.items():
        assert abs(other.transitions.value - prices["even"].transitions.value) < 1e-6, name
        assert abs(other.total.value - prices["even"].total.value) < 1e-3, name


def test_every_schedule_measures_it_without_bias(planar):
    """Each by its own times; differences by example within 4 of their standard errors, four of them: 3 in 10,000."""
    bounds = {name: measured(planar, schedule) for name, schedule in SCHEDULES.items()}
    for name, other in bounds.items():
        difference = Estimate.of(other.per_example - bounds["even"].per_example)
        assert abs(difference.value) <= 4.0 * difference.stderr, name
        np.testing.assert_allclose(other.part("reconstruction"), bounds["even"].part("reconstruction"), atol=1e-6)


def test_other_ends_have_another_bound(planar):
    """So that those above could fail."""
    schedule = Learned(Density.uniform(LOW, HIGH - 2.0))
    method = ContinuousTime(schedule.time(HIGH - 2.0), DECODER, 24)
    other = bits_per_dim(planar.score_model(schedule), planar.sample(200, seed=2), method, **QUIET)
    difference = Estimate.of(other.per_example - measured(planar, SCHEDULES["even"]).per_example)
    assert abs(difference.value) > 4.0 * difference.stderr


def transitions(moments, statistics, name, steps):
    """Priced transitions of `steps` steps even in t, with the variance of the forward posterior as in VDM, in bits/dim."""
    schedule = SCHEDULES[name]
    first = schedule.time(HIGH)
    times = first + (1.0 - first) * np.arange(steps, -1, -1) / steps
    chain = Chain(Grid((*times.tolist(), 0.0)), BetaTilde(), DECODER)
    return price(moments, schedule, {"chain": chain}, statistics)["chain"].transitions.value


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_discrete_bound_tends_to_the_continuous_one_as_one_over_its_steps(mixture, moments, name):
    statistics = mixture.statistics()
    prices = [transitions(moments, statistics, name, steps) for steps in (800, 1600, 3200, 6400)]
    limit = 2.0 * prices[-1] - prices[-2]  # Richardson
    slopes = np.diff(np.log([value - limit for value in prices[:-1]])) / np.log(2.0)
    np.testing.assert_allclose(slopes, -1.0, atol=0.06)
    method = ContinuousTime(SCHEDULES[name].time(HIGH), DECODER)
    exact = price(moments, SCHEDULES[name], {"limit": method}, statistics)["limit"].transitions.value
    assert abs(limit - exact) < 2e-3
