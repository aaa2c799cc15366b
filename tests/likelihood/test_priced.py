"""Prices hold what was assumed to get them: no winner's curse, no curve that was not measured, errors that count the doubt."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance import Beta, BetaTilde, Covariance, Isotropic
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.grids import Lattice, Objective, even_log_snr
from score_sde_analytic.likelihood import BITS, Chain, ContinuousTime, bits_per_dim, price
from score_sde_analytic.likelihood.priced import expected_nats
from score_sde_analytic.measure import Budget, Moments, NoiseCurve, Reconstruction, estimate
from score_sde_analytic.models import LogSNR
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import GaussianDecoder
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.study import Knots, Settings, analyse
from score_sde_analytic.uncertainty import Estimate

SCHEDULE = LinearVP()
KNOTS = np.linspace(-10.0, 9.5, 50)


def synthetic(seed, variance=1.0, error=0.3, knots=KNOTS):
    """Moments of 32 groups of draws for Gaussian data whose R is known to `error` per group, independently at every knot."""
    rng = np.random.default_rng(seed)
    residual = 1.0 / (1.0 + np.exp(-knots) / variance)
    per_group = residual * (1.0 + error * (1.0 - residual) * rng.normal(size=(32, len(knots))))
    counts, sums = np.full((32, len(knots)), 100.0), np.zeros((32, len(knots), 6))
    sums[..., 2] = 100.0 * per_group
    sums[..., 0] = 100.0 - sums[..., 2]
    return Moments(
        log_snr=knots,
        counts=counts,
        sums=sums,
        products=np.zeros((len(knots), 6, 6)),
        decoder_sums=np.zeros((32, len(knots), 13)),
        squares=np.zeros((32, len(knots))),
        fingerprint={"decoder": None, "data_variance": variance, "settings": {"tolerance": 0.01}},
        state={"active": [], "order": list(range(len(knots)))},
        coefficients=np.zeros((len(knots), 3, 3)),
    )


STATISTICS = DataStatistics(0, torch.zeros(4, dtype=torch.float64), 1.0, None, "")
LATTICE = Lattice.even_log_snr(SCHEDULE, 200, 9.0)


def chosen(moments, fold=None):
    """The best chain of ten steps by some moments."""
    curve, last = NoiseCurve.fit(moments, warn=False), Reconstruction.of(moments)
    first = np.where(LATTICE.times == LATTICE.times[0], 0.0, np.inf)
    grid = LATTICE.optimal_grids(curve, Isotropic(curve), first, 10)[10]
    return Chain(grid, Isotropic(curve), last.decoder(9.0), chosen)


@pytest.mark.slow
def test_what_was_chosen_by_noise_is_not_advertised():
    """Gaussian data: any grid costs the same, so the chosen one seems cheap by what its noise made it seem.

    60 sets of moments; the mean of cross-fitted prices is within 4 of its standard errors of the truth (false alarm 6e-5).
    """
    exact = NoiseCurve(np.zeros(1), np.zeros(1))
    naive, cross_fitted = [], []
    for seed in range(60):
        moments = synthetic(seed)
        chain = chosen(moments)
        last = 0.5 * (math.log(2 * math.pi * chain.decoder.std**2) + exact.posterior_variance(9.0) / chain.decoder.std**2)
        truth = chain.transition_nats(SCHEDULE, exact, None).sum() + last
        for errors, method in ((naive, dataclasses.replace(chain, choice=None)), (cross_fitted, chain)):
            errors.append(expected_nats(moments, SCHEDULE, method, STATISTICS) - truth)
    naive, cross_fitted = Estimate.of(np.array(naive)), Estimate.of(np.array(cross_fitted))
    assert abs(cross_fitted.value) < 4 * cross_fitted.stderr
    assert naive.value < -8 * naive.stderr


def test_the_value_alone_is_that_of_the_price():
    moments = synthetic(1)
    methods = {"chain": chosen(moments), "fixed": Chain(even_log_snr(SCHEDULE, 7, 0.01), BetaTilde(), GaussianDecoder(0.1))}
    prices = price(moments, SCHEDULE, methods, STATISTICS)
    for name, method in methods.items():
        prior = prices[name].prior.value
        value = BITS * expected_nats(moments, SCHEDULE, method, STATISTICS)
        assert prices[name].total.value == pytest.approx(value + prior, rel=1e-12)


def test_a_fixed_chain_is_priced_by_all_draws():
    """Prices are linear in R: the mean over folds is what all draws say."""
    moments = synthetic(2)
    fixed = Chain(even_log_snr(SCHEDULE, 7, 0.01), BetaTilde(), GaussianDecoder(0.05))
    folded = dataclasses.replace(fixed, choice=lambda moments, fold: fixed)
    plain, folded = (price(moments, SCHEDULE, {"": chain}, STATISTICS)[""] for chain in (fixed, folded))
    assert folded.total.value == pytest.approx(plain.total.value, rel=1e-12)
    np.testing.assert_allclose(folded.per_step, plain.per_step, atol=1e-12)


@pytest.mark.parametrize("covariance", [BetaTilde(), Beta(), Isotropic(NoiseCurve(np.zeros(1), np.array([0.7])))])
def test_slopes_are_those_of_the_price(covariance):
    """In closed form, as by the difference of two curves (which one's own covariances have)."""
    curve = NoiseCurve(np.array([-3.0, 1.0, 6.0]), np.array([0.1, 0.5, 2.0]))
    s, t = SCHEDULE.levels([0.1, 0.4]), SCHEDULE.levels([0.3, 0.9])
    s, t = (Level(*np.array([(level.t, level.alpha, level.sigma, level.log_snr) for level in pair]).T) for pair in (s, t))
    np.testing.assert_allclose(covariance.step_slopes(curve, s, t), Covariance.step_slopes(covariance, curve, s, t), rtol=1e-6)


def test_a_fold_without_draws_is_no_fold():
    moments = synthetic(3)
    lonely = dataclasses.replace(moments, counts=np.where(np.arange(32)[:, None] % 8 == 3, 0.0, moments.counts))
    assert lonely.folds(8) == []
    assert len(moments.folds(8)) == 8
    assert np.sum(moments.folds(8), 0).tolist() == [1] * 32


@pytest.mark.parametrize("knots", [1, 4, 8, 50])
def test_gaussian_data_are_priced_exactly_by_any_number_of_knots(knots):
    """K steps of any grid cost what infinitely many do: -log p itself, without an error."""
    gaussian = GaussianMixture([1.0], [[0.3] * 6], 0.5)
    log_snr = np.linspace(-8.0, 9.0, knots) if knots > 1 else [2.0]
    moments = estimate(
        gaussian.score_model(SCHEDULE), gaussian.sample(300), log_snr, statistics=gaussian.statistics(), progress=False
    )
    curve, last = NoiseCurve.fit(moments), Reconstruction.of(moments)
    level = 2.0 if knots == 1 else 9.0
    grid = even_log_snr(SCHEDULE, 7, float(SCHEDULE.time(level)))
    methods = {
        "chain": Chain(grid, Isotropic(curve), last.decoder(level)),
        "limit": ContinuousTime(float(SCHEDULE.time(level)), last.decoder(level)),
    }
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.5)
    for priced in price(moments, SCHEDULE, methods, gaussian.statistics()).values():
        assert priced.total.value == pytest.approx(entropy, abs=2e-5)  # the prior at t = 1 is not quite normal
        assert priced.total.stderr < 1e-2  # four knots cannot rule out that the network ripples a little


