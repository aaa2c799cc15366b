"""A study whose chains, bits and samples have a free model of the data as their prior."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from score_sde_analytic.data import Examples
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure import Budget
from score_sde_analytic.models import GaussianMixture, Judged, LinearDenoiser
from score_sde_analytic.process import LinearVP, Tabulated
from score_sde_analytic.samplers import Ancestral, generate
from score_sde_analytic.study import Knots, Search, Settings, Structure, Study, analyse
from score_sde_analytic.study.free import fitted

SETTINGS = Settings(knots=Knots(count=14), search=Search(points=80, most=12), structure=Structure(bins=(1,)))
STEPS = (1, 2, 5, 12)


@pytest.fixture(scope="module")
def wide() -> GaussianMixture:
    means = 0.6 * np.random.default_rng(0).normal(size=(4, 8))
    return GaussianMixture(np.ones(4), means, np.geomspace(0.5, 0.002, 8))


@pytest.fixture(scope="module")
def study(wide: GaussianMixture) -> Study:
    budget = Budget(min_draws=200, max_draws=200)
    model = wide.score_model(LinearVP())
    return analyse(model, wide.sample(400, seed=1), record=["pca"], settings=SETTINGS, budget=budget, progress=False)


@pytest.fixture(scope="module")
def prior(wide: GaussianMixture, study: Study) -> Judged:
    return Judged.on(wide.sample(400, seed=1), LinearDenoiser.of(wide.sample(1000, seed=2)), study.schedule)


@pytest.mark.parametrize("covariance", ["isotropic", "pca"])
def test_grids_are_never_worse_than_from_the_usual_prior(study: Study, prior: Judged, covariance: str) -> None:
    """The top may stay at t = 1, where this prior costs what it does there."""
    ending = prior.prior_price(study.search.lattice.levels.log_snr[-1:])[0][0]
    usual, free = ([study.grid(k, covariance=covariance, prior=p).cost for k in STEPS] for p in (None, prior))
    gains = np.array(usual) + ending - np.array(free)
    assert np.all(gains >= -1e-12)
    assert gains[0] > gains[1] > gains[2] > gains[3]
    assert gains[0] > 0.2


def test_priors_of_schedules_that_go_far_down(wide: GaussianMixture) -> None:
    """To log-SNR -22.6 as the cosine table of 4000 steps, where nothing is left to judge."""
    x = wide.sample(200, seed=1)
    schedule = Tabulated.cosine(4000)
    assert schedule.log_snr_range[0] < -20.0
    model, budget = wide.score_model(schedule), Budget(min_draws=64, max_draws=64)
    study = analyse(model, x, settings=SETTINGS, budget=budget, progress=False)
    prior = Judged.on(x, LinearDenoiser.of(wide.sample(400, seed=2)), schedule)
    usual, free = (study.bits(2, prior=p)[2].total.value for p in (None, prior))
    assert free <= usual + 0.01
    assert prior.prior_price([schedule.log_snr_range[0]])[0][0] < 1e-6
    with pytest.raises(InputError, match="judge it under the schedule"):
        prior.prior_price([25.0])


def test_a_price_has_the_prior_s_own_error(study: Study, prior: Judged) -> None:
    fixed = replace(study.chain(2, prior=prior), choice=None)  # what folds would choose may begin elsewhere
    priced = study.price({"fixed": fixed})["fixed"]
    value, stderr = prior.prior_price([study.schedule.log_snr(study.grid(2, prior=prior).times[0])])
    assert priced.parts["prior"].value == pytest.approx(value[0] / math.log(2.0))
    assert priced.parts["prior"].stderr == pytest.approx(stderr[0] / math.log(2.0))
    rest = sum(priced.parts[part].value for part in ("transitions", "reconstruction"))
    assert priced.total.value == pytest.approx(priced.parts["prior"].value + rest)
    assert priced.total.stderr > priced.parts["prior"].stderr


def test_one_step_is_one_call_at_the_best_level(study: Study, prior: Judged) -> None:
    chain = study.chain(1, prior=prior)
    assert chain.calls == 1
    log_snr = study.search.lattice.levels.log_snr
    total = prior.prior_price(log_snr)[0] + study.search.first_cost
    assert chain.grid.times[0] == study.search.lattice.times[total.argmin()]
    assert 0.0 < chain.grid.times[0] < 1.0


def test_measured_bits_are_the_priced_ones(study: Study, prior: Judged, wide: GaussianMixture) -> None:
    priced = study.bits(1, 3, prior=prior)
    measured = study.measure(wide.sample(400, seed=7), 1, 3, prior=prior, progress=False)
    for k in (1, 3):
        error = math.hypot(priced[k].total.stderr, measured[k].total.stderr)
        assert measured[k].total.value == pytest.approx(priced[k].total.value, abs=4.0 * error)


@pytest.mark.parametrize("grid", ["closed_form", "refined", "entropic", "log_snr", "even_tuned"])
def test_every_grid_takes_a_prior(study: Study, prior: Judged, grid: str) -> None:
    """Grids of the curve choose their top; fixed ones begin at t = 1, as the limit of an exact score does."""
    chosen = study.grid(3, grid, prior=prior)
    best = study.grid(3, "refined", prior=prior)
    objective = replace(study.search, prior=prior).objective
    levels = np.asarray(study.schedule.log_snr(np.array(chosen.times[:-1])))
    assert objective.cost(levels) >= best.cost - 1e-6
    assert best.cost <= study.grid(3, "dp", prior=prior).cost + 1e-3
    assert (chosen.times[0] < 1.0) == (grid in ("closed_form", "refined"))


def test_the_limit_begins_where_it_is_best(study: Study, prior: Judged) -> None:
    usual, free = study.continuous(), study.continuous(prior=prior)
    assert usual.t_max == 1.0
    assert free.t_max <= 1.0
    priced = study.price({"usual": usual, "free": free, "chain": study.chain(12, prior=prior)})
    assert priced["free"].total.value <= priced["usual"].total.value + 2e-3
    assert priced["free"].total.value < priced["chain"].total.value


def test_samples_start_from_the_prior(study: Study, prior: Judged) -> None:
    plan = study.sampler(3, prior=prior)
    sampler = Ancestral(study.model, study.covariance())
    grid = study.grid(3, prior=prior)
    assert plan.calls == 3
    expected = generate(sampler, grid, (8,), 4, seed=5, dtype=study.dtype, start=prior)
    assert torch.equal(plan(4, seed=5), expected)
    assert torch.equal(study.sample(4, 3, seed=5, prior=prior), expected)


def test_a_prior_leaves_what_is_kept_alone(study: Study, prior: Judged) -> None:
    """Grids of the usual prior, which are saved, are not those of another."""
    usual = study.grid(5)
    study.grid(5, prior=prior)
    assert study.grid(5) == usual
    assert usual.times[0] == 1.0
    assert all(grid.times[0] == 1.0 for grids in study.kept_now().grids.values() for grid in grids.values())


# --- the study's own -------------------------------------------------------------------------------------------------------


def test_its_own_prior_is_known_by_its_name(study: Study) -> None:
    """Fitted to the data of the pass and judged on folds; below the price of data with that spectrum by nothing."""
    assert study.chain(2, prior="gaussian") == study.chain(2, prior=study.free)
    assert study.sampler(2, prior="gaussian").start is study.free
    own = study.free.free.prior_price([0.0])[0][0]
    value, stderr = study.free.prior_price([0.0])
    assert value[0] == pytest.approx(own, abs=4.0 * stderr[0] + 0.02)
    with pytest.raises(InputError, match="gaussian"):
        study.chain(2, prior="gausian")
    with pytest.raises(InputError, match="no free model"):
        replace(study, free=None).chain(2, prior="gaussian")


def test_it_is_saved_with_the_study(study: Study, tmp_path: Path) -> None:
    study.save(tmp_path)
    loaded = Study.load(tmp_path, study.model)
    assert loaded.free.config() == study.free.config()
    assert loaded.bits(2, prior="gaussian")[2].total == study.bits(2, prior="gaussian")[2].total


def test_training_data_are_what_it_is_fitted_to(wide: GaussianMixture) -> None:
    schedule, train, data = LinearVP(), wide.sample(300, seed=3), wide.sample(50, seed=4)
    judged = fitted(Examples(data), train, schedule)
    linear = LinearDenoiser.of(train)
    assert judged.config() == linear.config()
    np.testing.assert_array_equal(judged.nats, Judged.on(data, linear, schedule).nats)
    assert fitted(Examples(data[:5]), train, schedule) is None
