"""Weights as others save them end in the same network; what does not fit is named."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from score_sde_analytic import LinearVP, ScoreModel
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.models import checkpoint_parts, load_torchscript, load_weights, network_from, read_state_dict
from score_sde_analytic.models.identity import Wrapper, digest_of


class Net(nn.Module):
    """Parameters, one that is not trained, and buffers."""

    def __init__(self, width=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.out = nn.Linear(width, 2)
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        for x in self.inner[1].buffers():
            x += 1

    def forward(self, x, t):
        return self.out(self.inner(x))


RAW, EMA = Net(seed=1), Net(seed=2)
EMA.load_state_dict(EMA.state_dict() | {f"inner.1.{name}": buffer for name, buffer in RAW.inner[1].named_buffers()})
EMA.frozen.data.copy_(RAW.frozen)


def under(prefix, net):
    return {prefix + name: value for name, value in net.state_dict().items()}


def trained(net):
    return [p.detach().clone() for p in net.parameters() if p.requires_grad]


def everything(net):
    return [p.detach().clone() for p in net.parameters()]


def flat(prefix, net):
    return {prefix + name.replace(".", ""): p.detach() for name, p in net.named_parameters() if p.requires_grad}


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "network.", "model.", "model.diffusion_model."]
)
@pytest.mark.parametrize(
    "container", [lambda x: x, lambda x: {"state_dict": x, "epoch": 3}, lambda x: {"a": {"params": x}, "lr": [0.1]}]
)
def test_prefixes_and_containers(tmp_path, prefix, container):
    torch.save(container(under(prefix, RAW)), tmp_path / "all.pt")
    net = load_weights(Net(), tmp_path / "all.pt")
    assert same(net, RAW)
    assert not net.training


@pytest.mark.parametrize(
    "content",
    [
        # lucidrains
        {"model": under("", RAW), "ema": under("ema_model.", EMA) | under("online_model.", RAW) | {"step": torch.tensor(3)}},
        {"model": under("", RAW), "ema": under("online_model.", RAW) | under("ema_model.", EMA)},
        # score_sde, whose averages are of trained parameters; diffusers, of all
        {"model": under("module.", RAW), "ema": {"decay": 0.999, "num_updates": 10, "shadow_params": trained(EMA)}},
        {"model": under("module.", RAW), "ema": {"shadow_params": everything(EMA)}},
        # timm, DiT, k-diffusion, BasicSR
        {"state_dict": under("", RAW), "state_dict_ema": under("", EMA)},
        {
            "model": under("", RAW),
            "ema": under("", EMA),
            "opt": {"state": {0: torch.zeros(3)}},
            "args": argparse.Namespace(lr=1),
        },
        {"model_ema": under("", EMA), "model": under("", RAW)},
        {"params": under("", RAW), "params_ema": under("", EMA)},
        # latent diffusion: names without dots, beside the model
        {"state_dict": under("model.unet.", RAW) | flat("model_ema.unet", EMA) | {"model_ema.decay": torch.tensor(0.99)}},
    ],
)
def test_averages(tmp_path, content):
    torch.save(content, tmp_path / "all.pt")
    assert same(load_weights(Net(), tmp_path / "all.pt"), EMA)
    assert same(load_weights(Net(), tmp_path / "all.pt", ema=False), RAW)


def test_averages_of_a_network_without_buffers_need_no_model_beside(tmp_path):
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save({"shadow_params": [p.detach() for p in one.parameters()]}, tmp_path / "ema.pt")
    assert torch.equal(load_weights(other, tmp_path / "ema.pt").weight, one.weight)
    with pytest.raises(InputError, match=r"the file lacks frozen, inner\.1\.running_mean"):
        torch.save({"shadow_params": trained(EMA)}, tmp_path / "ema.pt")
        load_weights(Net(), tmp_path / "ema.pt")


def test_kinds_of_files(tmp_path):
    tensors = under("", RAW)
    save_file(tensors, tmp_path / "a.safetensors")
    assert same(load_weights(Net(), tmp_path / "a.safetensors"), RAW)
    (tmp_path / "whole").mkdir()
    save_file(tensors, tmp_path / "whole" / "diffusion_pytorch_model.safetensors")
    assert same(load_weights(Net(), tmp_path / "whole"), RAW)
    names = list(tensors)
    (tmp_path / "cut").mkdir()
    for i, part in enumerate((names[:3], names[3:])):
        save_file({name: tensors[name] for name in part}, tmp_path / "cut" / f"{i}.safetensors")
    index = {"weight_map": {name: f"{int(i >= 3)}.safetensors" for i, name in enumerate(names)}}
    (tmp_path / "cut" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(load_weights(Net(), tmp_path / "cut"), RAW)


def test_a_wrapped_network_takes_the_weights_inside(tmp_path):
    torch.save(under("module.", RAW), tmp_path / "a.pt")
    wrapped = nn.DataParallel(Wrapper(Net()))
    load_weights(wrapped, tmp_path / "a.pt")
    assert digest_of(wrapped) == digest_of(RAW)


def test_a_part_may_be_named(tmp_path):
    torch.save({"good": under("", RAW), "better": under("", EMA)}, tmp_path / "a.pt")
    assert same(load_weights(Net(), tmp_path / "a.pt", key="better"), EMA)
    assert torch.equal(read_state_dict(tmp_path / "a.pt", key="good")["frozen"], RAW.frozen)
    with pytest.raises(InputError, match=r"holds no 'best'; it holds good \(10 tensors, 34 numbers\); better"):
        load_weights(Net(), tmp_path / "a.pt", key="best")


def test_state_dicts_lose_the_prefixes_that_all_names_have(tmp_path):
    torch.save({"step": 1, "state_dict": under("module._orig_mod.network.", RAW)}, tmp_path / "a.pt")
    assert list(read_state_dict(tmp_path / "a.pt")) == list(RAW.state_dict())
    assert [part.key for part in checkpoint_parts(tmp_path / "a.pt")] == ["state_dict"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: under("", Net(width=4)),
            r"other shapes: inner\.0\.weight \(4, 2\) in the file, \(3, 2\) in the network, .* more",
        ),
        (lambda: under("", RAW) | {"extra": torch.zeros(1)}, "the network has no extra"),
        (lambda: {k: v for k, v in under("", RAW).items() if k != "frozen"}, "the file lacks frozen"),
        (lambda: {"model": under("", Net(4)), "ema": under("", Net(5))}, r"name a part with key=: model \(10 .*ema \(10"),
        (lambda: {"shadow_params": trained(EMA)[1:]}, "the file lacks"),
        (lambda: {"shadow_params": [*everything(EMA), torch.zeros(1)]}, r"the network has no shadow_params\[7\]"),
        (lambda: {"epoch": 3}, "holds no state dict"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, content, message):
    torch.save(content(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=message) as told:
        load_weights(Net(), tmp_path / "a.pt")
    assert "\n" not in str(told.value)


class Surprise:
    """What runs when it is read."""

    def __reduce__(self):
        return (print, ("read",))


def test_files_that_would_run_code_are_refused(tmp_path, capsys):
    torch.save({"model": under("", RAW), "config": Surprise()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"holds more than tensors \(.*print\)"):
        load_weights(Net(), tmp_path / "a.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_damaged_and_absent_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"no such thing")
    with pytest.raises(InputError, match="damaged"):
        load_weights(Net(), tmp_path / name)
    for place in (tmp_path / f"b{name}", tmp_path):
        with pytest.raises(MissingFileError):
            load_weights(Net(), place)


# --- networks that are built elsewhere --------------------------------------------------------------------------------------


def test_torchscript(tmp_path):
    """The same predictions; another activation with the same weights is another network."""
    one, other = (nn.Sequential(nn.Linear(2, 2), kind()) for kind in (nn.ReLU, nn.Tanh))
    other.load_state_dict(one.state_dict())

    class Timed(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    nets = {}
    for name, net in (("one", one), ("other", other)):
        torch.jit.script(Timed(net)).save(str(tmp_path / f"{name}.pt"))
        nets[name] = load_torchscript(tmp_path / f"{name}.pt")
    x = torch.randn(5, 2)
    model = ScoreModel(nets["one"], LinearVP())
    assert torch.equal(model(x, 0.5).eps, one(x))
    assert model.fingerprint() == ScoreModel(load_torchscript(tmp_path / "one.pt"), LinearVP()).fingerprint()
    assert model.fingerprint() != ScoreModel(nets["other"], LinearVP()).fingerprint()
    with pytest.raises(InputError, match="read it with load_torchscript"):
        load_weights(Net(), tmp_path / "one.pt")
    torch.save(under("", RAW), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="no network of TorchScript"):
        load_torchscript(tmp_path / "weights.pt")


def test_networks_that_a_function_builds(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "import my_layers\ndef build(width=2):\n    return my_layers.nn.Linear(2, width)\nfour = 4"
    )
    (tmp_path / "my_layers.py").write_text("from torch import nn\n")
    assert network_from(f"{tmp_path}/my_networks.py:build", width=3).out_features == 3
    monkeypatch.chdir(tmp_path)
    assert network_from("my_networks:build").out_features == 2
    assert str(tmp_path) not in sys.path
    for name, message in [
        ("my_networks", "module:FUNCTION"),
        ("my_nets:build", "there is no module 'my_nets'"),
        ("my_networks:biuld", "did you mean 'build'"),
        ("builtins:dict", "returned dict, not a network"),
    ]:
        with pytest.raises(InputError, match=message):
            network_from(name)
    with pytest.raises(MissingFileError, match=r"there is no .*my_net.py"):
        network_from("my_net.py:build")
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        network_from("broken:build")


FOREIGN = Path(__file__).parents[3] / "shared/data/foreign/brianpulfer_ddpm"


@pytest.mark.skipif(not FOREIGN.is_dir(), reason="the weights of others do not lie beside the project")
def test_a_published_checkpoint_is_its_own_conversion():
    """Tensors of a GPU, under "network."; the converted ones are the same numbers."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from benchmarks.foreign import Network

    one, other = (load_weights(Network(), FOREIGN / f"ddpm_mnist.{kind}") for kind in ("pt", "safetensors"))
    assert digest_of(one) == digest_of(other)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, 28, 28))).float()
    with torch.no_grad():
        assert torch.equal(one(x, torch.tensor([5, 900])), other(x, torch.tensor([5, 900])))
