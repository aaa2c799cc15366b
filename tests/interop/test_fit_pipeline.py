"""Pipelines measured: what is read from one, what a fit leaves in it, and that its samples are the study's own."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import wraps

import pytest

pytest.importorskip("diffusers", reason="pipelines are those of diffusers")

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

import tiny_pipelines as tiny
from score_sde_analytic import DataRange, Grid
from score_sde_analytic.data import Examples, images
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.interop import fit_pipeline, from_pipeline, sigmas_for, timesteps_for
from score_sde_analytic.interop.prompts import prompts_of
from score_sde_analytic.models import LatentDataset
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.process.kernel import kernels

RANGE = DataRange(-1.0, 1.0, 256)
PROMPTS = ["low", "low low", "l", "o w"]


@pytest.fixture(autouse=True)
def _random_networks():
    """Networks of these tests know nothing, which their studies remark."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def fit(pipe, data, **told):
    return fit_pipeline(pipe, data, **({"steps": (3, 5)} | tiny.QUICK | told))


def states(pipe, **call):
    """All that the scheduler returned in a call of the pipeline."""
    seen, step = [], pipe.scheduler.step

    @wraps(step)  # pipelines look at its parameters
    def watched(*args, **kwargs):
        out = step(*args, **kwargs)
        seen.append(out[0] if isinstance(out, tuple) else out.prev_sample)
        return out

    pipe.scheduler.step = watched
    pipe.set_progress_bar_config(disable=True)
    pipe(**call)
    return seen


