"""The doubt between knots: none where nothing disturbs a curve, calibrated where functions are those it expects."""

import numpy as np
import pytest

from score_sde_analytic.measure import between
from score_sde_analytic.measure.between import BetweenKnots
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.knots import WIDEST, irregular, knots_in_doubt
from score_sde_analytic.models import LogSNR
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import LinearVP

KNOTS = np.array([-3.0, -1.0, 0.5, 2.0, 4.0])


def matern(distance, smooth, rough):
    """The prior covariance of one hypothesis, (length, size) of each part, written from the textbook's formulas."""
    scaled = np.sqrt(5.0) * distance / smooth[0]
    total = smooth[1] ** 2 * (1.0 + scaled + 5.0 * distance**2 / (3.0 * smooth[0] ** 2)) * np.exp(-scaled)
    scaled = np.sqrt(3.0) * distance / rough[0]
    return total + rough[1] ** 2 * (1.0 + scaled) * np.exp(-scaled)


def alone(monkeypatch, length=2, size=1.0, rough_length=1, rough=0.2):
    monkeypatch.setattr(between, "HYPOTHESES", np.array([[length, size, rough_length, rough, 0.0]]))
    return (between.LENGTHS[length], size), (between.ROUGH_LENGTHS[rough_length], rough)


def test_one_hypothesis_leaves_its_conditional_covariance(monkeypatch):
    parts = alone(monkeypatch)
    points = np.array([-2.0, -0.25, 1.25, 3.0])  # of the lattice of eight per cell

    def prior(a, b):
        return matern(np.abs(a[:, None] - b), *parts)

    gain = np.linalg.solve(prior(KNOTS, KNOTS), prior(KNOTS, points))
    expected = prior(points, points) - prior(points, KNOTS) @ gain
    doubt = BetweenKnots(KNOTS, np.zeros(5), np.full(5, 1e-3))  # y = 0: monotone cubic and mean agree
    np.testing.assert_allclose(doubt.stderr(points), np.sqrt(np.diag(expected)), rtol=1e-5)
    slopes = np.array([0.3, -1.0, 0.5, 2.0])
    assert doubt.stderr_of(points, slopes) == pytest.approx(np.sqrt(slopes @ expected @ slopes), rel=1e-5)


def test_a_cubic_that_is_not_the_mean_adds_its_distance(monkeypatch):
    alone(monkeypatch)
    wavy = np.array([0.0, 2.0, -1.0, 1.5, 0.0])
    points = np.linspace(-3.0, 4.0, 30)
    assert np.all(
        BetweenKnots(KNOTS, wavy, np.full(5, 1e-3)).stderr(points) >= BetweenKnots(KNOTS, 0 * wavy, wavy).stderr(points)
    )


def test_there_is_no_doubt_at_knots_nor_beyond_them():
    doubt = BetweenKnots(KNOTS, np.array([0.0, 0.3, 0.1, 1.0, 2.0]), np.full(5, 0.01))
    np.testing.assert_allclose(doubt.stderr(np.array([-30.0, *KNOTS, 30.0])), 0.0, atol=1e-3)
    assert BetweenKnots(np.zeros(1), np.zeros(1), np.ones(1)).stderr(np.zeros(3)).max() < 1e-3


def test_a_constant_leaves_little_and_jumps_leave_much():
    knots = np.linspace(-10.0, 10.0, 16)
    middle = 0.5 * (knots[1:] + knots[:-1])
    constant, jumping = (BetweenKnots(knots, y, np.full(16, 1e-4)) for y in (np.zeros(16), 0.1 * (-1.0) ** np.arange(16)))
    assert constant.stderr(middle).max() < 2e-3
    assert jumping.stderr(middle).min() > 0.05


@pytest.mark.parametrize(("length", "rough"), [(3, 0.0), (2, 0.08)])
def test_intervals_hold_the_functions_that_are_expected(length, rough):
    """120 functions of the prior, 4 points each: 95 % lie within 1.96 standard errors; fewer than 90 % are 4 sigma off."""
    rng = np.random.default_rng(3)
    knots, points = np.linspace(-10.0, 10.0, 13), np.array([-7.1, -1.2, 0.9, 5.7])
    every = np.concatenate([knots, points])
    prior = matern(np.abs(every[:, None] - every), (between.LENGTHS[length], 1.0), (0.75, rough))
    root = np.linalg.cholesky(prior + 1e-10 * np.eye(17))
    held = []
    for _ in range(120):
        truth = root @ rng.normal(size=17)
        doubt = BetweenKnots(knots, truth[:13], np.full(13, 0.01))
        cubic = between.Interpolant(knots, truth[:13])(points)
        held.append(np.abs(cubic - truth[13:]) <= 1.96 * doubt.stderr(points))
    assert 0.9 <= np.mean(held) <= 1.0


def rippling(size, period):
    """Gaussian data of variance 1, and a network whose R / (1 - R) is up to `size` too large along log-SNR."""
    gaussian = GaussianMixture([1.0], [[0.0] * 4], 1.0)

    def net(x, log_snr):
        level = float(log_snr[0])
        growth = size * np.sin(2.0 * np.pi * level / period) ** 2
        r = 1.0 / (1.0 + np.exp(-level))
        return gaussian(x, log_snr) * (1.0 + np.sqrt(r * growth / (1.0 - r + r * (1.0 + growth))))

    return ScoreModel(net, LinearVP(), times=LogSNR(), fingerprint="rippling"), gaussian


def pass_over(size, most, knots=17):
    model, gaussian = rippling(size, 5.0)
    budget = Budget(tolerance=0.02, min_draws=600, max_draws=600, most_knots=most)
    return estimate(model, gaussian.sample(300), np.linspace(-8.0, 8.0, knots), budget, progress=False)


def test_knots_are_added_where_a_network_ripples():
    smooth, rough, bounded = pass_over(0.0, 100), pass_over(0.5, 100), pass_over(0.5, 20)
    assert len(smooth.log_snr) == 17
    assert 24 < len(rough.log_snr) < 100
    assert len(bounded.log_snr) == 20
    assert np.all(np.diff(rough.log_snr) > 0)
    assert sorted(rough.order) == list(range(len(rough.order)))
    assert np.all(rough.draws == 600)
    assert len(knots_in_doubt(rough, 0.02, 5)) == 0
    assert len(knots_in_doubt(bounded, 0.02, 2)) == 2
    # Ripples die where 1 - R does: there are few knots at high log-SNR.
    assert (rough.log_snr > 5.0).sum() < (rough.log_snr < 5.0).sum() / 4


def test_wide_cells_are_in_doubt():
    """Whatever lies at their ends: five knots of exact Gaussian data say nothing of what is between them."""
    wide = pass_over(0.0, 100, knots=5)
    assert np.diff(wide.log_snr).max() <= WIDEST
    assert len(wide.log_snr) < 40


def test_added_knots_leave_the_others_as_they_were():
    few, more = pass_over(0.5, 0), pass_over(0.5, 24)
    kept = np.isin(more.log_snr, few.log_snr)
    np.testing.assert_array_equal(more.residual[kept], few.residual)
    np.testing.assert_array_equal(more.decoder_sums[:, kept], few.decoder_sums)


def test_irregular_numbers_share_no_period():
    numbers = np.sort(irregular(np.arange(50)))
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert np.diff(numbers).max() < 3.0 / 50
