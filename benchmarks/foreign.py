"""Two networks that others trained: DDPMs on MNIST and on Fashion-MNIST, of 28x28 grey images in [-1, 1].

From github.com/BrianPulfer/PapersReimplementations (MIT licence), commit eb15d5f: linear betas, N = 1000, eps, integer times.
The weights are not part of this project; the architecture below is written anew from their shapes.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from score_sde_analytic import DataRange, ScoreModel, Tabulated, ZeroBased
from score_sde_analytic.data import read_idx_images, read_idx_labels

#: Beside the project: weights, and IDX files of the 10,000 test images, which the networks did not see.
WEIGHTS = Path(__file__).parents[2] / "shared/data/foreign/brianpulfer_ddpm"
IMAGES = {
    "mnist": Path(__file__).parents[2] / "shared/data/mnist",
    "fashion": Path("/usr/share/datasets/fashion-mnist"),
}
CLASSIFIERS = {"mnist": "mnist_classifier", "fashion": "fashion_mnist_classifier"}
RANGE = DataRange(-1, 1, levels=256)


class Block(nn.Module):
    """Layer norm over channels, height and width; two 3x3 convolutions, each followed by SiLU."""

    def __init__(self, before: int, after: int, side: int, normalise: bool = True) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((before, side, side))
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln(x) if self.normalise else x
        return functional.silu(self.conv2(functional.silu(self.conv1(x))))


def _stage(*channels: int, side: int, last: bool = False) -> nn.Sequential:
    pairs = list(pairwise(channels))
    blocks = [Block(*pair, side, normalise=not (last and i == len(pairs) - 1)) for i, pair in enumerate(pairs)]
    return nn.Sequential(*blocks)


def _time(after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(100, after), nn.SiLU(), nn.Linear(after, after))


class Network(nn.Module):
    """eps of (x, whole-numbered time)."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Embedding(1000, 100)
        self.te1, self.b1 = _time(1), _stage(1, 10, 10, 10, side=28)
        self.te2, self.b2 = _time(10), _stage(10, 20, 20, 20, side=14)
        self.te3, self.b3 = _time(20), _stage(20, 40, 40, 40, side=7)
        self.te_mid, self.b_mid = _time(40), _stage(40, 20, 20, 40, side=3)
        self.te4, self.b4 = _time(80), _stage(80, 40, 20, 20, side=7)
        self.te5, self.b5 = _time(40), _stage(40, 20, 10, 10, side=14)
        self.te_out, self.b_out = _time(20), _stage(20, 10, 10, 10, side=28, last=True)
        self.down1, self.down2 = (nn.Conv2d(c, c, 4, 2, 1) for c in (10, 20))
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))
        self.up1 = nn.Sequential(nn.ConvTranspose2d(40, 40, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2, 1))
        self.up2, self.up3 = (nn.ConvTranspose2d(c, c, 4, 2, 1) for c in (20, 10))
        self.conv_out = nn.Conv2d(10, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time_embed(t)

        def staged(name: str, x: Tensor) -> Tensor:
            shift = getattr(self, f"te{name}")(time)
            return getattr(self, f"b{name}")(x + shift[:, :, None, None])

        high = staged("1", x)
        middle = staged("2", self.down1(high))
        low = staged("3", self.down2(middle))
        up = self.up1(staged("_mid", self.down3(low)))
        up = self.up2(staged("4", torch.cat([low, up], 1)))
        up = self.up3(staged("5", torch.cat([middle, up], 1)))
        return self.conv_out(staged("_out", torch.cat([high, up], 1)))


def model(name: str) -> ScoreModel:
    """The network "mnist" or "fashion" of others.

    Raises:
        FileNotFoundError: its weights do not lie beside the project.
    """
    net = Network()
    net.load_state_dict(load_file(WEIGHTS / f"ddpm_{name}.safetensors"))
    net.eval().requires_grad_(False)
    return ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000, integer=True), clamp=(-1, 1))


def images(name: str, part: str = "t10k") -> Tensor:
    """Its data, (n, 1, 28, 28) in [-1, 1]; "t10k" are those that it did not see."""
    return RANGE.encode(read_idx_images(IMAGES[name] / f"{part}-images-idx3-ubyte.gz")).float()


def labels(name: str, part: str = "t10k") -> Tensor:
    """Classes of `images`."""
    return torch.from_numpy(read_idx_labels(IMAGES[name] / f"{part}-labels-idx1-ubyte.gz"))


def halves(name: str) -> tuple[Tensor, Tensor]:
    """The 10,000 images in two random halves, always the same: one to fit, one to judge."""
    shuffled = images(name)[torch.randperm(10_000, generator=torch.Generator().manual_seed(0))]
    return shuffled[:5000], shuffled[5000:]
