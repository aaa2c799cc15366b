"""The Frechet distance between the Gaussians of two sets of features (Dowson & Landau 1982; Heusel et al., NeurIPS 2017).

    d^2 = ||m - m'||^2 + tr C + tr C' - 2 tr (C^1/2 C' C^1/2)^1/2
        = ||m - m'||^2 + ||F||^2 + ||F'||^2 - 2 ||F^T F'||_*,      C = F F^T,  C' = F' F'^T

F holds the eigenvectors of C times the square roots of their eigenvalues, without those that are zero to rounding, so
covariances of less than full rank (fewer examples than features, dead features) are exact, and no square root is taken of a
number that rounding made negative. It is called FID for the features of Inception-v3 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.checks import whole
from score_sde_analytic.metrics.base import Distance, Reference
from score_sde_analytic.metrics.measured import Measured
from score_sde_analytic.process.noise import stream_seed

ROWS = 8192  # examples whose centred features are held at once


class GaussianSummary(NamedTuple):
    """A Gaussian: its mean, and the factor of its covariance F F^T."""

    mean: Float[Tensor, " d"]
    factor: Float[Tensor, "d r"]

    @classmethod
    def of(cls, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> GaussianSummary:
        """From a covariance that is symmetric and positive semi-definite up to rounding.

        >>> GaussianSummary.of(torch.zeros(2), torch.diag(torch.tensor([4.0, 0.0]))).factor.shape  # of rank 1
        torch.Size([2, 1])
        """
        values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
        kept = values > len(values) * torch.finfo(values.dtype).eps * values.abs().max()
        return cls(mean, vectors[:, kept] * values[kept].sqrt())


def sample_moments(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and unbiased covariance, a block of rows at a time.

    >>> sample_moments(torch.tensor([[0.0], [2.0]]))
    (tensor([1.]), tensor([[2.]]))
    """
    mean = x.mean(0)
    outer = x.new_zeros(x.shape[1], x.shape[1])
    for rows in x.split(ROWS):
        outer += (rows - mean).T @ (rows - mean)
    return mean, outer / (len(x) - 1)


def frechet_distance(x: GaussianSummary, y: GaussianSummary) -> float:
    """d^2 of two Gaussians.

    >>> wide, narrow = (GaussianSummary.of(torch.zeros(1), torch.tensor([[std**2]])) for std in (3.0, 1.0))
    >>> frechet_distance(wide, narrow)  # (3 - 1)^2
    4.0
    """
    overlap = torch.linalg.svdvals(x.factor.T @ y.factor).sum() if min(x.factor.shape[1], y.factor.shape[1]) else 0.0
    spread = x.factor.square().sum() + y.factor.square().sum() - 2.0 * overlap
    return float((x.mean - y.mean).square().sum() + spread.clamp_min(0.0))


@dataclass(frozen=True)
class Frechet(Distance):
    """The Frechet distance, corrected for its bias c/n + c'/m by the jackknife.

    The correction needs more examples than features with spread; with fewer it removes a part of the bias only
    (docs/results/metrics.md).
    """

    def summary(self, x: Float64[Tensor, "n d"]) -> GaussianSummary:
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

    points: Annotated[int, whole(2)] = 5

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

    def _measure(self, x: Float64[Tensor, "n d"], reference: Reference) -> Measured:
        # Parts are the first examples of a fixed order: leaving out a group changes them as little as it can.
        return super()._measure(self._shuffled(x), reference.once((self, "order"), lambda v: Reference(self._shuffled(v))))

    def _shuffled(self, x: Tensor) -> Tensor:
        return x[torch.from_numpy(np.random.default_rng(stream_seed(self.seed, 2)).permutation(len(x))).to(x.device)]

    def summary(self, x: Float64[Tensor, "n d"]) -> list[GaussianSummary]:
        parts = (x[: round(len(x) / inverse)] for inverse in self._inverse_shares)
        return [GaussianSummary.of(*sample_moments(part)) for part in parts]

    def compare(self, x: list[GaussianSummary], y: list[GaussianSummary]) -> float:
        distances = [frechet_distance(a, b) for a, b in zip(x, y, strict=True)]
        return float(np.polynomial.Polynomial.fit(self._inverse_shares, distances, 1)(0.0))
