"""Files of small image classifiers, trained by the project (`--mode=train_classifier`), and their features.

The Frechet distance of these features, the hidden layer's activations, says how far samples are from data in what tells classes
apart. It is not the FID of published tables, which is that of Inception-v3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.files import load_arrays, read_json, save_arrays, write_json
from score_sde_analytic.metrics.classifier_network import Classifier
from score_sde_analytic.metrics.features import Features
from score_sde_analytic.metrics.noisy_classifier import NoisyClassifier
from score_sde_analytic.models.identity import digest_of

ASSETS = Path(__file__).parents[1] / "assets"
KIND = "classifier"
AGAIN = "restore it, or run --mode=train_classifier again"
SIZE = range(1, 1 << 16)
#: Of config.json.
SHAPE = {
    "network": {
        **dict.fromkeys(("in_channels", "size", "classes", "features"), SIZE),
        "channels": [SIZE],
        "dropout": float,
        "log_snr?": [float],
    },
    "fingerprint": str,
}


def of_settings(settings: Mapping[str, Any]) -> Classifier:
    """A classifier by its settings: one of noisy images where they have a range of log-SNRs.

    >>> of_settings(Classifier(1, 8, 10, channels=[4, 8], features=16).settings).settings["classes"]
    10
    """
    return NoisyClassifier(**settings) if settings.get("log_snr") else Classifier(**settings)


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
        net = of_settings(config["network"])
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
