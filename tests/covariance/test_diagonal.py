"""Covariances diagonal in a basis: exact on Gaussian data, never worse than scalar ones, fitted and priced as they are used."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from torch.distributions import MultivariateNormal, kl_divergence

from score_sde_analytic import likelihood
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.data.basis import Pixel, PixelChannel, Scalar
from score_sde_analytic.data.transforms import DCT, PCA
from score_sde_analytic.grids.dynamic import StepCosts, shortest_paths
from score_sde_analytic.grids.grid import even, even_log_snr, karras, optimal_paths, quadratic
from score_sde_analytic.grids.lattice import Lattice, transition_costs
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.draws import Recorder, ResidualDraws
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.held_out import Choice, HeldOut, price
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.measure.statistics import Energy, GradientEnergy, MeanLevel
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.decoder import GaussianDecoder
from score_sde_analytic.process.kernel import kernels, reverse_kernel
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import Ancestral, generate

BITS = 1.0 / math.log(2.0)
VP = LinearVP()


def spectrum(y, knots=None, sizes=None, quantiles=None, **options):
    """A spectrum from y (m, B, L) or (L,)."""
    y = np.asarray(y, dtype=np.float64)
    y = y[None, None] if y.ndim == 1 else y
    knots = np.zeros(1) if knots is None else np.asarray(knots, dtype=np.float64)
    sizes = np.ones(y.shape[2]) if sizes is None else np.asarray(sizes, dtype=np.float64)
    quantiles = np.zeros((len(y), 0)) if quantiles is None else np.asarray(quantiles, dtype=np.float64)
    return Spectrum(knots, y, quantiles, sizes, **options)


def random_spectrum(seed, knots=5, bins=1, labels=7, sizes=None):
    """Any nondecreasing y over any range."""
    rng = np.random.default_rng(seed)
    start, rise = rng.normal(0, 4, (1, bins, labels)), rng.exponential(rng.exponential(2, (1, bins, labels)))
    y = start + np.cumsum(rng.exponential(1.0, (knots, bins, labels)) * rise, axis=0)
    quantiles = None if bins == 1 else np.tile(np.arange(2 * bins - 1.0), (knots, 1))
    return spectrum(y, np.linspace(-8, 8, knots), rng.integers(1, 9, labels) if sizes is None else sizes, quantiles)


# --- Gaussian data of any covariance: nothing is left of the excess -------------------------------------------------------

AXES = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0].T
VARIANCES = np.geomspace(2.0, 0.004, 6)
MEAN = np.random.default_rng(1).normal(size=6)
COVARIANCE = AXES.T @ np.diag(VARIANCES) @ AXES
GAUSSIAN = GaussianMixture([1.0], MEAN[None], COVARIANCE[None])
PRINCIPAL = Diagonal(spectrum(-np.log(VARIANCES)), PCA(AXES))

GRIDS = {
    "even": lambda schedule, k: even(k, 1e-3),
    "quadratic": lambda schedule, k: quadratic(k, 1e-2),
    "even_log_snr": lambda schedule, k: even_log_snr(schedule, k, 1e-3),
    "karras": lambda schedule, k: karras(schedule, k, 1e-3),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_no_excess_on_gaussians_at_any_number_of_steps(schedule, name, k):
    """The transitions cost half the mean of log (1 + snr_1 c) / (1 + snr_T c), the limit of infinitely many steps."""
    grid = GRIDS[name](schedule, k)
    lam = [level.log_snr for level in grid.levels(schedule)[:-1]]
    limit = 0.5 * np.mean(np.log1p(np.exp(lam[-1]) * VARIANCES) - np.log1p(np.exp(lam[0]) * VARIANCES))
    total = sum(PRINCIPAL.spectrum.step_nats(s, t) for t, s in pairwise(lam))
    assert total == pytest.approx(limit, rel=1e-12)
    costs = transition_costs(schedule, NoiseCurve(np.zeros(1), np.zeros(1)), PRINCIPAL, grid)
    assert costs.shape == (k - 1,)
    assert costs.sum() == pytest.approx(limit, rel=1e-12)


class Rows:
    """Noise that is always these rows."""

    def __init__(self, z):
        self.z = z

    def draw(self, like):
        return self.z.to(like)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gaussian_marginals_are_exact(schedule, eta, k, name):
    """Every step carries N(alpha m, U^T diag(alpha^2 c + sigma^2) U) to the next level: probes through the real sampler.

    Rows 0 .. 6 are the origin and the axes of x_t without noise, rows 7 .. 12 the axes of the noise at the origin.
    """
    sampler = Ancestral(GAUSSIAN.score_model(schedule), PRINCIPAL, eta, final="draw")
    zero, axes = torch.zeros(1, 6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    x, z = torch.cat([zero, axes, zero.expand(6, 6)]), torch.cat([zero.expand(7, 6), axes])
    top = schedule.level(1.0)
    mean, covariance = top.alpha * MEAN, top.alpha**2 * COVARIANCE + top.sigma**2 * np.eye(6)
    plan = sampler.plan(GRIDS[name](schedule, k))
    assert len(plan) == k
    for step in plan:
        found = sampler.step(x, step, None, Rows(z))[0].numpy()
        linear, noise = (found[1:7] - found[0]).T, (found[7:] - found[0]).T
        mean = found[0] + linear @ mean
        covariance = linear @ covariance @ linear.T + noise @ noise.T
        expected = step.s.alpha**2 * VARIANCES + step.s.sigma**2
        rotated = AXES @ covariance @ AXES.T / np.sqrt(np.outer(expected, expected))
        np.testing.assert_allclose(rotated, np.eye(6), atol=1e-9)
        np.testing.assert_allclose(AXES @ (mean - step.s.alpha * MEAN) / np.sqrt(expected), 0.0, atol=1e-9)


def exact_in(basis, levels):
    """The spectrum of R_k = snr (U (Cov^-1 + snr)^-1 U^T)_kk at these levels, pooled over the labels of the basis."""
    lam, labels = np.array(sorted(level.log_snr for level in levels)), basis.labels((6,))
    posterior = np.stack([AXES.T @ np.diag(np.exp(x) * VARIANCES / (1 + np.exp(x) * VARIANCES)) @ AXES for x in lam])
    u = basis.forward(torch.eye(6, dtype=torch.float64)).T.numpy()
    diagonal = np.einsum("ki,mij,kj->mk", u, posterior, u)
    sizes = np.bincount(labels)
    pooled = np.stack([np.bincount(labels, row) / sizes for row in diagonal])
    return Diagonal(spectrum((lam[:, None] - logit(pooled))[:, None], lam, sizes), basis)


@pytest.fixture(scope="module")
def bounds():
    """(chains, their measured bounds, their predictions) on Gaussian data, K = 5."""
    grid = even_log_snr(VP, 5, float(VP.time(5.0)))
    levels = grid.levels(VP)[:-1]
    bases = {"pca": PCA(AXES), "pixel": Pixel(), "dct": DCT(), "scalar": Scalar()}
    covariances = {name: exact_in(basis, levels) for name, basis in bases.items()} | {"principal": PRINCIPAL}
    chains = {name: Chain(grid, covariance, GaussianDecoder(0.06)) for name, covariance in covariances.items()}
    model, statistics = GAUSSIAN.score_model(VP), GAUSSIAN.statistics()
    measured = bits_per_dim(model, GAUSSIAN.sample(4000, seed=3), chains, batch_size=1000, progress=False)
    options = {"budget": Budget(min_draws=2000, max_draws=2000, batch_size=1000), "statistics": statistics, "progress": False}
    moments = estimate(model, GAUSSIAN.sample(2000, seed=4), np.linspace(-9, 6, 8), **options)
    return chains, measured, likelihood.price(moments, VP, chains, statistics)


@pytest.mark.slow
def test_measured_bounds_are_the_predicted_ones(bounds):
    """Ten comparisons at 4 standard errors: false alarm 6e-4 if they were independent."""
    chains, measured, predicted = bounds
    for name in chains:
        for found, expected in (
            (measured[name].total, predicted[name].total),
            (measured[name].transitions, predicted[name].transitions),
        ):
            assert abs(found.value - expected.value) < 4 * math.hypot(found.stderr, expected.stderr), name


def test_the_excess_of_every_basis_is_its_theory(bounds):
    """Differences between bases on the same noise, at 4 standard errors (false alarm 6e-5 each)."""
    chains, measured, _ = bounds
    lam = [level.log_snr for level in chains["pca"].grid.levels(VP)[:-1]]
    theory = {n: sum(c.covariance.spectrum.step_nats(s, t) for t, s in pairwise(lam)) for n, c in chains.items()}
    assert theory["pca"] == pytest.approx(theory["principal"], rel=1e-12)
    np.testing.assert_allclose(measured["pca"].per_example, measured["principal"].per_example, rtol=1e-9)
    excess = {}
    for name in ("pixel", "dct", "scalar"):
        difference = measured[name].per_example - measured["pca"].per_example
        excess[name] = BITS * (theory[name] - theory["pca"])
        assert abs(difference.mean() - excess[name]) < 4 * difference.std(ddof=1) / math.sqrt(len(difference)), name
    assert 0 < excess["pixel"] < excess["scalar"]
    assert 0 < excess["dct"] < excess["scalar"]


# --- the scalar covariance is a special case -----------------------------------------------------------------------------

CURVE = NoiseCurve(np.array([-5.0, -1.0, 2.0, 6.0]), np.array([-1.0, 0.3, 0.9, 2.5]))


def scalar(curve):
    return Diagonal(spectrum(curve.y[:, None, None], curve.log_snr), Scalar())


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_curve_is_the_isotropic_covariance(schedule, shape, eta):
    generator = torch.Generator().manual_seed(0)
    x_t, x_0, eps, z = (torch.randn(4, *shape, dtype=torch.float64, generator=generator) for _ in range(4))
    levels = schedule.levels([1.0, 0.7, 0.2, 0.05])
    ks = kernels(levels, eta)
    both = (Isotropic(CURVE).steps(ks, levels[:-1]), scalar(CURVE).steps(ks, levels[:-1]))
    for t, kernel, isotropic, diagonal in zip(levels[:-1], ks, *both, strict=True):
        prediction = Prediction(x_t, t, eps, "eps")
        expected, found = (step.add_noise(x_0.clone(), prediction, z) for step in (isotropic, diagonal))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        if eta > 0:
            expected, found = (step.kl(kernel, prediction, x_0) for step in (isotropic, diagonal))
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_curve_samples_as_the_isotropic_covariance(eta):
    model, grid = GAUSSIAN.score_model(VP), even_log_snr(VP, 6, 1e-3)
    options = {"shape": (6,), "count": 5, "seed": 3, "dtype": torch.float64}
    samples = [generate(Ancestral(model, c, eta, final="draw"), grid, **options) for c in (Isotropic(CURVE), scalar(CURVE))]
    torch.testing.assert_close(samples[1], samples[0], rtol=1e-11, atol=1e-11)


def test_its_price_is_the_curves_price():
    lattice = Lattice.even_log_snr(VP, 40, 7.0)
    first = np.linspace(0.0, 1.0, 40)
    expected, found = (lattice.optimal_grids(CURVE, c, first, 8) for c in (Isotropic(CURVE), scalar(CURVE)))
    assert [g.times for g in found.values()] == [g.times for g in expected.values()]
    for k, grid in found.items():
        assert grid.cost == pytest.approx(expected[k].cost, rel=1e-12)
        costs = [transition_costs(VP, CURVE, c, grid) for c in (Isotropic(CURVE), scalar(CURVE))]
        np.testing.assert_allclose(costs[1], costs[0], rtol=1e-11)


# --- one step, against dense matrices ------------------------------------------------------------------------------------


def dense(basis, shape):
    d = math.prod(shape)
    return basis.forward(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).flatten(1).T


def reference(diagonal, kernel, prediction):
    """Sigma of every sample by loops over samples and coefficients, (batch, d, d), and its root U^T D^(1/2)."""
    s, lam, shape = diagonal.spectrum, prediction.level.log_snr, tuple(prediction.x_t.shape[1:])
    u, labels = dense(diagonal.basis, shape), diagonal.basis.labels(shape).ravel()
    y, edges, medians = s.y_at(lam), s.quantiles_at(lam)[1::2], s.quantiles_at(lam)[0::2]
    phi = None if diagonal.statistic is None else diagonal.statistic(prediction).double().reshape(len(prediction.x_t), -1)
    covariances, roots = [], []
    for i in range(len(prediction.x_t)):
        variances = []
        for label in labels:
            value = 0.0 if phi is None else float(phi[i, label] if phi.shape[1] > 1 else phi[i, 0])
            if phi is None:
                here = y[0, label]
            elif s.smooth:
                here = np.interp(value, medians, y[:, label])
            else:
                here = y[sum(value >= edge for edge in edges), label]
            variances.append(kernel.rho2 + kernel.b**2 * math.exp(-lam) / (1.0 + math.exp(here - lam)))
        root = u.T @ torch.tensor(variances, dtype=torch.float64).sqrt().diag()
        covariances.append(root @ root.T)
        roots.append(root)
    return torch.stack(covariances), torch.stack(roots)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(
    ("basis", "statistic", "bins", "shape"),
    [
        (Scalar(), None, 1, (5,)),
        (PixelChannel(), Energy(), 3, (5,)),
        (PCA(np.linalg.qr(np.random.default_rng(2).normal(size=(24, 7)))[0].T), Energy(), 4, (2, 3, 4)),
        (DCT(radial=True), MeanLevel(), 2, (2, 3, 4)),
        (Pixel(), GradientEnergy(), 3, (2, 3, 4)),
        (DCT(), None, 1, (2, 3, 4)),
    ],
)
def test_a_step_is_a_gaussian_of_its_dense_covariance(basis, statistic, bins, shape, smooth):
    generator = torch.Generator().manual_seed(1)
    x_t, x_0, z = (torch.randn(6, *shape, dtype=torch.float64, generator=generator) for _ in range(3))
    x_0_hat = torch.randn(6, *shape, dtype=torch.float64, generator=generator) * torch.linspace(0.1, 2, 6).reshape(
        -1, *(1,) * len(shape)
    )
    t, s = VP.level(0.5), VP.level(0.4)
    kernel, prediction = reverse_kernel(s, t), Prediction(x_t, t, x_0_hat, "x_0")
    rng, labels = np.random.default_rng(3), int(basis.labels(shape).max()) + 1
    quantiles = None
    if statistic is not None:
        phi = statistic(prediction).double().numpy()
        quantiles = np.tile(np.quantile(phi, np.linspace(0.1, 0.9, 2 * bins - 1)), (3, 1))
    y = np.sort(rng.normal(size=(3, bins, labels)), 0)
    diagonal = Diagonal(
        spectrum(y, [-6, 0, 6], np.bincount(basis.labels(shape).ravel()), quantiles, smooth=smooth), basis, statistic
    )
    covariance, root = reference(diagonal, kernel, prediction)
    step = diagonal.steps([kernel], [t])[0]
    mean = torch.zeros_like(x_t)
    expected = torch.einsum("nij,nj->ni", root, z.flatten(1))
    torch.testing.assert_close(step.add_noise(mean, prediction, z).flatten(1), expected, rtol=1e-6, atol=1e-6)
    eye = torch.eye(x_0[0].numel(), dtype=torch.float64)
    q = MultivariateNormal(kernel.b * x_0.flatten(1), (kernel.rho2 * eye).expand_as(covariance))
    p = MultivariateNormal(kernel.b * x_0_hat.flatten(1), covariance)
    torch.testing.assert_close(step.kl(kernel, prediction, x_0), kl_divergence(q, p) / len(eye), rtol=1e-6, atol=1e-9)


# --- prices --------------------------------------------------------------------------------------------------------------

STEPS = [(lam, h) for lam in (-8.0, -4.0, 0.0, 4.0, 8.0) for h in (0.01, 0.5, 2.0, 5.0, 10.0)]


@pytest.mark.parametrize("seed", range(20))
def test_structure_never_costs_more(seed):
    """Jensen: against one curve for all bins and labels, and against one per label for all bins."""
    s = random_spectrum(seed, bins=1 + seed % 4, labels=1 + seed)
    for lam, h in STEPS:
        r, shares = s.residual(lam), s.mass_at(lam)
        np.testing.assert_allclose(shares, np.tile(s.sizes / (s.bins * s.sizes.sum()), (s.bins, 1)), rtol=1e-12)
        mean = (r * shares).sum()
        by_label = (r * shares).sum(0) / shares.sum(0)
        cost = s.step_nats(lam + h, lam)
        pooled = 0.5 * np.log1p(mean * np.expm1(h))
        labels = (0.5 * np.log1p(by_label * np.expm1(h)) * shares.sum(0)).sum()
        assert cost <= labels * (1 + 1e-12)
        assert labels <= pooled * (1 + 1e-12)
        if s.y[0].size == 1:
            assert cost == pytest.approx(pooled, rel=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_nodes_keep_the_mean(seed):
    s, lam = random_spectrum(seed, bins=1 + seed % 5, labels=1 + 9 * seed), np.linspace(-10, 10, 21)
    nodes = s.nodes(lam)
    assert nodes.shape[1] >= 32
    assert np.all((nodes >= 0) & (nodes <= 1))
    expected = [(s.residual(x) * s.mass_at(x)).sum() for x in lam]
    np.testing.assert_allclose(nodes.mean(1), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_nodes_of_certain_noise_stay_within_one(seed):
    """R = 1 to rounding everywhere, in any number of labels: `StepCosts` refuses anything above."""
    rng = np.random.default_rng(seed)
    s = spectrum(np.full(int(rng.integers(1, 90)), -45.0), sizes=None)
    s = replace(s, sizes=rng.integers(1, 9, len(s.sizes)).astype(float))
    StepCosts(np.array([3.0, 0.0]), s.nodes(np.array([3.0, 0.0])))


def node_error(s, count, lam, h):
    return 0.5 * np.log1p(s.nodes(np.array([lam]), count)[0] * np.expm1(h)).mean() / s.step_nats(lam + h, lam) - 1


@pytest.mark.parametrize("labels", [1, 3, 5, 16, 31, 32])
def test_nodes_are_exact_for_few_curves(labels):
    """As of three channels, whose third node of 32 would otherwise be a mixture: 1.5 % off."""
    s = spectrum(np.linspace(0, 8, labels))
    assert max(abs(node_error(s, 32, lam, h)) for lam, h in STEPS) < 1e-12


@pytest.mark.parametrize(("count", "spread", "tolerance"), [(32, 2.0, 1e-4), (32, 8.0, 1.5e-3), (128, 8.0, 1e-4)])
def test_nodes_price_steps(count, spread, tolerance):
    """Many curves over exp(spread) in variance: the error is of one sign (Jensen) and falls as 1 / count^2."""
    s = spectrum(np.linspace(0, spread, 2000))
    errors = np.array([node_error(s, count, lam, h) for lam, h in STEPS])
    assert np.all(errors > -1e-12)
    assert errors.max() < tolerance
    finer = np.array([node_error(s, 2 * count, lam, h) for lam, h in STEPS])
    assert finer.max() < 0.35 * errors.max()


def test_nodes_price_chains():
    """All that a grid's cost needs: 1e-4 of whole chains for variances over a factor of 55."""
    s, lattice = spectrum(np.linspace(0, 4, 300)), Lattice.even_log_snr(VP, 200, 9.0)
    lam = np.asarray(lattice.levels.log_snr)
    paths = shortest_paths(StepCosts(lam, s.nodes(lam)), np.where(np.arange(200) == 0, 0.0, np.inf), 50)
    for k in (3, 10, 50):
        true = sum(s.step_nats(a, b) for a, b in pairwise(lam[paths.paths[k - 1]]))
        assert paths.costs[k - 1] == pytest.approx(true, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_optimal_grids_are_those_of_the_plain_recursion(seed):
    """32 curves of equal mass, of which the nodes are exact; costs of steps straight from the spectrum."""
    s = random_spectrum(seed, bins=4, labels=8, sizes=np.full(8, 3))
    lattice = Lattice.even_log_snr(VP, 24, 6.0)
    lam, n = np.asarray(lattice.levels.log_snr), 24
    matrix = np.full((n, n), np.inf)
    for i in range(n):
        for j in range(i + 1, n):
            matrix[i, j] = s.step_nats(lam[i], lam[j])
    first = np.random.default_rng(seed).uniform(0, 0.3, n) + np.linspace(0, 0.5, n)
    paths, costs = optimal_paths(matrix, first, 10)
    grids = lattice.optimal_grids(CURVE, Diagonal(s, Pixel(), Energy()), first, 10)
    assert sorted(grids) == list(range(1, 11))
    for k, grid in grids.items():
        assert grid.cost == pytest.approx(costs[k - 1], rel=1e-12)
        assert grid.times == (*lattice.times[paths[k - 1][::-1]].tolist(), 0.0)


def test_spread_is_the_excess_of_small_steps():
    """A step of h costs w h^2 / 4 more than the integral of R / 2."""
    s, h = random_spectrum(4, labels=9), 1e-2
    for lam in (-5.0, -1.3, 2.2):
        fine = np.linspace(lam, lam + h, 201)
        limit = 0.5 * np.trapezoid([(s.residual(x) * s.mass_at(x)).sum() for x in fine], fine)
        assert s.step_nats(lam + h, lam) - limit == pytest.approx(0.25 * s.spread(lam) * h**2, rel=0.1)
    assert PRINCIPAL.spectrum.spread(0.0) == 0.0


def test_beyond_the_knots_y_is_constant():
    s = random_spectrum(5, bins=3)
    for inside, outside in ((-8.0, -30.0), (8.0, 25.0)):
        np.testing.assert_array_equal(s.y_at(outside), s.y_at(inside))
        np.testing.assert_array_equal(s.quantiles_at(outside), s.quantiles_at(inside))
    np.testing.assert_allclose([s.y_at(x) for x in s.log_snr], s.y, rtol=1e-12)
    assert np.all(np.diff([s.y_at(x) for x in np.linspace(-9, 9, 200)], axis=0) >= -1e-9)


# --- fitting -------------------------------------------------------------------------------------------------------------


def synthetic(residual, n, sizes, seed=0, phi=None, log_snr=None):
    """n draws per knot whose squared residuals are R chi^2(size) / size; R is (m, L) or (m, n, L), phi (m, n, 1 or L)."""
    rng, sizes = np.random.default_rng(seed), np.asarray(sizes)
    residual = np.asarray(residual, dtype=np.float64)
    residual = residual if residual.ndim == 3 else np.repeat(residual[:, None], n, axis=1)
    m, _, labels = residual.shape
    rms = np.sqrt(residual * rng.chisquare(sizes, (m, n, labels)) / sizes).reshape(-1, labels)
    log_snr = np.linspace(-5, 5, m) if log_snr is None else np.asarray(log_snr, dtype=np.float64)
    knot, example = np.repeat(np.arange(m), n), np.tile(np.arange(n), m)
    statistics = {} if phi is None else {"phi": np.asarray(phi).reshape(m * n, -1).astype(np.float32)}
    return ResidualDraws(log_snr, knot, example, rms.astype(np.float16), statistics, sizes)


SIZES = np.array([1, 3, 10, 4, 50])
TRUTH = expit(0.7 * np.linspace(-5, 5, 6)[:, None] - np.linspace(-1, 1, 5))  # y = 0.3 lam + offset


def test_known_residuals_are_recovered():
    """Within 5 standard errors at each of 6 knots and 5 labels (false alarm below 2e-5), and y never falls."""
    n = 4000
    s = Spectrum.fit(synthetic(TRUTH, n, SIZES))
    assert (s.y.shape, s.bins, s.quantiles.shape) == ((6, 1, 5), 1, (6, 0))
    found = np.stack([s.residual(x)[0] for x in s.log_snr])
    assert np.all(np.abs(found - TRUTH) < 5 * TRUTH * np.sqrt(2 / (n * SIZES)))
    assert np.all(np.diff(s.y, axis=0) >= 0)


def test_known_conditional_residuals_are_recovered():
    """Four bins of one number per draw; 5 standard errors each of 120 cells (false alarm below 1e-4)."""
    n, rng = 4000, np.random.default_rng(7)
    rank = np.stack([rng.permutation(n) for _ in range(6)])
    cell = TRUTH[:, None] * np.array([0.1, 0.3, 0.6, 1.0])[:, None]  # (m, B, L)
    draws = synthetic(np.take_along_axis(cell, (rank * 4 // n)[..., None], 1), n, SIZES, phi=np.log(rank + 1.0))
    s = Spectrum.fit(draws, "phi", 4)
    found = np.stack([s.residual(x) for x in s.log_snr])
    assert np.all(np.abs(found - cell) < 5 * cell * np.sqrt(2 / (0.25 * n * SIZES)))
    assert np.all(np.diff(s.quantiles, axis=1) > 0)
    np.testing.assert_allclose(s.mass, 0.25)


def test_noise_cannot_make_y_fall():
    """Few draws of a constant y: raw values rise and fall, fitted ones only rise."""
    truth = expit(np.linspace(-5, 5, 30))[:, None] * np.ones(4)
    phi = np.random.default_rng(0).normal(size=(30, 20, 1))
    draws = synthetic(truth, 20, np.ones(4, int), phi=phi)
    square = np.stack([draws.square(draws.at(m)).mean(0) for m in range(30)])
    assert np.any(np.diff(draws.log_snr[:, None] - logit(np.clip(square, 1e-9, 1 - 1e-9)), axis=0) < 0)
    for options in ({}, {"statistic": "phi"}):
        assert np.all(np.diff(Spectrum.fit(draws, **options).y, axis=0) >= 0)


def test_curves_of_bins_may_fall():
    """Two kinds, N(0, 0.01) and N(0, 1), told apart by phi only from log-SNR 2 on: y of the wide one falls from 0.68 to 0.

    Within 5 standard errors at 6 knots (false alarm below 1e-5); made to rise, y would be off by 0.3 at the last ones.
    """
    n, lam = 4000, np.linspace(-3.0, 7.0, 6)
    told = np.clip((lam + 1.0) / 3.0, 0.0, 1.0)  # share of the kind in the posterior of its bin
    c = np.stack([0.01 + 0.99 * (1 - told) / 2, 1.0 - 0.99 * (1 - told) / 2], 1)
    truth = np.exp(lam)[:, None] * c / (1 + np.exp(lam)[:, None] * c)
    assert np.all(np.diff(-np.log(c[:, 1])) <= 0)
    rank = np.stack([np.random.default_rng(m).permutation(n) for m in range(6)])
    residual = np.take_along_axis(truth[:, :, None], (rank * 2 // n)[..., None], 1)
    s = Spectrum.fit(synthetic(residual, n, [16], phi=rank, log_snr=lam), "phi", 2)
    found = np.stack([s.residual(x)[:, 0] for x in lam])
    assert np.all(np.abs(found - truth) < 5 * truth * np.sqrt(2 / (16 * 0.5 * n)))


@pytest.mark.parametrize("bins", [1, 2, 7, 16])
def test_bins_have_equal_counts(bins):
    phi = np.random.default_rng(1).normal(size=(2, 1000, 1))
    s = Spectrum.fit(synthetic(np.full((2, 3), 0.5), 1000, np.ones(3, int), phi=phi), "phi", bins)
    for knot in range(2):
        counts = np.bincount(np.searchsorted(s.quantiles[knot, 1::2], phi[knot, :, 0], side="right"), minlength=bins)
        assert counts.max() - counts.min() <= 2
        np.testing.assert_allclose(s.quantiles[knot], np.quantile(phi[knot], np.arange(1, 2 * bins) / (2 * bins)), atol=1e-6)
    np.testing.assert_allclose(s.mass, 1 / bins, atol=2e-3)


def test_shrinkage_goes_from_cells_to_level_times_profile():
    """At one knot, where monotony asks nothing."""
    n, bins, rng = 600, 3, np.random.default_rng(2)
    phi = rng.normal(size=(1, n, 1))
    residual = 0.05 * np.exp(0.5 * phi) * np.array([1.0, 2.0, 0.5, 4.0])
    sizes = np.array([1, 2, 8, 4])
    draws = synthetic(residual, n, sizes, phi=phi, log_snr=[0.0])
    square, index = draws.square(draws.at(0)), np.argsort(np.argsort(phi[0, :, 0])) * bins // n
    cells = np.stack([square[index == b].mean(0) for b in range(bins)])
    level = (cells * sizes).sum(1) / (square.mean(0) * sizes).sum()
    profile = np.outer(level, square.mean(0))
    np.testing.assert_allclose(Spectrum.fit(draws, "phi", bins, 0.0).residual(0.0), cells, rtol=1e-9)
    np.testing.assert_allclose(Spectrum.fit(draws, "phi", bins, math.inf).residual(0.0), profile, rtol=1e-9)
    mixed = (200 * cells + 50 * profile) / 250
    np.testing.assert_allclose(Spectrum.fit(draws, "phi", bins, 50.0).residual(0.0), mixed, rtol=1e-9)


@pytest.mark.parametrize("case", ["plain", "global", "ties", "local", "local ties"])
def test_the_price_of_the_draws_themselves_is_the_predicted_one(case):
    """In-sample, at one knot, hard bins and no shrinkage: E r^2 = R in each bin, so that `price` and `step_nats` agree exactly.

    Ties (a saturated background) leave bins empty, and a local statistic gives each pixel its own share of each bin.
    """
    rng, n, labels = np.random.default_rng(3), 500, 6
    width = labels if case.startswith("local") else 1
    phi = rng.normal(size=(1, n, width)) + np.linspace(-2, 2, width)
    phi = np.where(phi < 0.4, 0.0, phi) if "ties" in case else phi
    residual = expit(phi - 1.5) * np.linspace(0.3, 1, labels)
    draws = synthetic(residual, n, np.arange(1, 7), phi=phi, log_snr=[0.0])
    statistic = None if case == "plain" else "phi"
    s = Spectrum.fit(draws, statistic, 5)
    for step in (0.1, 1.0, 6.0):
        assert price(s, draws, statistic, step)[0] == pytest.approx(s.step_nats(step, 0.0), rel=1e-9)
        nodes = s.nodes(np.zeros(1), 4096)[0]
        assert 0.5 * np.log1p(nodes * np.expm1(step)).mean() == pytest.approx(s.step_nats(step, 0.0), rel=1e-3)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("shrinkage", [0.0, 20.0, math.inf])
def test_bins_that_ties_leave_empty_take_the_values_of_the_tie(smooth, shrinkage):
    """60 % of phi is one number, with R = 0.1 there and 0.6 elsewhere; continuous at the knot between."""
    rng, n = np.random.default_rng(4), 4000
    phi = rng.uniform(1, 2, size=(3, n, 1))
    low = rng.random((3, n, 1)) < 0.6
    phi = np.where(low, 0.0, phi)
    phi[1] = np.where(low[1], rng.uniform(0, 1, (n, 1)), phi[1])  # no ties here
    draws = synthetic(np.where(low, 0.1, 0.6), n, [4], phi=phi, log_snr=[-1.0, 0.0, 1.0])
    s = Spectrum.fit(draws, "phi", 8, shrinkage, smooth)
    tied = s.y[0, :5, 0]
    np.testing.assert_allclose(tied, tied[-1])
    # Nothing is far from what occurs: an empty bin of R = 0 would make y some 20.
    assert np.all(np.abs(s.y) < 5)
    unconditional, conditional = price(Spectrum.fit(draws), draws, None, 1.0), price(s, draws, "phi", 1.0)
    assert np.all(conditional < unconditional - 0.01)
    predicted = [s.step_nats(lam + 1.0, lam) for lam in draws.log_snr]
    np.testing.assert_allclose(conditional, predicted, rtol=0.03)


def test_smooth_bins_follow_a_continuous_dependence():
    """log R linear in phi: interpolation between medians is nearer the truth than steps, in price too."""
    n, rng = 8000, np.random.default_rng(5)
    phi = rng.uniform(-3, 0, size=(2, n, 1))
    draws = synthetic(np.exp(phi) * 0.8, n, [16], phi=phi, log_snr=[0.0, 1.0])
    held_out = synthetic(np.exp(phi) * 0.8, n, [16], phi=phi, log_snr=[0.0, 1.0], seed=9)
    hard, smooth = (price(Spectrum.fit(draws, "phi", 4, smooth=soft), held_out, "phi", 2.0) for soft in (False, True))
    assert np.all(smooth < hard)


def test_local_statistics_are_fitted_pixel_by_pixel():
    """Within 5 standard errors of each cell (false alarm below 1e-4); bins are quantiles over all pixels."""
    n, labels, rng = 3000, 6, np.random.default_rng(6)
    phi = rng.uniform(size=(2, n, labels))
    pixel = np.linspace(0.2, 0.9, labels)
    draws = synthetic(np.where(phi < 0.5, 0.2, 0.8) * pixel, n, np.full(labels, 3), phi=phi, log_snr=[-1.0, 1.5])
    s = Spectrum.fit(draws, "phi", 2)
    for knot, lam in enumerate(draws.log_snr):
        assert s.quantiles[knot, 1] == pytest.approx(0.5, abs=0.02)
        truth = np.outer([0.2, 0.8], pixel)
        error = np.sqrt(2 / (3 * 0.5 * n)) * truth + 0.02 * 0.6  # the edge moves a little
        assert np.all(np.abs(s.residual(lam) - truth) < 5 * error)


def test_the_level_of_a_bin_counts_what_its_pixels_are_expected_to_have():
    """phi tells the pixel and nothing else: level times profile must be the profile, not its square."""
    residual, n = np.geomspace(0.01, 0.9, 8), 4000
    phi = np.log(residual) + 0.01 * np.random.default_rng(8).normal(size=(1, n, 8))
    draws = synthetic(residual[None], n, np.ones(8, int), phi=phi, log_snr=[0.0])
    s = Spectrum.fit(draws, "phi", 4, math.inf)
    assert price(s, draws, "phi", 2.0)[0] == pytest.approx(price(Spectrum.fit(draws), draws, None, 2.0)[0], rel=1e-2)
    assert s.step_nats(2.0, 0.0) == pytest.approx(Spectrum.fit(draws).step_nats(2.0, 0.0), rel=1e-2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"statistic": "absent"}, "absent.*phi"),
        ({"statistic": "phi", "bins": 0}, "bins must be at least 1"),
        ({"statistic": "phi", "bins": 2, "shrinkage": -1.0}, "shrinkage"),
        ({"statistic": "phi", "bins": 2, "shrinkage": math.nan}, "shrinkage"),
        ({"statistic": "phi", "bins": 41}, "knot 0 has 40 draws for 41 bins"),
    ],
)
def test_bad_fits_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        Spectrum.fit(
            synthetic(np.full((2, 3), 0.5), 40, np.ones(3, int), phi=np.random.default_rng(0).normal(size=(2, 40, 1))),
            **options,
        )


def test_too_few_draws_are_named():
    with pytest.raises(ValueError, match="knot 0 has 1 draws"):
        Spectrum.fit(synthetic(np.full((2, 3), 0.5), 1, np.ones(3, int)))
    draws = synthetic(np.full((2, 1), 0.5), 40, [1])
    with pytest.raises(ValueError, match="none"):
        Spectrum.fit(draws, "phi", 2)
    with pytest.raises(ValueError, match="two knots"):
        HeldOut.choose(synthetic(np.full((1, 1), 0.5), 40, [1]))
    with pytest.raises(ValueError, match="needs two folds"):
        HeldOut.choose(replace(draws, example=4 * draws.example))  # all in one fold of four
    with pytest.raises(ValueError, match="knot 1 has no draws to price"):
        price(Spectrum.fit(draws), draws.take(draws.knot == 0), None, 1.0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"log_snr": np.zeros(3)}, "knots"),
        ({"sizes": np.ones(4)}, "sizes"),
        ({"quantiles": np.zeros((5, 4))}, "quantiles"),
        ({"quantiles": np.zeros((5, 0))}, "tell them apart"),
        ({"mass": np.ones((5, 3, 1))}, "mass"),
    ],
)
def test_bad_spectra_are_named(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(random_spectrum(0, bins=3), **changes)


def test_a_statistic_and_its_spectrum_belong_together():
    for s, statistic in ((random_spectrum(0), Energy()), (random_spectrum(0, bins=2), None)):
        with pytest.raises(ValueError, match="statistic"):
            Diagonal(s, Pixel(), statistic)
    one = spectrum(np.zeros((1, 1, 2)), quantiles=np.zeros((1, 1)))  # a single bin of a statistic
    assert Diagonal(one, Pixel(), Energy()).spectrum.bins == 1


# --- conditioning where it must help, and where it cannot ----------------------------------------------------------------

SCALES = GaussianMixture([0.5, 0.5], np.zeros((2, 16)), [0.01, 1.0])
KNOTS = np.linspace(-9.5, 7.0, 18)


def record(mixture, examples, seed, knots=KNOTS):
    recorder = Recorder(Scalar(), {"energy": Energy()})
    options = {"budget": Budget(min_draws=examples, max_draws=examples, batch_size=1000), "seed": seed, "progress": False}
    options |= {"statistics": mixture.statistics(), "observers": {"scalar": recorder}}
    moments = estimate(mixture.score_model(VP), mixture.sample(examples, seed=seed), knots, **options)
    return moments, recorder.result(moments.log_snr)


@pytest.fixture(scope="module")
def scales():
    """(moments, draws to fit, draws held out) of half N(0, 0.01 I), half N(0, I)."""
    return *record(SCALES, 4000, 1), record(SCALES, 4000, 2)[1]


SETTINGS = {"plain": (None, 1, 0.0, False), "hard": ("energy", 8, 0.0, False), "smooth": ("energy", 8, 0.0, True)}


def jackknife(values):
    """(mean, standard error) of a statistic from its values without each of n groups."""
    values = np.asarray(values)
    return values.mean(0), np.sqrt((len(values) - 1) * ((values - values.mean(0)) ** 2).mean(0))


def test_conditioning_lowers_the_held_out_price(scales):
    """Steps of 2 in log-SNR: lower by more than 5 jackknife errors over 20 groups of held-out examples."""
    _, train, test = scales
    fits = {name: (Spectrum.fit(train, *setting), setting[0]) for name, setting in SETTINGS.items()}

    def total(name, rows):
        return price(*(fits[name][0], test.take(rows), fits[name][1], 2.0)).mean()

    groups = [test.example % 20 != g for g in range(20)]
    for name in ("hard", "smooth"):
        value, error = jackknife([total("plain", rows) - total(name, rows) for rows in groups])
        assert value > 5 * error
    everything = test.example >= 0
    assert total("smooth", everything) <= 1.02 * total("hard", everything)


def test_conditioning_lowers_the_measured_bound_as_predicted(scales):
    """K = 5: the paired difference beyond 5 standard errors; each bound within 4 of its prediction (false alarm 2e-4)."""
    moments, train, _ = scales
    grid = even_log_snr(VP, 5, float(VP.time(6.0)))
    std = 0.05

    def chain(draws, setting):
        return Chain(
            grid, Diagonal(Spectrum.fit(draws, *setting), Scalar(), Energy() if setting[0] else None), GaussianDecoder(std)
        )

    chains = {name: chain(train, setting) for name, setting in SETTINGS.items()}
    measured = bits_per_dim(SCALES.score_model(VP), SCALES.sample(4000, seed=8), chains, batch_size=1000, progress=False)
    predicted = likelihood.price(moments, VP, chains, SCALES.statistics())
    for name, setting in SETTINGS.items():
        parts = [chain(train.take(train.example % 10 != g), setting) for g in range(10)]
        costs = [transition_costs(VP, CURVE, part.covariance, grid).sum() for part in parts]
        error = math.hypot(measured[name].transitions.stderr, BITS * jackknife(costs)[1])
        assert abs(measured[name].transitions.value - predicted[name].transitions.value) < 4 * error, name
        total = math.hypot(error, measured[name].total.stderr, predicted[name].total.stderr)
        assert abs(measured[name].total.value - predicted[name].total.value) < 4 * total, name
    for name in ("hard", "smooth"):
        difference = measured["plain"].per_example - measured[name].per_example
        assert difference.mean() > 5 * difference.std(ddof=1) / math.sqrt(len(difference))
    assert measured["smooth"].transitions.value <= 1.02 * measured["hard"].transitions.value


def test_choose_conditions_where_it_helps(scales):
    ranked = HeldOut.choose(scales[1], bins=(1, 4, 8), shrinkage=(0.0, 30.0))
    assert len(ranked) == 1 + 2 + 1 + 1  # plain (one label: nothing to pool); bins, then shrinkage, then smoothness
    assert [c.cost for c in ranked] == sorted(c.cost for c in ranked)
    assert ranked[0].statistic == "energy"
    assert ranked[-1] == Choice(None, 1, 0.0, False, cost=ranked[-1].cost)
    assert ranked[0].cost < 0.95 * ranked[-1].cost
    assert [c.statistic for c in HeldOut.choose(scales[1], statistics=())] == [None]


def test_choose_finds_nothing_where_there_is_nothing():
    """Isotropic Gaussian data, eight disjoint sets of examples: no setting gains 6 standard errors (7 degrees of freedom).

    That happens with probability 3e-4 per setting; there are four.
    """
    draws = record(GaussianMixture([1.0], np.zeros((1, 16)), 0.5), 3200, 3, np.linspace(-6, 5, 4))[1]
    gains = {}
    for g in range(8):
        part = draws.take(draws.example % 8 == g)
        part = replace(part, example=part.example // 8)
        found = {
            (c.statistic, c.bins, c.shrinkage, c.smooth): c.cost
            for c in HeldOut.choose(part, bins=(1, 8), shrinkage=(0.0, 30.0))
        }
        plain = found.pop((None, 1, 0.0, False))
        for setting, cost in found.items():
            gains.setdefault(setting, []).append(plain - cost)
    always = [values for values in gains.values() if len(values) == 8]  # which settings are tried depends on the costs
    assert len(always) >= 2
    for values in always:
        assert np.mean(values) < 6 * np.std(values, ddof=1) / math.sqrt(8)


# --- samples -------------------------------------------------------------------------------------------------------------


def pointwise(calls=None):
    """The exact score of N(0, 0.3) in every coordinate: rows do not see each other."""

    def net(x, t):
        alpha, sigma = VP.alpha(float(t[0])), VP.sigma(float(t[0]))
        return sigma * x / (alpha**2 * 0.3 + sigma**2)

    return ScoreModel(net, VP, fingerprint="pointwise")


def image_diagonal(basis, statistic, bins, smooth=False, shape=(2, 4, 4)):
    labels = basis.labels(shape)
    s = random_spectrum(11, bins=bins, labels=int(labels.max()) + 1, sizes=np.bincount(labels.ravel()))
    y = np.clip(s.y, -1, 3)
    quantiles = np.zeros((5, 0)) if statistic is None else np.tile(np.linspace(-4, 0, 2 * bins - 1), (5, 1))
    return Diagonal(replace(s, y=y, quantiles=quantiles, smooth=smooth), basis, statistic)


DIAGONALS = {
    "pixel": image_diagonal(Pixel(), None, 1),
    "pixel energy": image_diagonal(Pixel(), Energy(), 4),
    "pixel gradient smooth": image_diagonal(Pixel(), GradientEnergy(), 4, True),
    "dct": image_diagonal(DCT(), None, 1),
    "pca energy smooth": image_diagonal(
        PCA(np.linalg.qr(np.random.default_rng(0).normal(size=(32, 9)))[0].T), Energy(), 3, True
    ),
}


@pytest.mark.parametrize("name", DIAGONALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_samples_do_not_depend_on_the_batch(name, dtype, eta):
    """To the bit where U = I; elsewhere as far as matrix products round alike in any batch."""
    grid, found = even_log_snr(VP, 6, 1e-3), []
    for batch_size in (7, 3, 1):
        model = pointwise()
        sampler = Ancestral(model, DIAGONALS[name], eta)
        with model.metered() as cost:
            found.append(generate(sampler, grid, (2, 4, 4), 7, seed=5, batch_size=batch_size, dtype=dtype))
        assert cost.calls == 6 * -(-7 // batch_size)
        assert found[-1].dtype == dtype
    exact = name in ("pixel", "pixel energy")
    tolerance = 0.0 if exact else {torch.float32: 2e-5, torch.float64: 1e-5 if "smooth" in name else 1e-12}[dtype]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=tolerance, atol=tolerance)


def test_shapes_and_precisions_share_a_step():
    """One plan serves float32, float64 and images of another size, as labels follow the shape."""
    t, kernel = VP.level(0.5), reverse_kernel(VP.level(0.4), VP.level(0.5))
    step = Diagonal(spectrum([0.0, 1.0, 2.0]), DCT(radial=3)).steps([kernel], [t])[0]
    for shape in ((1, 4, 4), (1, 6, 8), (1, 4, 4)):
        for dtype in (torch.float32, torch.float64, torch.float16):
            z = torch.ones(2, *shape, dtype=dtype)
            out = step.add_noise(torch.zeros_like(z), Prediction(z, t, z, "eps"), z)
            assert (out.shape, out.dtype) == (z.shape, dtype)


def test_a_clip_is_for_isotropic_noise():
    sampler = Ancestral(pointwise(), DIAGONALS["dct"], clip=0.1)
    with pytest.raises(ValueError, match="clip"):
        generate(sampler, even_log_snr(VP, 4, 1e-3), (2, 4, 4), 1)


def test_fingerprints_tell_covariances_apart(tmp_path):
    levels = VP.levels([1.0, 0.5, 0.1])
    ks = kernels(levels)
    s = random_spectrum(0, bins=2, labels=16)
    base = Diagonal(s, Pixel(), Energy())
    others = {
        "y": Diagonal(replace(s, y=s.y + 1e-9), Pixel(), Energy()),
        "knots": Diagonal(replace(s, log_snr=s.log_snr + 1e-9), Pixel(), Energy()),
        "quantiles": Diagonal(replace(s, quantiles=s.quantiles + 1e-9), Pixel(), Energy()),
        "smooth": Diagonal(replace(s, smooth=True), Pixel(), Energy()),
        "basis": Diagonal(s, PixelChannel(), Energy()),
        "radial": Diagonal(s, DCT(radial=16), Energy()),
        "statistic": Diagonal(s, Pixel(), MeanLevel()),
        "window": Diagonal(s, Pixel(), GradientEnergy()),
        "other window": Diagonal(s, Pixel(), GradientEnergy(window=5)),
    }
    same = Diagonal(replace(s, y=s.y.copy()), Pixel(), Energy())
    found = [repr(d.fingerprint(ks, levels[:-1])) for d in (base, *others.values())]
    assert len(set(found)) == len(found)
    assert repr(same.fingerprint(ks, levels[:-1])) == found[0]
    # So a bound of one is not taken for that of another.
    grid, model, x = even_log_snr(VP, 3, 0.1), pointwise(), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    first = bits_per_dim(model, x, Chain(grid, base, 0.3), path=tmp_path / "b", progress=False)
    again = bits_per_dim(model, x, Chain(grid, same, 0.3), path=tmp_path / "b", progress=False)
    np.testing.assert_array_equal(again.per_example, first.per_example)
    with pytest.raises(ValueError, match="covariance"):
        bits_per_dim(model, x, Chain(grid, others["y"], 0.3), path=tmp_path / "b", progress=False)
