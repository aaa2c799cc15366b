"""`bits_per_dim`: one interface to every likelihood method, and the only loop over a data set.

All randomness of an example is a function of (seed, its index, repetition), so the result does not depend on the batch size, on
interruptions, or on how the data set is cut into shards.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.ranges import Data, DataRange, DataStatistics, as_dataset, batches
from score_sde_analytic.likelihood.bound import BITS, Bound
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.gaussian import mean_square, normal_kl
from score_sde_analytic.process.noise import LevelNoise
from score_sde_analytic.process.schedule import Schedule


@dataclass(frozen=True)
class Batch:
    """Examples on their way through a method.

    Attributes:
        x_0: (batch, *dims), on the device.
        indices: of the examples in their data set.
        repetition, seed: with the index, the key of an example's noise.
        data_range: declared range and levels, or None.
        rows: most samples in one network call, for methods that make more of an example than one.
        tick: told, between 0 and 1, how much of the batch is done.
    """

    x_0: Tensor
    indices: Sequence[int]
    repetition: int
    seed: int
    data_range: DataRange | None
    rows: int
    tick: Callable[[float], None] = lambda share: None

    @property
    def keys(self) -> list[tuple[int, ...]]:
        """One key per example."""
        return [(i, self.repetition) for i in self.indices]

    def noise(self, sample: int = 0) -> LevelNoise:
        """Noise of the forward process as a function of log-SNR; the same for every method, so that they compare in pairs.

        Args:
            sample: number of an independent copy.
        """
        return LevelNoise(self.seed, [(*key, sample) for key in self.keys], self.x_0.device)


@dataclass(frozen=True)
class Terms:
    """What a method found for a batch: nats per dimension (batch, columns), float64, and what it cost."""

    values: Tensor
    evaluations: int
    vector_products: int = 0


class Method(ABC):
    """A way to measure -log p(x_0) / d, or a bound on it."""

    @property
    def block(self) -> int | None:
        """Examples that are measured together whatever the batch size, because they share something; None for none."""
        return None

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The part each column of the terms belongs to; the columns of an example add up to its value."""

    @abstractmethod
    def config(self, model: ScoreModel) -> dict[str, Any]:
        """Plain data that identifies the method (finished work is found again by it)."""

    @abstractmethod
    def check(self, model: ScoreModel, data_range: DataRange | None) -> None:
        """Raise ValueError where the method does not fit the model or the data."""

    @abstractmethod
    def terms(self, model: ScoreModel, batch: Batch) -> Terms:
        """Measure one batch."""

    @classmethod
    def together(cls, methods: Mapping[str, Any], model: ScoreModel, batch: Batch) -> dict[str, Terms]:
        """Measure one batch by several methods of this class; those that can share network calls override it."""
        return {name: method.terms(model, batch) for name, method in methods.items()}


def prior_nats(schedule: Schedule, x_0: Tensor) -> Tensor:
    """KL(q(x_1 | x_0) || N(0, prior_variance I)) in nats per dimension, (batch,)."""
    top = schedule.level(1.0)
    return normal_kl(top.alpha**2 * mean_square(x_0), top.sigma**2, schedule.prior_variance)


@dataclass
class _Run:
    """One method's results so far."""

    method: Method
    path: Path | None
    identity: dict[str, Any]
    dim: int
    values: Array = field(repr=False)  # nats per dimension, (n, columns)
    done: Array = field(repr=False)  # (n,) bool
    evaluations: int = 0
    products: int = 0
    changed: bool = False

    def resume(self) -> None:
        if self.path is None or not self.path.exists():
            return
        found = Bound.load(self.path, self.identity)
        if len(found.indices) and (found.indices.max() >= len(self.done) or found.columns != self.method.columns()):
            raise ValueError(f"{self.path} is inconsistent with its own identity: it was changed; delete it and evaluate again")
        self.values[found.indices], self.done[found.indices] = found.terms / BITS, True
        self.evaluations, self.products = found.evaluations, found.vector_products

    def reserve(self) -> None:
        """Find out before the work, not after it, that its result cannot be written."""
        if self.path is None or self.done.all():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
            self.path.exists()
        except (OSError, ValueError) as error:
            raise ValueError(f"results cannot be written to {self.path} ({error}); choose another path") from error

    def store(self, indices: Sequence[int], terms: Sequence[Terms]) -> None:
        values = torch.stack([part.values for part in terms]).mean(0).cpu().numpy()
        if not np.isfinite(values).all():
            raise RuntimeError(
                "the likelihood holds NaN or inf: the network diverged, or the decoder or a variance is far too small"
            )
        # Examples that another run finished in other batches keep what they have, and are not counted twice.
        places = np.asarray(indices)
        fresh = ~self.done[places]
        self.values[places[fresh]], self.done[places] = values[fresh], True
        self.evaluations += sum(part.evaluations for part in terms) * int(fresh.sum()) // len(places)
        self.products += sum(part.vector_products for part in terms) * int(fresh.sum()) // len(places)
        self.changed = True

    def result(self) -> Bound:
        indices = np.flatnonzero(self.done)
        columns, terms = self.method.columns(), BITS * self.values[indices]
        return Bound(columns, terms, indices, self.dim, self.evaluations, self.products, self.identity)

    def save(self) -> None:
        if self.path is not None and self.changed:
            self.result().save(self.path)
            self.changed = False


