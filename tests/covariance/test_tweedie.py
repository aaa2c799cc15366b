"""Covariances from the Jacobian: closed forms of mixtures and Gaussians, order in K, Krylov methods against dense algebra."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from score_sde_analytic.covariance.isotropic import BetaTilde
from score_sde_analytic.covariance.tweedie import Linearised, Tweedie, krylov
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.likelihood.chain import Chain
from score_sde_analytic.likelihood.evaluation import bits_per_dim
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.process.kernel import kernels, reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import Ancestral, generate

LINEAR = LinearVP()


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def noisy(mixture, level, count, seed=0):
    """(x_0, x_t)."""
    x_0 = mixture.sample(count, seed)
    return x_0, level.alpha * x_0 + level.sigma * draw(count, mixture.dim, seed=seed + 1)


def one_step(covariance, s, t, eta=1.0):
    kernel = reverse_kernel(s, t, eta)
    (step,) = covariance.steps([kernel], [t])
    return kernel, step


def roots(step, prediction):
    """Sigma^{1/2} at every state, (n, d, d), column by column."""
    zero, columns = torch.zeros_like(prediction.x_t), []
    for axis in torch.eye(zero.shape[1], dtype=zero.dtype):
        columns.append(step.add_noise(zero, prediction, axis.expand_as(zero)))
    return torch.stack(columns, 2)


def correlated(dim, low, high, seed=0):
    basis = torch.linalg.qr(draw(dim, dim, seed=seed))[0].numpy()
    return (basis * np.geomspace(low, high, dim)) @ basis.T


@pytest.fixture(scope="module")
def gaussian():
    """Six correlated dimensions, variances from 0.001 to 1."""
    return GaussianMixture([1.0], draw(1, 6, seed=3), correlated(6, 1e-3, 1.0)[None])


@pytest.fixture(scope="module")
def pair():
    """Two correlated Gaussians in three dimensions."""
    covariances = np.stack([correlated(3, 0.02, 0.4, seed) for seed in (1, 2)])
    return GaussianMixture([0.4, 0.6], [[-0.7, 0.2, 0.0], [0.6, -0.3, 0.4]], covariances)


class Asymmetric(torch.nn.Module):
    """A random network whose Jacobian is neither symmetric nor positive."""

    def __init__(self, dim, seed=0, hidden=32, scale=2.0):
        super().__init__()
        self.first, self.second = (
            torch.nn.Parameter(scale * draw(*shape, seed=seed + i) / math.sqrt(shape[1]))
            for i, shape in enumerate([(hidden, dim), (dim, hidden)])
        )

    def forward(self, x, labels):
        return torch.tanh(x @ self.first.mT + labels[:, None]) @ self.second.mT


# --- products -----------------------------------------------------------------------------------------------------------


def test_matrix_is_the_posterior_covariance(schedule, pair):
    model = pair.score_model(schedule)
    covariance = Tweedie(model)
    for t in (0.05, 0.4, 0.9):
        level = schedule.level(t)
        x_t = noisy(pair, level, 20)[1]
        exact = pair.posterior(x_t, level)[1] * (level.alpha / level.sigma) ** 2
        prediction = model.predict(x_t, level)
        torch.testing.assert_close(covariance.matrix(prediction), exact, rtol=1e-8, atol=1e-8)
        values, vectors = covariance.spectrum(prediction)
        torch.testing.assert_close(vectors @ torch.diag_embed(values) @ vectors.mT, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score", "edm"])
@pytest.mark.parametrize("coordinates", ["schedule", "vp", "ve", "edm"])
def test_products_are_of_eps_whatever_the_network_predicts(predicts, coordinates):
    model = ScoreModel(Asymmetric(4), LINEAR, predicts, coordinates=coordinates)
    level, x_t, v = LINEAR.level(0.3), draw(3, 4, seed=5), draw(3, 4, seed=6)
    linearised = Linearised(model, model.predict(x_t, level), two_sided=True)
    transposed, forward = linearised.transposed(v), linearised.forward(v)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda x: model.predict(x[None], level).eps[0], x_t[i])
        torch.testing.assert_close(transposed[i], v[i] - level.sigma * jacobian.mT @ v[i])
        torch.testing.assert_close(forward[i], v[i] - level.sigma * jacobian @ v[i])


def test_clamped_coordinates_are_certain():
    """Cov(x_0 | x_t) = 0 where x0_hat stays at the end of its range, in the package's sense of a clamped prediction."""
    model = ScoreModel(lambda x, labels: 3.0 * x, LINEAR, "x_0", clamp=(-1.0, 1.0))
    level = LINEAR.level(0.5)
    found = Tweedie(model).matrix(model.predict(torch.tensor([[0.1, 2.0, -0.2]], dtype=torch.float64), level))
    torch.testing.assert_close(found[0], 3.0 * level.alpha * torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)))


