"""Free models against Gaussian mixtures, whose score, density and moments are exact."""

import math

import numpy as np
import pytest
import torch

from score_sde_analytic.data.basis import PixelChannel
from score_sde_analytic.data.transforms import DCT, PCA, ColourDCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.free import FreeModel, LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.models.probability_flow import CLOCKS, transport
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP

TIMES = [0.02, 0.3, 1.0]


@pytest.fixture(scope="module")
def gaussian() -> GaussianMixture:
    """One component with a full covariance in five dimensions."""
    factor = np.random.default_rng(1).normal(size=(5, 5))
    return GaussianMixture([1.0], np.random.default_rng(2).normal(size=(1, 5)), (factor @ factor.T)[None])


@pytest.fixture(scope="module")
def linear(gaussian: GaussianMixture) -> LinearDenoiser:
    return LinearDenoiser.exact(*gaussian.moments())


def draws(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", TIMES)
def test_gaussian_data_are_known_exactly(gaussian, linear, schedule, t):
    """Denoiser, density and residual are those of the only component."""
    level, x = schedule.level(t), 2.0 * draws(7, 5)
    torch.testing.assert_close(linear.x_0(x, level), gaussian.posterior(x, level)[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(linear.log_prob(x, level), gaussian.log_density(x, level), rtol=1e-9, atol=1e-9)
    assert linear.residual([level.log_snr])[0] == pytest.approx(gaussian.residual(level)[0], rel=1e-9)


@pytest.mark.parametrize("t", TIMES)
def test_the_start_lies_on_the_flow(gaussian, linear, t):
    """From x_t, the exact flow of the data arrives at the start of any other level."""
    model = gaussian.score_model(LinearVP())
    z = draws(3, 5)
    first, last = model.schedule.level(t), model.schedule.level(0.1)
    span = float(first.log_snr), float(last.log_snr)
    solver = Adaptive(rtol=1e-9, atol=1e-11)
    x = transport(model, CLOCKS["log_snr"], linear.start(z, first), span, solver, 0.01, torch.float64, 3)
    torch.testing.assert_close(x, linear.start(z, last), rtol=1e-5, atol=1e-6)


def test_a_start_is_the_noise_itself_where_there_is_no_signal(linear):
    torch.testing.assert_close(linear.start(draws(3, 5), Level(1.0, 0.0, 1.0, -math.inf)), draws(3, 5))


@pytest.mark.parametrize("t", TIMES)
def test_the_prior_term_is_the_mean_of_its_own_draws(linear, t):
    """KL in closed form against the estimator that every free model has."""
    level = LinearVP().level(t)
    x_0 = draws(1, 5, seed=3).expand(40_000, 5)
    values = FreeModel.prior_nats(linear, x_0, level, draws(40_000, 5))
    exact = linear.prior_nats(x_0[:1], level, draws(1, 5))
    assert float(values.mean()) == pytest.approx(float(exact), abs=4.0 * float(values.std()) / 200.0)


def test_the_prior_term_of_its_own_data_is_half_the_log(gaussian, linear):
    """1/2 mean log(1 + snr c_k): what infinitely many steps with W would cost."""
    level = LinearVP().level(0.3)
    x_0 = gaussian.sample(20_000)
    nats = linear.prior_nats(x_0, level, x_0)
    expected = 0.5 * np.log1p(math.exp(level.log_snr) * linear.spectrum).mean()
    assert float(nats.mean()) == pytest.approx(expected, abs=4.0 * float(nats.std()) / math.sqrt(20_000))


def test_its_score_model_is_the_data_s(gaussian, linear, schedule):
    model = linear.score_model(schedule)
    x, level = draws(4, 5), schedule.level(0.4)
    torch.testing.assert_close(model.predict(x, level).score, gaussian.score(x, level), rtol=1e-7, atol=1e-7)
    times = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    each = torch.cat([model(x[i : i + 1], float(t)).x_0 for i, t in enumerate(times)])
    torch.testing.assert_close(model(x, times).x_0, each, rtol=1e-9, atol=1e-9)
    assert (
        model.fingerprint()
        != LinearDenoiser(linear.basis, linear.mean, 2.0 * linear.spectrum).score_model(schedule).fingerprint()
    )


@pytest.mark.parametrize("basis", [DCT(), ColourDCT(np.eye(2)), PixelChannel(), PCA(np.eye(24)[:3]), None])
def test_any_basis_agrees_with_dense_algebra(basis):
    """U^T diag(c) U of the fit, put together column by column, gives the same denoiser by a linear solve."""
    x = draws(200, 2, 3, 4) * torch.linspace(0.2, 2.0, 24).reshape(2, 3, 4) + 1.0
    free = LinearDenoiser.of(x, basis, shrinkage=0.01)
    unit = torch.eye(24, dtype=torch.float64).reshape(24, 2, 3, 4)
    rows = free.basis.forward(unit).flatten(1)  # row i: U e_i
    covariance = rows @ torch.diag(torch.as_tensor(free.spectrum.ravel())) @ rows.T
    level = LinearVP().level(0.2)
    noisy = level.alpha**2 * covariance + level.sigma**2 * torch.eye(24, dtype=torch.float64)
    off = (x[:5] - level.alpha * free.mean).flatten(1)
    dense = free.mean.flatten() + level.alpha * (covariance @ torch.linalg.solve(noisy, off.T)).T
    torch.testing.assert_close(free.x_0(x[:5], level).flatten(1), dense.to(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(free.mean, x.mean(0))


def test_half_precision_comes_back_in_half_precision(linear):
    level = LinearVP().level(0.5)
    x = draws(2, 5).half()
    for found, exact in (
        (linear.x_0(x, level), linear.x_0(x.double(), level)),
        (linear.start(x, level), linear.start(x.double(), level)),
    ):
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-3)


def test_labels_pool_the_spectrum():
    x = draws(50, 1, 4, 4)
    basis = DCT(radial=True)
    spectrum = LinearDenoiser.of(x, basis, shrinkage=0.0).spectrum
    squares = basis.forward(x - x.mean(0)).square().mean(0).numpy()
    labels = basis.labels((1, 4, 4))
    for label in range(labels.max() + 1):
        np.testing.assert_allclose(spectrum[labels == label], squares[labels == label].mean())


@pytest.mark.parametrize("shrinkage", ["held_out", "oas", "ledoit_wolf"])
def test_few_examples_leave_no_direction_without_variance(shrinkage):
    """Twenty examples in forty dimensions: held out, a shrunk fit beats an unshrunk one, whose null space is empty."""
    scale = torch.linspace(0.1, 1.0, 40, dtype=torch.float64)
    x, other = draws(20, 40) * scale, draws(500, 40, seed=1) * scale
    free, bare = (LinearDenoiser.of(x, shrinkage=s) for s in (shrinkage, 0.0))
    assert free.spectrum.min() > 1e-3
    assert np.sum(bare.spectrum < 1e-12) == 21
    level = LinearVP().level(0.1)
    assert free.prior_nats(other, level, other).mean() < 0.8 * bare.prior_nats(other, level, other).mean()


def test_files_give_the_same_model_back(linear, tmp_path):
    linear.save(tmp_path / "free.safetensors")
    loaded = LinearDenoiser.load(tmp_path / "free.safetensors")
    assert loaded.config() == linear.config()
    level = LinearVP().level(0.5)
    assert torch.equal(loaded.x_0(draws(2, 5), level), linear.x_0(draws(2, 5), level))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LinearDenoiser(PixelChannel(), torch.zeros(2), np.ones(3)), "variance per coordinate"),
        (lambda: LinearDenoiser(PixelChannel(), torch.zeros(2), np.array([1.0, -1.0])), "not negative"),
        (lambda: LinearDenoiser(PixelChannel(), torch.tensor([0.0, math.nan]), np.ones(2)), "NaN"),
        (lambda: LinearDenoiser.exact(torch.zeros(2), -torch.eye(2)), "negative eigenvalue"),
        (lambda: LinearDenoiser.exact(torch.zeros(2), torch.eye(3)), "covariance"),
        (lambda: LinearDenoiser.of(torch.ones(20, 3)), "no spread"),
        (lambda: LinearDenoiser.of(torch.randn(20, 3), shrinkage=2.0), "shrinkage"),
        (lambda: LinearDenoiser.of(torch.randn(20, 3), shrinkage="often"), "shrinkage"),
        (lambda: LinearDenoiser.of(torch.randn(5, 3)), "too few"),
        (lambda: LinearDenoiser.of(torch.randn(20, 3)).x_0(torch.zeros(1, 4), LinearVP().level(0.5)), "examples"),
    ],
)
def test_mistakes_are_named(make, says):
    with pytest.raises(InputError, match=says):
        make()
