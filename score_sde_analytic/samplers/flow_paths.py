"""Paths of a network's own flow, recorded once: what tables are fitted to.

x(lam') / sigma' = x(lam) / sigma + 1/2 int_lam^lam' exp(l / 2) m(l) dl,   m = x0_hat along the path

in variance-preserving coordinates. The flow is linear in what the network said, so paths are kept as z, their first states and
their predictions; states follow, between recorded levels by a cubic through the predictions on both sides. The solver itself
extrapolates by a parabola through the last three predictions (third order).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.special import expit
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic import processes
from score_sde_analytic.arrays import Array, available, kept, numbers, slices
from score_sde_analytic.checks import SEED, each, whole
from score_sde_analytic.data.examples import Rows
from score_sde_analytic.declared import require_arrays
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, plain, require_match, save_arrays
from score_sde_analytic.interruption import save_points
from score_sde_analytic.models.conditions import OfSamples, of_samples
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.models.identity import weights_digest
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.receipt import Receipt, dealt
from score_sde_analytic.process.noise import SampleNoise

KIND = "flow paths"
#: Before the name of a condition in a file.
CONDITION = "condition."
AGAIN = "delete it and record the paths again"
#: Second key of the noise of paths, so that no sample is drawn from the start of a path.
PATHS = 1
#: Predictions behind a level that the solver extrapolates, and around it that states between levels interpolate.
BEHIND, AROUND = 3, 4
COST = {"calls": int, "evaluations": int, "vector_products": int}
IDENTITY = {"model": dict, "start": dict, "seed": int, "count": int, "batch_size": int, "shape": [int], "log_snrs": [float]}
SHAPE = {"identity": IDENTITY, "known": [range(1 << 31)], "cost": COST}


def preserving(log_snr: float) -> tuple[float, float]:
    """(alpha, sigma) with alpha^2 + sigma^2 = 1 at a log-SNR.

    >>> preserving(0.0)
    (0.707, 0.707)
    """
    return float(expit(log_snr)) ** 0.5, float(expit(-log_snr)) ** 0.5


def exponential_weights(nodes: ArrayLike, start: float, end: float) -> tuple[float, Float64[Array, " n"]]:
    """(r, w): x(end) = r x(start) + sum_j w_j m(node_j), exact where m is a polynomial in log-SNR of degree below n.

    >>> r, w = exponential_weights([0.0], 0.0, 1.0)
    >>> (r * preserving(0.0)[0] + w).round(6) == round(preserving(1.0)[0], 6)
    array([ True])
    """
    at = np.asarray(nodes, dtype=np.float64)
    places, shares = np.polynomial.legendre.leggauss(12)
    lam = start + 0.5 * (end - start) * (places + 1.0)
    alpha, sigma = preserving(end)
    kernel = 0.25 * (end - start) * shares * np.exp(0.5 * (lam - end))
    return sigma / preserving(start)[1], alpha * (lagrange(at, lam) @ kernel)


def lagrange(nodes: Float64[Array, " n"], at: Float64[Array, " m"]) -> Float64[Array, "n m"]:
    """Lagrange's polynomials of some nodes.

    >>> lagrange(np.array([0.0, 1.0]), np.array([0.25]))
    array([[0.75],
           [0.25]])
    """
    factors = [[(at - other) / (node - other) for other in nodes if other != node] for node in nodes]
    return np.stack([np.prod([np.ones_like(at), *product], axis=0) for product in factors])


@dataclass(frozen=True, eq=False)
class FlowPaths:
    """Recorded paths.

    Attributes:
        log_snrs: of the T network calls, ascending.
        z: (n, *shape), the noise that they begin with.
        first: (n, *shape), their states at the first level.
        predictions: (T, n, *shape), x0_hat; the last are the paths' ends.
        identity: plain data: of the model, the start, the noise and the levels.
        cost: network calls spent.
        conditions: on which the network made its predictions, (n, ..) each.
    """

    log_snrs: Array
    z: Tensor
    first: Tensor
    predictions: Tensor
    identity: Mapping[str, Any]
    cost: Receipt
    conditions: Rows = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.z)

    @classmethod
    def load(cls, path: str | Path) -> FlowPaths:
        """Read what `record_paths` wrote.

        Raises:
            MissingFileError: no such file.
            InputError: it is damaged, or not finished.
        """
        arrays, metadata = _read(path)
        if sum(metadata["known"]) < _calls(metadata["identity"]):
            raise InputError(f"{path} is not finished; call record_paths again with its settings")
        return _made(arrays, metadata["identity"], Receipt(**metadata["cost"]))


def record_paths(
    model: ScoreModel,
    start: FreeModel,
    shape: Sequence[int],
    log_snrs: ArrayLike,
    *,
    count: int = 100,
    conditions: OfSamples | None = None,
    seed: int = 0,
    batch_size: int = 50,
    path: str | Path | None = None,
    save_seconds: float = 30.0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> FlowPaths:
    """Record paths of the network's flow: `count` x T network evaluations, resumable to the identical result.

    Args:
        start: where they begin, without a network call: on its own flow, at the first level. Choose a level above which the
            network knows no more than it.
        shape: of one example.
        log_snrs: of the T calls, ascending, within the schedule's range; `useful_log_snrs` gives some.
        conditions: of the paths, as `generate` takes them.
        batch_size: paths per network call.
        path: where progress and the result are kept; an existing file is resumed, or returned when finished.

    Raises:
        InputError: levels that do not ascend, or a file of other paths at `path`.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> paths = record_paths(model, LinearDenoiser.of(data), (2,), np.linspace(-4, 6, 8), count=20, progress=False)
    >>> paths.predictions.shape, paths.cost.evaluations
    (torch.Size([8, 20, 2]), 160)
    """
    levels, device = numbers("log_snrs", log_snrs).ravel(), available(device)
    if len(levels) < 2 or np.any(np.diff(levels) <= 0):
        raise InputError("need at least two log-SNRs, ascending; the first is where the paths begin")
    count, batch_size = whole(1)("count", count), whole(1)("batch_size", batch_size)
    identity = {
        "model": plain(model.fingerprint()),
        "start": plain(start.config()),
        "seed": SEED("seed", seed),
        "count": count,
        "batch_size": batch_size,
        "shape": list(each(whole(1))("shape", shape)),
        "log_snrs": levels.tolist(),
    }
    rows = of_samples(conditions, range(count)).arguments(count) if conditions else {}
    if rows:
        identity["conditions"] = weights_digest(rows)[:16]
    recording = _Recording(model.for_batch(rows, device), start, identity, device, rows)
    return recording.finish(None if path is None else processes.own(Path(path)), save_seconds, progress)


class _Recording:
    """Predictions so far; `known` counts the levels that each batch of paths has, from the first on."""

    def __init__(
        self,
        model: ScoreModel,
        start: FreeModel,
        identity: Mapping[str, Any],
        device: torch.device | str,
        conditions: Rows,
    ) -> None:
        self.model = model
        self.conditions = conditions
        self.identity = identity
        self.device = device
        self.levels = [model.schedule.level_at(log_snr) for log_snr in identity["log_snrs"]]
        count, shape = identity["count"], identity["shape"]
        self.z = SampleNoise(identity["seed"], [(i, PATHS) for i in range(count)]).draw(torch.empty(count, *shape)).clone()
        self.first = start.start(self.z, self.levels[0]) / self.levels[0].norm
        self.predictions = torch.zeros(len(self.levels), count, *shape)
        self.batches = slices(count, identity["batch_size"])
        self.known = [0] * len(self.batches)
        self._states: dict[int, tuple[int, Tensor]] = {}
        self.cost = Receipt()

    def finish(self, path: Path | None, save_seconds: float, progress: bool) -> FlowPaths:
        if path is not None and path.exists():
            self._resume(path)
        with (
            tqdm(total=_calls(self.identity), desc="flow paths", unit="call", disable=not progress) as bar,
            save_points(lambda: self._save(path), lambda: self._kept(path), save_seconds, dealt=True) as point,
        ):
            bar.update(sum(self.known))
            for _ in self._advance():
                bar.update()
                point()
        self._save(path)
        levels = np.array(self.identity["log_snrs"])
        return FlowPaths(levels, self.z, self.first, self.predictions, self.identity, self.cost, self.conditions)

    def _kept(self, path: Path | None) -> str:
        return f"{self.cost.evaluations} network evaluations of flow paths are {'lost' if path is None else f'in {path}'}"

    def _advance(self) -> Iterator[None]:
        """Call by call; what is known already is gone through again, for the state that it leads to."""
        numbers = range(len(self.batches))
        for group in slices(len(numbers), processes.count()):  # as many batches at once as there are processes
            for level in range(len(self.levels)):
                lacking = [number for number in numbers[group] if self.known[number] == level]
                with self.model.metered() as cost:
                    found = zip(lacking, dealt(self.model, self._call, lacking), strict=True)
                    for number, x_0 in found:
                        self.predictions[level, self.batches[number]] = x_0
                        self.known[number] += 1
                self.cost.add(**vars(cost))
                yield from [None] * len(lacking)
            self._states.clear()

    @torch.no_grad()
    def _call(self, number: int) -> Tensor:
        """x0_hat of a batch at the first level that it lacks."""
        level = self.known[number]
        x = self._state(number, level)
        x_t = (x.float() * self.levels[level].norm).to(self.device)
        return self.model.rows(self.batches[number]).predict(x_t, self.levels[level]).x_0.cpu()

    def _state(self, number: int, level: int) -> Tensor:
        """The state of a batch at a level up to which predictions are known, on from the last that was asked for."""
        rows = self.batches[number]
        at, x = self._states.get(number, (0, self.first[rows].double()))
        for between in range(at, level):
            x = self._carried(x, rows, between + 1)
        self._states[number] = level, x
        return x

    def _carried(self, x: Tensor, rows: slice, level: int) -> Tensor:
        """The state at a level, from the one before it and the predictions there and further back."""
        known = range(max(0, level - BEHIND), level)
        log_snrs = self.identity["log_snrs"]
        r, weights = exponential_weights([log_snrs[j] for j in known], log_snrs[level - 1], log_snrs[level])
        return r * x + sum(w * self.predictions[j, rows].double() for w, j in zip(weights.tolist(), known, strict=True))

    def _save(self, path: Path | None) -> None:
        if path is None:
            return
        arrays = {"z": self.z.numpy(), "first": self.first.numpy(), "predictions": self.predictions.numpy()}
        arrays |= {CONDITION + name: kept(rows).numpy() for name, rows in self.conditions.items()}
        metadata = {"kind": KIND, "identity": self.identity, "known": self.known, "cost": vars(self.cost)}
        save_arrays(path, arrays, metadata)

    def _resume(self, path: Path) -> None:
        arrays, metadata = _read(path)
        require_match(path, metadata["identity"], self.identity)
        self.z, self.first, self.predictions = (torch.from_numpy(arrays[name].copy()) for name in ("z", "first", "predictions"))
        self.known = list(metadata["known"])
        self.cost = Receipt(**metadata["cost"])


def _calls(identity: Mapping[str, Any]) -> int:
    """Network calls of batches in all."""
    return len(identity["log_snrs"]) * -(-identity["count"] // identity["batch_size"])


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, metadata = load_arrays(path, KIND, shape=SHAPE, cure=AGAIN)
    identity = metadata["identity"]
    one = " ".join(map(str, (identity["count"], *identity["shape"])))
    declared = {"z": one, "first": one, "predictions": f"{len(identity['log_snrs'])} {one}"}
    require_arrays(arrays, {name: f"float32 {axes}" for name, axes in declared.items()}, path, AGAIN)
    return arrays, metadata


def _made(arrays: Mapping[str, np.ndarray], identity: Mapping[str, Any], cost: Receipt) -> FlowPaths:
    z, first, predictions = (torch.from_numpy(arrays[name].copy()) for name in ("z", "first", "predictions"))
    given = {name.removeprefix(CONDITION): a for name, a in arrays.items() if name.startswith(CONDITION)}
    conditions = {name: torch.from_numpy(rows.copy()) for name, rows in given.items()}
    return FlowPaths(np.array(identity["log_snrs"]), z, first, predictions, identity, cost, conditions)
