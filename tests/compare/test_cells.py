"""Cells: known by all that decides them, kept when done, marked where they fail."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from score_sde_analytic.compare import SOLVERS, Comparison, Solver, SolverName, paths
from score_sde_analytic.compare.cells import TIMINGS, Bench, Job
from score_sde_analytic.compare.clock import bare_seconds
from score_sde_analytic.compare.paths import Trace
from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import PeerError
from score_sde_analytic.grids.grid import even
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.compiled import compiled
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import ZeroBased
from score_sde_analytic.process.schedule import Tabulated
from score_sde_analytic.report import comparison_tables
from score_sde_analytic.report.comparison import quality, sheet
from score_sde_analytic.samplers import Ancestral, DPMSolverPP, PredictorCorrector, generate
from score_sde_analytic.study import GridName

LOG_SNR = GridName("log_snr")
FEW = ("ddpm_beta", "heun", "dpmpp_2", "pc_analytic")


def untimed(cells: list[dict]) -> list[dict]:
    """Cells without what a clock decides."""
    return [{name: value for name, value in copy.deepcopy(cell).items() if name not in TIMINGS} for cell in cells]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_result(comparison, tmp_path, monkeypatch):
    expected = untimed(comparison(tmp_path / "whole", solvers=FEW).cells())
    measured, done = Bench._measured, []

    def interrupted(self, *args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args)
        return measured(self, *args)

    monkeypatch.setattr(Bench, "_measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparison(tmp_path / "parts", solvers=FEW).cells()
    kept = tmp_path / "parts" / "cells"
    assert len(list(kept.glob("*.json"))) == 3

    calls = []
    monkeypatch.setattr(Bench, "_measured", lambda self, *args: calls.append(args) or measured(self, *args))
    assert untimed(comparison(tmp_path / "parts", solvers=FEW).cells()) == expected
    assert len(calls) == len(expected) - 3

    calls.clear()
    next(kept.glob("ddpm_beta*.png")).unlink()
    next(kept.glob("heun*.json")).write_text('{"status": ')
    assert untimed(comparison(tmp_path / "parts", solvers=FEW).cells()) == expected
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


def _absent(study, options):
    raise ImportError("torchnowhere is needed: pip install torchnowhere")


def test_failures_are_marked_with_their_reason_and_others_go_on(comparison, tmp_path, monkeypatch):
    def entry(kind):
        return Solver("label", "analytic", "about", lambda study, options: kind(study.model, BetaTilde()))

    monkeypatch.setitem(SOLVERS, "nan", entry(Broken))
    monkeypatch.setitem(SOLVERS, "huge", entry(Exploding))
    monkeypatch.setitem(SOLVERS, "greedy", entry(Greedy))
    monkeypatch.setitem(SOLVERS, "absent", Solver("label", "analytic", "about", _absent))
    names = ("nan", "huge", "greedy", "absent", "ode_dopri5", "ddim")
    asked = comparison(tmp_path, solvers=names, calls=(4,), tolerances=(1e-9,), max_steps=5)
    content = asked.content(asked.cells())
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
    text = comparison_tables.text(content)
    for cell in found.values():
        if cell["status"] == "failed":
            assert f"[{comparison_tables.marks(content)[cell['reason']]}] failed: {cell['reason']}" in text
    assert content["paths"]["failed"]["nan"] == "diverged"
    assert "ode_dopri5" in content["paths"]["failed"]
    # What another machine may mend is not kept.
    assert {path.name.split("_log_snr")[0] for path in (tmp_path / "cells").glob("*_log_snr*.json")} == {*names[:3], "ddim"}


def test_a_defect_of_the_programme_is_not_a_failed_cell(comparison, tmp_path, monkeypatch):
    def make(study, options):
        raise TypeError("a defect")

    monkeypatch.setitem(SOLVERS, "defect", Solver("defect", "ode", "", make))
    with pytest.raises(TypeError, match="a defect"):
        comparison(tmp_path, solvers=("defect",), calls=(4,)).cells()


def test_a_process_that_ended_is_no_failed_cell(comparison, tmp_path, monkeypatch):
    """The same command goes on."""

    class Abandoned(Ancestral):
        def step(self, *args):
            raise PeerError("another process of this run ended")

    entry = Solver("label", "analytic", "about", lambda study, options: Abandoned(study.model, BetaTilde()))
    monkeypatch.setitem(SOLVERS, "abandoned", entry)
    with pytest.raises(PeerError):
        comparison(tmp_path, solvers=("abandoned",), calls=(4,)).cells()
    assert not list((tmp_path / "cells").glob("*.json"))


def test_other_data_are_other_cells(comparison, four, examples, asked, study, tmp_path):
    wide = GaussianMixture(four.weights, 2.0 * four.means, 0.1)
    others = (replace(examples, exact=wide), replace(examples, test=examples.test.flip(0)[:200] + 0.01))
    identities = [Comparison.of(study, each, asked(), tmp_path).identity for each in (examples, *others)]
    assert len({json.dumps(identity, sort_keys=True) for identity in identities}) == 3


@pytest.mark.parametrize("kind", ["double", "half", "indexed"])
def test_bare_calls_are_fed_as_the_model_feeds_them(kind):
    """Networks in double and half precision, and those that look their time up."""

    class Indexed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layer = torch.nn.Embedding(1000, 2), torch.nn.Linear(2, 2)

        def forward(self, x, t):
            return self.layer(x) + (self.table(t) if kind == "indexed" else t[:, None].to(x))

    net = Indexed().to({"double": torch.float64, "half": torch.bfloat16, "indexed": torch.float32}[kind])
    dtype = {"half": torch.bfloat16}.get(kind)
    model = ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000), dtype=dtype)
    assert bare_seconds(model, torch.zeros(3, 2), 2) >= 0.0


def test_cells_are_known_by_all_that_decides_them(comparison, tmp_path):
    """Another seed, count, or curve is another cell; the same settings are the same."""
    names = []
    job = Job(SolverName("analytic_ddpm"), LOG_SNR, 3)
    for changed in ({}, {}, {"seed": 1}, {"count": 31}, {"groups": 6}):
        bench = comparison(tmp_path, **changed).bench
        names.append(bench.digest(bench.planned(job)))
    assert names[0] == names[1]
    assert len(set(names)) == 4
    grid = bench.grid(LOG_SNR, 3)
    curve = NoiseCurve(np.array([-5.0, 5.0]), np.array([0.0, 1.0]))
    other = NoiseCurve(np.array([-5.0, 5.0]), np.array([0.0, 1.1]))
    samplers = [PredictorCorrector(Ancestral(bench.study.model, Isotropic(c))) for c in (curve, other)]
    assert len({bench.digest(bench.plan(sampler, grid)) for sampler in samplers}) == 2


def test_grids_share_their_first_time(comparison, tmp_path):
    asked = comparison(tmp_path)
    for name in ("log_snr", "dp", "karras", "even", "quadratic"):
        for steps in (2, 5, 6):
            grid = asked.grids(GridName.parse(name), steps)
            assert grid.steps == steps
            assert grid.times[0] == 1.0
            assert grid.times[-2] == pytest.approx(asked.grids.first, rel=1e-9)
    other = comparison(tmp_path, log_snr_max=5.0)
    assert other.study.schedule.log_snr(other.grids(GridName("dp"), 4).times[-2]) == pytest.approx(5.0, abs=1e-6)
    own = asked.grids(GridName("dp", tuned=True), 4)
    assert own == asked.study.grid(4, "dp", "residual")
    with pytest.raises(ValueError, match="no grid of 7 steps"):
        asked.grids(GridName("dp"), 7)


def test_the_network_is_compiled_where_asked(comparison, tmp_path, monkeypatch):
    """Cells of a compiled network are others, though its name and its samples are the same."""
    monkeypatch.setattr(torch, "compile", lambda net, mode: lambda *given: net(*given))
    plain, fast = (comparison(tmp_path, solvers=("ddim",), calls=(3,), compile=mode) for mode in ("", "default"))
    assert isinstance(fast.study.model, ScoreModel)
    assert fast.study.model is not plain.study.model
    assert fast.study.model.fingerprint() == plain.study.model.fingerprint() == compiled(plain.study.model, "").fingerprint()
    a, b = (untimed(asked.cells())[0] for asked in (plain, fast))
    assert a.pop("sheet") != b.pop("sheet")
    assert a == b


# --- paths --------------------------------------------------------------------------------------------------------------


def test_a_trace_is_the_way_from_the_prior_to_the_samples(planar, table):
    sampler, grid, trace = DPMSolverPP(planar.score_model(table)), even(4, 0.01), Trace((1, 0))
    x = generate(sampler, grid, (2,), 5, batch_size=5, dtype=torch.float64, callback=trace)
    content = trace.content()
    assert content["times"] == list(grid.times)
    assert content["states"][-1] == x[:, [1, 0]].tolist()
    assert content["log_snr"][-1] is None
    assert len(content["states"]) == 5


def test_a_gaussian_start_begins_every_grid_where_the_data_begin_to_be_known(comparison, tmp_path, examples):
    """All solvers, one step too, a grid that is searched for, and dp at a time of its own; cells know their start."""
    settings = {"solvers": ("ddim", "ode_dopri5"), "grids": ("log_snr", "dp"), "calls": (1, 3), "search": (2.0,)}
    prior, started = (comparison(tmp_path, start=start, **settings) for start in ("prior", "gaussian"))
    top = started.grids.top
    assert top < 1.0
    schedule = started.study.schedule
    assert float(schedule.log_snr(top)) == pytest.approx(-math.log(examples.free.spectrum.max()) - 4.0, abs=0.01)
    plans = {job: started.bench.planned(job) for job in started.jobs() if not job.searched}
    assert all(plan.start is examples.free for plan in plans.values())
    begun = {plan.grid.times[0] for job, plan in plans.items() if str(job.grid) != "dp" or job.budget == 1}
    assert begun == {top}
    assert plans[Job(SolverName("ddim"), GridName("dp"), 3)].grid.times[0] < 1.0
    job = Job(SolverName("ddim"), LOG_SNR, 3)
    assert prior.bench.planned(job).grid.times[0] == 1.0
    grid = prior.bench.planned(job).grid
    assert len({bench.digest(bench.plan(plans[job].sampler, grid)) for bench in (prior.bench, started.bench)}) == 2
    searched = started.bench.cell(Job(SolverName("ddim"), budget=3, searched=True))
    assert (searched["status"], searched["times"][0]) == ("ok", top)


def test_no_paths_in_one_dimension_and_pixels_of_images():
    assert paths.record({}, torch.zeros(3, 1)) is None
    x = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0, 1, 2] *= 9.0
    content = paths.record({}, x)
    assert content["kind"] == "pixels"
    assert content["axes"][0] == "pixel (row 1, column 2), channel 0"
    assert "density" not in content
    assert paths.record({}, x.flatten(2))["axes"][0] == "x[0, 6]"


def test_samples_are_compared_with_the_splits_that_are_named(comparison, examples, asked, tmp_path):
    """Where no distribution is known; no more of them than asked for, in their order."""
    unknown = replace(examples, exact=None)
    identities = []
    for reference in (("validation",), ("test",), ("train", "test")):
        settings = asked(reference=reference, reference_examples=201).resolved()
        bare = replace(comparison(tmp_path), examples=unknown, settings=settings)
        assert bare.fidelity.examples == {"validation": 201, "test": 200, "train": 201}[reference[0]]
        identities.append(bare.fidelity.identity["reference"])
    assert len(set(identities)) == 3


def test_solvers_without_a_grid_make_a_page(comparison, tmp_path):
    """Their panel is the interval's."""
    asked = comparison(tmp_path, solvers=("ode_dopri5",))
    content = asked.content(asked.cells())
    assert quality(tmp_path / "quality.png", content, content["metrics"][0]).exists()


def test_samples_of_two_axes_have_a_sheet(tmp_path):
    x = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(0))
    assert sheet(tmp_path / "sheet.png", x, x, DataRange(-4.0, 4.0)).exists()
