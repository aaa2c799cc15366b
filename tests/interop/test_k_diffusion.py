"""k-diffusion's samplers on our models are ours; its denoisers are models; the analytic chain keeps its conventions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from other_packages import part
from score_sde_analytic import covariance, grids
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.interop.k_diffusion import as_denoiser, from_denoiser, sample_analytic
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import VE, LinearVP, RectifiedFlow, Schedule, SubVP, Tabulated
from score_sde_analytic.samplers import LMS, Ancestral, Heun, carry

#: Schedules of every kind of alpha.
SCHEDULES = [LinearVP(), SubVP(), VE(0.01, 20.0), RectifiedFlow(), Tabulated.linear(), Tabulated.cosine()]


class Draws:
    """The same noise for both packages, draw by draw."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def draw(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


def sampling() -> Any:
    return part("k_diffusion", "sampling", "torchvision.transforms.functional")


def start(sigma: Tensor, count: int = 5) -> Tensor:
    return sigma * torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ours(sampler: Any, grid: grids.Grid, x: Tensor, noise: Draws) -> Tensor:
    """Our chain from its state in k-diffusion's coordinates."""
    plan = sampler.plan(grid)
    return carry(sampler, plan, plan[0].t.alpha * x, noise)


@pytest.mark.parametrize("process", SCHEDULES, ids=lambda process: type(process).__name__)
def test_its_euler_is_our_ddim(process: Schedule, mixture: GaussianMixture) -> None:
    model, grid = mixture.score_model(process), grids.even(8, 0.02, top=0.99 if process.ends_in_noise else 1.0)
    denoiser = as_denoiser(model)
    sigmas = denoiser.sigmas(grid)
    x = start(sigmas[0])
    theirs = sampling().sample_euler(denoiser, x, sigmas, disable=True)
    found = ours(Ancestral(model, covariance.BetaTilde(), eta=0.0), grid, x, Draws())
    # The cosine table begins at sigma 2e4: its first states are rounded to 4e-12.
    bar = max(1e-12, float(sigmas[0]) * torch.finfo(torch.float64).eps)
    torch.testing.assert_close(theirs, found, rtol=0, atol=bar)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_with_the_kernels_variance_it_is_their_euler_ancestral(eta: float, mixture: GaussianMixture) -> None:
    denoiser = as_denoiser(mixture.score_model(LinearVP()), covariance.BetaTilde())
    sigmas = denoiser.sigmas(grids.even(8, 0.02))
    x, noise, again = start(sigmas[0]), Draws(), Draws()
    options: dict[str, Any] = {"disable": True, "eta": eta, "s_noise": 0.9}
    theirs = sampling().sample_euler_ancestral(denoiser, x, sigmas, noise_sampler=lambda s, t: noise.draw(x), **options)
    found = sample_analytic(denoiser, x, sigmas, noise_sampler=lambda s, t: again.draw(x), **options)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_analytic_chain_is_ours(eta: float, mixture: GaussianMixture, curve: NoiseCurve) -> None:
    rule, grid, noise = covariance.Isotropic(curve), grids.even(6, 0.02), Draws()
    model = mixture.score_model(SubVP())
    denoiser = as_denoiser(model, rule)
    sigmas = denoiser.sigmas(grid)
    x = start(sigmas[0])
    found = sample_analytic(denoiser, x, sigmas, eta=eta, disable=True, noise_sampler=lambda s, t: noise.draw(x))
    torch.testing.assert_close(found, ours(Ancestral(model, rule, eta=eta), grid, x, Draws()), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "solver"), [("heun", Heun), ("lms", lambda model: LMS(model, lower_order_final=False))], ids=["heun", "lms"]
)
def test_its_solvers_are_ours(name: str, solver: Any, mixture: GaussianMixture) -> None:
    """Its coefficients of LMS by quadrature to 1e-4, of polynomials: exact."""
    model, grid = mixture.score_model(LinearVP()), grids.even_log_snr(LinearVP(), 10, 1e-3)
    denoiser = as_denoiser(model)
    sigmas = denoiser.sigmas(grid)
    x = start(sigmas[0])
    theirs = getattr(sampling(), f"sample_{name}")(denoiser, x, sigmas, disable=True)
    torch.testing.assert_close(theirs, ours(solver(model), grid, x, Draws()), rtol=0, atol=1e-11)


