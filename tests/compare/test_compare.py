"""Comparison of solvers: a whole run on a small mixture, resumption, marked failures, fair budgets, and a known order."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_vp, mixture_2d
from score_sde_analytic.runners import cells, compare, solvers
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.grids.grid import even, even_log_snr
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.held_out import PLAIN
from score_sde_analytic.measure.transforms import PCA
from score_sde_analytic.metrics import EnergyDistance, Pixels, Reference, evaluate
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import Tabulated
from score_sde_analytic.report import comparison_tables
from score_sde_analytic.samplers import (
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    Heun,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    generate,
)

TIMED = {"seconds_per_sample", "ratio_to_bare"}


def small(**changed):
    config = mixture_2d.get_config()
    config.data.split = (1, 300, 200)
    config.estimate.knots, config.grid.points = 16, 80
    config.estimate.min_draws = config.estimate.max_draws = 200
    config.estimate.batch_size = 100
    for name, value in {
        "solvers": (*solvers.SOLVERS, "ancestral(pca)", "ancestral(residual, eta=0.5)", "multistep(pca)"),
        "calls": (3, 6),
        "grids": ("log_snr",),
        "tolerances": (0.5,),
        "count": 30,
        "groups": 5,
        "reference_examples": 60,
        "paths": 6,
    }.items():
        config.compare[name] = changed.pop(name, value)
    for name, value in changed.items():
        config.compare[name] = value
    return config


@pytest.fixture
def plain(monkeypatch):
    """Runs without their pictures, which take most of the time of small ones."""
    monkeypatch.setattr(compare, "_pictures", lambda content, folder: [])


def run(config, workdir: Path) -> dict:
    written = compare.run(Experiment(config, workdir))
    assert len(written) == len(set(written))
    assert all(path.exists() for path in written)
    return json.loads((workdir / "compare" / "compare.json").read_text())


def untimed(content: dict) -> dict:
    """The content without what a clock decides."""
    found = copy.deepcopy(content)
    del found["created"]
    for cell in found["cells"]:
        for name in TIMED:
            del cell[name]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare")
    config = small()
    return config, workdir, run(config, workdir)


def test_every_solver_has_all_its_cells(whole):
    config, _, content = whole
    for name in config.compare.solvers:
        found = [c for c in content["cells"] if c["solver"] == name]
        entry = solvers.solver(name)
        assert {c["grid"] for c in found} == ({"interval"} if entry.adaptive else {"log_snr", entry.grid} - {""})
        assert len(found) == (1 if entry.adaptive else 2 * len({"log_snr", entry.grid} - {""}))
    families = {solver["family"] for solver in content["solvers"]}
    assert families == {"analytic", "ode", "sde", "multistep", "corrector"}


def test_cells_are_whole_or_say_why_not(whole):
    _, workdir, content = whole
    names = {metric["name"] for metric in content["metrics"]}
    for cell in content["cells"]:
        if cell["status"] == "failed":
            assert cell["reason"]
            assert cell["sheet"] is None
            assert cell["bits"] is None
        else:
            assert set(cell["metrics"]) == names
            assert matplotlib.image.imread(workdir / "compare" / cell["sheet"]).ndim == 3
            assert cell["seconds_per_sample"] >= 0
            assert math.isfinite(cell["ratio_to_bare"])
    # Only steps that are far too long lead away from the data of an exact score.
    assert sum(cell["status"] == "ok" for cell in content["cells"]) > 0.8 * len(content["cells"])


def test_calls_are_those_claimed_and_within_the_budget(whole):
    config, workdir, content = whole
    bench = compare.Comparison(Experiment(config, workdir, ("pca",)), compare.resolved(config)).bench
    for cell in content["cells"]:
        if cell["status"] == "failed":
            continue
        if cell["budget"] is None:
            assert cell["calls"] > 0
            continue
        sampler, grid = bench.planned(cells.Job(cell["solver"], cell["grid"], cell["budget"]))
        assert cell["steps"] == grid.steps
        assert cell["calls"] == sampler.calls(grid) <= cell["budget"]
    by = {(c["solver"], c["budget"]): c for c in content["cells"] if c["grid"] == "log_snr"}
    assert by["ode_rk4", 6]["steps"] == 2  # 4 (2 - 1) + 1 = 5 calls
    assert by["heun", 6]["steps"] == 3
    assert by["ddim", 6]["steps"] == 6


def test_bits_belong_to_chains(whole):
    _, _, content = whole
    for cell in content["cells"]:
        chain = cell["solver"] in ("ddpm_beta", "ddpm_beta_tilde", "analytic_ddpm", "ancestral(pca)")
        if cell["status"] == "ok":
            assert (cell["bits"] is not None) == chain, cell
    # Predicted by one curve, the optimal scalar variance is the best scalar one on any grid.
    by = {(c["solver"], c["budget"]): c["bits"] for c in content["cells"] if c["grid"] == "log_snr"}
    for k in (3, 6):
        assert by["analytic_ddpm", k]["value"] < min(by["ddpm_beta", k]["value"], by["ddpm_beta_tilde", k]["value"])


def test_bits_are_measured_where_asked(whole, tmp_path, plain):
    """Two chains and a flow; measured and predicted differ beyond 5 standard errors with probability 6e-7 each."""
    _, _, before = whole
    config = small(solvers=("ddpm_beta", "analytic_ddpm", "ode_dopri5"), calls=(6,), bits="measured", flow=True, paths=0)
    content = run(config, tmp_path)
    assert content["paths"] is None
    found = {cell["solver"]: cell["bits"] for cell in content["cells"]}
    assert {name: part["kind"] for name, part in found.items()} == {
        "ddpm_beta": "measured",
        "analytic_ddpm": "measured",
        "ode_dopri5": "flow",
    }
    for name in ("ddpm_beta", "analytic_ddpm"):
        predicted = next(c["bits"] for c in before["cells"] if (c["solver"], c["grid"], c["budget"]) == (name, "log_snr", 6))
        error = math.hypot(predicted["stderr"], found[name]["stderr"])
        assert abs(predicted["value"] - found[name]["value"]) < 5 * error
    assert found["ode_dopri5"]["value"] < found["analytic_ddpm"]["value"]  # the flow of an exact score is the data's density


def test_paths_begin_together_and_end_in_the_data(whole):
    config, _, content = whole
    ways = content["paths"]["solvers"]
    assert set(ways) | set(content["paths"]["failed"]) == set(config.compare.solvers)
    assert content["paths"]["kind"] == "points"
    starts = [np.array(way["states"])[0] for way in ways.values()]
    for start in starts:
        np.testing.assert_array_equal(start, starts[0])  # the same noise for all
    for way in ways.values():
        states = np.array(way["states"])
        assert states.shape == (len(way["times"]), 60, 2)
        assert way["times"][0] == 1.0
        assert way["times"][-1] == 0.0
        assert way["log_snr"][-1] is None
    density = content["paths"]["density"]
    cell = (density["x"][1] - density["x"][0]) * (density["y"][1] - density["y"][0])
    assert np.sum(density["values"]) * cell == pytest.approx(1.0, abs=0.02)  # the lattice holds nearly all of it


def test_json_has_what_the_page_reads(whole):
    _, workdir, content = whole
    for name in ("title", "command", "versions", "seed", "model", "device", "calibration"):
        assert content[name] not in ("", None, {})
    assert content["data"] == {
        "name": "mixture",
        "shape": [2],
        "test_examples": 200,
        "reference_examples": 60,
        "range": [-4.0, 4.0],
    }
    assert content["budgets"] == [3, 6]
    assert (workdir / "compare" / content["data_sheet"]).exists()
    table = (workdir / "compare" / "compare.md").read_text()
    for solver in content["solvers"]:
        assert solver["label"] in table
    assert "compare" in json.loads((workdir / "report.json").read_text())


# --- resumption and failures ---------------------------------------------------------------------------------------------

FEW = ("ddpm_beta", "heun", "dpmpp_2", "pc_analytic")


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, monkeypatch, plain):
    config = small(solvers=FEW)
    expected = untimed(run(config, tmp_path / "whole"))
    measured, done = cells.Bench._measured, []

    def interrupted(self, *args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args)
        return measured(self, *args)

    monkeypatch.setattr(cells.Bench, "_measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "parts")
    assert len(list((tmp_path / "parts" / "compare" / "cells").glob("*.json"))) == 3

    calls = []
    monkeypatch.setattr(cells.Bench, "_measured", lambda self, *args: calls.append(args) or measured(self, *args))
    assert untimed(run(config, tmp_path / "parts")) == expected
    assert len(calls) == len(expected["cells"]) - 3

    calls.clear()
    kept = tmp_path / "parts" / "compare" / "cells"
    next(kept.glob("ddpm_beta*.png")).unlink()
    next(kept.glob("heun*.json")).write_text('{"status": ')
    assert untimed(run(config, tmp_path / "parts")) == expected
    assert len(calls) == 2


class Broken(Ancestral):
    """Samples that end as `value`."""

    value = math.nan

    def step(self, x_t, step, state, noise):
        x, state = super().step(x_t, step, state, noise)
        return (torch.full_like(x, self.value) if step.last else x), state


class Exploding(Broken):
    value = 1e4


class Greedy(Ancestral):
    """One network call more than it says."""

    def step(self, x_t, step, state, noise):
        self.model.predict(x_t, step.t)
        return super().step(x_t, step, state, noise)


def _absent(experiment):
    raise ImportError("torchnowhere is needed: pip install torchnowhere")


def test_failures_are_marked_with_their_reason_and_others_go_on(tmp_path, monkeypatch, plain):
    def entry(make):
        return solvers.Solver("label", "analytic", "about", make)

    broken = {
        "nan": entry(lambda e: Broken(e.model, BetaTilde())),
        "huge": entry(lambda e: Exploding(e.model, BetaTilde())),
        "greedy": entry(lambda e: Greedy(e.model, BetaTilde())),
        "absent": entry(_absent),
    }
    for name, value in broken.items():
        monkeypatch.setitem(solvers.SOLVERS, name, value)
    config = small(
        solvers=("nan", "huge", "greedy", "absent", "ode_dopri5", "ddim"), calls=(4,), tolerances=(1e-9,), max_steps=5
    )
    content = run(config, tmp_path)
    found = {cell["solver"]: cell for cell in content["cells"]}
    for name, reason in {
        "nan": "NaN or inf",
        "huge": "exploded: a sample reaches 1e+04",
        "greedy": "made 8 network calls per sample where it claims 4",
        "absent": "torchnowhere",
        "ode_dopri5": "limit of 5 steps",
    }.items():
        assert found[name]["status"] == "failed"
        assert reason in found[name]["reason"]
    assert found["ddim"]["status"] == "ok"
    text = (tmp_path / "compare" / "compare.md").read_text()
    for cell in found.values():
        if cell["status"] == "failed":
            assert f"[{comparison_tables.marks(content)[cell['reason']]}] failed: {cell['reason']}" in text
    assert "ode_dopri5" in content["paths"]["failed"]


def test_a_defect_of_the_programme_is_not_a_failed_cell(tmp_path, monkeypatch):
    def make(experiment):
        raise TypeError("a defect")

    monkeypatch.setitem(solvers.SOLVERS, "defect", solvers.Solver("defect", "ode", "", make))
    with pytest.raises(TypeError, match="a defect"):
        run(small(solvers=("defect",), calls=(4,)), tmp_path)


def test_cells_are_known_by_all_that_decides_them(tmp_path):
    """Another seed, count, or curve is another cell; the same settings are the same."""
    names = []
    for changed in ({}, {}, {"seed": 1}, {"count": 31}, {"groups": 6}):
        config = small(solvers=("analytic_ddpm",), calls=(3,), **changed)
        bench = compare.Comparison(Experiment(config, tmp_path), compare.resolved(config)).bench
        names.append(bench._digest(*bench.planned(cells.Job("analytic_ddpm", "log_snr", 3))))
    bench = compare.Comparison(Experiment(small(), tmp_path), compare.resolved(small())).bench
    grid = bench.grid("log_snr", 3)
    model = bench.experiment.model
    curve = NoiseCurve(np.array([-5.0, 5.0]), np.array([0.0, 1.0]))
    other = NoiseCurve(np.array([-5.0, 5.0]), np.array([0.0, 1.1]))
    marks = [cells.settings_of(PredictorCorrector(Ancestral(model, Isotropic(c))), grid, model) for c in (curve, other)]
    assert marks[0] != marks[1]
    assert names[0] == names[1]
    assert len(set(names)) == 4


# --- budgets, names, settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 2, 5, 10, 17])
def test_as_many_steps_as_the_budget_allows_and_no_more(planar, table, budget):
    model = planar.score_model(table)
    samplers: list[Sampler] = [
        Ancestral(model, Beta()),
        Heun(model),
        DPMSolverPP(model),
        *(ProbabilityFlow(model, name) for name in ("euler", "midpoint", "rk4")),
        PredictorCorrector(Ancestral(model, Beta())),
        Ancestral(model, Tweedie(model, 2)),
    ]
    for sampler in samplers:
        steps = solvers.steps_within(sampler, budget)
        assert solvers.cost(sampler, even(steps, 0.5)) <= budget < solvers.cost(sampler, even(steps + 1, 0.5))


def test_vector_products_are_counted(planar, table):
    """Each of the two steps before the last takes its call, one more with its graph, and two products."""
    model = planar.score_model(table)
    sampler, grid = Ancestral(model, Tweedie(model, 2)), even(3, 0.01)
    with model.metered() as cost:
        generate(sampler, grid, (2,), 10, dtype=torch.float64)
    assert (cost.evaluations + cost.vector_products) / 10 == solvers.cost(sampler, grid) == 3 + 2 * (1 + 2)


def test_names_of_covariances_are_solvers():
    assert solvers.solver("ancestral(dct|high_frequency, eta=0.5)").covariance == "dct|high_frequency"
    assert solvers.covariances(["ddim", "ancestral(pca)", "ancestral(pca, eta=0)", "heun"]) == ("pca",)
    assert solvers.solver("multistep(npr)").family == "multistep"
    assert "eta = 0," in solvers.solver("ancestral(pca, eta=0)").label + ","
    with pytest.raises(ValueError, match=r"unknown solver 'ancestral\(\)'; choose one of ddpm_beta, .*ancestral\(COVARIANCE\)"):
        solvers.solver("ancestral()")


@pytest.mark.parametrize("budget", compare.PRESETS)
def test_presets_are_complete_and_can_be_overridden(budget):
    config = digits_vp.get_config()
    config.compare.budget = budget
    settings = compare.resolved(config)
    for name in compare.PRESETS[budget]:
        assert settings[name]
    assert all(solvers.solver(name) for name in settings.solvers)
    assert set(compare.PRESETS["quick"]["solvers"]) <= set(compare.PRESETS["full"]["solvers"])
    config.compare.calls = (7,)
    assert compare.resolved(config).calls == (7,)


def test_bad_settings_are_refused_before_the_work(tmp_path):
    for changed, message in (
        ({"budget": "huge"}, "unknown budget of compare 'huge'; choose one of quick, full"),
        ({"bits": "exact"}, "compare.bits must be"),
        ({"calls": (0,)}, "must be positive"),
        ({"solvers": ("ddqm",)}, "unknown solver 'ddqm'"),
        ({"grids": ("evn",)}, "unknown grid 'evn'"),
        ({"solvers": ("ancestral(nothing)",)}, "unknown variance 'nothing'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(small(**changed), tmp_path)


def test_one_pass_serves_all_where_it_records_enough(tmp_path):
    config = small()
    experiment = Experiment(config, tmp_path)
    assert compare.recording(experiment, ()) is experiment
    assert set(compare.recording(experiment, ("pca", "tweedie")).recorders) == {"pca"}
    config.covariance.bases = ("pca",)
    experiment = Experiment(config, tmp_path)
    assert compare.recording(experiment, ("pca",)) is experiment


def test_grids_share_their_first_time(tmp_path):
    config = small()
    work = compare.Comparison(Experiment(config, tmp_path), compare.resolved(config))
    for name in ("log_snr", "dp", "karras", "even", "quadratic"):
        for steps in (2, 5, 6):
            grid = work.grid(name, steps)
            assert grid.steps == steps
            assert grid.times[0] == 1.0
            assert grid.times[-2] == pytest.approx(work.first, rel=1e-9)
    config.compare.log_snr_max = 5.0
    work = compare.Comparison(Experiment(config, tmp_path), compare.resolved(config))
    assert work.experiment.schedule.log_snr(work.grid("dp", 4).times[-2]) == pytest.approx(5.0, abs=1e-6)


# --- what the comparison should find ------------------------------------------------------------------------------------


def paired_energy(x: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """(energy distance of x to y less that of z to y, its standard error), x_i and z_i drawn with the same noise.

    D = 2 E|x - y| - E|x - x'| - (the same of z); the error from the first-order terms of this two-sample U-statistic.
    """
    n = len(x)
    cross = torch.cdist(x, y) - torch.cdist(z, y)
    own = (torch.cdist(x, x) - torch.cdist(z, z)).sum(1) / (n - 1)
    value = 2.0 * cross.mean() - own.mean()
    influence = 2.0 * (cross.mean(1) - own), 2.0 * cross.mean(0)
    return float(value), math.sqrt(sum(float(part.var()) / len(part) for part in influence))


def test_analytic_variance_beats_both_handcrafted_ones_at_ten_steps():
    """Energy distance to exact draws, grid even in log-SNR, the same noise for all: by more than 5 standard errors each.

    Four separate round Gaussians. On strongly anisotropic mixtures no scalar variance suits all directions: there beta, too
    large for most of them, can come out ahead of the scalar optimum, which is one of KL and not of energy distance.
    """
    square = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
    exact, schedule, count = GaussianMixture(np.ones(4), square, 0.01), Tabulated.linear(), 3000
    model = exact.score_model(schedule)
    knots = np.linspace(-10.0, 9.0, 24)
    options = {"statistics": exact.statistics(), "progress": False}
    moments = estimate(model, exact.sample(8000, seed=5), knots, Budget(max_draws=300), **options)
    grid, y = even_log_snr(schedule, 10, float(schedule.time(9.0))), exact.sample(count, seed=7)
    covariances = {"beta": Beta(), "tilde": BetaTilde(), "analytic": Isotropic(NoiseCurve.fit(moments))}
    x = {
        name: generate(Ancestral(model, covariance), grid, (2,), count, batch_size=1000, dtype=torch.float64)
        for name, covariance in covariances.items()
    }
    for worse in ("beta", "tilde"):
        value, error = paired_energy(x[worse], x["analytic"], y)
        # The package's own distances differ by as much.
        found = [evaluate({"": EnergyDistance()}, x[n][:500], Reference.of(y[:500], Pixels()))[""] for n in (worse, "analytic")]
        assert found[0].value - found[1].value == pytest.approx(paired_energy(x[worse][:500], x["analytic"][:500], y[:500])[0])
        assert value > 5 * error


def test_structure_and_extrapolation_beat_both_where_directions_differ(mixture, table):
    """The 16-d anisotropic mixture at K = 10, where one variance for all loses to beta: by more than 5 standard errors each."""
    count, knots, recorder = 6000, np.linspace(-10.0, 9.0, 24), Recorder(PCA.of(mixture.sample(4000, seed=6)))
    model, y = mixture.score_model(table), mixture.sample(count, seed=7)
    options = {"budget": Budget(min_draws=600, max_draws=600), "statistics": mixture.statistics(), "progress": False}
    moments = estimate(model, mixture.sample(4000, seed=5), knots, observers={"pca": recorder}, **options)
    diagonal = Diagonal(PLAIN.fit(recorder.result(moments.log_snr)), recorder.basis)
    grid = even_log_snr(table, 10, float(table.time(9.0)))
    samplers = {
        "beta": Ancestral(model, Beta()),
        "tilde": Ancestral(model, BetaTilde()),
        "few steps": AnalyticMultistep(model, diagonal),
    }
    x = {n: generate(s, grid, (16,), count, batch_size=2000, dtype=torch.float64) for n, s in samplers.items()}
    for worse in ("beta", "tilde"):
        value, error = paired_energy(x[worse], x["few steps"], y)
        assert value > 5 * error
