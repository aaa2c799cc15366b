"""Grids that choose where they begin: against all subsets, the plain recursion against the Monge solver, and t = 1."""

import itertools

import numpy as np
import pytest
from scipy.special import expit

from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.dynamic import StepCosts, monge_paths, plain_paths
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import Tabulated

pytest.importorskip("numba", reason="the Monge solver needs numba")


def costs_of(n: int, seed: int, columns: int = 1) -> StepCosts:
    rng = np.random.default_rng(seed)
    lam = 12.0 * np.sort(rng.uniform(size=n))[::-1] - 6.0 - 1e-3 * np.arange(n)
    y = np.cumsum(rng.exponential(size=(n, columns)) * (rng.uniform(size=(n, columns)) < 0.5), axis=0)[::-1] - 3.0
    r = expit(lam[:, None] - y)
    return StepCosts(lam, r[:, 0] if columns == 1 else r)


def ends(n: int, seed: int, forbidden: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 100)
    first, top = rng.normal(size=n), 2.0 * rng.uniform(size=n)
    top[rng.uniform(size=n) < forbidden] = np.inf
    return first, top


def brute_force(costs: StepCosts, first: np.ndarray, top: np.ndarray, most: int, spacing: float) -> list[float]:
    lam, n = costs.log_snr, len(costs)

    def value(path: tuple[int, ...]) -> float:
        if any(lam[i] - lam[j] < spacing - 1e-12 for i, j in itertools.pairwise(path)):
            return np.inf
        return float(first[path[0]] + costs.of(path) + top[path[-1]])

    return [min(map(value, itertools.combinations(range(n), steps))) for steps in range(1, most + 1)]


@pytest.mark.parametrize("solve", [plain_paths, monge_paths])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("spacing", [0.0, 0.8])
@pytest.mark.parametrize("forbidden", [0.0, 0.6])
def test_the_cheapest_of_all_subsets(solve, columns, spacing, forbidden):
    for seed in range(8):
        n = 9
        costs = costs_of(n, seed, columns)
        first, top = ends(n, seed, forbidden)
        paths, values = solve(costs, first, 6, spacing, top)
        np.testing.assert_allclose(values, brute_force(costs, first, top, 6, spacing), rtol=1e-10, atol=1e-12)
        for k, (path, value) in enumerate(zip(paths, values, strict=True), start=1):
            if np.isfinite(value):
                assert len(path) == k
                assert first[path[0]] + costs.of(path) + top[path[-1]] == pytest.approx(value, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("columns", [1, 4])
def test_both_solvers_agree_on_larger_lattices(columns):
    for seed in range(4):
        costs = costs_of(300, seed, columns)
        first, top = ends(300, seed, 0.3)
        fast, plain = (solve(costs, first, 40, 0.0, top)[1] for solve in (monge_paths, plain_paths))
        np.testing.assert_allclose(fast, plain, rtol=1e-9)


def test_an_end_at_the_last_point_alone_is_the_usual_problem():
    costs, (first, _) = costs_of(60, 0), ends(60, 0)
    top = np.append(np.full(59, np.inf), 0.0)
    for solve in (monge_paths, plain_paths):
        usual, free = solve(costs, first, 20), solve(costs, first, 20, 0.0, top)
        np.testing.assert_allclose(free[1], usual[1], rtol=1e-12)
        for one, other in zip(free[0], usual[0], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("covariance", [Isotropic, lambda curve: BetaTilde()])
def test_grids_are_never_worse_than_from_the_prior(covariance, mixture: GaussianMixture, curve: NoiseCurve):
    """With its own price at t = 1 allowed, choosing the top costs nothing, and saves most where steps are few."""
    schedule = Tabulated.linear()
    lattice = Lattice.even_log_snr(schedule, 120, 8.0)
    log_snr = lattice.levels.log_snr
    top = LinearDenoiser.exact(*mixture.moments()).prior_price(log_snr)[0]
    first = 0.5 * np.log1p(np.exp(-log_snr))
    usual = lattice.optimal_grids(curve, covariance(curve), first, 10)
    free = lattice.optimal_grids(curve, covariance(curve), first, 10, top_cost=top)
    gains = np.array([usual[k].cost + top[-1] - free[k].cost for k in range(1, 11)])
    assert np.all(gains >= -1e-12)
    assert gains[1] > 0.05
    assert 0.0 < free[1].times[0] < 1.0
    for k, grid in free.items():
        assert grid.steps == k


def test_ends_of_another_length_are_refused():
    costs, (first, top) = costs_of(9, 0), ends(9, 0)
    for solve in (monge_paths, plain_paths):
        with pytest.raises(InputError, match="top_cost"):
            solve(costs, first, 3, 0.0, top[:-1])
