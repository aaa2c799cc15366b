"""Shortest paths over a lattice: against all subsets, against the plain recursion, and against each other."""

import itertools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from scipy.special import expit

import score_sde_analytic.grids
from score_sde_analytic.grids.dynamic import StepCosts, is_monge, monge_path, monge_paths, plain_paths, shortest_paths
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.process.kernel import optimal_step_nats
from score_sde_analytic.process.schedule import Tabulated

numba = pytest.importorskip("numba", reason="the Monge solver needs numba")

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "analytic_dpm_linear.json"
KINDS = ("steps", "smooth", "gaussian", "coordinates")
FORBID = ("nothing", "some", "all but one", "early")


def random_costs(n, seed, kind="steps", span=16.0):
    """Monge: y nondecreasing in log-SNR, with jumps, without, flat, or one curve per coordinate; some R are 0 or 1."""
    rng = np.random.default_rng(seed)
    lam = span * (np.sort(rng.uniform(size=n))[::-1] - 0.5) - 0.1 * np.arange(n) / n
    columns = 3 if kind == "coordinates" else 1
    rise = {"smooth": rng.exponential(size=(n, columns)) * span / n, "gaussian": np.zeros((n, columns))}.get(
        kind, rng.exponential(size=(n, columns)) * (rng.uniform(size=(n, columns)) < 0.3) * 2
    )
    y = np.cumsum(rise, axis=0)[::-1] - rng.uniform(0, 1.5 * span / 2, size=columns)
    r = expit(lam[:, None] - y)
    if kind == "steps" and n > 2:
        r[: rng.integers(0, 2)], r[n - rng.integers(0, 2) :] = 0.0, 1.0  # y = inf at the top, -inf at the end
    return StepCosts(lam, r if columns > 1 else r[:, 0])


def random_first(n, seed, forbid="nothing"):
    rng = np.random.default_rng(seed + 1)
    first = rng.normal(size=n)
    one = rng.integers(n)
    first[
        {
            "nothing": np.zeros(n, dtype=bool),
            "some": rng.uniform(size=n) < 0.5,
            "all but one": np.arange(n) != one,
            "early": np.arange(n) < one,
        }[forbid]
    ] = np.inf
    return first


def brute_force(costs, first, max_steps, min_spacing=0.0):
    """The cheapest of all subsets of each size that end in the last point, by the formula."""
    lam, r, n = costs.log_snr, costs.columns, len(costs)
    c = np.full((n, n), np.inf)
    for i, j in itertools.combinations(range(n), 2):
        if lam[i] - lam[j] >= min_spacing - 1e-12:
            c[i, j] = 0.5 * np.log1p(r[j] * np.expm1(lam[i] - lam[j])).mean()
    c = c.tolist()
    return [
        min(
            first[path[0]] + sum(c[i][j] for i, j in itertools.pairwise(path))
            for chosen in itertools.combinations(range(n - 1), steps - 1)
            for path in [(*chosen, n - 1)]
        )
        for steps in range(1, max_steps + 1)
    ]


def assert_paths(costs, first, paths, values, min_spacing=0.0):
    """K points each, ascending to the end, allowed, and worth what is claimed."""
    for k, (path, value) in enumerate(zip(paths, values, strict=True), start=1):
        if not np.isfinite(value):
            assert len(path) == 0
            continue
        assert len(path) == k
        assert path[-1] == len(costs) - 1
        assert np.all(np.diff(path) > 0)
        assert np.all(-np.diff(costs.log_snr[path]) >= min_spacing - 1e-11)
        assert first[path[0]] + costs.of(path) == pytest.approx(value, rel=1e-11, abs=1e-12)


# --- costs --------------------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_curve():
    lam = np.linspace(9.0, -8.0, 12)
    curve = NoiseCurve(np.array([-5.0, 5.0]), np.array([-1.0, 2.0]))
    costs = StepCosts(lam, curve.residual(lam))
    matrix = costs.matrix()
    i, j = np.triu_indices(12, 1)
    np.testing.assert_allclose(matrix[i, j], optimal_step_nats(curve.residual(lam[j]), lam[i] - lam[j]), rtol=1e-13)
    assert np.all(np.isinf(matrix[np.tril_indices(12)]))
    np.testing.assert_array_equal(costs.row(-3), matrix[9])
    path = np.array([0, 3, 4, 11])
    assert costs.of(path) == pytest.approx(matrix[0, 3] + matrix[3, 4] + matrix[4, 11])
    assert costs.of([11]) == 0.0


