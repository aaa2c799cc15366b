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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, require_match, save_arrays
from score_sde_analytic.measure.between import BetweenKnots
from score_sde_analytic.measure.squared_error import SquaredError
from score_sde_analytic.models.receipt import Receipt

KIND = "moments"
STORED = {
    "log_snr": "float64 m",
    "counts": "float64 g m",
    "sums": "float64 g m 6",
    "products": "float64 m 6 6",
    "decoder_sums": "float64 g m r",
    "squares": "float64 g m",
}
COUNT = range(1 << 63)
#: Of the metadata.
SHAPE = {
    "fingerprint": {
        "model": dict,
        "data": str,
        "examples": str,
        "data_variance": float,
        "seed": int,
        "groups": COUNT,
        "decoder": ([(float, None)], None),
        "knots": [float],
        "settings": {
            "answer": str,
            "tolerance": float,
            "min_draws": COUNT,
            "max_draws": COUNT,
            "batch_size": COUNT,
            "most_knots": COUNT,
        },
        "observers": {str: dict},
    },
    "state": {
        "round": COUNT,
        "knot": COUNT,
        "active": [COUNT],
        "order": [COUNT],
        "cost": {"calls": COUNT, "evaluations": COUNT, "vector_products": COUNT},
    },
}
OUTCOMES = {"noise_power": 0, "cross": 1, "residual": 2}
#: Decoder standard deviations in units of `decoder_scale`.
DECODER_RATIOS = 2.0 ** np.arange(-5.0, 1.01, 0.5)


def decoder_scale(log_snr: ArrayLike, data_variance: float) -> Array:
    """(snr + 1/V)^{-1/2}: posterior standard deviation of Gaussian data of variance V; sigma/alpha where that is small.

    >>> float(decoder_scale(0.0, data_variance=1.0))
    0.7071
    """
    return np.exp(-0.5 * np.logaddexp(log_snr, -math.log(max(data_variance, 1e-30))))