def test_the_doubt_between_knots_is_in_the_error():
    """A jagged curve: the same draws, hence the same jackknife; y that jumps from knot to knot may do so between them."""
    moments = synthetic(4, error=0.01, knots=KNOTS[::5])
    jagged = dataclasses.replace(moments, sums=moments.sums * np.where(np.arange(10) % 2, 0.9, 1.0)[None, :, None])
    chain = Chain(even_log_snr(SCHEDULE, 12, float(SCHEDULE.time(7.5))), BetaTilde(), GaussianDecoder(0.05))
    smooth, rough = (price(m, SCHEDULE, {"": chain}, STATISTICS)[""] for m in (moments, jagged))
    assert rough.total.stderr > 5 * smooth.total.stderr
    assert np.all(rough.per_step_stderr[2:] > smooth.per_step_stderr[2:])


# --- a network that is wrong in a band of noise levels ------------------------------------------------------------------


class Miscalibrated(torch.nn.Module):
    """The exact noise, too large by up to 80 % around log-SNR 2."""

    def __init__(self, mixture):
        super().__init__()
        self.mixture = mixture

    def forward(self, x, log_snr):
        bump = torch.exp(-((log_snr - 2.0) ** 2)).to(x)[:, None]
        return self.mixture(x, log_snr) * (1.0 + 0.8 * bump)