def test_covariances_that_ask_the_network_are_ours(mixture: GaussianMixture) -> None:
    """They see all that the network said, not x_0 alone."""
    model, grid, noise = mixture.score_model(LinearVP()), grids.even(4, 0.05), Draws()
    rule = covariance.Tweedie(model)
    denoiser = as_denoiser(model, rule)
    sigmas = denoiser.sigmas(grid)
    x = start(sigmas[0])
    found = sample_analytic(denoiser, x, sigmas, disable=True, noise_sampler=lambda s, t: noise.draw(x))
    torch.testing.assert_close(found, ours(Ancestral(model, rule), grid, x, Draws()), rtol=0, atol=1e-9)


def test_every_sampler_of_theirs_reaches_the_flow(mixture: GaussianMixture) -> None:
    """Different orders, one limit: with many steps all end where the most precise does."""
    module, denoiser = sampling(), as_denoiser(mixture.score_model(LinearVP()))
    sigmas = denoiser.sigmas(grids.even_log_snr(LinearVP(), 60, 1e-3))
    x = start(sigmas[0])
    ends = {
        name: getattr(module, f"sample_{name}")(denoiser, x, sigmas, disable=True)
        for name in ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")
    }
    assert {name: float((end - ends["heun"]).abs().max()) < 0.05 for name, end in ends.items()} == dict.fromkeys(ends, True)


def test_callback_and_arguments_are_theirs(mixture: GaussianMixture, curve: NoiseCurve) -> None:
    """Keys, order, the state before the step, sigmas as given; conditions reach the network."""
    classes = mixture.conditional(LinearVP())
    denoiser = as_denoiser(classes, covariance.Isotropic(curve))
    sigmas = denoiser.sigmas(grids.even(4, 0.02))
    x, told, theirs = start(sigmas[0]), [], []
    given = {"component": torch.arange(5)}
    end = sample_analytic(denoiser, x, sigmas, given, told.append, True, eta=0.0)
    sampling().sample_euler(denoiser, x, sigmas, given, theirs.append, True)
    assert [list(step) for step in told] == [list(step) for step in theirs]
    assert [step["i"] for step in told] == [0, 1, 2, 3]
    assert [step["sigma"] for step in told] == [step["sigma_hat"] for step in told] == list(sigmas[:-1])
    assert torch.equal(told[0]["x"], x)
    torch.testing.assert_close(told[0]["denoised"], theirs[0]["denoised"], rtol=0, atol=1e-12)
    torch.testing.assert_close(told[-1]["denoised"], end, rtol=0, atol=1e-12)


def test_what_holds_our_denoiser_may_be_asked(mixture: GaussianMixture, curve: NoiseCurve) -> None:
    class Halved:
        def __init__(self, inner_model: Any) -> None:
            self.inner_model = inner_model

        def __call__(self, x: Tensor, sigma: Tensor, strength: float) -> Tensor:
            return strength * self.inner_model(x, sigma)

    denoiser = as_denoiser(mixture.score_model(LinearVP()), covariance.Isotropic(curve))
    sigmas = denoiser.sigmas(grids.even(4, 0.02))
    x = start(sigmas[0])
    ends = [
        sample_analytic(Halved(denoiser), x, sigmas, {"strength": strength}, disable=True, noise_sampler=lambda s, t: 0.0 * x)
        for strength in (1.0, 0.5)
    ]
    alone = sample_analytic(denoiser, x, sigmas, disable=True, noise_sampler=lambda s, t: 0.0 * x)
    torch.testing.assert_close(ends[0], alone, rtol=0, atol=1e-12)
    assert (ends[1] - alone).abs().max() > 0.1


