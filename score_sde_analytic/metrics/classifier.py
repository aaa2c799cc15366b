"""A small image classifier, trained by the project (`--mode=train_classifier`), and its features.

The network: per entry of `channels` a 3x3 convolution, batch normalisation, SiLU and a 2x2 mean pool; then a hidden layer,
whose activations, of mean square 1 on the training split, are the features, and a linear layer to the classes. The Frechet
distance of these features says how far samples are from data in what tells classes apart. It is not the FID of published
tables, which is that of Inception-v3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.files import load_arrays, read_json, save_arrays, write_json
from score_sde_analytic.metrics.features import Features
from score_sde_analytic.models.identity import digest_of

ASSETS = Path(__file__).parents[1] / "assets"
KIND = "classifier"
AGAIN = "restore it, or run --mode=train_classifier again"
SIZE = range(1, 1 << 16)
#: Of config.json.
SHAPE = {
    "network": {"in_channels": SIZE, "size": SIZE, "classes": SIZE, "channels": [SIZE], "features": SIZE, "dropout": float},
    "fingerprint": str,
}


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
        self.settings = {
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


def save_classifier(net: Classifier, directory: str | Path, record: Mapping[str, Any]) -> None:
    """Write weights (classifier.safetensors) and, as config.json, the settings with what is on record of the training."""
    folder = Path(directory)
    arrays = {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}
    save_arrays(folder / "classifier.safetensors", arrays, {"kind": KIND})
    config = {"network": net.settings, "fingerprint": digest_of(net), **record}
    write_json(folder / "config.json", KIND, config)


def load_classifier(directory: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """(network in eval mode, config) of a directory, or of a classifier shipped with the package, by its name.

    Raises:
        MissingFileError: the directory or a file of it is missing.
        InputError: a file is damaged, or the two do not belong together.
    """
    folder = ASSETS / directory if (ASSETS / directory).is_dir() else Path(directory)
    for name in ("config.json", "classifier.safetensors"):
        if not (folder / name).is_file():
            raise MissingFileError(f"no {name} in {folder}; check the path, or run --mode=train_classifier to make one")
    arrays, _ = load_arrays(folder / "classifier.safetensors", KIND, cure=AGAIN)
    config = read_json(folder / "config.json", KIND, SHAPE, AGAIN)
    with reading(folder, AGAIN):
        net = Classifier(**config["network"])
        net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    if digest_of(net) != config.get("fingerprint"):
        raise InputError(f"weights and config.json in {folder} are of different classifiers; restore both or train again")
    return net.eval(), config


class ClassifierFeatures(Features):
    """The hidden layer of a classifier, computed in float64.

    >>> ClassifierFeatures.load("digits_classifier")(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 32])

    Args:
        net: the classifier.
        name: for tables.
    """

    def __init__(self, net: Classifier, name: str = "classifier features") -> None:
        self._digest = digest_of(net.eval().float())  # of the weights as they are stored
        self.name = name
        self.net = net.double()

    @classmethod
    def load(cls, directory: str | Path = "digits_classifier") -> ClassifierFeatures:
        """Of a classifier's directory, or of one shipped with the package: "digits_classifier", "mnist_classifier"."""
        return cls(load_classifier(directory)[0])

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, "batch d"]:
        expected = (self.net.settings["in_channels"], self.net.settings["size"], self.net.settings["size"])
        if tuple(x.shape[1:]) != expected:
            raise InputError(f"the classifier was trained on images {expected}, got {tuple(x.shape[1:])}; use its own data")
        return self.net.to(x.device).features(x.double())

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "network": self._digest}
