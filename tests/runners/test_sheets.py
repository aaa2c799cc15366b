"""Files of samples: what was drawn stays until a run has all that it asks for."""

from __future__ import annotations

from pathlib import Path

import torch
from score_sde_analytic.runners.sampling import Sheets

from score_sde_analytic import GaussianMixture, LinearVP
from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.grids import even
from score_sde_analytic.samplers import Ancestral
from score_sde_analytic.study.plan import SamplingPlan

MODEL = GaussianMixture([1.0], [[0.0, 1.0]], 0.1).score_model(LinearVP())


def plan() -> SamplingPlan:
    return SamplingPlan(Ancestral(MODEL, BetaTilde()), even(2, 0.1), (2,))


def drawn(file: Sheets, *names: str) -> None:
    for name in names:
        file.sheet(name, plan(), 3, 3, "identity")


def test_an_interrupted_run_keeps_what_it_has_not_come_to(tmp_path: Path) -> None:
    path = tmp_path / "samples.safetensors"
    first = Sheets.open(path, 0)
    drawn(first, "a", "b")
    first.finish()
    again = Sheets.open(path, 0)
    drawn(again, "c", "a")
    again.save()  # as an interruption does
    assert set(Sheets.open(path, 0).kept) == {"a", "b", "c"}
    with MODEL.metered() as cost:
        drawn(again, "b")
    assert cost.calls == 0
    again.made.pop("c")
    again.finish()  # what nobody asks for any more goes
    kept = Sheets.open(path, 0).kept
    assert set(kept) == {"a", "b"}
    assert torch.equal(torch.from_numpy(kept["a"].x), torch.from_numpy(first.made["a"].x))
