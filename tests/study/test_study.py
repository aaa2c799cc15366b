"""The front door: equal to the long form to the bit, without further network calls, saved and read back whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance import Diagonal, Isotropic
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.grids import Lattice
from score_sde_analytic.likelihood import Chain, bits_per_dim, price
from score_sde_analytic.measure import Budget, NoiseCurve, Reconstruction, estimate
from score_sde_analytic.models import GaussianMixture
from score_sde_analytic.process import LinearVP
from score_sde_analytic.samplers import Ancestral, generate
from score_sde_analytic.study import CovarianceName, Knots, Search, Settings, Structure, Study, analyse
from score_sde_analytic.study.analysis import knots

SETTINGS = Settings(knots=Knots(count=16), search=Search(points=120, most=20), structure=Structure(bins=(1, 4)))
BUDGET = Budget(min_draws=200, max_draws=200)


@pytest.fixture(scope="module")
def wide() -> GaussianMixture:
    """Components with one diagonal covariance of wide spectrum: pixels beat one variance for all."""
    means = 0.6 * np.random.default_rng(0).normal(size=(4, 8))
    return GaussianMixture(np.ones(4), means, np.geomspace(0.5, 0.002, 8))


@pytest.fixture(scope="module")
def model(wide):
    return wide.score_model(LinearVP())


@pytest.fixture(scope="module")
def data(wide):
    return wide.sample(400, seed=1)


@pytest.fixture(scope="module")
def study(model, data) -> Study:
    return analyse(model, data, settings=SETTINGS, budget=BUDGET, progress=False)


def test_it_equals_the_long_form_to_the_bit(model, data, wide, study):
    statistics = DataStatistics.of(data)
    levels = knots(model.schedule, SETTINGS.knots)
    budget = dataclasses.replace(BUDGET, most_knots=SETTINGS.knots.most)
    moments = estimate(model, data, levels, budget, statistics=statistics, progress=False)
    np.testing.assert_array_equal(study.moments.residual, moments.residual)
    np.testing.assert_array_equal(study.curve.y, NoiseCurve.fit(moments).y)

    def chosen(moments, fold=None):
        curve, last = NoiseCurve.fit(moments), Reconstruction.of(moments)
        lattice = Lattice.even_log_snr(model.schedule, points=120, log_snr_max=9.0)
        grid = lattice.optimal_grids(curve, Isotropic(curve), last.best(lattice.levels.log_snr)[0], max_steps=20)[10]
        return Chain(grid, Isotropic(curve), last.decoder(model.schedule.log_snr(grid.times[-2])), chosen)

    chain = chosen(moments)
    assert study.grid(10).times == chain.grid.times
    samples = generate(Ancestral(model, chain.covariance), chain.grid, (8,), count=7, seed=3, dtype=data.dtype)
    assert torch.equal(study.sample(7, steps=10, seed=3), samples)
    priced = price(moments, model.schedule, {"K": chain}, statistics)["K"]
    assert study.bits(10)[10].total == priced.total
    test = wide.sample(50, seed=9)
    measured = bits_per_dim(model, test, chain, seed=1, progress=False)
    np.testing.assert_array_equal(study.measure(test, 10, progress=False)[10].per_example, measured.per_example)


@pytest.mark.slow
def test_nothing_but_samples_and_measured_bounds_calls_the_network(model, study, wide):
    with model.metered() as cost:
        study.bits(3, 5, covariance="auto")
        study.steps_for(0.1)
        study.grid(7, "refined")
    assert cost.calls == 0
    with model.metered() as cost:
        plan = study.sampler(5, covariance="pca", eta=0.5)
        plan(6)
    assert cost.calls == plan.calls == 5
    with model.metered() as cost:
        study.measure(wide.sample(20), 4, progress=False)
    assert cost.evaluations == 20 * 4


def test_predicted_bits_agree_with_measured_ones(study, wide):
    """Of other data, for the isotropic and for the best recorded covariance; 5 standard errors: 6e-7 for each of four."""
    test = wide.sample(500, seed=5)
    for name in ("", "auto"):
        predicted = study.bits(4, 8, covariance=name)
        measured = study.measure(test, 4, 8, covariance=name, progress=False)
        for k in (4, 8):
            assert abs(measured[k].total.apart(predicted[k].total)) < 5


def test_fewest_steps_within_an_excess(study):
    limit = study.price({"limit": study.continuous()})["limit"].total.value
    steps = study.steps_for(0.3)
    bits = study.bits(steps - 1, steps)
    assert bits[steps].total.value - limit <= 0.3 + 0.01 < bits[steps - 1].total.value - limit + 0.02
    assert study.steps_for(1e-4) > SETTINGS.search.most  # by the law, beyond the search


def test_auto_is_the_best_by_held_out_bits(study):
    """One beats the isotropic covariance by more than 5 standard errors, and pixels do, whose variances differ 250-fold."""
    saved = study.structures.saved
    best = study.resolve("auto")
    assert best == next(iter(saved))
    assert best.structured
    for name in (best, CovarianceName("pixel")):
        assert saved[name].value > 5 * saved[name].stderr
    assert isinstance(study.covariance("auto"), Diagonal)
    assert study.covariance("auto") is study.covariance(best)


@pytest.mark.slow
def test_a_saved_study_is_the_same(study, model, tmp_path):
    study.grid(6, covariance="pca")
    assert study.resolve("auto")
    written = study.save(tmp_path)
    assert all(path.is_file() for path in written)
    loaded = Study.load(tmp_path, model)
    assert loaded.settings == study.settings
    assert loaded.resolve("auto") == study.resolve("auto")
    with model.metered() as cost:
        for covariance in ("isotropic", "pca", "auto"):
            assert loaded.grid(6, covariance=covariance) == study.grid(6, covariance=covariance)
            assert loaded.bits(6, covariance=covariance)[6].total == study.bits(6, covariance=covariance)[6].total
    assert cost.calls == 0
    assert torch.equal(loaded.sample(3, 6, covariance="pca"), study.sample(3, 6, covariance="pca"))


def test_a_study_of_another_model_is_refused(study, wide, tmp_path):
    study.save(tmp_path)
    other = GaussianMixture([1.0], np.zeros((1, 8)), 1.0).score_model(LinearVP())
    with pytest.raises(ValueError, match=r"model\.network"):
        Study.load(tmp_path, other)
    (tmp_path / "study.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="truncated"):
        Study.load(tmp_path, wide.score_model(LinearVP()))
    with pytest.raises(FileNotFoundError):
        Study.load(tmp_path / "nowhere", other)


def test_an_interrupted_analysis_goes_on_to_the_same_result(wide, data, study, tmp_path):
    calls = 0

    def net(x, log_snr):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return wide(x, log_snr)

    interrupting = wide.score_model(LinearVP())
    interrupting.net = net
    interrupting._fingerprint = study.model.fingerprint()["network"]
    options = {"settings": SETTINGS, "budget": BUDGET, "path": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        analyse(interrupting, data, **options)
    resumed = analyse(interrupting, data, **options)
    np.testing.assert_array_equal(resumed.moments.sums, study.moments.sums)
    assert resumed.bits(5, covariance="pca")[5].total == study.bits(5, covariance="pca")[5].total


def test_what_was_not_recorded_says_so(model, data):
    plain = analyse(model, data, record=(), settings=SETTINGS, budget=BUDGET, progress=False)
    assert plain.recorders == {}
    with pytest.raises(ValueError, match="'dct' was not recorded"):
        plain.covariance("dct")
    with pytest.raises(ValueError, match="no basis was recorded"):
        plain.covariance("auto")
    named = analyse(model, data, record=("pixel|energy",), settings=SETTINGS, budget=BUDGET, progress=False)
    assert list(named.recorders) == ["pixel"]
    with pytest.raises(ValueError, match="statistic 'mean' was not recorded for 'pixel'"):
        named.covariance("pixel|mean")
    with pytest.raises(FileNotFoundError, match="with_heads"):
        named.covariance("npr")


def test_bits_print_themselves(study):
    assert str(study.bits(3)) == f"K = 3: {study.bits(3)[3].total:.3f} bits/dim"
