"""--mode=train_classifier: fit the small classifier whose features measure sample quality.

It learns from the training split, with cross-entropy, AdamW and images moved by a few pixels; the accuracy on record is that of
the test split, which decides nothing. An interrupted run continues to the identical result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.data import sources as datasets
from score_sde_analytic.data.splits import split
from score_sde_analytic.errors import MissingFileError
from score_sde_analytic.metrics.classifier import save_classifier
from score_sde_analytic.metrics.classifier_training import ClassifierRecipe, accuracy, fit_classifier
from score_sde_analytic.models.training import Checkpoint
from score_sde_analytic.study.names import choose

from . import build


def _idx_labels(config: ConfigDict) -> NDArray[np.int64]:
    folder = Path(config.data.directory)
    files = sorted(folder.glob("*labels-idx1-ubyte*"))
    if not files:
        raise MissingFileError(f"no *labels-idx1-ubyte(.gz) file in {folder}; set data.directory to the data set's folder")
    return np.concatenate([datasets.read_idx_labels(file) for file in files])


#: The labels of a data set, in the order of its images.
LABELS: dict[str, Callable[[ConfigDict], NDArray[np.int64]]] = {
    "digits": lambda config: datasets.digit_labels(),
    "mnist": _idx_labels,
    "fashion_mnist": _idx_labels,
}


def labels(config: ConfigDict) -> list[Tensor]:
    """Labels of the train, validation and test split.

    Raises:
        ValueError: the data set has no labels.
    """
    if config.data.source:
        pictures = build.pictures(config)
        classes = torch.tensor(pictures.labels)
        return split(classes, config.data.split, config.data.split_seed, build.groups(config, pictures))
    found = choose(LABELS, config.data.name, "data set with labels")(config)
    return split(torch.from_numpy(found), config.data.split, config.data.split_seed)


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train and write WORKDIR/classifier; returns what was written."""
    device, truth = build.device(config), labels(config)
    splits = build.splits(config)
    images = [splits.held(name).to(device) for name in ("train", "validation", "test")]
    truth = [part.to(device) for part in truth]
    recipe = ClassifierRecipe(**build.without(config.classifier))
    facts = {
        "seed": config.seed,
        "classifier": config.classifier.to_dict(),
        "data": build.data_identity(config),
    }
    checkpoint = Checkpoint(workdir / "classifier_state.safetensors", facts)
    net = fit_classifier(recipe, images[0], truth[0], config.seed, checkpoint)
    names = ("train", "validation", "test")
    shares = {name: accuracy(net, x, y) for name, x, y in zip(names, images, truth, strict=True)}
    for name, x in zip(names, images, strict=True):
        print(f"accuracy on the {len(x)} images of the {name} split: {shares[name]:.4f}")
    save_classifier(net, workdir / "classifier", {"accuracy": shares, "recipe": facts})
    return [workdir / "classifier", checkpoint.path]
