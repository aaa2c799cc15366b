"""Networks of any source in the runner: as they say, as the config says, or as --mode=inspect finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from ml_collections import ConfigDict
from score_sde_analytic.configs import digits_vp, images, mixture_2d
from score_sde_analytic.runners import main as application
from score_sde_analytic.runners import networks, wiring
from torch import nn

from score_sde_analytic.errors import InputError, UserError
from score_sde_analytic.models.times import OneBased, ZeroBased
from score_sde_analytic.process import CosineVP, LinearVP, Tabulated

#: The best scalar denoiser of the digits, fed DDPM's index.
OWN = """
import torch
from torch import nn
from score_sde_analytic import LinearVP, ScoreModel, Tabulated, ZeroBased
from score_sde_analytic.data import DataRange, digits


class Best(nn.Module):
    def __init__(self):
        super().__init__()
        x = DataRange(levels=17).encode(digits())
        self.mean, self.variance = nn.Parameter(x.mean(0)), float(x.var(0).mean())
        self.schedule = Tabulated.linear()

    def forward(self, x, index):
        level = self.schedule.level((index.double() + 1) / 1000)
        alpha, sigma = (each.float().view(-1, 1, 1, 1) for each in (level.alpha, level.sigma))
        return sigma * (x - alpha * self.mean) / (alpha**2 * self.variance + sigma**2)


def whole():
    return ScoreModel(Best().eval(), LinearVP(), "eps", ZeroBased(1000))
