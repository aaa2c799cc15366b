"""A network of vectors that predicts x_0 given a class: DALL-E 2's prior, from classes to image features, in small.

    x_0_hat = alpha x_t + sigma F(x_t, log-SNR, class),   alpha^2 + sigma^2 = 1

F is a perceptron of residual blocks, each scaled and shifted by the noise level and the class. The class after the last says
that there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from score_sde_analytic.checks import number, whole
from score_sde_analytic.declared import reading
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.process.gaussian import expand

ASSETS = Path(__file__).parents[1] / "assets"
FILE, KIND = "vectors.safetensors", "vector network"
AGAIN = "restore it, or train it again (benchmarks/prior.py)"
SIZE = range(1, 1 << 16)
SHAPE = {"network": {"dim": SIZE, "classes": range(1 << 16), "width": SIZE, "blocks": SIZE, "dropout": float}, "recipe": dict}
#: Angular frequencies of the embedding of log-SNR, confined to these levels.
FREQUENCIES, LEVELS = (0.06, 4.0, 12), (-13.0, 13.0)


class VectorNet(nn.Module):
    """(x_t, log-SNR, class) -> x_0_hat, vectors (batch, dim); fed log-SNR itself and VP coordinates.

    Args:
        dim: of vectors.
        classes: 0 .. classes - 1, and class `classes` for none.
        width, blocks: of the perceptron.
        dropout: inside blocks, in training.

    >>> net = VectorNet(dim=3, classes=2, width=8, blocks=1)
    >>> net(torch.zeros(4, 3), torch.zeros(4), torch.tensor([0, 1, 2, 2])).shape
    torch.Size([4, 3])
    """

    def __init__(self, dim: int, classes: int, width: int = 112, blocks: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = {"dim": dim, "width": width, "blocks": blocks}
        self.settings: dict[str, Any] = {name: whole(1)(name, size) for name, size in sizes.items()}
        self.settings |= {"classes": whole(0)("classes", classes), "dropout": number(0.0, below=1.0)("dropout", dropout)}
        low, high, count = FREQUENCIES
        self.register_buffer("frequencies", torch.from_numpy(np.geomspace(low, high, count)).float(), persistent=False)
        self.level = nn.Sequential(nn.Linear(2 * count, width), nn.SiLU(), nn.Linear(width, width))
        self.told = nn.Embedding(classes + 1, width)
        self.enter, self.leave = nn.Linear(dim, width), nn.Linear(width, dim)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))

    frequencies: Tensor

    def forward(
        self, x: Float[Tensor, "batch d"], log_snr: Float[Tensor, " batch"], class_labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch d"]:
        angles = log_snr.clamp(*LEVELS)[:, None] * self.frequencies
        how = nn.functional.silu(self.level(torch.cat([angles.sin(), angles.cos()], 1)) + self.told(class_labels))
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = block(hidden, how)
        alpha, sigma = (torch.sigmoid(each).sqrt() for each in (log_snr, -log_snr))
        return expand(alpha, x) * x + expand(sigma, x) * self.leave(nn.functional.silu(hidden))


class _Block(nn.Module):
    """h + W_2 silu(W_1 (scale norm(h) + shift))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.how = nn.Linear(width, 2 * width)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, hidden: Tensor, how: Tensor) -> Tensor:
        scale, shift = self.how(how).chunk(2, 1)
        return hidden + self.inner((1.0 + scale) * self.norm(hidden) + shift)


def save_vectors(net: VectorNet, folder: str | Path, recipe: Mapping[str, Any]) -> Path:
    """Write weights, in half precision, with settings and what is on record of the training; returns the file."""
    arrays = {name: value.detach().cpu().half().numpy() for name, value in net.state_dict().items()}
    file = Path(folder) / FILE
    save_arrays(file, arrays, {"kind": KIND, "network": net.settings, "recipe": dict(recipe)})
    return file


def load_vectors(folder: str | Path) -> VectorNet:
    """The network of a folder, or one shipped with the package by its name, in eval mode and single precision.

    Raises:
        MissingFileError: there is none.
        InputError: it is damaged.

    >>> load_vectors("digits_prior").settings["dim"]
    32
    """
    place = ASSETS / folder if (ASSETS / folder).is_dir() else Path(folder)
    arrays, metadata = load_arrays(place / FILE, KIND, shape=SHAPE, cure=AGAIN)
    with reading(place / FILE, AGAIN):
        net = VectorNet(**metadata["network"])
        net.load_state_dict({name: torch.from_numpy(value).float() for name, value in arrays.items()})
    return net.eval()


def digits_prior() -> VectorNet:
    """The shipped one, of the hidden features of digits by the shipped classifier given their class: a network's source."""
    return load_vectors("digits_prior")
