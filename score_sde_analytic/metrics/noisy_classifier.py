"""A classifier of noisy images that is told their log-SNR, and its features, in which experts of guidance compare states.

The network is that of `metrics.classifier`, each of whose blocks is scaled and shifted by a smooth function of the log-SNR
between its convolution and its activation. Images are in variance-preserving coordinates, x_t / sqrt(alpha^2 + sigma^2), which
`states` brings those of any schedule to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from score_sde_analytic.arrays import wide
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics.classifier_network import Classifier
from score_sde_analytic.process.gaussian import expand
from score_sde_analytic.process.level import Level

#: Cosines of the log-SNR that blocks are told.
WAVES = 8


class NoisyClassifier(Classifier):
    """Images x_t and log-SNR -> logits; without a log-SNR, images are at the highest that it was trained at.

    >>> net = NoisyClassifier(1, 8, 2, channels=[4, 8], features=16, log_snr=(-6.0, 8.0))
    >>> net(torch.zeros(3, 1, 8, 8), torch.tensor([-6.0, 0.0, 8.0])).shape
    torch.Size([3, 2])

    Args:
        in_channels, size, classes, channels, features, dropout: as of `Classifier`.
        log_snr: lowest and highest of training; others are taken for these.

    Raises:
        InputError: no range.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        classes: int,
        channels: Sequence[int],
        features: int,
        dropout: float = 0.0,
        log_snr: Sequence[float] = (-6.0, 8.0),
    ) -> None:
        super().__init__(in_channels, size, classes, channels, features, dropout)
        low, high = log_snr
        if not low < high:
            raise InputError(f"a classifier of noisy images needs a log-SNR lo < hi, got {tuple(log_snr)}")
        self.settings["log_snr"] = [low, high]
        self.levels = nn.ModuleList(nn.Linear(WAVES, 2 * width) for width in channels)

    def features(
        self, x: Float[Tensor, "batch c h w"], log_snr: float | Float[Tensor, " _"] = math.inf
    ) -> Float[Tensor, "batch d"]:
        """Activations of the hidden layer over `scale`."""
        return self._hidden(x, log_snr) / self.scale

    def forward(
        self, x: Float[Tensor, "batch c h w"], log_snr: float | Float[Tensor, " _"] = math.inf
    ) -> Float[Tensor, "batch classes"]:
        return self.head(self._hidden(x, log_snr))

    def _hidden(self, x: Tensor, log_snr: float | Tensor) -> Tensor:
        told = self._told(x, log_snr)
        for block, level in zip(self.blocks, self.levels, strict=True):
            convolution, norm, activation, pool = iter(cast("nn.Sequential", block))
            scale, shift = level(told)[:, :, None, None].chunk(2, 1)
            x = pool(activation(norm(convolution(x)) * (1.0 + scale) + shift))
        return self.hidden(x)

    def _told(self, x: Tensor, log_snr: float | Tensor) -> Tensor:
        """cos(pi k u), k = 0 .. WAVES - 1, u from 0 to 1 over the range of training."""
        low, high = self.settings["log_snr"]
        u = ((torch.as_tensor(log_snr).to(x) - low) / (high - low)).clamp(0.0, 1.0)
        return torch.cos(math.pi * torch.arange(WAVES).to(x) * u.expand(len(x))[:, None])

    def training_logits(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        """Of images that noise was added to, at levels uniform in log-SNR."""
        low, high = self.settings["log_snr"]
        log_snr = low + (high - low) * torch.rand(len(x), dtype=torch.float64)
        return self(diffused(x, log_snr, torch.randn(x.shape)), log_snr)

    def states(self, x_t: Float[Tensor, " batch *dims"], level: Level) -> Float[Tensor, "batch d"]:
        """Features of the states of any schedule at their level: the extractor of `guidance.CosineFeatures`."""
        return self.features(*_preserving(x_t, level))

    def log_prob(
        self, x_t: Float[Tensor, " batch *dims"], level: Level, class_labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """log p(class | x_t), as `guidance.Classifier` asks for it.

        >>> net = NoisyClassifier(1, 8, 2, channels=[4, 8], features=16).eval()
        >>> x_t, level = torch.zeros(2, 1, 8, 8), model.schedule.level(0.5)
        >>> both = [net.log_prob(x_t, level, torch.full((2,), c)).exp() for c in (0, 1)]
        >>> torch.allclose(both[0] + both[1], torch.ones(2))
        True
        """
        return self(*_preserving(x_t, level)).log_softmax(1).gather(1, class_labels[:, None])[:, 0]


def diffused(
    x_0: Float[Tensor, " batch *dims"], log_snr: Float[Tensor, " batch"], z: Float[Tensor, " batch *dims"]
) -> Float[Tensor, " batch *dims"]:
    """alpha x_0 + sigma z, alpha^2 = sigmoid(log_snr) = 1 - sigma^2.

    >>> diffused(torch.ones(1, 2), torch.zeros(1), torch.zeros(1, 2))
    tensor([[0.7071, 0.7071]])
    """
    alpha, sigma = (torch.sigmoid(sign * wide(log_snr)).sqrt().to(x_0) for sign in (1.0, -1.0))
    return expand(alpha, x_0) * x_0 + expand(sigma, x_0) * z.to(x_0)


def _preserving(x_t: Tensor, level: Level) -> tuple[Tensor, Any]:
    """(x_t / sqrt(alpha^2 + sigma^2), log-SNR)."""
    return x_t / expand(level.norm, x_t), level.log_snr