@overload
def bits_per_dim(
    model: ScoreModel, data: Data, method: Method, data_range: DataRange | None = ..., **options: Any
) -> Bound: ...
@overload
def bits_per_dim(
    model: ScoreModel, data: Data, method: Mapping[str, Method], data_range: DataRange | None = ..., **options: Any
) -> dict[str, Bound]: ...
@torch.no_grad()  # type: ignore[misc]  # the keywords are listed once
def bits_per_dim(
    model: ScoreModel,
    data: Data,
    method: Method | Mapping[str, Method],
    data_range: DataRange | None = None,
    *,
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    path: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    save_seconds: float = 30.0,
    progress: bool = True,
) -> Bound | dict[str, Bound]:
    """-log2 p(x_0) / d of every example, or an upper bound on it, by one method or several.

    Args:
        data: examples x_0, or tuples that begin with one; map-style, and the same whenever they are read.
        method: a `Chain`, `ContinuousTime` or `Flow`; or several by name. Chains are measured in one pass: a time that occurs
            in several of them costs one network call, with the same noise.
        data_range: range and levels of the data; without levels the values are those of a density (`Bound.nats`).
        draws: independent repetitions per example, averaged.
        batch_size: most samples per network call.
        path: where results are kept, and found again; a folder when there are several methods. An interrupted evaluation
            continues from here to the identical result.
        shard: (i, n) evaluates the i-th of n parts of the data set, i = 0 .. n - 1, kept in a file of its own;
            `Bound.merge` puts the parts together.
        save_seconds: how often unfinished results are written.

    Returns:
        A `Bound`, or one per name.

    Raises:
        ValueError: no method, bad settings, empty data, data off their declared range or levels, a method that does not fit
            them, or a file of another evaluation at `path`.
        RuntimeError: a value is not finite, or an ODE solver failed.
    """
    methods = {"": method} if isinstance(method, Method) else dict(method)
    dataset = as_dataset(data)
    total, (number, shards) = len(dataset), shard  # type: ignore[arg-type]
    if draws < 1 or batch_size < 1:
        raise ValueError(f"draws and batch_size must be at least 1, got {draws} and {batch_size}")
    if not methods:
        raise ValueError("no method to evaluate: pass at least one")
    if not 0 <= number < shards:
        raise ValueError(f"shard (i, n) needs 0 <= i < n, got {shard}")
    for each in methods.values():
        each.check(model, data_range)
    statistics = DataStatistics.of(dataset, data_range, max_eigen=0)
    shared: dict[str, Any] = {"data": statistics.digest, "examples": total, "range": _plain(data_range)}
    shared |= {"seed": seed, "draws": draws, "model": _identity(model, path is not None)}
    dim = statistics.mean.numel()
    runs: dict[str, _Run] = {}
    for name, each in methods.items():
        identity = json.loads(json.dumps(shared | {"method": each.config(model)}))
        values, done = np.zeros((total, len(each.columns()))), np.zeros(total, dtype=bool)
        file = None if path is None else _file(Path(path), name, isinstance(method, Method), shard)
        same = (other for other, run in runs.items() if file is not None and str(run.path).lower() == str(file).lower())
        taken = next(same, None)
        if taken is not None:
            raise ValueError(f"the methods {taken!r} and {name!r} would share the file {file}; rename one")
        runs[name] = _Run(each, file, identity, dim, values, done)
        runs[name].resume()
    for run in runs.values():
        run.reserve()
    first = Batch(torch.empty(0, device=device), (), 0, seed, data_range, batch_size)
    unit = math.lcm(*(each.block or 1 for each in methods.values()))  # shards hold the same examples for all methods
    low, high = (min(-(-total // unit) * i // shards * unit, total) for i in (number, number + 1))
    for group in _groups(runs):
        _measure(_Pass(model, dataset, group, first, draws), range(low, high), save_seconds, progress)
    results = {name: run.result() for name, run in runs.items()}
    return results[""] if isinstance(method, Method) else results


@dataclass
class _Pass:
    """Several methods of one class on their way through a data set."""

    model: ScoreModel
    dataset: Dataset[Any]
    runs: Mapping[str, _Run]
    first: Batch  # all but the examples
    draws: int

    def advance(self, blocks: Iterable[range], bar: tqdm) -> Iterator[None]:
        """Finish block after block."""
        for block in blocks:
            show = partial(_show, bar, bar.n, len(block))
            todo = {name: run for name, run in self.runs.items() if not run.done[block].all()}
            if todo:
                self._block(todo, self._pending(todo, block), show)
            show(1.0)
            yield

    def _pending(self, todo: Mapping[str, _Run], block: range) -> Sequence[int]:
        """The examples of a block that some method still needs; all of them where they share something."""
        if next(iter(todo.values())).method.block is not None:
            return block
        return [i for i in block if not all(run.done[i] for run in todo.values())]

    def _block(self, todo: Mapping[str, _Run], indices: Sequence[int], tick: Callable[[float], None]) -> None:
        x_0 = next(batches(self.dataset, indices, len(indices))).to(self.first.x_0.device)
        methods = {name: run.method for name, run in todo.items()}
        together, found = type(next(iter(methods.values()))).together, []
        for r in range(self.draws):
            share = partial(_share, tick, r, self.draws)
            batch = replace(self.first, x_0=x_0, indices=indices, repetition=r, tick=share)
            found.append(together(methods, self.model, batch))
        for name, run in todo.items():
            run.store(indices, [terms[name] for terms in found])


def _show(bar: tqdm, start: float, size: int, share: float) -> None:
    bar.update(max(start + size * share - bar.n, 0.0))


def _share(tick: Callable[[float], None], part: int, parts: int, share: float) -> None:
    tick((part + share) / parts)


def _measure(work: _Pass, shard: range, save_seconds: float, progress: bool) -> None:
    """Take the unfinished examples of the shard through the methods; what is finished is on disk, whatever happens."""
    runs, saved = list(work.runs.values()), time.monotonic()
    size = runs[0].method.block or work.first.rows
    blocks = [range(start, min(start + size, shard.stop)) for start in range(shard.start, shard.stop, size)]
    title = type(runs[0].method).__name__ + (f" x {len(runs)}" if len(runs) > 1 else "")
    total = sum(len(block) for block in blocks)
    with tqdm(total=total, desc=title, unit=" examples", unit_scale=True, disable=not progress, leave=False) as bar:
        try:
            for _ in work.advance(blocks, bar):
                if time.monotonic() - saved > save_seconds:
                    for run in runs:
                        run.save()
                    saved = time.monotonic()
        finally:
            for run in runs:
                run.save()


def _groups(runs: Mapping[str, _Run]) -> list[dict[str, _Run]]:
    """Methods of one class (and block) are measured together."""
    groups: dict[Any, dict[str, _Run]] = {}
    for name, run in runs.items():
        groups.setdefault((type(run.method), run.method.block), {})[name] = run
    return list(groups.values())


def _file(path: Path, name: str, single: bool, shard: tuple[int, int]) -> Path:
    file = path if single else path / f"{name.replace('/', '_')}.safetensors"
    return file if shard[1] == 1 else file.with_name(f"{file.stem}-{shard[0] + 1}of{shard[1]}{file.suffix}")


def _identity(model: ScoreModel, needed: bool) -> dict[str, Any] | None:
    """The model's fingerprint; None for a network without weights, where no file depends on it."""
    try:
        return model.fingerprint()
    except ValueError:
        if needed:
            raise
        return None


def _plain(data_range: DataRange | None) -> list[Any] | None:
    return None if data_range is None else [data_range.lo, data_range.hi, data_range.levels]


def digest(*values: Any) -> str:
    """A short name of plain data."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
