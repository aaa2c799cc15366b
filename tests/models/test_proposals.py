"""Where noise levels are drawn never changes what is minimised; the best density, and the network that looks for it."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from score_sde_analytic import LinearVP
from score_sde_analytic.errors import InputError
from score_sde_analytic.models import MonotoneNet, fit_by_variance
from score_sde_analytic.models.monotone_net import variance_loss
from score_sde_analytic.models.proposals import DEFENSIVE, Adaptive, Even, EvenInTime, LearnedNet, OfSchedule, Steps
from score_sde_analytic.process import reverse_kernel

LOW, HIGH = -8.0, 7.0


def residual(log_snr):
    """R of a Gaussian of variance 0.3 in a tenth of the dimensions, 0.01 in the others."""
    snr = torch.exp(log_snr.double())
    return 0.1 * 0.3 * snr / (0.3 * snr + 1.0) + 0.9 * 0.01 * snr / (0.01 * snr + 1.0)


def integral(low, high):
    """Of `residual`, in closed form."""
    return sum(share * (np.log1p(c * np.exp(high)) - np.log1p(c * np.exp(low))) for share, c in ((0.1, 0.3), (0.9, 0.01)))


def seen(proposal, batches=300):
    """A proposal that has seen noisy residuals."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        shares = (torch.arange(64) + torch.rand(64, generator=generator)) / 64
        log_snr, _ = proposal.draw(shares)
        proposal.observe(log_snr, residual(log_snr) * torch.randn(64, 8, generator=generator).square().mean(1))
    return proposal


PROPOSALS = {
    "even": lambda: Even(LOW, HIGH),
    "even_in_time": lambda: EvenInTime(LOW, HIGH),
    "linear_vp": lambda: OfSchedule(LOW, HIGH, LinearVP()),
    "adaptive": lambda: seen(Adaptive(LOW, HIGH)),
    "learned_net": lambda: seen(LearnedNet(LOW, HIGH), 5),
}


@pytest.fixture(scope="module", params=PROPOSALS)
def proposal(request):
    return PROPOSALS[request.param]()


