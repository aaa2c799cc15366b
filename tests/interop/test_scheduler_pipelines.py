"""Our schedulers in unmodified pipelines of diffusers: against our own samplers of the same guided network and noise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("diffusers", reason="schedulers and pipelines are those of diffusers")

import numpy as np
import torch
from diffusers import (
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from diffusers.utils.torch_utils import randn_tensor

from score_sde_analytic import Ancestral, RectifiedFlow, ScoreModel
from score_sde_analytic.covariance import BetaTilde, Isotropic
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop import AnalyticDPMScheduler, AnalyticFlowScheduler
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models import Interpolant, LinearDenoiser
from score_sde_analytic.models.diffusers_folder import training_of
from score_sde_analytic.samplers import AnalyticMultistep, TableSampler, carry, table_of
from tiny_pipelines import autoencoder, stable_diffusion, stable_diffusion_3

transformers = pytest.importorskip("transformers")

CURVE = NoiseCurve(np.linspace(-9.0, 9.0, 17), np.linspace(-1.0, 2.0, 17))
GRID = Grid((1.0, 0.61, 0.3, 0.0123, 0.0))
GUIDANCE = 3.0
Z = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(1, 1, 8, 8)
MASK[..., :4, :] = 1.0
PROMPTS = ["low", "lo w"]


class Drawn:
    """The noise of one generator, or of one per sample, as pipelines draw it."""

    def __init__(self, generator):
        self.generator = generator

    def draw(self, like):
        return randn_tensor(like.shape, self.generator, like.device, like.dtype)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    pipe = stable_diffusion(tmp_path_factory.mktemp("words"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(diffusion):
    """With a scheduler of its own."""
    ours = AnalyticDPMScheduler.from_config(diffusion.scheduler.config).with_curve(CURVE, {4: GRID})
    return type(diffusion)(**{**diffusion.components, "scheduler": ours}, requires_safety_checker=False)


@pytest.fixture
def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guided(pipe, prompts=PROMPTS) -> ScoreModel:
    """uncond + g (cond - uncond), as the pipeline has it, as a network of ours."""
    cond, uncond = pipe.encode_prompt(prompts, "cpu", 1, True)

    def net(x, labels):
        answers = [pipe.unet(x, labels, encoder_hidden_states=words).sample for words in (uncond, cond)]
        return answers[0] + GUIDANCE * (answers[1] - answers[0])

    training = training_of({**pipe.scheduler.config, "_class_name": "DDPMScheduler"})
    return training.model(net, fingerprint="guided")


def ask(pipe, **options):
    settings = {"guidance_scale": GUIDANCE, "output_type": "latent", "num_inference_steps": 4, "latents": Z} | options
    return pipe(PROMPTS, **settings).images


@torch.no_grad()
def sampled(pipe, grid=GRID, noise=None, eta=1.0):
    sampler = Ancestral(guided(pipe), Isotropic(CURVE), eta)
    return carry(sampler, sampler.plan(grid), Z, Drawn(seeded(5)[0]) if noise is None else noise)


# --- Stable Diffusion -----------------------------------------------------------------------------------------------------


def test_text_to_image(quiet):
    """eta is 0.0 by the pipeline's default, and not taken."""
    assert (ask(quiet, generator=seeded(5)[0]) - sampled(quiet)).abs().max() < 1e-5


def test_generators_of_samples(quiet):
    assert (ask(quiet, generator=seeded(5, 6)) - sampled(quiet, noise=Drawn(seeded(5, 6)))).abs().max() < 1e-5


def test_timesteps_and_sigmas_of_ones_own(quiet):
    expected = sampled(quiet, Grid((0.9, 0.5005, 0.1, 0.0)))
    images = ask(quiet, generator=seeded(5)[0], num_inference_steps=None, timesteps=[899, 499.5, 99])
    assert (images - expected).abs().max() < 1e-5
    ratios = [level.ratio for level in Grid((0.9, 0.5005, 0.1, 0.0)).levels(quiet.scheduler.schedule)[:-1]]
    images = ask(quiet, generator=seeded(5)[0], num_inference_steps=None, sigmas=ratios)
    assert (images - expected).abs().max() < 1e-4


