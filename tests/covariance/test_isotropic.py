"""Covariance models: variances by their formulas, draws of the stated size, exact KL divergences."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic, IsotropicStep
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.kernel import kernels, reverse_kernel
from score_sde_analytic.process.schedule import LinearVP

CURVE = NoiseCurve(np.array([-3.0, 4.0]), np.array([-1.0, 2.0]))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_variances(schedule, eta):
    t, kernel = schedule.level(0.6), reverse_kernel(schedule.level(0.5), schedule.level(0.6), eta)
    v0 = CURVE.posterior_variance(t.log_snr)
    assert Beta().variance(kernel, t) == kernel.beta
    assert BetaTilde().variance(kernel, t) == kernel.rho2
    assert Isotropic(CURVE).variance(kernel, t) == pytest.approx(kernel.rho2 + kernel.b**2 * v0)
    assert Isotropic(CURVE, 0.5 * v0).variance(kernel, t) == pytest.approx(kernel.rho2 + kernel.b**2 * v0 / 2)
    assert Isotropic(CURVE, 2 * v0).variance(kernel, t) == Isotropic(CURVE).variance(kernel, t)


@pytest.mark.parametrize("covariance", [Beta(), BetaTilde(), Isotropic(CURVE), Isotropic(CURVE, 0.01)])
def test_steps_are_the_variances(schedule, covariance):
    levels = schedule.levels([1.0, 0.7, 0.2, 0.0])
    ks = kernels(levels)
    steps = covariance.steps(ks, levels[:-1])
    expected = [float(covariance.variance(k, t)) for k, t in zip(ks, levels[:-1], strict=True)]
    assert [step.variance for step in steps] == pytest.approx(expected, rel=1e-12)
    assert covariance.steps([], []) == []


def test_residual_of_one_is_the_papers_upper_bound(schedule):
    """C -> infinity gives rho^2 + b^2 (sigma_t / alpha_t)^2, C -> 0 gives beta-tilde."""
    t, kernel = schedule.level(0.6), reverse_kernel(schedule.level(0.5), schedule.level(0.6))
    for y, expected in ((-60.0, kernel.variance((t.sigma / t.alpha) ** 2)), (80.0, kernel.rho2)):
        assert Isotropic(NoiseCurve(np.zeros(1), np.array([y]))).variance(kernel, t) == pytest.approx(expected)


def test_gaussian_prior_form(schedule):
    """At eta = 1 var = (alpha_s^2 C + sigma_s^2) sigma_ts^2 / (alpha_t^2 C + sigma_t^2) for constant C."""
    c, s, t = 0.37, schedule.level(0.5), schedule.level(0.6)
    kernel = reverse_kernel(s, t)
    expected = (s.alpha**2 * c + s.sigma**2) * kernel.beta / (t.alpha**2 * c + t.sigma**2)
    assert Isotropic(NoiseCurve(np.zeros(1), np.array([-math.log(c)]))).variance(kernel, t) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 2, 2)])
def test_kl_matches_torch(schedule, shape):
    s, t = schedule.level(0.5), schedule.level(0.6)
    kernel, generator = reverse_kernel(s, t), torch.Generator().manual_seed(0)
    x_t, x_0, eps = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(3))
    prediction = Prediction(x_t, t, eps, "eps")

    def normal(mean, variance):
        return Independent(Normal(mean.flatten(1), math.sqrt(variance)), 1)

    q, p = (normal(kernel.a * x_t + kernel.b * x, v) for x, v in ((x_0, kernel.rho2), (prediction.x_0, 1.3 * kernel.rho2)))
    kl = IsotropicStep(1.3 * kernel.rho2).kl(kernel, prediction, x_0)
    torch.testing.assert_close(kl, kl_divergence(q, p) / x_0[0].numel(), rtol=1e-7, atol=1e-9)


def test_draws_have_the_variance():
    z = torch.randn(3, 2)
    step = IsotropicStep(0.25)
    torch.testing.assert_close(
        step.add_noise(torch.ones_like(z), Prediction(z, LinearVP().level_at(0.0), z, "eps"), z), 1.0 + 0.5 * z
    )
