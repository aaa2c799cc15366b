"""Flows: FlowMatchEulerDiscreteScheduler's interface and steps, with our grids, covariances and solvers behind it."""

from __future__ import annotations

import inspect
import json
import pickle

import pytest

pytest.importorskip("diffusers", reason="schedulers and pipelines are those of diffusers")

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from score_sde_analytic import Ancestral, GaussianMixture, RectifiedFlow, ScoreModel
from score_sde_analytic.covariance import Isotropic
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop import AnalyticFlowScheduler
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models import Interpolant
from score_sde_analytic.process.noise import BatchNoise
from score_sde_analytic.samplers import AnalyticMultistep, ProbabilityFlow, TableSampler, UniPC, carry, table_of

CURVE = NoiseCurve(np.linspace(-9.0, 9.0, 17), np.linspace(-1.0, 2.0, 17))
X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
GRID = Grid((1.0, 0.8, 0.41, 0.1, 0.0))
SHIFTS = {
    "none": {},
    "fixed": {"shift": 3.0},
    "by size": {"use_dynamic_shifting": True},
    "by size, linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "to an end": {"shift": 3.0, "shift_terminal": 0.02},
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}


def net(x, t):
    """A velocity."""
    return torch.tanh(x) * (0.5 + t / 1000.0)


MODEL = ScoreModel(
    lambda x, labels: net(x, labels.reshape(-1, 1, 1, 1)), RectifiedFlow(), "velocity", Interpolant(1000.0), fingerprint="tanh"
)


def looped(scheduler, x=X, **options):
    """As pipelines do."""
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t), t, x, return_dict=False, **options)[0]
    return x


class Recorded:
    """Draws that can be repeated."""

    def __init__(self, seed):
        self.noise = BatchNoise(seed)

    def draw(self, like):
        return self.noise.draw(like)


