"""What covariances answer when they are asked: eta, shares, caps, and what a step costs besides its own call."""

import math

import pytest
import torch

from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.heads import Interpolated, LearnedDiagonal
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic, IsotropicCovariance, IsotropicStep
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.process.kernel import kernels, reverse_kernel
from score_sde_analytic.process.schedule import LinearVP

CURVE = NoiseCurve(torch.tensor([-3.0, 4.0]).double().numpy(), torch.tensor([-1.0, 2.0]).double().numpy())
LEVELS = LinearVP().levels([1.0, 0.6, 0.2])


class Bare(Covariance):
    """No more than a covariance must have."""

    def steps(self, kernels, levels):
        return []

    def fingerprint(self, kernels, levels):
        return []


def test_a_bare_covariance_answers_everything():
    kernel, t = reverse_kernel(LEVELS[1], LEVELS[0]), LEVELS[0]
    bare = Bare()
    assert (bare.priced, bare.isotropic, bare.ddpm_only, bare.has_posterior) == (False, False, False, True)
    assert bare.extra_calls(10) == 0
    assert bare.nodes(CURVE, CURVE.log_snr) is None
    for eta in (0.0, 0.5, 1.0):
        bare.require_eta(eta)
    with pytest.raises(TypeError, match="ask for `isotropic` first"):
        bare.variance(kernel, t)
    with pytest.raises(TypeError, match="cannot be priced"):
        bare.step_nats(CURVE, LEVELS[1], t)


def test_what_is_made_of_beta_belongs_to_eta_one():
    """beta is no variance of q(x_s | x_t, x_0) for eta < 1, and its excess over rho^2 is no covariance of x_0."""
    for covariance in (Beta(), Interpolated()):
        assert covariance.ddpm_only
        assert not covariance.has_posterior
        covariance.require_eta(1.0)
        for eta in (0.0, 0.999):
            with pytest.raises(ValueError, match="beta, a variance of the DDPM kernel: use eta=1"):
                covariance.require_eta(eta)
    for kind in (BetaTilde, Isotropic, Diagonal, LearnedDiagonal, Tweedie):
        assert not kind.ddpm_only
        assert kind.has_posterior
    with pytest.raises(ValueError, match="eta=1"):
        Interpolated().steps(kernels(LEVELS, 0.5), LEVELS[:-1])


def test_isotropic_ones_say_their_variance():
    ks = kernels(LEVELS)
    for covariance in (Beta(), BetaTilde(), Isotropic(CURVE)):
        assert covariance.isotropic
        steps = covariance.steps(ks, LEVELS[:-1])
        for step, kernel, t in zip(steps, ks, LEVELS[:-1], strict=True):
            assert step.variance == pytest.approx(covariance.variance(kernel, t), rel=1e-12)
    assert issubclass(IsotropicCovariance, Covariance)
    assert not any(kind.isotropic for kind in (Diagonal, LearnedDiagonal, Interpolated, Tweedie))


def test_a_cap_is_the_smaller_variance():
    step = IsotropicStep(0.25)
    assert [step.capped(cap).variance for cap in (0.1, 0.25, math.inf)] == [0.1, 0.25, 0.25]


def test_only_isotropic_steps_can_be_capped(mixture):
    step = Tweedie(mixture.score_model(LinearVP())).steps(kernels(LEVELS), LEVELS[:-1])[0]
    with pytest.raises(ValueError, match="isotropic covariances; set clip=0"):
        step.capped(0.1)


@pytest.mark.parametrize(("products", "two_sided", "extra"), [(3, False, 4), (3, True, 7), (1, False, 2)])
def test_what_a_jacobian_costs(mixture, products, two_sided, extra):
    """Of each noisy step: a call with its graph, and its products, two each if two-sided; as the receipt has it."""
    model = mixture.score_model(LinearVP())
    covariance = Tweedie(model, products, two_sided=two_sided)
    assert [covariance.extra_calls(steps) for steps in (0, 1, 5)] == [0, extra, 5 * extra]
