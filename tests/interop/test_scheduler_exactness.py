"""The scheduler against what it stands for: our own samplers with the same noise, and DDPMScheduler with tables in float64."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("diffusers", reason="schedulers and pipelines are those of diffusers")

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

from score_sde_analytic import Ancestral, Budget, ScoreModel, ZeroBased, analyse, grids
from score_sde_analytic.covariance import BetaTilde, Isotropic
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop import AnalyticDPMScheduler
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models import LinearDenoiser
from score_sde_analytic.models.diffusers_folder import training_of
from score_sde_analytic.models.networks import LearnedRange
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.samplers import (
    DEIS,
    IPNDM,
    AnalyticMultistep,
    DPMSolverPP,
    Heun,
    ProbabilityFlow,
    TableSampler,
    UniPC,
    carry,
    table_of,
)
from tiny_pipelines import UNET, pictures, unconditional

CURVE = NoiseCurve(np.linspace(-9.0, 9.0, 17), np.linspace(-1.0, 2.0, 17))
TABLES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
#: One of mild and one of extreme ends; the others are for `make test-all`.
QUICK_TABLES = [
    *("linear", "squaredcos_cap_v2"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("scaled_linear", "sigmoid")),
]
PREDICTIONS = ("epsilon", "sample", "v_prediction")
X = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Drawn:
    """The noise of one generator, as pipelines draw it."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, like):
        return randn_tensor(like.shape, self.generator, like.device, like.dtype)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return UNet2DModel(**UNET).eval()


@torch.no_grad()
def looped(scheduler, net, x, seed=1, **asked):
    """As DDPMPipeline does."""
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(**asked)
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t).sample, t, x, generator=generator).prev_sample
    return x


def model_of(scheduler, net) -> ScoreModel:
    return training_of({**scheduler.config, "_class_name": "DDPMScheduler"}).model(net)


# --- our samplers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("table", TABLES)
def test_chains_are_those_of_ancestral(net, table, prediction, eta):
    """To the last bit, on the table's own times and on real ones."""
    ours = AnalyticDPMScheduler(beta_schedule=table, prediction_type=prediction)
    real = grids.even_log_snr(ours.schedule, 4, 1.5e-3)
    ours.with_curve(CURVE, {4: real}, eta=eta)
    sampler = Ancestral(model_of(ours, net), Isotropic(CURVE), eta)
    whole = Grid((0.751, 0.501, 0.251, 0.001, 0.0))
    for grid, asked in ((real, {"num_inference_steps": 4}), (whole, {"timesteps": [750, 500, 250, 0]})):
        expected = carry(sampler, sampler.plan(grid), X, Drawn(1))
        assert torch.equal(looped(ours, net, X, **asked), expected)


