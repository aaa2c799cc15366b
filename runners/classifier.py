"""--mode=train_classifier: fit the small classifier whose features measure sample quality, or guide samples.

It learns from the training split, with cross-entropy, AdamW and images moved by a few pixels; with config.classifier.log_snr
from images with noise of all levels, which it is told. Its classes are the labels of the data, or, with
config.classifier.against, the data and another domain. The accuracy on record is that of the test split, which decides nothing;
of images without noise, and with noise by log-SNR. An interrupted run continues to the identical result.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde_analytic.metrics import Classifier, save_classifier
from score_sde_analytic.metrics.classifier_training import ClassifierRecipe, accuracy, fit_classifier
from score_sde_analytic.metrics.noisy_classifier import diffused
from score_sde_analytic.models.training import Checkpoint
from score_sde_analytic.process.noise import SampleNoise

from . import build, datasets, domains

#: Of the range of log-SNRs, where accuracy is measured.
LEVELS = 5


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train and write WORKDIR/classifier; returns what was written."""
    parts = examples(config)
    facts = {
        "seed": config.seed,
        "classifier": config.classifier.to_dict(),
        "data": datasets.data_identity(config),
    }
    checkpoint = Checkpoint(workdir / "classifier_state.safetensors", facts)
    net = fit_classifier(recipe(config), *parts["train"], config.seed, checkpoint)
    shares = {name: accuracy(net, x, y) for name, (x, y) in parts.items()}
    for name, (x, _) in parts.items():
        print(f"accuracy on the {len(x)} images of the {name} split: {shares[name]:.4f}")
    save_classifier(net, workdir / "classifier", {"accuracy": shares, **with_noise(net, *parts["test"]), "recipe": facts})
    return [workdir / "classifier", checkpoint.path]


def recipe(config: ConfigDict) -> ClassifierRecipe:
    return ClassifierRecipe(**build.without(config.classifier, "against"))


def examples(config: ConfigDict) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and classes of every part."""
    device = build.device(config)
    return {name: (x.to(device), y.to(device)) for name, (x, y) in zip(domains.PARTS, _pairs(config), strict=True)}


def _pairs(config: ConfigDict) -> list[tuple[Tensor, Tensor]]:
    if not config.classifier.against:
        truth = datasets.labels(config)
        splits = datasets.splits(config)
        return [(splits.held(name), labels) for name, labels in zip(domains.PARTS, truth, strict=True)]
    splits = datasets.splits(config)
    return domains.tell_apart(config, splits, domains.domain(config, splits, config.classifier.against))


def with_noise(net: Classifier, x: Tensor, y: Tensor) -> Mapping[str, Any]:
    """Accuracy on noisy images, by log-SNR; nothing of a classifier that is not told any."""
    if "log_snr" not in net.settings:
        return {}
    low, high = net.settings["log_snr"]
    shares = {f"{lam:g}": _accuracy_at(net, x, y, lam) for lam in np.linspace(low, high, LEVELS).tolist()}
    print("with noise: " + ", ".join(f"{share:.4f} at log-SNR {lam}" for lam, share in shares.items()))
    return {"accuracy_by_log_snr": shares}


def _accuracy_at(net: Classifier, x: Tensor, y: Tensor, log_snr: float) -> float:
    z = SampleNoise(0, range(len(x)), x.device).draw(x)
    at = partial(net, log_snr=log_snr)
    return accuracy(at, diffused(x, torch.full((len(x),), log_snr), z), y)
