"""The one Monte Carlo pass: moments of a network at log-SNR knots, resumable to the identical result.

Examples are visited in seeded permutations; a round gives every unfinished knot one batch. Observers see every draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.arrays import Array, numbers, onto, wide
from score_sde_analytic.checks import COUNT, number, one_of, settle, whole
from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.data.portions import together
from score_sde_analytic.data.ranges import DataRange, check_examples
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.declared import reading
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.files import load_arrays, plain
from score_sde_analytic.interruption import save_points
from score_sde_analytic.measure.answers import ANSWERS, relative_tolerance
from score_sde_analytic.measure.knots import knots_in_doubt
from score_sde_analytic.measure.moments import DECODER_RATIOS, KIND, OUTCOMES, Moments, decoder_scale
from score_sde_analytic.measure.visits import known, visited
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.process.decoder import decoder_nats
from score_sde_analytic.process.gaussian import mean_square
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.noise import stream_seed

#: Coordinates per draw that enter the decoder table; a random subset keeps it cheap beside the network.
DECODER_COORDINATES = 256
#: The running sums, with the axis of their knots.
SUMS = {"counts": 1, "sums": 1, "products": 0, "decoder_sums": 1, "squares": 1}


class Observer(Protocol):
    """Keeps something of every draw of the pass besides the moments; its arrays are stored with them."""

    def config(self) -> dict[str, Any]:
        """Identity of what is kept."""

    def begin(self) -> None:
        """A pass begins: forget what an earlier one left."""

    def record(
        self, knot: int, examples: Int64[np.ndarray, " batch"], eps: Float[Tensor, " batch *dims"], prediction: Prediction
    ) -> None:
        """See a batch of draws at one knot."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was kept so far."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from saved arrays."""


@dataclass(frozen=True)
class Budget:
    """How many draws a knot gets, and how they are dealt out.

    Every knot gets `min_draws`. Then draws go where they matter for the answer asked, until its error is at most `tolerance`:

        variance    largest relative standard error of R; a knot is finished once its own is small enough
        bits        standard error of bits/dim in the limit of many steps
        grid        share of an optimal grid's excess that errors of the curve add to it

    After `max_draws` a knot is finished in any case. `answers.reached` says what came of it.

    Attributes:
        batch_size: draws of a knot per network call.
        groups: of examples, from which standard errors follow.
        most_knots: where y between knots is not known as well as at them, knots are added, up to so many in all; 0 adds none.

    Raises:
        InputError: numbers that contradict each other.
    """

    tolerance: Annotated[float, number(0.0, 1e9)] = 0.01
    min_draws: Annotated[int, COUNT] = 300
    max_draws: Annotated[int, COUNT] = 3000
    batch_size: Annotated[int, COUNT] = 100
    groups: Annotated[int, whole(2, 10**6)] = 32
    most_knots: Annotated[int, whole(0, 10_000)] = 0
    answer: Annotated[str, one_of(ANSWERS)] = "variance"

    def __post_init__(self) -> None:
        settle(self)
        if not self.groups <= self.min_draws <= self.max_draws:
            raise InputError(
                f"need groups ({self.groups}) <= min_draws ({self.min_draws}) <= max_draws ({self.max_draws}): for a pass of n"
                " draws set min_draws and max_draws to n"
            )

    def settings(self) -> dict[str, Any]:
        """What decides when a pass ends, as plain data."""
        names = ("answer", "tolerance", "min_draws", "max_draws", "batch_size", "most_knots")
        return {name: getattr(self, name) for name in names}


def estimate(
    model: ScoreModel,
    data: Data,
    log_snr: ArrayLike,
    budget: Budget = Budget(),
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
    run = _Pass(model, dataset, statistics, data_range, identity, torch.device(device), observers or {})
    return run.finish(None if path is None else Path(path), save_seconds, progress)


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
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.statistics = statistics
        self.data_range = data_range
        self.identity = identity
        self.settings = identity["settings"]
        self.device = device
        self.observers = observers
        self.knots = np.array(identity["knots"])
        self.levels = [model.schedule.level_at(log_snr) for log_snr in self.knots]
        g = identity["groups"]
        m = len(self.knots)
        self.counts = np.zeros((g, m))
        self.sums = np.zeros((g, m, 6))
        self.products = np.zeros((m, 6, 6))
        self.decoder_sums = np.zeros((g, m, len(DECODER_RATIOS)))
        self.squares = np.zeros((g, m))
        self.round = 0
        self.knot = 0
        self.active = list(range(m))
        self.advanced = False
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
            save_points(lambda: self.save(path), lambda: self.kept(path), save_seconds) as point,
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
            size = len(index)
            while self.knot < len(self.active):
                self._draw(self.active[self.knot], index, x_0, model)
                self.knot += 1
                self.advanced = True
                yield size
            self.round += 1
            self.knot = 0
            self.active = self._unfinished()
            self.advanced = True
            if not self.active:
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
        drawn = self.counts.sum(0)
        enough = drawn >= self.settings["min_draws"]
        moments = self.result()
        precise = ANSWERS[self.settings["answer"]].finished(moments, self.settings["tolerance"])[np.argsort(moments.order)]
        finished = (enough & precise) | (drawn >= self.settings["max_draws"])
        return [m for m in self.active if not finished[m]]

    def _index(self, number: int) -> NDArray[np.int64]:
        """The examples of a round."""
        first, most = self.settings["batch_size"] * number, self.settings["max_draws"]
        places = np.arange(first, min(first + self.settings["batch_size"], most))
        return visited(len(self.dataset), places, self.identity["seed"])

    def _planned(self) -> Iterator[int]:
        """All that may be visited from this round on, in order."""
        rounds = -(-self.settings["max_draws"] // self.settings["batch_size"])
        return (int(i) for number in range(self.round, rounds if self.active else 0) for i in self._index(number))

    def _visits(self) -> tuple[NDArray[np.int64], Tensor, ScoreModel]:
        """Indices and examples of this round, at consecutive places, and the model on their conditions."""
        index = self._index(self.round)
        x_0, conditions = self.dataset.batch(index)
        for part in together(x_0):
            check_examples(part) if self.data_range is None else self.data_range.check(part)
        return index, onto(x_0, self.device), self.model.for_batch(conditions, self.device)

    @torch.no_grad()
    def _draw(self, m: int, index: NDArray[np.int64], x_0: Tensor, model: ScoreModel) -> None:
        level = self.levels[m]
        generator = torch.Generator().manual_seed(stream_seed(self.identity["seed"], self.round, m))
        dtype = torch.float64 if x_0.dtype == torch.float64 else torch.float32
        eps = torch.randn(x_0.shape, generator=generator, dtype=dtype).to(x_0)
        with self.model.metered() as cost:
            prediction = model.predict(level.diffuse(x_0, eps), level)
        parts = zip(*map(together, (x_0, eps, prediction.eps)), strict=True)
        values = torch.cat([self._values(*part) for part in parts]).cpu().numpy()
        self.cost.add(**vars(cost))
        for observer in self.observers.values():
            observer.record(m, index, eps, prediction)
        group = index % len(self.counts)
        np.add.at(self.counts[:, m], group, 1.0)
        np.add.at(self.sums[:, m], group, values)
        np.add.at(self.squares[:, m], group, values[:, OUTCOMES["residual"]] ** 2)
        self.products[m] += values.T @ values
        subset = torch.randperm(x_0[0].numel(), generator=generator)[:DECODER_COORDINATES].to(x_0.device)
        x_0, x_0_hat = (x.flatten(1)[:, subset] for x in (x_0, prediction.x_0))
        nats = self._decoder_nats(x_0, x_0_hat, level).cpu().numpy()
        if not np.isfinite(nats).all():
            raise RunError(
                f"decoders at log-SNR {level.log_snr:.4g} are too narrow for their nats to be numbers; use lower knots"
            )
        np.add.at(self.decoder_sums[:, m], group, nats)

    def _values(self, x_0: Tensor, eps: Tensor, eps_hat: Tensor) -> Tensor:
        """[Lambda, X, R, controls minus their means] per draw, (batch, 6) float64."""
        error = mean_square(eps - eps_hat)
        x_0, eps, eps_hat = (wide(x) for x in (x_0, eps, eps_hat))
        centred = x_0 - self.statistics.mean.to(x_0)
        # For a finite data set the energy of x_0 has no known population mean; its control is switched off.
        energy = mean_square(centred) - self.statistics.variance if self.statistics.count == 0 else torch.zeros_like(error)
        columns = [
            mean_square(eps_hat),
            (eps * eps_hat).flatten(1).mean(1),
            error,
            mean_square(eps) - 1.0,
            (centred * eps).flatten(1).mean(1),
            energy,
        ]
        values = torch.stack(columns, 1)
        if not torch.isfinite(values).all():
            raise RunError("the network's output holds NaN or inf; check its weights, input scaling and time labels")
        return values

    def _decoder_nats(self, x_0: Tensor, x_0_hat: Tensor, level: Level) -> Tensor:
        stds = (DECODER_RATIOS * decoder_scale(level.log_snr, self.statistics.variance)).tolist()
        return torch.stack([decoder_nats(x_0, x_0_hat, std, self.data_range) for std in stds], 1)
