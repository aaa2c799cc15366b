"""Solvers compared by a library user, without a config."""

from __future__ import annotations

import math

import pytest
import torch

from score_sde_analytic.compare import ComparisonSettings, Evaluation, Examples, FlowLikelihood, compare
from score_sde_analytic.likelihood import Direct, ExactTrace, Uniform
from score_sde_analytic.study import analyse


def test_six_lines(triple, table, tmp_path):
    """A network, its study, and which solver to take at 4 and 8 calls; the data are known by examples alone."""
    train, validation, test = triple.sample(400, seed=1).split([100, 200, 100])
    study = analyse(triple.score_model(table), validation, record=(), progress=False)
    examples = Examples(train, validation, test)
    settings = ComparisonSettings(solvers=("analytic_ddpm", "ddim", "ode_dopri5"), calls=(4, 8), count=50)
    result = compare(study, examples, settings, tmp_path / "solvers", progress=False)
    print(result)  # Frechet distance by solver, grid and calls

    assert "| Analytic-DPM" in str(result)
    assert (tmp_path / "solvers" / "compare.html") in result.written
    assert all(path.exists() for path in result.written)
    cells = result.content["cells"]
    assert [cell["status"] for cell in cells] == ["ok"] * (2 * 2 * 2 + 1)
    assert result.content["config"]["calls"] == [4, 8]
    assert result.content["data"]["range"] == [float(test.min()), float(test.max())]
    assert result.content["metrics"][0]["about"] == "of Gaussians fitted to pixels, bias removed"
    assert result.content["paths"] is None  # there are no two coordinates to show
    best = min((c for c in cells if c["bits"]), key=lambda c: c["bits"]["value"])
    assert (best["solver"], best["grid"], best["budget"]) == ("analytic_ddpm", "dp", 8)


def test_examples_are_those_of_the_study(study, tmp_path):
    other = torch.zeros(10, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"the examples have shape \(3,\), those of the study \(2,\)"):
        compare(study, Examples(other, other, other), folder=tmp_path)


def test_bits_are_measured_where_asked(comparison, tmp_path):
    """Two chains and a flow; measured and predicted differ beyond 5 standard errors with probability 6e-7 each."""
    few = {"solvers": ("ddpm_beta", "analytic_ddpm", "ode_dopri5"), "calls": (6,), "paths": 0}
    predicted = {c["solver"]: c["bits"] for c in comparison(tmp_path / "predicted", **few).cells()}
    measured = comparison(tmp_path / "measured", **few, bits="measured", flow=FlowLikelihood())
    bits = {c["solver"]: c["bits"] for c in measured.cells()}
    assert predicted["ode_dopri5"] is None
    assert {name: part["kind"] for name, part in bits.items()} == {
        "ddpm_beta": "measured",
        "analytic_ddpm": "measured",
        "ode_dopri5": "flow",
    }
    for name in ("ddpm_beta", "analytic_ddpm"):
        assert predicted[name]["kind"] == "predicted"
        error = math.hypot(predicted[name]["stderr"], bits[name]["stderr"])
        assert abs(predicted[name]["value"] - bits[name]["value"]) < 5 * error
    # The flow of an exact score is the data's density.
    assert bits["ode_dopri5"]["value"] < bits["analytic_ddpm"]["value"]


def test_bounds_take_the_part_of_the_test_split_that_is_asked_for(comparison, tmp_path):
    few = {"solvers": ("ddpm_beta",), "calls": (3,), "bits": "measured", "paths": 0}
    every = comparison(tmp_path / "every", **few)
    some = comparison(tmp_path / "some", **few, evaluation=Evaluation(examples=20))
    assert (len(every.measured_on), len(some.measured_on)) == (200, 20)
    errors = [asked.cells()[0]["bits"]["stderr"] for asked in (every, some)]
    assert errors[1] > 2 * errors[0]  # about sqrt(10)
    assert every.identity != some.identity


def test_flow_likelihoods_are_told_apart():
    flows = [
        FlowLikelihood(),
        FlowLikelihood(lambda decoder: Direct()),
        FlowLikelihood(lambda decoder: Uniform()),
        FlowLikelihood(divergence=ExactTrace()),
        FlowLikelihood(divergence=ExactTrace(), importance_samples=2),
        FlowLikelihood(examples_per_block=50),
        FlowLikelihood(known_by={"entry": "of my own"}),
    ]
    identities = [flow.identity for flow in flows]
    assert all(identities.count(identity) == 1 for identity in identities)
    assert FlowLikelihood().identity == FlowLikelihood().identity
