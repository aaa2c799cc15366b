"""The contract of diffusers' schedulers, as its own common checks have it, and what pipelines do to a scheduler.

Of diffusers' SchedulerCommonTest, which is in no wheel, these are here: parameters, compatibles, from_pretrained, save and
load, trained_betas, add_noise on a device, getattr, pickle, step without set_timesteps and out of order, outputs as tuples.
Those that do not apply: `_deprecated_kwargs`, of which there are none; the sums of a full loop of DDPMScheduler, which are of
its float32 tables (test_scheduler_exactness.py compares with it on tables of float64); `batch_step_no_noise`, a method of
DDPMParallelScheduler; `previous_timestep` and `_get_variance`, helpers of DDPMScheduler's own step.
"""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import time
from statistics import median

import pytest

pytest.importorskip("diffusers", reason="schedulers and pipelines are those of diffusers")

import diffusers
import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler
from diffusers.configuration_utils import FrozenDict

from score_sde_analytic import grids
from score_sde_analytic.covariance import Diagonal, Interpolated, Isotropic
from score_sde_analytic.data.basis import Channel
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.interop import AnalyticDPMScheduler
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.spectrum import Spectrum
from tiny_pipelines import unconditional

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of numpy, to diffusers
CURVE = NoiseCurve(np.linspace(-9.0, 9.0, 17) / 3.0, np.linspace(0.0, 3.0, 17) ** 1.1)
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OUT = 0.3 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
#: All but EDM's; those of two evaluations plan their whole table when they are made, which takes time.
COMPATIBLE = [
    pytest.param(name, marks=[pytest.mark.slow] if "KDPM2" in name else [])
    for name in AnalyticDPMScheduler._compatibles
    if name != "EDMEulerScheduler"
]


def carrying(**settings) -> AnalyticDPMScheduler:
    scheduler = AnalyticDPMScheduler(**settings)
    return scheduler.with_curve(CURVE, {4: grids.even_log_snr(scheduler.schedule, 4, 1e-3)}, eta=0.7)


def same(one: AnalyticDPMScheduler, other: AnalyticDPMScheduler) -> bool:
    curves = all(np.array_equal(getattr(one.curve, name), getattr(other.curve, name)) for name in ("log_snr", "y"))
    times = [{steps: grid.times for steps, grid in each.grids.items()} for each in (one, other)]
    return curves and times[0] == times[1] and one.eta == other.eta


def stepped(scheduler, timestep, x=X, out=OUT, seed=0, **options):
    return scheduler.step(out, timestep, x, generator=torch.Generator().manual_seed(seed), **options)


# --- construction, saving, handing on --------------------------------------------------------------------------------------


def test_parameters_are_those_of_ddpm():
    ours, theirs = (inspect.signature(kind.__init__) for kind in (AnalyticDPMScheduler, DDPMScheduler))
    assert ours == theirs
    assert AnalyticDPMScheduler(500, 0.001).config.beta_start == 0.001
    assert len(AnalyticDPMScheduler(500)) == 500