# --- one step against dense algebra --------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [(0.4, 0.5), (0.2, 0.9), (0.0, 0.3)])
def test_draws_have_the_posterior_covariance(pair, eta, times):
    s, t = (LINEAR.level(time) for time in times)
    model = pair.score_model(LINEAR)
    kernel, step = one_step(Tweedie(model, products_per_draw=3), s, t, eta)
    x_t = noisy(pair, t, 8)[1]
    root = roots(step, model.predict(x_t, t))
    expected = kernel.rho2 * torch.eye(3, dtype=torch.float64) + kernel.b**2 * pair.posterior(x_t, t)[1]
    torch.testing.assert_close(root, root.mT, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(root @ root, expected, rtol=1e-9, atol=1e-10)


def dense(model, x_t, level):
    """The covariance as its definition has it, sample by sample: symmetrised, negative eigenvalues set to 0."""
    out, lowest = [], math.inf
    for x in x_t:
        jacobian = torch.autograd.functional.jacobian(lambda x: model.predict(x[None], level).eps[0], x)
        c = torch.eye(len(x), dtype=torch.float64) - level.sigma * jacobian
        assert not torch.allclose(c, c.mT, atol=0.1)  # the case that is tested
        values, vectors = torch.linalg.eigh(0.5 * (c + c.mT))
        lowest = min(lowest, float(values[0]))
        out.append(vectors @ torch.diag(values.clamp_min(0)) @ vectors.mT * (level.sigma / level.alpha) ** 2)
    assert lowest < -0.1
    return torch.stack(out)


@pytest.mark.parametrize("two_sided", [True, False])
def test_asymmetric_networks_are_symmetrised_and_clipped(two_sided):
    model = ScoreModel(Asymmetric(5, scale=1.5), LINEAR)
    s, t = LINEAR.level(0.4), LINEAR.level(0.6)
    kernel, step = one_step(Tweedie(model, products_per_draw=5, two_sided=two_sided), s, t)
    x_t, x_0 = draw(6, 5, seed=8), draw(6, 5, seed=9)
    sigma = kernel.rho2 * torch.eye(5, dtype=torch.float64) + kernel.b**2 * dense(model, x_t, t)
    prediction = model.predict(x_t, t)
    root = roots(step, prediction)
    torch.testing.assert_close(root @ root, sigma, rtol=1e-8, atol=1e-10)
    mean_q, mean_p = (kernel.a * x_t + kernel.b * x for x in (x_0, prediction.x_0))
    q = MultivariateNormal(mean_q, kernel.rho2 * torch.eye(5, dtype=torch.float64))
    expected = kl_divergence(q, MultivariateNormal(mean_p, sigma)) / 5
    torch.testing.assert_close(step.kl(kernel, prediction, x_0), expected, rtol=1e-8, atol=1e-10)
    quadrature = Tweedie(model, method="lanczos", products_per_probe=5, probes=150, two_sided=two_sided)
    full = one_step(quadrature, s, t)[1]
    torch.testing.assert_close(full.kl(kernel, prediction, x_0), expected, rtol=0.15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 2, 2), (12,)])
