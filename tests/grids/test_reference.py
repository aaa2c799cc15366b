"""The numbers of the public Analytic-DPM implementation (float64), reproduced in continuous time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.grids.grid import Grid, optimal_paths
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import Tabulated
from score_sde_analytic.samplers import Ancestral

PATH = Path(__file__).resolve().parents[3] / "shared" / "reference" / "analytic_dpm_linear.json"
DATA = ("twopoint_0.8_s0.1", "aniso_gauss_std_1_.3_.1_.03")
PIXEL = 2 / 255  # a level of 8-bit data in [-1, 1]

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason="no reference numbers beside the repository")


@pytest.fixture(scope="module")
def reference() -> dict:
    return json.loads(PATH.read_text())


@pytest.fixture(scope="module")
def schedule(reference) -> Tabulated:
    return Tabulated(reference["inputs"]["linear"]["betas"][1:])


def curve_of(reference, schedule, data) -> NoiseCurve:
    """The table of E||eps_hat||^2 / d as a curve with a knot at every index, without smoothing."""
    power = np.array(reference["inputs"]["linear"]["ms_eps"][data][1:])
    lam = schedule.log_snr(schedule.times)
    y = lam + np.log(power) - np.log1p(-power)
    return NoiseCurve(lam[::-1].copy(), y[::-1].copy(), "score")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("method", "eta", "pixels"), [("ddpm", 1.0, 2), ("ddim_eta0", 0.0, 1), ("ddim_eta1", 1.0, 1)])
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("clipped", [0, 1])
def test_variances(reference, schedule, data, method, eta, pixels, steps, clipped):
    theirs = reference["results"][f"linear|{data}"][method][f"even_K{steps}_clip_sigma_idx{clipped}"]
    sampler = Ancestral(
        ScoreModel(torch.zeros_like, schedule),
        Isotropic(curve_of(reference, schedule, data), max_posterior_variance=1.0),
        eta,
        clip=clipped * pixels * PIXEL,
    )
    plan = sampler.plan(Grid((*(n / 1000 for n in theirs["r"]), 0.0)))
    assert [round(step.s.t * 1000) for step in plan] == theirs["s"]
    assert theirs["sigma2"][-1] is None
    assert not plan[-1].noisy
    np.testing.assert_allclose([step.covariance.variance for step in plan[:-1]], theirs["sigma2"][:-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("data", DATA)
def test_optimal_trajectories(reference, schedule, data):
    """Their dynamic programme with the first index forced to 1: the same paths, the same objective."""
    lattice, curve = Lattice(schedule, schedule.times), curve_of(reference, schedule, data)
    first = np.full(1000, np.inf)
    first[0] = 0.0
    paths, costs = optimal_paths(lattice.costs(curve, Isotropic(curve)), first, 100)
    for steps, theirs in reference["results"][f"linear|{data}"]["dp_seg"].items():
        if steps.isdigit():
            assert (paths[int(steps) - 1] + 1).tolist() == theirs["steps"]
            assert 2 * costs[int(steps) - 1] == pytest.approx(theirs["derived_sum_J"], rel=1e-9)