def test_tables_are_those_of_ddpm():
    ours, theirs = AnalyticDPMScheduler(), DDPMScheduler()
    assert torch.allclose(ours.betas, theirs.betas, rtol=1e-5)
    assert torch.allclose(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert (ours.order, ours.init_noise_sigma, ours.num_inference_steps) == (1, 1.0, None)


@pytest.mark.parametrize("name", COMPATIBLE)
def test_every_compatible_class_hands_it_on(name, caplog):
    """There and back, in memory and as JSON, without a word: neither curve nor clipping is lost."""
    kind = getattr(diffusers, name)
    if not hasattr(kind, "set_timesteps"):
        pytest.skip(f"{name} needs a package that is not installed")
    ours = carrying(beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing", steps_offset=1)
    there = kind.from_config(ours.config)
    back = AnalyticDPMScheduler.from_config(there.config)
    read = AnalyticDPMScheduler.from_config(json.loads(kind.from_config(ours.config).to_json_string()))
    for scheduler in (back, read):
        assert same(scheduler, ours)
        assert scheduler.config.beta_schedule == "scaled_linear"
        assert not scheduler.config.clip_sample
        assert scheduler.config.timestep_spacing == "trailing"
    assert "_analytic" not in caplog.text


def test_saved_and_loaded(tmp_path):
    ours = carrying()
    ours.save_pretrained(tmp_path)
    loaded = AnalyticDPMScheduler.from_pretrained(tmp_path)
    assert same(loaded, ours)
    assert same(AnalyticDPMScheduler.from_config(DDPMScheduler.from_pretrained(tmp_path).config), ours)
    for scheduler in (ours, loaded):
        scheduler.set_timesteps(4)
    assert torch.equal(stepped(ours, ours.timesteps[1])[0], stepped(loaded, loaded.timesteps[1])[0])


def test_a_pipeline_saves_and_loads_it(tmp_path):
    pipe = unconditional(carrying())
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == [
        "score_sde_analytic.interop.diffusers",
        "AnalyticDPMScheduler",
    ]
    assert same(again.scheduler, pipe.scheduler)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_copies_go_on(copied):
    ours = carrying()
    ours.set_timesteps(4)
    x = stepped(ours, ours.timesteps[0])[0]
    other = copied(ours)
    assert same(other, ours)
    assert torch.equal(stepped(ours, ours.timesteps[1], x)[0], stepped(other, other.timesteps[1], x)[0])


def test_trained_betas_decide_how_many_steps_there_are():
    betas = [0.1, 0.2, 0.4]
    scheduler = AnalyticDPMScheduler(trained_betas=betas)
    assert torch.allclose(scheduler.betas, torch.tensor(betas))
    assert scheduler.timesteps.tolist() == [2, 1, 0]
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [1, 0]
    assert len(scheduler) == 3


def test_settings_of_the_config_are_attributes_with_a_warning():
    scheduler = AnalyticDPMScheduler()
    with pytest.warns(FutureWarning, match="num_train_timesteps"):
        assert scheduler.num_train_timesteps == 1000
    with pytest.raises(AttributeError, match="does_not_exist"):
        scheduler.does_not_exist  # noqa: B018


def test_what_it_carries_is_plain_data():
    carried = carrying().config["_analytic"]
    assert json.loads(json.dumps(carried, allow_nan=False)) == carried
    assert not [key for key in AnalyticDPMScheduler().config if key.startswith("_") and key != "_use_default_values"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rescale_betas_zero_snr": True}, InputError, "pure noise, of which a network of epsilon says nothing"),
        ({"beta_schedule": "lineal"}, InputError, "beta_schedule 'lineal'"),
        ({"prediction_type": "noise"}, InputError, "prediction_type 'noise'"),
        ({"trained_betas": [0.1, 1.2]}, InputError, "betas must lie strictly between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        AnalyticDPMScheduler(**settings)


@pytest.mark.parametrize(
    ("carried", "message"),
    [
        ([1.0], "its content is .*, not a mapping"),
        ("curve", "its content is 'curve', not a mapping"),
        ({"eta": 2.0}, "eta must be"),
        ({"grids": {"3": [1.0, 0.5, 0.0]}}, "the grid given for 3 steps has 2"),
        ({"grids": {"two": [1.0, 0.5, 0.0]}}, "invalid literal"),
        ({"eta": "1"}, "eta is '1', not a number"),
        ({"grids": {"2": [1.0, 0.5]}}, "a grid ends in the data"),
        ({"covariance": {"name": "isotropic"}}, "it lacks log_snr"),
        ({"solvers": {"2": {"name": "Heun"}}, "grids": {"2": [1.0, 0.5, 0.0]}}, "unknown solver 'Heun'"),
        ({"solvers": {"2": {"name": "UniPC", "ordre": 3}}, "grids": {"2": [1.0, 0.5, 0.0]}}, "ordre"),
        ({"solvers": {"2": {"name": "UniPC", "order": 7}}, "grids": {"2": [1.0, 0.5, 0.0]}}, "order must be"),
    ],
)
def test_damaged_content_names_the_key(carried, message):
    scheduler = AnalyticDPMScheduler()
    scheduler.register_to_config(_analytic=carried)
    with pytest.raises(InputError, match=message):
        scheduler.set_timesteps(2)


def test_grids_and_covariances_are_checked_where_they_are_given():
    with pytest.raises(InputError, match="the grid given for 3 steps has 2"):
        AnalyticDPMScheduler().with_curve(CURVE, {3: (1.0, 0.5, 0.0)})
    with pytest.raises(InputError, match="use eta=1"):
        AnalyticDPMScheduler().with_curve(Interpolated(), eta=0.5)


# --- runs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_timesteps_are_those_of_ddpm(spacing, offset):
    """But for a full table with an offset, where theirs leaves the table."""
    settings = {"timestep_spacing": spacing, "steps_offset": offset}
    ours, theirs = AnalyticDPMScheduler(**settings), DDPMScheduler(**settings)
    for steps in (1, 2, 7, 33, 50, 333, 1000):
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(steps)
        expected = theirs.timesteps if theirs.timesteps[0] < 1000 else theirs.timesteps - 1
        assert torch.equal(ours.timesteps, expected)
        assert ours.timesteps.dtype == torch.int64
        assert ours.num_inference_steps == steps


def test_a_carried_grid_is_taken_and_others_are_spaced():
    ours = carrying()
    ours.set_timesteps(4)
    assert np.allclose(ours.timesteps, np.array(ours.grids[4].times[:-1]) * 1000 - 1, atol=1e-4)
    assert ours.timesteps.dtype == torch.float32
    ours.set_timesteps(5)
    assert ours.timesteps.tolist() == [800, 600, 400, 200, 0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"timesteps": [900, 500, 10]}, [900, 500, 10]),
        ({"timesteps": np.array([900.5, 0.25])}, [900.5, 0.25]),
        ({"timesteps": torch.tensor([9.0, 3.0])}, [9, 3]),
    ],
)
def test_timesteps_of_ones_own(asked, expected):
    ours = carrying()
    ours.set_timesteps(**asked)
    assert ours.timesteps.tolist() == expected
    assert ours.num_inference_steps == len(expected)


def test_sigmas_of_ones_own():
    """Those that are published for Stable Diffusion begin a rounding above its table."""
    published = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    ours = AnalyticDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    ours.set_timesteps(sigmas=published)
    assert np.abs(ours.timesteps.numpy() - [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]).max() < 1.5
    alpha_bar = np.interp(ours.timesteps.numpy(), np.arange(1000), np.log(ours.alphas_cumprod.numpy()))
    assert np.allclose(np.sqrt(np.expm1(-alpha_bar)), published[:-1], rtol=1e-3)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "exactly one"),
        ({"num_inference_steps": 3, "timesteps": [5, 1]}, "exactly one"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be"),
        ({"timesteps": [1, 5]}, "timesteps must fall strictly"),
        ({"timesteps": [1000]}, "at most 999"),
        ({"sigmas": [1e6, 1.0]}, "log-SNR"),
        ({"sigmas": [1.0, 2.0]}, "sigmas must be positive and fall"),
    ],
)
def test_impossible_runs_are_refused(asked, message):
    with pytest.raises(InputError, match=message):
        AnalyticDPMScheduler().set_timesteps(**asked)


