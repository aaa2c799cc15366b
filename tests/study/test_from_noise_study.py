"""Studies of networks that begin in pure noise, alpha = 0 at t = 1: as those of any other schedule, to the digit."""

import math

import numpy as np
import pytest

from schedules import TO_NOISE
from score_sde_analytic.measure import Budget
from score_sde_analytic.models import GaussianMixture
from score_sde_analytic.process import RectifiedFlow
from score_sde_analytic.study import Knots, Search, Settings, Structure, Study, analyse

SETTINGS = Settings(knots=Knots(count=12, most=12), search=Search(points=60, most=6), structure=Structure(bins=(1,)))
BUDGET = Budget(min_draws=100, max_draws=100)
MIXTURE = GaussianMixture([0.5, 0.3, 0.2], [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], [0.05, 0.2, 0.1])


def made(schedule, record=()):
    data = MIXTURE.sample(400, seed=1)
    return analyse(MIXTURE.score_model(schedule), data, record=record, settings=SETTINGS, budget=BUDGET, seed=3, progress=False)


@pytest.fixture(scope="module")
def study():
    return made(RectifiedFlow(), ("pca",))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine_end", "shifted", "table_noise"])
def test_prices_depend_on_log_snr_alone(study, name):
    other = made(TO_NOISE[name])
    for steps in (2, 5):
        ours, theirs = (one.bits(steps, covariance="residual")[steps] for one in (study, other))
        assert ours.total.value == pytest.approx(theirs.total.value, abs=2e-3)


@pytest.mark.parametrize("covariance", ["residual", "pca"])
def test_measured_bounds_are_those_predicted(study, covariance):
    predicted = study.bits(5, covariance=covariance)[5].total
    measured = study.measure(MIXTURE.sample(300, seed=2), 5, covariance=covariance, progress=False)[5].total
    assert abs(predicted.value - measured.value) < 4 * math.hypot(predicted.stderr, measured.stderr)
    assert math.isfinite(predicted.stderr)


@pytest.mark.parametrize("grid", ["dp", "closed_form", "refined", "entropic", "even", "log_snr", "karras", "karras_tuned"])
def test_every_grid_begins_in_pure_noise(study, grid):
    times = study.grid(5, grid).times
    assert times[0] == 1.0
    assert study.schedule.level(times[0]).pure_noise
    assert np.all(np.diff(times) < 0)


def test_optimal_grids_may_begin_below(study):
    grid = study.grid(4, prior="gaussian")
    assert grid.times[0] < 1.0
    assert study.bits(4, prior="gaussian")[4].total.value < study.bits(4)[4].total.value


def test_samples_and_what_is_kept(study, tmp_path):
    assert study.sample(count=5, steps=4).shape == (5, 2)
    study.save(tmp_path)
    again = Study.load(tmp_path, study.model)
    assert again.grid(5).times == study.grid(5).times
    assert again.bits(5)[5].total == study.bits(5)[5].total
