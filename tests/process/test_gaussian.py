"""Gaussian algebra: broadcasting, KL divergence, discretised mass."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from score_sde_analytic.process.gaussian import (
    add_scaled_,
    axpy,
    diagonal_kl,
    discretised_log_prob,
    expand,
    mean_square,
    normal_kl,
    scaled,
    square_error,
    step_kl,
)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 2, 2)])
def test_expand_scales_each_sample(shape):
    x, g = torch.randn(shape, dtype=torch.bfloat16), torch.arange(4.0, dtype=torch.float64)
    scaled = expand(g, x) * x
    assert scaled.dtype == torch.bfloat16
    assert scaled.shape == x.shape
    for i in range(4):
        torch.testing.assert_close(scaled[i], x[i] * i)


def test_expand_passes_scalars():
    x = torch.zeros(3, 2)
    assert expand(0.5, x) == 0.5
    assert expand(torch.tensor(0.5, dtype=torch.float64), x).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2,), (3, 1), (3, 2)])
def test_expand_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="batch of 3"):
        expand(torch.zeros(shape), torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("a", [0.3, -1e-3, torch.tensor(0.3), torch.tensor([0.5, -2.0, 0.7])])
def test_scaled_is_the_product_to_the_bit(dtype, a):
    x = torch.randn(3, 37, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(scaled(x, a), expand(a, x) * x)
    assert scaled(x, a).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sum_in_place_is_the_sum_to_the_bit(dtype):
    x, y = torch.randn(2, 3, 37, generator=torch.Generator().manual_seed(1)).to(dtype)
    for a in (0.3, torch.tensor([0.5, -2.0, 0.7])):
        assert torch.equal(add_scaled_(x.clone(), y, a), axpy(x, y, a))


def test_mean_square_accumulates_in_float64():
    x = torch.full((2, 1, 10, 10), 3.0, dtype=torch.bfloat16)
    assert mean_square(x).tolist() == [9.0, 9.0]
    assert mean_square(x).dtype == torch.float64


@given(mean=st.lists(st.floats(-5, 5), min_size=3, max_size=3), log_q=st.floats(-8, 8), log_p=st.floats(-8, 8))
def test_kl_matches_torch(mean, log_q, log_p):
    m, (q, p) = torch.tensor(mean, dtype=torch.float64), torch.tensor([log_q, log_p], dtype=torch.float64).exp()
    expected = kl_divergence(
        Independent(Normal(torch.zeros(3, dtype=torch.float64), q.sqrt()), 1), Independent(Normal(m, p.sqrt()), 1)
    )
    assert float(normal_kl(mean_square(m[None]), q, float(p))) == pytest.approx(float(expected) / 3, rel=1e-9, abs=1e-12)


def test_kl_vanishes_only_for_equal_normals():
    assert float(normal_kl(torch.zeros(()), 0.3, 0.3)) == 0.0
    assert float(normal_kl(torch.zeros(()), 0.3, 0.31)) > 0.0


POSITIVE = st.floats(1e-6, 1e6)


@given(square=POSITIVE, var_q=POSITIVE, excess=POSITIVE)
def test_kl_of_a_step_is_that_of_two_normals(square, var_q, excess):
    """Whatever container the numbers come in; and of all coordinates, the mean."""
    var_p = var_q + excess
    with mpmath.workdps(60):
        q, e = mpmath.mpf(var_q), mpmath.mpf(excess)
        exact = float((mpmath.log(1 + e / q) + (mpmath.mpf(square) - e) / (q + e)) / 2)
        scale = float((mpmath.log(1 + e / q) + (mpmath.mpf(square) + e) / (q + e)) / 2)  # terms that cancel
    one = torch.tensor([[square]], dtype=torch.float64)
    for found in (
        step_kl(square, var_q, excess, var_p),
        step_kl(square, var_q, excess),
        step_kl(np.array(square), np.array(var_q), np.array(excess), np.array(var_p)),
        step_kl(one, var_q, torch.full_like(one, excess), var_p),
        diagonal_kl(one, var_q, torch.full_like(one, excess)),
    ):
        assert float(found) == pytest.approx(exact, abs=1e-14 * scale)


@pytest.mark.parametrize("h", [1e-9, 1e-6, 1e-3])
def test_kl_of_a_tiny_step_keeps_its_digits(h):
    """With q = e it is log(1 + h) / 2, of which log(var_p / var_q) would lose all but 16 + log10 h digits."""
    assert step_kl(h, 1.0, h, 1.0 + h) == pytest.approx(0.5 * math.log1p(h), rel=1e-14)


def test_square_error_is_float64():
    x, y = torch.full((2, 3), 1.5), torch.full((2, 3), 0.25)
    assert square_error(x, y).dtype == torch.float64
    assert torch.all(square_error(x, y) == 1.5625)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mean", [0.0, 0.3, -1.0, 1.5, -40.0, 1e3])
@pytest.mark.parametrize("std", [1e-3, 0.05, 2.0, 100.0])
def test_bins_sum_to_one(levels, mean, std):
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    log_p = discretised_log_prob(grid, torch.tensor([[mean]], dtype=torch.float64), std, -1.0, 1.0, levels)
    assert torch.isfinite(log_p).all()
    assert (log_p <= 0).all()
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("mean", "std"), [(0.02, 0.02), (0.9, 0.05), (-1.5, 0.1), (0.5, 3.0)])
def test_bins_match_high_precision(mean, std):
    grid = torch.linspace(-1, 1, 17, dtype=torch.float64)
    log_p = discretised_log_prob(grid[:, None], torch.full((17, 1), mean, dtype=torch.float64), std, -1.0, 1.0, 17)
    with mpmath.workdps(60):

        def tail(x):  # P(Z > x), no cancellation for positive x
            return mpmath.erfc(x / mpmath.sqrt(2)) / 2

        for value, mine in zip(grid.tolist(), log_p.flatten().tolist(), strict=True):
            lower, upper = (
                (mpmath.mpf(value) - mpmath.mpf(mean) + side / mpmath.mpf(16)) / mpmath.mpf(std) for side in (-1, 1)
            )
            lower, upper = (-mpmath.inf if value == -1.0 else lower), (mpmath.inf if value == 1.0 else upper)
            mass = tail(lower) - tail(upper) if lower + upper > 0 else tail(-upper) - tail(-lower)
            assert mine == pytest.approx(float(mpmath.log(mass)), rel=1e-10, abs=1e-13)


def test_discretised_is_symmetric_and_accepts_float32_images():
    x = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    mean, std = torch.full((1, 1, 1, 3), 0.2), torch.tensor(0.3)
    here, mirrored = (discretised_log_prob(s * x, s * mean, std, -1.0, 1.0, 3) for s in (1, -1))
    torch.testing.assert_close(here, mirrored)
    assert here.dtype == torch.float64


@given(
    scale=st.floats(0.01, 300.0),
    shift=st.floats(-100, 100),
    mean=st.floats(-3, 3),
    log_std=st.floats(-4, 3),
    index=st.integers(0, 8),
)
def test_mass_does_not_depend_on_units(scale, shift, mean, log_std, index):
    """Bins, mean and std under an affine map keep their mass, as far as the map itself can be represented."""
    std = math.exp(log_std)

    def log_p(a, b):
        x, m = (torch.tensor([[a * v + b]], dtype=torch.float64) for v in (-1 + index / 4, mean))
        return float(discretised_log_prob(x, m, a * std, b - a, b + a, 9))

    rounding = 1e-15 * (1 + abs(shift) / scale) / std
    assert log_p(scale, shift) == pytest.approx(log_p(1.0, 0.0), rel=1e-9 + 100 * rounding, abs=1e-9 + 100 * rounding)


@pytest.mark.parametrize("std", [0.01, 0.1])
def test_gradients_of_mass_far_out(std):
    """By differences; beside a value 90 stds out there are others that are near."""
    x, mean = torch.tensor([[0.0], [-1.0]], dtype=torch.float64), torch.tensor([[0.001], [0.9]], dtype=torch.float64)

    def log_p(m):
        return discretised_log_prob(x, m, std, -1.0, 1.0, 256).sum()

    at = mean.clone().requires_grad_()
    log_p(at).backward()
    step = 1e-6 * torch.eye(2, dtype=torch.float64)[:, :, None]
    numeric = torch.stack([(log_p(mean + h) - log_p(mean - h)) / 2e-6 for h in step])
    torch.testing.assert_close(at.grad[:, 0], numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 17])
@pytest.mark.parametrize("std", [1e-3, 0.1, 5.0])
def test_outer_bins_extend_to_infinity(levels, std):
    """Their mass is one tail of the normal law, exact a thousand stds out."""
    half = 1 / (levels - 1)
    for side in (-1.0, 1.0):
        for deviations in (-3.0, 0.0, 5.0, 1000.0):
            mean = side * (1 - half) - side * deviations * std  # the edge lies so many stds beyond the mean
            x, m = torch.tensor([[side]], dtype=torch.float64), torch.tensor([[mean]], dtype=torch.float64)
            log_p = float(discretised_log_prob(x, m, std, -1.0, 1.0, levels))
            with mpmath.workdps(50):
                distance = (mpmath.mpf(1 - half) - mpmath.mpf(side * mean)) / mpmath.mpf(std)
                exact = float(mpmath.log(mpmath.erfc(distance / mpmath.sqrt(2)) / 2))
            assert log_p == pytest.approx(exact, rel=1e-9)
