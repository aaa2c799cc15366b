"""One law, written where each of its callers needs it: the KL of a reverse step at eta = 1, in units of rho^2.

    1/2 mean [log(1 + g) + (q - g) / (1 + g)],   g = e R,   q = e r^2,   e = expm1(h)

Their roundings differ, and results on disk depend on them, so they are not one line; but they are one law.
"""

import math

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.head_training import score
from score_sde_analytic.covariance.tweedie import _volume
from score_sde_analytic.measure.held_out import _Knot
from score_sde_analytic.process.gaussian import diagonal_kl
from score_sde_analytic.process.kernel import optimal_step_nats

H = [1e-6, 0.1, 0.8, 6.0]


@pytest.fixture(scope="module")
def residual():
    return torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def square():
    return torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("h", H)
def test_every_price_is_the_kl_of_a_step(residual, square, h):
    e = math.expm1(h)
    law = diagonal_kl(e * square, 1.0, e * residual)
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    prices = {
        "held out": torch.as_tensor(_Knot(np.arange(7), np.ones(7), residual, square, weights)._nats(h)),
        "score of a head": 0.5 * score(residual, square, "step", torch.full((7,), h, dtype=torch.float64)).mean(1),
        "volume and misfit": 0.5 * (_volume(e * residual) + e * square / (1 + e * residual)).mean(1),
    }
    for name, price in prices.items():
        torch.testing.assert_close(price, law, rtol=1e-9, atol=1e-12 * e / (1 + e), msg=name)


@pytest.mark.parametrize("h", H)
def test_where_the_error_is_as_expected_it_is_the_optimum(residual, h):
    """q = g leaves 1/2 log(1 + R expm1(h))."""
    g = math.expm1(h) * residual
    np.testing.assert_allclose(diagonal_kl(g, 1.0, g).numpy(), optimal_step_nats(residual.numpy(), h).mean(1), rtol=1e-13)