@dataclass(frozen=True)
class Moments:
    """Sums over draws, from which every moment and its error follow. g groups, m knots.

    Attributes:
        log_snr: knots, ascending.
        counts: draws per group and knot.
        sums: of [Lambda, X, R, three centred control variates] per draw.
        products: of all pairs of these, over all groups.
        decoder_sums: of -log p(x_0 | x_t) in nats per dimension under each decoder ratio.
        squares: of the squared error ||eps - eps_hat||^2 / d of each draw.
        coefficients: regression of the outcomes on the controls; None fits them.
        fingerprint: model, data and settings.
        state: where an unfinished pass stands.

    >>> moments.evaluations, moments.residual.shape, moments.finished
    (15000, (50,), True)
    """

    log_snr: Float64[Array, " m"]
    counts: Float64[Array, "g m"]
    sums: Float64[Array, "g m 6"]
    products: Float64[Array, "m 6 6"]
    decoder_sums: Float64[Array, "g m r"]
    squares: Float64[Array, "g m"]
    fingerprint: Mapping[str, Any]
    state: Mapping[str, Any]
    coefficients: Float64[Array, "m 3 3"] | None = None

    @cached_property
    def draws(self) -> Float64[Array, " m"]:
        """Network evaluations per knot."""
        return self.counts.sum(0)

    @property
    def evaluations(self) -> int:
        """Network evaluations in all."""
        return int(self.counts.sum())

    @property
    def cost(self) -> Receipt:
        """What the pass cost in all, however many processes it took."""
        return Receipt(**self.state["cost"])

    @cached_property
    def control_coefficients(self) -> Float64[Array, "m 3 3"]:
        """beta = Cov(controls)^+ Cov(controls, outcomes) per knot, controls by outcomes."""
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
    def means(self) -> Float64[Array, "m 3"]:
        """[Lambda, X, R] per knot."""
        return self._group_sums.sum(0) / self.draws[:, None]

    @property
    def noise_power(self) -> Float64[Array, " m"]:
        """Lambda."""
        return self.means[:, OUTCOMES["noise_power"]]

    @property
    def cross(self) -> Float64[Array, " m"]:
        """X."""
        return self.means[:, OUTCOMES["cross"]]

    @property
    def residual(self) -> Float64[Array, " m"]:
        """R."""
        return self.means[:, OUTCOMES["residual"]]

    @property
    def groups(self) -> int:
        return len(self.counts)

    def stderr(self, outcome: str) -> Float64[Array, " m"]:
        """Standard error of "noise_power" (also called "score"), "cross" or "residual"."""
        column = OUTCOMES["noise_power" if outcome == "score" else outcome]
        return ratio_stderr(self._group_sums[..., column], self.counts)

    def influence(self, outcome: str) -> Float64[Array, "g m"]:
        """What each group moves the mean of an outcome by, (S_i - r n_i) / n; `stderr` is their root sum of squares."""
        column = OUTCOMES["noise_power" if outcome == "score" else outcome]
        return _deviations(self._group_sums[..., column], self.counts) / self.draws

    @cached_property
    def between(self) -> BetweenKnots:
        """What is not known of R between the knots."""
        return BetweenKnots.of(self.log_snr, self.residual, self.stderr("residual"))

    @cached_property
    def variance_reduction(self) -> Float64[Array, "m 3"]:
        """Variance of a plain draw over variance of a controlled one, per knot and outcome."""
        n = self.draws[:, None]
        mean = self.sums.sum(0) / self.draws[:, None]
        covariance = self.products / n[..., None] - mean[:, :, None] * mean[:, None, :]
        explained = np.einsum("mco,mco->mo", self.control_coefficients, covariance[:, 3:, :3])
        plain = np.einsum("moo->mo", covariance[:, :3, :3])
        return plain / np.maximum(plain - explained, 1e-30)

    def calibration(self) -> tuple[Float64[Array, " m"], Float64[Array, " m"]]:
        """(1 - Lambda - R, its size in standard errors) per knot: zero in expectation for an exact score.

        R = 1 - 2 X + Lambda holds for any network, so 1 - Lambda - R = 2 (X - Lambda) = 2 (1 - X - R): this one contrast
        says how far all three moments disagree. Beyond error, it is miscalibration of the network.

        >>> difference, size = moments.calibration()
        >>> bool(abs(size).max() < 3)
        True
        """
        combined = self._group_sums @ np.array([-1.0, 0.0, -1.0])
        difference = combined.sum(0) / self.draws + 1.0
        return difference, difference / np.maximum(ratio_stderr(combined, self.counts), 1e-300)

    def residual_over(self, other: Moments) -> tuple[Float64[Array, " m"], Float64[Array, " m"]]:
        """(R over the other's R at the same levels, its standard error); the other may have more knots.

        Of the same network on training and on held-out data: below 1 where it learned examples by heart.
        """
        at = np.searchsorted(other.log_snr, self.log_snr)
        ratio = self.residual / other.residual[at]
        mine, theirs = self.stderr("residual") / self.residual, other.stderr("residual")[at] / other.residual[at]
        return ratio, np.hypot(mine, theirs) * ratio

    @property
    def data_variance(self) -> float:
        """V of the data, the unit of the decoder table."""
        return float(self.fingerprint["data_variance"])

    @property
    def data_range(self) -> DataRange | None:
        """Declared range and levels of the data; None where none was declared."""
        declared = self.fingerprint["decoder"]
        return None if declared is None else DataRange(*declared)

    @property
    def order(self) -> list[int]:
        """The number that each knot had in the pass: those that were added in doubt come last."""
        return list(self.state["order"])

    @property
    def finished(self) -> bool:
        """Whether every knot reached its tolerance or its largest number of draws."""
        return not self.state["active"]

    @cached_property
    def squared_error(self) -> SquaredError:
        """r = ||eps - eps_hat||^2 / d of one draw, as a random number at every level.

        >>> error = moments.squared_error
        >>> bool(error.mean(2.0) < error.root_mean_square(2.0))
        True
        """
        plain = self.sums[..., OUTCOMES["residual"]].sum(0) / self.draws
        variance = np.maximum(self.squares.sum(0) / self.draws - plain**2, 0.0)
        mean = np.where(self.residual > 0.0, self.residual, plain)  # controls may take more than there is
        return SquaredError(self.log_snr, mean, variance)

    def decoder_nats(self) -> Float64[Array, "m r"]:
        """E[-log p(x_0 | x_t)] in nats per dimension, decoder std = DECODER_RATIOS * decoder_scale."""
        return self.decoder_sums.sum(0) / self.draws[:, None]

    def part(self, groups: Bool[np.ndarray, " g"]) -> Moments:
        """The moments of some groups of examples; control coefficients are kept."""
        return replace(
            self,
            counts=self.counts[groups],
            sums=self.sums[groups],
            decoder_sums=self.decoder_sums[groups],
            squares=self.squares[groups],
            coefficients=self.control_coefficients,
        )

    def without(self, group: int) -> Moments:
        """The moments without one group of examples, for jackknife errors."""
        return self.part(np.arange(self.groups) != group)

    def folds(self, count: int) -> list[Bool[np.ndarray, " g"]]:
        """The groups dealt into at most `count` folds, each with draws at every knot; none where that cannot be.

        >>> [int(fold.sum()) for fold in moments.folds(4)]
        [8, 8, 8, 8]
        """
        folds = [np.arange(self.groups) % count == fold for fold in range(count)]
        return folds if all(self.counts[fold].any(0).all() for fold in folds) else []

    def jackknife(self, statistic: Callable[[Moments], ArrayLike]) -> tuple[Any, Any]:
        """(value, standard error) of any statistic of the moments, delete-one-group.

        >>> value, error = moments.jackknife(lambda replicate: replicate.residual.max())
        >>> f"{value:.3f} ± {error:.3f}"
        '1.005 ± 0.004'
        """
        return self.jackknife_by_group(lambda moments, group: statistic(moments))

    def jackknife_by_group(self, statistic: Callable[[Moments, int | None], ArrayLike]) -> tuple[Any, Any]:
        """`jackknife` of a statistic that looks at other records too, and so must know which group it is to leave out."""
        value = np.asarray(statistic(self, None))
        occupied = np.flatnonzero(self.counts.any(1)).tolist()
        if len(occupied) < 2:  # one example says nothing about another
            return value, np.full_like(value, np.inf, dtype=np.float64)
        replicates = np.stack([np.asarray(statistic(self.without(g), g)) for g in occupied])
        # `jackknife_variance`, in the order of operations that errors on disk have the last bit of.
        spread = ((replicates - replicates.mean(0)) ** 2).sum(0)
        return value, np.sqrt(spread * (len(occupied) - 1) / len(occupied))

    @classmethod
    def merge(cls, shards: Sequence[Moments]) -> Moments:
        """One pass from those of its shards, in their order: the sums of their sums.

        Raises:
            InputError: no shards, shards of different passes, one that is missing, occurs twice, or is not finished.
        """
        if not shards:
            raise InputError("no shards to merge: pass the moments of all of them")
        identity = {name: value for name, value in shards[0].fingerprint.items() if name != "shard"}
        for number, shard in enumerate(shards, 1):
            found = dict(shard.fingerprint)
            if found.pop("shard", None) != [number - 1, len(shards)]:
                raise InputError(f"the moments at place {number} are not shard {number} of {len(shards)}; pass all, in order")
            require_match(f"shard {number}", found, identity)
            if not shard.finished:
                raise InputError(f"shard {number} of {len(shards)} is not finished; let it go on first")
        names = ("counts", "sums", "products", "decoder_sums", "squares")
        sums = {name: sum(getattr(shard, name) for shard in shards[1:]) + getattr(shards[0], name) for name in names}
        cost = Receipt()
        for shard in shards:
            cost.add(**vars(shard.cost))
        state = dict(shards[0].state) | {"round": sum(shard.state["round"] for shard in shards), "cost": vars(cost)}
        return cls(log_snr=shards[0].log_snr, fingerprint=identity, state=state, **sums)

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
        arrays, metadata = load_arrays(path, KIND, STORED, SHAPE)
        found = metadata["fingerprint"]
        if expected is not None:
            require_match(path, {k: found.get(k) for k in expected}, expected)
        knots = len(arrays["log_snr"])
        if max(metadata["state"]["active"], default=0) >= knots or sorted(metadata["state"]["order"]) != list(range(knots)):
            raise InputError(f"{path} goes on with knots that it has not; delete it and measure again")
        return cls(**{name: arrays[name] for name in STORED}, fingerprint=found, state=metadata["state"])


def ratio_stderr(sums: Array, counts: Array) -> Array:
    """Standard error of sum(sums) / sum(counts) from its groups (axis 0).

    The jackknife linearised, g/(g - 1) sum_i (S_i - r n_i)^2 / n^2 for g occupied groups: `jackknife_variance` to first order,
    in closed form for all knots at once, however many groups each of them has.
    """
    occupied = (counts > 0).sum(0)
    error = np.sqrt((_deviations(sums, counts) ** 2).sum(0) * occupied / np.maximum(occupied - 1, 1)) / counts.sum(0)
    return np.where(occupied > 1, error, np.inf)  # one example says nothing about another


def _deviations(sums: Array, counts: Array) -> Array:
    return sums - sums.sum(0) / counts.sum(0) * counts