@pytest.fixture(scope="module")
def miscalibrated():
    mixture = GaussianMixture(np.ones(4), 0.6 * np.random.default_rng(0).normal(size=(4, 8)), np.geomspace(0.5, 0.01, 8))
    model = ScoreModel(Miscalibrated(mixture), SCHEDULE, "eps", LogSNR(), "vp", fingerprint="bad")
    settings, budget = Settings(knots=Knots(high=9.5, count=40)), Budget(min_draws=1500, max_draws=1500)
    with pytest.warns(
        UserWarning, match=r"not that of an exact score between log-SNR .* measured was 0\.\d+ ± .* miscalibrated"
    ):
        study = analyse(model, mixture.sample(1500, seed=5), record=(), settings=settings, budget=budget, progress=False)
    return study, mixture


def test_what_was_measured_is_priced(miscalibrated):
    """Predicted and measured bits of fixed and chosen times agree within 4 standard errors (false alarm 6e-5 each)."""
    study, mixture = miscalibrated
    assert np.diff(study.curve.y).min() < -0.1  # as measured, not as an exact score would have it
    chains = {"fixed": study.chain(12, "log_snr"), "dp": study.chain(6)}
    predicted = study.price(chains)
    measured = bits_per_dim(study.model, mixture.sample(4000, seed=9), chains, progress=False, batch_size=2000)
    for name in chains:
        assert abs(measured[name].total.apart(predicted[name].total)) < 4


def test_the_plain_recursion_finds_its_grid(miscalibrated):
    """The optimal grid of costs that are not Monge is the cheapest of all grids of four steps on a coarse lattice."""
    study, _ = miscalibrated
    lattice = Lattice.even_log_snr(SCHEDULE, 24, 9.0)
    first = np.where(np.arange(24) == 0, 0.0, np.inf)
    covariance = Isotropic(study.curve)
    best = lattice.optimal_grids(study.curve, covariance, first, 4)[4]
    costs = lattice.costs(study.curve, covariance)
    brute = min(costs[0, i] + costs[i, j] + costs[j, 23] for j in range(2, 23) for i in range(1, j))
    assert best.cost == pytest.approx(brute, rel=1e-12)


def test_prices_come_from_the_residual(miscalibrated):
    """1 - Lambda may set variances; what they cost is what the residual says."""
    study, mixture = miscalibrated
    score = NoiseCurve.fit(study.moments, "score", warn=False)
    with pytest.raises(ValueError, match="prices come from the residual"):
        Objective(score, -10.0, 9.0)
    with pytest.raises(ValueError, match="prices come from the residual"):
        LATTICE.optimal_grids(score, Isotropic(score), np.zeros(200), 5)
    chain = {"": study.chain(8, "log_snr", "score")}
    measured = bits_per_dim(study.model, mixture.sample(3000, seed=2), chain, progress=False, batch_size=1500)[""].total
    assert abs(measured.apart(study.price(chain)[""].total)) < 4


def test_a_fit_within_its_errors_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = NoiseCurve.fit(synthetic(5))
    assert curve.remarks == ()
    assert np.all(np.diff(curve.y) >= 0)


def test_worse_than_nothing_is_said_so():
    moments = synthetic(6)
    worse = dataclasses.replace(moments, sums=moments.sums * np.where(KNOTS > 5.0, 1.3, 1.0)[None, :, None])
    with pytest.warns(UserWarning, match=r"outside \(0, 1\) at log-SNR 5.* worse than nothing would; check that data"):
        NoiseCurve.fit(worse)
    with pytest.raises(ValueError, match="worse than nothing would; check that data, their scaling, the time index"):
        NoiseCurve.fit(dataclasses.replace(moments, sums=moments.sums + 200.0))
