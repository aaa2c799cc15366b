"""The small classifier whose features measure sample quality: cross-entropy, AdamW, images moved by a few pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from score_sde_analytic.checks import COUNT, LOG_SNR, each, number, settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics.classifier import of_settings
from score_sde_analytic.metrics.classifier_network import Classifier
from score_sde_analytic.models.training import LEARNING_RATE, WEIGHT_DECAY, Checkpoint, descend, learning_rate, train
from score_sde_analytic.process.noise import stream_seed


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier is trained.

    Attributes:
        shift: images are moved by up to so many pixels in training.
        channels: one block per entry, each halves the image.
        features: that measure samples.
        log_snr: lowest and highest noise level of training, drawn uniformly in log-SNR; () for images without noise.
    """

    steps: Annotated[int, COUNT] = 2000
    batch_size: Annotated[int, COUNT] = 64
    learning_rate: Annotated[float, LEARNING_RATE] = 2e-3
    warmup: Annotated[int, COUNT] = 50
    weight_decay: Annotated[float, WEIGHT_DECAY] = 1e-2
    shift: Annotated[int, whole(0, 1000)] = 1
    channels: Annotated[tuple[int, ...], each(whole(1, 100_000), least=1)] = (16, 32)
    features: Annotated[int, whole(1, 100_000)] = 32
    dropout: Annotated[float, number(0.0, below=1.0)] = 0.2
    log_snr: Annotated[tuple[float, ...], each(LOG_SNR, 0, 2)] = ()

    def __post_init__(self) -> None:
        settle(self)
        if self.log_snr and not (len(self.log_snr) == 2 and self.log_snr[0] < self.log_snr[1]):
            raise InputError(f"log_snr of a classifier is a lowest and a highest level, or () for none, got {self.log_snr}")

    def network(self, x: Float[Tensor, "n c h w"], classes: int) -> Classifier:
        """A classifier of such images."""
        names = ("channels", "features", "dropout", "log_snr")
        settings = {name: getattr(self, name) for name in names if name != "log_snr" or self.log_snr}
        return of_settings({"in_channels": x.shape[1], "size": x.shape[-1], "classes": classes} | settings)


def moved(x: Float[Tensor, "batch c h w"], most: int) -> Float[Tensor, "batch c h w"]:
    """Every image moved by its own whole number of pixels, -most .. most in both directions; the border value fills.

    >>> x = torch.eye(3)[None, None]
    >>> torch.equal(moved(x, 0), x), moved(x, 1).shape
    (True, torch.Size([1, 1, 3, 3]))
    """
    if most == 0:
        return x
    height, width = x.shape[-2:]
    padded = functional.pad(x, (most,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * most + 1, (2, len(x)))
    rows = (down[:, None] + torch.arange(height)).to(x.device)
    columns = (right[:, None] + torch.arange(width)).to(x.device)
    index = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.movedim(1, -1)[index, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


@torch.no_grad()
def accuracy(net: Callable[..., Any], x: Float[Tensor, " n *dims"], y: Int64[Tensor, " n"]) -> float:
    """Share of images whose likeliest class is theirs.

    >>> accuracy(torch.nn.Identity(), torch.eye(4), torch.tensor([0, 1, 2, 2]))  # the images as their own logits
    0.75
    """
    right = [(net(images).argmax(1) == truth).sum() for images, truth in zip(x.split(500), y.split(500), strict=True)]
    return float(sum(right)) / len(x)


class ClassifierTrainer:
    """A classifier, its optimiser and a resumable step counter; every random number is a function of (seed, step).

    Args:
        x, y: images and their classes.
    """

    def __init__(self, recipe: ClassifierRecipe, x: Float[Tensor, "n c h w"], y: Int64[Tensor, " n"], seed: int = 0) -> None:
        torch.manual_seed(stream_seed(seed))
        net = recipe.network(x, classes=int(y.max()) + 1)
        self.recipe = recipe
        self.seed = seed
        self.x = x
        self.y = y
        self.net = net.to(x.device)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.step = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.recipe.steps

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the loss.

        Raises:
            RunError: the loss is not finite.
        """
        recipe = self.recipe
        torch.manual_seed(stream_seed(self.seed, self.step + 1))
        chosen = torch.randint(len(self.x), (recipe.batch_size,)).to(self.x.device)
        loss = functional.cross_entropy(self.net.training_logits(moved(self.x[chosen], recipe.shift)), self.y[chosen])
        rate = learning_rate(self.step, recipe.steps, recipe.learning_rate, recipe.warmup)
        value = descend(self.net, self.optimiser, loss, rate, clip=None)
        self.step += 1
        return {"loss": value}

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        return {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same recipe."""
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


def fit_classifier(
    recipe: ClassifierRecipe,
    x: Float[Tensor, "n c h w"],
    y: Int64[Tensor, " n"],
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Classifier:
    """The trained network, in eval mode.

    Args:
        x, y: images and their classes.
        checkpoint: where an interrupted training goes on.

    Raises:
        RunError: the loss is not finite.
    """
    trainer = ClassifierTrainer(recipe, x, y, seed)
    train(trainer, checkpoint, x.device, "train classifier")
    trainer.net.eval().standardise(x)
    return trainer.net
