"""Studies that are guided: variances by name, and samples from examples at a level."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from benchmarks.guidance_worlds import CLASSES, NULL, VP, labelled
from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance import estimate_guided
from score_sde_analytic.measure.estimation import Budget
from score_sde_analytic.process.kernel import reverse_kernel
from score_sde_analytic.study import Knots, Search, Settings, analyse

KNOTS = np.linspace(-10.0, 9.0, 12)
FIXED = Budget(tolerance=0.0, min_draws=400, max_draws=400, batch_size=200)


@pytest.fixture(scope="module")
def study():
    settings = Settings(knots=Knots(count=12, most=0), search=Search(points=100, most=5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return analyse(CLASSES, labelled(400), settings=settings, budget=FIXED, progress=False)


def test_the_variances_of_a_guided_chain_have_names(study):
    """The default is the conditional curve's at every scale; the others are ordered as their laws say."""
    measured = estimate_guided(CLASSES, labelled(400), NULL, KNOTS, FIXED, progress=False)
    guided = study.guided(3.0, NULL, measured=measured)
    s, t = VP.level_at(0.5), VP.level_at(-0.5)
    kernel = reverse_kernel(s, t)
    names = ("guided_score", "guided_tweedie", "isotropic", "guided_residual")
    variances = [float(guided.covariance(name).variance(kernel, t)) for name in names]
    assert variances == sorted(variances)
    assert variances[2] == float(study.covariance("isotropic").variance(kernel, t))
    assert len({guided.sample(2, 4, covariance=name).sum().item() for name in names}) == 4
    assert torch.equal(guided.sample(2, 4), guided.sample(2, 4, covariance="isotropic"))


@pytest.mark.parametrize("grid", ["dp", "klub", "log_snr", "even"])
def test_samples_from_examples(study, grid):
    """K calls from the level on; equal seeds whatever the batch; nearer to their examples the less noise there is."""
    x_0 = labelled(6, seed=4).batch(range(6)).x_0
    apart = []
    for log_snr in (-6.0, 0.0, 5.0):
        plan = study.sampler(5, grid, start=(x_0, log_snr))
        assert plan.grid.steps == plan.calls == 5
        assert float(VP.log_snr(plan.grid.times[0])) == pytest.approx(log_snr, abs=1e-9)
        x = plan(6)
        torch.testing.assert_close(plan(6, batch_size=4), x)
        torch.testing.assert_close(study.sample(6, 5, grid=grid, start=(x_0, log_snr)), x)
        apart.append(float((x - x_0).square().mean()))
    assert apart == sorted(apart, reverse=True)


def test_an_optimal_grid_from_a_level_is_not_beaten(study):
    """Priced by the study's curve, dp costs no more than grids even in log-SNR or in t of as many steps."""
    from score_sde_analytic.grids.lattice import transition_costs

    x_0, costs = labelled(1).batch([0]).x_0, {}
    for name in ("dp", "log_snr", "even"):
        grid = study.sampler(6, name, start=(x_0, -2.0)).grid
        last = np.interp(-VP.log_snr(grid.times[-2]), -study.search.lattice.log_snr, study.search.first_cost)
        costs[name] = float(transition_costs(VP, study.curve, study.covariance(), grid).sum() + last)
    assert costs["dp"] < min(costs["log_snr"], costs["even"])


def test_grids_that_begin_at_one_alone_are_refused(study):
    with pytest.raises(InputError, match=r"begins at t = 1; for samples from examples choose one of dp, klub, even"):
        study.sample(1, 5, grid="refined", start=(torch.zeros(1, 8), -1.0))
