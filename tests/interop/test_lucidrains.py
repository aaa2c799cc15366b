"""denoising-diffusion-pytorch: our chain is that of its GaussianDiffusion, which says how its network is fed and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from malicious import Malicious
from other_packages import load, part
from score_sde_analytic import covariance, grids
from score_sde_analytic.errors import InputError, UnsupportedError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.lucidrains import from_gaussian_diffusion
from score_sde_analytic.samplers import Ancestral, carry

N = 40


class Unet(nn.Module):
    """What its Unet shows of itself, and an answer that depends on the index."""

    def __init__(self, outputs: int = 2, self_condition: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.channels, self.out_dim, self.self_condition = 2, outputs, self_condition
        self.mix = nn.Conv2d(2, outputs, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        return torch.tanh(self.mix(x)) + 0.1 * torch.sin(0.3 * time)[:, None, None, None]


def package(module: str = "denoising_diffusion_pytorch") -> Any:
    return part("denoising_diffusion_pytorch", module, "torchvision.transforms", "accelerate")


def diffusion(net: nn.Module | None = None, **settings: Any) -> Any:
    whole = {"image_size": 4, "timesteps": N, "beta_schedule": "sigmoid"} | settings
    return package().GaussianDiffusion(Unet() if net is None else net, **whole)


class Global:
    """torch's own stream, which it draws from."""

    def draw(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)


def ours(gd: Any, **settings: Any) -> Tensor:
    """All N steps from the same first draw, in the images' [0, 1]."""
    chain = Ancestral(from_gaussian_diffusion(gd, **settings), covariance.BetaTilde())
    x = torch.randn(3, 2, 4, 4)
    samples = carry(chain, chain.plan(grids.even(N, 1 / N)), x, Global())
    return gd.unnormalize(samples)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_v", "pred_x0"])
