"""Grids by name: what each promises, for one measured network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from score_sde_analytic.grids import Grid
from score_sde_analytic.measure import Budget
from score_sde_analytic.study import Knots, Search, Settings, Study, analyse
from score_sde_analytic.study.names import FROM_CURVE, GRIDS


@pytest.fixture(scope="module")
def study(mixture, table) -> Study:
    settings = Settings(knots=Knots(count=16), search=Search(points=80, most=12))
    model = mixture.score_model(table)
    budget = Budget(min_draws=200, max_draws=200)
    data = mixture.sample(300)
    return analyse(model, data, statistics=mixture.statistics(), record=(), settings=settings, budget=budget, progress=False)


def restricted(study: Study, **changed) -> Study:
    search = dataclasses.replace(study.settings.search, **changed)
    return dataclasses.replace(study, settings=dataclasses.replace(study.settings, search=search))


@pytest.mark.parametrize("name", ["dp", "klub", *FROM_CURVE, *GRIDS, *(f"{name}_tuned" for name in GRIDS)])
def test_every_name_has_its_steps(study, name):
    grid = study.grid(6, name)
    assert grid.steps == 6
    assert grid.times[0] == 1.0
    assert np.isfinite(study.price({"chain": study.chain(6, name)})["chain"].total.value)


def test_the_optimal_grid_is_the_cheapest_on_its_levels(study):
    """Priced by its own moments, to 0.01 bits: each price holds the noise of its own choice."""
    bits = {
        name: study.bits(6, grid=name)[6].total.value for name in ("dp", "refined", "even_tuned", "karras_tuned", "entropic")
    }
    costs = {name: study.grid(6, name).cost for name in bits}
    assert costs["dp"] < min(costs["even_tuned"], costs["karras_tuned"])  # exactly, as the search prices them
    assert costs["refined"] < min(costs.values()) + 1e-3  # tables of the last step against splines
    assert bits["refined"] < min(bits.values()) + 0.01
    assert bits["dp"] < min(bits["even_tuned"], bits["karras_tuned"], bits["entropic"]) + 0.01


def test_table_times_and_spacing(study):
    """A lattice of table times, for networks that take nothing else."""
    coarse = restricted(study, table=50, min_spacing=0.5)
    for covariance in ("residual", "beta"):
        times = np.array(coarse.grid(6, "dp", covariance).times)
        np.testing.assert_allclose(times * 50, np.round(times * 50), atol=1e-9)
        assert np.diff(coarse.schedule.log_snr(times[:-1])).min() >= 0.5
    for steps in (40, 51):  # too many for the spacing, and for the table
        with pytest.raises(ValueError, match=f"no grid of {steps} steps fits the lattice"):
            coarse.grid(steps)


def test_a_saved_grid_is_read_back(study, tmp_path):
    path = tmp_path / "mine.json"
    study.grid(4).save(path)
    assert study.grid(4, str(path)) == Grid.load(path)
    with pytest.raises(ValueError, match="has 4 steps, not 5"):
        study.grid(5, str(path))


def test_a_covariance_without_a_price_has_no_optimal_grid(study):
    assert study.grid(4, "even", "tweedie").steps == 4
    for name in ("dp", "even_tuned"):
        with pytest.raises(ValueError, match="no curve prices the covariance 'tweedie'"):
            study.grid(4, name, "tweedie")


def test_the_law_of_an_excess_without_a_search(study):
    assert study.steps_for(1e-5) > study.settings.search.most
    with pytest.raises(ValueError, match="above 0"):
        study.steps_for(0.0)
