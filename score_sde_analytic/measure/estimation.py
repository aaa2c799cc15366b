"""The one Monte Carlo pass: moments of a network at log-SNR knots, resumable to the identical result.

Examples are visited in seeded permutations; a round gives every unfinished knot one batch. Observers see every draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.arrays import Array, ahead, available, fetched, numbers, onto, sent
from score_sde_analytic.checks import whole
from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.data.portions import together
from score_sde_analytic.data.ranges import DataRange, check_examples
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.files import load_arrays, plain
from score_sde_analytic.interruption import save_points
from score_sde_analytic.measure.answers import ANSWERS, relative_tolerance
from score_sde_analytic.measure.budget import DEFAULT, Budget
from score_sde_analytic.measure.knots import knots_in_doubt
from score_sde_analytic.measure.moments import DECODER_RATIOS, KIND, OUTCOMES, Moments
from score_sde_analytic.measure.outcomes import COLUMNS, Draws, Outcomes, some_coordinates
from score_sde_analytic.measure.visits import known, visited
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import Receipt, dealt
from score_sde_analytic.process.noise import stream_seed
from score_sde_analytic.processes import own
from score_sde_analytic.shards import Shard

#: The running sums, with the axis of their knots.
SUMS = {"counts": 1, "sums": 1, "products": 0, "decoder_sums": 1, "squares": 1}


class Observer(Protocol):
    """Keeps something of every draw of the pass besides the moments; its arrays are stored with them."""

    def config(self) -> dict[str, Any]:
        """Identity of what is kept."""

    def begin(self) -> None:
        """A pass begins: forget what an earlier one left."""

    def observed(
        self, examples: Int64[np.ndarray, " batch"], eps: Float[Tensor, " batch *dims"], prediction: Prediction
    ) -> Any:
        """What a batch of draws adds to what is kept: arrays, made in whichever process has the batch."""

    def add(self, knot: int, examples: Int64[np.ndarray, " batch"], observed: Any) -> None:
        """Enter it, in every process and in the order of the batches."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was kept so far."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from saved arrays."""

    def merge(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What the shards of a pass kept, put together in their order."""


