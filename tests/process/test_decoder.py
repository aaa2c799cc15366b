"""Decoders: normalised, exact in the tails, expectations equal to quadrature and to Monte Carlo."""

import math
from statistics import NormalDist

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.process.decoder import CategoricalDecoder, GaussianDecoder, NoDecoder, decoder_nats
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP

RANGES = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)]


def level_with(sigma, alpha=1.0):
    return Level(0.5, alpha, sigma, 2 * math.log(alpha / sigma))


def values_of(data_range):
    """All levels, one per row."""
    return torch.linspace(data_range.lo, data_range.hi, data_range.levels, dtype=torch.float64)[:, None]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


# --- the discretised Gaussian -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_the_bins_of_a_gaussian_sum_to_one(lo, hi, levels):
    """Stds from 1e-4 to 1e3 bin widths; means on a level, on an edge, between, at the ends and far outside."""
    data_range = DataRange(lo, hi, levels)
    x, width = values_of(data_range), data_range.bin_width
    for std in width * 10.0 ** np.arange(-4.0, 3.1):
        for mean in (lo, lo + 0.5 * width, lo + 0.3 * width, 0.37 * lo + 0.63 * hi, hi, hi + 40 * width, lo - 1e4 * width):
            nats = GaussianDecoder(float(std)).nats(x, None, torch.full_like(x, mean), None, data_range)
            assert torch.isfinite(nats).all()
            assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def high_precision_log_mass(lower, upper):
    """log(Phi(upper) - Phi(lower)) of mpmath numbers."""
    if lower > 0:
        lower, upper = -upper, -lower
    return float(mpmath.log((mpmath.erfc(-upper / mpmath.sqrt(2)) - mpmath.erfc(-lower / mpmath.sqrt(2))) / 2))


@pytest.mark.parametrize("deviations", [0.0, 1.0, 6.0, 40.0, 1000.0])
@pytest.mark.parametrize("width_in_std", [1e-3, 0.1, 1.0, 30.0])
def test_log_probabilities_have_no_floor(deviations, width_in_std):
    """An inner bin up to a thousand stds from the mean, on both sides: finite, and right to ten digits."""
    data_range, std = DataRange(-1, 1, 17), 0.125 / width_in_std
    x = torch.zeros(1, 1, dtype=torch.float64)
    for side in (-1.0, 1.0):
        mean = side * deviations * std
        nats = float(GaussianDecoder(std).nats(x, None, x + mean, None, data_range))
        with mpmath.workdps(400):
            centre, half = -mpmath.mpf(mean) / mpmath.mpf(std), mpmath.mpf(0.0625) / mpmath.mpf(std)
            exact = -high_precision_log_mass(centre - half, centre + half)
        assert math.isfinite(nats)
        assert nats == pytest.approx(exact, rel=1e-10)
    if deviations == 1000.0 and width_in_std == 1.0:
        # Mills' ratio: log of the tail beyond the nearest edge, 999.5 stds away.
        edge = 999.5
        assert nats == pytest.approx(0.5 * edge**2 + 0.5 * math.log(2 * math.pi) + math.log(edge), rel=1e-10, abs=2e-6)


def test_the_normal_cdf_is_exact():
    """No tanh approximation, whose error of 2e-4 in probability would show in the third digit here."""
    data_range, std = DataRange(0, 1, 17), 0.11
    x, width = values_of(data_range), 1 / 16
    mean = torch.full_like(x, 0.4321)
    edges = np.concatenate([[-np.inf], x[:-1, 0].numpy() + width / 2, [np.inf]])
    exact = -np.log(np.diff(stats.norm.cdf(edges, loc=0.4321, scale=std)))
    np.testing.assert_allclose(decoder_nats(x, mean, std, data_range), exact, rtol=1e-9)
    tanh = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (edges + 0.044715 * edges**3)))
    assert np.abs(tanh[1:-1] - stats.norm.cdf(edges[1:-1])).max() > 1e-5  # what the comparison above would notice


def test_density_of_continuous_data():
    x, mean = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = -stats.norm.logpdf(x.numpy(), mean.numpy(), 0.3).mean(1)
    for data_range in (None, DataRange(-9, 9)):
        np.testing.assert_allclose(GaussianDecoder(0.3).nats(x, None, mean, None, data_range), expected, rtol=1e-12)


