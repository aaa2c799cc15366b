"""The mixture as a free model: exact where the mixture is, its flow of fourth order, its fit judged on other data."""

import math

import numpy as np
import pytest
import torch

from score_sde_analytic.data.basis import PixelChannel
from score_sde_analytic.data.transforms import DCT, PCA
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.free import FreeModel, LinearDenoiser
from score_sde_analytic.models.free_mixture import MixtureDenoiser
from score_sde_analytic.models.judged import Judged
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.models.probability_flow import CLOCKS, transport
from score_sde_analytic.process.schedule import VE, LinearVP, RectifiedFlow, Schedule

TIMES = [0.02, 0.3, 0.8]
SCHEDULES = [LinearVP(), VE()]


@pytest.fixture(scope="module")
def free(planar: GaussianMixture) -> MixtureDenoiser:
    """The planar mixture about its mean, in rotated coordinates, as a free model; nothing is fitted."""
    mean, covariance = planar.moments()
    linear = LinearDenoiser.exact(mean, covariance)
    u = torch.as_tensor(linear.basis.components)
    moved = [u @ (basis * values) @ basis.T @ u.T for basis, values in zip(planar.basis, planar.eigenvalues, strict=True)]
    return MixtureDenoiser(linear, [0, 1], GaussianMixture(planar.weights, (planar.means - mean) @ u.T, torch.stack(moved)))