def test_set_timesteps_is_a_look_up_the_second_time():
    scheduler = carrying()
    for asked in ({"num_inference_steps": 50}, {"timesteps": list(range(999, 0, -20))}):
        scheduler.set_timesteps(**asked)
        took = []
        for _ in range(21):
            start = time.perf_counter()
            scheduler.set_timesteps(**asked)
            took.append(time.perf_counter() - start)
        assert median(took) < 50e-6


def test_runs_do_not_share_their_timesteps():
    scheduler = carrying()
    scheduler.set_timesteps(3)
    scheduler.timesteps.zero_()
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == [666, 333, 0]


# --- steps ----------------------------------------------------------------------------------------------------------------


def test_a_run_over_the_whole_table_needs_no_asking():
    """diffusers' checks step without set_timesteps, and out of order."""
    ours, planned = AnalyticDPMScheduler(50), AnalyticDPMScheduler(50)
    planned.set_timesteps(50)
    for timestep in (0, 1, 30, 29, 31, 0):
        assert torch.equal(stepped(ours, timestep)[0], stepped(planned, planned.timesteps[49 - timestep])[0])


def test_steps_are_found_by_value_place_and_order():
    ours = carrying()
    ours.set_timesteps(4)
    expected = [stepped(ours, t)[0] for t in ours.timesteps]
    assert [ours.step_index, ours.begin_index] == [4, None]
    ways = {
        "a number": float,
        "a copy": lambda t: t.clone(),
        "of a batch": lambda t: t.clone().expand(2),
        "a part of a slice": lambda t: t.expand(2),
        "numpy": lambda t: t.numpy(),
    }
    for way in ways.values():
        for i in (2, 0, 1, 2, 3, 0):  # again from the start without a word, as pipelines do that loop by themselves
            assert torch.equal(stepped(ours, way(ours.timesteps[i]))[0], expected[i])
            assert ours.step_index == i + 1


