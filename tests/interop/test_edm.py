"""EDM's networks: objects that return the denoised image, by the formulas of table 1 of Karras et al. (2022) in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from score_sde_analytic.errors import InputError, RunError, UnsupportedError
from score_sde_analytic.interop.edm import from_edm
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import Continuous, LogSNR
from score_sde_analytic.process.schedule import VE, LinearVP


class Raw(nn.Module):
    """F(x, label, classes)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(3, 3).double()

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        shift = 0.0 if classes is None else classes @ torch.arange(classes.shape[1], dtype=x.dtype)[:, None]
        return torch.tanh(self.mix(x) + 0.01 * label[:, None] + shift)


class Precond(nn.Module):
    """What their networks have in common: D = c_skip x + c_out F(c_in x, c_noise)."""

    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.model, self.label_dim = Raw(), classes

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, force_fp32: bool = False) -> Tensor:
        c_skip, c_out, c_in, c_noise = self.scalings(sigma[:, None])
        return c_skip * x + c_out * self.model(c_in * x, c_noise.flatten(), class_labels)


class OfEDM(Precond):
    sigma_data = 0.5

    def scalings(self, sigma: Tensor) -> tuple[Any, ...]:
        norm = (sigma**2 + 0.25).sqrt()
        return 0.25 / norm**2, 0.5 * sigma / norm, 1.0 / norm, sigma.log() / 4


class OfVP(Precond):
    """Song et al. (2021), beta_d = 19.9, beta_min = 0.1, M = 1000."""

    sigma_min, sigma_max = (float(LinearVP().level(t).ratio) for t in (1e-3, 1.0))

    def scalings(self, sigma: Tensor) -> tuple[Any, ...]:
        time = ((0.1**2 + 2 * 19.9 * (1 + sigma**2).log()).sqrt() - 0.1) / 19.9
        return 1.0, -sigma, 1.0 / (sigma**2 + 1).sqrt(), 999 * time


class OfVE(Precond):
    sigma_min, sigma_max = 0.02, 100.0

    def scalings(self, sigma: Tensor) -> tuple[Any, ...]:
        return 1.0, sigma, 1.0, (0.5 * sigma).log()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def wired(net: Precond) -> ScoreModel:
    """The raw F as this package reads it by itself."""
    raw = net.model
    if isinstance(net, OfEDM):
        return ScoreModel(raw, VE(0.002, 80.0), "edm", LogSNR(scale=-0.125), "edm", sigma_data=0.5)
    if isinstance(net, OfVP):
        return ScoreModel(raw, VE(0.02, 80.0), "eps", Backward(), "vp", fingerprint="vp")
    return ScoreModel(lambda x, t: -raw(x, t), VE(0.02, 100.0), "eps", LogSNR(-0.5, 2 * math.log(2.0)), fingerprint="ve")


class Backward(Continuous):
    """999 times the time of the linear VP process with the same sigma."""

    def label(self, level: Any) -> Any:
        return 999.0 * LinearVP().time(level.log_snr)


@pytest.mark.parametrize("kind", [OfEDM, OfVP, OfVE])
def test_objects_are_their_raw_networks_preconditioned(kind: type[Precond], x: Tensor) -> None:
    net = kind()
    model, raw = from_edm(net), wired(net)
    for sigma in (0.05, 0.7, 5.0, 60.0):
        level = model.schedule.level_at(-2.0 * math.log(sigma))
        found = model.predict(sigma * x, level).x_0
        torch.testing.assert_close(found, net(sigma * x, torch.full((4,), sigma, dtype=torch.float64)), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found, raw.predict(sigma * x, level).x_0, rtol=1e-9, atol=1e-11)


def test_ranges_are_the_networks_own() -> None:
    assert from_edm(OfEDM()).schedule == VE(0.002, 80.0)
    assert from_edm(OfVE()).schedule == VE(0.02, 100.0)
    assert from_edm(OfVP()).schedule == VE(OfVP.sigma_min, OfVP.sigma_max)
    assert from_edm(OfVE(), 0.5, 90.0).schedule == VE(0.5, 90.0)
    assert from_edm(OfEDM(), sigma_max=500.0).schedule == VE(0.002, 500.0)


def test_sigmas_outside_the_network_are_refused() -> None:
    with pytest.raises(InputError, match=r"sigma_min must be a finite number from 0\.02 to 100, got 0\.01"):
        from_edm(OfVE(), sigma_min=0.01)
    with pytest.raises(InputError, match="sigma_max must be"):
        from_edm(OfVE(), sigma_max=101.0)


def test_a_network_that_names_no_range(x: Tensor) -> None:
    """EDM2's has sigma_data and label_dim alone."""

    class Second(OfEDM):
        @property
        def sigma_min(self) -> float:
            raise AttributeError

        sigma_max = sigma_min

    assert from_edm(Second()).schedule == VE(0.002, 80.0)


def test_classes_by_number_and_by_row(x: Tensor) -> None:
    net = OfEDM(classes=5)
    model, labels = from_edm(net), torch.tensor([0, 4, 2, 2])
    rows = nn.functional.one_hot(labels, 5).double()
    level = model.schedule.level_at(0.0)
    wanted = net(x, torch.ones(4, dtype=torch.float64), rows)
    torch.testing.assert_close(model.predict(x, level, class_labels=labels).x_0, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.predict(x, level, class_labels=rows).x_0, wanted, rtol=0, atol=1e-12)
    one = model.given(class_labels=3).predict(x, level).x_0
    torch.testing.assert_close(one, net(x, torch.ones(4, dtype=torch.float64), torch.eye(5, dtype=torch.float64)[[3] * 4]))
    assert model.takes == ("class_labels",)
    with pytest.raises(InputError, match="needs the condition class_labels"):
        model.predict(x, level)
    with pytest.raises(InputError, match="takes no condition 'class_labels'"):
        from_edm(OfEDM()).predict(x, level, class_labels=labels)


@pytest.mark.parametrize("labels", [[0, 5, 1, 1], [-1, 0, 0, 0], [0.0, 1.0, 2.0, 3.0]])
def test_classes_that_it_does_not_have_are_told(labels: list[float], x: Tensor) -> None:
    with pytest.raises(RunError, match="class_labels"):
        from_edm(OfEDM(classes=5)).predict(x, VE(0.002, 80.0).level_at(0.0), class_labels=torch.tensor(labels))


def test_files_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "edm-cifar10-32x32-cond-vp.pkl"
    for given in (path, str(path)):
        with pytest.raises(InputError, match="is not opened: their pickles bring source code"):
            from_edm(given)


def test_raw_networks_are_refused_with_their_wiring() -> None:
    with pytest.raises(UnsupportedError, match="predicts='edm'"):
        from_edm(Raw())