@pytest.mark.parametrize("integrand", [residual, lambda log_snr: (0.5 * log_snr).sin() + 1.0, torch.ones_like])
def test_a_weighted_mean_over_shares_is_the_integral(proposal, integrand):
    """E_pi[f / pi] = mean of f over the range, by the rule of midpoints in the shares."""
    log_snr, density = proposal.draw((torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000)
    fine = torch.linspace(LOW, HIGH, 20_001, dtype=torch.float64)
    expected = torch.trapezoid(integrand(fine), fine) / (HIGH - LOW)
    assert float((integrand(log_snr) / density).mean()) == pytest.approx(float(expected), rel=2e-3)
    assert float(log_snr.min()) >= LOW - 1e-6
    assert float(log_snr.max()) <= HIGH + 1e-6


def test_the_adaptive_density_becomes_that_of_the_integrand():
    """Within a few percent in every bin, although bins of little R are seen through the even share alone."""
    adaptive = seen(Adaptive(LOW, HIGH), 4000)
    edges = np.linspace(LOW, HIGH, len(adaptive.running) + 1)
    wanted = np.array([integral(a, b) for a, b in pairwise(edges)])
    wanted *= len(wanted) / wanted.sum()
    np.testing.assert_allclose(adaptive.relative, (1 - DEFENSIVE) * wanted + DEFENSIVE, rtol=0.15)
    np.testing.assert_allclose(float(adaptive.relative.mean()), 1.0, rtol=1e-12)


def variance(proposal, draws=20_000):
    """Of one draw of R / pi, over the square of its mean."""
    log_snr, density = proposal.draw((torch.arange(draws, dtype=torch.float64) + 0.5) / draws)
    values = residual(log_snr) / density
    return float(values.var() / values.mean() ** 2)


def test_variances_are_ordered_as_they_should_be():
    """Adaptive far below even, and even below linear VP."""
    found = {name: variance(make()) for name, make in PROPOSALS.items()}
    assert found["adaptive"] < 0.05 * found["even"] < 0.05 * found["linear_vp"]


@pytest.mark.slow
def test_the_learned_network_is_on_its_way():
    assert variance(seen(LearnedNet(LOW, HIGH), 100)) < 0.6 * variance(Even(LOW, HIGH))


def test_a_grid_costs_its_chain_of_posterior_variances():
    """1/2 sum expm1(lam_s - lam_t) R(lam_t) is the sum of KL divergences of steps with variance beta tilde."""
    schedule, lams = LinearVP(), [-7.0, -3.0, 0.5, 2.0, 6.0]
    levels = [schedule.level_at(lam) for lam in lams]
    r = residual(torch.tensor(lams)).tolist()
    kernels = [reverse_kernel(s, t) for t, s in pairwise(levels)]
    nats = sum(0.5 * k.excess(r[i], lams[i]) / k.rho2 for i, k in enumerate(kernels))
    steps = Steps(lams[::-1])
    log_snr, density = steps.draw((torch.arange(4) + 0.5) / 4)
    assert float((13.0 / 2 * residual(log_snr) / density).mean()) == pytest.approx(float(nats), rel=1e-9)


def test_the_bound_of_a_grid_falls_to_the_continuous_one():
    """With a slope of 1/T: its excess halves when steps double."""
    excess = []
    for count in (200, 400, 800):
        log_snr, density = Steps(np.linspace(LOW, HIGH, count + 1)).draw((torch.arange(count) + 0.5) / count)
        excess.append(float((0.5 * (HIGH - LOW) * residual(log_snr) / density).mean()) - 0.5 * integral(LOW, HIGH))
    assert all(value > 0 for value in excess) or all(value < 0 for value in excess)
    np.testing.assert_allclose(np.divide(excess[:-1], excess[1:]), 2.0, rtol=0.05)


def test_what_is_no_grid_is_refused():
    with pytest.raises(InputError, match="two or more different log-SNRs"):
        Steps([1.0, 1.0])
    with pytest.raises(InputError, match="outside this schedule's range"):
        OfSchedule(-30.0, 7.0, LinearVP())
    with pytest.raises(InputError, match="low < high"):
        MonotoneNet(1.0, 1.0)


# --- the network ---------------------------------------------------------------------------------------------------------


def shaken(seed, width=12):
    """A network of random weights."""
    net = MonotoneNet(-9.3, 6.1, width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 1.5 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return net


@pytest.mark.parametrize("seed", range(5))
def test_it_rises_between_ends_that_stay(seed):
    net = shaken(seed)
    share = torch.linspace(0.0, 1.0, 501, dtype=torch.float64)
    log_snr = net(share).detach()
    assert bool((log_snr.diff() > 0).all())
    assert abs(float(log_snr[0]) + 9.3) < 1e-12
    assert abs(float(log_snr[-1]) - 6.1) < 1e-12
    torch.testing.assert_close(net.share(log_snr), share, rtol=0, atol=1e-9)
    fine = torch.linspace(-9.3, 6.1, 20_001, dtype=torch.float64)
    assert float(torch.trapezoid(net.density(fine), fine)) == pytest.approx(1.0, abs=1e-3)


def test_its_derivatives_are_those_of_autograd():
    net, share = shaken(0), torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    (rate,) = torch.autograd.grad(net(share).sum(), share, create_graph=True)
    (bend,) = torch.autograd.grad(rate.sum(), share)
    torch.testing.assert_close(net.rate(share), rate)
    torch.testing.assert_close(net.bend(share), bend)


def test_the_gradient_is_that_of_the_variance():
    """Of 1/4 integral of E r^2 / pi, by central differences of a quadrature over log-SNR in every weight."""
    net, lam = shaken(1, width=3), torch.linspace(-9.3, 6.1, 8001, dtype=torch.float64)

    def second_moment(log_snr):
        return residual(log_snr) ** 2

    def functional():
        return float(torch.trapezoid(0.25 * second_moment(lam) / net.density(lam), lam))

    share = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    value = variance_loss(net, share, second_moment(net(share).detach()))
    value.backward()
    assert value.item() == pytest.approx(functional(), rel=1e-4)
    for weight in net.parameters():
        for at in np.ndindex(*weight.shape):
            with torch.no_grad():
                weight[at] += 1e-4
                above = functional()
                weight[at] -= 2e-4
                below = functional()
                weight[at] += 1e-4
            assert float(weight.grad[at]) == pytest.approx((above - below) / 2e-4, rel=2e-3, abs=1e-5 * value.item())


@pytest.mark.slow
def test_fitting_reaches_the_closed_form():
    """(1/2 integral of sqrt E r^2)^2, the smallest there is by Cauchy and Schwarz, within 2 %."""
    lam = torch.linspace(LOW, HIGH, 20_001, dtype=torch.float64)
    best = (0.5 * float(torch.trapezoid(residual(lam) * 1.1**0.5, lam))) ** 2
    net = MonotoneNet(LOW, HIGH)
    even = fit_by_variance(MonotoneNet(LOW, HIGH), lambda log_snr: 1.1 * residual(log_snr) ** 2, steps=1)
    found = fit_by_variance(net, lambda log_snr: 1.1 * residual(log_snr) ** 2)
    assert best * (1 - 1e-6) < found < 1.02 * best < 0.4 * even