@pytest.mark.parametrize("table", ["linear", "cosine", "sigmoid"])
def test_its_chain_is_ours(objective: str, table: str) -> None:
    gd = diffusion(objective=objective, beta_schedule=table)
    torch.manual_seed(3)
    theirs = gd.p_sample_loop((3, 2, 4, 4))
    torch.manual_seed(3)
    torch.testing.assert_close(ours(gd), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalized", [True, False])
def test_images_are_theirs_whatever_they_normalise(normalized: bool) -> None:
    gd = diffusion(auto_normalize=normalized)
    torch.manual_seed(3)
    theirs = gd.p_sample_loop((3, 2, 4, 4))
    torch.manual_seed(3)
    torch.testing.assert_close(ours(gd), theirs, rtol=0, atol=1e-6)


def test_ddim_is_theirs() -> None:
    gd = diffusion(sampling_timesteps=10, ddim_sampling_eta=0.0)
    torch.manual_seed(3)
    theirs = gd.ddim_sample((3, 2, 4, 4))
    torch.manual_seed(3)
    x = torch.randn(3, 2, 4, 4)
    times = torch.linspace(-1, N - 1, steps=11).int().flip(0)
    chain = Ancestral(from_gaussian_diffusion(gd), covariance.BetaTilde(), eta=0.0)
    samples = carry(chain, chain.plan(Grid(tuple((float(n) + 1) / N for n in times))), x, Global())
    torch.testing.assert_close(gd.unnormalize(samples), theirs, rtol=0, atol=1e-6)


def test_their_own_network_is_read_as_they_read_it() -> None:
    gd = diffusion(package().Unet(dim=8, dim_mults=(1, 2), channels=2, flash_attn=False).eval())
    model, x = from_gaussian_diffusion(gd), torch.randn(3, 2, 4, 4)
    index = torch.tensor([0, 17, N - 1])
    with torch.no_grad():
        theirs = gd.model_predictions(x, index, clip_x_start=True)
        found = model(x, (index + 1).double() / N)
    torch.testing.assert_close(found.x_0, theirs.pred_x_start, rtol=0, atol=1e-6)


def test_a_learned_variance_is_theirs() -> None:
    module = package("learned_gaussian_diffusion")
    gd = module.LearnedGaussianDiffusion(Unet(outputs=4), image_size=4, timesteps=N, objective="pred_noise")
    model = from_gaussian_diffusion(gd)
    x, z = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    chain = Ancestral(model, covariance.Interpolated())
    step = chain.plan(grids.even(N, 1 / N))[10]
    index = torch.full((3,), N - 1 - 10)

    class Once:
        def draw(self, like: Tensor) -> Tensor:
            return z

    with torch.no_grad():
        mean, variance, *_ = gd.p_mean_variance(x=x, t=index, clip_denoised=True)
        found, _ = chain.step(x, step, None, Once())
    torch.testing.assert_close(found, mean + variance.sqrt() * z, rtol=0, atol=1e-6)
    gd.objective = "pred_v"
    with pytest.raises(UnsupportedError, match="reads as noise"):
        from_gaussian_diffusion(gd)


# --- averages ------------------------------------------------------------------------------------------------------------


def averaged(gd: Any) -> Any:
    """An EMA that is half of what it follows."""
    ema = load("ema_pytorch").EMA(gd, beta=0.99)
    with torch.no_grad():
        for average, own in zip(ema.ema_model.parameters(), gd.parameters(), strict=True):
            average.copy_(0.5 * own)
    return ema


def test_the_average_of_their_ema() -> None:
    gd = diffusion()
    found = from_gaussian_diffusion(gd, averaged(gd))
    assert torch.equal(found.net.mix.weight, 0.5 * gd.model.mix.weight)
    assert found.net is not gd.model


def trainer_file(gd: Any, path: Path, **changed: Any) -> Path:
    """As their Trainer saves it: the averages lie beside what they are of."""
    content = {"step": 5, "model": gd.state_dict(), "opt": {}, "ema": averaged(gd).state_dict(), "scaler": None, "version": "2"}
    torch.save(content | changed, path)
    return path


def test_the_averages_of_a_checkpoint(tmp_path: Path) -> None:
    gd, other = diffusion(), diffusion(objective="pred_v")
    path = trainer_file(gd, tmp_path / "model-1.pt")
    with torch.no_grad():
        other.model.mix.weight.zero_()
    found = from_gaussian_diffusion(other, path)
    assert torch.equal(found.net.mix.weight, 0.5 * gd.model.mix.weight)


def test_a_checkpoint_without_averages_is_told(tmp_path: Path) -> None:
    gd = diffusion()
    torch.save({"model": gd.state_dict(), "step": 1}, tmp_path / "model-1.pt")
    with pytest.raises(InputError, match="holds no 'ema'; it holds model"):
        from_gaussian_diffusion(gd, tmp_path / "model-1.pt")


def test_a_malicious_checkpoint_is_refused(tmp_path: Path) -> None:
    target, gd = tmp_path / "created", diffusion()
    path = trainer_file(gd, tmp_path / "model-1.pt", version=Malicious(target))
    with pytest.raises(InputError, match="holds more than tensors"):
        from_gaussian_diffusion(gd, path)
    assert not target.exists()


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_self_conditioning_is_refused_with_its_reason() -> None:
    with pytest.raises(UnsupportedError, match="depends on the steps before it"):
        from_gaussian_diffusion(diffusion(Unet(self_condition=True)))


def test_objects_of_another_kind_are_refused() -> None:
    module = package("weighted_objective_gaussian_diffusion")
    gd = module.WeightedObjectiveGaussianDiffusion(Unet(outputs=6), image_size=4, timesteps=N)
    with pytest.raises(UnsupportedError, match="WeightedObjectiveGaussianDiffusion is none of"):
        from_gaussian_diffusion(gd)


def test_objects_of_one_name_that_say_less_are_refused() -> None:
    """That of their classifier-free guidance has the same name, and takes classes."""
    kind = type("GaussianDiffusion", (nn.Module,), {"objective": "pred_v", "channels": 1})
    with pytest.raises(UnsupportedError, match="self_condition, which say"):
        from_gaussian_diffusion(kind())


def test_other_settings() -> None:
    gd = diffusion()
    gd.objective = "pred_flow"
    with pytest.raises(InputError, match="none of pred_noise, pred_x0, pred_v"):
        from_gaussian_diffusion(gd)
    with pytest.raises(InputError, match="ema must be an EMA"):
        from_gaussian_diffusion(gd, ema={"a": 1})
