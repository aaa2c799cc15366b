"""The fewest calls of a study: K per sample, kept in a folder, never used with another network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from score_sde_analytic.errors import InputError
from score_sde_analytic.measure import Budget
from score_sde_analytic.models import GaussianMixture, LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process import LinearVP
from score_sde_analytic.samplers import Table, TableSampler
from score_sde_analytic.study import Knots, Search, Settings, analyse
from score_sde_analytic.study.few import Few, levels, top

SETTINGS = Settings(knots=Knots(count=16, most=0), search=Search(points=120, most=20))
BUDGET = Budget(min_draws=200, max_draws=200)


@pytest.fixture(scope="module")
def mixture() -> GaussianMixture:
    means = 0.6 * np.random.default_rng(0).normal(size=(4, 8))
    return GaussianMixture(np.ones(4), means, np.geomspace(0.5, 0.01, 8))


@pytest.fixture(scope="module")
def free(mixture):
    return LinearDenoiser.exact(*mixture.moments())


@pytest.fixture(scope="module")
def study(mixture):
    return analyse(mixture.score_model(LinearVP()), mixture.sample(600), settings=SETTINGS, budget=BUDGET, progress=False)


def test_k_calls_per_sample_and_none_for_what_is_kept(study, free, tmp_path):
    with study.model.metered() as cost:
        plan = study.fewest(3, free=free, path=tmp_path, progress=False)
    assert cost.evaluations == 100 * 32 + 100 * 3
    with study.model.metered() as cost:
        x = plan(5)
    assert (plan.calls, cost.evaluations, x.shape) == (3, 15, (5, 8))
    with study.model.metered() as cost:
        again = study.fewest(3, free=free, path=tmp_path, progress=False)
    assert cost.calls == 0
    assert torch.equal(again(5), x)
    with study.model.metered() as cost:  # paths serve every number of calls
        study.fewest(2, free=free, path=tmp_path, progress=False)
    assert cost.evaluations == 100 * 2
    assert len(list(tmp_path.glob("paths-*"))) == 1
    assert len(list(tmp_path.glob("fewest_*"))) == 2


def test_a_kept_table_refuses_another_network(study, free, mixture, tmp_path):
    study.fewest(1, free=free, path=tmp_path, progress=False)
    table = Table.load(next(tmp_path.glob("fewest_1-*")))
    other = GaussianMixture(np.ones(1), np.zeros((1, 8)), 1.0).score_model(LinearVP())
    with pytest.raises(InputError, match="made for something else"):
        TableSampler(other, table)
    assert "network calls per sample 1; network evaluations spent on paths 3200, on the fit 100" in str(table)


@pytest.mark.slow
def test_paths_begin_below_the_levels_at_which_a_network_is_worse_than_linear(study, free, mixture):
    """The exact score is nowhere worse; one that is wrong below log-SNR -2 is, and its paths begin above."""
    lowest = -np.log(free.spectrum.max()) - 4.0
    assert top(study, free) == pytest.approx(lowest)

    class Wrong(torch.nn.Module):
        def forward(self, x, log_snr):
            right = mixture.score_model(LinearVP()).net(x, log_snr)
            return torch.where(log_snr[:, None] < -2.0, 0.8 * right, right)

    model = ScoreModel(Wrong(), LinearVP(), "eps", LogSNR(), coordinates="vp", fingerprint="wrong")
    wrong = analyse(model, mixture.sample(600), settings=SETTINGS, budget=BUDGET, progress=False)
    known = wrong.moments.log_snr
    assert top(wrong, free) == known[known < -2.0].max()
    at = levels(wrong, Few(free))
    assert len(at) == 32
    assert at[0] == top(wrong, free)


@pytest.mark.slow
def test_few_calls_beat_the_ancestral_chain(study, free, mixture):
    """Energy distance at three calls, from the same noise."""
    from score_sde_analytic.metrics import EnergyDistance, Reference

    exact = Reference(mixture.sample(2000, seed=9).double())
    ours = study.fewest(3, free=free, progress=False)(2000, batch_size=2000)
    chain = study.sample(2000, steps=3, batch_size=2000)
    distances = [EnergyDistance()(x.double(), exact).value for x in (ours, chain)]
    assert distances[0] < 0.05 * distances[1]


def test_examples_choose_between_tables_and_the_family(study, mixture):
    """The sentence names the nearest; the calls are as asked; equal seeds choose equally."""
    plans = [study.fewest(3, mixture.sample(300, seed=4), progress=False, count=20) for _ in range(2)]
    assert plans[0].calls == plans[1].calls == 3
    assert plans[0].reason == plans[1].reason
    assert "nearest to the examples of 9 candidates" in plans[0].reason
    assert "choosing took 10800 network evaluations" in plans[0].reason
    assert torch.equal(plans[0](4), plans[1](4))


def test_one_call_leaves_no_step_to_share(study, mixture):
    plan = study.fewest(1, mixture.sample(300, seed=4), progress=False, count=20)
    assert plan.calls == 1
    assert "of 2 candidates" in plan.reason
