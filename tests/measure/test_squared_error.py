"""The squared error of a draw as a random number: exact for a model whose errors have a known law."""

import numpy as np
import pytest
import torch

from score_sde_analytic.errors import InputError
from score_sde_analytic.measure import Budget, Moments, SquaredError, estimate
from score_sde_analytic.models import GaussianMixture
from score_sde_analytic.process import LinearVP

KNOTS = np.linspace(-6.0, 6.0, 7)
D = 8


@pytest.fixture(scope="module")
def gaussian():
    """Standard normal data in D dimensions: eps - eps_hat ~ N(0, R I), r = R chi^2_D / D, Var r = 2 R^2 / D."""
    mixture = GaussianMixture([1.0], np.zeros((1, D)), 1.0)
    budget = Budget(min_draws=2000, max_draws=2000, batch_size=500)
    data = mixture.sample(20_000, seed=3)
    return estimate(mixture.score_model(LinearVP()), data, KNOTS, budget, statistics=mixture.statistics(), progress=False)


def test_recorded_spread_is_that_of_chi_squared(gaussian):
    """Var(r) / R^2 has a relative error of about sqrt(2 + 12 / D) / sqrt(2000): 5 standard errors, one false alarm in 1e5."""
    error = gaussian.squared_error
    exact = 1.0 / (1.0 + np.exp(-KNOTS))
    np.testing.assert_allclose(error.mean(KNOTS), exact, rtol=1e-6)  # controls remove all noise
    np.testing.assert_allclose(error.variance(KNOTS) / exact**2, 2.0 / D, rtol=5.0 * np.sqrt((2 + 12 / D) / 2000))


def test_groups_add_up_to_the_products(gaussian):
    np.testing.assert_allclose(gaussian.squares.sum(0), gaussian.products[:, 2, 2], rtol=1e-12)
    parts = [gaussian.part(fold) for fold in gaussian.folds(4)]
    np.testing.assert_allclose(sum(part.squares.sum(0) for part in parts), gaussian.squares.sum(0), rtol=1e-12)


def test_between_and_beyond_knots_it_follows_the_law(gaussian):
    """R = snr / (1 + snr) of normal data, from knots 2 apart: within 3 %; at high noise in proportion to snr."""
    lam = np.linspace(-12.0, 5.9, 100)
    error = gaussian.squared_error
    np.testing.assert_allclose(error.mean(lam), 1.0 / (1.0 + np.exp(-lam)), rtol=0.03)
    np.testing.assert_allclose(error.second_moment(lam), error.mean(lam) ** 2 + error.std(lam) ** 2, rtol=1e-12)


def test_constant_errors_have_no_spread_and_no_sign_to_lose():
    error = SquaredError(KNOTS, np.full(7, 0.5), np.zeros(7))
    assert error.std(0.0) < 1e-5
    with pytest.raises(InputError, match=r"at log-SNR 0\.0 is not positive"):
        SquaredError(KNOTS, np.where(KNOTS == 0.0, -1e-3, 0.5), np.ones(7))


def test_squares_are_kept_in_the_file(gaussian, tmp_path):
    gaussian.save(tmp_path / "moments.safetensors")
    np.testing.assert_array_equal(Moments.load(tmp_path / "moments.safetensors").squares, gaussian.squares)


def test_mixture_draws_have_the_recorded_second_moment(mixture, table, moments):
    """E r^2 at one level against 4,000 draws of its own, 5 standard errors of both."""
    model, x_0 = mixture.score_model(table), mixture.sample(4000, seed=11)
    level = table.level_at(float(moments.log_snr[16]))
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(4), dtype=x_0.dtype)
    squares = (eps - model.predict(level.diffuse(x_0, eps), level).eps).square().mean(1).double().numpy() ** 2
    recorded, error = moments.jackknife(lambda part: part.squared_error.second_moment(moments.log_snr[16]))
    assert abs(recorded - squares.mean()) < 5.0 * np.hypot(error, squares.std() / np.sqrt(len(squares)))
