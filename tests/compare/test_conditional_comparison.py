"""Solvers compared on a conditional network: samples, bits, statistics and tables are on the conditions of the examples."""

from __future__ import annotations

import warnings

import pytest
import torch

from score_sde_analytic.compare import ComparisonSettings, Evaluation, Examples, compare
from score_sde_analytic.data import Examples as Labelled
from score_sde_analytic.measure.estimation import Budget
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.study import Knots, Search, Settings, analyse

FAR = GaussianMixture([0.4, 0.3, 0.3], [[-2.0, 0.0], [2.0, 0.5], [0.0, 2.0]], [[0.02, 0.2], [0.1, 0.05], [0.1, 0.02]])
SETTINGS = Settings(knots=Knots(count=16, most=0), search=Search(points=100, most=6))


@pytest.mark.slow
def test_a_conditional_network_is_compared(tmp_path):
    """Every cell is whole; measured bits are those of the right labels, with other labels they are far above."""
    parts = [FAR.labelled(count, seed) for count, seed in ((300, 1), (300, 2), (100, 3))]
    train, validation, test = (x_0 for x_0, _ in parts)
    given = {name: {"component": k} for name, (_, k) in zip(("train", "validation", "test"), parts, strict=True)}
    model = FAR.conditional(LinearVP())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = Labelled(validation, conditions=given["validation"])
        study = analyse(model, data, record=(), settings=SETTINGS, budget=Budget(max_draws=300), progress=False)
    solvers = ("analytic_ddpm", "ddim", "dpm_solver_v3", "fewest")
    settings = ComparisonSettings(
        solvers=solvers, calls=(5,), count=60, bits="measured", paths=0, evaluation=Evaluation(examples=50)
    )
    examples = Examples(train, validation, test, conditions=given)
    result = compare(study, examples, settings, tmp_path / "right", progress=False)
    cells = {cell["solver"]: cell for cell in result.content["cells"]}
    assert [cells[name]["status"] for name in solvers] == ["ok"] * 4
    wrong = Examples(train, validation, test, conditions=given | {"test": {"component": parts[2][1].roll(1)}})
    other = compare(study, wrong, settings, tmp_path / "wrong", progress=False)
    bits = [
        next(cell["bits"]["value"] for cell in one.content["cells"] if cell["solver"] == "analytic_ddpm")
        for one in (result, other)
    ]
    assert bits[1] > bits[0] + 3.0
    assert torch.equal(examples.labelled("test").batch([3]).conditions["component"], parts[2][1][3:4])
