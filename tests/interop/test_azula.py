"""azula: its denoisers under their own schedules, and our models in its samplers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from other_packages import load
from score_sde_analytic import covariance, grids
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.interop.azula import as_azula, from_azula
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import VE, LinearVP, Schedule, Tabulated
from score_sde_analytic.samplers import Ancestral, carry

THEIRS = ["VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule", "DecaySchedule"]


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(3, 3).double()

    def forward(self, x: Tensor, time: Tensor, shift: Tensor | None = None) -> Tensor:
        return torch.tanh(self.mix(x) + time[:, None]) + (0.0 if shift is None else shift[:, None])


def denoiser(schedule: str, kind: str = "KarrasDenoiser") -> Any:
    azula = load("azula")
    return getattr(azula.denoise, kind)(Backbone(), getattr(azula.noise, schedule)())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Global:
    """torch's own stream, which it draws from."""

    def draw(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)


@pytest.mark.parametrize("schedule", THEIRS)
@pytest.mark.parametrize("kind", ["KarrasDenoiser", "SimpleDenoiser"])
def test_denoisers_say_the_same(schedule: str, kind: str, x: Tensor) -> None:
    theirs, t = denoiser(schedule, kind), torch.tensor([1e-3, 0.1, 0.6, 1.0], dtype=torch.float64)
    found = from_azula(theirs)(x, t)
    alpha, sigma = theirs.schedule(t)
    torch.testing.assert_close(torch.as_tensor(found.level.alpha), alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.as_tensor(found.level.sigma), sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.x_0, theirs(x, t).mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", THEIRS)
def test_times_are_found_again(schedule: str) -> None:
    process, t = from_azula(denoiser(schedule)).schedule, np.array([0.01, 0.3, 0.9])
    np.testing.assert_allclose(process.time(process.log_snr(t)), t, rtol=1e-9)


def test_conditions_reach_the_backbone(x: Tensor) -> None:
    theirs, t, shift = denoiser("VPSchedule"), torch.full((4,), 0.5, dtype=torch.float64), torch.arange(4.0).double()
    found = from_azula(theirs)(x, t, shift=shift).x_0
    torch.testing.assert_close(found, theirs(x, t, shift=shift).mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("process", [LinearVP(), VE(0.01, 20.0), Tabulated.linear()], ids=lambda p: type(p).__name__)
def test_its_samplers_are_ours(eta: float, process: Schedule, mixture: GaussianMixture) -> None:
    """DDIM and DDPM on even times, the same draws; their last step to sigma = 0 is the mean."""
    model = mixture.score_model(process)
    chain = Ancestral(model, covariance.BetaTilde(), eta=eta)
    sampler = load("azula").sample.DDIMSampler(as_azula(model), eta=eta, steps=6, silent=True, dtype=torch.float64)
    x = process.prior_variance**0.5 * torch.randn(5, 16, dtype=torch.float64)
    torch.manual_seed(5)
    wanted = sampler(x)
    torch.manual_seed(5)
    found = carry(chain, chain.plan(grids.even(6, 1 / 6)), x, Global())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


def test_its_samplers_of_log_sigma_run_to_a_stop(mixture: GaussianMixture) -> None:
    """Their multistep method ends where ours of many steps does."""
    model = mixture.score_model(LinearVP())
    ends = [
        load("azula").sample.xEABSampler(as_azula(model), stop=1e-3, steps=steps, silent=True, dtype=torch.float64)
        for steps in (60, 120)
    ]
    x = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = (sampler(x) for sampler in ends)
    assert first.isfinite().all()
    assert (first - second).abs().max() < 0.1


def test_there_and_back(mixture: GaussianMixture) -> None:
    model = mixture.score_model(LinearVP())
    back = from_azula(as_azula(model))
    x, t = torch.randn(3, 16, dtype=torch.float64), torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(back(x, t).x_0, model(x, t).x_0, rtol=0, atol=1e-12)


def test_it_is_known_by_its_weights() -> None:
    nets = [nn.Linear(2, 2) for _ in range(2)]
    known = [from_azula(as_azula(ScoreModel(net, LinearVP()))).fingerprint() for net in (*nets, nets[0])]
    assert known[0] == known[2] != known[1]


def test_objects_without_a_schedule_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="Backbone has no schedule"):
        from_azula(Backbone())