def test_callbacks_see_every_step(quiet):
    seen = []

    def note(pipe, index, timestep, kept):
        seen.append((index, float(timestep), pipe.scheduler.step_index))
        return {"latents": kept["latents"]}

    ask(quiet, callback_on_step_end=note, generator=seeded(5)[0])
    assert [index for index, _, _ in seen] == [0, 1, 2, 3]
    assert [step for _, _, step in seen] == [1, 2, 3, 4]
    assert np.allclose([t for _, t, _ in seen], np.array(GRID.times[:-1]) * 1000 - 1, atol=1e-3)


def test_pipelines_mend_the_config_they_are_given(diffusion):
    """clip_sample and steps_offset are replaced when a pipeline is built; both are read after that."""
    ours = AnalyticDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=True)
    with pytest.warns(FutureWarning):
        type(diffusion)(**{**diffusion.components, "scheduler": ours}, requires_safety_checker=False)
    assert (ours.config.clip_sample, ours.config.steps_offset) == (False, 1)
    ours.set_timesteps(5)
    assert ours.timesteps.tolist() == [801, 601, 401, 201, 1]
    assert ours.step(40.0 * Z, 801, Z)[1].abs().max() > 1.0


@pytest.mark.parametrize("kind", [PNDMScheduler, DPMSolverMultistepScheduler])
def test_latents_of_other_schedulers_are_not_clipped(diffusion, kind):
    ours = AnalyticDPMScheduler.from_config(kind.from_config(diffusion.scheduler.config).config)
    ours.set_timesteps(5)
    assert ours.step(40.0 * Z, ours.timesteps[0], 40.0 * Z)[0].abs().max() > 1.0


def test_from_an_image(quiet):
    """The first of the run's steps are left out, and the noise of the first is the image's."""
    changed = StableDiffusionImg2ImgPipeline(**quiet.components, requires_safety_checker=False)
    changed.set_progress_bar_config(disable=True)
    settings = {"image": IMAGE.expand(2, -1, -1, -1), "strength": 0.5, "guidance_scale": GUIDANCE, "output_type": "latent"}
    images = changed(PROMPTS, num_inference_steps=4, generator=seeded(5)[0], **settings).images
    generator = seeded(5)[0]
    pictures = 2.0 * IMAGE.expand(2, -1, -1, -1) - 1.0
    latents = changed.vae.encode(pictures).latent_dist.sample(generator) * changed.vae.config.scaling_factor
    with torch.no_grad():
        noised = quiet.scheduler.schedule.level(GRID.times[2]).diffuse(latents, randn_tensor((2, 2, 4, 4), generator))
        sampler = Ancestral(guided(changed), Isotropic(CURVE))
        expected = carry(sampler, sampler.plan(GRID)[2:], noised, Drawn(generator))
    assert (images - expected).abs().max() < 1e-5


def test_inpainting(quiet):
    """The UNet of four channels: what is to be kept is noised anew after each step, and itself at the end."""
    torch.manual_seed(6)
    net = type(quiet.unet).from_config(quiet.unet.config, in_channels=4, out_channels=4, sample_size=64).eval()
    parts = {**quiet.components, "unet": net, "vae": autoencoder(4)}
    painted = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    painted.set_progress_bar_config(disable=True)
    settings = {"image": IMAGE, "mask_image": MASK, "height": 8, "width": 8, "guidance_scale": GUIDANCE}
    asked = {"num_inference_steps": 4, "generator": seeded(5)[0], "output_type": "latent"}
    images = painted(PROMPTS[:1], **asked, **settings).images
    noise = Drawn(seeded(5)[0])
    picture = 2.0 * IMAGE - 1.0
    with torch.no_grad():
        kept, _ = (painted.vae.encode(each).latent_dist for each in (picture, picture * (MASK < 0.5)))
        kept = kept.sample(noise.generator) * painted.vae.config.scaling_factor
        z = noise.draw(torch.zeros(1, 4, 4, 4))
        noise.draw(z)  # of the masked image's latents, which this network is not shown
        sampler = Ancestral(guided(painted, PROMPTS[:1]), Isotropic(CURVE))
        inside = MASK[..., ::2, ::2]
        x = z
        for step in sampler.plan(GRID):
            x, _ = sampler.step(x, step, None, noise)
            outside = kept if step.last else step.s.diffuse(kept, z)
            x = (1.0 - inside) * outside + inside * x
    assert (images - x).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_half_precision(diffusion, tmp_path, dtype):
    """Near the run in float32, as far as these networks' own roundings go."""
    half = stable_diffusion(tmp_path, AnalyticDPMScheduler.from_config(diffusion.scheduler.config)).to(dtype)
    half.scheduler.with_curve(CURVE, {4: GRID})
    half.set_progress_bar_config(disable=True)
    images = ask(half, generator=seeded(5)[0], latents=Z.to(dtype))
    assert images.dtype == dtype
    full = stable_diffusion(tmp_path, half.scheduler)
    full.set_progress_bar_config(disable=True)
    expected = ask(full, generator=seeded(5)[0])
    assert (images.float() - expected).abs().max() < (0.1 if dtype == torch.bfloat16 else 0.02) * expected.abs().max()


