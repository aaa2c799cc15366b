"""score_sde's networks: checkpoints by order and shape, and the score functions of their paper in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from malicious import Malicious
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.interop.score_sde import data_range, from_score_sde, load_checkpoint
from score_sde_analytic.models.model import ScoreModel


class Embedded(nn.Module):
    """Like theirs: a frozen embedding before trained layers, a buffer of sigmas, and an answer that depends on the label."""

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(width), requires_grad=False)
        self.first = nn.Linear(3, width)
        self.register_buffer("sigmas", torch.rand(5))
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.last(torch.sin(self.first(x) + labels[:, None] * self.embedding * 0.01))


def checkpoint(net: nn.Module, path: Path, **changed: Any) -> Path:
    """As their save_checkpoint writes it, of a network in DataParallel, with averages that are twice the weights."""
    averages = [2.0 * p.detach() for p in net.parameters() if p.requires_grad]
    content = {
        "optimizer": {"state": {}, "param_groups": [{"lr": 2e-4}]},
        "model": {f"module.{name}": value for name, value in net.state_dict().items()},
        "ema": {"decay": 0.9999, "num_updates": 10, "shadow_params": averages},
        "step": 10,
    }
    torch.save(content | changed, path)
    return path


# --- checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
def test_averages_are_the_trained_parameters_in_order(parallel: bool, tmp_path: Path) -> None:
    net, other = Embedded(), Embedded(seed=1)
    path = checkpoint(net, tmp_path / "checkpoint.pth")
    loaded = load_checkpoint(path, nn.DataParallel(other) if parallel else other)
    assert not loaded.training
    for (name, own), found in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(found, own * (2.0 if own.requires_grad else 1.0)), name
    assert torch.equal(other.sigmas, net.sigmas)


def test_the_model_itself(tmp_path: Path) -> None:
    net = Embedded()
    loaded = load_checkpoint(checkpoint(net, tmp_path / "checkpoint.pth"), Embedded(seed=1), ema=False)
    assert all(torch.equal(found, own) for found, own in zip(loaded.parameters(), net.parameters(), strict=True))


def faults() -> dict[str, tuple[nn.Module, str]]:
    narrow, frozen, more = Embedded(width=5), Embedded(), Embedded()
    frozen.last.bias.requires_grad_(False)
    more.extra = nn.Parameter(torch.zeros(2))
    return {
        "shape": (narrow, r"average 0 of 4 has shape \(4, 3\), but parameter 0 of 4 .* first\.weight, has \(5, 3\)"),
        "fewer": (frozen, r"4 averages, the network 3 .*the rest is in excess"),
        "order": (more, r"average 0 of 4 has shape \(4, 3\), but parameter 0 of 5 .*extra, has \(2,\)"),
    }


@pytest.mark.parametrize("fault", ["shape", "fewer", "order"])
def test_the_first_parameter_that_differs_is_named(fault: str, tmp_path: Path) -> None:
    net, said = faults()[fault]
    before = copy.deepcopy(net.state_dict())
    path = checkpoint(Embedded(), tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match=said):
        load_checkpoint(path, net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())  # and nothing was changed


def test_a_parameter_without_an_average_is_named(tmp_path: Path) -> None:
    net = Embedded()
    net.later = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"the first without an average is later\.weight"):
        load_checkpoint(checkpoint(Embedded(), tmp_path / "checkpoint.pth"), net)


def test_another_architecture_with_the_same_averages(tmp_path: Path) -> None:
    net = Embedded()
    net.register_buffer("other", torch.zeros(1))
    with pytest.raises(InputError, match="the file lacks other"):
        load_checkpoint(checkpoint(Embedded(), tmp_path / "checkpoint.pth"), net)


def test_files_without_averages_or_at_all(tmp_path: Path) -> None:
    torch.save({"model": Embedded().state_dict(), "step": 3}, tmp_path / "plain.pth")
    with pytest.raises(InputError, match="ema=False"):
        load_checkpoint(tmp_path / "plain.pth", Embedded())
    assert load_checkpoint(tmp_path / "plain.pth", Embedded(seed=1), ema=False)
    with pytest.raises(MissingFileError):
        load_checkpoint(tmp_path / "none.pth", Embedded())


@pytest.mark.parametrize("place", ["optimizer", "step"])
def test_a_malicious_checkpoint_is_refused(place: str, tmp_path: Path) -> None:
    target = tmp_path / "created"
    path = checkpoint(Embedded(), tmp_path / "checkpoint.pth", **{place: Malicious(target)})
    with pytest.raises(InputError, match="holds more than tensors"):
        load_checkpoint(path, Embedded())
    assert not target.exists()
    torch.load(path, weights_only=False)  # the file does do harm
    assert target.exists()


# --- processes -----------------------------------------------------------------------------------------------------------


def config(sde: str, continuous: bool, steps: int = 1000) -> dict[str, Any]:
    settings = {"num_scales": steps, "beta_min": 0.1, "beta_max": 20.0, "sigma_min": 0.01, "sigma_max": 50.0}
    return {"training": {"sde": sde, "continuous": continuous}, "model": settings, "data": {"centered": False}}


class Attributes:
    """The same names as attributes."""

    def __init__(self, **names: Any) -> None:
        self.__dict__ = {k: Attributes(**v) if isinstance(v, dict) else v for k, v in names.items()}


def integral(t: Tensor) -> Tensor:
    """log alpha of beta(t) = 0.1 + 19.9 t, -1/2 int beta."""
    return -0.5 * (0.1 * t + 0.5 * 19.9 * t**2)


def their_score(sde: str, net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """Of networks trained in continuous time: -net / std for VP and sub-VP fed 999 t, the network itself fed sigma for VE."""
    if sde == "vesde":
        return net(x, 0.01 * 5000.0**t)
    variance = -torch.expm1(2.0 * integral(t))
    std = variance.sqrt() if sde == "vpsde" else variance
    return -net(x, 999.0 * t) / std[:, None]


@pytest.fixture
def net() -> nn.Module:
    return Embedded().double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sde", ["vpsde", "subvpsde", "vesde"])
def test_scores_of_continuous_networks(sde: str, net: nn.Module, x: Tensor) -> None:
    t = torch.tensor([1e-5, 1e-3, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    found = from_score_sde(net, config(sde, True))(x, t).score
    torch.testing.assert_close(found, their_score(sde, net, x, t), rtol=1e-12, atol=1e-12)


def test_scores_of_discrete_vp_networks(net: nn.Module, x: Tensor) -> None:
    """Index n of their table, which they call t = n / (N - 1), is ours at (n + 1) / N."""
    n = torch.tensor([0, 1, 10, 500, 998, 999])
    alpha_bar = torch.cumprod(1.0 - torch.linspace(0.1 / 1000, 20.0 / 1000, 1000, dtype=torch.float64), 0)
    theirs = -net(x, n.double()) / (1.0 - alpha_bar[n]).sqrt()[:, None]
    found = from_score_sde(net, config("vpsde", False))(x, (n + 1).double() / 1000).score
    torch.testing.assert_close(found, theirs, rtol=1e-10, atol=1e-10)


def test_scores_of_discrete_ve_networks(net: nn.Module, x: Tensor) -> None:
    """Label 0 is the largest of N sigmas even in log."""
    label = torch.tensor([0, 1, 10, 500, 998, 999])
    sigmas = torch.logspace(np.log10(50.0), -2, 1000, dtype=torch.float64)[label]
    model = from_score_sde(net, config("vesde", False))
    t = 1.0 - label.double() / 999
    t = torch.where(t == 0.0, torch.tensor(1e-12, dtype=torch.float64), t)
    torch.testing.assert_close(torch.as_tensor(model.schedule.sigma(t)), sigmas, rtol=1e-9, atol=0)
    torch.testing.assert_close(model(x, t).score, net(x, label), rtol=1e-12, atol=1e-12)


def test_discrete_and_continuous_vp_are_different_processes(net: nn.Module) -> None:
    """As different as their own: the table ends at another alpha than the integral."""
    continuous, discrete = (from_score_sde(net, config("vpsde", kind)).schedule for kind in (True, False))
    assert abs(discrete.log_alpha(1.0) / continuous.log_alpha(1.0) - 1.0) > 1e-3


def test_configs_with_attributes(net: nn.Module) -> None:
    wanted = from_score_sde(net, config("vesde", True))
    found = from_score_sde(net, Attributes(**config("vesde", True)))
    assert (found.schedule, found.times, found.predicts) == (wanted.schedule, wanted.times, wanted.predicts)


def test_configs_of_ml_collections(net: nn.Module) -> None:
    collections = pytest.importorskip("ml_collections")
    given = collections.ConfigDict(config("subvpsde", True))
    assert isinstance(from_score_sde(net, given), ScoreModel)
    assert data_range(given) == DataRange(0.0, 1.0, 256)


def test_settings_replace(net: nn.Module) -> None:
    assert from_score_sde(net, config("vpsde", True), clamp=(0, 1)).clamp == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"training": {"sde": "vesde"}}, "no training.continuous"),
        ({"training": {"continuous": True}}, "no training.sde"),
        ({"training": {"sde": "edm", "continuous": True}}, "must be one of vpsde, subvpsde, vesde"),
        ({"model": {"beta_min": 0.1}}, "no model.beta_max"),
        ({"training": {"sde": "vpsde", "continuous": False}, "model": {}}, "no model.num_scales"),
    ],
)
def test_configs_that_do_not_say(changed: dict[str, Any], said: str, net: nn.Module) -> None:
    with pytest.raises(InputError, match=said):
        from_score_sde(net, config("vpsde", True) | changed)