def test_a_basis_averages_its_coordinates():
    lam, r = np.linspace(6.0, -6.0, 9), np.random.default_rng(0).uniform(size=(9, 4))
    i, j = np.triu_indices(9, 1)
    each = [StepCosts(lam, column).matrix()[i, j] for column in r.T]
    np.testing.assert_allclose(StepCosts(lam, r).matrix()[i, j], np.mean(each, axis=0), rtol=1e-13)


def test_steps_of_any_size_keep_relative_precision():
    """R h / 2 for tiny steps, (h + log R) / 2 for huge ones, also where 1 - R or R is tiny."""
    tiny = StepCosts(np.array([1e-9, 0.0]), np.array([0.5, 1e-7]))
    assert tiny.of([0, 1]) == pytest.approx(0.5e-16, rel=1e-8, abs=0)
    for r in (1.0, 1 - 1e-16, 0.3, 1e-40):
        huge = StepCosts(np.array([300.0, 0.0]), np.array([0.5, r]))
        assert huge.of([0, 1]) == pytest.approx(0.5 * (300.0 + math.log(r)), rel=1e-14)
    assert StepCosts(np.array([300.0, 0.0]), np.array([0.5, 0.0])).of([0, 1]) == 0.0


@pytest.mark.parametrize(
    ("log_snr", "residual", "match"),
    [
        ([], [], "non-empty"),
        ([[1.0]], [0.5], "1-d"),
        ([1.0, 1.0], [0.5, 0.5], "strictly decrease"),
        ([0.0, 1.0], [0.5, 0.5], "strictly decrease"),
        ([np.inf, 1.0], [0.5, 0.5], "leave out the data"),
        ([np.nan, 1.0], [0.5, 0.5], "finite"),
        ([301.0, 0.0], [0.5, 0.5], "shorter lattice"),
        ([1.0, 0.0], [0.5], "to match log_snr"),
        ([1.0, 0.0], [[[0.5]], [[0.5]]], "to match log_snr"),
        ([1.0, 0.0], np.zeros((2, 0)), "to match log_snr"),
        ([1.0, 0.0], [0.5, 1.1], "clip"),
        ([1.0, 0.0], [0.5, np.nan], "clip"),
    ],
)
def test_bad_costs_are_refused(log_snr, residual, match):
    with pytest.raises(ValueError, match=match):
        StepCosts(np.array(log_snr), np.array(residual))


@given(n=st.integers(2, 40), seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_monotone_curves_have_monge_costs(n, seed, kind):
    costs = random_costs(n, seed, kind)
    assert is_monge(costs)
    c = costs.matrix()
    i, j = np.triu_indices(n - 1, 2)
    assert np.all(c[i, j] + c[i + 1, j + 1] <= c[i, j + 1] + c[i + 1, j] + 1e-12)


@pytest.mark.parametrize(("fall", "expected"), [(0.0, True), (1e-7, True), (1e-5, False), (3.0, False)])
def test_falls_of_y_beyond_the_tolerance_are_noticed(fall, expected):
    """Also those spread over many points."""
    lam = np.linspace(10.0, -10.0, 1001)
    y = np.linspace(-fall, 0.0, 1001) if fall < 1 else np.where(np.abs(lam) < 1, fall, 0.0)
    assert is_monge(StepCosts(lam, expit(lam - y))) == expected
    assert is_monge(StepCosts(lam, expit(lam - y)), tolerance=4.0)
    assert is_monge(StepCosts(lam, np.stack([expit(lam), expit(lam - y)], -1))) == expected


def test_certain_and_hopeless_levels():
    """R = 0 is y = inf: allowed at high log-SNR only; R = 1 is y = -inf."""
    lam = np.array([2.0, 1.0, 0.0, -1.0])
    assert is_monge(StepCosts(lam, np.array([0.0, 0.0, 0.3, 1.0])))
    assert not is_monge(StepCosts(lam, np.array([0.3, 0.3, 0.0, 0.3])))
    assert not is_monge(StepCosts(lam, np.array([0.3, 1.0, 0.3, 0.2])))
    high = np.linspace(40.0, 10.0, 500)
    assert is_monge(StepCosts(high, expit(high)))  # 1 - R is lost to rounding


# --- all numbers of steps -----------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    forbid=st.sampled_from(FORBID),
    min_spacing=st.sampled_from([0.0, 0.0, 0.5, 2.0]),
)
def test_paths_beat_every_subset(n, seed, kind, forbid, min_spacing):
    costs, first = random_costs(n, seed, kind), random_first(n, seed, forbid)
    expected = brute_force(costs, first, n, min_spacing)
    for method in ("monge", "plain"):
        found = shortest_paths(costs, first, n, method, min_spacing)
        np.testing.assert_allclose(found.costs, expected, rtol=1e-10, atol=1e-12)
        assert_paths(costs, first, found.paths, found.costs, min_spacing)
    if min_spacing == 0.0:
        np.testing.assert_allclose([monge_path(costs, first, k)[1] for k in range(1, n + 1)], expected, rtol=1e-10, atol=1e-12)