def estimate(
    model: ScoreModel,
    data: Data,
    log_snr: ArrayLike,
    budget: Budget = DEFAULT,
    *,
    statistics: DataStatistics | None = None,
    data_range: DataRange | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    save_seconds: float = 30.0,
    observers: Mapping[str, Observer] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Moments:
    """Measure the moments of a network on data.

    Examples are visited in seeded permutations. A round gives every unfinished knot one batch. Once all are finished, knots are
    added where the curve between them is in doubt (`Budget.most_knots`).

    Args:
        data: examples x_0, or tuples that begin with one; map-style.
        log_snr: knots, within the schedule's range.
        budget: draws per knot.
        statistics: of the data; measured here when absent, of large data only on the examples that the pass may draw. A
            closed-form distribution (count 0) gains a control variate.
        data_range: declared range and levels; checked, and the decoder of the reconstruction table.
        path: where progress and the result are kept; an existing file is resumed, or returned when finished.
        save_seconds: how often progress is written.
        observers: see every draw and keep what they want of it, in the same file.

    Raises:
        InputError: bad knots, empty or out-of-range data, data that are all the same, or a file of another run at `path`.
        RunError: the network returned a wrong shape or non-finite numbers.

    >>> moments = estimate(model, data, [-4.0, 0.0, 4.0], Budget(max_draws=300), progress=False)
    >>> moments.residual.round(2)
    array([0.01, 0.35, 0.82])
    """
    knots = np.sort(numbers("log_snr", log_snr).ravel())
    if len(knots) == 0 or np.any(np.diff(knots) <= 0):
        raise InputError("need at least one knot, all different")
    dataset = as_dataset(data, data_range)
    seed = whole(0)("seed", seed)
    statistics, drawn = known(dataset, statistics, budget.max_draws, seed, data_range, progress)
    statistics.require_spread()
    identity = {
        "model": plain(model.fingerprint()),
        "data": statistics.digest,
        "examples": drawn,
        "data_variance": statistics.variance,
        "seed": seed,
        "groups": budget.groups,
        "decoder": None if data_range is None else [data_range.lo, data_range.hi, data_range.levels],
        "knots": knots.tolist(),
        "settings": budget.settings(),
        "observers": {name: plain(observer.config()) for name, observer in (observers or {}).items()},
    } | ({"space": dataset.space} if dataset.space else {})
    shard = Shard(*budget.shard)
    identity |= {"shard": list(budget.shard)} if shard else {}
    run = _Pass(model, dataset, statistics, data_range, identity, available(device), observers or {}, shard)
    return run.finish(None if path is None else own(shard.file(path)), save_seconds, progress)


@dataclass(frozen=True)
class _Drawn:
    """What a batch of draws of one knot came to.

    Attributes:
        values: [Lambda, X, R, controls minus their means] per draw.
        nats: of the decoders, per draw.
        observed: by observer.
        cost: of the network.
    """

    values: Float64[Array, "batch 6"]
    nats: Float64[Array, "batch r"]
    observed: Mapping[str, Any]
    cost: Receipt


class _Pass:
    """The running sums of one estimate and the position of its next batch.

    Attributes:
        knots: in the order in which they were added.
        round, knot: of the next batch; `knot` counts places in `active`.
        active: knots that are not finished.
        advanced: whether anything was drawn, or a round ended, since the pass was made or resumed.
    """

    def __init__(
        self,
        model: ScoreModel,
        dataset: Examples,
        statistics: DataStatistics,
        data_range: DataRange | None,
        identity: Mapping[str, Any],
        device: torch.device,
        observers: Mapping[str, Observer],
        shard: Shard,
    ) -> None:
        self.model = model
        self.shard = shard
        self.dataset = dataset
        self.statistics = statistics
        self.data_range = data_range
        self.identity = identity
        self.settings = identity["settings"]
        self.device = device
        self.outcomes = Outcomes(statistics, data_range)
        self.observers = observers
        self.knots = np.array(identity["knots"])
        self.levels = [model.schedule.level_at(log_snr) for log_snr in self.knots]
        g = identity["groups"]
        m = len(self.knots)
        self.counts = np.zeros((g, m))
        self.sums = np.zeros((g, m, COLUMNS))
        self.products = np.zeros((m, COLUMNS, COLUMNS))
        self.decoder_sums = np.zeros((g, m, len(DECODER_RATIOS)))
        self.squares = np.zeros((g, m))
        self.round = 0
        self.knot = 0
        self.active = list(range(m)) if shard.number < self._rounds else []
        self.advanced = not self.active  # a shard of fewer rounds than there are shards holds nothing, and says so
        self.cost = Receipt()
        for observer in observers.values():
            observer.begin()

    def finish(self, path: Path | None, save_seconds: float, progress: bool) -> Moments:
        """Draw all that is left, on from what `path` holds, and keep it there."""
        if path is not None and path.exists():
            self.resume(path)
        self._draw_all(path, save_seconds, progress)
        self.save(path)
        return self.result()

    def _draw_all(self, path: Path | None, save_seconds: float, progress: bool) -> None:
        least = self.settings["min_draws"] * len(self.knots)
        drawn_before = int(self.counts.sum())
        with (
            tqdm(total=least, initial=drawn_before, desc="moments", unit="eval", disable=not progress) as bar,
            save_points(lambda: self.save(path), lambda: self.kept(path), save_seconds, dealt=True) as point,
        ):
            for drawn in self.advance():
                left_of_round = self.settings["batch_size"] * (len(self.active) - self.knot)
                bar.total = max(bar.total, int(self.counts.sum()) + left_of_round)
                bar.update(drawn)
                point()
            bar.total = int(self.counts.sum())
            bar.refresh()

    def kept(self, path: Path | None) -> str:
        """What an interruption leaves."""
        drawn = f"{int(self.counts.sum())} network evaluations"
        return f"no path keeps the {drawn}" if path is None else f"{drawn} are in {path}"

    def save(self, path: Path | None) -> None:
        """Keep what was drawn."""
        if path is None or not self.advanced:
            return
        observed = {f"{n}/{k}": v for n, observer in self.observers.items() for k, v in observer.arrays().items()}
        self.result().save(path, observed)

    def resume(self, path: str | Path) -> None:
        moments = Moments.load(path, self.identity)
        arrays = load_arrays(path, KIND)[0]
        for name, observer in self.observers.items():
            with reading(path):
                observer.restore({k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")})
        added = np.argsort(moments.order)
        self._place(moments.log_snr[added])
        for name, axis in SUMS.items():
            setattr(self, name, np.take(getattr(moments, name), added, axis))
        self.round, self.knot, self.active = (moments.state[k] for k in ("round", "knot", "active"))
        self.cost = moments.cost

    def _place(self, knots: Array) -> None:
        self.knots = knots
        self.levels = [self.model.schedule.level_at(log_snr) for log_snr in knots]

    def result(self) -> Moments:
        """The moments so far, knots ascending."""
        order = np.argsort(self.knots)
        state = {"round": self.round, "knot": self.knot, "active": self.active, "order": order.tolist()}
        state["cost"] = vars(self.cost).copy()
        arrays = {name: np.take(getattr(self, name), order, axis) for name, axis in SUMS.items()}
        return Moments(log_snr=self.knots[order], fingerprint=self.identity, state=state, **arrays)

    def advance(self) -> Iterator[int]:
        """Run to the end, yielding the number of draws after each batch."""
        self.dataset.expect(self._planned())
        while self.active:
            index, x_0, model = self._visits()
            ask = partial(self._ask, index=index, x_0=x_0, centred=self.outcomes.centred(x_0), model=model)
            for drawn in dealt(self.model, ask, self.active[self.knot :], self._measured):
                self._add(self.active[self.knot], index, drawn)
                self.knot += 1
                self.advanced = True
                yield len(index)
            self.round += 1
            self.knot = 0
            self.active = self._unfinished()
            self.advanced = True
            if not self.active and not self.shard:
                self._add_knots()

    def _add_knots(self) -> None:
        """Begin anew with knots in the gaps that the finished ones leave."""
        before = len(self.knots)
        room = self.settings["most_knots"] - before
        gaps = knots_in_doubt(self.result(), relative_tolerance(self.settings), room) if room > 0 else np.zeros(0)
        self._place(np.concatenate([self.knots, gaps]))
        for name, axis in SUMS.items():
            sums = getattr(self, name)
            setattr(self, name, np.concatenate([sums, np.zeros_like(np.take(sums, [0] * len(gaps), axis))], axis))
        self.round = 0
        self.active = list(range(before, len(self.knots)))
        self.dataset.expect(self._planned())

    def _unfinished(self) -> list[int]:
        if self.shard:  # alone it cannot know when all together are precise
            return self.active if self._number(self.round) < self._rounds else []
        drawn = self.counts.sum(0)
        enough = drawn >= self.settings["min_draws"]
        moments = self.result()
        precise = ANSWERS[self.settings["answer"]].finished(moments, self.settings["tolerance"])[np.argsort(moments.order)]
        finished = (enough & precise) | (drawn >= self.settings["max_draws"])
        return [m for m in self.active if not finished[m]]

    @property
    def _rounds(self) -> int:
        """Of all shards, where no knot is finished before its largest number of draws."""
        return -(-self.settings["max_draws"] // self.settings["batch_size"])

    def _number(self, round: int) -> int:
        """The number among the rounds of all shards of a round of this one."""
        return self.shard.number + self.shard.of * round

    def _index(self, round: int) -> NDArray[np.int64]:
        """The examples of a round."""
        first, most = self.settings["batch_size"] * self._number(round), self.settings["max_draws"]
        places = np.arange(first, min(first + self.settings["batch_size"], most))
        return visited(len(self.dataset), places, self.identity["seed"])

    def _planned(self) -> Iterator[int]:
        """All that may be visited from this round on, in order."""
        left = range(self.round, len(range(self.shard.number, self._rounds, self.shard.of)) if self.active else 0)
        return (int(i) for round in left for i in self._index(round))

    def _visits(self) -> tuple[NDArray[np.int64], Tensor, ScoreModel]:
        """Indices and examples of this round, at consecutive places, and the model on their conditions."""
        index = self._index(self.round)
        x_0, conditions = self.dataset.batch(index)
        for part in together(x_0):
            check_examples(part) if self.data_range is None else self.data_range.check(part)
        return index, onto(x_0, self.device), self.model.for_batch(conditions, self.device)

    @torch.no_grad()
    def _ask(self, m: int, index: NDArray[np.int64], x_0: Tensor, centred: Tensor, model: ScoreModel) -> Draws:
        level = self.levels[m]
        generator = torch.Generator().manual_seed(stream_seed(self.identity["seed"], self._number(self.round), m))
        eps = sent(torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype), x_0.device)
        subset = sent(some_coordinates(x_0[0].numel(), generator), x_0.device)
        with self.model.metered() as cost:
            prediction = model.predict(level.diffuse(x_0, eps), level)
        measured = self.outcomes.of(x_0, centred, eps, prediction, subset)
        return Draws(index, eps, prediction, cost, fetched(measured))

    def _measured(self, ask: Callable[[int], Draws], knots: Iterable[int]) -> Iterator[_Drawn]:
        """What was measured of a batch of each of these knots, once it is here."""
        for draws in ahead(map(ask, knots), self.device):
            read = draws.read()
            values, nats = read[:, :COLUMNS], read[:, COLUMNS:]
            level = draws.prediction.level
            if not np.isfinite(values).all():
                raise RunError("the network's output holds NaN or inf; check its weights, input scaling and time labels")
            if not np.isfinite(nats).all():
                raise RunError(
                    f"decoders at log-SNR {level.log_snr:.4g} are too narrow for their nats to be numbers; use lower knots"
                )
            seen = draws.index, draws.eps, draws.prediction
            observed = {name: observer.observed(*seen) for name, observer in self.observers.items()}
            yield _Drawn(values, nats, observed, draws.cost)

    def _add(self, m: int, index: NDArray[np.int64], drawn: _Drawn) -> None:
        self.cost.add(**vars(drawn.cost))
        for name, observer in self.observers.items():
            observer.add(m, index, drawn.observed[name])
        group = index % len(self.counts)
        np.add.at(self.counts[:, m], group, 1.0)
        np.add.at(self.sums[:, m], group, drawn.values)
        np.add.at(self.squares[:, m], group, drawn.values[:, OUTCOMES["residual"]] ** 2)
        np.add.at(self.decoder_sums[:, m], group, drawn.nats)
        self.products[m] += drawn.values.T @ drawn.values
