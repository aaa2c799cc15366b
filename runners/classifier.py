"""--mode=train_classifier: fit the small classifier whose features measure sample quality.

It learns from the training split, with cross-entropy, AdamW and images moved by a few pixels; the accuracy on record is that of
the test split, which decides nothing. An interrupted run continues to the identical result.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from score_sde_analytic.metrics.classifier import save_classifier
from score_sde_analytic.metrics.classifier_training import ClassifierRecipe, accuracy, fit_classifier
from score_sde_analytic.models.training import Checkpoint

from . import build, datasets


def run(config: ConfigDict, workdir: Path) -> list[Path]:
    """Train and write WORKDIR/classifier; returns what was written."""
    device, truth = build.device(config), datasets.labels(config)
    splits = datasets.splits(config)
    images = [splits.held(name).to(device) for name in ("train", "validation", "test")]
    truth = [part.to(device) for part in truth]
    recipe = ClassifierRecipe(**build.without(config.classifier))
    facts = {
        "seed": config.seed,
        "classifier": config.classifier.to_dict(),
        "data": datasets.data_identity(config),
    }
    checkpoint = Checkpoint(workdir / "classifier_state.safetensors", facts)
    net = fit_classifier(recipe, images[0], truth[0], config.seed, checkpoint)
    names = ("train", "validation", "test")
    shares = {name: accuracy(net, x, y) for name, x, y in zip(names, images, truth, strict=True)}
    for name, x in zip(names, images, strict=True):
        print(f"accuracy on the {len(x)} images of the {name} split: {shares[name]:.4f}")
    save_classifier(net, workdir / "classifier", {"accuracy": shares, "recipe": facts})
    return [workdir / "classifier", checkpoint.path]
