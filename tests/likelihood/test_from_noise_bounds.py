"""Likelihoods and prices from pure noise, alpha = 0 at t = 1: exact where the data are Gaussian, whatever the network says."""

import itertools
import math

import numpy as np
import pytest
import torch

from schedules import TO_NOISE
from score_sde_analytic.covariance.isotropic import Beta, Isotropic
from score_sde_analytic.grids.grid import Grid, even, even_log_snr
from score_sde_analytic.grids.lattice import Lattice, transition_costs, transition_slopes
from score_sde_analytic.grids.optimal import Objective, closed_form, entropic, refined
from score_sde_analytic.likelihood import Adaptive, Chain, ContinuousTime, ExactTrace, Flow, bits_per_dim
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import Interpolant
from score_sde_analytic.process.decoder import NoDecoder
from score_sde_analytic.process.kernel import prior_kl, reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import CosineVP, RectifiedFlow

QUIET = {"progress": False}
MEAN, VARIANCE = 0.7, 0.3
EXACT = NoiseCurve(np.zeros(1), np.array([-math.log(VARIANCE)]))
GAUSSIAN = GaussianMixture([1.0], [[MEAN, MEAN]], VARIANCE)
to_noise = pytest.mark.parametrize("schedule", TO_NOISE.values(), ids=TO_NOISE)
#: The others are for `make test-all`.
some = pytest.mark.parametrize(
    "schedule",
    [pytest.param(s, id=name, marks=() if name == "rectified" else pytest.mark.slow) for name, s in TO_NOISE.items()],
)


def velocity_model(schedule):
    """The velocity eps - x_0 of N(MEAN, VARIANCE) in the coordinates of flow matching: one network for every schedule."""

    def net(x, share):
        sigma = share.double().reshape(-1, 1)
        alpha = 1.0 - sigma
        score = -(x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)
        x_0 = MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)
        return -sigma * score - x_0

    return ScoreModel(net, schedule, "velocity", Interpolant(), coordinates="interpolant", fingerprint="velocity")


@to_noise
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_kernel_from_pure_noise_is_the_limit(schedule, eta):
    s, t = schedule.level(0.4), schedule.level(1.0)
    kernel = reverse_kernel(s, t, eta)
    assert kernel.a == pytest.approx(s.sigma * math.sqrt(1 - eta**2), abs=1e-15)
    assert (kernel.b, kernel.rho2, kernel.beta) == pytest.approx((s.alpha, eta**2 * s.sigma**2, 1.0), rel=1e-14)
    near = reverse_kernel(s, Level(1.0, math.exp(-18), math.sqrt(1 - math.exp(-36)), -36.0), eta)
    assert (near.b, near.rho2, near.beta) == pytest.approx((kernel.b, kernel.rho2, kernel.beta), rel=1e-7)


@to_noise
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_gaussian_chains_cost_the_information(schedule, steps):
    """Sum of transitions = I(x_0; x_{t_1}) = 1/2 log(1 + snr C): nothing is lost by any grid, the first step included."""
    grid = even(steps, 0.02) if steps > 1 else Grid((1.0, 0.0))
    total = transition_costs(schedule, EXACT, Isotropic(EXACT), grid).sum()
    snr = math.exp(schedule.log_snr(grid.times[-2]))
    assert total == pytest.approx(0.5 * math.log1p(snr * VARIANCE) if steps > 1 else 0.0, rel=1e-12)
    if steps > 1:
        assert transition_costs(schedule, EXACT, Beta(), grid)[0] > 0.0
        shifted = NoiseCurve(EXACT.log_snr, EXACT.y + 1e-5)
        numeric = (
            transition_costs(schedule, shifted, Isotropic(EXACT), grid)
            - transition_costs(schedule, EXACT, Isotropic(EXACT), grid)
        ) / 1e-5
        np.testing.assert_allclose(transition_slopes(schedule, EXACT, Isotropic(EXACT), grid)[1], numeric, rtol=1e-4)


@to_noise
def test_measured_chains_cost_what_was_predicted(schedule):
    x, grid = GAUSSIAN.sample(400, seed=1), even_log_snr(schedule, 6, schedule.time(3.0))
    chain = Chain(grid, Isotropic(EXACT), NoDecoder())
    bound = bits_per_dim(velocity_model(schedule), x, chain, **QUIET)
    assert bound.prior.value == 0.0
    expected = transition_costs(schedule, EXACT, Isotropic(EXACT), grid) / math.log(2)
    assert np.all(np.abs(bound.per_step - expected) < 4.5 * bound.per_step_stderr)
    assert bound.per_step_stderr[0] > 0.0