def test_an_unmodified_pipeline_gives_the_samples_of_ancestral(net):
    ours = AnalyticDPMScheduler().with_curve(CURVE, {5: (1.0, 0.6, 0.4, 0.1, 0.01, 0.0)}, clip=4 / 255)
    pipe = unconditional(ours)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=4, num_inference_steps=5, generator=torch.Generator().manual_seed(7), output_type="np").images
    sampler, noise = Ancestral(model_of(ours, pipe.unet), Isotropic(CURVE), clip=4 / 255), Drawn(7)
    x = carry(sampler, sampler.plan(ours.grids[5]), noise.draw(X), noise)
    assert np.abs(images - (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()).max() < 1e-6


SOLVERS = {
    "multistep": lambda model: AnalyticMultistep(model, Isotropic(CURVE)),
    "flow": lambda model: AnalyticMultistep(model, BetaTilde(), 0.0),
    "dpmpp": lambda model: DPMSolverPP(model, 2),
    "sde_dpmpp": lambda model: DPMSolverPP(model, 3, noisy=True),
    "unipc": lambda model: UniPC(model, 3, "bh1"),
    "deis": lambda model: DEIS(model),
    "ipndm": lambda model: IPNDM(model),
}


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_of_one_call_a_step_runs_in_pipelines(net, name):
    """To the last bit, after JSON; other numbers of steps stay ancestral."""
    ours = AnalyticDPMScheduler(prediction_type="v_prediction").with_curve(CURVE)
    sampler = SOLVERS[name](model_of(ours, net))
    grid = grids.even_log_snr(ours.schedule, 5, 1e-3)
    ours = AnalyticDPMScheduler.from_config(json.loads(ours.with_sampler(sampler, grid).to_json_string()))
    assert torch.equal(looped(ours, net, X, num_inference_steps=5), carry(sampler, sampler.plan(grid), X, Drawn(1)))
    chain = Ancestral(sampler.model, Isotropic(CURVE))
    spaced = Grid((0.667, 0.334, 0.001, 0.0))
    assert torch.equal(looped(ours, net, X, num_inference_steps=3), carry(chain, chain.plan(spaced), X, Drawn(1)))


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_begin_in_the_middle(net, name):
    """As from an image: the rest of the run is a run of its own, without a past."""
    ours = AnalyticDPMScheduler(prediction_type="v_prediction")
    sampler = SOLVERS[name](model_of(ours, net))
    ours.with_sampler(sampler, grids.even_log_snr(ours.schedule, 6, 1e-3))
    ours.set_timesteps(6)
    ours.set_begin_index(2)
    x, generator = X, torch.Generator().manual_seed(1)
    with torch.no_grad():
        for t in ours.timesteps[2:]:
            x = ours.step(net(x, t).sample, t, x, generator=generator).prev_sample
    expected = carry(sampler, sampler.plan(ours.grids[6])[2:], X, Drawn(1))
    assert torch.allclose(x, expected, atol=1e-5)


@pytest.fixture(scope="module")
def linear() -> LinearDenoiser:
    return LinearDenoiser.of(pictures(80))


def test_tables_that_begin_at_z_run_in_any_pipeline(net):
    ours = AnalyticDPMScheduler(prediction_type="v_prediction")
    model = model_of(ours, net)
    table = table_of(ProbabilityFlow(model), grids.even(3, 0.01))
    ours.with_sampler(TableSampler(model, table))
    sampler = TableSampler(model, table)
    expected = carry(sampler, sampler.plan(sampler.grid), X, Drawn(1))
    x = X
    ours.set_timesteps(3)
    with torch.no_grad():
        for t in ours.timesteps:
            x = ours.step(net(x, t).sample, t, x).prev_sample
    assert torch.allclose(x, expected, atol=1e-5)


def test_tables_with_a_first_state_of_their_own(net, linear):
    """scale_model_input makes it of the pipeline's z, also of z twice over, as guidance has it."""
    ours = AnalyticDPMScheduler(prediction_type="v_prediction")
    model = model_of(ours, net)
    table = table_of(AnalyticMultistep(model, BetaTilde(), 0.0), Grid((0.9, 0.4, 0.05, 0.0)), linear)
    sampler = TableSampler(model, table)
    ours = AnalyticDPMScheduler.from_config(json.loads(ours.with_sampler(sampler).to_json_string()))
    assert not table.starts_from_noise
    first = table.start(X, ours.schedule.level(0.9))
    expected = carry(sampler, sampler.plan(sampler.grid), first, Drawn(1))
    for _ in range(2):  # a second run as well as the first
        assert torch.allclose(looped(ours, net, X, num_inference_steps=3), expected, atol=1e-5)
    ours.set_timesteps(3)
    assert torch.allclose(ours.scale_model_input(torch.cat([X, X]), ours.timesteps[0]).chunk(2)[1], first, atol=1e-6)


def test_chains_that_begin_with_a_gaussian_of_the_data(net, linear):
    """As `Study.fewest` may choose: noise by a covariance, and a start that costs no call; in the middle there is none."""
    ours = AnalyticDPMScheduler(prediction_type="v_prediction")
    model, grid = model_of(ours, net), Grid((0.9, 0.4, 0.05, 0.0))
    sampler = AnalyticMultistep(model, Isotropic(CURVE))
    ours = AnalyticDPMScheduler.from_config(json.loads(ours.with_sampler(sampler, grid, linear).to_json_string()))
    first = linear.start(X, ours.schedule.level(0.9))
    expected = carry(sampler, sampler.plan(grid), first, Drawn(1))
    assert torch.allclose(looped(ours, net, X, num_inference_steps=3), expected, atol=1e-6)
    ours.set_timesteps(3)
    late = ours.step(0.1 * X, ours.timesteps[1], X, variance_noise=X)[0]
    alone = AnalyticDPMScheduler(prediction_type="v_prediction").with_sampler(sampler, grid)
    alone.set_timesteps(3)
    assert torch.equal(late, alone.step(0.1 * X, alone.timesteps[1], X, variance_noise=X)[0])


@pytest.mark.slow
def test_the_fewest_calls_of_a_study_run_in_a_pipeline(mixture):
    """From the pass to the table, and through JSON, to the samples of the study's own plan."""
    model = mixture.score_model(AnalyticDPMScheduler().schedule)
    study = analyse(model, mixture.sample(400), budget=Budget(max_draws=300), progress=False)
    plan = study.fewest(2, progress=False)
    ours = AnalyticDPMScheduler(clip_sample=False).with_sampler(plan.sampler, plan.grid, plan.start)
    ours = AnalyticDPMScheduler.from_config(json.loads(ours.to_json_string()))
    ours.set_timesteps(2)
    noise = SampleNoise(3, range(5))
    z = x = noise.draw(torch.empty(5, 16, dtype=torch.float64))
    for t in ours.timesteps:
        shown = ours.scale_model_input(x, t)
        x = ours.step(model(shown, (float(t) + 1.0) / 1000.0).eps, t, x).prev_sample
    assert torch.allclose(x, plan(5, seed=3), atol=1e-3)
    assert not torch.allclose(x, z, atol=0.1)


def test_solvers_refuse_what_they_cannot_do(net, linear):
    ours = AnalyticDPMScheduler(prediction_type="v_prediction")
    model = model_of(ours, net)
    table = table_of(AnalyticMultistep(model, BetaTilde(), 0.0), Grid((0.9, 0.4, 0.05, 0.0)), linear)
    ours.with_sampler(TableSampler(model, table))
    ours.set_timesteps(3)
    with pytest.raises(InputError, match="this pipeline does not call that"):
        ours.step(X, ours.timesteps[0], X)
    ours.step(X, ours.timesteps[0], ours.scale_model_input(X, ours.timesteps[0]))
    with pytest.raises(InputError, match="this pipeline does not call that"):  # shown once, stepped once
        ours.step(X, ours.timesteps[0], X)
    with pytest.raises(InputError, match="cannot begin with call 2"):
        ours.set_timesteps(3)
        ours.step(X, ours.timesteps[1], X)
    with pytest.raises(UnsupportedError, match="once a step"):
        ours.with_sampler(Heun(model), grids.even(3, 0.01))
    with pytest.raises(InputError, match="say which"):
        ours.with_sampler(UniPC(model))


# --- diffusers ------------------------------------------------------------------------------------------------------------


def in_float64(**settings) -> DDPMScheduler:
    """DDPMScheduler with tables of float64, as theirs of float32 lose digits where alpha is small."""
    theirs = DDPMScheduler(**settings)
    schedule = training_of({**theirs.config, "_class_name": "DDPMScheduler"}).schedule
    theirs.alphas_cumprod = torch.from_numpy(np.exp(2.0 * np.asarray(schedule.log_alpha(schedule.times))))
    theirs.one = torch.ones((), dtype=torch.float64)
    return theirs


CONFINED = {
    "clipped": {},
    "in a range": {"clip_sample_range": 0.3},
    "free": {"clip_sample": False},
    "thresholded": {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.7},
}


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "fixed_small_log", "learned_range"])
@pytest.mark.parametrize("confined", CONFINED)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("table", QUICK_TABLES)
def test_steps_are_those_of_ddpm(table, prediction, confined, variance):
    """Of every step of a run, relative to how large it is; the step to the data adds no noise."""
    settings = {"beta_schedule": table, "prediction_type": prediction, "variance_type": variance, **CONFINED[confined]}
    ours, theirs = AnalyticDPMScheduler(**settings), in_float64(**settings)
    out = 0.8 * torch.randn(4, 2 if variance == "learned_range" else 1, 4, 4, generator=torch.Generator().manual_seed(3))
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(8)
    for t in theirs.timesteps:
        said = [each.step(out, t, X, generator=torch.Generator().manual_seed(2)) for each in (ours, theirs)]
        for one, other in zip(said[0].to_tuple(), said[1].to_tuple(), strict=True):
            assert (one - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_zero_terminal_snr(prediction, spacing):
    settings = {"prediction_type": prediction, "rescale_betas_zero_snr": True, "timestep_spacing": spacing}
    ours, theirs = AnalyticDPMScheduler(**settings), in_float64(**settings)
    assert ours.alphas_cumprod[-1] == 0.0
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(5)
    for t in theirs.timesteps:
        said = [each.step(0.5 * X, t, X, generator=torch.Generator().manual_seed(2))[0] for each in (ours, theirs)]
        assert torch.allclose(*said, atol=1e-5)


def test_a_learned_range_is_our_own_interpolated(net):
    """Against ScoreModel with LearnedRange and Interpolated."""
    torch.manual_seed(4)
    wide = UNet2DModel(**UNET | {"out_channels": 2}).eval()
    ours = AnalyticDPMScheduler(variance_type="learned_range")
    model = ScoreModel(LearnedRange(wide), ours.schedule, "eps", ZeroBased(1000), clamp=(-1.0, 1.0))
    sampler = Ancestral(model, ours.covariance)
    expected = carry(sampler, sampler.plan(Grid((0.667, 0.334, 0.001, 0.0))), X, Drawn(1))
    assert torch.equal(looped(ours, wide, X, num_inference_steps=3), expected)
