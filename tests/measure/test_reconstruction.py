"""The last step's cost: a closed form for densities, a table and the law of normal errors for discrete data."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.reconstruction import Reconstruction, normal_nats
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import decoder_nats
from score_sde_analytic.process.schedule import LinearVP

GAUSSIAN = GaussianMixture([1.0], [[0.1] * 8], 0.09)
RANGE = DataRange(-1.0, 1.0, 65)


def discrete(count=600):
    """Normal numbers on a grid of 65 levels."""
    x = GAUSSIAN.sample(count).clamp(-1.0, 1.0)
    return -1.0 + RANGE.bin_width * ((x + 1.0) / RANGE.bin_width).round()


def measured(knots, data_range=RANGE, data=None):
    data = discrete() if data is None else data
    budget = Budget(min_draws=1200, max_draws=1200)
    return estimate(GAUSSIAN.score_model(LinearVP()), data, knots, budget, data_range=data_range, progress=False)


@pytest.mark.parametrize("std", [0.004, 0.02, 0.1, 0.6])
@pytest.mark.parametrize("deviation", [0.003, 0.03, 0.3])
def test_normal_errors_by_quadrature(std, deviation):
    width = 0.03

    def nats(error):
        inside = norm.logcdf((width / 2 - abs(error)) / std), norm.logcdf((-width / 2 - abs(error)) / std)
        return -(inside[0] + math.log(-math.expm1(inside[1] - inside[0]))) * norm.pdf(error, scale=deviation)

    expected = 2.0 * quad(nats, 0.0, 10 * deviation, points=[width / 2], limit=200)[0]
    # Where the decoder is much narrower than a bin the integrand has a corner, which quadrature of 32 nodes rounds off.
    assert normal_nats(deviation**2, std, width) == pytest.approx(expected, rel=0.03)
    density = normal_nats(deviation**2, std, None)
    assert density == pytest.approx(0.5 * math.log(2 * math.pi * std**2) + 0.5 * (deviation / std) ** 2, rel=1e-12)


def test_a_density_costs_what_the_curve_says():
    """1/2 log(2 pi e V0), exactly, at any level and with any number of knots, and any width."""
    statistics = GAUSSIAN.statistics()
    for knots in ([3.0], [-8.0, 9.0], np.linspace(-8.0, 9.0, 40)):
        moments = estimate(GAUSSIAN.score_model(LinearVP()), GAUSSIAN.sample(300), knots, statistics=statistics, progress=False)
        table = Reconstruction.of(moments)
        for log_snr in (-1.0, 2.0, 3.0):
            variance = 0.09 / (1.0 + math.exp(log_snr) * 0.09)
            (nats,), (std,) = table.best(log_snr)
            assert nats == pytest.approx(0.5 * math.log(2 * math.pi * math.e * variance), rel=1e-9)
            assert std == pytest.approx(math.sqrt(variance), rel=1e-9)
            assert table.at(log_snr, 7.0) == pytest.approx(normal_nats(variance, 7.0, None), rel=1e-9)
            assert table.doubt(log_snr, 0.1) == 0.0


@pytest.mark.slow
def test_few_knots_say_of_discrete_data_what_many_say():
    few, many = (Reconstruction.of(measured(np.linspace(-8.0, 9.0, count))) for count in (6, 52))
    levels = np.array([1.0, 3.3, 5.0, 6.7, 8.1])
    nats, std = many.best(levels)
    np.testing.assert_allclose(few.best(levels)[0], nats, atol=0.01)
    for level, width, truth in zip(levels, std, nats, strict=True):
        assert abs(few.at(level, width) - truth) < 3 * few.doubt(level, width) + 0.004
    plain = Reconstruction(few.log_snr, few.nats, few.data_variance)  # interpolated as it is
    assert np.abs(plain.best(levels)[0] - nats).max() > 5 * np.abs(few.best(levels)[0] - nats).max()


def test_the_slope_is_that_of_a_curve_that_moves():
    for moments in (measured(np.linspace(-8.0, 9.0, 12)), measured(np.linspace(-8.0, 9.0, 12), None, GAUSSIAN.sample(300))):
        table, step = Reconstruction.of(moments), 1e-3
        curve = table.curve
        moved = [NoiseCurve(curve.log_snr, curve.y + shift) for shift in (step, -step)]
        # The measured table stays, so only a density moves with the curve as a whole.
        costs = [float(table.normal_at(5.3, 0.07, other)) for other in moved]
        assert table.slope(5.3, 0.07) == pytest.approx((costs[0] - costs[1]) / (2 * step), rel=1e-4)


def test_a_network_of_other_data_has_no_best_decoder():
    """x0_hat is x_t itself: its errors are far beyond what the data's variance explains, and so is the best width."""
    data = 0.1 + 0.001 * torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    data = -1.0 + (2 / 10_000) * ((data + 1.0) / (2 / 10_000)).round()
    model = ScoreModel(lambda x, t: torch.zeros_like(x), LinearVP(), fingerprint="none")
    moments = estimate(model, data, [-4.0, 0.0, 3.0], data_range=DataRange(-1, 1, 10_001), progress=False)
    with pytest.raises(ValueError, match="not of these data"):
        Reconstruction.of(moments, NoiseCurve(np.zeros(1), np.zeros(1))).best(-3.0)


@pytest.mark.parametrize("data", [torch.full((64, 4), 0.5), torch.rand(1, 4), torch.rand(1, 4).repeat(50, 1)])
@pytest.mark.parametrize("data_range", [None, DataRange(-1, 1)])
def test_data_without_spread_are_refused(data, data_range):
    model = ScoreModel(lambda x, t: x, LinearVP(), fingerprint="f")
    with pytest.raises(ValueError, match="no spread"):
        estimate(model, data, [0.0], data_range=data_range, progress=False)
    DataStatistics.of(torch.tensor([[0.5], [0.5 + 1e-7]], dtype=torch.float64)).require_spread()


def test_widths_between_those_measured_where_data_pile_up_at_an_end():
    """Half of the numbers are the lowest level, whose bin is infinite: costs are exact sums over the data at any width."""
    declared = DataRange(-1.0, 1.0, levels=17)
    levels = np.linspace(-1.0, 1.0, 17)
    rng = np.random.default_rng(0)
    x_0 = torch.from_numpy(np.where(rng.random((320, 8)) < 0.5, -1.0, rng.choice(levels, (320, 8))))
    mean = float(x_0.mean())
    blind = ScoreModel(lambda x, t: torch.full_like(x, mean), LinearVP(), "x_0", fingerprint="blind")
    moments = estimate(blind, x_0, [-9.0, -8.0], Budget(max_draws=320, min_draws=320), data_range=declared, progress=False)
    table = Reconstruction.of(moments)
    for std in (0.15, 0.33, 0.6, 0.8, 0.95, 1.1):
        exact = float(decoder_nats(x_0, torch.full_like(x_0, mean), std, declared).mean())
        assert table.at(-8.5, std) == pytest.approx(exact, abs=4e-3)
    nats, std = table.best(-8.5)
    assert nats[0] == pytest.approx(float(decoder_nats(x_0, torch.full_like(x_0, mean), std[0], declared).mean()), abs=1e-3)