@given(n=st.integers(11, 120), seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), forbid=st.sampled_from(FORBID))
def test_objective_equals_the_plain_recursion(n, seed, kind, forbid):
    costs, first = random_costs(n, seed, kind), random_first(n, seed, forbid)
    paths, values = monge_paths(costs, first, n)
    np.testing.assert_allclose(values, plain_paths(costs, first, n)[1], rtol=1e-10, atol=1e-12)
    assert_paths(costs, first, paths, values)


@given(n=st.integers(11, 80), seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), spacing=st.floats(0.01, 3.0))
def test_short_steps_may_be_forbidden(n, seed, kind, spacing):
    costs, first = random_costs(n, seed, kind), random_first(n, seed, "some")
    paths, values = monge_paths(costs, first, n, spacing)
    np.testing.assert_allclose(values, plain_paths(costs, first, n, spacing)[1], rtol=1e-10, atol=1e-12)
    assert_paths(costs, first, paths, values, spacing)


def test_the_spacing_of_an_even_lattice_is_allowed():
    """Though differences of its log-SNRs are rounded."""
    lam = np.linspace(9.7, -9.1, 95)
    costs = StepCosts(lam, expit(lam))
    values = monge_paths(costs, np.zeros(95), 95, 18.8 / 94)[1]
    assert np.all(np.isfinite(values))
    values = monge_paths(costs, np.zeros(95), 95, 18.8 / 94 * 2)[1]
    assert np.isfinite(values).tolist() == [k <= 48 for k in range(1, 96)]


@pytest.fixture(scope="module")
def noisy() -> StepCosts:
    """An isotonic fit of noisy values at every point: long flat stretches and jumps."""
    rng, lam = np.random.default_rng(3), np.linspace(9.0, -10.0, 400)
    y = 0.5 * lam + np.tanh(lam) + rng.normal(size=400)
    return StepCosts(lam, expit(lam - isotonic_regression(y[::-1]).x[::-1]))


def test_a_measured_like_curve(noisy):
    first = -0.45 * noisy.log_snr
    paths, values = monge_paths(noisy, first, 400)
    np.testing.assert_allclose(values, plain_paths(noisy, first, 400)[1], rtol=1e-10)
    assert_paths(noisy, first, paths, values)
    singles = [monge_path(noisy, first, k) for k in (*range(1, 40), 100, 250, 399, 400)]
    np.testing.assert_allclose([v for _, v in singles], [values[len(p) - 1] for p, _ in singles], rtol=1e-11)


def test_other_curves_fall_back_to_the_plain_recursion():
    rng = np.random.default_rng(5)
    lam = np.linspace(6.0, -6.0, 11)
    costs, first = StepCosts(lam, rng.uniform(size=11)), rng.normal(size=11)
    found = shortest_paths(costs, first, 11)
    assert found.method == "plain"
    np.testing.assert_allclose(found.costs, brute_force(costs, first, 11), rtol=1e-12)
    assert shortest_paths(random_costs(11, 0), first, 11).method == "monge"


