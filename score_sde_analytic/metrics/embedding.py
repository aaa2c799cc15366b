"""Images as vectors: hidden features of a classifier, centred and of mean variance 1, which it can still tell the class of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.metrics.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Embedding:
    """z = (f(x) - mean) / std of features f.

    Attributes:
        net: whose features they are.
        mean: of the features.
        std: root mean variance of them, one number.

    >>> from score_sde_analytic.metrics import load_classifier
    >>> images = torch.rand(20, 1, 8, 8)
    >>> embedding = Embedding.of(load_classifier("digits_classifier")[0], images)
    >>> z = embedding(images)
    >>> z.shape, torch.allclose(embedding.logits(z), embedding.net(images), atol=1e-4)
    (torch.Size([20, 32]), True)
    """

    net: Classifier
    mean: Tensor
    std: float

    @classmethod
    @torch.no_grad()
    def of(cls, net: Classifier, images: Float[Tensor, "n c h w"]) -> Embedding:
        """With the mean and variance of these."""
        features = net.eval().features(images)
        mean = features.mean(0)
        return cls(net, mean, float((features - mean).square().mean().sqrt()))

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return (self.net.features(images) - self.mean) / self.std

    @torch.no_grad()
    def logits(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """What the classifier says of vectors."""
        return self.net.head((self.std * z + self.mean) * self.net.scale)