def test_shapes_and_precision(dtype, shape):
    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Asymmetric(12).to(dtype)

        def forward(self, x, labels):
            return self.inner(x.flatten(1), labels).view_as(x)

    model = ScoreModel(Image(), LINEAR)
    kernel, step = one_step(Tweedie(model, products_per_draw=4), LINEAR.level(0.4), LINEAR.level(0.6))
    x_t, x_0, z = (draw(4, *shape, seed=seed).to(dtype) for seed in range(3))
    with torch.no_grad():
        prediction = model.predict(x_t, LINEAR.level(0.6))
        mean = torch.ones_like(z)
        noised, kl = step.add_noise(mean, prediction, z), step.kl(kernel, prediction, x_0)
    assert noised.shape == (4, *shape)
    assert noised.dtype == dtype
    assert not noised.requires_grad
    assert kl.shape == (4,)
    assert kl.dtype == torch.float64
    reference = ScoreModel(Asymmetric(12), LINEAR)
    kernel, step = one_step(Tweedie(reference, products_per_draw=4), LINEAR.level(0.4), LINEAR.level(0.6))
    flat = reference.predict(x_t.flatten(1).double(), LINEAR.level(0.6))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    expected = step.add_noise(torch.ones(4, 12, dtype=torch.float64), flat, z.flatten(1).double())
    torch.testing.assert_close(noised.flatten(1).double(), expected, **tolerance)
    torch.testing.assert_close(kl, step.kl(kernel, flat, x_0.flatten(1).double()), **tolerance)


def test_inference_mode(pair):
    model = pair.score_model(LINEAR)
    kernel, step = one_step(Tweedie(model), LINEAR.level(0.4), LINEAR.level(0.6))
    x_0, x_t = noisy(pair, LINEAR.level(0.6), 4)
    expected = step.kl(kernel, model.predict(x_t, LINEAR.level(0.6)), x_0)
    with torch.inference_mode():
        prediction = model.predict(1.0 * x_t, LINEAR.level(0.6))
        torch.testing.assert_close(step.kl(kernel, prediction, x_0), expected)
        assert torch.isfinite(step.add_noise(torch.zeros_like(x_t), prediction, x_0)).all()


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_batch_size_does_not_matter(mixture, method):
    model, t = mixture.score_model(LINEAR), LINEAR.level(0.3)
    kernel, step = one_step(Tweedie(model, method=method), LINEAR.level(0.2), t)
    x_0, x_t = noisy(mixture, t, 9)
    z = draw(9, 16, seed=4)

    def both(rows):
        prediction = model.predict(x_t[rows], t)
        return step.add_noise(torch.zeros(len(x_t[rows]), 16), prediction, z[rows]), step.kl(kernel, prediction, x_0[rows])

    together = both(slice(None))
    for start in (0, 4, 8):
        rows = slice(start, start + 4)
        for whole, part in zip(together, both(rows), strict=True):
            torch.testing.assert_close(whole[rows], part, rtol=1e-9, atol=1e-9)


# --- Krylov spaces ------------------------------------------------------------------------------------------------------


def test_sqrt_error_falls_with_products(mixture):
    model, t = mixture.score_model(LINEAR), LINEAR.level(0.35)
    x_t, z = noisy(mixture, t, 50)[1], draw(50, 16, seed=7)
    prediction, s = model.predict(x_t, t), LINEAR.level(0.05)
    kernel = reverse_kernel(s, t)
    sigma = kernel.rho2 * torch.eye(16, dtype=torch.float64) + kernel.b**2 * mixture.posterior(x_t, t)[1]
    values, vectors = torch.linalg.eigh(sigma)
    expected = torch.einsum("nij,nj,nkj,nk->ni", vectors, values.sqrt(), vectors, z)
    errors = []
    for products in (1, 2, 3, 5, 8, 16):
        step = one_step(Tweedie(model, products_per_draw=products), s, t)[1]
        noise = step.add_noise(torch.zeros_like(z), prediction, z)
        errors.append(float((noise - expected).norm() / expected.norm()))
    assert all(late < 0.75 * early for early, late in pairwise(errors)), errors
    assert errors[2] < 0.1
    assert errors[-1] < 1e-9


