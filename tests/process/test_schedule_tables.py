"""Tables of others, schedules from functions, and schedules that end in pure noise."""

import math
import time

import numpy as np
import pytest
import torch

from schedules import MORE, SCHEDULES, TO_NOISE
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, RectifiedFlow, Schedule, Sigmas, Tabulated

ALL = MORE | TO_NOISE
every = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
to_noise = pytest.mark.parametrize("schedule", TO_NOISE.values(), ids=TO_NOISE)


@every
def test_log_snr_falls_and_time_inverts_it(schedule):
    t = np.concatenate([np.geomspace(1e-9, 1e-3, 60), np.linspace(1e-3, 1.0, 700)[1:]])
    lam = schedule.log_snr(t)
    assert np.all(np.diff(lam) < 0)
    assert np.all(lam <= schedule.log_snr_range[1])
    back = schedule.time(lam)
    slope = np.abs(np.gradient(lam[:-1], t[:-1]))
    rounding = 64 * np.spacing(np.maximum(1.0, np.abs(lam[:-1]))) / slope
    np.testing.assert_array_less(np.abs(back - t)[:-1], 1e-12 * t[:-1] + rounding)
    assert back[-1] == pytest.approx(1.0, abs=1e-13)


@every
def test_rates_are_those_of_the_laws(schedule):
    t = (np.arange(3, 400, 17) + 0.31) / 403
    step = 1e-6 * t
    for law, rate in ((schedule.log_alpha, schedule._log_alpha_rate), (schedule.log_sigma, schedule._log_sigma_rate)):
        np.testing.assert_allclose(rate(t), (law(t + step) - law(t - step)) / (2 * step), rtol=2e-4, atol=1e-7)
    end, step = 1.0 - 1e-6, 1e-8
    ahead, behind = (schedule.log_alpha(end + k * step) for k in (1, -1))
    assert schedule.drift(end) == pytest.approx((ahead - behind) / (2 * step), rel=1e-3, abs=1e-6)


@to_noise
def test_pure_noise_is_a_level_like_others(schedule):
    """alpha = 0, sigma = 1 and log-SNR -inf at t = 1, and back; everything before it is finite."""
    assert schedule.ends_in_noise
    level = schedule.level(1.0)
    assert (level.alpha, level.sigma, level.log_snr, level.ratio) == (0.0, 1.0, -math.inf, math.inf)
    assert schedule.time(-math.inf) == 1.0
    assert schedule.log_snr_range == (-math.inf, math.inf)
    assert np.isfinite(schedule.finite_range[0])
    assert schedule.level_at(-math.inf) == level
    assert schedule.time(np.array([-math.inf, 0.0, math.inf])).tolist() == [1.0, schedule.time(0.0), 0.0]
    late = 1.0 - np.geomspace(1e-12, 9e-4, 40)
    assert np.all(np.isfinite(schedule.log_snr(late)))
    np.testing.assert_allclose(schedule.alpha(late) / schedule.alpha(late[-1]), (1 - late) / (1 - late[-1]), rtol=2e-2)


def test_others_end_above_pure_noise():
    for schedule in SCHEDULES.values():
        assert not schedule.ends_in_noise
        assert schedule.finite_range == schedule.log_snr_range


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shift_only_moves_times(shift):
    schedule, plain = RectifiedFlow(shift), RectifiedFlow()
    t = np.linspace(0.01, 0.99, 50)
    u = shift * t / (1 + (shift - 1) * t)
    np.testing.assert_allclose(schedule.alpha(t), 1 - u, rtol=1e-12)
    np.testing.assert_allclose(schedule.sigma(t), u, rtol=1e-14)
    np.testing.assert_allclose(schedule.log_snr(t), plain.log_snr(t) - 2 * math.log(shift), rtol=1e-11, atol=1e-11)


def test_the_velocity_is_the_drift_of_the_rectified_flow():
    """d x_t / dt = eps - x_0: d alpha / dt = -1, d sigma / dt = 1."""
    t, h = np.linspace(0.1, 0.9, 9), 1e-6
    schedule = RectifiedFlow()
    np.testing.assert_allclose((schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h), -1.0, rtol=1e-8)
    np.testing.assert_allclose((schedule.sigma(t + h) - schedule.sigma(t - h)) / (2 * h), 1.0, rtol=1e-8)


def test_the_cosine_to_the_end_is_the_cosine():
    whole, cut = CosineVP(log_snr_min=-math.inf), CosineVP(log_snr_min=-30.0)
    lam = np.linspace(-25.0, 20.0, 40)
    np.testing.assert_allclose(whole.time(lam) * whole._span, cut.time(lam) * cut._span, rtol=1e-9)
    offset = 0.008
    u = np.linspace(0.01, 0.99, 50)
    bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2 / math.cos(offset / (1 + offset) * np.pi / 2) ** 2
    np.testing.assert_allclose(whole.alpha(u) ** 2, bar, rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "make"),
    [("linear", Tabulated.linear), ("scaled_linear", Tabulated.scaled_linear), ("sigmoid", Tabulated.sigmoid)],
)
@pytest.mark.parametrize("zero", [False, True])
def test_tables_are_those_of_diffusers(name, make, zero):
    diffusers = pytest.importorskip("diffusers")
    settings = {"beta_schedule": name, "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": zero}
    theirs = diffusers.DDPMScheduler(**settings).alphas_cumprod.double().numpy()
    ours = make(1000, 0.00085, 0.012, zero_terminal_snr=zero)
    # float32 products of a thousand factors
    np.testing.assert_allclose(ours.alpha(ours.times) ** 2, theirs, rtol=2e-4 if zero else 1e-5, atol=1e-9)
    assert ours.ends_in_noise == zero


