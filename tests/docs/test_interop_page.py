"""The recipes of docs/interop.md run, with the objects that they take for granted; absent packages skip their own."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from other_packages import load, part
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import LinearVP

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
LINES = 5


class Net(nn.Module):
    """A network of one layer that takes what any of them is given."""

    channels, out_dim, self_condition, label_dim = 2, 2, False, 5

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor, labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.mix(x)


def recipes() -> dict[str, str]:
    """By the heading over them."""
    return dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


def of_k_diffusion(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    module = part("k_diffusion", "sampling", "torchvision.transforms.functional")
    monkeypatch.setitem(sys.modules, "k_diffusion", ModuleType("k_diffusion"))
    monkeypatch.setitem(sys.modules, "k_diffusion.sampling", module)
    return {"model": example["model"], "study": example["study"]}


def of_score_sde(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    net = Net()
    torch.save({"model": net.state_dict(), "ema": {"shadow_params": list(net.parameters())}}, "checkpoint_8.pth")
    settings = {"beta_min": 0.1, "beta_max": 20.0}
    config = {"training": {"sde": "vpsde", "continuous": True}, "model": settings, "data": {"centered": True}}
    return {"net": net, "config": config}


def of_analytic_dpm(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    torch.save(np.append(0.0, np.linspace(0.1, 0.99, 1000)).astype(np.float32), "cifar10_ms_eps.pth")
    return {"model": example["model"]}


def of_guided_diffusion(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    net = Net()
    torch.save(net.state_dict(), "64x64_diffusion.pt")
    args = {"diffusion_steps": 1000, "noise_schedule": "cosine", "rescale_timesteps": False, "learn_sigma": False}
    return {"net": net, "args": args | {"predict_xstart": False, "class_cond": False}}


def of_lucidrains(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    package = part("denoising_diffusion_pytorch", "denoising_diffusion_pytorch", "torchvision.transforms", "accelerate")
    diffusion = package.GaussianDiffusion(Net(), image_size=4, timesteps=20, beta_schedule="cosine")
    averages = load("ema_pytorch").EMA(diffusion).state_dict()
    Path("results").mkdir()
    torch.save({"step": 1, "model": diffusion.state_dict(), "ema": averages}, "results/model-10.pt")
    return {"diffusion": diffusion}


def of_edm(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    Path("edm-cifar10-32x32-cond-vp.pkl").write_bytes(pickle.dumps({"ema": Net()}))
    return {}


def of_azula(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    azula = load("azula")
    net = nn.Linear(2, 2)
    net.forward = lambda x, t: x  # type: ignore[method-assign]
    return {"denoiser": azula.denoise.KarrasDenoiser(net, azula.noise.VPSchedule()), "x": torch.randn(3, 2)}


GIVEN: dict[str, Callable[[dict[str, Any], pytest.MonkeyPatch], dict[str, Any]]] = {
    "k-diffusion": of_k_diffusion,
    "score_sde": of_score_sde,
    "Analytic-DPM": of_analytic_dpm,
    "guided-diffusion": of_guided_diffusion,
    "lucidrains": of_lucidrains,
    "EDM": of_edm,
    "azula": of_azula,
}


def test_every_recipe_is_run() -> None:
    assert list(recipes()) == list(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_recipes(name: str, example_names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code = recipes()[name]
    names = GIVEN[name](example_names, monkeypatch)
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
    statements = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
    assert 1 <= len(statements) <= LINES
    assert isinstance(names["model"], ScoreModel)
    for samples in (names.get("analytic"), names.get("multistep"), names.get("samples")):
        assert samples is None or samples.isfinite().all()


def test_what_recipes_make(example_names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = of_score_sde(example_names, monkeypatch)
    exec(recipes()["score_sde"], names)
    assert names["model"].schedule == LinearVP()
    assert names["images_lie_in"] == DataRange(-1.0, 1.0, 256)