# --- one number of steps ------------------------------------------------------------------------------------------------


@given(n=st.integers(11, 200), seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), forbid=st.sampled_from(FORBID))
def test_one_path_equals_all_paths(n, seed, kind, forbid):
    costs, first = random_costs(n, seed, kind), random_first(n, seed, forbid)
    values = monge_paths(costs, first, n)[1]
    for k in (1, 2, 3, 5, n // 2, n - 1, n):
        path, value = monge_path(costs, first, k)
        assert value == pytest.approx(values[k - 1], rel=1e-10, abs=1e-12)
        if np.isfinite(value):
            assert len(path) == k
            assert_paths(costs, first, [[]] * (k - 1) + [path], [np.inf] * (k - 1) + [value])


@pytest.mark.parametrize("kind", ["smooth", "gaussian", "steps"])
def test_one_path_on_a_fine_lattice(kind):
    costs = random_costs(2000, 7, kind)
    first = 0.5 * np.log(costs.columns.mean(-1) + 1e-300) - 0.5 * costs.log_snr  # the best Gaussian decoder, up to a constant
    values = monge_paths(costs, first, 300)[1]
    for k in (3, 4, 7, 20, 50, 133, 300):
        assert monge_path(costs, first, k)[1] == pytest.approx(values[k - 1], rel=1e-10)


@pytest.mark.parametrize("kind", ["smooth", "coordinates"])
@pytest.mark.parametrize("only", [None, 13])
def test_one_path_with_a_guess_from_a_coarser_lattice(kind, only):
    """Also when the coarser lattice lacks the only allowed first time."""
    n = 8200
    costs = random_costs(n, 3, kind)
    first = -0.45 * costs.log_snr if only is None else np.where(np.arange(n) == only, 0.0, np.inf)
    values = monge_paths(costs, first, 40)[1]
    for k in (3, 12, 40):
        path, value = monge_path(costs, first, k)
        assert value == pytest.approx(values[k - 1], rel=1e-10)
        assert len(path) == k


def test_every_path_of_gaussian_data_costs_the_same():
    lam = np.linspace(9.0, -9.0, 1500)
    costs, first = StepCosts(lam, expit(lam - 0.7)), np.where(lam == 9.0, 0.0, np.inf)
    exact = 0.5 * (np.logaddexp(0, 9.0 - 0.7) - np.logaddexp(0, -9.0 - 0.7))
    paths, values = monge_paths(costs, first, 1500)
    np.testing.assert_allclose(values[1:], exact, rtol=1e-11)
    assert_paths(costs, first, paths, values)
    for k in (2, 3, 50, 751, 1499, 1500):
        path, value = monge_path(costs, first, k)
        assert value == pytest.approx(exact, rel=1e-11)
        assert len(path) == k


def test_curves_with_two_knots():
    curve = NoiseCurve(np.array([-2.0, 3.0]), np.array([-2.0, 2.5]))
    lam = np.linspace(10.0, -10.0, 250)
    costs, first = StepCosts(lam, curve.residual(lam)), -0.5 * lam
    found = shortest_paths(costs, first, 60)
    assert found.method == "monge"
    np.testing.assert_allclose(found.costs, plain_paths(costs, first, 60)[1], rtol=1e-11)
    np.testing.assert_allclose([monge_path(costs, first, k)[1] for k in range(1, 61)], found.costs, rtol=1e-11)


def test_cost_is_convex_in_steps_from_a_fixed_first_time():
    costs = random_costs(300, 11, "smooth")
    values = monge_paths(costs, np.where(np.arange(300) == 0, 0.0, np.inf), 300)[1]
    assert np.isinf(values[0])
    assert np.all(np.diff(values[1:], 2) >= -1e-12)


# --- the public numbers, errors -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not REFERENCE.is_file(), reason="no reference numbers beside the repository")
@pytest.mark.parametrize("data", ["twopoint_0.8_s0.1", "aniso_gauss_std_1_.3_.1_.03"])
def test_public_optimal_trajectories(data):
    """Analytic-DPM's dynamic programme with the first index forced to 1: the same objective."""
    reference = json.loads(REFERENCE.read_text())
    inputs = reference["inputs"]["linear"]
    schedule = Tabulated(inputs["betas"][1:])
    costs = StepCosts(schedule.log_snr(schedule.times), 1.0 - np.array(inputs["ms_eps"][data][1:]))
    first = np.where(np.arange(1000) == 0, 0.0, np.inf)
    found = shortest_paths(costs, first, 100)
    assert found.method == "monge"
    for steps in (5, 10, 25, 50, 100):
        theirs = reference["results"][f"linear|{data}"]["dp_seg"][str(steps)]["derived_sum_J"]
        assert 2 * found.costs[steps - 1] == pytest.approx(theirs, rel=1e-9)
        assert 2 * monge_path(costs, first, steps)[1] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("solve", [monge_paths, plain_paths, monge_path, shortest_paths])
def test_bad_problems_are_refused(solve):
    costs = random_costs(6, 0)
    for first in (np.zeros(5), np.zeros((6, 1))):
        with pytest.raises(ValueError, match="one per lattice point"):
            solve(costs, first, 3)
    for bad in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="finite, or inf"):
            solve(costs, np.array([bad, 0, 0, 0, 0, 0]), 3)
    for steps in (0, 7):
        with pytest.raises(ValueError, match="finer lattice"):
            solve(costs, np.zeros(6), steps)