def test_two_sided_products_pay_where_the_jacobian_is_asymmetric():
    model, s, t = ScoreModel(Asymmetric(40, scale=1.0), LINEAR), LINEAR.level(0.2), LINEAR.level(0.4)
    x_t, z = draw(20, 40, seed=8), draw(20, 40, seed=9)
    prediction, errors = model.predict(x_t, t), {}
    expected = one_step(Tweedie(model, products_per_draw=40), s, t)[1].add_noise(torch.zeros_like(z), prediction, z)
    for two_sided in (True, False):
        for products in (3, 12):
            covariance = Tweedie(model, products_per_draw=products, two_sided=two_sided)
            with model.metered() as cost:
                noise = one_step(covariance, s, t)[1].add_noise(torch.zeros_like(z), prediction, z)
            errors[two_sided, products] = float((noise - expected).norm() / expected.norm())
            assert cost.vector_products == 20 * products * (1 + two_sided)
    assert errors[True, 3] < 0.9 * errors[False, 3]
    assert errors[True, 12] < 0.3 * errors[False, 12]


def test_attention_is_differentiated_twice():
    """PyTorch's fused attention has no second derivative; the products do not use it."""

    class Attention(torch.nn.Module):
        def forward(self, x, labels):
            tokens = x.view(len(x), 1, 4, 8)
            return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).reshape(x.shape)

    model, level, v = ScoreModel(Attention(), LINEAR), LINEAR.level(0.5), draw(2, 32, seed=1).float()
    prediction = model.predict(draw(2, 32).float(), level)
    covariance = Tweedie(model, two_sided=True)
    expected = torch.einsum("nij,nj->ni", covariance.matrix(prediction), v.double())
    torch.testing.assert_close(covariance.product(prediction)(v.double()), expected, rtol=1e-4, atol=1e-5)


def test_quadrature_is_close_to_exact(mixture):
    """Estimates of the mean bound agree within their standard errors; probes are independent between examples."""
    model = mixture.score_model(LINEAR)
    for t, s in ((0.9, 0.6), (0.4, 0.2), (0.05, 0.01)):
        level = LINEAR.level(t)
        x_0, x_t = noisy(mixture, level, 300)
        prediction = model.predict(x_t, level)
        found = {}
        for method in ("exact", "lanczos"):
            kernel, step = one_step(Tweedie(model, method=method, products_per_probe=8, probes=2), LINEAR.level(s), level)
            found[method] = step.kl(kernel, prediction, x_0)
        difference = found["lanczos"] - found["exact"]
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(300) + 1e-4 * found["exact"].mean()
        assert difference.abs().mean() < 0.1 * found["exact"].mean()


def test_no_probe_error_where_the_covariance_is_diagonal():
    """Rademacher probes see a diagonal matrix exactly."""
    diagonal = GaussianMixture([1.0], np.zeros((1, 8)), np.geomspace(0.01, 1.0, 8))
    model, t = diagonal.score_model(LINEAR), LINEAR.level(0.4)
    x_0, x_t = noisy(diagonal, t, 5)
    prediction, found = model.predict(x_t, t), []
    for method in ("exact", "lanczos"):
        kernel, step = one_step(Tweedie(model, method=method, products_per_probe=8, probes=1), LINEAR.level(0.2), t)
        found.append(step.kl(kernel, prediction, x_0))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_krylov_is_an_exact_projection():
    a = draw(4, 7, 7, seed=1)
    basis, projected = krylov(lambda v: torch.einsum("nij,nj->ni", a, v), draw(4, 7, seed=2), 4)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(4, dtype=torch.float64).expand(4, 4, 4))
    torch.testing.assert_close(projected, basis @ (0.5 * (a + a.mT)) @ basis.mT)


