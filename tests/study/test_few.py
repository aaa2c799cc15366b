"""The fewest calls of a study: K per sample, kept in a folder, never used with another network."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.isotropic import BetaTilde
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids import Grid
from score_sde_analytic.measure import Budget
from score_sde_analytic.models import GaussianMixture, LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process import LinearVP
from score_sde_analytic.samplers import AnalyticMultistep, Table, TableSampler
from score_sde_analytic.study import Knots, Search, Settings, analyse, fewest
from score_sde_analytic.study.few import Few, levels, top
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.race import Judge, Race

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

    exact = Reference(mixture.sample(6000, seed=9).double())
    ours = study.fewest(3, free=free, progress=False)(6000, batch_size=2000)
    chain = study.sample(6000, steps=3, batch_size=2000)
    distances = [EnergyDistance()(x.double(), exact).value for x in (ours, chain)]
    assert distances[0] < 0.05 * distances[1]


#: Of a race in less time.
ROUNDS = ((20, 5), (60, 2), (120, 0))


@pytest.fixture
def few_candidates(monkeypatch):
    """One member of the family, the multistep flow, and the public ones, on each of two grids; besides the table.

    Fewer samples, too: all of the rule, in less time.
    """
    monkeypatch.setattr(fewest, "ROUNDS", ROUNDS)
    monkeypatch.setattr(fewest, "ETAS", (1.0,))
    monkeypatch.setattr(fewest, "KAPPAS", (1.0,))


@pytest.mark.slow
def test_examples_choose(study, mixture, few_candidates):
    """The sentence names the nearest; the calls are as asked; equal seeds choose equally."""
    plans = [study.fewest(3, mixture.sample(300, seed=4), progress=False, count=20) for _ in range(2)]
    assert plans[0].calls == plans[1].calls == 3
    assert plans[0].reason == plans[1].reason
    assert "to the examples of 10 candidates" in plans[0].reason
    (first, stay), (second, final), (last, _) = ROUNDS
    told = int(re.search(r"choosing took (\d+) network", plans[0].reason)[1])
    spent = 10 * first + stay * (second - first) + final * (last - second)
    further = {0, last - second, last - first}  # the table and the best favourite go on in any case
    assert told - 3 * spent in {3 * (one + other) for one in further for other in further}
    assert torch.equal(plans[0](4), plans[1](4))


def test_a_choice_is_kept(study, mixture, few_candidates, tmp_path):
    examples = mixture.sample(300, seed=4)
    first = study.fewest(2, examples, path=tmp_path, progress=False, count=20)
    with study.model.metered() as cost:
        again = study.fewest(2, examples, path=tmp_path, progress=False, count=20)
    assert cost.calls == 0
    assert again.reason == first.reason
    assert torch.equal(again(3), first(3))
    study.fewest(2, examples + 0.1, path=tmp_path, progress=False, count=20)
    assert len(list(tmp_path.glob("choice_2-*"))) == 2  # other examples choose anew


def test_one_call_leaves_nothing_to_choose(study, mixture):
    plan = study.fewest(1, mixture.sample(300, seed=4), progress=False, count=20)
    assert plan.calls == 1
    assert "of 2 candidates" in plan.reason


def test_the_nearest_wins_and_the_favourite_when_none_is_nearer(study, mixture, free):
    """The exact flow in many steps is nearer than in two, whichever is the favourite; against itself the favourite stays."""
    examples = as_dataset(mixture.sample(600, seed=5))

    def plan(steps):
        times = [*np.linspace(0.97, 0.02, steps), 0.0]
        return SamplingPlan(AnalyticMultistep(study.model, BetaTilde(), 0.0), Grid(tuple(times)), (8,), start=free)

    judge = Judge.of(examples, free, None, seed=0)
    rough, fine = plan(2), plan(40)
    rounds = ((40, 0), (120, 0))
    for favourite in ("rough", "fine"):
        race = Race(judge, {"rough": rough, "fine": fine}, "rough", frozenset([favourite]))
        assert race.run(rounds) == ["fine", "rough"]
        assert torch.equal(race.samples["fine"], judge.draw(fine, 0, 120))  # rounds continue, they do not begin anew
    assert Race(judge, {"other": fine, "same": fine}, "other", frozenset(["same"])).run(rounds)[0] == "same"


def test_anchor_and_favourite_take_part_in_every_round(study, free, mixture):
    times = Grid((*np.linspace(0.97, 0.02, 20), 0.0))
    good = SamplingPlan(AnalyticMultistep(study.model, BetaTilde(), 0.0), times, (8,), start=free)
    poor = replace(good, grid=Grid((0.9, 0.0)))
    judge = Judge.of(as_dataset(mixture.sample(300, seed=5)), free, None, seed=0)
    race = Race(judge, {"good": good, "poor": poor, "worse": poor}, "poor", frozenset(["poor"]))
    assert race.run(((20, 1), (60, 0))) == ["good", "poor"]
    assert [len(race.samples[name]) for name in race.plans] == [60, 60, 20]


def test_white_coordinates_do_not_overrule_plain_ones():
    """Right in thirty small directions and wrong in the large one is nearer white and further plain: out."""
    spectrum = np.array([1.0, *[0.01] * 30])
    linear = LinearDenoiser.exact(torch.zeros(31), torch.from_numpy(np.diag(spectrum)))
    generator = torch.Generator().manual_seed(0)
    examples, one, other = (torch.randn(400, 31, generator=generator) * torch.tensor(spectrum).sqrt() for _ in range(3))
    judge = Judge.of(as_dataset(examples.float()), linear, None, seed=0)
    blurred, shifted = one * torch.tensor([1.0, *[0.3] * 30]), other + torch.tensor([0.7, *[0.0] * 30])
    race = Race(judge, {}, "blurred", frozenset())
    race.distances = {"blurred": judge(blurred), "shifted": judge(shifted)}
    assert race.distances["shifted"].nearer(race.distances["blurred"])
    assert not race.allowed("shifted")
    assert race.allowed("blurred")
    assert race.winner(["blurred", "shifted"]) == "blurred"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 10**6}, "steps must be a whole number"),
        ({"steps": 2, "paths": 9}, "do not take these options .* known are path, count"),
        ({"steps": 2, "free": "gaussian"}, r"free must be LinearDenoiser\.of examples of shape \(8,\), got str"),
        ({"steps": 2, "free": LinearDenoiser.exact(torch.zeros(3), torch.eye(3).double())}, r"of shape \(8,\), got \(3,\)"),
        ({"steps": 2, "data": torch.zeros(40, 3)}, r"32 or more examples of shape \(8,\), got 40 of \(3,\)"),
        ({"steps": 2, "data": torch.zeros(1, 8)}, "got 1 of"),
        ({"steps": 2, "data": torch.full((40, 8), torch.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_is_refused_before_the_network_is_asked(study, options, said):
    with study.model.metered() as cost, pytest.raises(InputError, match=said):
        study.fewest(**options, progress=False)
    assert cost.calls == 0


def test_a_network_that_never_beats_a_covariance_is_refused(study, free, monkeypatch):
    monkeypatch.setattr("score_sde_analytic.study.few.top", lambda study, free: float(study.moments.log_snr[-1]))
    with pytest.raises(InputError, match="no call of it is worth making"):
        study.fewest(2, free=free, progress=False)
