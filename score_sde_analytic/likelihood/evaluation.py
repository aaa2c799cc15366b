"""`bits_per_dim`: one interface to every likelihood method, and the only loop over a data set.

All randomness of an example is a function of (seed, its index, repetition), so the result does not depend on the batch size, on
interruptions, or on how the data set is cut into shards.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.arrays import Array, available, onto
from score_sde_analytic.checks import each, settle, whole
from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.data.portions import STATE_BYTES, batch_by_bytes
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.files import plain
from score_sde_analytic.interruption import save_points
from score_sde_analytic.likelihood.bound import BITS, Bound
from score_sde_analytic.likelihood.method import Batch, Method, Progress, Terms
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.receipt import dealt
from score_sde_analytic.processes import mine, own
from score_sde_analytic.shards import Shard

GUIDED = (
    "the model is {}: these are the bits of a model that is pushed off the data, above those of the conditional one by"
    " `guidance.guidance_price`, and say nothing of the network's likelihood; measure the model inside for that"
)


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
    statistics: DataStatistics | None = None,
    device: torch.device | str = "cpu",
    path: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> Bound | dict[str, Bound]:
    """-log2 p(x_0) / d of every example, or an upper bound on it, by one method or several.

    Args:
        data: examples x_0, or tuples that begin with one; map-style, and the same whenever they are read.
        method: a `Chain`, `ContinuousTime` or `Flow`; or several by name. Chains are measured in one pass: a time that occurs
            in several of them costs one network call, with the same noise.
        data_range: range and levels of the data; without levels the values are those of a density (`Bound.nats`).
        draws: independent repetitions per example, averaged.
        batch_size: most samples per network call; fewer of large ones (`data.portions`).
        statistics: of these data, where they were measured before: then the data are not read as a whole to know them again.
        path: where results are kept, and found again; a folder when there are several methods. An interrupted evaluation
            continues from here to the identical result.
        shard: (i, n) evaluates the i-th of n parts of the data set, i = 0 .. n - 1, kept in a file of its own;
            `Bound.merge` puts the parts together.

    Returns:
        A `Bound`, or one per name.

    Warns:
        of a guided model, whose bits are not those of its network.

    Raises:
        InputError: no method, bad settings, empty data, data off their declared range or levels, a method that does not fit
            them, or a file of another evaluation at `path`.
        RunError: a value is not finite, or an ODE solver failed.

    >>> print(bits_per_dim(model, data, study.chain(3), progress=False).total)
    1.292 ± 0.064
    """
    single = isinstance(method, Method)
    methods = {"": method} if isinstance(method, Method) else dict(method)
    dataset = as_dataset(data, data_range)
    rows = batch_by_bytes(dataset.first.numel(), whole(1)("batch_size", batch_size), STATE_BYTES)
    examples = _Examples(dataset, data_range, draws, seed, rows, available(device))
    if not methods:
        raise InputError("no method to evaluate: pass at least one")
    part = Shard(*each(whole(0), 2, 2)("shard", shard))
    files = dict.fromkeys(methods) if path is None else _files(own(Path(path)), methods, single, part)
    for one in methods.values():
        one.check(model, data_range)
    if model.guidance:
        warnings.warn(GUIDED.format(model.guidance), stacklevel=2)
    ledgers = _ledgers(model, examples, methods, files, examples.digest(statistics, progress))
    unit = math.lcm(*(one.block or 1 for one in methods.values()))  # shards hold the same examples for all methods
    for group in _groups(ledgers):
        _Pass(model, examples, group).run(part.part(len(examples), unit), progress)
    results = {name: ledger.result() for name, ledger in ledgers.items()}
    return results[""] if single else results


def _files(path: Path, names: Iterable[str], single: bool, shard: Shard) -> dict[str, Path]:
    """The file of every method: `path` itself for a single one, else in that folder."""
    files: dict[str, Path] = {}
    for name in names:
        file = shard.file(path if single else path / f"{name.replace('/', '_')}.safetensors")
        taken = next((other for other, kept in files.items() if str(kept).lower() == str(file).lower()), None)
        if taken is not None:
            raise InputError(f"the methods {taken!r} and {name!r} would share the file {file}; rename one")
        files[name] = file
    return files


@dataclass(frozen=True)
class _Examples:
    """The data of an evaluation and the key of their noise: what all of its methods share."""

    dataset: Examples
    data_range: DataRange | None
    draws: Annotated[int, whole(1)]
    seed: Annotated[int, whole(0)]
    rows: Annotated[int, whole(1)]
    device: torch.device

    def __post_init__(self) -> None:
        settle(self)

    def __len__(self) -> int:
        return len(self.dataset)

    def digest(self, known: DataStatistics | None, progress: bool) -> str:
        """Of the data, from their statistics where those are given."""
        if known is None:
            known = DataStatistics.of(self.dataset, self.data_range, max_eigen=0, progress=progress)
        if known.count != len(self):
            raise InputError(
                f"the statistics are of {known.count or 'a distribution, not of'} examples, the data have {len(self)}; pass"
                " DataStatistics.of these data, or none"
            )
        return known.digest

    def identity(self, digest: str, model: dict[str, Any] | None) -> dict[str, Any]:
        """Plain data that decide the result of any method."""
        declared = self.data_range
        limits = None if declared is None else [declared.lo, declared.hi, declared.levels]
        settings = {"data": digest, "examples": len(self), "range": limits}
        settings |= {"space": self.dataset.space} if self.dataset.space else {}
        return settings | {"seed": self.seed, "draws": self.draws, "model": model}

    def repetitions(self, x_0: Tensor, indices: Sequence[int], progress: Progress) -> Iterator[Batch]:
        """The same examples once per draw."""
        x_0 = onto(x_0, self.device)
        for r in range(self.draws):
            yield Batch(x_0, indices, r, self.seed, self.data_range, self.rows, progress.part(r, self.draws))


def _identity(model: ScoreModel, needed: bool) -> dict[str, Any] | None:
    """The model's fingerprint; None for a network without weights, where no file depends on it."""
    try:
        return model.fingerprint()
    except ValueError:
        if needed:
            raise
        return None


