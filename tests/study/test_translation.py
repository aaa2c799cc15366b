"""Image to image: exact where the data are Gaussian, SDEdit without energies, each energy by its own measure, criteria."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import transition_costs
from score_sde_analytic.guidance import CosineFeatures
from score_sde_analytic.measure.estimation import Budget
from score_sde_analytic.metrics import Frechet, Measured, Pixels, Reference, low_pass_difference, structural_similarity
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.study import Search, Settings, Study, analyse, grid_from, translation
from score_sde_analytic.study.translated import Criteria, above_frontier
from score_sde_analytic.uncertainty import Estimate, jackknife_variance

VP = LinearVP()
WIDTH = 0.7
FEW = Budget(max_draws=300)
TARGET = GaussianMixture([0.5, 0.3, 0.2], [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], [0.05, 0.2])
SOURCE = GaussianMixture([1.0], [[0.8, -1.2]], 0.1).sample(300, seed=3)


def measured(mixture):
    settings = Settings(search=Search(points=60))
    return analyse(mixture.score_model(VP), mixture.sample(400), budget=FEW, settings=settings, progress=False)


@pytest.fixture(scope="module")
def study() -> Study:
    return measured(TARGET)


@pytest.fixture(scope="module")
def gaussian() -> Study:
    return measured(GaussianMixture([1.0], [[0.0, 0.0]], WIDTH**2))


def sha(x):
    return hashlib.sha256(x.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("log_snr", [-2.0, 0.0, 2.0])
def test_distance_to_the_source_is_that_of_exact_posterior_draws(gaussian, log_snr):
    """Of data N(0, c^2), y ~ p(x_0 | x_t = alpha s + sigma z) is k x_t + sqrt(v) z', so that

    E (y - s)^2 = (k alpha - 1)^2 s^2 + k^2 sigma^2 + v,   k = alpha c^2 / (alpha^2 c^2 + sigma^2),   v = c^2 (1 - k alpha)

    and with the optimal variance the chain draws from it, but for its last step (v at t_1).
    """
    x_0 = torch.full((4000, 2), 1.5)
    y = translation(gaussian, x_0, log_snr, steps=6, grid="log_snr")(4000, seed=1, batch_size=4000)
    alpha, sigma = VP.level_at(log_snr).alpha, VP.level_at(log_snr).sigma
    k = alpha * WIDTH**2 / (alpha**2 * WIDTH**2 + sigma**2)
    expected = (k * alpha - 1.0) ** 2 * 1.5**2 + k**2 * sigma**2 + WIDTH**2 * (1.0 - k * alpha)
    found = Estimate.of((y - x_0).double().square().mean(1).numpy())
    assert found.value == pytest.approx(expected, rel=0.01, abs=4.0 * found.stderr)


def test_zero_weights_are_sdedit_to_the_bit(study):
    energies = [(lambda y, reference, level: (y - reference).square().sum(1), 0.0)]
    plans = [translation(study, SOURCE.float(), -0.5, steps=4, energies=e) for e in ((), energies)]
    assert sha(plans[0](300, seed=2, batch_size=300)) == sha(plans[1](300, seed=2, batch_size=300))
    assert plans[0].calls == plans[1].calls == 4


@pytest.mark.parametrize("log_snr", [-1.0, 0.5])
def test_each_energy_moves_its_own_measure(study, log_snr):
    """Over weights 0, .3, 1, 3: the distance to the source falls by the one, the cosine with the source by the other."""
    x_0 = SOURCE.float()
    faith = lambda y, reference, level: (y - reference).square().sum(1)  # noqa: E731
    realism = CosineFeatures(lambda x, level: x[:, :, None], "coordinates")

    def results(energy, weight):
        return translation(study, x_0, log_snr, steps=10, energies=[(energy, weight)])(300, seed=4, batch_size=300)

    weights = (0.0, 0.3, 1.0, 3.0)
    apart = [float((results(faith, w) - x_0).square().sum(1).mean()) for w in weights]
    alike = [float(torch.cosine_similarity(results(realism, w), x_0).mean()) for w in weights]
    assert apart == sorted(apart, reverse=True)
    assert alike == sorted(alike, reverse=True)
    assert min(apart[0] / apart[-1] - 1.0, alike[0] - alike[-1]) > 0.05


def cost(study, grid):
    """Nats per dimension of transitions and last step."""
    log_snr = np.asarray(VP.log_snr(np.array(grid.times[-2:-1])))
    steps = transition_costs(VP, study.curve, study.covariance(), grid)
    return float(steps.sum() + study.last_step.nats(study.reconstruction, log_snr)[0])


def test_the_optimal_grid_from_a_level_is_the_best_of_all(study):
    """Of its lattice, by trying all pairs of times below the start."""
    times = replace(study.search, begin=float(VP.time(-1.0))).lattice.times
    best = grid_from(study, -1.0, 3)
    assert float(VP.log_snr(best.times[0])) == pytest.approx(-1.0, abs=1e-9)
    all_of_them = [Grid((times[-1], b, a, 0.0)) for i, a in enumerate(times[:-1]) for b in times[i + 1 : -1]]
    costs = [cost(study, grid) for grid in all_of_them]
    assert cost(study, best) == pytest.approx(min(costs), rel=1e-9)
    assert all_of_them[int(np.argmin(costs))].times == pytest.approx(best.times)


def test_grids_that_begin_at_one_are_refused(study):
    for name in ("refined", "even_tuned"):
        with pytest.raises(InputError, match="choose one of dp, klub, even, quadratic, log_snr, karras"):
            grid_from(study, 0.0, 4, name)
    with pytest.raises(InputError, match="of the shape of the data"):
        translation(study, torch.zeros(2, 3), 0.0)


# --- criteria -----------------------------------------------------------------------------------------------------------


def image(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_structural_similarity_of_one_window():
    """(2 mx my + C1)(2 cxy + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)), C1 = (.01 L)^2, C2 = (.03 L)^2."""
    x, y = image(0, 1, 1, 7, 7), image(1, 1, 1, 7, 7)
    c1, c2 = 0.02**2, 0.06**2
    covariance = torch.cov(torch.stack([x.flatten(), y.flatten()]))
    mx, my = x.mean(), y.mean()
    alike = (2 * mx * my + c1) * (2 * covariance[0, 1] + c2)
    expected = alike / ((mx**2 + my**2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2))
    assert structural_similarity(x, y, DataRange(-1.0, 1.0))[0] == pytest.approx(float(expected))
    with pytest.raises(InputError, match="at least 3 x 3"):
        structural_similarity(x[..., :2], y[..., :2], DataRange())


def test_the_low_pass_difference_splits_the_square():
    """||x - y||^2 = ||P (x - y)||^2 + ||(1 - P)(x - y)||^2, P a projection."""
    x, y = image(0, 3, 2, 8, 8), image(1, 3, 2, 8, 8)
    low = low_pass_difference(x, y, 2) ** 2
    inner = (x - y).reshape(3, 2, 4, 2, 4, 2)
    high = (inner - inner.mean((3, 5), keepdim=True)).square().flatten(1).mean(1)
    np.testing.assert_allclose(low + high.numpy(), (x - y).square().flatten(1).mean(1), rtol=1e-12)


def test_criteria_are_what_they_say():
    source, data = image(0, 40, 1, 4, 4), image(5, 60, 1, 4, 4)
    criteria = Criteria(source, DataRange(0.0, 1.0), Reference.of(data, Pixels()))
    shifted = source + 0.25
    scores = criteria(shifted)
    assert scores["l2"] == pytest.approx((0.25, 0.0))
    assert scores["low_pass"] == pytest.approx((0.25, 0.0))
    plain = Frechet(groups=20)(shifted.flatten(1), data.flatten(1))
    assert (scores["frechet"].value, scores["frechet"].stderr) == (plain.value, plain.stderr)
    assert set(criteria.of_source()) == {"frechet"}


def at(l2, frechet):
    """Scores of a distance whose replicates are its own."""
    near = 0.1 * np.random.default_rng(int(100 * l2)).normal(size=(2, 5))
    return {"l2": Estimate(l2, 0.01), "frechet": Measured(frechet, 0.1, 0.0, 0.0, frechet, tuple(frechet + near))}


def test_a_point_of_the_frontier_lies_on_it():
    frontier = [at(x, 1.0 / x) for x in (2.0, 0.5, 1.0)]
    for point in frontier:
        found = above_frontier(point, frontier)
        assert (found.value, found.stderr) == pytest.approx((0.0, 0.0), abs=1e-12)
    middle = at(0.75, 1.0)
    found = above_frontier(middle, frontier)
    parts = [one["frechet"].replicates for one in (middle, at(0.5, 2.0), at(1.0, 1.0))]
    expected = sum(float(jackknife_variance(p - 0.5 * (a + b))) for p, a, b in zip(*parts, strict=True))
    assert (found.value, found.stderr) == pytest.approx((-0.5, math.sqrt(expected)))
    assert above_frontier(at(2.5, 0.0), frontier) is None
