"""What a study says before it is trusted: nothing where all is well, the cause and the way out where it is not."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from score_sde_analytic.measure import Budget
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.study import Knots, Search, Settings, analyse
from score_sde_analytic.study.settings import Structure

GAUSSIAN = GaussianMixture([1.0], [[0.0] * 6], 0.3)
MIXTURE = GaussianMixture(np.ones(4), 0.8 * np.random.default_rng(1).normal(size=(4, 6)), np.geomspace(0.2, 0.001, 6))


def analysed(distribution, record=(), draws=300, statistics=None, **settings):
    model, budget = distribution.score_model(LinearVP()), Budget(min_draws=draws, max_draws=draws)
    return analyse(
        model,
        distribution.sample(300),
        record=record,
        statistics=statistics,
        settings=Settings(**settings),
        budget=budget,
        progress=False,
    )


def test_nothing_is_said_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = analysed(GAUSSIAN, statistics=GAUSSIAN.statistics(), knots=Knots(high=9.0, count=30))
        study.bits(3, 5)
    assert study.remarks == ()


def test_a_first_time_on_the_edge_is_said_so():
    """Four components of small variance: at log-SNR 2 the data are not decoded yet, and each unit saves a lot."""
    with pytest.warns(UserWarning, match=r"lies on the edge of the search, log-SNR 2.0; .* saves 0\.\d+ bits/dim, so search"):
        study = analysed(MIXTURE, search=Search(log_snr_max=2.0))
    assert len(study.remarks) >= 1


def test_doubt_between_knots_is_said_so():
    with pytest.warns(UserWarning, match=r"between its 4 knots the curve is less certain .* known there to .* %"):
        few = analysed(MIXTURE, draws=1000, knots=Knots(high=9.0, count=4, most=4))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "R from")
        more = analysed(MIXTURE, draws=1000, knots=Knots(high=9.0, count=4, most=100))
    assert len(more.moments.log_snr) > 10
    assert not any("between its" in remark for remark in more.remarks)
    errors = [study.bits(8)[8].total.stderr for study in (few, more)]
    assert errors[0] > 2 * errors[1]


def drifting(distribution: GaussianMixture) -> ScoreModel:
    """The exact score with a bias of the noise estimate where there is little signal, as networks have it."""
    exact = distribution.score_model(LinearVP())

    def biased(x, log_snr):
        return distribution(x, log_snr) + 0.1 * torch.sigmoid(-4.0 * (log_snr + 5.0))[:, None].to(x)

    return ScoreModel(biased, exact.schedule, "eps", exact.times, exact.coordinates, fingerprint="drifting")


@pytest.mark.filterwarnings("ignore:R from")
def test_less_knowledge_than_a_covariance_is_said_so():
    """R is 0.01 where a covariance knows all but 1e-3: the remark names the level and the cost."""
    budget, settings = Budget(min_draws=300, max_draws=300), Settings(knots=Knots(high=9.0, count=20, most=0))
    study = analyse(drifting(MIXTURE), MIXTURE.sample(300), record=(), settings=settings, budget=budget, progress=False)
    (remark,) = (remark for remark in study.remarks if "covariance" in remark)
    assert -5.5 < float(remark.split("log-SNR ")[1].split()[0]) < -4.0
    bits = float(remark.split("costs ")[1].split()[0])
    assert bits == pytest.approx(0.5 * 0.01 * 5.0 / np.log(2.0), rel=0.2)


@pytest.mark.filterwarnings("ignore:R from")
def test_the_most_bins_are_said_so():
    spread = GaussianMixture([0.5, 0.5], [[0.0] * 6] * 2, np.array([0.001, 1.0])[:, None] * np.ones(6))
    settings = {"structure": Structure(bins=(1, 2), shrinkage=(0.0,), smooth=(False,)), "knots": Knots(count=12, most=12)}
    study = analysed(spread, record=("scalar|energy",), draws=600, **settings)
    assert not any("bins" in remark for remark in study.remarks)  # nothing was chosen yet
    study.covariance("scalar|energy")
    assert "scalar|energy: the most bins that were tried, 2, are the best; try more (`Structure.bins`)" in study.remarks


def test_parts_of_a_study_say_nothing():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "R from")
        study = analysed(MIXTURE, knots=Knots(count=16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.bits(3, 5)
        study.price({"limit": study.continuous()})
        study.steps_for(0.5)
    assert dataclasses.replace(study).remarks == study.remarks
