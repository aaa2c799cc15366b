"""What training tells on the way, in bits per dimension: the bound's transitions on its own batches, and on held-out data.

    transitions = 1/2 integral of R dlam / log 2,   R = E||eps - eps_hat||^2 / d

over the training range of log-SNR; of the loss "discrete", those of its steps. Every batch is an unbiased estimate of it at the
network of that step, dropout and all, whatever the loss, as the weights 1 / pi are known: a row averages those since the last.
Held-out data are measured with the averaged network that is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from score_sde_analytic.arrays import onto
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.files import plain, write_text
from score_sde_analytic.models.proposals import Proposal
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.processes import dealt
from score_sde_analytic.uncertainty import Estimate

#: Examples of held-out data in one call of the network.
BATCH = 256
#: (x_0, log-SNR, eps, labels) -> r of each example.
Residual = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class TrainingLog:
    """Rows of step, mean loss, bits/dim of training batches and of held-out data, with standard errors; a line of JSON each.

    Args:
        path: its file, written anew with every row; None for none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._window: list[list[float]] = []

    def note(self, loss: float, bits: float) -> None:
        """What a step was."""
        self._window.append([loss, bits])

    @property
    def open(self) -> bool:
        """Whether there are steps that no row tells of."""
        return bool(self._window)

    def close(self, step: int, held_out: Estimate | None = None) -> None:
        """A row of the steps since the last."""
        loss, bits = np.array(self._window).T
        row = {"step": step, "loss": loss.mean()} | _told("train", Estimate.of(bits))
        self.rows.append(plain(row | ({} if held_out is None else _told("validation", held_out))))
        self._window = []
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in self.rows))

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        return {"rows": self.rows, "window": self._window}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the file is what it was then."""
        self.rows = [dict(row) for row in state["rows"]]
        self._window = [list(each) for each in state["window"]]
        self._write()


def _told(name: str, bits: Estimate) -> dict[str, float | None]:
    return {f"{name}_bits": bits.value, f"{name}_stderr": bits.stderr if math.isfinite(bits.stderr) else None}


def bits_of(proposal: Proposal, residual: Float[Tensor, " n"], density: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """(high - low) / 2 r / pi / log 2: unbiased of the transitions, one by one.

    >>> from score_sde_analytic.models.proposals import Even
    >>> bits_of(Even(-8.0, 7.0), torch.ones(1), torch.ones(1))
    tensor([10.8202], dtype=torch.float64)
    """
    return 0.5 * (proposal.high - proposal.low) / math.log(2.0) * residual.double().cpu() / density.double().cpu()


@dataclass(frozen=True)
class HeldOut:
    """Data that were not trained on, and how often the network is asked about them.

    Attributes:
        labels: their classes, where the network takes them.
        draws: evaluations; the same examples, shares and noise each time.
    """

    data: Data
    labels: Int64[Tensor, " n"] | None = None
    draws: int = 600

    def bits(self, residual: Residual, proposal: Proposal, seed: int, device: torch.device) -> Estimate:
        """The transitions on them, with the standard error of the examples."""
        return Estimate.of(self.per_example(residual, proposal, seed, device))

    def per_example(self, residual: Residual, proposal: Proposal, seed: int, device: torch.device) -> Float64[np.ndarray, " n"]:
        """The transitions of each of them, at as many noise levels, which are stratified over all."""
        examples = as_dataset(self.data)
        count = min(len(examples), self.draws)
        times = self.draws // count
        generator = torch.Generator().manual_seed(stream_seed(seed, 0, 1))
        chosen = torch.randperm(len(examples), generator=generator)[:count].repeat(times)
        strata = torch.randperm(count * times, generator=generator)
        shares = (strata + torch.rand(count * times, generator=generator, dtype=torch.float64)) / (count * times)
        log_snr, density = proposal.draw(shares)

        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            """Draws, and where their noise begins."""
            for block in torch.arange(count * times).split(BATCH):
                yield block, generator.get_state()
                torch.randn(len(block), *examples.shape, generator=generator)

        def measured(batch: tuple[Tensor, Tensor]) -> Tensor:
            block, state = batch
            rows = chosen[block]
            noise = torch.Generator()
            noise.set_state(state)
            eps = torch.randn(len(block), *examples.shape, generator=noise)
            x_0 = onto(examples.take(rows.tolist()), device)
            labels = None if self.labels is None else self.labels[rows].to(device)
            return residual(x_0, log_snr[block], eps.to(device), labels).cpu()

        bits = bits_of(proposal, torch.cat(list(dealt(measured, blocks()))), density)
        return bits.view(times, count).mean(0).numpy()
