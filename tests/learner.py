"""A programme that trains a small network, or heads, in as many processes as its launcher starts, and tells its curve.

    python -m tests.learner FOLDER [--heads] [--double] [--until=STEP] [--slices=N] [--precision=bfloat16]

FOLDER/curve.json    losses and rows of the log, digest of what was learned, processes, cost
FOLDER/state.safetensors    the checkpoint, from which the same command goes on
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

from score_sde_analytic import processes
from score_sde_analytic.covariance.head_training import HeadTrainer, Recipe, new_head
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.network_training import PRECISIONS, NetworkRecipe, NetworkTrainer, squared_errors
from score_sde_analytic.models.together import Part, mixed
from score_sde_analytic.models.training import Checkpoint, learning_rate, train
from score_sde_analytic.models.training_log import HeldOut
from score_sde_analytic.process.gaussian import expand
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.process.schedule import LinearVP

STEPS, BATCH = 24, 10
CPU = torch.device("cpu")
#: Dropout, attention whose states are laid out with the channels last, and classes.
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "dropout": 0.1,
}


class Sliced(NetworkTrainer):
    """One process that does what each of several would, one after the other."""

    slices = 2

    def advance(self) -> dict[str, float]:
        recipe = self.recipe
        torch.manual_seed(stream_seed(self.seed, self.step + 1))
        start = torch.get_rng_state()
        self.optimiser.zero_grad()
        losses, errors = [], []
        for i in range(self.slices):
            part = Part(i * BATCH // self.slices, (i + 1) * BATCH // self.slices, BATCH)
            torch.set_rng_state(start)
            x_0, log_snr, density, eps, labels = self._batch(part)
            with part.dropout(), mixed(self.device, PRECISIONS[recipe.precision]):
                squares = squared_errors(self.net, x_0, log_snr[part.rows], eps, labels, recipe.predicts)
            weight = self.objective(log_snr)
            loss = (expand((weight / density)[part.rows], squares) * squares).mean()
            (loss / self.slices).backward()
            losses.append(loss.item())
            errors.append(squares.detach().flatten(1).mean(1).double())
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.step, recipe.steps, recipe.learning_rate, recipe.warmup)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.ema.update_parameters(self.net)
        self.step += 1
        bits = self._observe(log_snr, density, torch.cat(errors), weight)
        self.log.note(sum(losses) / self.slices, bits)
        self._close_row()
        return {"loss": sum(losses) / self.slices}


def network(folder: Path, asked: argparse.Namespace) -> NetworkTrainer:
    generator = torch.Generator().manual_seed(5)
    x_0 = torch.rand(60, 1, 8, 8, generator=generator, dtype=torch.float64).to(torch.get_default_dtype())
    labels = torch.randint(3, (60,), generator=generator)
    recipe = NetworkRecipe(
        UNET,
        (-6.0, 6.0),
        steps=STEPS,
        batch_size=BATCH,
        warmup=5,
        classes=3,
        mirror=True,
        loss="bound",
        times=asked.times,
        precision=asked.precision,
        log_every=1,
        validate_every=8,
    )
    kind = Sliced if asked.slices > 1 else NetworkTrainer
    return kind(recipe, x_0[:40], 3, CPU, labels[:40], HeldOut(x_0[40:], labels[40:], 600), folder / "training.jsonl")


def heads(folder: Path, asked: argparse.Namespace) -> HeadTrainer:
    mixture = GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[0.09, 0.05], [0.02, 0.04]])
    model = mixture.score_model(LinearVP())
    data = mixture.sample(100, 0).to(torch.get_default_dtype())
    recipe = Recipe(steps=STEPS, batch_size=BATCH, warmup=5)
    made = {kind: new_head(kind, model, data, recipe).to(data) for kind in ("npr", "sn", "ocm", "interpolated")}
    return HeadTrainer(made, model, data, recipe, 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads", action="store_true")
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--until", type=int, default=STEPS)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--times", default="learned_net")
    parser.add_argument("--precision", default="float32")
    asked = parser.parse_args()
    torch.set_default_dtype(torch.float64 if asked.double else torch.float32)
    with processes.joined():
        learn(processes.own(asked.folder), asked)


def learn(folder: Path, asked: argparse.Namespace) -> None:
    trainer = (heads if asked.heads else network)(folder, asked)
    losses: list[dict[str, float]] = []
    advance = trainer.advance

    def told() -> dict[str, float]:
        if trainer.step == asked.until:
            raise KeyboardInterrupt
        losses.append(advance())
        return losses[-1]

    trainer.advance = told  # type: ignore[method-assign]
    checkpoint = Checkpoint(folder / "state.safetensors", {"of": "this"}, math.inf)
    try:
        train(trainer, checkpoint, CPU)
    except KeyboardInterrupt:
        return
    learned = torch.nn.ModuleDict(trainer.heads) if asked.heads else trainer.network()  # type: ignore[union-attr]
    weights = torch.cat([value.double().flatten() for value in learned.state_dict().values()])
    found = {
        "processes": processes.count(),
        "losses": losses,
        "rows": [] if asked.heads else trainer.log.rows,  # type: ignore[union-attr]
        "digest": digest_of(learned),
        "weights": weights.tolist(),
        "cost": vars(trainer.cost) if asked.heads else {},  # type: ignore[union-attr]
    }
    everywhere = processes.exchanged(found["digest"])
    assert len(set(everywhere)) == 1, "the processes learned different weights"
    if processes.number() == 0:
        (folder / "curve.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
