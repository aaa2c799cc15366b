"""Schedules: monotone log-SNR and its inverse, SDE coefficients, containers, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schedules import SCHEDULES
from score_sde_analytic.process.forward import GRIDS
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, SubVP, Tabulated

VP = ("linear_vp", "cosine_vp", "table_linear", "table_cosine")
TINY = st.one_of(st.floats(1e-3, 1.0), st.floats(-12.0, -3.0).map(lambda e: 10.0**e))
names = pytest.mark.parametrize("name", SCHEDULES)


def test_log_snr_strictly_decreases(schedule):
    times = np.concatenate([np.geomspace(1e-12, 1e-3, 200), np.linspace(1e-3, 1.0, 5000)[1:]])
    assert np.all(np.diff(schedule.log_snr(times)) < 0)
    low, high = schedule.log_snr_range
    assert low == pytest.approx(schedule.log_snr(1.0), rel=1e-15)
    assert np.all(schedule.log_snr(times) <= high)


@names
@given(t=TINY)
def test_time_inverts_log_snr(name, t):
    schedule = SCHEDULES[name]
    lam = schedule.log_snr(t)
    back = schedule.time(lam)
    # The log-SNR itself is rounded: allow what a few units in its last place mean in t.
    slope = abs((schedule.log_snr(min(t * 1.001, 1.0)) - schedule.log_snr(t * 0.999)) / (t * 0.002))
    assert abs(back - t) <= 1e-11 * t + 16 * np.spacing(max(1.0, abs(lam))) / slope
    assert schedule.log_snr(back) == pytest.approx(lam, rel=1e-11, abs=1e-11)


@names
@given(fraction=st.floats(0.0, 1.0))
def test_log_snr_inverts_time(name, fraction):
    schedule = SCHEDULES[name]
    low, high = schedule.log_snr_range
    top = min(high, 25.0)
    lam = low + fraction * (top - low) * (1 - 1e-9)
    assert schedule.log_snr(schedule.time(lam)) == pytest.approx(lam, rel=1e-11, abs=1e-10)


def test_every_finite_log_snr_is_a_noisy_level(schedule):
    """Only infinite log-SNR is the data: the largest finite one must keep its noise."""
    top = min(schedule.log_snr_range[1], 40.0)
    level = schedule.level_at(top)
    assert level.log_snr == pytest.approx(top)
    assert level.sigma > 0.0


@names
@given(t=st.floats(1e-4, 0.9995))
def test_sde_coefficients_match_the_marginals(name, t):
    """f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2, by central differences inside one table cell."""
    schedule = SCHEDULES[name]
    if name.startswith("table"):
        t = (math.floor(t * 1000) + 0.5) / 1000
    step = 1e-6 * t
    ahead, behind = t + step, t - step
    drift = (schedule.log_alpha(ahead) - schedule.log_alpha(behind)) / (2 * step)
    assert schedule.drift(t) == pytest.approx(drift, rel=1e-5, abs=1e-9)
    rate = (schedule.sigma(ahead) ** 2 - schedule.sigma(behind) ** 2) / (2 * step)
    g2 = rate - 2 * schedule.drift(t) * schedule.sigma(t) ** 2
    assert schedule.diffusion(t) ** 2 == pytest.approx(g2, rel=1e-4)


def test_diffusion_is_minus_sigma2_times_log_snr_rate(schedule):
    t = (np.arange(1, 1000, 37) - 0.5) / 1000
    rate = (schedule.log_snr(t + 1e-7) - schedule.log_snr(t - 1e-7)) / 2e-7
    np.testing.assert_allclose(schedule.diffusion(t) ** 2, -(schedule.sigma(t) ** 2) * rate, rtol=1e-4)


@pytest.mark.parametrize("name", VP)
def test_variance_preserving(name):
    t = np.concatenate([np.geomspace(1e-12, 1e-3, 50), np.linspace(0.001, 1, 777)])
    schedule = SCHEDULES[name]
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1.0, rtol=0, atol=1e-15)


@pytest.mark.parametrize("t", [1e-12, 1e-9, 1e-5])
def test_small_sigma_keeps_relative_precision(t):
    """sigma^2 -> beta_min t; sub-VP's sigma is the square of VP's."""
    assert LinearVP().sigma(t) ** 2 == pytest.approx(0.1 * t + 9.95 * t**2, rel=1e-6)
    assert SubVP().sigma(t) == pytest.approx(LinearVP().sigma(t) ** 2, rel=1e-12)
    assert VE().sigma(t) == pytest.approx(0.01 * 5000**t, rel=1e-12)


@pytest.mark.parametrize("betas", [np.linspace(1e-4, 0.02, 1000), np.array([0.3]), np.array([1e-5, 0.9, 0.2])])
def test_table_is_exact_at_its_own_times(betas):
    schedule = Tabulated(betas)
    np.testing.assert_allclose(schedule.alpha(schedule.times) ** 2, np.cumprod(1 - betas), rtol=1e-12)
    np.testing.assert_allclose(schedule.times, np.arange(1, len(betas) + 1) / len(betas), rtol=0)


def test_published_tables():
    np.testing.assert_array_equal(Tabulated.linear(5, 0.1, 0.5).betas, np.linspace(0.1, 0.5, 5))
    betas = Tabulated.cosine(1000).betas
    bar = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(betas, np.minimum(1 - bar[1:] / bar[:-1], 0.999), rtol=1e-12)
    # Inside the range where the cap is idle, the table is the continuous cosine schedule.
    n = np.arange(1, 990)
    np.testing.assert_allclose(Tabulated.cosine().alpha(n / 1000) ** 2, bar[n] / bar[0], rtol=1e-10)


def test_cosine_ends_at_its_smallest_log_snr():
    assert CosineVP(log_snr_min=-9.0).log_snr(1.0) == pytest.approx(-9.0)
    assert CosineVP(offset=0.1).log_snr(1.0) == pytest.approx(-12.0)


METHODS = ("log_alpha", "log_sigma", "alpha", "sigma", "log_snr", "drift", "diffusion")


@pytest.mark.parametrize("method", METHODS)
def test_containers(schedule, method):
    law, t = getattr(schedule, method), np.array([0.1, 0.5, 1.0])
    expected = np.array([law(float(v)) for v in t])
    assert isinstance(law(0.5), float)
    assert type(law(np.float64(0.5))) is float
    out = law(t)
    assert isinstance(out, np.ndarray)
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, expected, rtol=1e-14)
    tensor = law(torch.tensor(t, dtype=torch.float32))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-5)
    assert law(t.reshape(3, 1)).shape == (3, 1)


def test_time_containers(schedule):
    lam = schedule.log_snr(np.array([0.2, 0.7]))
    assert isinstance(schedule.time(float(lam[0])), float)
    np.testing.assert_allclose(schedule.time(torch.from_numpy(lam)).numpy(), [0.2, 0.7], rtol=1e-9)


def test_time_zero_is_the_data(schedule):
    assert (schedule.alpha(0.0), schedule.sigma(0.0), schedule.log_snr(0.0)) == (1.0, 0.0, math.inf)
    assert schedule.time(math.inf) == 0.0
    mixed = schedule.sigma(np.array([0.0, 0.5]))
    assert mixed[0] == 0.0
    assert mixed[1] == schedule.sigma(0.5)


def test_levels_agree(schedule):
    times = [1.0, 0.3, 0.0]
    for level, t in zip(schedule.levels(times), times, strict=True):
        assert level == schedule.level(t)
    scalar, batch = schedule.level(torch.tensor(0.3)), schedule.level(torch.tensor([0.3, 0.9], dtype=torch.float64))
    assert isinstance(scalar.sigma, float)
    assert batch.log_snr[1] == schedule.log_snr(0.9)
    assert schedule.level_at(1.5).log_snr == pytest.approx(1.5)


def test_levels_of_grids_are_kept_as_they_are(schedule):
    """Also after their list was written to, and after more grids than are kept."""
    grids = [(1.0, t, 0.0) for t in np.linspace(0.1, 0.9, GRIDS + 2).tolist()]
    for times in grids * 2:
        levels = schedule.levels_of_grid(times)
        assert levels == schedule.levels(times)
        levels.pop()


@pytest.mark.parametrize("t", [-1e-9, 1.0000001, math.nan, math.inf])
def test_times_outside_are_refused(schedule, t):
    with pytest.raises(ValueError, match="outside the schedule"):
        schedule.sigma(t)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        schedule.drift(np.array([0.5, t]))


def test_drift_is_undefined_at_the_data(schedule):
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        schedule.diffusion(0.0)


def test_log_snr_outside_is_refused(schedule):
    low, high = schedule.log_snr_range
    bad = [low - 1e-3, math.nan, -math.inf] + ([high + 1e-3] if math.isfinite(high) else [])
    for lam in bad:
        with pytest.raises(ValueError, match="range"):
            schedule.time(lam)
    assert schedule.time(low) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LinearVP(0.0, 1.0), "beta_min"),
        (lambda: LinearVP(2.0, 1.0), "beta_min"),
        (lambda: SubVP(math.nan), "beta_min"),
        (lambda: CosineVP(0.0), "offset"),
        (lambda: VE(1.0, 1.0), "sigma_min"),
        (lambda: VE(-1.0, 1.0), "sigma_min"),
        (lambda: Tabulated([]), "non-empty"),
        (lambda: Tabulated([[0.1]]), "1-d"),
        (lambda: Tabulated([0.0, 0.1]), "between 0 and 1"),
        (lambda: Tabulated([0.1, 1.0, 0.1]), "between 0 and 1"),
        (lambda: Tabulated([1.0]), "between 0 and 1"),
        (lambda: Tabulated([0.1, math.nan]), "finite"),
    ],
)
def test_bad_settings_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_config_identifies_the_schedule():
    schedules = [*SCHEDULES.values(), LinearVP(0.2), VE(0.02), Tabulated.linear(999), CosineVP(log_snr_min=-11.0)]
    configs = [str(s.config()) for s in schedules]
    assert len(set(configs)) == len(configs)
    assert repr(LinearVP()) == "LinearVP(beta_min=0.1, beta_max=20.0)"


@pytest.mark.parametrize(("schedule", "variance"), [(VE(0.1, 30.0), 900.0), (LinearVP(), 1.0), (SubVP(), 1.0)])
def test_prior_variance_is_that_of_the_last_time(schedule, variance):
    assert schedule.prior_variance == variance
    assert schedule.sigma(1.0) ** 2 == pytest.approx(variance, rel=1e-4)
