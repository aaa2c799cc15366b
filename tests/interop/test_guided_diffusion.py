"""Networks of guided- and improved-diffusion: their chain, from the formulas of the papers in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from score_sde_analytic import covariance
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.guided_diffusion import from_guided_diffusion
from score_sde_analytic.models.networks import LearnedRange
from score_sde_analytic.samplers import Ancestral

#: As model_and_diffusion_defaults() of guided-diffusion has them.
DEFAULTS: dict[str, Any] = {
    **{"image_size": 64, "num_channels": 128, "num_res_blocks": 2, "num_heads": 4, "num_heads_upsample": -1},
    **{"num_head_channels": -1, "attention_resolutions": "16,8", "channel_mult": "", "dropout": 0.0, "class_cond": False},
    **{"use_checkpoint": False, "use_scale_shift_norm": True, "resblock_updown": False, "use_fp16": False},
    **{"use_new_attention_order": False, "learn_sigma": False, "diffusion_steps": 1000, "noise_schedule": "linear"},
    **{"timestep_respacing": "", "use_kl": False, "predict_xstart": False, "rescale_timesteps": False},
    **{"rescale_learned_sigmas": False},
}


class Net(nn.Module):
    """Of x, its label, and a class; with 2 C channels where a variance is learned."""

    def __init__(self, learned: bool, classes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(2, 4 if learned else 2, 1).double()
        self.classes = classes

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert (y is not None) == self.classes
        shift = 0.01 * t + (0.0 if y is None else y)
        return torch.tanh(self.mix(x) + shift[:, None, None, None])


def betas(name: str, steps: int) -> np.ndarray:
    """Ho et al. (2020), stretched to N steps; Nichol & Dhariwal (2021), eq. 17."""
    if name == "linear":
        return np.linspace(0.1 / steps, 20.0 / steps, steps)
    u = np.arange(steps + 1) / steps
    alpha_bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def their_step(net: Net, args: dict[str, Any], x: Tensor, n: int, m: int | None, z: Tensor, y: Tensor | None) -> Tensor:
    """From index n to index m of the table (None: the data) by the respaced chain of Nichol & Dhariwal (2021), sec. 3."""
    alpha_bar = np.cumprod(1.0 - betas(args["noise_schedule"], args["diffusion_steps"]))
    own, before = alpha_bar[n], 1.0 if m is None else alpha_bar[m]
    label = n * 1000.0 / args["diffusion_steps"] if args["rescale_timesteps"] else float(n)
    out = net(x, torch.full((len(x),), label, dtype=torch.float64), **({} if y is None else {"y": y}))
    out, v = out.chunk(2, 1) if args["learn_sigma"] else (out, None)
    x_0 = out if args["predict_xstart"] else (x - np.sqrt(1.0 - own) * out) / np.sqrt(own)
    x_0 = x_0.clamp(-1.0, 1.0)
    beta = 1.0 - own / before
    tilde = beta * (1.0 - before) / (1.0 - own)
    mean = np.sqrt(before) * beta / (1.0 - own) * x_0 + np.sqrt(own / before) * (1.0 - before) / (1.0 - own) * x
    if m is None:
        return mean
    if v is None:
        return mean + np.sqrt(tilde) * z
    share = (v + 1.0) / 2.0
    return mean + torch.exp(0.5 * (share * np.log(beta) + (1.0 - share) * np.log(tilde))) * z


class Given:
    """Draws in the order they are asked for."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.draws = iter(draws)

    def draw(self, like: Tensor) -> Tensor:
        return next(self.draws)


CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "learned variance": {"learn_sigma": True},
    "cosine 4000 rescaled": {
        "learn_sigma": True,
        "noise_schedule": "cosine",
        "diffusion_steps": 4000,
        "rescale_timesteps": True,
    },
    "x_0": {"predict_xstart": True, "noise_schedule": "cosine"},
    "classes": {"class_cond": True, "learn_sigma": True, "rescale_timesteps": True, "diffusion_steps": 250},
    "respaced": {"timestep_respacing": "ddim25"},
}


@pytest.mark.parametrize("case", CHANGES)
def test_its_chain_is_theirs(case: str) -> None:
    args = DEFAULTS | CHANGES[case]
    steps = args["diffusion_steps"]
    net, y = Net(args["learn_sigma"], args["class_cond"]), torch.tensor([0, 3]) if args["class_cond"] else None
    model = from_guided_diffusion(net, args)
    indices = [steps - 1, steps // 2, steps // 5, 3, 0]
    generator = torch.Generator().manual_seed(0)
    x, *noise = (torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=generator) for _ in range(6))
    chain = Ancestral(
        model if y is None else model.given(y=y), covariance.Interpolated() if args["learn_sigma"] else covariance.BetaTilde()
    )
    plan = chain.plan(Grid((*((n + 1) / steps for n in indices), 0.0)))
    given, ours, theirs = Given(noise), x, x
    with torch.no_grad():
        for step, n, m, z in zip(plan, indices, [*indices[1:], None], noise, strict=True):
            ours, _ = chain.step(ours, step, None, given)
            theirs = their_step(net, args, theirs, n, m, z, y)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_what_it_reads() -> None:
    model = from_guided_diffusion(Net(True, True), DEFAULTS | {"learn_sigma": True, "class_cond": True})
    assert isinstance(model.net, LearnedRange)
    assert (model.takes, model.clamp) == (("y",), (-1.0, 1.0))
    assert from_guided_diffusion(Net(False), DEFAULTS | {"clip_denoised": False}).clamp is None
    assert from_guided_diffusion(Net(False), DEFAULTS, clamp=(0, 1)).clamp == (0.0, 1.0)


def test_classes_are_needed_where_they_were_trained() -> None:
    model = from_guided_diffusion(Net(False, True), DEFAULTS | {"class_cond": True})
    with pytest.raises(InputError, match="needs the condition y"):
        model(torch.zeros(1, 2, 4, 4, dtype=torch.float64), 0.5)


def test_a_variance_that_is_not_there_is_told() -> None:
    model = from_guided_diffusion(Net(False), DEFAULTS | {"learn_sigma": True})
    with pytest.raises(RunError, match="no learned variance"):
        model(torch.zeros(1, 2, 4, 4, dtype=torch.float64), 0.5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learn_sigmas": True}, "learn_sigmas is no argument .* did you mean 'learn_sigma'"),
        ({"predict_v": True}, "predict_v is no argument"),
        ({"noise_schedule": "sqrt"}, "noise_schedule must be one of linear, cosine"),
        ({"rescale_timesteps": "False"}, "rescale_timesteps must be True or False"),
        ({"diffusion_steps": 0}, "diffusion_steps must be a whole number"),
    ],
)
def test_arguments_that_are_not_theirs_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_guided_diffusion(Net(False), DEFAULTS | changed)


@pytest.mark.parametrize("name", ["rescale_timesteps", "class_cond", "noise_schedule"])
def test_defaults_are_not_guessed(name: str) -> None:
    with pytest.raises(InputError, match=f"lack {name}: .* defaults of guided- and improved-diffusion differ"):
        from_guided_diffusion(Net(False), {key: value for key, value in DEFAULTS.items() if key != name})