def draws(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_it_is_the_mixture(planar, free, schedule: Schedule, t: float):
    level, x = schedule.level(t), 1.5 * draws(6, 2)
    torch.testing.assert_close(free.x_0(x, level), planar.posterior(x, level)[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(free.log_prob(x, level), planar.log_density(x, level), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(free.score_model(schedule).predict(x, level).score, planar.score(x, level), rtol=1e-6, atol=1e-6)


def test_pure_noise_is_noise(free):
    """Where VP schedules end lower still, the start tends to it."""
    z = draws(5, 2)
    schedule = RectifiedFlow()
    found = free.start(z, schedule.level(1.0))
    torch.testing.assert_close(found, z, rtol=0, atol=1e-14)
    torch.testing.assert_close(free.start(z, schedule.level_at(-40.0)), z, rtol=0, atol=1e-7)


def test_levels_may_differ_between_samples(free):
    model = free.score_model(LinearVP())
    times, x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), draws(3, 2)
    each = torch.cat([model(x[i : i + 1], float(t)).x_0 for i, t in enumerate(times)])
    torch.testing.assert_close(model(x, times).x_0, each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_start_stays_on_the_flow(planar, free, schedule: Schedule):
    """Carried on by an adaptive solver from the start at one level, samples arrive at the start of another."""
    model, z = planar.score_model(schedule), draws(4, 2)
    first, last = (schedule.level(float(schedule.time(lam))) for lam in (-3.0, 1.0))
    span = float(first.log_snr), float(last.log_snr)
    solver = Adaptive(rtol=1e-9, atol=1e-11)
    x = transport(model, CLOCKS["log_snr"], free.start(z, first), span, solver, 0.01, torch.float64, 4)
    torch.testing.assert_close(x, free.start(z, last), rtol=0.0, atol=2e-3)


def test_its_integration_is_of_fourth_order(free):
    level, z = LinearVP().level(0.1), draws(20, 2)
    states = [MixtureDenoiser(free.linear, [0, 1], free.mixture, steps).start(z, level) for steps in (2, 4, 32)]
    coarse, fine = (float((state - states[-1]).norm()) for state in states[:2])
    assert 10.0 < coarse / fine < 24.0


def test_the_start_has_the_law_of_the_level(planar, free):
    """log p of starts and of noisy data agree in mean, to four standard errors, and so do their first moments."""
    level = LinearVP().level(0.2)
    starts = free.start(draws(4000, 2), level)
    noisy = level.diffuse(planar.sample(4000, seed=3), draws(4000, 2, seed=1))
    for of in (lambda x: free.log_prob(x, level), lambda x: x[:, 0], lambda x: x[:, 0] * x[:, 1], lambda x: x[:, 1] ** 2):
        one, other = of(starts), of(noisy)
        error = math.sqrt((float(one.var()) + float(other.var())) / 4000)
        assert float(one.mean() - other.mean()) == pytest.approx(0.0, abs=4.0 * error)


def test_the_prior_term_is_unbiased_and_steadier(free):
    """With the Gaussian as a control variate, the mean is that of log q - log p, with less spread."""
    level, eps = LinearVP().level(0.1), draws(20_000, 2)
    x_0 = draws(1, 2, seed=4).expand(20_000, 2)
    plain, steady = FreeModel.prior_nats(free, x_0, level, eps), free.prior_nats(x_0, level, eps)
    error = float((plain - steady).std()) / math.sqrt(20_000)
    assert float((plain - steady).mean()) == pytest.approx(0.0, abs=4.0 * error)
    assert steady.std() < 0.8 * plain.std()


@pytest.mark.slow
def test_the_price_of_its_own_data_is_their_information(free, planar):
    """E KL(q || p) = I(x_0; x_t) / d = 1/2 integral of R: the judged price of its own draws is what the model says."""
    schedule = LinearVP()
    value, stderr = Judged.on(planar.sample(2000, seed=6), free, schedule, knots=40).prior_price([0.0])
    lam = np.linspace(-10.0, 0.0, 11)
    integral = 0.5 * np.trapezoid(free.residual(lam), lam)
    assert value[0] == pytest.approx(integral, abs=4.0 * float(stderr[0]) + 0.01)


@pytest.mark.parametrize("basis", [None, DCT(), PixelChannel()])
def test_a_fit_beats_the_gaussian_on_other_data(basis):
    """Three separated components in eight dimensions, of which the mixture models four, in any basis."""
    means = np.zeros((3, 8))
    means[:, :3] = 2.0 * np.eye(3)
    truth = GaussianMixture(np.ones(3), means, 0.05)
    linear = LinearDenoiser.of(truth.sample(600), basis)
    free = MixtureDenoiser.of(truth.sample(600), linear, components=(1, 3), shrinkage=(0.5, 1.0), rank=4)
    assert len(free.mixture.weights) == 3
    assert len(free.leading) == 4
    other, level = truth.sample(500, seed=9), LinearVP().level(0.2)
    nats = [each.prior_nats(other, level, draws(500, 8)).mean() for each in (free, linear)]
    assert nats[0] < 0.9 * nats[1]


def test_one_component_is_the_gaussian():
    x = draws(300, 4) * torch.tensor([1.0, 0.5, 0.2, 0.1])
    linear = LinearDenoiser.of(x, shrinkage=0.0)
    free = MixtureDenoiser.of(x, linear, components=(1,), shrinkage=(0.0,))
    level = LinearVP().level(0.2)
    floor = float(linear.spectrum.min())
    shifted = LinearDenoiser(linear.basis, linear.mean, linear.spectrum + floor)
    torch.testing.assert_close(free.x_0(x[:5], level), shifted.x_0(x[:5], level), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(free.start(x[:5], level), shifted.start(x[:5], level), rtol=1e-3, atol=1e-4)


def test_files_give_the_same_model_back(free, tmp_path):
    free.save(tmp_path / "mixture.safetensors")
    loaded = MixtureDenoiser.load(tmp_path / "mixture.safetensors")
    assert loaded.config() == free.config()
    level = LinearVP().level(0.3)
    assert torch.equal(loaded.start(draws(3, 2), level), free.start(draws(3, 2), level))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda linear, mixture: MixtureDenoiser(linear, [0], mixture), "different places"),
        (lambda linear, mixture: MixtureDenoiser(linear, [0, 0], mixture), "different places"),
        (lambda linear, mixture: MixtureDenoiser(linear, [0, 9], mixture), "leading"),
        (lambda linear, mixture: MixtureDenoiser.of(draws(12, 2), components=(40,)), "too few"),
        (lambda linear, mixture: MixtureDenoiser.of(draws(12, 2), components=()), "components"),
        (lambda linear, mixture: MixtureDenoiser.of(draws(12, 3), linear), "examples"),
    ],
)
def test_mistakes_are_named(make, says):
    linear = LinearDenoiser(PCA(np.eye(2)), torch.zeros(2), np.ones(2))
    with pytest.raises(InputError, match=says):
        make(linear, GaussianMixture([1.0], [[0.0, 0.0]], 1.0))
