"""What a network learns of digits in as many steps, by what is minimised and where noise levels are drawn.

  python -m benchmarks.training [--steps 1000] [--seeds 0 1 2] [--output FILE.md]
  python -m benchmarks.training --network FOLDER [--output FILE.md]

The first trains a small network of two residual blocks for every loss, proposal and seed, and judges it by the transitions of
the continuous bound, 1/2 integral of R over log-SNR -8 to 7, on the validation split: one set of stratified noise levels and
noises for all, so differences are paired. Cells that are finished are read from the workdir. The second compares a network that
--mode=train wrote with the shipped one, by the whole continuous bound, paired by example.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from score_sde_analytic.configs import digits_vp
from score_sde_analytic.runners import datasets, networks
from torch import Tensor, nn

from score_sde_analytic.files import read_json, write_json
from score_sde_analytic.likelihood import ContinuousTime, bits_per_dim
from score_sde_analytic.models.network_training import NetworkRecipe, NetworkTrainer
from score_sde_analytic.models.proposals import Even
from score_sde_analytic.models.training_log import HeldOut
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.uncertainty import Estimate

KIND = "training benchmark"
RANGE = (-8.0, 7.0)
#: (loss, times), the first compared with the others.
ARMS = (
    ("bound", "adaptive"),
    ("bound", "learned_net"),
    ("bound", "even"),
    ("v", "even"),
    ("bound", "linear_vp"),
    ("v", "adaptive"),
)
#: Noise levels per example of the judge, and of the continuous bound of whole networks.
JUDGED, CONTINUOUS = 64, 128
#: Log-SNR where the decoder takes over from the continuous bound.
FIRST = 7.0


class Small(nn.Module):
    """Two residual blocks on the pixels as a vector, told the noise level by sines."""

    def __init__(self, dim: int = 64, width: int = 160, blocks: int = 2) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0.0, -math.log(1e3), 32)))
        self.entry = nn.Linear(dim, width)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.exit = nn.Linear(width, dim)

    def forward(self, x: Tensor, labels: Tensor, class_labels: Tensor | None = None) -> Any:
        angles = labels[:, None] * self.frequencies
        told = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        state = self.entry(x.flatten(1))
        for block in self.blocks:
            state = state + block(state + told)
        return SimpleNamespace(sample=self.exit(state).view_as(x))


@dataclass(frozen=True)
class SmallRecipe(NetworkRecipe):
    """The benchmark's network."""

    def build(self) -> nn.Module:
        return Small()


def recipe(loss: str, times: str, steps: int) -> NetworkRecipe:
    """Of one arm."""
    return SmallRecipe(
        {}, RANGE, steps=steps, batch_size=128, learning_rate=1.5e-3, warmup=100, ema=0.995, loss=loss, times=times
    )


def cell(folder: Path, arm: tuple[str, str], seed: int, steps: int) -> dict[str, Any]:
    """Bits/dim of every validation example after training, and how the loss spread over the last steps."""
    path = folder / f"{'_'.join(arm)}_{seed}_{steps}.json"
    if not path.exists():
        splits = datasets.splits(digits_vp.get_config())
        trainer = NetworkTrainer(recipe(*arm, steps), splits.train, seed, torch.device("cpu"), log=path.with_suffix(".jsonl"))
        losses = []
        while trainer.step < steps:
            losses.append(trainer.advance()["loss"])
        judge = HeldOut(splits.validation, draws=JUDGED * len(splits.validation))
        bits = judge.per_example(trainer.residuals, Even(*RANGE), 0, torch.device("cpu"))
        last = np.array(losses[-300:])
        content = {"bits": bits.tolist(), "spread": last.std() / last.mean()}
        write_json(path, KIND, content)
        print(f"{arm} seed {seed}: {bits.mean():.4f} bits/dim", flush=True)
    return read_json(path, KIND, {"bits": [float], "spread": float})


def comparison(folder: Path, seeds: list[int], steps: int) -> str:
    """A row per arm: bits/dim over the seeds, by how much it is above the first, and how much its loss spreads."""
    cells = {arm: [cell(folder, arm, seed, steps) for seed in seeds] for seed in seeds for arm in ARMS}
    bits = {arm: np.array([each["bits"] for each in found]) for arm, found in cells.items()}
    first = bits[ARMS[0]]
    rows = []
    for (loss, times), values in bits.items():
        spread = np.mean([each["spread"] for each in cells[loss, times]])
        above = [f"{Estimate.of(row):+.3f}" for row in values - first]
        by_seed = Estimate.of((values - first).mean(1))
        rows.append([loss, times, f"{values.mean():.3f}", f"{by_seed:+.3f}", *above, f"{spread:.3f}"])
    heads = [f"seed {seed}" for seed in seeds]
    return markdown(["loss", "times", "bits/dim", "above the first, over seeds", *heads, "sd / mean of the loss"], rows)


def against_shipped(folder: Path) -> str:
    """The continuous bound of the network in a folder and of the shipped one on both held-out splits."""
    splits = datasets.splits(digits_vp.get_config())
    models = {"shipped": _model("digits_unet"), "trained": _model(str(folder))}
    schedule = models["shipped"].schedule
    method = ContinuousTime(float(schedule.time(FIRST)), "gaussian", times=CONTINUOUS)
    rows = []
    for name, data in {"validation": splits.validation, "test": splits.test}.items():
        bounds = {key: bits_per_dim(model, data, method, splits.data_range, progress=False) for key, model in models.items()}
        for part in ("transitions", "reconstruction", "total"):
            shipped, trained = (_part(bound, part) for bound in bounds.values())
            rows.append([name, part, *(f"{Estimate.of(x):.4f}" for x in (shipped, trained, trained - shipped))])
    return markdown(["split", "part", "shipped", "trained", "trained - shipped, paired"], rows)


def _part(bound: Any, part: str) -> np.ndarray:
    return bound.per_example if part == "total" else bound.terms[:, bound.columns.index(part)]


def _model(source: str) -> Any:
    config = digits_vp.get_config()
    config.network.source = source
    return networks.model(config, Path(), torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--network", type=Path, help="a folder that --mode=train wrote, WORKDIR/network")
    parser.add_argument("--workdir", type=Path, default=Path("results/training"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.workdir.mkdir(parents=True, exist_ok=True)
    text = against_shipped(options.network) if options.network else comparison(options.workdir, options.seeds, options.steps)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
