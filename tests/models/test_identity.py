"""Which network it is: its function, under any wrapper and prefix; recorded and verified."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from score_sde_analytic import LinearVP, ScoreModel
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.models.identity import Wrapper, digest_of, unwrapped
from score_sde_analytic.models.networks import WIRING, build_unet, load_unet, save_unet

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
FED = {"predicts": "v", "coordinates": "vp", "times": {"name": "log_snr"}}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def small(activation=nn.SiLU, eps=1e-5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), activation(), nn.LayerNorm(4, eps=eps), nn.Linear(4, 2)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "net"
    torch.manual_seed(0)
    save_unet(build_unet(UNET), path, FED)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "net")


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, AveragedModel, Wrapper])
def test_wrappers_do_not_count(wrap):
    net = small()
    assert unwrapped(wrap(net)) is net or wrap is AveragedModel  # which copies
    assert digest_of(wrap(net)) == digest_of(net) == digest_of(wrap(Wrapper(net)))
    assert ScoreModel(wrap(net), LinearVP()).fingerprint() == ScoreModel(net, LinearVP()).fingerprint()


def test_a_compiled_part_does_not_count():
    net, part = small(), small()
    part[2] = torch.compile(part[2])
    assert digest_of(part) == digest_of(net)


def test_other_functions_of_the_same_weights_are_other_networks():
    same, *others = small(), small(nn.GELU), small(eps=1e-3), nn.Sequential(*reversed(small()))
    assert digest_of(same) == digest_of(small())
    assert len({digest_of(net) for net in (same, *others)}) == 4
    rates = [digest_of(build_unet(UNET | {"norm_eps": eps})) for eps in (1e-5, 1e-3)]
    assert rates[0] != rates[1]


@pytest.mark.parametrize("change", [lambda w: w.add_(1.0), lambda w: w.data.neg_(), lambda w: w.numpy().fill(0.5)])
def test_a_changed_weight_changes_it(change):
    net = small()
    before = digest_of(net)
    with torch.no_grad():
        change(net[0].weight.detach())
    assert digest_of(net) != before


def test_weights_that_did_not_change_are_read_once(monkeypatch):
    net = small()
    before = digest_of(net)
    monkeypatch.setattr("score_sde_analytic.models.identity.weights_digest", None)
    assert digest_of(net) == before
    with torch.no_grad():
        net[0].weight.add_(1.0)
    with pytest.raises(TypeError):
        digest_of(net)


def test_a_network_comes_back_with_its_identity(folder):
    net, wiring = load_unet(folder)
    assert wiring == FED | {"fingerprint": digest_of(net)}
    assert wiring["fingerprint"] == json.loads((folder / WIRING).read_text())["fingerprint"]


def test_every_byte_of_a_network_counts(folder, copied):
    net, wiring = load_unet(folder)
    for name in ("config.json", WEIGHTS, WIRING):
        whole = (copied / name).read_bytes()
        for at in range(8, len(whole), max(1, len(whole) // 20)):
            changed = bytearray(whole)
            changed[at] ^= 0x10
            (copied / name).write_bytes(changed)
            try:
                again, told = load_unet(copied)
            except InputError:
                continue
            assert (digest_of(again), told) == (digest_of(net), wiring), (name, at)  # a default's name, or a version
        (copied / name).write_bytes(whole)


@pytest.mark.parametrize("change", ["lacks", "more", "another shape"])
def test_weights_that_are_not_all_there_are_refused(copied, change):
    tensors = load_file(copied / WEIGHTS)
    name = next(iter(tensors))
    taken = tensors.pop(name)
    if change != "lacks":
        tensors |= {name: taken[:1]} if change == "another shape" else {name: taken, "extra": torch.zeros(1)}
    save_file(tensors, copied / WEIGHTS)
    with pytest.raises(InputError, match="records"):
        load_unet(copied)


def test_an_exchanged_config_is_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"act_fn": "gelu"}))
    with pytest.raises(InputError, match="a file was damaged or exchanged"):
        load_unet(copied)


def test_prefixes_of_wrappers_do_not_count(copied):
    before = digest_of(load_unet(copied)[0])
    save_file({f"module._orig_mod.{name}": value for name, value in load_file(copied / WEIGHTS).items()}, copied / WEIGHTS)
    assert digest_of(load_unet(copied)[0]) == before
    save_unet(nn.DataParallel(load_unet(copied)[0]), copied, FED)
    assert digest_of(load_unet(copied)[0]) == before


def test_folders_without_a_recorded_identity_are_refused(copied, tmp_path):
    (copied / WIRING).write_text(json.dumps(FED))
    with pytest.raises(InputError, match=r"save_unet\(net, directory, wiring\)"):
        load_unet(copied)
    with pytest.raises(InputError, match="it lacks coordinates; say how"):
        save_unet(build_unet(UNET), tmp_path / "other", {"predicts": "v"})
    with pytest.raises(InputError, match="networks of diffusers"):
        save_unet(small(), tmp_path / "other", FED)


def test_a_folder_of_diffusers_alone_is_refused_with_the_way_in(copied):
    (copied / WIRING).unlink()
    with pytest.raises(
        MissingFileError, match=r"no score_model\.json in .*: a folder of diffusers .* save_unet\(net, folder, w"
    ):
        load_unet(copied)
    (copied / WEIGHTS).unlink()
    with pytest.raises(MissingFileError, match=r"no diffusion_pytorch_model\.safetensors in .*; check network\.source"):
        load_unet(copied)


def test_half_precision_stays_what_it_is(copied):
    net = build_unet(UNET).to(torch.bfloat16)
    save_unet(net, copied, FED)
    again = load_unet(copied)[0]
    assert digest_of(again) == digest_of(net)
    assert next(again.parameters()).dtype == torch.bfloat16