def test_the_laplace_table_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_schedule="laplace").alphas_cumprod.double().numpy()
    ours = Tabulated.laplace()
    np.testing.assert_allclose(ours.alpha(ours.times) ** 2, theirs, rtol=2e-4)


def test_tables_without_terminal_signal_keep_their_first_value():
    table = Tabulated.linear(zero_terminal_snr=True)
    root = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(table.alpha(table.times), expected, rtol=1e-9, atol=1e-15)
    assert table.alpha(1.0) == 0.0
    np.testing.assert_allclose(table.alpha(0.9995), 0.5 * table.alpha(0.999), rtol=1e-9)  # linear in the last cell


def test_alpha_bar_gives_back_its_table():
    bar = Tabulated.linear().alpha(np.arange(1, 1001) / 1000) ** 2
    np.testing.assert_allclose(Tabulated.of_alpha_bar(bar).betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-9)
    ending = Tabulated.of_alpha_bar([0.9, 0.4, 0.0])
    assert ending.ends_in_noise
    np.testing.assert_allclose(ending.alpha(ending.times) ** 2, [0.9, 0.4, 0.0], rtol=1e-14)


@pytest.mark.parametrize("bar", [[1.0, 0.5], [0.5, 0.6], [0.5, -0.1], [[0.5]], []])
def test_products_that_do_not_fall_are_refused(bar):
    with pytest.raises(ValueError, match="alpha_bar must fall"):
        Tabulated.of_alpha_bar(bar)


def test_a_geometric_table_of_sigmas_is_the_variance_exploding_schedule():
    table = VE().sigma(np.arange(1, 101) / 100)
    ours = Sigmas(table)
    t = np.linspace(0.001, 1.0, 300)
    np.testing.assert_allclose(ours.sigma(t), VE().sigma(t), rtol=1e-12)
    assert ours.prior_variance == pytest.approx(2500.0)
    assert ours.log_snr_range == pytest.approx((VE().log_snr(1.0), VE().log_snr_range[1]))
    falling = Sigmas(np.append(table[::-1], 0.0))
    np.testing.assert_array_equal(falling.sigmas, table)
    uneven = Sigmas([0.1, 1.0, 80.0])
    np.testing.assert_allclose(uneven.sigma(np.arange(1, 4) / 3), [0.1, 1.0, 80.0])


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 1.0], [2.0, 1.0, 3.0], [-1.0, 1.0], [[1.0, 2.0]], [0.0, 1.0]])
def test_tables_that_are_no_levels_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas must be"):
        Sigmas(sigmas)


def test_functions_are_the_schedule_they_are_of():
    for name, own in (("functions", LinearVP()), ("functions_ve", VE()), ("functions_flow", RectifiedFlow())):
        t = np.append(np.geomspace(1e-6, 1e-2, 10), np.linspace(0.02, 0.995, 40))
        made = MORE[name]
        np.testing.assert_allclose(made.log_snr(t), own.log_snr(t), rtol=1e-13)
        np.testing.assert_allclose(made.drift(t), own.drift(t), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(made.diffusion(t), own.diffusion(t), rtol=1e-8)
        assert made.prior_variance == pytest.approx(own.prior_variance)
        assert made.ends_in_noise == own.ends_in_noise
        assert made.log_snr_range == pytest.approx(own.log_snr_range, rel=1e-9)
    assert len({str(schedule.config()) for schedule in MORE.values()}) == len(MORE)


@pytest.mark.parametrize(
    "laws",
    [
        (lambda t: 0 * t, lambda t: -t),
        (lambda t: np.nan * t, np.log),
        (lambda t: -t, lambda t: np.where(t == 1, np.inf, np.log(t))),
    ],
)
def test_functions_that_are_no_schedule_are_refused(laws):
    with pytest.raises(ValueError, match="strictly decreasing"):
        Schedule.from_functions(*laws)


def test_times_of_a_table_are_found_at_once():
    """Under 0.2 ms for 16 values, the fastest of many calls, where any machine allows for ten times that."""
    schedule, lam = Tabulated.linear(), np.linspace(-9.0, 9.0, 16)
    schedule.time(lam)
    took = []
    for _ in range(30):
        begin = time.perf_counter()
        schedule.time(lam)
        took.append(time.perf_counter() - begin)
    assert min(took) < 2e-3
    np.testing.assert_allclose(schedule.log_snr(schedule.time(lam)), lam, rtol=0, atol=1e-12)


@every
def test_containers_and_levels(schedule):
    times = torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64)
    batch = schedule.level(times)
    for i, t in enumerate(times.tolist()):
        level = schedule.level(t)
        assert isinstance(level.alpha, float)
        assert (float(batch.alpha[i]), float(batch.log_snr[i])) == pytest.approx((level.alpha, level.log_snr))
    assert [level.alpha for level in schedule.levels([1.0, 0.7, 0.0])][::2] == [schedule.alpha(1.0), 1.0]