def test_tables_of_few_calls_start_in_scale_model_input(quiet):
    """With guidance the pipeline scales z twice over."""
    model, linear = guided(quiet), LinearDenoiser.of(torch.randn(60, 2, 4, 4, generator=seeded(9)[0]))
    flow, grid = AnalyticMultistep(model, BetaTilde(), 0.0), Grid((0.9, 0.4, 0.05, 0.0))
    with torch.no_grad():
        sampler = TableSampler(model, table_of(flow, grid, linear))
    quiet.scheduler.with_sampler(sampler)
    with torch.no_grad():
        first = sampler.table.start(Z, quiet.scheduler.schedule.level(0.9))
        expected = carry(sampler, sampler.plan(sampler.grid), first, Drawn(None))
    assert (ask(quiet, num_inference_steps=3) - expected).abs().max() < 1e-5
    changed = StableDiffusionImg2ImgPipeline(**quiet.components, requires_safety_checker=False)
    with pytest.raises(InputError, match="cannot begin with call"):
        changed("low", image=IMAGE, strength=0.5, num_inference_steps=3)


# --- classes --------------------------------------------------------------------------------------------------------------


class FirstOfTwo:
    """Noise of a batch twice as large, of which guidance keeps the first half."""

    def draw(self, like):
        return torch.randn(2 * len(like), *like.shape[1:])[: len(like)]


def test_dit_with_guidance():
    """DiTPipeline splits learned variances off, doubles its latents, and hands its generator to no step."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 1, "attention_head_dim": 8, "num_layers": 1, "patch_size": 2, "norm_num_groups": 1}
    net = DiTTransformer2DModel(**sizes, in_channels=2, out_channels=4, sample_size=4, num_embeds_ada_norm=1000).eval()
    ours = AnalyticDPMScheduler(clip_sample=False).with_curve(CURVE, {4: GRID})
    pipe = DiTPipeline(net, autoencoder(), ours)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(3)
    images = pipe([1, 3], GUIDANCE, generator=seeded(5)[0], num_inference_steps=4, output_type="pt").images

    def guided_by_class(x, labels):
        said = [net(x, timestep=labels, class_labels=torch.tensor(c)).sample[:, :2] for c in ([1000, 1000], [1, 3])]
        return said[0] + GUIDANCE * (said[1] - said[0])

    training = training_of({**ours.config, "_class_name": "DDPMScheduler"})
    sampler = Ancestral(training.model(guided_by_class, fingerprint="dit"), Isotropic(CURVE))
    torch.manual_seed(3)
    with torch.no_grad():
        x = carry(sampler, sampler.plan(GRID), randn_tensor(Z.shape, seeded(5)[0]), FirstOfTwo())
        expected = (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert (torch.as_tensor(images) - expected).abs().max() < 1e-5


# --- flows ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def third(tmp_path_factory):
    pipe = stable_diffusion_3(tmp_path_factory.mktemp("words"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_stable_diffusion_3(third, eta):
    """Against the flow's own scheduler where eta is 0 and nothing carried, and against ours on a grid."""
    stock = third.scheduler
    settings = {"guidance_scale": GUIDANCE, "output_type": "latent", "height": 8, "width": 8, "max_sequence_length": 6}
    expected = third(PROMPTS, num_inference_steps=5, latents=Z, **settings).images
    try:
        third.scheduler = AnalyticFlowScheduler.from_config(stock.config)
        assert (third(PROMPTS, num_inference_steps=5, latents=Z, **settings).images - expected).abs().max() < 1e-5
        third.scheduler.with_curve(CURVE, {4: GRID}, eta=eta)
        torch.manual_seed(3)  # the pipeline hands its generator to no step
        images = third(PROMPTS, num_inference_steps=4, latents=Z, **settings).images
    finally:
        third.scheduler = stock
    words, none, pooled, pooled_none = third.encode_prompt(PROMPTS, None, None, max_sequence_length=6)

    def net(x, labels):
        def said(text, summary):
            return third.transformer(x, encoder_hidden_states=text, pooled_projections=summary, timestep=labels).sample

        without = said(none, pooled_none)
        return without + GUIDANCE * (said(words, pooled) - without)

    model = ScoreModel(net, RectifiedFlow(), "velocity", Interpolant(1000.0), fingerprint="guided")
    sampler = Ancestral(model, Isotropic(CURVE), eta)
    torch.manual_seed(3)
    with torch.no_grad():
        assert (images - carry(sampler, sampler.plan(GRID), Z, Drawn(None))).abs().max() < 1e-5