def test_a_run_may_end_before_the_data(mixture: GaussianMixture) -> None:
    denoiser = as_denoiser(mixture.score_model(LinearVP()), covariance.BetaTilde())
    sigmas = denoiser.sigmas(grids.even(4, 0.02))[:-1]
    x, noise, again = start(sigmas[0]), Draws(), Draws()
    theirs = sampling().sample_euler_ancestral(denoiser, x, sigmas, disable=True, noise_sampler=lambda s, t: noise.draw(x))
    found = sample_analytic(denoiser, x, sigmas, disable=True, noise_sampler=lambda s, t: again.draw(x))
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)


def test_there_and_back(mixture: GaussianMixture) -> None:
    """A model read as a denoiser and that as a model is the model, in variance-exploding coordinates."""
    model = mixture.score_model(VE(0.01, 20.0))
    back = from_denoiser(as_denoiser(model), 0.01, 20.0, fingerprint="there and back")
    x, t = torch.randn(3, 16, dtype=torch.float64), torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(back(x, t).x_0, model(x, t).x_0, rtol=0, atol=1e-12)


def test_its_denoisers_are_models() -> None:
    """Its wrapper of a discrete eps network says of sigma what our reading of the same table says."""
    external = part("k_diffusion", "external", "torchvision.transforms.functional")
    table = Tabulated.linear()

    def net(x: Tensor, index: Tensor) -> Tensor:
        return torch.sin(x + 0.001 * index[:, None])

    alpha_bar = torch.from_numpy(table.alpha(table.times) ** 2)
    theirs = external.DiscreteEpsDDPMDenoiser(net, alpha_bar, quantize=False)
    model = from_denoiser(theirs, float(theirs.sigma_min), float(theirs.sigma_max))
    level = table.level(500 / 1000)
    x_0 = net(torch.ones(1, 3, dtype=torch.float64) * level.alpha, torch.tensor([499.0], dtype=torch.float64))
    found = model.predict(torch.ones(1, 3, dtype=torch.float64), model.schedule.level_at(level.log_snr))
    torch.testing.assert_close(found.eps, x_0, rtol=0, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), 1e4])
def test_sigmas_outside_the_model_are_refused(sigma: float, mixture: GaussianMixture) -> None:
    denoiser = as_denoiser(mixture.score_model(VE(0.01, 20.0)))
    with pytest.raises(InputError, match=r"leaves those of the model, 0\.01 to 20"):
        denoiser(torch.zeros(1, 16), torch.tensor([sigma]))


def test_a_sigma_that_was_rounded_is_the_models_own(mixture: GaussianMixture) -> None:
    denoiser = as_denoiser(mixture.score_model(VE(0.01, 20.1)))
    assert denoiser(torch.zeros(1, 16), torch.tensor([20.1])).isfinite().all()


def test_what_it_cannot_do_is_said(mixture: GaussianMixture) -> None:
    denoiser = as_denoiser(mixture.score_model(LinearVP()))
    sigmas = denoiser.sigmas(grids.even(4, 0.02))
    with pytest.raises(UnsupportedError, match="needs a covariance"):
        sample_analytic(denoiser, start(sigmas[0]), sigmas)
    with pytest.raises(UnsupportedError, match="from_denoiser"):
        sample_analytic(lambda x, sigma: x, start(sigmas[0]), sigmas)
    with pytest.raises(InputError, match="must be two or more that fall"):
        sample_analytic(as_denoiser(denoiser.model, covariance.BetaTilde()), start(sigmas[0]), sigmas.flip(0)[1:])
    for few in (sigmas[:1], sigmas[[0, 0]]):
        with pytest.raises(InputError, match="must be two or more that fall"):
            sample_analytic(as_denoiser(denoiser.model, covariance.BetaTilde()), start(sigmas[0]), few)
    flow = as_denoiser(ScoreModel(lambda x, t: x, RectifiedFlow(), predicts="velocity"))
    with pytest.raises(InputError, match="begins in pure noise"):
        flow.sigmas(grids.even(2, 0.5))
