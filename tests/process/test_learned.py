"""Schedules from densities: exact ends, the density asked for, the schedule it came from, files."""

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from score_sde_analytic.errors import InputError
from score_sde_analytic.process import CosineVP, Density, Learned, LinearVP
from score_sde_analytic.process.density import CELLS

LOW, HIGH = -9.3, 7.1
TILTED = Density.from_function(lambda lam: np.exp(0.6 * lam), LOW, HIGH)
SMOOTH = {
    "uniform": Density.uniform(LOW, HIGH),
    "tilted": TILTED,
    "bump": Density.from_function(lambda lam: 0.01 + np.exp(-((lam - 1.0) ** 2)), LOW, HIGH),
    "linear VP": Density.of(LinearVP(), LOW, HIGH),
    "cosine": Density.of(CosineVP(), LOW, HIGH),
}
densities = pytest.mark.parametrize("density", SMOOTH.values(), ids=SMOOTH)


@densities
def test_a_density_integrates_to_one_and_draws_by_its_inverse(density):
    assert density.values.sum() * density.width == pytest.approx(1.0, rel=1e-12)
    shares = np.linspace(0.0, 1.0, 501)
    log_snr, weight = density.draw(shares)
    assert np.all(np.diff(log_snr) > 0.0)
    np.testing.assert_allclose(np.interp(log_snr, density.edges, density.below / density.below[-1]), shares, atol=1e-12)
    inside = shares[1:-1]
    np.testing.assert_allclose(weight[1:-1] * density.at(density.quantile(inside)), 1.0, rtol=1e-12)
    assert density.at(LOW - 1e-6) == density.at(HIGH + 1e-6) == 0.0


@densities
def test_weighted_draws_integrate_any_function(density):
    """Even ranks are a quadrature of the integral of f = f / pi x pi."""
    log_snr, weight = density.draw((np.arange(40_000) + 0.5) / 40_000)
    assert (scipy.special.expit(log_snr) * weight).mean() == pytest.approx(
        np.logaddexp(0.0, HIGH) - np.logaddexp(0.0, LOW), rel=1e-4
    )


@densities
def test_the_part_between_two_ends_is_the_density_there_renormalised(density):
    part = density.between(-4.0, 3.0)
    inside = np.linspace(-3.9, 2.9, 50)
    ratio = part.at(inside) / density.at(inside)
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.05)  # to the width of a cell
    assert density.between(LOW, HIGH) is density
    with pytest.raises(InputError, match="make it for all of them"):
        density.between(LOW - 0.1, HIGH)


def test_a_defensive_share_bounds_the_weights():
    _, weight = TILTED.defended(0.1).draw(np.linspace(0, 1, 1001))
    assert weight.max() <= (HIGH - LOW) / 0.1 * (1 + 1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Density.uniform(3.0, 3.0), "low < high"),
        (lambda: Density(0.0, 1.0, np.array([1.0, 0.0])), "positive mass"),
        (lambda: Density(0.0, 1.0, np.array([1.0, np.nan])), "positive mass"),
        (lambda: Density(0.0, 1.0, np.zeros(0)), "positive mass"),
        (lambda: Density.of(LinearVP()), "name both ends"),
        (lambda: Density.of(LinearVP(), -11.0, 9.0), "outside this schedule's range"),
        (lambda: Density.from_moments(None, "even", 0.0, 1.0), "sampling|squared_error"),
    ],
)
def test_bad_densities_are_refused(make, message):
    with pytest.raises((InputError, AttributeError), match=message):
        make()


@densities
def test_the_ends_of_a_schedule_are_the_given_numbers(density):
    schedule = Learned(density)
    assert abs(schedule.log_snr(1.0) - LOW) < 1e-12
    assert abs(schedule.log_snr(np.finfo(float).tiny) - HIGH) < 1e-12
    assert schedule.log_snr_range == (LOW, HIGH)
    assert schedule.time(LOW) == 1.0
    assert 0.0 < schedule.time(HIGH) < 1e-300
    assert schedule.log_snr(0.0) == np.inf


@densities
def test_uniform_times_have_the_density(density):
    """dt / dlam = -pi, by differences over ten cells."""
    schedule = Learned(density)
    lam = np.linspace(LOW, HIGH, CELLS // 10 + 1)
    rate = -np.diff(schedule.time(lam)) / np.diff(lam)
    np.testing.assert_allclose(
        rate, density.mass.reshape(-1, 10).mean(1) / density.below[-1] / density.width, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("original", [LinearVP(), CosineVP()], ids=["linear", "cosine"])
def test_the_density_of_a_schedule_gives_the_schedule_back(original):
    """Up to the map of t that puts both ends in their place; the error falls as the third power of a cell, at least."""
    learned = Learned(Density.of(original, LOW, HIGH))
    first, last = original.time(np.array([HIGH, LOW]))
    t = np.linspace(0.05, 1.0, 96)
    np.testing.assert_allclose(learned.log_snr(t), original.log_snr(first + (last - first) * t), atol=1e-6)


@given(st.floats(LOW, HIGH), st.floats(-1.0, 1.0))
def test_time_inverts_log_snr(lam, tilt):
    schedule = Learned(Density.from_function(lambda x: np.exp(tilt * x), LOW, HIGH))
    assert schedule.log_snr(schedule.time(lam)) == pytest.approx(lam, abs=1e-7)


def test_times_strictly_order_levels_even_where_hardly_any_time_is_spent():
    steep = Learned(Density.from_function(lambda lam: np.exp(2.5 * lam), LOW, HIGH))
    assert np.all(np.diff(steep.log_snr(np.linspace(0.0, 1.0, 10_001)[1:])) < 0.0)
    assert np.all(np.diff(steep.time(np.linspace(LOW, HIGH, 301))) < 0.0)


def test_a_saved_schedule_is_read_again_and_a_damaged_one_refused(tmp_path):
    schedule = Learned(TILTED)
    schedule.save(tmp_path / "schedule.safetensors")
    again = Learned.load(tmp_path / "schedule.safetensors")
    assert again.config() == schedule.config()
    t = np.linspace(0.0, 1.0, 50)
    np.testing.assert_array_equal(again.log_snr(t), schedule.log_snr(t))
    assert Learned(SMOOTH["bump"]).config() != schedule.config()
    content = (tmp_path / "schedule.safetensors").read_bytes()
    (tmp_path / "schedule.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="damaged"):
        Learned.load(tmp_path / "schedule.safetensors")