def test_stable_diffusion_3_from_an_image(third):
    """Images are noised by scale_noise to where the run begins, on a carried grid as on those of the class."""
    changed = StableDiffusion3Img2ImgPipeline(**third.components)
    changed.set_progress_bar_config(disable=True)
    stock = third.scheduler
    settings = {"image": IMAGE, "strength": 0.5, "output_type": "latent", "height": 8, "width": 8, "max_sequence_length": 6}
    expected = changed("low", num_inference_steps=4, generator=seeded(5)[0], **settings).images
    changed.scheduler = AnalyticFlowScheduler.from_config(stock.config)
    images = changed("low", num_inference_steps=4, generator=seeded(5)[0], **settings).images
    assert (images - expected).abs().max() < 1e-5
    even = FlowMatchEulerDiscreteScheduler(shift=1.0)
    even.set_timesteps(sigmas=list(GRID.times[:-1]))
    changed.scheduler = even
    changed.scheduler.set_timesteps = lambda *given, **options: None  # stays on these
    expected = changed("low", num_inference_steps=4, generator=seeded(5)[0], **settings).images
    changed.scheduler = AnalyticFlowScheduler.from_config(stock.config).with_curve(BetaTilde(), {4: GRID}, eta=0.0)
    images = changed("low", num_inference_steps=4, generator=seeded(5)[0], **settings).images
    assert (images - expected).abs().max() < 1e-5


@pytest.fixture(scope="module")
def packed():
    """Flux: tokens of 2 x 2 latents, a schedule that shifts with the size, labels in [0, 1]."""
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 1}
    net = FluxTransformer2DModel(
        1, 8, **sizes, joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4), guidance_embeds=False
    ).eval()
    none = {"text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), autoencoder(), transformer=net, **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_flux(packed):
    generator = seeded(4)[0]
    words, pooled = torch.randn(1, 3, 8, generator=generator), torch.randn(1, 8, generator=generator)
    side = 2 * packed.vae_scale_factor
    z = torch.randn(1, 1, 8, generator=generator)
    settings = {"prompt_embeds": words, "pooled_prompt_embeds": pooled, "latents": z, "output_type": "latent"}
    stock = packed.scheduler
    expected = packed(height=side, width=side, num_inference_steps=4, **settings).images
    try:
        ours = packed.scheduler = AnalyticFlowScheduler.from_config(stock.config)
        assert (packed(height=side, width=side, num_inference_steps=4, **settings).images - expected).abs().max() < 1e-5
        ours.with_curve(CURVE, {4: GRID}, eta=1.0)
        torch.manual_seed(3)
        images = packed(height=side, width=side, num_inference_steps=4, **settings).images
        assert np.allclose(ours.sigmas, GRID.times)
    finally:
        packed.scheduler = stock
    ids = SimpleNamespace(text=torch.zeros(3, 3), image=packed._prepare_latent_image_ids(1, 1, 1, "cpu", torch.float32))

    def net(x, labels):
        told = {"encoder_hidden_states": words, "pooled_projections": pooled, "txt_ids": ids.text, "img_ids": ids.image}
        return packed.transformer(x, timestep=labels, guidance=None, **told).sample

    sampler = Ancestral(ScoreModel(net, RectifiedFlow(), "velocity", Interpolant(), fingerprint="flux"), Isotropic(CURVE))
    torch.manual_seed(3)
    with torch.no_grad():
        assert (images - carry(sampler, sampler.plan(GRID), z, Drawn(None))).abs().max() < 1e-5
