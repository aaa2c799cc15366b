"""Cells in pairs, grids chosen on the metric itself, and the free model alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from score_sde_analytic.compare import compare
from score_sde_analytic.compare.cells import Job
from score_sde_analytic.compare.paired import Pairs
from score_sde_analytic.compare.registry import SolverName
from score_sde_analytic.compare.search import GRIDS, Search, candidates
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.metrics import Measured, difference
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.report import comparison_tables, paired_tables
from score_sde_analytic.samplers import DPMSolverPP

FIRSTS = (2.0, 5.0)
NAMES = ("ddpm_beta", "lms")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("paired")


@pytest.fixture(scope="module")
def content(study, examples, asked, folder):
    return compare(study, examples, asked(solvers=NAMES, search=FIRSTS, paths=0), folder, progress=False).content


# --- pairs --------------------------------------------------------------------------------------------------------------


def test_differences_are_to_the_best_of_each_budget(content, comparison, folder):
    bench = comparison(folder, solvers=NAMES, search=FIRSTS, paths=0).bench
    for metric in content["metrics"]:
        name, sign = metric["name"], 1 if metric["better"] == "lower" else -1
        for k in content["budgets"]:
            column = content["paired"][name][str(k)]
            cells = [c for c in content["cells"] if c["budget"] == k and c["status"] == "ok"]
            best = min(cells, key=lambda c: sign * c["metrics"][name]["value"])
            assert (column["best"]["solver"], column["best"]["grid"]) == (best["solver"], best["grid"])
            assert len(column["differences"]) == len(cells)  # all others, and the free model
            for one in column["differences"]:
                cell = (
                    content["free"]
                    if one["budget"] == 0
                    else next(c for c in cells if (c["solver"], c["grid"]) == (one["solver"], one["grid"]))
                )
                found = difference(bench.measured(cell)[name], bench.measured(best)[name])
                assert one["value"] == pytest.approx(cell["metrics"][name]["value"] - best["metrics"][name]["value"])
                assert one["stderr"] == pytest.approx(found.stderr)


def test_the_table_says_who_cannot_be_told_apart_and_no_more(content):
    text = comparison_tables.text(content)
    metric = content["metrics"][0]
    labels = {solver["name"]: solver["label"] for solver in content["solvers"]}
    for k, column in content["paired"][metric["name"]].items():
        sentence = next(line for line in paired_tables.told(content, metric).splitlines() if line.startswith(f"- K = {k}:"))
        assert sentence in text
        ties = [one for one in column["differences"] if one["budget"] and one["low"] <= 0 <= one["high"]]
        clear = [one for one in column["differences"] if one["budget"] and not one["low"] <= 0 <= one["high"]]
        assert ("one cannot tell it apart from" in sentence) == bool(ties)
        for one in ties:
            assert f"{labels[one['solver']]} ({one['grid']})" in sentence
        for one in clear:
            assert f"{labels[one['solver']]} ({one['grid']})" not in sentence.split("apart from")[-1].split("has the best")[
                0
            ] or (not ties)


def fake(solver, budget, value):
    return {"solver": solver, "grid": "g", "budget": budget, "calls": float(budget), "metrics": {"m": {"value": value}}}


def test_calls_that_a_quality_needs():
    """Values 3, 2, 1 at 2, 4, 8 calls and 2.5, 1, 0.2: errors of 0.1 tell all apart but the equal ones."""
    values = {"slow": (3.0, 2.0, 1.0), "fast": (2.5, 1.0, 0.2)}
    cells = [fake(s, k, v) for s, row in values.items() for k, v in zip((2, 4, 8), row, strict=True)]
    noise = np.random.default_rng(0).normal(size=20) * 0.01

    def measured(cell):
        value = cell["metrics"]["m"]["value"]
        shift = noise * (1.0 + value)
        return {"m": Measured(value, 0.1, value - 0.2, value + 0.2, value, (value + shift,))}

    told = Pairs(cells, measured).told([{"name": "m", "better": "lower"}], (2, 4, 8))["m"]
    needed = {k: {one["solver"]: one["calls"] for one in column["calls"]} for k, column in told.items()}
    assert needed == {"2": {"slow": 4.0, "fast": 2.0}, "4": {"slow": 8.0, "fast": 4.0}, "8": {"slow": None, "fast": 8.0}}
    assert [column["best"]["solver"] for column in told.values()] == ["fast"] * 3
    higher = Pairs(cells, measured).told([{"name": "m", "better": "higher"}], (2,))["m"]["2"]
    assert higher["best"]["solver"] == "slow"
    table = paired_tables.calls_needed(
        {"paired": {"m": told}, "solvers": [{"name": n, "label": n} for n in values], "free": None}, {"name": "m", "label": "M"}
    )
    assert re.search(r"slow +\| g +\| 4 +\| 8 +\| > 8", table)


# --- grids chosen on the metric itself ------------------------------------------------------------------------------------


def test_candidates_are_all_grids_with_all_first_times_once():
    schedule = LinearVP()
    assert len(list(candidates(schedule, 5, FIRSTS))) == len(GRIDS) * len(FIRSTS)
    assert len(list(candidates(schedule, 2, FIRSTS))) == len(FIRSTS)
    assert len(list(candidates(schedule, 1, FIRSTS))) == 1


def test_the_best_grid_is_the_best_of_all(four, table, tmp_path):
    """A judge that wants the last noisy level at log-SNR 4 and few large steps; what was tried is kept."""
    sampler, drawn = DPMSolverPP(four.score_model(table)), []

    def draw(sampler, grid):
        drawn.append(grid)
        if grid == even_log_snr(table, 4, float(table.time(2.0))):
            raise RuntimeError("diverged")
        return torch.tensor([table.log_snr(grid.times[-2]), grid.times[1]], dtype=torch.float64)

    def judge(x):
        return abs(float(x[0]) - 4.0) + float(x[1])

    search = Search((2.0, 4.0, 6.0), draw, judge, True, {}, tmp_path)
    grid, told = search.best(sampler, 4)
    assert told["first_log_snr"] == 4.0
    assert told["tried"] == len(drawn) == 9
    assert grid.times[1] == min(g.times[1] for g in drawn if abs(table.log_snr(g.times[-2]) - 4.0) < 1e-6)
    assert search.best(sampler, 4) == (grid, told)
    assert len(drawn) == 9
    worst = Search((2.0, 4.0, 6.0), draw, judge, False, {}, tmp_path).best(sampler, 4)[1]
    assert worst["value"] > told["value"]
    with pytest.raises(RuntimeError, match="failed on all"):
        Search((2.0,), lambda s, g: 1 / 0, judge, True, {}, tmp_path / "none").best(sampler, 4)


def test_chosen_grids_are_said_to_be_chosen_on_the_metric(content, folder):
    main = content["metrics"][0]["name"]
    for name in NAMES:
        for k in content["budgets"]:
            best, plain = (
                next(c for c in content["cells"] if (c["solver"], c["grid"], c["budget"]) == (name, grid, k))
                for grid in ("best", "log_snr")
            )
            assert best["metrics"][main]["value"] == pytest.approx(best["choice"]["value"])
            assert best["choice"]["tried"] == len(GRIDS) * len(FIRSTS)
            assert "choice" not in plain
    text = (folder / "compare.md").read_text()
    assert "chosen on the metric itself" in text
    assert "chosen on the main metric itself" in text
    assert "chosen on the main metric itself" in (folder / "compare.html").read_text()


# --- K = 0 --------------------------------------------------------------------------------------------------------------


def test_the_free_model_makes_no_call_and_is_in_every_table(content, comparison, folder, examples):
    bench = comparison(folder, solvers=NAMES, search=FIRSTS, paths=0).bench
    with bench.study.model.metered() as cost:
        cell = bench.free(examples.free)
    assert cost.calls == 0
    assert content["free"] == json.loads(json.dumps(cell)) | {"label": content["free"]["label"]}
    assert (cell["budget"], cell["calls"]) == (0, 0.0)
    text = comparison_tables.text(content)
    assert text.count(f"| K = 0: {content['free']['label']}") == 2 * len(content["metrics"]) + 1
    page = (folder / "compare.html").read_text()
    assert "K = 0" in page
    # It has the mean and covariance of the data, and is told from the data by the energy distance alone.
    for name in ("frechet", "mean", "covariance"):
        assert abs(cell["metrics"][name]["value"]) < 4 * cell["metrics"][name]["stderr"] + 1e-3


def test_a_cell_without_what_pairs_need_is_measured_again(comparison, tmp_path):
    from score_sde_analytic.files import load_arrays, save_arrays

    asked = comparison(tmp_path, solvers=("ddim",), calls=(3,), paths=0)
    (cell,) = asked.cells()
    path = (tmp_path / cell["sheet"]).with_suffix(".safetensors")
    arrays, metadata = load_arrays(path, "samples")
    save_arrays(path, {"samples": arrays["samples"]}, metadata)
    (again,) = asked.cells()
    assert again["metrics"] == cell["metrics"]
    assert set(load_arrays(path, "samples")[0]) == set(arrays)


def test_names_of_jobs():
    assert Job(SolverName("ddim"), budget=5, searched=True).title == "ddim best K=5"
