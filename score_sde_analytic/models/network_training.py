"""A UNet2DModel fitted to images by the v-prediction loss, log-SNR uniform; its exponential average is kept.

loss = E ||v - v_hat||^2 / d = E (1 + exp(-lam)) ||eps - eps_hat||^2 / d,   v = alpha eps - sigma x_0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from score_sde_analytic.checks import COUNT, LOG_SNR, each, number, settle
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.networks import build_unet
from score_sde_analytic.models.training import LEARNING_RATE, descend, learning_rate
from score_sde_analytic.process.noise import stream_seed

#: Labels fed to the network: 50 (10 - log-SNR), in the 0..1000 range that sinusoidal embeddings expect.
SCALE, SHIFT = -50.0, -10.0


@dataclass(frozen=True)
class NetworkRecipe:
    """How a network is trained.

    Attributes:
        unet: settings of diffusers' UNet2DModel.
        log_snr: lowest and highest noise level, uniform in log-SNR between.
        ema: decay of the average that is kept.
    """

    unet: Mapping[str, Any]
    log_snr: Annotated[tuple[float, float], each(LOG_SNR, 2, 2)]
    steps: Annotated[int, COUNT] = 8000
    batch_size: Annotated[int, COUNT] = 64
    learning_rate: Annotated[float, LEARNING_RATE] = 1e-3
    warmup: Annotated[int, COUNT] = 200
    ema: Annotated[float, number(0.0, below=1.0)] = 0.999

    def __post_init__(self) -> None:
        settle(self)
        if not self.log_snr[0] < self.log_snr[1]:
            raise InputError(f"log_snr needs a lowest noise level below the highest, got {self.log_snr}")

    @property
    def wiring(self) -> dict[str, Any]:
        """How `ScoreModel` feeds and reads the network; labels stay within the levels it was trained on."""
        low, high = self.log_snr
        times = {"name": "log_snr", "scale": SCALE, "shift": SHIFT, "lo": low, "hi": high}
        return {"predicts": "v", "coordinates": "vp", "times": times}


def loss(
    net: nn.Module, x_0: Float[Tensor, " batch *dims"], log_snr: Float[Tensor, " batch"], eps: Float[Tensor, " batch *dims"]
) -> Float[Tensor, ""]:
    """Mean squared error of v at variance-preserving noise levels `log_snr`."""
    lam = log_snr.view(-1, *(1,) * (x_0.ndim - 1))
    alpha, sigma = torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()
    v_hat = net(alpha * x_0 + sigma * eps, SCALE * (log_snr + SHIFT)).sample
    return (v_hat - (alpha * eps - sigma * x_0)).square().mean()


class NetworkTrainer:
    """Network, optimiser and average with a resumable step counter.

    Args:
        data: x_0 of the training split.
    """

    def __init__(self, recipe: NetworkRecipe, data: Float[Tensor, "n c h w"], seed: int, device: torch.device) -> None:
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.data = data.to(device)
        torch.manual_seed(stream_seed(seed))
        self.net = build_unet(dict(recipe.unet)).to(device).train()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self.step = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.recipe.steps

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the loss.

        Raises:
            RuntimeError: the loss is not finite.
        """
        torch.manual_seed(stream_seed(self.seed, self.step + 1))
        recipe = self.recipe
        x_0, log_snr, eps = self._batch(recipe.batch_size)
        rate = learning_rate(self.step, recipe.steps, recipe.learning_rate, recipe.warmup)
        value = descend(self.net, self.optimiser, loss(self.net, x_0, log_snr, eps), rate)
        self.ema.update_parameters(self.net)
        self.step += 1
        return {"loss": value}

    def _batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0, log-SNR, eps) of a batch; stratified: one noise level in each of `size` cells."""
        x_0 = self.data[torch.randint(len(self.data), (size,)).to(self.device)]
        low, high = self.recipe.log_snr
        log_snr = low + (high - low) * (torch.rand(size) + torch.arange(size)) / size
        return x_0, log_snr.to(self.device), torch.randn(x_0.shape).to(self.device)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        return {name: getattr(self, name).state_dict() for name in ("net", "optimiser", "ema")} | {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same recipe."""
        for name in ("net", "optimiser", "ema"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    def network(self) -> nn.Module:
        """The average of the weights, on the CPU, in eval mode."""
        return self.ema.module.eval().cpu()
