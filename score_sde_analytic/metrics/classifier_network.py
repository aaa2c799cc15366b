"""A small image classifier.

Per entry of `channels` a 3x3 convolution, batch normalisation, SiLU and a 2x2 mean pool; then a hidden layer, whose
activations, of mean square 1 on the training split, are the features, and a linear layer to the classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from score_sde_analytic.errors import InputError


class Classifier(nn.Module):
    """Images -> logits.

    >>> Classifier(1, 8, 10, channels=[4, 8], features=16)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])

    Args:
        size: height and width of images; channels, number of blocks, so that size / 2^blocks is at least 1.
        features: width of the hidden layer.
        dropout: of the hidden layer's input, in training.

    Raises:
        InputError: the images are too small for so many blocks.
    """

    def __init__(
        self, in_channels: int, size: int, classes: int, channels: Sequence[int], features: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "size": size,
            "classes": classes,
            "channels": list(channels),
            "features": features,
            "dropout": dropout,
        }
        side = size >> len(channels)
        if side < 1:
            raise InputError(f"{len(channels)} blocks halve images of {size} pixels to nothing; use fewer channels")
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, after) in enumerate(zip([in_channels, *channels], channels, strict=False)):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks[f"block_{i}"] = nn.Sequential(convolution, nn.BatchNorm2d(after), nn.SiLU(), nn.AvgPool2d(2))
        self.blocks = nn.Sequential(blocks)
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels[-1] * side * side, features), nn.SiLU()
        )
        self.head = nn.Linear(features, classes)
        self.register_buffer("scale", torch.ones(()))

    scale: Tensor

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d"]:
        """Activations of the hidden layer over `scale`."""
        return self.hidden(self.blocks(x)) / self.scale

    @torch.no_grad()
    def standardise(self, x: Float[Tensor, "n c h w"]) -> None:
        """Set the scale so that features of x have mean square 1, the size that polynomial kernels expect.

        >>> net, x = Classifier(1, 8, 10, channels=[4, 8], features=16).eval(), torch.rand(5, 1, 8, 8)
        >>> net.standardise(x)
        >>> net.features(x).square().mean().item()
        1.0
        """
        self.scale.fill_(1.0)
        self.scale.copy_(torch.cat([self.features(part) for part in x.split(500)]).square().mean().sqrt())

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.hidden(self.blocks(x)))

    def training_logits(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        """Of images as training shows them."""
        return self(x)