def test_an_unknown_timestep_says_what_to_do():
    ours = carrying()
    ours.set_timesteps(3)
    for timestep in ours.timesteps:
        stepped(ours, timestep)
    with pytest.raises(InputError, match=r"timestep 5 is none of this run's 666, 333, 0; step through"):
        stepped(ours, 5)


def test_runs_begin_where_they_are_told():
    ours = carrying()
    ours.set_timesteps(4)
    expected = stepped(ours, ours.timesteps[2])[0]
    ours.set_timesteps(4)
    ours.set_begin_index(2)
    assert ours.begin_index == 2
    assert torch.equal(stepped(ours, float(ours.timesteps[2]))[0], expected)
    assert ours.step_index == 3


def test_an_eta_of_pipelines_is_not_taken():
    """StableDiffusionPipeline looks for a parameter of this name, and passes 0.0 where it finds one."""
    assert "eta" not in inspect.signature(AnalyticDPMScheduler.step).parameters
    assert "generator" in inspect.signature(AnalyticDPMScheduler.step).parameters
    ours = carrying()
    ours.set_timesteps(4)
    assert torch.equal(
        stepped(ours, ours.timesteps[0], eta=0.0, use_clipped_model_output=True)[0], stepped(ours, ours.timesteps[0])[0]
    )


def test_ddim_pipelines_take_another_scheduler():
    """DDIMPipeline makes a DDIMScheduler of whatever it is given: ours belongs in a DDPMPipeline, which has the same parts."""
    pipe = unconditional(carrying())
    other = DDIMPipeline(pipe.unet, pipe.scheduler)
    assert type(other.scheduler) is DDIMScheduler
    assert same(AnalyticDPMScheduler.from_config(other.scheduler.config), pipe.scheduler)


def test_outputs_as_tuple_and_as_names():
    ours = carrying()
    ours.set_timesteps(4)
    named = stepped(ours, ours.timesteps[1])
    listed = stepped(ours, ours.timesteps[1], return_dict=False)
    assert len(named) == len(listed) == 2
    assert all(torch.equal(one, other) for one, other in zip(named.to_tuple(), listed, strict=True))
    assert torch.equal(named.pred_original_sample, listed[1])
    assert listed[1].abs().max() <= 1.0