@pytest.mark.parametrize("start", [[0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 1.0]])
def test_breakdown(start):
    """The space of these vectors is exhausted after none to two products; f(S) v is right, before the space is full too."""
    a = torch.diag(torch.tensor([1.0, 2.0, 5.0, 5.0], dtype=torch.float64))
    v = torch.tensor([start], dtype=torch.float64)
    for steps in (2, 3, 4, 9):
        basis, projected = krylov(lambda u: u @ a, v, steps)
        m = min(steps, 4)
        torch.testing.assert_close(basis @ basis.mT, torch.eye(m, dtype=torch.float64)[None])
        values, vectors = torch.linalg.eigh(projected[0])
        found = v.norm() * (vectors @ (values.sqrt() * vectors[0])) @ basis[0]
        torch.testing.assert_close(found, v[0] @ a.sqrt())


def test_isotropic_data_need_one_product():
    """C is a multiple of the identity: every Krylov space breaks down at once."""
    isotropic = GaussianMixture([1.0], np.ones((1, 5)), 0.3)
    model, t = isotropic.score_model(LINEAR), LINEAR.level(0.5)
    x_0, x_t = noisy(isotropic, t, 6)
    expected = reverse_kernel(LINEAR.level(0.3), t).variance(float(isotropic.posterior(x_t, t)[1][0, 0, 0]))
    for products in (1, 3, 5):
        covariance = Tweedie(model, products_per_draw=products, method="lanczos", products_per_probe=products, probes=1)
        kernel, step = one_step(covariance, LINEAR.level(0.3), t)
        prediction, zero = model.predict(x_t, t), torch.zeros_like(x_t)
        torch.testing.assert_close(step.add_noise(zero, prediction, x_0), math.sqrt(expected) * x_0, rtol=1e-9, atol=1e-9)
        dense = one_step(Tweedie(model), LINEAR.level(0.3), t)[1]
        torch.testing.assert_close(step.kl(kernel, prediction, x_0), dense.kl(kernel, prediction, x_0))


# --- chains -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 7])
def test_gaussian_marginals_are_exact(gaussian, steps):
    """Cov(x_t) -> a step's linear map and covariance -> Cov(x_s), for any step."""
    model = gaussian.score_model(LINEAR)
    grid = even_log_snr(LINEAR, steps, 0.01)
    plan = Ancestral(model, Tweedie(model, products_per_draw=6), final="draw").plan(grid)
    data = gaussian.basis[0] @ torch.diag(gaussian.eigenvalues[0]) @ gaussian.basis[0].mT
    eye = torch.eye(6, dtype=torch.float64)
    for step in plan:
        marginal, following = (level.alpha**2 * data + level.sigma**2 * eye for level in (step.t, step.s))
        probes = torch.cat([torch.zeros(1, 6, dtype=torch.float64), eye])
        prediction = model.predict(probes, step.t)
        mean = prediction.combine(step.kernel.a, step.kernel.b)
        linear = (mean[1:] - mean[0]).mT
        root = roots(step.covariance, prediction)[0]
        torch.testing.assert_close(linear @ marginal @ linear.mT + root @ root.mT, following, rtol=1e-9, atol=1e-10)
        centre = model.predict(step.t.alpha * gaussian.means, step.t).combine(step.kernel.a, step.kernel.b)
        torch.testing.assert_close(centre, step.s.alpha * gaussian.means, rtol=1e-9, atol=1e-10)


def test_samples(gaussian):
    model = gaussian.score_model(LINEAR)
    covariance = Tweedie(model, products_per_draw=6)
    grid = even_log_snr(LINEAR, 3, 0.05)
    with model.metered() as cost:
        samples = generate(
            Ancestral(model, covariance, final="draw"), grid, (6,), 4000, seed=1, batch_size=2000, dtype=torch.float64
        )
    data = gaussian.basis[0] @ torch.diag(gaussian.eigenvalues[0]) @ gaussian.basis[0].mT
    white = torch.linalg.solve(torch.linalg.cholesky(data), (samples - gaussian.means).mT)
    torch.testing.assert_close(torch.cov(white), torch.eye(6, dtype=torch.float64), rtol=0, atol=0.12)
    assert cost.vector_products == 4000 * 3 * 6
    assert cost.evaluations == 4000 * 3 * 2  # each step's call, and the linearisation