@dataclass
class _Ledger:
    """One method's results so far, and the file that keeps them."""

    method: Method
    path: Path | None
    identity: dict[str, Any]
    dim: int
    values: Array = field(repr=False)  # nats per dimension, (n, columns)
    done: Array = field(repr=False)  # (n,) bool
    evaluations: int = 0
    vector_products: int = 0
    changed: bool = False

    @classmethod
    def open(cls, method: Method, path: Path | None, identity: dict[str, Any], dim: int, examples: int) -> _Ledger:
        """What the file holds, or an empty ledger."""
        values = np.zeros((examples, len(method.columns())))
        ledger = cls(method, path, identity, dim, values, np.zeros(examples, dtype=bool))
        if path is not None and path.exists():
            ledger._resume(Bound.load(path, identity))
        return ledger

    def _resume(self, saved: Bound) -> None:
        beyond = len(saved.indices) and saved.indices.max() >= len(self.done)
        if beyond or saved.columns != self.method.columns():
            raise InputError(f"{self.path} is inconsistent with its own identity: it was changed; delete it and evaluate again")
        self.values[saved.indices] = saved.terms / BITS
        self.done[saved.indices] = True
        self.evaluations = saved.evaluations
        self.vector_products = saved.vector_products

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
            raise InputError(f"results cannot be written to {self.path} ({error}); choose another path") from error

    def store(self, indices: Sequence[int], draws: Sequence[Terms]) -> None:
        """Enter the mean over draws of some examples."""
        values = torch.stack([terms.values for terms in draws]).mean(0).cpu().numpy()
        if not np.isfinite(values).all():
            raise RunError(
                "the likelihood holds NaN or inf: the network diverged, or the decoder or a variance is far too small"
            )
        # Examples that another run finished in other batches keep what they have, and are not counted twice.
        places = np.asarray(indices)
        fresh = ~self.done[places]
        self.values[places[fresh]] = values[fresh]
        self.done[places] = True
        self.evaluations += sum(terms.evaluations for terms in draws) * int(fresh.sum()) // len(places)
        self.vector_products += sum(terms.vector_products for terms in draws) * int(fresh.sum()) // len(places)
        self.changed = True

    def result(self) -> Bound:
        indices = np.flatnonzero(self.done)
        terms = BITS * self.values[indices]
        costs = self.evaluations, self.vector_products
        return Bound(self.method.columns(), terms, indices, self.dim, *costs, self.identity)

    def save(self) -> None:
        if self.path is not None and self.changed:
            self.result().save(self.path)
            self.changed = False