def test_noise_that_is_given_and_generators_of_samples():
    ours = carrying()
    ours.set_timesteps(4)
    z = torch.randn(X.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.step(OUT, ours.timesteps[1], X, variance_noise=z)[0], stepped(ours, ours.timesteps[1])[0])
    each = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    both = ours.step(OUT, ours.timesteps[1], X, generator=each)[0]
    alone = ours.step(OUT[1:], ours.timesteps[1], X[1:], generator=torch.Generator().manual_seed(6))[0]
    assert torch.allclose(both[1:], alone)


def test_no_noise_is_drawn_where_there_is_none():
    """eta = 0 with beta-tilde, and the step to the data: generators are left alone, as DDIMScheduler leaves them."""
    ours = AnalyticDPMScheduler()
    ours.register_to_config(_analytic={"eta": 0.0})
    ours.set_timesteps(5)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    for t in ours.timesteps:
        ours.step(OUT, t, X, generator=generator)
    assert torch.equal(before, generator.get_state())


@pytest.mark.parametrize("change", ["clip_sample", "steps_offset", "_analytic"])
def test_configs_are_read_late(change):
    """Pipelines of Stable Diffusion replace the config of the scheduler that they are given, behind its back."""
    values = {"clip_sample": False, "steps_offset": 1, "_analytic": {"eta": 0.0}}
    ours = carrying()
    ours.set_timesteps(4)
    stepped(ours, ours.timesteps[0])
    ours._internal_dict = FrozenDict({**ours.config, change: values[change]})
    fresh = AnalyticDPMScheduler.from_config(ours.config)
    fresh.set_timesteps(3)
    ours.set_timesteps(3)
    assert torch.equal(fresh.timesteps, ours.timesteps)
    assert torch.equal(stepped(ours, ours.timesteps[1])[0], stepped(fresh, fresh.timesteps[1])[0])


def test_a_config_that_changes_within_a_run_holds_from_the_next_step():
    ours = carrying()
    ours.set_timesteps(3)
    stepped(ours, ours.timesteps[0])
    clipped = stepped(ours, ours.timesteps[1], out=20.0 * OUT)[1]
    ours.register_to_config(clip_sample=False)
    assert clipped.abs().max() == 1.0
    assert stepped(ours, ours.timesteps[1], out=20.0 * OUT)[1].abs().max() > 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    """A step in half precision is the float32 step, rounded."""
    ours = carrying(prediction_type="v_prediction")
    ours.set_timesteps(4)
    for t in ours.timesteps:
        half = stepped(ours, t, X.to(dtype), OUT.to(dtype))
        full = stepped(ours, t, X.to(dtype).float(), OUT.to(dtype).float())
        assert half[0].dtype == half[1].dtype == dtype
        assert torch.equal(half[0], full[0].to(dtype))
        assert torch.equal(half[1], full[1].to(dtype))


def test_learned_variances_stay_behind_where_a_curve_is_carried():
    """Of twice the channels the first half is the mean, whatever becomes of the rest."""
    ours = carrying(variance_type="learned_range")
    ours.set_timesteps(4)
    both = torch.cat([OUT, torch.randn_like(OUT)], 1)
    assert torch.equal(stepped(ours, ours.timesteps[1], out=both)[0], stepped(ours, ours.timesteps[1])[0])
    assert isinstance(AnalyticDPMScheduler(variance_type="learned_range").covariance, Interpolated)
    with pytest.raises(UnsupportedError, match="variance_type 'learned' is of the training's own steps"):
        AnalyticDPMScheduler(variance_type="learned").set_timesteps(3)


