"""The Frechet distance between the Gaussians of two sets of features (Dowson & Landau 1982; Heusel et al., NeurIPS 2017).

    d^2 = ||m - m'||^2 + tr C + tr C' - 2 tr (C^1/2 C' C^1/2)^1/2
        = ||m - m'||^2 + ||F||^2 + ||F'||^2 - 2 ||F^T F'||_*,      C = F F^T,  C' = F' F'^T

F holds the eigenvectors of C times the square roots of their eigenvalues, without those that are zero to rounding, so
covariances of less than full rank (fewer examples than features, dead features) are exact, and no square root is taken of a
number that rounding made negative. It is called FID for the features of Inception-v3 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde_analytic.metrics.base import Distance, Reference
from score_sde_analytic.metrics.measured import Measured
from score_sde_analytic.process.noise import stream_seed

ROWS = 8192  # examples whose centred features are held at once


class GaussianSummary(NamedTuple):
    """A Gaussian: mean (d,) and factor (d, r) of its covariance F F^T."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> GaussianSummary:
        """From mean (d,) and covariance (d, d), symmetric and positive semi-definite up to rounding."""
        values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
        kept = values > len(values) * torch.finfo(values.dtype).eps * values.abs().max()
        return cls(mean, vectors[:, kept] * values[kept].sqrt())


def sample_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance of (n, d), a block of rows at a time."""
    mean = x.mean(0)
    outer = x.new_zeros(x.shape[1], x.shape[1])
    for rows in x.split(ROWS):
        outer += (rows - mean).T @ (rows - mean)
    return mean, outer / (len(x) - 1)


def frechet_distance(x: GaussianSummary, y: GaussianSummary) -> float:
    """d^2 of two Gaussians."""
    overlap = torch.linalg.svdvals(x.factor.T @ y.factor).sum() if min(x.factor.shape[1], y.factor.shape[1]) else 0.0
    spread = x.factor.square().sum() + y.factor.square().sum() - 2.0 * overlap
    return float((x.mean - y.mean).square().sum() + spread.clamp_min(0.0))


@dataclass(frozen=True)
class Frechet(Distance):
    """The Frechet distance, corrected for its bias c/n + c'/m by the jackknife.

    The correction needs more examples than features with spread; with fewer it removes a part of the bias only
    (docs/results/metrics.md).
    """

    def summary(self, x: Tensor) -> GaussianSummary:
        return GaussianSummary.of(*sample_moments(x))

    def compare(self, x: GaussianSummary, y: GaussianSummary) -> float:
        return frechet_distance(x, y)


@dataclass(frozen=True)
class ExtrapolatedFrechet(Distance):
    """FD_infinity: distances of parts of both sides, a line in 1/(share taken), read at 0 (Chong & Forsyth, CVPR 2020).

    Jackknifed as a whole, so its interval includes the scatter of the extrapolation; `Frechet` has the smaller error at
    1/points of the work. `plug_in` is the line's intercept too.

    Args:
        points: shares s of the examples, 1/s even between 1 and 2.
    """

    points: int = 5

    @property
    def corrected(self) -> bool:
        """No: the extrapolation has removed the bias."""
        return False

    @property
    def least(self) -> int:  # type: ignore[override]
        return max(4, 2 * self.groups)

    @property
    def _inverse_shares(self) -> np.ndarray:
        return np.linspace(1.0, 2.0, self.points)

    def _measure(self, x: Tensor, reference: Reference) -> Measured:
        # Parts are the first examples of a fixed order: leaving out a group changes them as little as it can.
        return super()._measure(self._shuffled(x), reference.once((self, "order"), lambda v: Reference(self._shuffled(v))))

    def _shuffled(self, x: Tensor) -> Tensor:
        return x[torch.from_numpy(np.random.default_rng(stream_seed(self.seed, 2)).permutation(len(x))).to(x.device)]

    def summary(self, x: Tensor) -> list[GaussianSummary]:
        parts = (x[: round(len(x) / inverse)] for inverse in self._inverse_shares)
        return [GaussianSummary.of(*sample_moments(part)) for part in parts]

    def compare(self, x: list[GaussianSummary], y: list[GaussianSummary]) -> float:
        distances = [frechet_distance(a, b) for a, b in zip(x, y, strict=True)]
        return float(np.polynomial.Polynomial.fit(self._inverse_shares, distances, 1)(0.0))