"""
CPU = torch.device("cpu")


@pytest.fixture
def own(tmp_path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def settings(source: str, **network: object) -> ConfigDict:
    config = digits_vp.get_config()
    config.network.source = source
    for name, value in network.items():
        config.network[name] = value
    return config


def test_a_function_of_ones_own_needs_to_be_told_of(own, tmp_path):
    with pytest.raises(InputError, match=r"set network\.predicts and network\.times\.name; --mode=inspect"):
        networks.model(settings(f"{own}:Best"), tmp_path, CPU)
    config = settings(f"{own}:Best", predicts="eps", times=ConfigDict({"name": "one_based", "steps": 1000}), dtype="bfloat16")
    config.schedule = ConfigDict({"name": "ddpm_linear"})
    model = networks.model(config, tmp_path, CPU)
    assert (model.predicts, model.times, model.dtype) == ("eps", OneBased(1000), torch.bfloat16)
    assert model.clamp == (-1.0, 1.0)


def test_a_whole_model_says_all_itself(own, tmp_path):
    model = networks.model(settings(f"{own}:whole"), tmp_path, CPU)
    assert model.schedule.config() == LinearVP().config()
    with pytest.raises(InputError, match="says itself"):
        wiring.run(settings(f"{own}:whole"), tmp_path)


def test_the_layer_whose_input_heads_read(pipeline, tmp_path):
    config = images.get_config()
    config.network.source = f"diffusers:{pipeline}"
    x, level = torch.randn(2, 1, 8, 8), Tabulated.linear().level(0.5)
    plain = networks.model(config, tmp_path, CPU).predict(x, level)
    assert plain.extra is None
    config.network.features = "conv_out"
    told = networks.model(config, tmp_path, CPU).predict(x, level)
    assert told.extra.shape == (2, 8, 8, 8)
    torch.testing.assert_close(told.eps, plain.eps, rtol=0, atol=0)
    config.network.features = "conv_end"
    with pytest.raises(InputError, match="no layer 'conv_end'"):
        networks.model(config, tmp_path, CPU)


def test_what_has_no_layers_is_asked_for_none(own, tmp_path):
    mixture = mixture_2d.get_config()
    mixture.network.features = "conv_out"
    for config in (mixture, settings(f"{own}:whole", features="conv_out")):
        with pytest.raises(InputError, match=r"network\.features=conv_out: .*; leave it empty"):
            networks.model(config, tmp_path, CPU)


def test_weights_and_torchscript(own, tmp_path):
    net = networks.find(settings(f"{own}:Best"), tmp_path).net
    changed = {name: value + 1.0 for name, value in net.state_dict().items()}
    torch.save({"model": {f"module.{name}": value for name, value in changed.items()}}, tmp_path / "weights.pt")
    found = networks.find(settings(f"{own}:Best", weights=str(tmp_path / "weights.pt")), tmp_path)
    assert torch.equal(found.net.mean, net.mean + 1.0)
    torch.jit.trace(nn.Identity(), torch.zeros(1)).save(str(tmp_path / "net.pt"))
    script = networks.find(settings(f"torchscript:{tmp_path / 'net.pt'}"), tmp_path)
    assert script.net(torch.ones(2)).sum() == 2.0


@pytest.fixture
def pipeline(tmp_path) -> Path:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 2}
    net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, **blocks)
    DDPMPipeline(net, DDPMScheduler(prediction_type="v_prediction")).save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_pipeline_of_diffusers_says_how_it_was_trained(pipeline, tmp_path):
    config = images.get_config()
    config.network.source = f"diffusers:{pipeline}"
    model = networks.model(config, tmp_path, CPU)
    assert (model.predicts, model.times, model.clamp) == ("v", ZeroBased(1000), (-1.0, 1.0))
    assert model.schedule.config() == Tabulated.linear().config()
    config.network.clamp = "none"
    assert networks.model(config, tmp_path, CPU).clamp is None
    config.schedule = ConfigDict({"name": "cosine_vp"})
    with pytest.raises(InputError, match=r"is fed its index: set schedule\.name=trained"):
        networks.model(config, tmp_path, CPU)
    config.network.times = ConfigDict({"name": "interpolant", "scale": 1000.0})
    assert networks.model(config, tmp_path, CPU).schedule.config() == CosineVP().config()


def test_a_schedule_that_is_not_said(own, tmp_path):
    config = settings(f"{own}:Best", predicts="eps", times=ConfigDict({"name": "continuous"}))
    config.schedule = ConfigDict({"name": "trained"})
    with pytest.raises(InputError, match="does not say its schedule"):
        networks.model(config, tmp_path, CPU)


@pytest.mark.slow
def test_inspection_finds_how_a_network_is_fed_and_read(own, tmp_path, capsys):
    """Of the best scalar denoiser: its table and eps, whatever base its index has."""
    assert application.cli([f"--config.network.source={own}:Best", "--mode=inspect", f"--workdir={tmp_path / 'out'}"]) in (
        0,
        None,
    )
    said = capsys.readouterr().out
    assert "Best, 64 weights (float32)" in said
    assert "eps, ddpm_linear, " in json.loads((tmp_path / "out" / "report.json").read_text())["wiring"]["said"][0]
    config = application.parse(["", f"--config={tmp_path / 'out' / 'found.py'}"]).config
    assert (config.network.predicts, config.schedule.name, config.data.lo) == ("eps", "ddpm_linear", -1.0)
    model = networks.model(config, tmp_path, CPU)
    assert model.predicts == "eps"


@pytest.mark.slow
def test_what_the_source_says_is_tried_first(tmp_path):
    """The shipped network is fed its log-SNR, which nothing else that is tried comes near to."""
    written = wiring.run(digits_vp.get_config(), tmp_path)
    [report] = written
    assert "as its source and the config say fits best" in json.loads(report.read_text())["wiring"]["said"][0]


def test_weights_are_not_ignored(pipeline, tmp_path):
    for source in ("digits_unet", f"diffusers:{pipeline}"):
        with pytest.raises(InputError, match="this source has its own"):
            networks.find(settings(source, weights="nowhere.pt"), tmp_path)


@pytest.mark.parametrize(
    ("function", "said"), [("needs", "no arguments"), ("Tabulated", "no arguments"), ("torch", "cannot be called")]
)
def test_functions_that_make_no_network(function, said, own, tmp_path):
    with open(own, "a") as file:
        file.write("\n\ndef needs(size):\n    return Best()\n")
    with pytest.raises(InputError, match=said):
        networks.find(settings(f"{own}:{function}"), tmp_path)


def test_a_file_that_is_not_python(tmp_path):
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(InputError, match=r"is not Python \(line 1"):
        networks.find(settings(f"{tmp_path / 'bad.py'}:f"), tmp_path)


def test_few_pictures_do_not_choose_a_wiring(own, tmp_path):
    config = settings(f"{own}:Best")
    config.data.split = (3, 2, 2)
    with pytest.raises(InputError, match="7 pictures tell nothing of a wiring"):
        wiring.run(config, tmp_path)


def test_a_check_asks_the_network_once(pipeline, own, tmp_path):
    """A condition that it does not take, or pictures of other channels, end there."""
    config = settings("digits_unet", condition="klass")
    with pytest.raises(UserError, match=r"takes no such condition|takes no condition"):
        application.MODES["check"](config, tmp_path)
    application.MODES["check"](settings("digits_unet"), tmp_path)