@some
def test_flows_have_the_density_of_the_data(schedule):
    x = GAUSSIAN.sample(6, seed=3)
    flow = Flow(schedule.time(14.0), divergence=ExactTrace(), solver=Adaptive(1e-7, 1e-7))
    nats = bits_per_dim(velocity_model(schedule), x, flow, **QUIET).nats
    exact = -GAUSSIAN.log_density(x, schedule.level(0.0)).numpy()
    np.testing.assert_allclose(nats, exact, rtol=0, atol=1e-5)
    latent = flow.encode(velocity_model(schedule), x)
    torch.testing.assert_close(latent, (x - MEAN) / math.sqrt(VARIANCE), rtol=0, atol=1e-4)
    torch.testing.assert_close(flow.decode(velocity_model(schedule), latent, torch.float64), x, rtol=0, atol=1e-4)


def test_flows_have_the_density_of_a_mixture(planar):
    x, schedule = planar.sample(5, seed=3), RectifiedFlow()
    flow = Flow(schedule.time(14.0), divergence=ExactTrace(), solver=Adaptive(1e-6, 1e-6))
    nats = bits_per_dim(planar.score_model(schedule), x, flow, **QUIET).nats
    assert np.abs(nats + planar.log_density(x, schedule.level(0.0)).numpy()).max() < 1e-4


@to_noise
def test_the_continuous_bound_is_the_information(schedule):
    x = GAUSSIAN.sample(300, seed=2)
    method = ContinuousTime(schedule.time(3.0), NoDecoder(), times=16, curve=EXACT)
    bound = bits_per_dim(velocity_model(schedule), x, method, **QUIET)
    expected = 0.5 * math.log1p(math.exp(3.0) * VARIANCE) / math.log(2)
    assert abs(bound.transitions.value - expected) < 4.5 * bound.transitions.stderr
    assert method.transition_nats(schedule, EXACT, None)[0] / math.log(2) == pytest.approx(expected, rel=1e-6)


@to_noise
def test_priors_of_pure_noise_cost_nothing(schedule):
    assert float(prior_kl(schedule, 0.25)) == 0.0
    free = LinearDenoiser.exact(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert free.prior_price([-math.inf])[0].tolist() == [0.0]
    z = torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(free.start(z, schedule.level(1.0)), z)
    assert free.prior_nats(z, schedule.level(1.0), z).abs().max() < 1e-15


# --- grids ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steep():
    lam = np.linspace(-9.0, 9.0, 19)
    return NoiseCurve(lam, 0.5 * lam + np.tanh(lam / 2))


@some
@pytest.mark.parametrize("capped", [False, True])
def test_lattices_begin_with_the_exact_first_step(schedule, steep, capped):
    """Optimal grids by either solver are those of brute force, and cost what their transitions do."""
    lattice = Lattice.even_log_snr(schedule, 12, 8.0)
    assert lattice.times[-1] == 1.0
    assert lattice.levels.log_snr[-1] == -math.inf
    np.testing.assert_allclose(np.diff(lattice.log_snr[:-1]), np.diff(lattice.log_snr[:-1])[0], rtol=1e-9)
    covariance = Isotropic(steep, 0.5) if capped else Isotropic(steep)
    first_cost = np.linspace(0.0, 2.0, 12)
    grids = lattice.optimal_grids(steep, covariance, first_cost, 4)
    for k, grid in grids.items():
        assert grid.times[0] == 1.0
        assert grid.cost == pytest.approx(priced(lattice, grid, schedule, steep, covariance, first_cost), rel=1e-9)
        paths = [(*inner, 11) for inner in itertools.combinations(range(11), k - 1)]
        made = [Grid((*lattice.times[list(path)][::-1].tolist(), 0.0)) for path in paths]
        best = min(priced(lattice, other, schedule, steep, covariance, first_cost) for other in made)
        assert grid.cost == pytest.approx(best, rel=1e-9)


def priced(lattice, grid, schedule, curve, covariance, first_cost):
    index = int(np.argmin(np.abs(lattice.times - grid.times[-2])))
    return transition_costs(schedule, curve, covariance, grid).sum() + first_cost[index]


def test_grids_cost_what_they_do_under_schedules_that_end_late(steep):
    """The price depends on log-SNRs alone: from -40 on nothing is left to gain."""
    late, whole = CosineVP(log_snr_min=-40.0), CosineVP(log_snr_min=-math.inf)
    for steps in (2, 5, 9):
        for make in (closed_form, refined, entropic):
            objective = Objective(steep, whole.finite_range[0], 8.0)
            grid = make(whole, objective, steps)
            assert grid.times[0] == 1.0
            exact = transition_costs(whole, steep, Isotropic(steep), grid).sum()
            assert grid.cost == pytest.approx(exact, abs=2e-3)
            moved = Grid((1.0, *np.asarray(late.time(whole.log_snr(np.array(grid.times[1:-1])))).tolist(), 0.0))
            assert transition_costs(late, steep, Isotropic(steep), moved).sum() == pytest.approx(exact, rel=1e-6)
