"""A whole comparison of every solver on a small mixture: cells, budgets, bits, paths, files."""

from __future__ import annotations

import json
import math

import matplotlib.image
import numpy as np
import pytest

from score_sde_analytic.compare import SOLVERS, SolverName, compare
from score_sde_analytic.compare.cells import Job
from score_sde_analytic.study import GridName

#: What begins at times of its own; to choose on examples takes long, and is tested in tests/study.
OWN = tuple(name for name, entry in SOLVERS.items() if entry.own)
NAMES = (
    *(name for name in SOLVERS if name != "fewest_chosen"),
    "ancestral(pca)",
    "ancestral(residual, eta=0.5)",
    "multistep(pca)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def content(study, examples, asked, folder):
    result = compare(study, examples, asked(solvers=NAMES), folder, command="as typed", progress=False)
    assert len(result.written) == len(set(result.written))
    assert all(path.exists() for path in result.written)
    content = json.loads((folder / "compare.json").read_text())
    assert content == result.content
    return content


def test_every_solver_has_all_its_cells(content):
    for name in NAMES:
        cells = [c for c in content["cells"] if c["solver"] == name]
        entry = SolverName.parse(name).entry
        grids = {"interval"} if entry.adaptive else {"log_snr"} | ({str(entry.grid)} if entry.grid else set())
        grids = {"own"} if entry.own else grids
        assert {c["grid"] for c in cells} == grids
        assert len(cells) == (1 if entry.adaptive else 2 * len(grids))
    families = {solver["family"] for solver in content["solvers"]}
    assert families == {"analytic", "ode", "sde", "multistep", "corrector"}


def test_cells_are_whole_or_say_why_not(content, folder):
    names = {metric["name"] for metric in content["metrics"]}
    for cell in content["cells"]:
        if cell["status"] == "failed":
            assert cell["reason"]
            assert cell["sheet"] is None
            assert cell["bits"] is None
        else:
            assert set(cell["metrics"]) == names
            assert matplotlib.image.imread(folder / cell["sheet"]).ndim == 3
            assert cell["seconds_per_sample"] >= 0
            assert math.isfinite(cell["ratio_to_bare"])
    # Only steps that are far too long lead away from the data of an exact score.
    assert sum(cell["status"] == "ok" for cell in content["cells"]) > 0.8 * len(content["cells"])


def test_calls_are_those_claimed_and_within_the_budget(content, comparison, folder):
    bench = comparison(folder, solvers=NAMES).bench
    for cell in content["cells"]:
        if cell["status"] == "failed":
            continue
        if cell["budget"] is None:
            assert cell["calls"] > 0
            continue
        grid = None if cell["grid"] == "own" else GridName.parse(cell["grid"])
        plan = bench.planned(Job(SolverName.parse(cell["solver"]), grid, cell["budget"]))
        assert cell["steps"] == plan.grid.steps
        assert cell["calls"] == plan.calls <= cell["budget"]
    by = {(c["solver"], c["budget"]): c for c in content["cells"] if c["grid"] == "log_snr"}
    assert by["ode_rk4", 6]["steps"] == 2  # 4 (2 - 1) + 1 = 5 calls
    assert by["heun", 6]["steps"] == 3
    assert by["ddim", 6]["steps"] == 6


def test_bits_belong_to_chains(content):
    for cell in content["cells"]:
        chain = cell["solver"] in ("ddpm_beta", "ddpm_beta_tilde", "analytic_ddpm", "ancestral(pca)")
        if cell["status"] == "ok":
            assert (cell["bits"] is not None) == chain, cell
    # Predicted by one curve, the optimal scalar variance is the best scalar one on any grid.
    by = {(c["solver"], c["budget"]): c["bits"] for c in content["cells"] if c["grid"] == "log_snr"}
    for k in (3, 6):
        assert by["analytic_ddpm", k]["value"] < min(by["ddpm_beta", k]["value"], by["ddpm_beta_tilde", k]["value"])


def test_paths_begin_together_and_end_in_the_data(content):
    ways = content["paths"]["solvers"]
    assert set(ways) | set(content["paths"]["failed"]) == set(NAMES)
    assert content["paths"]["kind"] == "points"
    starts = [np.array(way["states"])[0] for name, way in ways.items() if name not in OWN]
    for start in starts:
        np.testing.assert_array_equal(start, starts[0])  # the same noise for all
    assert {way["times"][0] for name, way in ways.items() if name not in OWN} == {1.0}
    for way in ways.values():
        states = np.array(way["states"])
        assert states.shape == (len(way["times"]), 60, 2)
        assert way["times"][-1] == 0.0
        assert way["log_snr"][-1] is None
    density = content["paths"]["density"]
    cell = (density["x"][1] - density["x"][0]) * (density["y"][1] - density["y"][0])
    assert np.sum(density["values"]) * cell == pytest.approx(1.0, abs=0.02)  # the lattice holds nearly all of it


def test_json_has_what_the_page_reads(content, folder):
    for name in ("title", "versions", "seed", "model", "device", "calibration", "config"):
        assert content[name] not in ("", None, {})
    assert content["command"] == "as typed"
    assert content["data"] == {
        "name": "mixture",
        "shape": [2],
        "test_examples": 200,
        "reference_examples": 60,
        "range": [-4.0, 4.0],
    }
    assert content["budgets"] == [3, 6]
    assert (folder / content["data_sheet"]).exists()
    table = (folder / "compare.md").read_text()
    for solver in content["solvers"]:
        assert solver["label"] in table