@pytest.fixture(scope="module")
def plain():
    """A pipeline of pixels, its scheduler before the fit, and the fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pipe = tiny.unconditional()
        before = dict(pipe.scheduler.config), digest_of(pipe.unet)
        return pipe, before, fit(pipe, tiny.pictures(), data_range=RANGE)


def test_a_pipeline_is_left_alone_until_it_is_attached(plain):
    pipe, before, fitted = plain
    assert (dict(pipe.scheduler.config), digest_of(pipe.unet)) == before
    assert type(pipe.scheduler) is DDPMScheduler
    other = copy.copy(pipe)
    assert fitted.attach(other) is other
    assert type(other.scheduler).__name__ == "AnalyticDPMScheduler"
    assert type(pipe.scheduler) is DDPMScheduler


def test_every_pipeline_gets_a_scheduler_of_its_own(plain):
    pipe, _, fitted = plain
    one, two = (fitted.attach(copy.copy(pipe)).scheduler for _ in range(2))
    one.set_timesteps(5)
    assert one is not two
    assert len(two.timesteps) == 1000


def test_the_scheduler_calls_where_the_grid_says(plain):
    pipe, _, fitted = plain
    attached = fitted.attach(copy.copy(pipe))
    for steps in fitted.steps:
        attached.scheduler.set_timesteps(steps)
        times = np.array(fitted.study.grid(steps).times[:-1])
        np.testing.assert_allclose(attached.scheduler.timesteps.numpy(), np.maximum(1000 * times - 1, 0), atol=1e-4)
        np.testing.assert_allclose(fitted.timesteps(steps), attached.scheduler.timesteps.numpy(), atol=1e-4)


def test_samples_are_those_of_the_study_with_the_same_noise(plain):
    """x_s = a x_t + b x0_hat + sqrt(v) z by the study's own sampler, with the pipeline's z; diffusers draws x_T first."""
    pipe, _, fitted = plain
    attached = fitted.attach(copy.copy(pipe))
    run = states(attached, batch_size=2, num_inference_steps=5, generator=torch.Generator().manual_seed(7), output_type="np")
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 1, 4, 4, generator=generator)
    noise = iter([torch.randn(2, 1, 4, 4, generator=generator) for _ in range(5)])
    plan = fitted.study.sampler(5)
    theirs = follow(plan.sampler, plan.grid, x, noise)
    for ours, state in zip(theirs, run, strict=True):
        torch.testing.assert_close(ours, state, atol=1e-5, rtol=1e-5)


def follow(sampler, grid, x, noise):
    """The states of a sampler whose noise is given."""
    levels = grid.levels(sampler.model.schedule)
    transitions = kernels(levels)
    steps = sampler.covariance.steps(transitions, levels[:-1])
    for i, (level, kernel, step) in enumerate(zip(levels[:-1], transitions, steps, strict=True)):
        with torch.no_grad():
            prediction = sampler.model.predict(x, level)
        x = prediction.combine(kernel.a, kernel.b)
        if i < len(transitions) - 1:
            x = step.add_noise(x, prediction, next(noise))
        yield x


def test_bits_and_report_are_the_studys(plain):
    _, _, fitted = plain
    assert list(fitted.bits()) == [3, 5]
    assert fitted.bits(5)[5].total == fitted.study.bits(5)[5].total
    assert str(fitted.bits(5)).endswith("bits/dim")


def test_a_pass_goes_on_from_its_folder(tmp_path, plain):
    pipe, _, fitted = plain
    again = [fit(pipe, tiny.pictures(), data_range=RANGE, path=tmp_path) for _ in range(2)][1]
    assert np.array_equal(again.study.moments.residual, fitted.study.moments.residual)


def test_another_network_takes_no_scheduler(plain):
    _, _, fitted = plain
    for scheduler in (DDPMScheduler(prediction_type="v_prediction"), DDPMScheduler(beta_end=0.01)):
        with pytest.raises(InputError, match="fit this pipeline by itself"):
            fitted.attach(tiny.unconditional(scheduler))


def test_the_network_of_a_pipeline_whatever_its_scheduler():
    """DDPM clips, PNDM does not; the network is the same, and so are its betas."""
    x, t = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), 0.4
    clipped = from_pipeline(tiny.unconditional())(x, t)
    free = from_pipeline(tiny.unconditional(PNDMScheduler()))(x, t)
    torch.testing.assert_close(free.x_0.clamp(-1.0, 1.0), clipped.x_0)


def test_pictures_declare_their_range():
    levels = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    fitted = fit(tiny.unconditional(), images(levels))
    assert fitted.study.data_range == RANGE


# --- classes and latents ------------------------------------------------------------------------------------------------


def test_classes_go_with_their_pictures():
    """R of a conditional network on a class alone is that of the network given this class."""
    pipe = tiny.unconditional(classes=3)
    labels = torch.arange(40) % 2
    fitted = fit(pipe, tiny.pictures(), class_labels=labels, data_range=RANGE)
    assert set(fitted.study.conditions["class_labels"].tolist()) == {0, 1}
    rows = [{"image": x, "kind": int(label)} for x, label in zip(tiny.pictures(), labels, strict=True)]
    same = fit(pipe, rows, class_labels="kind", data_range=RANGE)
    assert np.array_equal(same.study.moments.residual, fitted.study.moments.residual)
    with pytest.raises(InputError, match="give class_labels="):
        fit(pipe, tiny.pictures(), data_range=RANGE)


def test_latents_of_classes_guided():
    """The curve is the conditional network's whatever the scale; the study's samples are guided."""
    pipe, labels = tiny.with_classes(), torch.arange(40) % 5
    data = tiny.pictures(channels=3, side=8)
    fitted = {scale: fit(pipe, data, class_labels=labels, guidance_scale=scale) for scale in (1.0, 3.0)}
    assert np.array_equal(fitted[1.0].study.moments.residual, fitted[3.0].study.moments.residual)
    assert fitted[3.0].study.model.guidance == "guided with scale 3"
    assert str(fitted[3.0].bits(5)).endswith("bits/dim of latents")
    assert fitted[3.0].study.shape == (2, 4, 4)
    assert any("of latents as a density" in remark for remark in fitted[3.0].study.remarks)
    encoded = LatentDataset(pipe.vae, Examples(data, conditions={"class_labels": labels}))
    assert np.array_equal(fit(pipe, encoded).study.moments.residual, fitted[1.0].study.moments.residual)


def test_guidance_without_a_null_class():
    with pytest.raises(InputError, match="give null="):
        from_pipeline(tiny.unconditional(classes=3), guidance_scale=2.0)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    own, null, guided = (
        from_pipeline(tiny.unconditional(DDPMScheduler(clip_sample=False), classes=3), **told)(x, 0.5).eps
        for told in ({"class_labels": 1}, {"class_labels": 2}, {"class_labels": 1, "guidance_scale": 3.0, "null": 2})
    )
    torch.testing.assert_close(guided, null + 3.0 * (own - null), atol=1e-5, rtol=1e-5)


def test_a_transformer_pipeline_of_classes_runs(tmp_path):
    pipe = tiny.with_classes()
    fitted = fit(pipe, tiny.pictures(channels=3, side=8), class_labels=torch.arange(40) % 5)
    run = states(fitted.attach(pipe), class_labels=[1, 3], num_inference_steps=3, guidance_scale=1.0, output_type="np")
    assert len(run) == 3
    assert all(torch.isfinite(x).all() for x in run)


# --- prompts ------------------------------------------------------------------------------------------------------------


def test_prompts_are_columns_or_lists():
    rows = [{"image": 0, "text": word} for word in PROMPTS]
    assert prompts_of(rows, "text", 4) == prompts_of(rows, PROMPTS, 4) == PROMPTS
    assert prompts_of({"image": range(4), "text": PROMPTS}, "text", 4) == PROMPTS
    assert prompts_of(rows, ["low"], 4) == ["low"] * 4
    for wrong, why in (("words", "no column 'words'"), (["a", "b"], "2 prompts for 4 examples"), ([1] * 4, "are words")):
        with pytest.raises(InputError, match=why):
            prompts_of(rows, wrong, 4)


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.stable_diffusion_3])
def test_text_pipelines(tmp_path, make):
    """Measured with each picture's own embedding; the network is given what the pipeline's call gives it.

    Pipelines of flows draw x_1 by their generator, and hand it to no scheduler: noise is torch's own.
    """
    pytest.importorskip("transformers")
    pipe = make(tmp_path)
    data = tiny.pictures(channels=3, side=8)
    fitted = fit(pipe, data, prompts=PROMPTS * 10, guidance_scale=4.0)
    names = {"encoder_hidden_states"} | ({"pooled_projections"} if make is tiny.stable_diffusion_3 else set())
    assert set(fitted.study.conditions) == names
    assert len(fitted.study.conditions["encoder_hidden_states"].unique(dim=0)) == len(PROMPTS)
    one = {"prompt": "low low", "height": 8, "width": 8, "output_type": "latent", "guidance_scale": 1.0}
    torch.manual_seed(5)
    run = states(fitted.attach(pipe), **one, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 4, generator=generator)
    plan = fitted.study.sampler(3)
    sampler = replace(plan.sampler, model=from_pipeline(pipe, prompt="low low"))
    drawn = generator if make is tiny.stable_diffusion else torch.Generator().manual_seed(5)
    noise = (torch.randn(1, 2, 4, 4, generator=drawn) for _ in range(3))
    for ours, state in zip(follow(sampler, plan.grid, x, noise), run, strict=True):
        torch.testing.assert_close(ours, state, atol=2e-5, rtol=2e-5)
    with pytest.raises(InputError, match="give prompts="):
        fit(pipe, data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path, dtype):
    """Weights, encoders and autoencoder in half precision, states of the pass in float32."""
    pytest.importorskip("transformers")
    whole, half = (tiny.stable_diffusion(tmp_path) for _ in range(2))
    half.to(dtype=dtype)
    data = tiny.pictures(channels=3, side=8)
    residual = [fit(pipe, data, prompts=["low"]).study.moments.residual for pipe in (whole, half)]
    np.testing.assert_allclose(*residual, rtol=0.02)


def test_pipelines_that_are_not_measured(tmp_path):
    with pytest.raises(InputError, match="encodes no prompts"):
        fit(tiny.unconditional(), tiny.pictures(), prompts=["low"], data_range=RANGE)
    with pytest.raises(UnsupportedError, match="more than the noisy state"):
        from_pipeline(tiny.unconditional(channels=3))
    with pytest.raises(UnsupportedError, match="EDMEulerScheduler"):  # before the pass, not after it
        fit(tiny.unconditional(EDMEulerScheduler()), None)


# --- our grids in schedulers of others ----------------------------------------------------------------------------------


def test_timesteps_for_other_schedulers():
    """They are set as given, in whole numbers where a table is read at them, each once."""
    grid = Grid((1.0, 0.6, 0.0021, 0.0019, 0.0012, 0.0))
    for scheduler in (DDPMScheduler(), DPMSolverMultistepScheduler()):
        whole = timesteps_for(grid, scheduler)
        assert whole == [999, 599, 2, 1, 0]
        scheduler.set_timesteps(timesteps=whole)
        assert scheduler.timesteps.tolist() == whole
    between = timesteps_for(grid, EulerDiscreteScheduler())
    np.testing.assert_allclose(between, [999.0, 599.0, 1.1, 0.9, 0.2], atol=1e-9)
    with pytest.raises(InputError, match="3 steps on a table of 2"):
        timesteps_for(Grid((1.0, 0.6, 0.2, 0.0)), DDPMScheduler(trained_betas=[0.1, 0.2]))
    with pytest.raises(UnsupportedError, match="None"):
        timesteps_for(grid, {})


def test_sigmas_for_other_schedulers():
    """Euler's table has sigma / alpha; a flow's scheduler shifts what it is given to the grid's own share of noise."""
    scheduler = EulerDiscreteScheduler()
    table = ((1.0 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().double().numpy()
    *steps, end = sigmas_for(Grid((1.0, 0.5, 0.001, 0.0)), scheduler)
    np.testing.assert_allclose(steps, table[[999, 499, 0]], rtol=1e-4)
    assert end == 0.0
    for shift in (1.0, 3.0):
        flow = FlowMatchEulerDiscreteScheduler(shift=shift)
        flow.set_timesteps(sigmas=sigmas_for(Grid((1.0, 0.7, 0.2, 0.0)), flow))
        np.testing.assert_allclose(flow.sigmas.numpy(), [1.0, 0.7, 0.2, 0.0], atol=1e-6)
    for moved in ({"use_dynamic_shifting": True}, {"use_karras_sigmas": True}, {"shift_terminal": 0.1}):
        with pytest.raises(InputError, match=f"without {next(iter(moved))}"):
            sigmas_for(Grid((1.0, 0.0)), FlowMatchEulerDiscreteScheduler(**moved))
    for refused in (EDMEulerScheduler(), DDIMScheduler()):
        with pytest.raises(InputError, match="sigmas"):
            sigmas_for(Grid((1.0, 0.0)), refused)


def test_runs_of_other_schedulers_on_our_grids_end_in_the_data():
    """With data that are zero and the exact eps, x_t / sigma_t, samples are zero; so are those of our own DDIM."""
    grid = Grid((1.0, 0.6, 0.2, 0.0))
    for told in (
        {"sigmas": sigmas_for(grid, EulerDiscreteScheduler())},
        {"timesteps": timesteps_for(grid, EulerDiscreteScheduler())},
    ):
        euler = EulerDiscreteScheduler()
        euler.set_timesteps(**told)
        assert len(euler.timesteps) == 3
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * euler.init_noise_sigma
        for t, sigma in zip(euler.timesteps, euler.sigmas[:-1], strict=True):
            x = euler.step(x / sigma, t, x).prev_sample
        assert x.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        (FlowMatchEulerDiscreteScheduler(shift=3.0), "shifts the sigmas"),
        (EDMEulerScheduler(), "takes sigmas, no timesteps"),
        (DDIMScheduler(), "takes no timesteps="),
    ],
)
def test_schedulers_that_take_no_timesteps_are_named(scheduler, said):
    with pytest.raises(InputError, match=said):
        timesteps_for(Grid((1.0, 0.0)), scheduler)


def test_the_room_needs_no_other_package():
    code = "import sys, score_sde_analytic.interop as room; dir(room); assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
