"""What nearest neighbours tell: precision, recall (Kynkaanniemi et al., NeurIPS 2019) and entropy.

    manifold(Y) = union of balls around each y, as wide as the distance to its k-th nearest neighbour in Y
    precision = share of samples in manifold(reference),      recall = share of the reference in manifold(samples)

    H(P) ~ psi(n) - psi(k) + log V_d + d/n sum_i log rho_i,      V_d the volume of the unit ball

where rho_i is the distance of x_i to its k-th nearest neighbour among the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import scipy
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from score_sde_analytic.arrays import wide
from score_sde_analytic.checks import settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics.base import Metric, Reference, require_features
from score_sde_analytic.metrics.kernels import ROWS, squared_distances
from score_sde_analytic.metrics.measured import LEVEL, Measured, share


def nearest(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """Squared distance of every row to its k-th nearest among the others.

    >>> nearest(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
    tensor([1., 1., 4.])
    """
    distances2 = []
    for start in range(0, len(x), ROWS):
        block = squared_distances(x[start : start + ROWS], x)
        block.diagonal(start).fill_(torch.inf)
        distances2.append(block.kthvalue(k, dim=1).values)
    return torch.cat(distances2)


def covered(points: Float[Tensor, "n d"], centres: Float[Tensor, "m d"], radii2: Float[Tensor, " m"]) -> Bool[Tensor, " n"]:
    """Which of the points lie in a ball around one of the centres; radii squared.

    >>> covered(torch.tensor([[0.5], [2.0]]), torch.zeros(1, 1), torch.ones(1))
    tensor([ True, False])
    """
    return torch.cat([(squared_distances(rows, centres) <= radii2).any(1) for rows in points.split(ROWS)])


@dataclass(frozen=True)
class _Coverage(Metric):
    """A share of points in a manifold of balls.

    The interval is Wilson's for the points that are tested, with the balls held fixed: they are part of what is measured.
    Balls shrink as their number grows, so values compare only at equal numbers of samples and of reference examples.

    Args:
        k: the ball of an example reaches its k-th nearest neighbour.
        level: of the interval.
    """

    k: Annotated[int, whole(1)] = 3
    level: Annotated[float, LEVEL] = 0.95

    def __post_init__(self) -> None:
        settle(self)

    @property
    def least(self) -> int:  # type: ignore[override]
        return self.k + 1

    def _way_out(self, count: int) -> str:
        return f"; give more, or set k={count - 1}" if count > 1 else "; two are the least, with k=1"

    def _share(
        self, points: Float64[Tensor, "n d"], centres: Float64[Tensor, "m d"], radii2: Float64[Tensor, " m"]
    ) -> Measured:
        return share(covered(points, centres, radii2), self.level)


class Precision(_Coverage):
    """Share of samples in the manifold of the reference: are samples like data?"""

    def _measure(self, x: Float64[Tensor, "n d"], reference: Reference) -> Measured:
        centre = reference.once("centre", lambda v: v.mean(0))
        radii2 = reference.once(("radii", self.k), lambda v: nearest(v - centre, self.k))
        return self._share(x - centre, reference.values - centre, radii2)


class Recall(_Coverage):
    """Share of the reference in the manifold of the samples: are data like samples?"""

    def _measure(self, x: Float64[Tensor, "n d"], reference: Reference) -> Measured:
        centre = reference.once("centre", lambda v: v.mean(0))
        return self._share(reference.values - centre, x - centre, nearest(x - centre, self.k))


def entropy(x: Float[Tensor, "n d"], k: int = 5) -> float:
    """Differential entropy of continuous samples in nats (Kozachenko & Leonenko 1987).

    Consistent; its bias fades as n^(-2/d) at best, so it is best used for differences between sets of equal size.

    >>> x = mixture.sample(200)
    >>> entropy(2.0 * x) - entropy(x)  # d log 2
    1.386

    Raises:
        InputError: examples repeat, so that they have no density.
    """
    k = whole(1)("k", k)
    require_features(x, "the samples")
    n, d = x.shape
    if n <= k:
        raise InputError(f"the distance to the k-th nearest neighbour, k = {k}, needs more than {k} examples, got {n}")
    x = wide(x)
    distances2 = nearest(x - x.mean(0), k)
    if not (distances2 > 0).all():
        raise InputError(f"more than {k} examples are equal: data with repeated values have no differential entropy")
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)
    return float(scipy.special.digamma(n) - scipy.special.digamma(k) + log_ball + 0.5 * d * distances2.log().mean())