def test_no_allowed_first_time():
    costs, first = random_costs(6, 0), np.full(6, np.inf)
    assert all(np.isinf(shortest_paths(costs, first, 6, method).costs).all() for method in ("monge", "plain"))
    for k in range(1, 7):
        path, value = monge_path(costs, first, k)
        assert (len(path), value) == (0, np.inf)


def test_bad_settings_are_refused():
    costs = random_costs(6, 0)
    with pytest.raises(ValueError, match="'auto', 'monge' or 'plain'"):
        shortest_paths(costs, np.zeros(6), 3, "fast")
    for spacing in (-1.0, np.nan):
        with pytest.raises(ValueError, match="min_spacing"):
            shortest_paths(costs, np.zeros(6), 3, min_spacing=spacing)


def test_large_problems_name_their_limits():
    lam = np.linspace(9.0, -9.0, 8001)
    costs = StepCosts(lam, expit(lam))
    with pytest.raises(ValueError, match="limit of 8000"):
        plain_paths(costs, np.zeros(8001), 3)
    lam = np.linspace(9.0, -9.0, 200_000)
    with pytest.raises(ValueError, match="use monge_path"):
        monge_paths(StepCosts(lam, expit(lam)), np.zeros(200_000), 100_000)


@pytest.fixture
def uncompiled(monkeypatch):
    """The state before the first solve; the compiled kernels return afterwards."""
    monkeypatch.delitem(sys.modules, "score_sde_analytic.grids.monge_kernels", raising=False)
    monkeypatch.delattr(score_sde_analytic.grids, "monge_kernels", raising=False)
    return monkeypatch


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_plain_python(kind, uncompiled):
    """The same paths without compilation: no overflow wraps, no index runs out of its array."""
    costs, first = random_costs(40, 4, kind), random_first(40, 4, "some")
    uncompiled.setitem(sys.modules, "numba", SimpleNamespace(njit=lambda **_: lambda kernel: kernel))
    values = monge_paths(costs, first, 20)[1]
    np.testing.assert_allclose(values, plain_paths(costs, first, 20)[1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose([monge_path(costs, first, k)[1] for k in range(1, 21)], values, rtol=1e-10, atol=1e-12)
    spaced = monge_paths(costs, first, 20, 1.0)[1]
    np.testing.assert_allclose(spaced, plain_paths(costs, first, 20, 1.0)[1], rtol=1e-10, atol=1e-12)


def test_without_numba(uncompiled):
    costs = random_costs(6, 0)
    uncompiled.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"score_sde_analytic\[grids\]"):
        monge_paths(costs, np.zeros(6), 3)
    assert shortest_paths(costs, np.zeros(6), 3, "plain").method == "plain"
    uncompiled.setattr("importlib.util.find_spec", lambda name: None)
    assert shortest_paths(costs, np.zeros(6), 3).method == "plain"