@pytest.mark.parametrize("steps", [2, 10])
def test_gaussian_bounds_cost_what_pca_does(gaussian, steps):
    """mean_k 1/2 log(1 + R_k expm1(h)), R_k from the eigenvalues of the data; it telescopes, whatever the steps."""
    model, grid = gaussian.score_model(LINEAR), even_log_snr(LINEAR, steps, 0.01)
    levels = grid.levels(LINEAR)
    bound = bits_per_dim(model, gaussian.sample(1500, 2), Chain(grid, Tweedie(model), 0.05), progress=False)
    column = bound.columns.index("transitions")
    measured = bound.terms[:, column : column + steps - 1].sum(1) * math.log(2)
    snr = np.exp(np.array([levels[-2].log_snr, levels[0].log_snr]))[:, None]
    expected = 0.5 * np.diff(np.log1p(snr[::-1] * gaussian.eigenvalues.numpy()), axis=0).mean()
    assert abs(measured.mean() - expected) < 4 * measured.std() / math.sqrt(1500)
    assert measured.std() / math.sqrt(1500) < 0.01 * expected


def level_at(log_snr):
    """Variance-preserving; the time is not looked at."""
    return Level(0.5, 1.0 / math.sqrt(1.0 + math.exp(-log_snr)), 1.0 / math.sqrt(1.0 + math.exp(log_snr)), log_snr)


def spectra(mixture, log_snr, spacing):
    """(eigenvalues of Cov(eps | x_t) at lattice points x_t, their weights under q(x_t)): quadrature component by component."""
    level = level_at(log_snr)
    u = torch.arange(-8.0, 8.0 + spacing / 2, spacing, dtype=torch.float64)
    u = torch.cartesian_prod(*[u] * mixture.dim).reshape(-1, mixture.dim)
    weight = torch.exp(-0.5 * u.square().sum(1))
    std = (level.alpha**2 * mixture.eigenvalues + level.sigma**2).sqrt()
    x_t = level.alpha * mixture.means[:, None] + torch.einsum("kij,knj->kni", mixture.basis, std[:, None] * u)
    model = mixture.score_model(LINEAR)
    values = Tweedie(model).spectrum(model.predict(x_t.reshape(-1, mixture.dim), level))[0]
    return values, (mixture.weights[:, None] * (weight / weight.sum())).reshape(-1)


def excesses(mixture, counts, spacing):
    """Excess of sum J over its limit on even log-SNR grids of [-9, 9], per K: (scalar, full)."""
    fine = np.linspace(-9.0, 9.0, counts[-1] + 1)
    found = [spectra(mixture, float(lam), spacing) for lam in fine]
    residual = np.array([float((values.mean(1) * weight).sum()) for values, weight in found])
    limit = np.trapezoid(residual, fine)  # R is flat at both ends: the trapezoid is far more exact than any excess here
    out = []
    for k in counts:
        stride, gain = counts[-1] // k, math.expm1(18.0 / k)
        scalar = np.log1p(gain * residual[:-1:stride]).sum()
        full = sum(float((torch.log1p(gain * mu).mean(1) * weight).sum()) for mu, weight in found[:-1:stride])
        out.append((scalar - limit, full - limit))
    return np.array(out)


def test_one_dimensional_excess_is_of_second_order(triple):
    counts = [10, 20, 40, 80, 160]
    excess = excesses(triple, counts, 0.05)
    scalar, full = np.diff(np.log(excess), axis=0).T / math.log(2)
    assert np.all(excess[:, 1] < 0.5 * excess[:, 0])
    slopes = np.polyfit(np.log(counts[:4]), np.log(excess[:4]), 1)[0]
    assert slopes == pytest.approx([-1.0, -2.0], abs=0.4)
    assert scalar[-1] == pytest.approx(-1.0, abs=0.05)
    assert full[-1] == pytest.approx(-2.0, abs=0.15)
    assert np.all(np.diff(full) < 0)  # on its way to -2