def test_a_structured_covariance_adds_its_own_noise():
    """By channel: the noise of each has the deviation of its own curve."""
    y = np.stack([np.full(3, -2.0), np.full(3, 1.0), np.full(3, 4.0)], -1)[:, None, :]
    spectrum = Spectrum(np.array([-5.0, 0.0, 5.0]), y, np.zeros((3, 0)), np.full(3, 64.0))
    structured = AnalyticDPMScheduler().with_curve(Diagonal(spectrum, Channel()))
    read = AnalyticDPMScheduler.from_config(json.loads(structured.to_json_string()))
    read.set_timesteps(5)
    zero, z = torch.zeros_like(X), torch.ones_like(X)
    noise = read.step(OUT, 600, X, variance_noise=z)[0] - read.step(OUT, 600, X, variance_noise=zero)[0]
    for channel, value in enumerate((-2.0, 1.0, 4.0)):
        alone = AnalyticDPMScheduler().with_curve(Isotropic(NoiseCurve(np.zeros(1), np.array([value]))))
        alone.set_timesteps(5)
        expected = alone.step(OUT, 600, X, variance_noise=z)[0] - alone.step(OUT, 600, X, variance_noise=zero)[0]
        assert torch.allclose(noise[:, channel], expected[:, channel], atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"clip_sample": False}, {"thresholding": True}, {"prediction_type": "v_prediction"}])
def test_no_step_waits_for_the_device(settings):
    """On "meta", where nothing can be read back, whole runs pass; diffusers' own would ask for the timestep's value."""
    ours = carrying(**settings)
    x, out = X.to("meta"), OUT.to("meta")
    for _ in range(2):
        ours.set_timesteps(4, device="meta")
        for t in ours.timesteps:
            x = ours.step(out, t, ours.scale_model_input(x, t)).prev_sample
    assert x.shape == X.shape
    noised = ours.add_noise(x, out, torch.zeros(2, dtype=torch.int64, device="meta"))
    assert noised.device.type == "meta"


# --- the forward process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", [torch.tensor([7, 900]), torch.tensor([30])])
def test_noise_and_velocity_as_ddpm_has_them(timesteps):
    ours, theirs = AnalyticDPMScheduler(), DDPMScheduler()
    for name in ("add_noise", "get_velocity"):
        assert torch.allclose(getattr(ours, name)(X, OUT, timesteps), getattr(theirs, name)(X, OUT, timesteps), atol=1e-5)
        assert getattr(ours, name)(X.bfloat16(), OUT.bfloat16(), timesteps).dtype == torch.bfloat16


def test_noise_between_the_steps_of_the_table():
    """alpha^2 + sigma^2 = 1, and between those of the neighbours."""
    ours = AnalyticDPMScheduler()
    zero, one = torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    at = torch.tensor([500.0, 500.5, 501.0])
    alpha, sigma = ours.add_noise(one, zero, at), ours.add_noise(zero, one, at)
    assert torch.allclose(alpha**2 + sigma**2, one)
    assert alpha[0] > alpha[1] > alpha[2]
    assert ours.scale_model_input(X, 500) is X


def test_add_noise_where_the_examples_lie(device):
    ours = AnalyticDPMScheduler(100)
    ours.set_timesteps(10, device=device)
    assert ours.timesteps.device.type == device.type
    for timestep in (torch.tensor([5]), torch.tensor([5], device=device)):
        noised = ours.add_noise(X.to(device), OUT.to(device), timestep)
        assert noised.device.type == device.type
        assert torch.isfinite(noised).all()


def test_misspelt_settings_are_refused_as_ddpm_refuses_them():
    for kind in (DDPMScheduler, AnalyticDPMScheduler):
        with pytest.raises(TypeError, match="clip_smaple"):
            kind(clip_smaple=False)


def test_outputs_of_other_shapes_are_refused():
    """Twice the channels are a learned range; anything else is none of this sample."""
    scheduler = AnalyticDPMScheduler()
    scheduler.set_timesteps(2)
    for shape in ((2, 5, 4, 4), (2, 3, 4, 2)):
        with pytest.raises(InputError, match="the network said"):
            scheduler.step(torch.zeros(shape), scheduler.timesteps[0], torch.zeros(2, 3, 4, 4))


def test_a_run_keeps_its_batch():
    scheduler = AnalyticDPMScheduler()
    scheduler.set_timesteps(3)
    two, one = torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    scheduler.step(two, scheduler.timesteps[0], two)
    with pytest.raises(InputError, match="call set_timesteps"):
        scheduler.step(one, scheduler.timesteps[1], one)