def test_narrow_bins_tend_to_the_density():
    """-log P(bin) + log(width) -> -log density."""
    std, x_0_hat = 0.3, tensor(0.1)
    for levels, tolerance in ((201, 2e-4), (20_001, 2e-8)):
        data_range = DataRange(-1, 1, levels)
        nats = float(decoder_nats(tensor(0.2), x_0_hat, std, data_range)) + math.log(data_range.bin_width)
        assert nats == pytest.approx(-math.log(NormalDist(0.1, std).pdf(0.2)), abs=tolerance)


# --- the categorical decoder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("sigma", [1e-3, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_categorical_probabilities_sum_to_one(levels, sigma, alpha):
    """At one x_t, over all levels of its coordinate; also where x_t lies far off."""
    data_range, level = DataRange(-1, 1, levels), level_with(sigma, alpha)
    x = values_of(data_range)
    for x_t in (-50.0, -1.0, 0.013, 0.9):
        nats = CategoricalDecoder().nats(x, torch.full_like(x, x_t), None, level, data_range)
        assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-12)
        log_q = stats.norm.logpdf(x_t, alpha * x[:, 0].numpy(), sigma)
        np.testing.assert_allclose(-nats, log_q - np.logaddexp.reduce(log_q), rtol=1e-9, atol=1e-9)