def test_two_dimensional_excess_is_of_second_order():
    ring = GaussianMixture([0.5, 0.3, 0.2], [[0.8, 0.0], [-0.5, 0.6], [-0.3, -0.9]], [[0.05, 0.1], [0.08, 0.02], [0.03, 0.03]])
    excess = excesses(ring, [20, 40, 80], 0.4)
    scalar, full = np.diff(np.log(excess), axis=0).T / math.log(2)
    assert np.all(excess[:, 1] < 0.5 * excess[:, 0])
    assert scalar[-1] == pytest.approx(-1.0, abs=0.2)
    assert full[-1] == pytest.approx(-2.0, abs=0.4)


def test_measured_bound_is_the_expected_cost(triple):
    """The bound's terms average to 1/2 E log(1 + mu expm1(h)): the model covariance is the true one."""
    t, s = level_at(0.5), level_at(2.5)
    model = triple.score_model(LINEAR)
    x_0, x_t = noisy(triple, t, 20_000)
    kernel, step = one_step(Tweedie(model), s, t)
    measured = step.kl(kernel, model.predict(x_t, t), x_0)
    mu, weight = spectra(triple, 0.5, 0.05)
    expected = 0.5 * float((torch.log1p(math.expm1(2.0) * mu).mean(1) * weight).sum())
    assert abs(measured.mean() - expected) < 4 * measured.std() / math.sqrt(20_000)


# --- accounts and errors ------------------------------------------------------------------------------------------------


def test_products_are_counted(mixture):
    model, levels = mixture.score_model(LINEAR), LINEAR.levels([0.8, 0.4, 0.1])
    covariance = Tweedie(model, products_per_draw=3, two_sided=True)
    ks = kernels(levels)
    first, second = covariance.steps(ks, levels[:-1])
    x_0, x_t = noisy(mixture, levels[0], 5)
    prediction = model.predict(x_t, levels[0])
    with model.metered() as cost:
        first.add_noise(torch.zeros_like(x_t), prediction, x_0)
    assert cost == Receipt(1, 5, 30)
    with model.metered() as cost:
        for step in (first, first, second, *covariance.steps(ks, levels[:-1])):  # steps from one level share its Jacobians
            step.kl(ks[0], prediction, x_0)
    assert cost == Receipt(1, 5, 5 * 16)
    with model.metered() as cost:
        first.kl(ks[0], model.predict(x_t + 1.0, levels[0]), x_0)
    assert cost == Receipt(2, 10, 5 * 16)
    quadrature = Tweedie(model, method="lanczos", products_per_probe=4, probes=3)
    with model.metered() as cost:
        quadrature.steps(ks, levels[:-1])[0].kl(ks[0], prediction, x_0)
    assert cost == Receipt(1, 5, 5 * 4 * 4)


def test_exact_is_the_default_in_few_dimensions(mixture):
    covariance = Tweedie(mixture.score_model(LINEAR))
    assert covariance.exact(64)
    assert not covariance.exact(65)
    assert Tweedie(covariance.model, method="exact").exact(1000)
    assert not Tweedie(covariance.model, method="lanczos").exact(2)


def test_fingerprint_tells_settings_apart(mixture, pair):
    model = mixture.score_model(LINEAR)
    levels = LINEAR.levels([1.0, 0.5])

    def fingerprint(covariance):
        return repr(covariance.fingerprint(kernels(levels), levels[:-1]))

    others = [
        Tweedie(model),
        Tweedie(model, method="exact"),
        Tweedie(model, method="lanczos"),
        Tweedie(model, probes=2),
        Tweedie(model, products_per_probe=3),
        Tweedie(model, seed=1),
        Tweedie(model, two_sided=True),
        Tweedie(pair.score_model(LINEAR)),
    ]
    assert len({fingerprint(c) for c in others}) == len(others)
    assert fingerprint(Tweedie(model, products_per_draw=9)) == fingerprint(Tweedie(model))  # not part of a bound
    assert fingerprint(Tweedie(ScoreModel(lambda x, labels: x, LINEAR)))  # a network without a name


