"""DPM-Solver-v3's empirical model statistics (Zheng et al., NeurIPS 2023), per coordinate and level, by a pass of its own.

With lam half the log-SNR, y = x / alpha and a dot for d/dlam along the probability flow,

    y. = -e^-lam eps_hat = -(N + l y),      N = e^-lam eps_hat - l y,      N. = s N + b + what is left

    l = E[sigma d eps_hat_i / d x_i]                              leaves the least of N's Jacobian
    s = Cov(N., N) / Var(N),   b = E[N.] - s E[N]                  leave the least of N., in mean square

over x = alpha x_0 + sigma eps of the data. By Stein's identity l = E[eps_i eps_hat_i], the cross moment of a pass that draws
eps itself: no Jacobian is asked for. N. follows from eps_hat. by a central difference along the flow, two more calls per draw.
For Gaussian data of independent coordinates nothing is left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from score_sde_analytic.arrays import Array, numbers, slices, wide
from score_sde_analytic.checks import number, whole
from score_sde_analytic.data.examples import Data, as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays, save_arrays
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import SampleNoise, stream_seed

KIND = "empirical statistics"
#: Coordinates whose N varies less than so of eps_hat have no slope.
STILL = 1e-14


@dataclass(frozen=True, eq=False)
class EmpiricalStatistics:
    """l, s and b at knots; cubic between them, constant beyond.

    Attributes:
        log_snr: knots, ascending, (m,).
        linear, scale, offset: l, s, b, (m, *dims) or (m, 1) for all coordinates alike.
    """

    log_snr: Array
    linear: Array
    scale: Array
    offset: Array

    def __post_init__(self) -> None:
        m = len(self.log_snr)
        if m < 2 or not (np.diff(self.log_snr) > 0).all():
            raise InputError("empirical statistics need at least two knots, in ascending order")
        if not self.linear.shape == self.scale.shape == self.offset.shape or len(self.linear) != m:
            raise InputError(f"l, s and b need one shape of {m} knots, got {self.linear.shape} and {self.scale.shape}")

    def at(self, log_snr: Float[Array, " n"]) -> tuple[Array, Array, Array]:
        """(l, s, b), each (n, *dims)."""
        inside = np.clip(log_snr, self.log_snr[0], self.log_snr[-1])
        l_, s, b = (table(inside) for table in self._tables)
        return l_, s, b

    @cached_property
    def _tables(self) -> list[Any]:
        return [scipy.interpolate.CubicSpline(self.log_snr, table) for table in (self.linear, self.scale, self.offset)]

    @property
    def fingerprint(self) -> str:
        """A short name of their values."""
        digest = hashlib.sha256()
        for table in (self.log_snr, self.linear, self.scale, self.offset):
            digest.update(np.ascontiguousarray(table).tobytes())
        return digest.hexdigest()[:12]

    @classmethod
    def of_moments(cls, moments: Moments) -> EmpiricalStatistics:
        """One l for all coordinates, the recorded cross moment; s = b = 0: no call at all.

        >>> EmpiricalStatistics.of_moments(moments).linear.shape
        (50, 1)
        """
        l_all = np.asarray(moments.cross)[:, None]
        return cls(np.asarray(moments.log_snr), l_all, np.zeros_like(l_all), np.zeros_like(l_all))

    @classmethod
    def of(
        cls,
        model: ScoreModel,
        data: Data,
        log_snr: ArrayLike,
        draws: int = 256,
        *,
        seed: int = 0,
        batch_size: int = 128,
        span: float = 0.1,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> EmpiricalStatistics:
        """Measure them: 3 draws network calls per knot; the same examples and noise at all of them.

        >>> EmpiricalStatistics.of(model, data, np.linspace(-5.0, 5.0, 5), draws=16).scale.shape
        (5, 2)

        Args:
            data: examples x_0, or tuples that begin with one; map-style.
            log_snr: knots, so far within the schedule's range as half of `span`.
            span: of the central difference, in log-SNR.

        Raises:
            InputError: bad knots, or no data.
        """
        knots = numbers("the knots", log_snr)
        draws, span = whole(2)("draws", draws), number(above=0, most=1)("span", span)
        blocks = list(_blocks(model, data, draws, seed, whole(1)("batch_size", batch_size), torch.device(device)))
        with torch.no_grad():
            sums = [_moments(lam, span, blocks) for lam in tqdm(knots, desc="statistics", disable=not progress)]
        return cls(knots, *_regressed(knots, np.stack(sums)))

    def save(self, path: str | Path) -> None:
        """Write as safetensors."""
        arrays = {"log_snr": self.log_snr, "linear": self.linear, "scale": self.scale, "offset": self.offset}
        save_arrays(path, arrays, {"kind": KIND})

    @classmethod
    def load(cls, path: str | Path) -> EmpiricalStatistics:
        """Read what `save` wrote.

        Raises:
            MissingFileError: no such file.
            InputError: damaged, or not such a file.
        """
        names = ("log_snr", "linear", "scale", "offset")
        arrays, _ = load_arrays(path, KIND, {"log_snr": "float64 m"} | dict.fromkeys(names[1:], "float64 ..."))
        return cls(*(arrays[name] for name in names))


def _blocks(
    model: ScoreModel, data: Data, draws: int, seed: int, size: int, device: torch.device
) -> Iterator[tuple[ScoreModel, Tensor, Tensor]]:
    """(model, x_0, eps) of all draws: examples in a seeded order, again from its beginning where they are too few."""
    examples = as_dataset(data)
    order = np.random.default_rng(stream_seed(seed, 11)).permutation(len(examples))
    chosen = np.resize(order, draws)
    for part in slices(draws, size):
        x_0, conditions = examples.batch(chosen[part])
        noise = SampleNoise(stream_seed(seed, 12), range(part.start, part.stop), device)
        yield model.for_batch(conditions, device), x_0.to(device), noise.draw(x_0.to(device)).clone()


def _moments(log_snr: float, span: float, blocks: list[tuple[ScoreModel, Tensor, Tensor]]) -> Array:
    """Means of eps eps_hat, eps^2, and of the variables eps_hat, eps_hat., x / sigma and their products, (2 + 3 + 6, *dims)."""
    total: Any = 0.0
    for model, x_0, eps in blocks:
        variables = _variables(model, log_snr, span, x_0, eps)
        noise = wide(eps)
        pairs = [variables[i] * variables[j] for i in range(3) for j in range(i, 3)]
        total = total + torch.stack([part.sum(0) for part in (noise * variables[0], noise.square(), *variables, *pairs)])
    return np.asarray((total / sum(len(x_0) for _, x_0, _ in blocks)).cpu().numpy())


def _variables(model: ScoreModel, log_snr: float, span: float, x_0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(eps_hat, its rate along the flow, x / sigma)."""
    level = model.schedule.level_at(log_snr)
    x_t = level.diffuse(x_0, eps)
    here = model.predict(x_t, level).eps
    y, rate = x_t / level.alpha, -level.ratio * here
    ahead, behind = (
        model.predict((y + 0.5 * shift * rate) * near.alpha, near).eps
        for shift in (0.5 * span, -0.5 * span)
        for near in [model.schedule.level_at(log_snr + shift)]
    )
    return wide(here), wide(ahead - behind) / (0.5 * span), wide(x_t) / level.sigma