@pytest.mark.parametrize("asked", ["steps", "sigmas", "timesteps", "both"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_without_a_grid_runs_are_those_of_diffusers(shift, asked):
    even = list(np.linspace(1.0, 1.0 / 7.0, 7))
    fed = [1000.0 * sigma for sigma in even]
    runs = {"steps": {"num_inference_steps": 7}, "sigmas": {"sigmas": even}, "timesteps": {"timesteps": fed}}
    run = {**runs, "both": {"sigmas": even, "timesteps": fed}}[asked] | ({"mu": 1.1} if "size" in shift else {})
    theirs = FlowMatchEulerDiscreteScheduler(**SHIFTS[shift])
    ours = AnalyticFlowScheduler.from_config(theirs.config)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(**run)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.sigmas, theirs.sigmas)
    assert torch.allclose(looped(ours), looped(theirs), atol=1e-5)
    assert ours.num_inference_steps == ours.step_index == 7


def test_parameters_and_interface_are_those_of_diffusers():
    ours, theirs = AnalyticFlowScheduler, FlowMatchEulerDiscreteScheduler
    assert inspect.signature(ours.__init__) == inspect.signature(theirs.__init__)
    given, known = (list(inspect.signature(kind.set_timesteps).parameters) for kind in (theirs, ours))
    assert given == known[: len(given)]
    public = {name for name in dir(theirs(shift=2.0)) if not name.startswith("_")}
    assert public <= set(dir(ours(shift=2.0)))


@pytest.mark.parametrize("shift", ["none", "fixed"])
def test_the_training_run_needs_no_asking(shift):
    theirs, ours = FlowMatchEulerDiscreteScheduler(50, **SHIFTS[shift]), AnalyticFlowScheduler(50, **SHIFTS[shift])
    assert torch.equal(ours.timesteps, theirs.timesteps)
    for i in (3, 4, 20):
        assert torch.allclose(
            ours.step(0.5 * X, ours.timesteps[i], X)[0], theirs.step(0.5 * X, theirs.timesteps[i], X)[0], atol=1e-6
        )
        theirs._step_index = None
    noised = [s.scale_noise(X, s.timesteps[[1, 5, 9]], X.flip(0)) for s in (ours, theirs)]
    assert torch.equal(*noised)


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
def test_chains_on_a_carried_grid_are_those_of_ancestral(eta):
    """To the last bit; the grid is of shares of noise, whatever the scheduler would shift."""
    ours = AnalyticFlowScheduler(shift=3.0).with_curve(CURVE, {4: GRID}, eta=eta)
    ours = AnalyticFlowScheduler.from_config(json.loads(ours.to_json_string()))
    ours.set_timesteps(4)
    assert np.allclose(ours.sigmas, GRID.times)
    assert np.allclose(ours.timesteps, 1000.0 * np.array(GRID.times[:-1]))
    sampler = Ancestral(MODEL, Isotropic(CURVE), eta)
    expected = carry(sampler, sampler.plan(GRID), X, Recorded(1))
    noise, x = Recorded(1), X
    for t in ours.timesteps:
        x = ours.step(net(x, t), t, x, variance_noise=noise.draw(x) if t > ours.timesteps[-1] else None)[0]
    assert torch.equal(x, expected)


def test_carried_variances_are_optimal_for_data_of_a_known_law():
    """One Gaussian: with its own curve every chain of eta = 1, however short, has the variance of the data."""
    gaussian = GaussianMixture([1.0], [[0.3] * 16], [0.49])
    exact = gaussian.score_model(RectifiedFlow())
    lam = np.linspace(-12.0, 12.0, 25)
    curve = NoiseCurve.from_residual(lam, 0.49 / (0.49 + np.exp(-lam)))
    ours = AnalyticFlowScheduler().with_curve(curve, {3: (1.0, 0.6, 0.2, 0.0)})
    ours.set_timesteps(3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 16, generator=generator)
    for t in ours.timesteps[:-1]:
        x = ours.step(exact(x, float(t) / 1000.0).velocity, t, x, generator=generator)[0]
    share = float(ours.sigmas[-2])
    assert float(x.var()) == pytest.approx(0.49 * (1.0 - share) ** 2 + share**2, rel=0.01)


def test_the_even_sigmas_of_pipelines_give_way_to_a_grid():
    """Flux's pipeline passes even sigmas by itself, and a mu; those of one's own stay."""
    ours = AnalyticFlowScheduler(use_dynamic_shifting=True).with_curve(CURVE, {4: GRID}, eta=0.0)
    ours.set_timesteps(sigmas=np.linspace(1.0, 0.25, 4), mu=1.0)
    assert np.allclose(ours.sigmas, GRID.times)
    ours.set_timesteps(4)  # and without a mu, which only shifts
    assert np.allclose(ours.sigmas, GRID.times)
    stock = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    for run in ({"sigmas": [1.0, 0.7, 0.3, 0.1], "mu": 1.0}, {"num_inference_steps": 5, "mu": 1.0}):
        ours.set_timesteps(**run)
        stock.set_timesteps(**run)
        assert torch.equal(ours.sigmas, stock.sigmas)


def test_a_shift_that_is_set_later_holds():
    ours, theirs = AnalyticFlowScheduler(), FlowMatchEulerDiscreteScheduler()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(5)
        scheduler.set_shift(4.0)
        scheduler.set_timesteps(5)
    assert torch.equal(ours.sigmas, theirs.sigmas)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("solver", [lambda: AnalyticMultistep(MODEL, Isotropic(CURVE)), lambda: UniPC(MODEL, 3)])
def test_solvers_run_in_pipelines_of_flows(solver):
    sampler = solver()
    ours = AnalyticFlowScheduler(shift=3.0).with_sampler(sampler, GRID)
    ours = AnalyticFlowScheduler.from_config(json.loads(ours.to_json_string()))
    ours.set_timesteps(4)
    expected = carry(sampler, sampler.plan(GRID), X, Recorded(1))
    noise, x = Recorded(1), X
    for t in ours.timesteps:
        x = ours.step(net(x, t), t, x, variance_noise=noise.draw(x))[0]
    assert torch.allclose(x, expected, atol=1e-5)


def test_tables_that_begin_at_z_run_in_pipelines_of_flows():
    table = table_of(ProbabilityFlow(MODEL), Grid((1.0, 0.5, 0.2, 0.0)))
    sampler = TableSampler(MODEL, table)
    ours = AnalyticFlowScheduler().with_sampler(sampler)
    ours.set_timesteps(3)
    assert torch.allclose(looped(ours), carry(sampler, sampler.plan(sampler.grid), X, Recorded(1)), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_a_flow_rounds_once(dtype):
    ours = AnalyticFlowScheduler().with_curve(CURVE, {4: GRID}, eta=0.0)
    ours.set_timesteps(4)
    for t in ours.timesteps[:3]:
        z = torch.ones_like(X)
        half = ours.step(0.5 * X.to(dtype), t, X.to(dtype), variance_noise=z).prev_sample
        full = ours.step(0.5 * X.to(dtype).float(), t, X.to(dtype).float(), variance_noise=z).prev_sample
        assert half.dtype == dtype
        assert torch.equal(half, full.to(dtype))


def test_saved_copied_and_handed_to_diffusers(tmp_path):
    ours = AnalyticFlowScheduler(shift=3.0).with_curve(CURVE, {4: GRID}, eta=0.5)
    ours.save_pretrained(tmp_path)
    theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    for back in (
        AnalyticFlowScheduler.from_pretrained(tmp_path),
        AnalyticFlowScheduler.from_config(theirs.config),
        pickle.loads(pickle.dumps(ours)),
    ):
        assert (back.eta, back.grids[4].times, back.config.shift) == (0.5, GRID.times, 3.0)
        assert np.array_equal(back.curve.y, CURVE.y)


@pytest.mark.parametrize("setting", ["invert_sigmas", "stochastic_sampling"])
def test_flows_of_another_kind_are_refused(setting):
    with pytest.raises(UnsupportedError, match=f"{setting} has no place"):
        AnalyticFlowScheduler(**{setting: True}).set_timesteps(3)


def test_what_a_flow_cannot_be_asked_for():
    ours = AnalyticFlowScheduler()
    ours.set_timesteps(3)
    with pytest.raises(UnsupportedError, match="per_token_timesteps"):
        ours.step(X, ours.timesteps[0], X, per_token_timesteps=torch.ones(3, 5))
    with pytest.raises(InputError, match="sigmas of a flow must fall strictly"):
        ours.set_timesteps(sigmas=[0.2, 0.6])
    with pytest.raises(InputError, match="none of this run's"):
        ours.step(X, 123.0, X)
