"""--mode=train_classifier: fit the small classifier whose features measure sample quality.

It learns from the training split, with cross-entropy, AdamW and images moved by a few pixels; the accuracy on record is that of
the test split, which decides nothing. A run takes a minute or two and starts anew when interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from score_sde_analytic.data import sources as datasets
from score_sde_analytic.metrics.classifier import Classifier, save_classifier
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.study.names import choose

from . import build
from .train import learning_rate


def _mnist_labels(config: ConfigDict) -> NDArray[np.int64]:
    folder = Path(config.data.directory)
    files = sorted(folder.glob("*labels-idx1-ubyte*"))
    if not files:
        raise FileNotFoundError(f"no *labels-idx1-ubyte(.gz) file in {folder}; set data.directory to MNIST's folder")
    return np.concatenate([datasets.read_idx_labels(file) for file in files])


#: The labels of a data set, in the order of its images.
LABELS: dict[str, Callable[[ConfigDict], NDArray[np.int64]]] = {
    "digits": lambda config: datasets.digit_labels(),
    "mnist": _mnist_labels,
}


def labels(config: ConfigDict) -> list[Tensor]:
    """Labels of the train, validation and test split.

    Raises:
        ValueError: the data set has no labels.
    """
    found = choose(LABELS, config.data.name, "data set with labels")(config)
    return datasets.split(torch.from_numpy(found), config.data.split, config.data.split_seed)


def moved(x: Tensor, most: int) -> Tensor:
    """Every image moved by its own whole number of pixels, -most .. most in both directions; the border value fills."""
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
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images whose likeliest class is theirs."""
    right = [(net(images).argmax(1) == truth).sum() for images, truth in zip(x.split(500), y.split(500), strict=True)]
    return float(sum(right)) / len(x)


def fit(config: ConfigDict, x: Tensor, y: Tensor) -> Classifier:
    """The trained network, in eval mode; every random number is a function of (seed, step).

    Raises:
        RuntimeError: the loss is not finite.
    """
    settings = config.classifier
    torch.manual_seed(stream_seed(config.seed))
    net = Classifier(x.shape[1], x.shape[-1], int(y.max()) + 1, settings.channels, settings.features, settings.dropout).to(
        x.device
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for step in tqdm(range(settings.steps), desc="train classifier", unit="step"):
        torch.manual_seed(stream_seed(config.seed, step + 1))
        chosen = torch.randint(len(x), (settings.batch_size,)).to(x.device)
        value = functional.cross_entropy(net(moved(x[chosen], settings.shift)), y[chosen])
        if not torch.isfinite(value):
            raise RuntimeError(f"the loss became {value.item()} at step {step}; lower classifier.learning_rate")
        optimiser.param_groups[0]["lr"] = learning_rate(step, settings)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    net.eval().standardise(x)
    return net


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train and write WORKDIR/classifier; returns what was written."""
    device, truth = build.device(config), labels(config)
    splits = build.splits(config)
    images = [part.to(device) for part in (splits.train, splits.validation, splits.test)]
    truth = [part.to(device) for part in truth]
    net = fit(config, images[0], truth[0])
    names = ("train", "validation", "test")
    shares = {name: accuracy(net, x, y) for name, x, y in zip(names, images, truth, strict=True)}
    for name, x in zip(names, images, strict=True):
        print(f"accuracy on the {len(x)} images of the {name} split: {shares[name]:.4f}")
    data = config.data.to_dict()
    del data["directory"]  # where, not what
    save_classifier(
        net,
        workdir / "classifier",
        {
            "accuracy": shares,
            "recipe": {"seed": config.seed, "classifier": config.classifier.to_dict(), "data": data},
        },
    )
    return [workdir / "classifier"]
