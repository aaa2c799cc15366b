"""Monte Carlo moments of a network at log-SNR knots, with standard errors; resumable to the identical result.

At x_t = alpha x_0 + sigma eps, from one network call per draw:

    Lambda = E||eps_hat||^2 / d,   X = E<eps, eps_hat> / d,   R = E||eps - eps_hat||^2 / d

Control variates: ||eps||^2/d, <x_0 - m, eps>/d and, for data known in closed form, ||x_0 - m||^2/d have known means; regression
on them removes most of the Monte Carlo noise (all of it for isotropic Gaussian data, where the moments are linear in them).

Standard errors: examples are dealt into groups by their index; the error of any statistic is its delete-one-group
jackknife, which needs no assumption on how often an example was reused or on the correlation between knots.

For the reconstruction term of a bound the same calls give E[-log p(x_0 | x_t)] under decoders N(x0_hat, s^2) for a table of s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from score_sde_analytic.data import DataRange, DataStatistics, as_dataset, batches
from score_sde_analytic.decoder import decoder_nats
from score_sde_analytic.files import load_arrays, require_match, save_arrays
from score_sde_analytic.gaussian import mean_square
from score_sde_analytic.model import Prediction, ScoreModel
from score_sde_analytic.noise import stream_seed
from score_sde_analytic.schedule import Array, Level

KIND = "moments"
STORED = ("log_snr", "counts", "sums", "products", "decoder_sums")
OUTCOMES = {"noise_power": 0, "cross": 1, "residual": 2}
#: Decoder standard deviations in units of `decoder_scale`.
DECODER_RATIOS = 2.0 ** np.arange(-5.0, 1.01, 0.5)
#: Coordinates per draw that enter the decoder table; a random subset keeps it cheap beside the network.
DECODER_COORDINATES = 256


def decoder_scale(log_snr: ArrayLike, data_variance: float) -> Array:
    """(snr + 1/V)^{-1/2}: posterior standard deviation of Gaussian data of variance V; sigma/alpha where that is small."""
    return np.exp(-0.5 * np.logaddexp(log_snr, -math.log(max(data_variance, 1e-30))))


@dataclass(frozen=True)
class Moments:
    """Sums over draws, from which every moment and its error follow. g groups, m knots.

    Attributes:
        log_snr: knots, ascending, (m,).
        counts: draws per group and knot, (g, m).
        sums: of [Lambda, X, R, three centred control variates] per draw, (g, m, 6).
        products: of all pairs of these, over all groups, (m, 6, 6).
        decoder_sums: of -log p(x_0 | x_t) in nats per dimension under each decoder ratio, (g, m, r).
        coefficients: regression on the controls, (m, 3, 3); None fits them.
        fingerprint: model, data and settings.
        state: where an unfinished pass stands.
    """

    log_snr: Array
    counts: Array
    sums: Array
    products: Array
    decoder_sums: Array
    fingerprint: Mapping[str, Any]
    state: Mapping[str, Any]
    coefficients: Array | None = None

    @cached_property
    def draws(self) -> Array:
        """Network evaluations per knot, (m,)."""
        return self.counts.sum(0)

    @property
    def evaluations(self) -> int:
        """Network evaluations in all."""
        return int(self.counts.sum())

    @cached_property
    def control_coefficients(self) -> Array:
        """beta = Cov(controls)^+ Cov(controls, outcomes) per knot, (m, 3 controls, 3 outcomes)."""
        if self.coefficients is not None:
            return self.coefficients
        n = self.draws[:, None, None]
        mean = self.sums.sum(0) / self.draws[:, None]
        covariance = self.products / n - mean[:, :, None] * mean[:, None, :]
        # Standardised, so that controls of small scale (data in small units) count as much as any other.
        scale = np.sqrt(np.einsum("mcc->mc", covariance[:, 3:, 3:]))
        scale = np.where(scale > 0, scale, 1.0)[..., None]
        correlation = covariance[:, 3:, 3:] / (scale * scale.mT)
        return np.linalg.pinv(correlation, rcond=1e-10, hermitian=True) @ (covariance[:, 3:, :3] / scale) / scale

    @cached_property
    def _group_sums(self) -> Array:
        """Sums of the outcomes with the controls regressed out, (g, m, 3)."""
        return self.sums[..., :3] - np.einsum("gmc,mco->gmo", self.sums[..., 3:], self.control_coefficients)

    @cached_property
    def means(self) -> Array:
        """[Lambda, X, R] per knot, (m, 3)."""
        return self._group_sums.sum(0) / self.draws[:, None]

    @property
    def noise_power(self) -> Array:
        """Lambda, (m,)."""
        return self.means[:, OUTCOMES["noise_power"]]

    @property
    def cross(self) -> Array:
        """X, (m,)."""
        return self.means[:, OUTCOMES["cross"]]

    @property
    def residual(self) -> Array:
        """R, (m,)."""
        return self.means[:, OUTCOMES["residual"]]

    @property
    def groups(self) -> int:
        return len(self.counts)

    def stderr(self, outcome: str) -> Array:
        """Standard error of "noise_power" (also called "score"), "cross" or "residual", (m,)."""
        column = OUTCOMES["noise_power" if outcome == "score" else outcome]
        return _ratio_stderr(self._group_sums[..., column], self.counts)

    @cached_property
    def variance_reduction(self) -> Array:
        """Variance of a plain draw over variance of a controlled one, per knot and outcome (m, 3)."""
        n, mean = self.draws[:, None], self.sums.sum(0) / self.draws[:, None]
        covariance = self.products / n[..., None] - mean[:, :, None] * mean[:, None, :]
        explained = np.einsum("mco,mco->mo", self.control_coefficients, covariance[:, 3:, :3])
        plain = np.einsum("moo->mo", covariance[:, :3, :3])
        return plain / np.maximum(plain - explained, 1e-30)

    def calibration(self) -> tuple[Array, Array]:
        """(1 - Lambda - R, its size in standard errors) per knot: zero in expectation for an exact score.

        R = 1 - 2 X + Lambda holds for any network, so 1 - Lambda - R = 2 (X - Lambda) = 2 (1 - X - R): this one contrast
        says how far all three moments disagree. Beyond error, it is miscalibration of the network.
        """
        combined = self._group_sums @ np.array([-1.0, 0.0, -1.0])
        difference = combined.sum(0) / self.draws + 1.0
        return difference, difference / np.maximum(_ratio_stderr(combined, self.counts), 1e-300)

    @property
    def data_variance(self) -> float:
        """V of the data, the unit of the decoder table."""
        return float(self.fingerprint["data_variance"])

    @property
    def finished(self) -> bool:
        """Whether every knot reached its tolerance or its largest number of draws."""
        return not self.state["active"]

    def decoder_nats(self) -> Array:
        """E[-log p(x_0 | x_t)] in nats per dimension, (m, r), decoder std = DECODER_RATIOS * decoder_scale."""
        return self.decoder_sums.sum(0) / self.draws[:, None]

    def without(self, group: int) -> Moments:
        """The moments without one group of examples, for jackknife errors; control coefficients are kept."""
        keep = np.arange(self.groups) != group
        return replace(
            self,
            counts=self.counts[keep],
            sums=self.sums[keep],
            decoder_sums=self.decoder_sums[keep],
            coefficients=self.control_coefficients,
        )

    def jackknife(self, statistic: Callable[[Moments], ArrayLike]) -> tuple[Any, Any]:
        """(value, standard error) of any statistic of the moments, delete-one-group."""
        return self.jackknife_by_group(lambda moments, group: statistic(moments))

    def jackknife_by_group(self, statistic: Callable[[Moments, int | None], ArrayLike]) -> tuple[Any, Any]:
        """`jackknife` of a statistic that looks at other records too, and so must know which group it is to leave out."""
        value = np.asarray(statistic(self, None))
        occupied = np.flatnonzero(self.counts.any(1)).tolist()
        if len(occupied) < 2:  # one example says nothing about another
            return value, np.full_like(value, np.inf, dtype=np.float64)
        replicates = np.stack([np.asarray(statistic(self.without(g), g)) for g in occupied])
        spread = ((replicates - replicates.mean(0)) ** 2).sum(0)
        return value, np.sqrt(spread * (len(occupied) - 1) / len(occupied))

    def save(self, path: str | Path, observed: Mapping[str, np.ndarray] | None = None) -> None:
        """Write as safetensors, atomically, with what observers kept."""
        arrays = {name: getattr(self, name) for name in STORED} | dict(observed or {})
        save_arrays(path, arrays, {"kind": KIND, "fingerprint": dict(self.fingerprint), "state": dict(self.state)})

    @classmethod
    def load(cls, path: str | Path, expected: Mapping[str, Any] | None = None) -> Moments:
        """Read saved moments; entries of `expected` ("model", "data", ...) must match the file's fingerprint.

        Raises:
            FileNotFoundError, ValueError: missing, damaged or mismatched file; the message says what differs.
        """
        arrays, metadata = load_arrays(path, KIND, STORED)
        found = metadata["fingerprint"]
        if expected is not None:
            require_match(path, {k: found.get(k) for k in expected}, expected)
        return cls(**{name: arrays[name] for name in STORED}, fingerprint=found, state=metadata["state"])


class Observer(Protocol):
    """Keeps something of every draw of the pass besides the moments; its arrays are stored with them."""

    def config(self) -> dict[str, Any]:
        """Identity of what is kept."""

    def begin(self) -> None:
        """A pass begins: forget what an earlier one left."""

    def record(self, knot: int, examples: NDArray[np.int64], eps: Tensor, prediction: Prediction) -> None:
        """See a batch of draws at one knot."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was kept so far."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from saved arrays."""


def _ratio_stderr(sums: Array, counts: Array) -> Array:
    """Standard error of sum(sums) / sum(counts) from its groups (axis 0), linearised jackknife."""
    occupied, total = (counts > 0).sum(0), counts.sum(0)
    deviation = sums - sums.sum(0) / total * counts
    error = np.sqrt((deviation**2).sum(0) * occupied / np.maximum(occupied - 1, 1)) / total
    return np.where(occupied > 1, error, np.inf)  # one example says nothing about another


def estimate(
    model: ScoreModel,
    data: Tensor | Dataset[Any] | DataLoader[Any],
    log_snr: ArrayLike,
    *,
    statistics: DataStatistics | None = None,
    data_range: DataRange | None = None,
    tolerance: float = 0.01,
    min_draws: int = 300,
    max_draws: int = 3000,
    batch_size: int = 100,
    groups: int = 32,
    seed: int = 0,
    path: str | Path | None = None,
    save_seconds: float = 30.0,
    observers: Mapping[str, Observer] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Moments:
    """Measure the moments of a network on data.

    Examples are visited in seeded permutations. A round gives every unfinished knot one batch; a knot is finished after
    `min_draws` draws once its relative standard error of R is at most `tolerance`, and after `max_draws` in any case.

    Args:
        data: examples x_0, or tuples that begin with one; map-style.
        log_snr: knots, within the schedule's range.
        statistics: of the data; measured here when absent. A closed-form distribution (count 0) gains a control variate.
        data_range: declared range and levels; checked, and the decoder of the reconstruction table.
        path: where progress and the result are kept; an existing file is resumed, or returned when finished.
        save_seconds: how often progress is written.
        observers: see every draw and keep what they want of it, in the same file.

    Raises:
        ValueError: bad knots or settings, empty or out-of-range data, or a file of another run at `path`.
        RuntimeError: the network returned a wrong shape or non-finite numbers.
    """
    knots = np.sort(np.asarray(log_snr, dtype=np.float64).ravel())
    if len(knots) == 0 or np.any(np.diff(knots) <= 0):
        raise ValueError("need at least one knot, all different")
    if groups < 2 or batch_size < 1 or not groups <= min_draws <= max_draws:
        raise ValueError(
            f"need 2 <= groups <= min_draws <= max_draws and batch_size >= 1, got {groups}, {min_draws}, {max_draws}"
        )
    dataset = as_dataset(data)
    if statistics is None:
        statistics = DataStatistics.of(dataset, data_range)
    settings = {"tolerance": tolerance, "min_draws": min_draws, "max_draws": max_draws, "batch_size": batch_size}
    identity = {
        "model": model.fingerprint(),
        "data": statistics.digest,
        # A closed form says nothing of the examples drawn from it.
        "examples": "" if statistics.count else DataStatistics.of(dataset, data_range, max_eigen=0).digest,
        "data_variance": statistics.variance,
        "seed": seed,
        "groups": groups,
        "decoder": None if data_range is None else [data_range.lo, data_range.hi, data_range.levels],
        "knots": knots.tolist(),
        "settings": settings,
    }
    watching = dict(observers or {})
    identity["observers"] = {name: observer.config() for name, observer in watching.items()}
    for observer in watching.values():
        observer.begin()
    run = _Pass(model, dataset, statistics, data_range, identity, torch.device(device), watching)
    if path is not None and Path(path).exists():
        run.resume(path)
    saved = time.monotonic()
    with tqdm(
        total=min_draws * len(knots), initial=int(run.counts.sum()), desc="moments", unit="eval", disable=not progress
    ) as bar:
        for drawn in run.advance():
            bar.total = max(bar.total, int(run.counts.sum()) + batch_size * (len(run.active) - run.knot))
            bar.update(drawn)
            if path is not None and time.monotonic() - saved > save_seconds:
                run.save(path)
                saved = time.monotonic()
        bar.total = int(run.counts.sum())
        bar.refresh()
    result = run.result()
    if path is not None and (run.advanced or not Path(path).exists()):
        run.save(path)
    return result


class _Pass:
    """The running sums of one estimate and the position of its next batch."""

    def __init__(
        self,
        model: ScoreModel,
        dataset: Dataset[Any],
        statistics: DataStatistics,
        data_range: DataRange | None,
        identity: Mapping[str, Any],
        device: torch.device,
        observers: Mapping[str, Observer],
    ) -> None:
        self.observers = observers
        self.model, self.dataset, self.statistics, self.device = model, dataset, statistics, device
        self.data_range, self.identity, self.settings = data_range, identity, identity["settings"]
        self.knots = np.array(identity["knots"])
        self.levels = [model.schedule.level_at(lam) for lam in self.knots]
        g, m = identity["groups"], len(self.knots)
        self.counts, self.sums = np.zeros((g, m)), np.zeros((g, m, 6))
        self.products, self.decoder_sums = np.zeros((m, 6, 6)), np.zeros((g, m, len(DECODER_RATIOS)))
        self.round, self.knot, self.active = 0, 0, list(range(m))
        self.advanced = False

    def save(self, path: str | Path) -> None:
        observed = {f"{n}/{k}": v for n, observer in self.observers.items() for k, v in observer.arrays().items()}
        self.result().save(path, observed)

    def resume(self, path: str | Path) -> None:
        moments = Moments.load(path, self.identity)
        arrays = load_arrays(path, KIND)[0]
        for name, observer in self.observers.items():
            observer.restore({k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")})
        for name in ("counts", "sums", "products", "decoder_sums"):
            setattr(self, name, getattr(moments, name).copy())
        self.round, self.knot, self.active = (moments.state[k] for k in ("round", "knot", "active"))

    def result(self) -> Moments:
        state = {"round": self.round, "knot": self.knot, "active": self.active}
        arrays = {name: getattr(self, name).copy() for name in ("counts", "sums", "products", "decoder_sums")}
        return Moments(log_snr=self.knots, fingerprint=self.identity, state=state, **arrays)

    def advance(self) -> Iterator[int]:
        """Run to the end, yielding the number of draws after each batch."""
        while self.active:
            size = min(self.settings["batch_size"], self.settings["max_draws"] - self.settings["batch_size"] * self.round)
            index, x_0 = self._visits(size)
            while self.knot < len(self.active):
                self._draw(self.active[self.knot], index, x_0)
                self.knot, self.advanced = self.knot + 1, True
                yield size
            self.round, self.knot = self.round + 1, 0
            self.active = self._unfinished()

    def _unfinished(self) -> list[int]:
        drawn = self.counts.sum(0)
        enough = drawn >= self.settings["min_draws"]
        moments = self.result()
        with np.errstate(divide="ignore", invalid="ignore"):
            precise = moments.stderr("residual") <= self.settings["tolerance"] * np.abs(moments.residual)
        finished = (enough & precise) | (drawn >= self.settings["max_draws"])
        return [m for m in self.active if not finished[m]]

    def _visits(self, size: int) -> tuple[NDArray[np.int64], Tensor]:
        """Indices and examples of this round: consecutive places in an endless chain of seeded permutations."""
        total = len(self.dataset)  # type: ignore[arg-type]
        places = self.settings["batch_size"] * self.round + np.arange(size)
        epochs = {e: np.random.default_rng([self.identity["seed"], e]).permutation(total) for e in np.unique(places // total)}
        index = np.array([epochs[p // total][p % total] for p in places])
        x_0 = next(batches(self.dataset, index.tolist(), size))
        (self.data_range or DataRange(-math.inf, math.inf)).check(x_0)
        return index, x_0.to(self.device)

    @torch.no_grad()
    def _draw(self, m: int, index: NDArray[np.int64], x_0: Tensor) -> None:
        level = self.levels[m]
        generator = torch.Generator().manual_seed(stream_seed(self.identity["seed"], self.round, m))
        dtype = torch.float64 if x_0.dtype == torch.float64 else torch.float32
        eps = torch.randn(x_0.shape, generator=generator, dtype=dtype).to(x_0)
        prediction = self.model.predict(level.alpha * x_0 + level.sigma * eps, level)
        values = self._values(x_0, eps, prediction.eps).cpu().numpy()
        for observer in self.observers.values():
            observer.record(m, index, eps, prediction)
        group = index % len(self.counts)
        np.add.at(self.counts[:, m], group, 1.0)
        np.add.at(self.sums[:, m], group, values)
        self.products[m] += values.T @ values
        subset = torch.randperm(x_0[0].numel(), generator=generator)[:DECODER_COORDINATES].to(x_0.device)
        x_0, x_0_hat = (x.flatten(1)[:, subset] for x in (x_0, prediction.x_0))
        np.add.at(self.decoder_sums[:, m], group, self._decoder_nats(x_0, x_0_hat, level).cpu().numpy())

    def _values(self, x_0: Tensor, eps: Tensor, eps_hat: Tensor) -> Tensor:
        """[Lambda, X, R, controls minus their means] per draw, (batch, 6) float64."""
        centred = x_0.double() - self.statistics.mean.to(x_0.device)
        # For a finite data set the energy of x_0 has no known population mean; its control is switched off.
        energy = mean_square(centred) - self.statistics.variance if self.statistics.count == 0 else torch.zeros(len(x_0))
        columns = [
            mean_square(eps_hat),
            (eps.double() * eps_hat.double()).flatten(1).mean(1),
            mean_square(eps - eps_hat),
            mean_square(eps) - 1.0,
            (centred * eps.double()).flatten(1).mean(1),
            energy.to(x_0.device),
        ]
        values = torch.stack(columns, 1)
        if not torch.isfinite(values).all():
            raise RuntimeError("the network's output holds NaN or inf; check its weights, input scaling and time labels")
        return values

    def _decoder_nats(self, x_0: Tensor, x_0_hat: Tensor, level: Level) -> Tensor:
        stds = (DECODER_RATIOS * decoder_scale(level.log_snr, self.statistics.variance)).tolist()
        return torch.stack([decoder_nats(x_0, x_0_hat, std, self.data_range) for std in stds], 1)
