"""Solvers by name, and how many of their steps a budget allows."""

from __future__ import annotations

import pytest
import torch

from score_sde_analytic.compare import SOLVERS, Options, SolverName, covariances, registry
from score_sde_analytic.compare.registry import cost, steps_within
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import even
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
from score_sde_analytic.study import CovarianceName


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
        steps = steps_within(sampler, budget)
        assert cost(sampler, even(steps, 0.5)) <= budget < cost(sampler, even(steps + 1, 0.5))


def test_a_step_that_no_budget_holds(planar, table):
    sampler = Heun(planar.score_model(table))
    with pytest.raises(ValueError, match=r"no step of Heun\(\) fits 0 network calls; raise the budget"):
        steps_within(sampler, 0)


@pytest.mark.parametrize("wrap", [lambda s: s, PredictorCorrector])
@pytest.mark.parametrize("make", [Ancestral, AnalyticMultistep])
def test_vector_products_are_counted(planar, table, make, wrap):
    """Each of the two steps before the last takes its calls, one more with its graph, and two products."""
    model = planar.score_model(table)
    sampler, grid = wrap(make(model, Tweedie(model, 2))), even(3, 0.01)
    with model.metered() as receipt:
        generate(sampler, grid, (2,), 10, dtype=torch.float64)
    claimed = sampler.calls(grid) + 2 * (1 + 2)
    assert (receipt.evaluations + receipt.vector_products) / 10 == cost(sampler, grid) == claimed


def test_samplers_know_the_covariances_of_their_steps(planar, table):
    """Those of the predictor are those of its corrected form; a sampler without any has none."""
    model = planar.score_model(table)
    grid = even(3, 0.01)
    beta, tilde = (Ancestral(model, covariance()) for covariance in (Beta, BetaTilde))
    assert beta.fingerprints(grid) != tilde.fingerprints(grid)
    assert PredictorCorrector(beta).fingerprints(grid) == beta.fingerprints(grid)
    assert len(AnalyticMultistep(model, BetaTilde()).fingerprints(grid)) == 1
    assert Heun(model).fingerprints(grid) == []


def test_every_entry_makes_a_sampler_of_its_family(study):
    for entry in SOLVERS.values():
        if entry.own is not None:
            continue
        sampler = entry.make(study, Options(tolerance=0.1))
        assert (sampler.calls(even(3, 0.01)) is None) == entry.adaptive
        if entry.grid is not None:
            assert entry.grid.fixed


@pytest.mark.parametrize("name", ["spectrum_table", "fewest"])
def test_solvers_with_times_of_their_own(study, examples, tmp_path, name):
    """K calls a sample, none to fit but for recorded paths, which are kept in the folder."""
    own, options = SOLVERS[name].own, Options(free=examples.free, folder=tmp_path)
    own(study, 3, options)
    with study.model.metered() as receipt:
        plan = own(study, 3, options)
        assert receipt.calls == 0
        plan(4)
    assert receipt.evaluations == 4 * plan.calls == 12
    with pytest.raises(InputError, match="times of its own"):
        SOLVERS[name].make(study, options)


def test_options_reach_their_samplers(study):
    options = Options("draw", tolerance=0.2, max_steps=7)
    assert SOLVERS["ddpm_beta"].make(study, options).final == "draw"
    solver = SOLVERS["ode_dopri5"].make(study, options).solver
    assert (solver.rtol, solver.atol, solver.max_steps) == (0.2, 0.2, 7)


@pytest.mark.parametrize(
    "text", ["ddim", "ancestral(pca)", "ancestral(dct|high_frequency, eta=0.5)", "multistep(npr|uncalibrated, eta=0)"]
)
def test_names_print_themselves(text):
    name = SolverName.parse(text)
    assert str(name) == text
    assert SolverName.parse(str(name)) == name
    assert SolverName.parse(name) is name


def test_names_are_known_however_they_are_written():
    assert SolverName.parse("ancestral(isotropic,eta=.5)") == SolverName("ancestral", CovarianceName("residual"), 0.5)
    small = SolverName("ancestral", CovarianceName("pca"), 1e-7)
    assert SolverName.parse(str(small)) == small


def test_names_of_covariances_are_solvers():
    assert SolverName.parse("ancestral(dct|high_frequency, eta=0.5)").covariance == CovarianceName("dct", "high_frequency")
    assert covariances(["ddim", "ancestral(pca)", "ancestral(pca, eta=0)", "heun"]) == (CovarianceName("pca"),)
    assert SolverName.parse("multistep(npr)").entry.family == "multistep"
    assert SolverName.parse("ancestral(pca, eta=0)").entry.label == "ancestral, pca, eta = 0"
    assert SolverName.parse("ancestral(dct|high_frequency)").entry.label == "ancestral, dct given high_frequency"


def test_chains_and_adaptive_flows_have_bits():
    chains = {name for name, entry in SOLVERS.items() if entry.bits is registry._CHAIN}
    flows = {name for name, entry in SOLVERS.items() if entry.bits is registry._FLOW}
    assert chains == {"ddpm_beta", "ddpm_beta_tilde", "analytic_ddpm"}
    assert flows == {"ode_dopri5", "ode_dopri5_t"}
    for text, chain in {"ancestral(pca)": True, "ancestral(pca, eta=1)": True, "ancestral(pca, eta=0.5)": False}.items():
        assert (SolverName.parse(text).entry.bits is registry._CHAIN) == chain
    assert SolverName.parse("multistep(pca, eta=1)").entry.bits is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ancestral()", r"unknown solver 'ancestral\(\)'; choose one of ddpm_beta, .*ancestral\(COVARIANCE\)"),
        ("heun(pca)", "unknown solver"),
        ("ancestral(pca, eta=-1)", "unknown solver"),
        ("ancestral(pca, eta=1.5)", r"eta of 'ancestral\(pca, eta=1.5\)' must lie in \[0, 1\]"),
        ("ancestral(nothing)", "unknown covariance 'nothing'"),
    ],
)
def test_bad_names_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SolverName.parse(text)
