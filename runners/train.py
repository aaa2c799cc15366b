"""--mode=train: fit a UNet2DModel to the training split by the v-prediction loss, log-SNR uniform; keep the EMA.

    loss = E ||v - v_hat||^2 / d = E (1 + exp(-lam)) ||eps - eps_hat||^2 / d,   v = alpha eps - sigma x_0

Every random number of a step is a function of (seed, step), so an interrupted run continues to the identical result.
"""

from __future__ import annotations

import math
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from score_sde_analytic.files import atomic, differences
from score_sde_analytic.models.model import digest_of
from score_sde_analytic.models.networks import build_unet, save_unet
from score_sde_analytic.process.noise import stream_seed

from . import build

#: Labels fed to the network: 50 (10 - log-SNR), in the 0..1000 range that sinusoidal embeddings expect.
SCALE, SHIFT = -50.0, -10.0


def wiring(settings: ConfigDict) -> dict[str, Any]:
    """How `ScoreModel` feeds and reads a network trained here; labels stay within the levels it was trained on."""
    low, high = settings.log_snr
    times = {"name": "log_snr", "scale": SCALE, "shift": SHIFT, "lo": low, "hi": high}
    return {"predicts": "v", "coordinates": "vp", "times": times}


def loss(net: nn.Module, x_0: Tensor, log_snr: Tensor, eps: Tensor) -> Tensor:
    """Mean squared error of v at variance-preserving noise levels `log_snr` (batch,)."""
    lam = log_snr.view(-1, *(1,) * (x_0.ndim - 1))
    alpha, sigma = torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()
    v_hat = net(alpha * x_0 + sigma * eps, SCALE * (log_snr + SHIFT)).sample
    return (v_hat - (alpha * eps - sigma * x_0)).square().mean()


def learning_rate(step: int, settings: ConfigDict) -> float:
    """Linear warm-up, then a cosine to zero."""
    progress = step / settings.steps
    return float(settings.learning_rate * min(1.0, (step + 1) / settings.warmup) * 0.5 * (1 + math.cos(math.pi * progress)))


class Trainer:
    """Network, optimiser and EMA with a resumable step counter."""

    def __init__(self, config: ConfigDict, x_train: Tensor, device: torch.device) -> None:
        self.settings, self.seed, self.device = config.train, config.seed, device
        self.x = x_train.to(device)
        torch.manual_seed(stream_seed(self.seed))
        self.net = build_unet(self.settings.unet.to_dict()).to(device).train()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=self.settings.learning_rate, weight_decay=1e-4)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema), use_buffers=True)
        self.step = 0

    def advance(self) -> float:
        """One optimiser step; returns the loss.

        Raises:
            RuntimeError: the loss is not finite.
        """
        torch.manual_seed(stream_seed(self.seed, self.step + 1))
        size = self.settings.batch_size
        x_0 = self.x[torch.randint(len(self.x), (size,)).to(self.device)]
        low, high = self.settings.log_snr
        # Stratified: one noise level in each of `size` cells.
        log_snr = low + (high - low) * (torch.rand(size) + torch.arange(size)) / size
        value = loss(self.net, x_0, log_snr.to(self.device), torch.randn(x_0.shape).to(self.device))
        if not torch.isfinite(value):
            raise RuntimeError(f"the training loss became {value.item()} at step {self.step}; lower train.learning_rate")
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.step, self.settings)
        self.optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.ema.update_parameters(self.net)
        self.step += 1
        return value.item()

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("net", "optimiser", "ema")}
        with atomic(path) as temporary:
            torch.save(parts | {"step": self.step, "identity": identity}, temporary)

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} is damaged ({reason}); delete it to train from the start") from error
        lines = differences(state["identity"], identity)
        if lines:
            raise ValueError(f"{path} belongs to another training run ({'; '.join(lines)}); use another --workdir")
        for name in ("net", "optimiser", "ema"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train, or go on training, and write the network directory; returns what was written."""
    device = build.device(config)
    splits = build.splits(config)
    trainer = Trainer(config, splits.train, device)
    checkpoint = workdir / "train_state.pt"
    identity = {"train": config.train.to_dict(), "seed": config.seed, "data": config.data.to_dict()}
    del identity["train"]["checkpoint_seconds"], identity["data"]["directory"]  # where and when, not what
    if checkpoint.exists():
        trainer.restore(checkpoint, identity)
    saved, average = time.monotonic(), math.nan
    with tqdm(total=config.train.steps, initial=trainer.step, desc="train", unit="step") as bar:
        while trainer.step < config.train.steps:
            value = trainer.advance()
            average = value if math.isnan(average) else 0.99 * average + 0.01 * value
            bar.set_postfix(loss=f"{average:.4f}", refresh=False)
            bar.update()
            if time.monotonic() - saved > config.train.checkpoint_seconds or trainer.step == config.train.steps:
                trainer.save(checkpoint, identity)
                saved = time.monotonic()
    ema = trainer.ema.module.eval().cpu()
    target = workdir / "network"
    recipe = {"steps": trainer.step, "seed": config.seed, "train": config.train.to_dict(), "data": config.data.to_dict()}
    del recipe["data"]["directory"]  # of this machine
    save_unet(ema, target, wiring(config.train) | {"recipe": recipe, "fingerprint": digest_of(ema)})
    return [target, checkpoint]