def test_categorical_coordinates_are_independent():
    """The value of an example is the mean over its coordinates, for one level and for one level per example."""
    data_range, schedule = DataRange(0, 1, 5), LinearVP()
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 5, (4, 2, 3), generator=generator).double() / 4
    t = torch.tensor([0.01, 0.1, 0.3, 0.9], dtype=torch.float64)
    each = schedule.level(t)
    x_t = each.alpha[:, None, None] * x + each.sigma[:, None, None] * torch.randn(4, 2, 3, generator=generator).double()
    nats = CategoricalDecoder().nats(x, x_t, None, each, data_range)
    for i in range(4):
        level = schedule.level(float(t[i]))
        single = CategoricalDecoder().nats(x[i].reshape(-1, 1), x_t[i].reshape(-1, 1), None, level, data_range)
        assert float(nats[i]) == pytest.approx(float(single.mean()), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [0.01, 0.5, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_expected_categorical_nats_match_quadrature(levels, spacing):
    data_range = DataRange(0, levels - 1, levels)  # bins of width 1
    table = CategoricalDecoder.table(level_with(1 / spacing), data_range)
    assert table.shape == (levels,)
    np.testing.assert_allclose(table, table[::-1], atol=1e-14)
    j = np.arange(levels)
    for i in {0, 1, levels // 2, levels - 1}:
        gap = (i - j) * spacing

        def integrand(eps, gap=gap):
            return np.logaddexp.reduce(-gap * (0.5 * gap + eps)) * stats.norm.pdf(eps)

        kinks = [k for k in (-1.5 * spacing, -0.5 * spacing, 0.5 * spacing, 1.5 * spacing) if abs(k) < 12]
        exact = quad(integrand, -12, 12, points=sorted({-4.0, 0.0, 4.0, *kinks}), limit=2000, epsabs=1e-12, epsrel=1e-12)[0]
        assert table[i] == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("spacing", "levels"), [(0.5, 17), (2.0, 3), (8.0, 2)])
def test_expected_categorical_nats_match_monte_carlo(spacing, levels):
    """Within 4 standard errors for one interior and one end level: false alarm 6e-5 each."""
    data_range, level = DataRange(-1, 1, levels), level_with(2 / ((levels - 1) * spacing))
    noise = torch.randn(100_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(levels))
    for value in (-1.0, float(values_of(data_range)[levels // 2])):
        x = torch.full_like(noise, value)
        nats = CategoricalDecoder().nats(x, x + level.sigma * noise, None, level, data_range)
        expected = CategoricalDecoder().expected(x[:1], level, data_range)
        assert expected.shape == (1,)
        assert abs(float(nats.mean() - expected)) < 4 * float(nats.std()) / math.sqrt(len(nats))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_limits_of_the_categorical_decoder(levels):
    """No noise: nothing to code. No signal: all levels alike."""
    data_range = DataRange(0, levels - 1, levels)
    np.testing.assert_allclose(CategoricalDecoder.table(level_with(1 / 100), data_range), 0.0, atol=1e-15)
    np.testing.assert_allclose(CategoricalDecoder.table(level_with(1e9), data_range), math.log(levels), rtol=1e-6)
    noisy, clear = (CategoricalDecoder.table(level_with(1 / r), data_range) for r in (0.1, 3.0))
    assert (clear < noisy).all()


def test_expected_looks_up_every_coordinate():
    data_range, level = DataRange(-1, 1, 3), level_with(0.7)
    table = CategoricalDecoder.table(level, data_range)
    x = torch.tensor([[[-1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])  # float32 images
    expected = CategoricalDecoder().expected(x, level, data_range)
    np.testing.assert_allclose(expected, [(table[0] + table[1] + 2 * table[2]) / 4, table[1]], rtol=1e-14)
    assert expected.dtype == torch.float64


@pytest.mark.parametrize("data_range", [None, DataRange()])
def test_the_categorical_decoder_needs_levels(data_range):
    x, level = torch.zeros(1, 1), level_with(0.1)
    for call in (
        lambda: CategoricalDecoder().check(data_range),
        lambda: CategoricalDecoder().expected(x, level, data_range),
        lambda: CategoricalDecoder().nats(x, x, None, level, data_range),
    ):
        with pytest.raises(ValueError, match="discrete data; declare their levels"):
            call()


# --- no decoder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-3, 0.5, 20.0])
def test_no_decoder_is_the_density_of_the_noise(sigma):
    """nats is -log q(x_t | x_0), its mean the entropy of the noise; false alarm 6e-5."""
    level = level_with(sigma, alpha=0.8)
    noise = torch.randn(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.full_like(noise, 0.3)
    nats = NoDecoder().nats(x, 0.8 * x + sigma * noise, None, level, None)
    np.testing.assert_allclose(nats, -stats.norm.logpdf(noise * sigma, scale=sigma).mean(1), rtol=1e-9, atol=1e-9)
    expected = NoDecoder().expected(x, level, None)
    assert float(expected[0]) == pytest.approx(stats.norm(scale=sigma).entropy(), rel=1e-12)
    assert abs(float(nats.mean() - expected[0])) < 4 * float(nats.std()) / math.sqrt(len(nats))
    assert expected.shape == (len(x),)


# --- what they tell the rest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_a_gaussian_needs_a_width(std):
    with pytest.raises(ValueError, match="finite number above 0"):
        GaussianDecoder(std)


def test_no_finite_examples_have_nats_without_end():
    x = tensor(0.5, -0.5)
    with pytest.raises(InputError, match="too narrow"):
        GaussianDecoder(5e-324).nats(x, None, 0 * x, None, None)
    narrow = decoder_nats(x.float(), 0 * x.float(), 1e-40, None)  # beyond float32, not beyond float64
    np.testing.assert_allclose(narrow, 0.125e80, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.int64])
def test_predictions_are_real_numbers(dtype):
    with pytest.raises(InputError, match="floating-point"):
        decoder_nats(torch.ones(2, 1), torch.ones(2, 1, dtype=dtype), 1.0, None)


def test_only_the_gaussian_needs_the_network():
    assert GaussianDecoder(0.1).needs_network
    assert not CategoricalDecoder().needs_network
    assert not NoDecoder().needs_network
    assert GaussianDecoder(0.1).expected(torch.zeros(2, 1), level_with(0.1), None) is None
    configs = [d.config() for d in (GaussianDecoder(0.1), GaussianDecoder(0.2), CategoricalDecoder(), NoDecoder())]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])


class FlatTable:
    """Nats that tell which entry was asked for."""

    def at(self, log_snr, std):
        return 100.0 * log_snr + std


def test_decoders_price_themselves():
    """A Gaussian from the table; a categorical as the histogram's mean of `expected`; none as the noise's entropy."""
    level, data_range = LinearVP().level(0.1), DataRange(-1, 1, 3)
    table, histogram = FlatTable(), np.array([0.5, 0.25, 0.25])
    assert GaussianDecoder(0.3).expected_nats(level, table, None, None) == 100.0 * level.log_snr + 0.3
    x = torch.tensor([[-1.0], [-1.0], [0.0], [1.0]], dtype=torch.float64)
    mean = float(CategoricalDecoder().expected(x, level, data_range).mean())
    assert CategoricalDecoder().expected_nats(level, table, histogram, data_range) == pytest.approx(mean, rel=1e-14)
    assert NoDecoder().expected_nats(level, table, None, None) == NoDecoder.entropy(level)


@pytest.mark.parametrize(("histogram", "data_range"), [(None, DataRange(-1, 1, 3)), (np.ones(3) / 3, None)])
def test_a_categorical_decoder_is_priced_from_a_histogram(histogram, data_range):
    with pytest.raises(ValueError, match="histogram of levels"):
        CategoricalDecoder().expected_nats(LinearVP().level(0.1), FlatTable(), histogram, data_range)
