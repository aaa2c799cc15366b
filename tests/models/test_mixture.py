"""Gaussian mixtures: score, posterior and moments against autograd, quadrature and closed forms."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import LinearVP

T = [0.02, 0.3, 0.9]


@pytest.fixture(scope="module")
def rotated() -> GaussianMixture:
    """Three components with full, different covariances in three dimensions."""
    rng = np.random.default_rng(1)
    factors = 0.5 * rng.normal(size=(3, 3, 3))
    return GaussianMixture([0.2, 0.5, 0.3], rng.normal(size=(3, 3)), factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(3))


@pytest.fixture(params=T)
def state(request, schedule, rotated):
    level = schedule.level(request.param)
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return level, level.alpha * rotated.sample(5) + level.sigma * z


def jacobian(function, x):
    """d function(x)_i / d x_j per row, (n, d, d)."""
    x = x.clone().requires_grad_()
    out = function(x)
    return torch.stack([torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0] for i in range(x.shape[1])], 1)


def test_score_is_the_gradient_of_log_density(rotated, state):
    level, x = state
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(rotated.log_density(x, level).sum(), x)
    torch.testing.assert_close(rotated.score(x, level), gradient, rtol=1e-9, atol=1e-9 / level.sigma)


def test_posterior_is_tweedie(rotated, state):
    """E[x_0 | x_t] = (x_t + sigma^2 score) / alpha; Cov(x_0 | x_t) = (sigma^2 / alpha) d E[x_0 | x_t] / d x_t."""
    level, x = state
    mean, covariance = rotated.posterior(x, level)
    torch.testing.assert_close(mean, (x + level.sigma**2 * rotated.score(x, level)) / level.alpha, rtol=1e-6, atol=1e-7)
    slope = jacobian(lambda y: rotated.posterior(y, level)[0], x)
    torch.testing.assert_close(covariance, level.sigma**2 / level.alpha * slope, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(covariance, covariance.mT)


@pytest.mark.parametrize("t", [0.0, *T])
def test_log_density_integrates_to_one(triple, schedule, t):
    level = schedule.level(t)
    width = level.alpha * 5 + level.sigma * 12
    x = torch.linspace(-width, width, 60_001, dtype=torch.float64)
    density = triple.log_density(x[:, None], level).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1.0, abs=1e-9)


def test_samples_have_the_stated_moments(rotated):
    count = 40_000
    x, stats = rotated.sample(count, seed=3), rotated.statistics()
    covariance = torch.cov(x.T)
    # Six standard errors in each of 3 + 3 + 1 numbers: false alarm below 2e-8.
    scale = float(covariance.diagonal().max())
    assert (x.mean(0) - stats.mean).abs().max() < 6 * math.sqrt(scale / count)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(covariance), torch.from_numpy(stats.eigenvalues), rtol=0, atol=6 * scale * math.sqrt(3 / count)
    )
    square = x.square().mean(1)
    assert abs(float(square.mean()) - stats.second_moment) < 6 * float(square.std()) / math.sqrt(count)
    assert stats.variance == pytest.approx(stats.eigenvalues.mean())
    assert stats.count == 0
    torch.testing.assert_close(rotated.sample(10, seed=3), rotated.sample(10, seed=3))


@pytest.mark.parametrize("variances", [0.3, [0.3, 1.0, 0.01]])
def test_single_gaussian_residual(schedule, variances):
    """R = mean_i snr l_i / (1 + snr l_i), the same in every state."""
    gaussian = GaussianMixture([2.0], [[1.0, -0.5, 0.2]], variances)
    level = schedule.level(0.3)
    power = math.exp(level.log_snr) * np.broadcast_to(variances, 3)
    value, error = gaussian.residual(level, 100)
    assert value == pytest.approx((power / (1 + power)).mean(), rel=1e-10)
    assert error < 1e-10


def test_residual_agrees_with_quadrature(triple):
    level = LinearVP().level(0.25)
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    variance = triple.posterior(x, level)[1][:, 0, 0] * math.exp(level.log_snr)
    exact = float(torch.trapezoid(triple.log_density(x, level).exp() * variance, x[:, 0]))
    value, error = triple.residual(level, 4096)
    assert abs(value - exact) < 5 * error  # false alarm 6e-7
    assert error < 0.05 * exact


@pytest.mark.parametrize(
    ("covariances", "k", "d"),
    [
        (0.5, 2, 3),
        ([0.5, 0.5], 2, 3),
        ([0.5] * 3, 2, 3),
        (np.full((2, 3), 0.5), 2, 3),
        (np.tile(0.5 * np.eye(3), (2, 1, 1)), 2, 3),
        ([0.5], 1, 1),
        ([0.5] * 3, 1, 3),
    ],
)
def test_forms_of_covariances(covariances, k, d):
    level = LinearVP().level(0.5)
    means = np.arange(k * d, dtype=float).reshape(k, d)
    x = torch.randn(4, d, dtype=torch.float64)
    expected = GaussianMixture(np.ones(k), means, 0.5)
    given = GaussianMixture(np.ones(k), means, covariances)
    torch.testing.assert_close(given.log_density(x, level), expected.log_density(x, level))


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "match"),
    [
        ([1, 1], [[0.0]], 1.0, "weights"),
        ([1], [0.0], 1.0, "means"),
        ([1, 0], [[0.0], [1.0]], 1.0, "positive"),
        ([1, np.nan], [[0.0], [1.0]], 1.0, "finite"),
        ([1], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]], "negative"),
        ([1, 1], [[0.0, 0.0], [1.0, 1.0]], [0.5, 1.0], "more than one"),
        ([1], [[0.0, 0.0]], [1.0, 1.0, 1.0], "fit no"),
        ([1, 1], [[5e299], [8e299]], 1.0, "beyond float64"),
        ([1e308, 1e308], [[0.0], [1.0]], 1.0, "beyond float64"),
    ],
)
def test_bad_mixtures_are_refused(weights, means, covariances, match):
    with pytest.raises(ValueError, match=match):
        GaussianMixture(weights, means, covariances)


def test_network_serves_mixed_levels(triple):
    x, lam = torch.randn(6, 1, dtype=torch.float64), torch.tensor([1.0, -2.0, 1.0, 0.5, 0.5, 7.0], dtype=torch.float64)
    rows = torch.cat([triple(x[i : i + 1], lam[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(triple(x, lam), rows)
    assert triple(x.float(), lam).dtype == torch.float32


def test_score_model_is_exact_under_every_schedule(rotated, state, schedule):
    level, x = state
    prediction = rotated.score_model(schedule).predict(x, level)
    torch.testing.assert_close(prediction.score, rotated.score(x, level), rtol=1e-8, atol=1e-8)


def test_shapes_are_checked(triple):
    with pytest.raises(TypeCheckError):
        triple.log_density(torch.zeros(3, dtype=torch.float64), LinearVP().level(0.5))


def test_mean_responsibilities_are_the_weights(planar):
    """E r_k(x) = w_k over exact draws; beyond 4.4 standard errors with probability 1e-5."""
    shares = planar.responsibilities(planar.sample(2000, 7), LinearVP().level(0.0))
    stderr = shares.std(0) / math.sqrt(2000)
    assert ((shares.mean(0) - planar.weights).abs() < 4.4 * stderr).all()