def _regressed(knots: Array, means: Array) -> tuple[Array, Array, Array]:
    """(l, s, b) from the means at all knots."""
    crossed, power, first, second = means[:, 0], means[:, 1], means[:, 2:5], means[:, 5:]
    common = crossed.reshape(len(knots), -1).mean(1).reshape(-1, *(1,) * (crossed.ndim - 1))
    l_ = crossed - common * (power - 1.0)  # what eps^2 missed its mean by
    slope = 2.0 * scipy.interpolate.CubicSpline(knots, l_).derivative()(knots)  # by half the log-SNR
    one, none = np.ones_like(l_), np.zeros_like(l_)
    n = np.stack([one, none, -l_], 1)  # N e^lam
    f = np.stack([l_ - 1.0, one, -slope], 1)  # N. e^lam
    upper = {pair: k for k, pair in enumerate((i, j) for i in range(3) for j in range(i, 3))}
    covariance = np.stack(
        [np.stack([second[:, upper[min(i, j), max(i, j)]] - first[:, i] * first[:, j] for j in range(3)], 1) for i in range(3)],
        1,
    )
    variance = np.einsum("mi...,mij...,mj...->m...", n, covariance, n)
    shared = np.einsum("mi...,mij...,mj...->m...", f, covariance, n)
    moves = variance > STILL * second[:, 0]
    scale = np.where(moves, shared / np.where(moves, variance, 1.0), 0.0)
    back = np.exp(-0.5 * knots).reshape(-1, *(1,) * (l_.ndim - 1))
    return l_, scale, back * ((f - scale[:, None] * n) * first).sum(1)