def test_clipping_noise_needs_an_isotropic_covariance(pair):
    model = pair.score_model(LINEAR)
    with pytest.raises(ValueError, match="isotropic"):
        Ancestral(model, Tweedie(model), clip=0.1).plan(even_log_snr(LINEAR, 3, 0.01))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"products_per_draw": 0}, "products_per_draw must be at least 1"),
        ({"products_per_probe": 0}, "products_per_probe must be at least 1"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"method": "hutchinson"}, "method must be one of"),
    ],
)
def test_settings_are_checked(pair, settings, message):
    with pytest.raises(ValueError, match=message):
        Tweedie(pair.score_model(LINEAR), **settings)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda x, labels: x.detach(), "carries no gradient"),
        (lambda x, labels: torch.ones_like(x) * torch.ones(3, requires_grad=True), "does not depend on its input"),
        (lambda x, labels: torch.sqrt(x - x.detach()), "NaN or inf at log-SNR"),
    ],
)
def test_networks_without_a_gradient(net, message):
    model, level = ScoreModel(net, LINEAR), LINEAR.level(0.5)
    x_t = draw(2, 3)
    prediction = Prediction(x_t, level, torch.zeros_like(x_t), "eps")
    step = one_step(Tweedie(model), LINEAR.level(0.4), level)[1]
    with pytest.raises(RuntimeError, match=message):
        step.add_noise(x_t, prediction, x_t)


def test_networks_without_a_second_derivative():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 0.5 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return 0.5 * gradient

    level, x_t = LINEAR.level(0.5), draw(2, 3)
    mixed = ScoreModel(lambda x, labels: Once.apply(x) + 0.3 * x, LINEAR)  # PyTorch forgets the first part without a word
    with pytest.raises(RuntimeError, match="do not fit"):
        Tweedie(mixed, two_sided=True).product(mixed.predict(x_t, level))(x_t)
    model = ScoreModel(lambda x, labels: Once.apply(x), LINEAR)
    prediction = model.predict(x_t, level)
    with pytest.raises(RuntimeError, match="two_sided=False"):
        Tweedie(model, two_sided=True).product(prediction)(x_t)
    product = Tweedie(model).product(prediction)(x_t)
    torch.testing.assert_close(product, (1.0 - 0.5 * level.sigma) * x_t)


@pytest.mark.parametrize(("s", "eta"), [(0.4, 0.0), (0.0, 1.0)])
def test_steps_without_noise_have_no_kl(pair, s, eta):
    model, level = pair.score_model(LINEAR), LINEAR.level(0.5)
    kernel, step = one_step(Tweedie(model), LINEAR.level(s), level, eta)
    x_0, x_t = noisy(pair, level, 2)
    with pytest.raises(ValueError, match="no density"):
        step.kl(kernel, model.predict(x_t, level), x_0)


def test_without_uncertainty_it_is_beta_tilde():
    """x0_hat that does not move with x_t leaves rho^2 alone."""
    model = ScoreModel(lambda x, labels: 0.0 * x + 0.3, LINEAR, "x_0")
    level, x_t, x_0 = LINEAR.level(0.5), draw(3, 4), draw(3, 4, seed=1)
    kernel, step = one_step(Tweedie(model), LINEAR.level(0.4), level)
    plain = one_step(BetaTilde(), LINEAR.level(0.4), level)[1]
    prediction = model.predict(x_t, level)
    torch.testing.assert_close(step.kl(kernel, prediction, x_0), plain.kl(kernel, prediction, x_0))
    noised = [each.add_noise(torch.zeros_like(x_t), prediction, x_0) for each in (step, plain)]
    torch.testing.assert_close(*noised)
