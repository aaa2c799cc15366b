"""Networks as diffusers stores them say what diffusers' own schedulers read from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)

from score_sde_analytic.errors import InputError, MissingFileError, UnsupportedError
from score_sde_analytic.models import DynamicThreshold, from_diffusers
from score_sde_analytic.models.diffusers_folder import training_of
from score_sde_analytic.models.times import Interpolant
from score_sde_analytic.process import CosineVP, Tabulated

TINY = {
    "sample_size": 4,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "norm_num_groups": 2,
}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return UNet2DModel(**TINY).eval()


@pytest.fixture
def x():
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def saved(net, scheduler, folder):
    DDPMPipeline(net, scheduler).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("table", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_x_0_is_what_the_scheduler_reads(net, x, tmp_path, table, prediction):
    """pred_original_sample of diffusers at a whole index, clipped as its config says; their alphas are float32."""
    scheduler = DDPMScheduler(beta_schedule=table, prediction_type=prediction)
    model = from_diffusers(saved(net, scheduler, tmp_path))
    for index in (0, 300, 800):
        with torch.no_grad():
            out = net(x, index).sample
            theirs = scheduler.step(out, index, x).pred_original_sample
            ours = model(x, (index + 1) / 1000).x_0
        torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=5e-4)


def test_defaults_of_the_class_hold_where_a_key_is_absent():
    """DDPM clips, UniPC has no clipping; neither key is in the config."""
    assert training_of({"_class_name": "DDPMScheduler"}).clamp == (-1.0, 1.0)
    assert training_of({"_class_name": "UniPCMultistepScheduler"}).clamp is None
    assert training_of({"_class_name": "EulerDiscreteScheduler"}).schedule.config() == Tabulated.linear().config()


def test_thresholds_tables_and_ends():
    threshold = training_of(dict(DDIMScheduler(thresholding=True, sample_max_value=3.0).config, _class_name="DDIMScheduler"))
    assert threshold.clamp == DynamicThreshold(0.995, 3.0)
    betas = [0.1, 0.2, 0.3]
    trained = training_of(dict(DDPMScheduler(trained_betas=betas).config, _class_name="DDPMScheduler"))
    assert trained.schedule.config() == Tabulated(betas).config()
    assert trained.times.steps == 3
    zero = EulerDiscreteScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert training_of(dict(zero.config, _class_name="EulerDiscreteScheduler")).schedule.alpha(1.0) == 0.0


def test_a_flow_is_read_as_one():
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0),
    ):
        training = training_of(dict(scheduler.config, _class_name=type(scheduler).__name__))
        assert (training.predicts, training.times, training.shift) == ("velocity", Interpolant(1000.0), 3.0)


def test_edm_is_read_as_its_scheduler_does(net, x, tmp_path):
    scheduler = EDMEulerScheduler(sigma_min=0.01, sigma_max=10.0)
    model = from_diffusers(saved(net, scheduler, tmp_path))
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for index, sigma in enumerate(scheduler.sigmas[:-1]):
            scheduler._step_index = index
            fed = scheduler.precondition_inputs(x, sigma)
            theirs = scheduler.precondition_outputs(x, net(fed, scheduler.timesteps[index]).sample, sigma)
            log_snr = np.clip(-2.0 * np.log(sigma.item()), *model.schedule.log_snr_range)
            ours = model(x, float(model.schedule.time(log_snr))).x_0
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def test_classes_and_learned_variances(tmp_path, x):
    """A transformer with classes, whose time is a keyword, and twice the channels."""
    torch.manual_seed(0)
    settings = {"num_attention_heads": 1, "attention_head_dim": 8, "in_channels": 1, "out_channels": 2, "num_layers": 1}
    dit = DiTTransformer2DModel(**settings, sample_size=4, patch_size=2, num_embeds_ada_norm=5, norm_num_groups=1).eval()
    dit.save_pretrained(tmp_path / "transformer")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    model = from_diffusers(tmp_path)
    labels = torch.tensor([0, 3, 4])
    with torch.no_grad():
        out = dit(x, timestep=torch.tensor([499] * 3), class_labels=labels).sample
        prediction = model(x, 0.5, class_labels=labels)
    torch.testing.assert_close(prediction.learned_range, out[:, 1:])
    assert not torch.equal(prediction.learned_range, out[:, :1])


def test_a_network_alone_does_not_say_how_it_was_trained(net, x, tmp_path):
    net.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="give schedule=, predicts= and times="):
        from_diffusers(tmp_path)
    model = from_diffusers(tmp_path, schedule=CosineVP(), predicts="v", times=Interpolant(1000.0))
    assert model(x, 0.5).x_0.shape == x.shape


def test_settings_replace_what_the_folder_says(net, tmp_path):
    folder = saved(net, DDPMScheduler(), tmp_path)
    assert from_diffusers(folder, clamp=None).clamp is None
    assert from_diffusers(folder, predicts="v").predicts == "v"


@pytest.mark.parametrize("name", ["LCMScheduler", "CMStochasticIterativeScheduler", "TCDScheduler", "Nonsense", ""])
def test_networks_without_a_forward_process_are_refused_by_name(name):
    with pytest.raises(UnsupportedError, match=name or "without _class_name"):
        training_of({"_class_name": name})


def test_what_is_no_folder_of_diffusers(tmp_path):
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        from_diffusers(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "Nonsense"}))
    with pytest.raises(InputError, match="'Nonsense', which diffusers does not have"):
        from_diffusers(tmp_path)
    with pytest.raises(InputError, match="prediction_type 'flow'"):
        training_of({"_class_name": "DDPMScheduler", "prediction_type": "flow"})
    with pytest.raises(InputError, match="beta_schedule 'own'"):
        training_of({"_class_name": "DDPMScheduler", "beta_schedule": "own"})
