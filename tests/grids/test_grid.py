"""Grids: validation, constructors under every schedule, files, and dynamic programming against brute force."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from score_sde_analytic.grids.grid import Grid, even, even_log_snr, karras, optimal_paths, quadratic

FIRST = 1e-3


@pytest.mark.parametrize(
    ("times", "match"),
    [
        ((0.0,), "at least two"),
        ((), "at least two"),
        ((0.0, 1.0), "strictly decrease"),
        ((1.0, 0.5, 0.5, 0.0), "strictly decrease"),
        ((0.3, 0.5, 0.0), "strictly decrease"),
        ((1.1, 0.5, 0.0), "at most 1"),
        ((1.0, math.nan, 0.0), "finite"),
        ((math.nan, 0.5, 0.0), "finite"),
        ((1.0, 0.5), "ends in the data"),
        ((1.0, 0.0, -0.1), "ends in the data"),
        ((math.inf, 0.0), "finite"),
    ],
)
def test_bad_times_are_refused(times, match):
    with pytest.raises(ValueError, match=match):
        Grid(times)


def constructors(schedule):
    return {
        "even": lambda k: even(k, FIRST),
        "quadratic": lambda k: quadratic(k, FIRST),
        "even_log_snr": lambda k: even_log_snr(schedule, k, FIRST),
        "karras": lambda k: karras(schedule, k, FIRST),
    }


@pytest.mark.parametrize("name", ["even", "quadratic", "even_log_snr", "karras"])
def test_constructors_have_k_distinct_steps(schedule, name):
    """No duplicates at any K: each time costs a network call."""
    make = constructors(schedule)[name]
    for k in [*range(1, 101), 1000]:
        grid = make(k)
        assert grid.steps == k
        assert len(grid.times) == k + 1
        assert grid.times[0] == 1.0
        assert grid.times[-1] == 0.0
        assert np.all(np.diff(grid.times) < 0)
        if k > 1:
            assert grid.times[-2] == pytest.approx(FIRST, rel=1e-9)
    with pytest.raises(ValueError, match="at least 1"):
        make(0)


def test_constructors_are_even_in_their_coordinate(schedule):
    grids = {name: np.array(make(20).times[:-1]) for name, make in constructors(schedule).items()}
    coordinates = {
        "even": grids["even"],
        "quadratic": np.sqrt(grids["quadratic"]),
        "even_log_snr": schedule.log_snr(grids["even_log_snr"]),
        "karras": np.exp(-schedule.log_snr(grids["karras"]) / 14),
    }
    for values in coordinates.values():
        np.testing.assert_allclose(np.diff(values), values[1] - values[0], rtol=1e-6)


def test_karras_formula(schedule):
    """Karras et al., 2022, eq. 5, with noise levels sigma / alpha."""
    n, rho = 12, 5.0
    top, low = (schedule.sigma(t) / schedule.alpha(t) for t in (1.0, FIRST))
    ladder = (top ** (1 / rho) + np.arange(n) / (n - 1) * (low ** (1 / rho) - top ** (1 / rho))) ** rho
    times = np.array(karras(schedule, n, FIRST, rho).times[:-1])
    np.testing.assert_allclose(schedule.sigma(times) / schedule.alpha(times), ladder, rtol=1e-8)


def test_levels_belong_to_the_times(schedule):
    grid = even(3, 0.1)
    assert [level.t for level in grid.levels(schedule)] == list(grid.times)
    assert grid.levels(schedule)[1] == schedule.level(grid.times[1])


@pytest.mark.parametrize("cost", [1.25, math.nan])
def test_save_and_load(tmp_path, cost):
    grid = Grid((1.0, 1 / 3, 1e-17, 0.0), "some objective", cost)
    grid.save(tmp_path / "new" / "grid.json")
    loaded = Grid.load(tmp_path / "new" / "grid.json")
    assert (loaded.times, loaded.objective) == (grid.times, grid.objective)
    np.testing.assert_equal(loaded.cost, cost)
    json.loads((tmp_path / "new" / "grid.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 0]",
        b"3",
        b"\xff\xfe\x00",
        b'{"times": [1, 0]}',
        b'{"times": 1, "objective": "", "cost": 0}',
        b'{"times": [1, 2, 0], "objective": "", "cost": 0}',
        b'{"times": ["a", "b"], "objective": "", "cost": 0}',
        b'{"kind": "something else", "times": [1, 0], "objective": "", "cost": 0}',
    ],
)
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "grid.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        Grid.load(path)


def test_absent_file():
    with pytest.raises(FileNotFoundError, match="no grid file"):
        Grid.load("absent.json")


# --- dynamic programming ------------------------------------------------------------------------------------------------


def brute_force(cost, first_cost, steps):
    """The cheapest of all subsets of size `steps` that end in the last point."""
    n = len(first_cost)
    options = []
    for chosen in itertools.combinations(range(n - 1), steps - 1):
        path = (*chosen, n - 1)
        options.append((first_cost[path[0]] + sum(cost[i, j] for i, j in itertools.pairwise(path)), path))
    return min(options)


@given(n=st.integers(1, 9), seed=st.integers(0, 10_000), forbid=st.sampled_from(["nothing", "all but one", "some"]))
def test_paths_beat_every_subset(n, seed, forbid):
    rng = np.random.default_rng(seed)
    cost, first_cost = rng.normal(size=(n, n)), rng.normal(size=n)
    first_cost[{"nothing": [], "all but one": np.arange(1, n), "some": np.arange(0, n, 2)}[forbid]] = np.inf
    paths, costs = optimal_paths(cost, first_cost, n)
    for k in range(1, n + 1):
        expected, path = brute_force(cost, first_cost, k)
        assert costs[k - 1] == pytest.approx(expected)
        assert paths[k - 1].tolist() == (list(path) if np.isfinite(expected) else [])


def test_impossible_steps_are_skipped_over():
    cost = np.zeros((4, 4))
    cost[0, 1:3] = np.inf
    paths, costs = optimal_paths(cost, [0.0, np.inf, np.inf, np.inf], 4)
    assert costs.tolist() == [np.inf, 0.0, np.inf, np.inf]
    assert paths[1].tolist() == [0, 3]


def test_arguments_are_not_written_to():
    cost, first = np.ones((3, 3)), np.ones(3)
    optimal_paths(cost, first, 3)
    assert np.all(cost == 1)
    assert np.all(first == 1)


@pytest.mark.parametrize(
    ("cost", "first", "steps", "match"),
    [(np.zeros((2, 3)), np.zeros(3), 1, "cost must be"), (np.zeros((3, 3)), np.zeros(3), 4, "finer lattice"),
     (np.zeros((3, 3)), np.zeros(3), 0, "lattice")],
)  # fmt: skip
def test_bad_problems_are_refused(cost, first, steps, match):
    with pytest.raises(ValueError, match=match):
        optimal_paths(cost, first, steps)


@pytest.mark.parametrize("first", [0.0, 1.0, 2.0, float("nan")])
def test_first_times_outside_the_interval_are_refused(first):
    with pytest.raises(ValueError, match="t_1 must be a finite number above 0 and below 1"):
        even(5, first)
