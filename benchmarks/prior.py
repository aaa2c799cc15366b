"""Train the shipped prior: from the class of a digit to its features, x_0 predicted, the class withheld now and then.

  python -m benchmarks.prior [--output FOLDER] [--steps N]

Data: hidden features of scikit-learn's digits by the shipped classifier (configs/dalle2.py). Loss: ||F - F_hat||^2 of
x_0_hat = alpha x_t + sigma F_hat, levels even in log-SNR. A minute on one core; the same weights whenever it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from score_sde_analytic.configs.dalle2 import get_config
from score_sde_analytic.runners import datasets
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import trange

from score_sde_analytic.models.training import descend, learning_rate
from score_sde_analytic.models.vectors import ASSETS, VectorNet, load_vectors, save_vectors

RECIPE: dict[str, Any] = {
    "steps": 8000,
    "batch_size": 128,
    "learning_rate": 2e-3,
    "warmup": 100,
    "weight_decay": 0.06,
    "ema": 0.998,
    "drop_labels": 0.3,
    "dropout": 0.1,
    "log_snr": (-10.0, 11.0),
    "seed": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ASSETS / "digits_prior")
    parser.add_argument("--steps", type=int, default=RECIPE["steps"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = RECIPE | {"steps": options.steps}
    config = get_config()
    net = trained(config, recipe)
    print(save_vectors(net, options.output, recipe | {"data": config.data.to_dict()}))
    kept = load_vectors(options.output)
    for name in ("train", "validation", "test"):
        splits = datasets.splits(config)
        print(name, [round(r, 3) for r in residuals(kept, splits.held(name), splits.conditions(name)["class_labels"])])


def trained(config: Any, recipe: dict[str, Any]) -> VectorNet:
    """The average of its weights."""
    torch.manual_seed(recipe["seed"])
    splits = datasets.splits(config)
    data, labels = splits.held("train"), splits.conditions("train")["class_labels"]
    none = int(labels.max()) + 1
    net = VectorNet(data.shape[1], none, dropout=recipe["dropout"]).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"])
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe["ema"]))
    for step in trange(recipe["steps"], disable=None):
        drawn = torch.randint(len(data), (recipe["batch_size"],))
        given = torch.where(torch.rand(len(drawn)) < recipe["drop_labels"], none, labels[drawn])
        low, high = recipe["log_snr"]
        loss = error(net, data[drawn], given, low + (high - low) * torch.rand(len(drawn))).mean()
        descend(net, optimiser, loss, learning_rate(step, recipe["steps"], recipe["learning_rate"], recipe["warmup"]))
        average.update_parameters(net)
    return average.module.eval()


def error(net: VectorNet, x_0: Tensor, labels: Tensor, log_snr: Tensor) -> Tensor:
    """||x_0 - x_0_hat||^2 / (d sigma^2) of every example."""
    alpha, sigma = torch.sigmoid(log_snr).sqrt()[:, None], torch.sigmoid(-log_snr).sqrt()[:, None]
    x_t = alpha * x_0 + sigma * torch.randn_like(x_0)
    return ((net(x_t, log_snr, labels) - x_0) / sigma).square().mean(1)


@torch.no_grad()
def residuals(net: VectorNet, data: Tensor, labels: Tensor) -> list[float]:
    """R = alpha^2 / sigma^2 E||x_0 - x_0_hat||^2 / d at some levels."""
    repeated, classes = data.repeat(4, 1), labels.repeat(4)
    levels = (-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    return [
        float(torch.sigmoid(torch.tensor(at)) * error(net, repeated, classes, torch.full((len(classes),), at)).mean())
        for at in levels
    ]


if __name__ == "__main__":
    main()
