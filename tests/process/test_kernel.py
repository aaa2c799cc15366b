"""The reverse kernel: exact marginals, the naive algebra in high precision, DDPM's discrete formula."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from schedules import SCHEDULES
from score_sde_analytic.process.kernel import kernels, prior_kl, reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Tabulated

ETAS = [0.0, 0.3, 1.0]
LEVELS = st.tuples(st.sampled_from(sorted(SCHEDULES)), st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(0.0, 1.0))


def vp(lam: float) -> Level:
    return Level(0.5, math.sqrt(1 / (1 + math.exp(-lam))), math.sqrt(1 / (1 + math.exp(lam))), lam)


def test_kernels_of_lattices():
    times = np.array([[0.9, 0.8], [0.5, 0.6], [0.1, 0.2]])
    schedule = SCHEDULES[sorted(SCHEDULES)[0]]
    found = kernels([schedule.level(row) for row in times])
    for column in range(2):
        alone = kernels([schedule.level(float(t)) for t in times[:, column]])
        for pair, single in zip(found, alone, strict=True):
            np.testing.assert_allclose([pair.a[column], pair.b[column]], [single.a, single.b], rtol=1e-12)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("lam_t", [-12.0, 0.0])
@pytest.mark.parametrize("h", [1e-12, 1e-6, 0.1, 1.0, 7.0, 20.0, 40.0])
def test_against_the_naive_algebra_in_high_precision(eta, lam_t, h):
    s, t = vp(lam_t + h), vp(lam_t)
    kernel = reverse_kernel(s, t, eta)
    with mpmath.workdps(60):
        # Exact levels of the two log-SNRs: what the floats in `s` and `t` round.
        lam = [mpmath.mpf(level.log_snr) for level in (s, t)]
        (alpha_s, alpha_t), (var_s, var_t) = ([1 / (1 + mpmath.exp(k * v)) for v in lam] for k in (-1, 1))
        alpha_s, alpha_t = mpmath.sqrt(alpha_s), mpmath.sqrt(alpha_t)
        var_ts = var_t - (alpha_t / alpha_s) ** 2 * var_s
        rho2 = mpmath.mpf(eta) ** 2 * var_s * var_ts / var_t
        a = mpmath.sqrt((var_s - rho2) / var_t)
        exact = {"a": a, "b": alpha_s - a * alpha_t, "rho2": rho2, "beta": var_ts}
        for name, value in exact.items():
            assert getattr(kernel, name) == pytest.approx(float(value), rel=1e-11, abs=1e-300), name


@given(LEVELS)
def test_marginals_are_exact(case):
    """If x_t = alpha_t x_0 + sigma_t eps then a x_t + b x_0 + rho z has the marginal of time s."""
    name, t_1, t_2, eta = case
    s, t = (SCHEDULES[name].level(time) for time in sorted((t_1, t_2)))
    assume(s.log_snr > t.log_snr)
    kernel = reverse_kernel(s, t, eta)
    assert kernel.a**2 * t.sigma**2 + kernel.rho2 == pytest.approx(s.sigma**2, rel=1e-9)
    assert kernel.a * t.alpha + kernel.b == pytest.approx(s.alpha, rel=1e-9)


@given(LEVELS, st.floats(0.0, 1.0))
def test_bounds_on_the_variance(case, residual):
    """rho^2 <= var <= rho^2 + b^2 (sigma_t / alpha_t)^2 for 0 <= R <= 1; it is sigma_ts^2 / alpha_ts^2 at eta = 1."""
    name, t_1, t_2, eta = case
    s, t = (SCHEDULES[name].level(time) for time in sorted((t_1, t_2)))
    assume(s.log_snr > t.log_snr + 1e-9)
    kernel, noise = reverse_kernel(s, t, eta), (t.sigma / t.alpha) ** 2
    assert 0.0 <= kernel.rho2 <= min(s.sigma**2, kernel.beta * (1 + 1e-9) / (t.alpha / s.alpha) ** 2)
    assert kernel.rho2 <= kernel.variance(residual * noise) <= kernel.variance(noise)
    ddpm = reverse_kernel(s, t)
    assert ddpm.variance(noise) == pytest.approx(ddpm.beta * (s.alpha / t.alpha) ** 2, rel=1e-6)


@given(LEVELS, st.floats(0.0, 1.0))
def test_two_ddpm_steps_are_one(case, fraction):
    """At eta = 1, q(x_r | x_t, x_0) is the composition of q(x_s | x_t, x_0) and q(x_r | x_s, x_0)."""
    name, t_1, t_2, _ = case
    low, high = sorted((t_1, t_2))
    schedule = SCHEDULES[name]
    r, s, t = (schedule.level(v) for v in (low, low + fraction * (high - low), high))
    assume(r.log_snr > s.log_snr + 1e-6 and s.log_snr > t.log_snr + 1e-6)
    first, second, direct = reverse_kernel(s, t), reverse_kernel(r, s), reverse_kernel(r, t)
    assert second.a * first.a == pytest.approx(direct.a, rel=1e-7)
    assert second.a * first.b + second.b == pytest.approx(direct.b, rel=1e-7)
    assert second.rho2 + second.a**2 * first.rho2 == pytest.approx(direct.rho2, rel=1e-7)


def test_excess_is_what_the_optimal_variance_adds(schedule):
    """b^2 exp(-lam_t) R: of a number, of every sample at its own level, and of every coordinate."""
    s, t = schedule.level(0.3), schedule.level(0.7)
    kernel = reverse_kernel(s, t, 0.5)
    expected = kernel.variance(0.4 * t.ratio**2) - kernel.rho2
    assert kernel.excess(0.4, t.log_snr) == pytest.approx(expected, rel=1e-9)
    residual = torch.tensor([[0.1, 0.2, 0.4], [0.4, 0.5, 0.6]], dtype=torch.float64)
    each = kernel.excess(residual, torch.full((2,), t.log_snr, dtype=torch.float64))
    torch.testing.assert_close(each, kernel.excess(residual, t.log_snr), rtol=1e-14, atol=0.0)
    assert float(each[1, 0]) == pytest.approx(expected, rel=1e-9)


def test_error_of_the_mean_is_b_times_that_of_the_prediction(schedule):
    kernel = reverse_kernel(schedule.level(0.3), schedule.level(0.7))
    square = torch.tensor([[1.0, 4.0], [9.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(kernel.error(square), kernel.b**2 * square)
    torch.testing.assert_close(kernel.error(square.mean(1)), kernel.error(square).mean(1))


def test_a_kernel_knows_its_eta(schedule):
    levels = schedule.levels([1.0, 0.5, 0.2])
    assert [k.eta for k in kernels(levels, 0.3)] == [0.3, 0.3]
    assert reverse_kernel(levels[1], levels[0]).eta == 1.0


def test_kernels_are_kept_as_they_are(schedule):
    """Also after their list was written to, and of another eta."""
    levels = schedule.levels([1.0, 0.5, 0.2])
    for eta in (1.0, 0.5, 1.0):
        made = kernels(levels, eta)
        assert made == [reverse_kernel(s, t, eta) for t, s in pairwise(levels)]
        made.clear()


def test_ddim_adds_no_noise(schedule):
    kernel = reverse_kernel(schedule.level(0.3), schedule.level(0.4), eta=0.0)
    assert kernel.rho2 == 0.0
    assert kernel.a == pytest.approx(schedule.sigma(0.3) / schedule.sigma(0.4))


@pytest.mark.parametrize("eta", ETAS)
def test_the_step_to_data_is_the_prediction(schedule, eta):
    kernel = reverse_kernel(schedule.level(0.0), schedule.level(0.4), eta)
    assert (kernel.a, kernel.b, kernel.rho2) == (0.0, 1.0, 0.0)
    assert kernel.variance(0.7) == 0.7


def test_adjacent_table_steps_are_ddpm():
    """beta and beta-tilde of Ho et al., 2020, eq. 7."""
    betas = np.linspace(1e-4, 0.02, 1000)
    bar, schedule = np.cumprod(1 - betas), Tabulated.linear()
    ks = kernels(schedule.levels(np.arange(1000, 0, -1) / 1000))
    n = np.arange(999, 0, -1)  # zero-based index of the level each step starts from
    np.testing.assert_allclose([k.beta for k in ks], betas[n], rtol=1e-9)
    np.testing.assert_allclose([k.rho2 for k in ks], (1 - bar[n - 1]) / (1 - bar[n]) * betas[n], rtol=1e-9)
    np.testing.assert_allclose([k.b for k in ks], np.sqrt(bar[n - 1]) * betas[n] / (1 - bar[n]), rtol=1e-9)
    np.testing.assert_allclose([k.a for k in ks], np.sqrt(1 - betas[n]) * (1 - bar[n - 1]) / (1 - bar[n]), rtol=1e-9)


def test_arrays_broadcast(schedule):
    def level(times):
        times = np.asarray(times)
        return Level(times, schedule.alpha(times), schedule.sigma(times), schedule.log_snr(times))

    early, late = np.array([0.0, 0.1, 0.2]), np.array([0.5, 0.6])
    matrix = reverse_kernel(level(early[:, None]), level(late), 0.5)
    column = reverse_kernel(level(early), schedule.level(0.6), 0.5)
    row = reverse_kernel(schedule.level(0.1), level(late), 0.5)
    for name in ("a", "b", "rho2"):
        expected = np.array(
            [[getattr(reverse_kernel(schedule.level(s), schedule.level(t), 0.5), name) for t in late] for s in early]
        )
        np.testing.assert_allclose(getattr(matrix, name), expected, rtol=1e-12)
        np.testing.assert_allclose(getattr(column, name), expected[:, 1], rtol=1e-12)
        np.testing.assert_allclose(getattr(row, name), expected[1], rtol=1e-12)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_outside_is_refused(eta):
    with pytest.raises(ValueError, match="eta"):
        reverse_kernel(vp(1.0), vp(0.0), eta)


@pytest.mark.parametrize("s", [0.4, 0.5])
def test_time_must_decrease(schedule, s):
    with pytest.raises(ValueError, match="earlier time"):
        reverse_kernel(schedule.level(s), schedule.level(0.4))


def test_prior_kl(schedule):
    """KL(N(alpha x_0, sigma^2) || N(0, prior)) averaged over E x_0^2, by hand; of many examples their mean."""
    alpha, sigma, prior = schedule.alpha(1.0), schedule.sigma(1.0), schedule.prior_variance
    by_hand = math.log(math.sqrt(prior) / sigma) + (sigma**2 + alpha**2 * 0.7) / (2 * prior) - 0.5
    assert float(prior_kl(schedule, 0.7)) == pytest.approx(by_hand, abs=1e-15)
    assert float(prior_kl(schedule, 0.7)) > 0
    each = prior_kl(schedule, torch.tensor([0.2, 1.2], dtype=torch.float64))
    assert float(each.mean()) == pytest.approx(by_hand, rel=1e-12)