def _ledgers(
    model: ScoreModel, examples: _Examples, methods: Mapping[str, Method], files: Mapping[str, Path | None], data: str
) -> dict[str, _Ledger]:
    """A ledger per method, each sure of its file."""
    kept = any(file is not None for file in files.values())
    shared = examples.identity(data, _identity(model, kept))
    dim = examples.dataset.first.numel()
    ledgers = {}
    for name, method in methods.items():
        identity = plain(shared | {"method": method.config(model)})
        ledgers[name] = _Ledger.open(method, files[name], identity, dim, len(examples))
    for ledger in ledgers.values():
        ledger.reserve()
    return ledgers


def _groups(ledgers: Mapping[str, _Ledger]) -> list[dict[str, _Ledger]]:
    """Methods of one class (and block) are measured together."""
    groups: dict[Any, dict[str, _Ledger]] = {}
    for name, ledger in ledgers.items():
        groups.setdefault((type(ledger.method), ledger.method.block), {})[name] = ledger
    return list(groups.values())


@dataclass(frozen=True)
class _Pass:
    """Methods of one class on their way through the examples."""

    model: ScoreModel
    examples: _Examples
    ledgers: Mapping[str, _Ledger]

    @property
    def method(self) -> Method:
        """Any of them: class and block are the same."""
        return next(iter(self.ledgers.values())).method

    def run(self, shard: range, progress: bool) -> None:
        """Finish the shard, block by block; what is finished is on disk, whatever happens."""
        size = self.method.block or self.examples.rows
        title = type(self.method).__name__ + (f" x {len(self.ledgers)}" if len(self.ledgers) > 1 else "")
        with (
            tqdm(total=len(shard), desc=title, unit=" examples", unit_scale=True, disable=not progress, leave=False) as bar,
            save_points(self._save, self._kept, dealt=True) as point,
        ):
            blocks = [range(start, min(start + size, shard.stop)) for start in range(shard.start, shard.stop, size)]
            left = [block for block in blocks if self._lacking(block)]
            bar.update(len(shard) - sum(map(len, left)))
            self.examples.dataset.expect(i for block in mine(left) for i in self._indices(block))

            def measure(block: range) -> dict[str, list[Terms]]:
                return self._measure(block, Progress(lambda position: _move(bar, position), bar.n, len(block)))

            reached = bar.n
            for ledger in self.ledgers.values():
                ledger.changed |= not shard  # a part that holds nothing is a part
            try:
                for block, found in zip(left, dealt(self.model, measure, left), strict=True):
                    self._store(block, found)
                    _move(bar, reached := reached + len(block))
                    point()
            except Exception:
                self._save()
                raise
        self._save()

    def _kept(self) -> str:
        """What an interruption leaves."""
        kept = [ledger for ledger in self.ledgers.values() if ledger.path is not None]
        places = [f"{int(ledger.done.sum())} of {len(ledger.done)} examples are in {ledger.path}" for ledger in kept]
        return "; ".join(places) or "no path keeps what was measured"

    def _save(self) -> None:
        for ledger in self.ledgers.values():
            ledger.save()

    def _measure(self, block: range, progress: Progress) -> dict[str, list[Terms]]:
        """Every draw of a block, by each method that still lacks some of it."""
        methods = {name: ledger.method for name, ledger in self._lacking(block).items()}
        indices = self._indices(block)
        x_0, conditions = self.examples.dataset.batch(indices)
        model = self.model.for_batch(conditions, self.examples.device)
        repetitions = self.examples.repetitions(x_0, indices, progress)
        draws = [type(self.method).together(methods, model, batch) for batch in repetitions]
        return {name: [terms[name] for terms in draws] for name in methods}

    def _store(self, block: range, found: Mapping[str, Sequence[Terms]]) -> None:
        indices = self._indices(block)
        for name, draws in found.items():
            self.ledgers[name].store(indices, draws)

    def _lacking(self, block: range) -> dict[str, _Ledger]:
        return {name: ledger for name, ledger in self.ledgers.items() if not ledger.done[block].all()}

    def _indices(self, block: range) -> Sequence[int]:
        """The examples of a block that some method still needs; all of them where they share something."""
        lacking = self._lacking(block)
        if self.method.block is not None:
            return block
        return [i for i in block if not all(ledger.done[i] for ledger in lacking.values())]


def _move(bar: tqdm, position: float) -> None:
    bar.update(max(position - bar.n, 0.0))


def digest(*values: Any) -> str:
    """A short name of plain data."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
