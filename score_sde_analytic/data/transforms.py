"""Bases that mix coordinates: cosines, cosines of rotated channels, principal components.

DCT          y = C_h x C_w^T,   C_n[k, j] = sqrt((2 - [k = 0]) / n) cos(pi k (2j + 1) / 2n)
ColourDCT    y = C_h (R x) C_w^T with an orthonormal R over the channels
PCA          r rows of U are given, Householder reflectors complete them
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float, Float64, Int64, Num
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from score_sde_analytic.arrays import Cast, precise, readable, sent, square_norm, unwatched, wide
from score_sde_analytic.data.basis import BuiltIn
from score_sde_analytic.data.examples import Data, as_dataset, batches
from score_sde_analytic.data.portions import batch_by_bytes
from score_sde_analytic.data.ranges import check_examples
from score_sde_analytic.errors import InputError

#: Share of the energy below which a difference from the whole says little of the rest, in float32.
LITTLE = 1e-3


class _Linear(BuiltIn):
    """Checks the input around the matrix products of a subclass; half precision is computed in float32."""

    @abstractmethod
    def _check(self, shape: Sequence[int]) -> None:
        """Raise ValueError where examples of this shape do not fit."""

    @abstractmethod
    def _apply(self, x: Tensor, inverse: bool) -> Tensor:
        """U x or U^T x in the precision of x, float32 or float64."""

    def forward(self, x: Num[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        return self._run(x, inverse=False)

    def inverse(self, y: Num[Tensor, " batch *dims"]) -> Float[Tensor, " batch *dims"]:
        return self._run(y, inverse=True)

    def _run(self, x: Tensor, inverse: bool) -> Tensor:
        if not x.is_floating_point():
            raise InputError(f"{type(self).__name__} acts on floating-point values, got {x.dtype}; convert them first")
        self._check(x.shape[1:])
        return self._apply(x if x.dtype == torch.float64 else x.float(), inverse).to(x.dtype)


class DCT(_Linear):
    """y = C_h x C_w^T over the last two dimensions, the orthonormal DCT-II; y = C_d x for examples of one dimension.

    Args:
        radial: False, one curve per coefficient; True, one per channel and radial frequency sqrt((i/h)^2 + (j/w)^2); a
            number m >= 2, at most m per channel: the mean (frequency 0) alone, and m - 1 rings of equal width.

    Raises:
        InputError: `radial` is none of these.

    >>> DCT(radial=2).labels((1, 2, 2)).tolist()
    [[[0, 1], [1, 1]]]
    """

    _settings = ("radial",)

    def __init__(self, radial: bool | int = False) -> None:
        if not isinstance(radial, bool) and not (isinstance(radial, int) and radial >= 2):
            raise InputError(f"radial must be False, True or a number of rings from 2, got {radial!r}")
        self.radial = radial

    def labels(self, shape: Sequence[int]) -> Int64[np.ndarray, "*dims"]:
        self._check(shape)
        return super().labels(shape) if self.radial is False else _rings(shape, self.radial)

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) == 0:
            raise InputError("cosines need examples of at least one dimension, (batch, d) or (batch, ..., h, w)")

    def _apply(self, x: Tensor, inverse: bool) -> Tensor:
        if unwatched(x) and x.numel() > 0 and x.dtype in (torch.float32, torch.float64):
            fast = scipy.fft.idctn if inverse else scipy.fft.dctn
            return torch.from_numpy(fast(x.numpy(), axes=range(-min(x.ndim - 1, 2), 0), norm="ortho"))
        columns = _cosines(x.shape[-1], x.dtype, x.device)
        y = x @ (columns if inverse else columns.T)
        if x.ndim == 2:
            return y
        rows = _cosines(x.shape[-2], x.dtype, x.device)
        return (rows.T if inverse else rows) @ y


class ColourDCT(DCT):
    """y = C_h (R x) C_w^T: an orthonormal rotation R of the channels, then the cosines of each.

    Args:
        rotation: R, (c, c), one new channel per row.
        radial: as in `DCT`.

    Raises:
        InputError: R is not square and orthonormal.

    >>> ColourDCT(np.eye(2), radial=2).labels((2, 1, 2)).tolist()
    [[[0, 1]], [[2, 3]]]
    """

    _arrays = ("rotation",)

    def __init__(self, rotation: ArrayLike, radial: bool | int = False) -> None:
        super().__init__(radial)
        self.rotation = _orthonormal_rows(rotation, "rotation")
        if len(self.rotation) != self.rotation.shape[1]:
            raise InputError(f"the rotation must be (c, c) for c channels, got shape {self.rotation.shape}")
        self._rotation = Cast(self.rotation)

    @classmethod
    def of(cls, data: Data, radial: bool | int = False) -> ColourDCT:
        """R from the eigenvectors of the channels' covariance over all pixels, by descending variance.

        Args:
            data: images (n, channels, height, width).

        Raises:
            InputError: `data` are empty, not finite, or not images.
        """

        def pixels(x: Tensor) -> Tensor:
            if x.ndim != 4:
                raise InputError(f"channels need images (n, channels, height, width), got {tuple(x.shape)}; use DCT or PCA")
            return x.movedim(1, -1).flatten(0, 2)

        covariance = _Rows(data, pixels).covariance_times()
        return cls(_leading(covariance, len(covariance)), radial)

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] != len(self.rotation):
            raise InputError(
                f"a rotation of {len(self.rotation)} channels needs examples ({len(self.rotation)}, height, width), got"
                f" {tuple(shape)}; fit it on such data or use DCT"
            )

    def _apply(self, x: Tensor, inverse: bool) -> Tensor:
        rotation = self._rotation.like(x)
        if inverse:
            return (rotation.T @ super()._apply(x, inverse).flatten(2)).reshape(x.shape)
        return super()._apply((rotation @ x.flatten(2)).reshape(x.shape), inverse)


class PCA(_Linear):
    """y = U x with the first r rows of U given; the other d - r coefficients share one curve.

    U = S Q^T,   Q = H_1 ... H_r = I - V T V^T,   T^-1 = striu(V^T V) + diag(1 / tau)

    V and tau are the Householder reflectors of the QR factorisation of the components, T is upper triangular (compact WY) and S
    flips the signs that the factorisation flips. So U is orthonormal on all of R^d at the memory and cost of a d x r matrix.

    Args:
        components: (r, d), orthonormal rows over the flattened example.

    Raises:
        InputError: the rows are not finite or not orthonormal.

    >>> PCA(np.eye(3)[:1]).labels((3,)).tolist()
    [0, 1, 1]
    """

    _arrays = ("components",)

    def __init__(self, components: ArrayLike) -> None:
        self.components = _orthonormal_rows(components, "components")
        rank, dim = self.components.shape
        v, tau = torch.geqrf(torch.tensor(self.components.T))
        signs = np.ones(dim)
        signs[:rank] = np.sign(v.diagonal().numpy())
        v.tril_(-1).diagonal().fill_(1.0)
        v[:, tau == 0] = 0.0  # H = I
        inverse_t = (v.T @ v).triu(1) + torch.diag(torch.where(tau == 0, 1.0, 1.0 / tau))
        one = torch.eye(rank, dtype=torch.float64)
        self._v = Cast(np.ascontiguousarray(v.numpy()))
        self._signs = Cast(signs)
        self._t = Cast(torch.linalg.solve_triangular(inverse_t, one, upper=True).numpy())

    @classmethod
    def of(cls, data: Data, rank: int | None = None, seed: int = 0, max_exact: int = 4096) -> PCA:
        """The leading eigenvectors of Cov(x_0), by descending variance.

        Args:
            data: (n, *dims).
            rank: how many; None for min(d, n - 1), all that n examples determine.
            seed: of the random start of the subspace iteration.
            max_exact: dimensions up to this take the d x d covariance, larger ones a randomised subspace iteration (Halko,
                Martinsson & Tropp, 2011, algorithm 4.4): products with the covariance, batch by batch, and a QR factorisation
                between them. It needs memory for four matrices of d x (rank + 16) and reads the data nine times. Of the
                methods of libraries, randomized_svd and torch.svd_lowrank want all the data in memory, and IncrementalPCA
                drops at every batch what later ones may need.

        Raises:
            InputError: `data` are empty or not finite, or `rank` is absent in more than `max_exact` dimensions or not
                in 1 .. min(d, n - 1).

        >>> PCA.of(data).components.round(2)
        array([[ 0.96,  0.27],
               [-0.27,  0.96]])
        """
        rows = _Rows(data, lambda x: x.flatten(1))
        dim = len(rows.mean)
        limit = min(len(rows.mean), rows.count - 1)
        if rank is None and dim > max_exact:
            raise InputError(f"all components of {dim} dimensions are too many; give a rank, such as 256")
        rank = limit if rank is None else rank
        if not 1 <= rank <= limit:
            raise InputError(
                f"{rows.count} examples of {dim} dimensions determine min(d, n - 1) = {limit} components, not {rank};"
                " change the rank or give more examples"
            )
        if dim <= max_exact:
            return cls(_leading(rows.covariance_times(), rank))
        start = torch.randn(dim, min(rank + 16, limit), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        span = torch.linalg.qr(start).Q
        for _ in range(7):
            span = torch.linalg.qr(rows.covariance_times(span)).Q
        return cls(_leading(span.T @ rows.covariance_times(span), rank, span))

    def labels(self, shape: Sequence[int]) -> Int64[np.ndarray, "*dims"]:
        self._check(shape)
        return np.minimum(super().labels(shape), len(self.components))

    def _check(self, shape: Sequence[int]) -> None:
        dim = self.components.shape[1]
        if math.prod(shape) != dim:
            raise InputError(f"components of {dim} dimensions met examples of shape {tuple(shape)}; fit them on such data")

    def energies(
        self, x: Float[Tensor, " batch *dims"], labels: Int64[Tensor, " d"], count: int
    ) -> Float64[Tensor, "batch {count}"]:
        self._check(x.shape[1:])
        flat = precise(x).flatten(1)
        v, rank = self._v.like(flat), len(self.components)
        known = wide(flat[:, :rank] - self._along(flat, False) @ v[:rank].T).square()
        total = square_norm(flat)
        rest = total - known.sum(1)
        little = rest < LITTLE * total
        if not readable(flat) or little.any():
            rest = torch.where(little, square_norm(self._reflected(flat, False)[:, rank:]), rest)
        return torch.cat([known, rest[:, None]], 1)[:, :count]

    def _apply(self, x: Tensor, inverse: bool) -> Tensor:
        signs, flat = self._signs.like(x), x.flatten(1)
        if inverse:
            return self._reflected(flat * signs, inverse).reshape(x.shape)
        return (self._reflected(flat, inverse) * signs).reshape(x.shape)

    def _reflected(self, flat: Tensor, inverse: bool) -> Tensor:
        """Q^T x of every row, or Q x."""
        return torch.addmm(flat, self._along(flat, inverse), self._v.like(flat).T, alpha=-1.0)

    def _along(self, flat: Tensor, inverse: bool) -> Tensor:
        """T^T V^T x of every row, or T V^T x."""
        t = self._t.like(flat)
        return flat @ self._v.like(flat) @ (t.T if inverse else t)


@lru_cache(maxsize=64)
def _cosines(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """C_n[k, j] = sqrt((2 - [k = 0]) / n) cos(pi k (2j + 1) / 2n)."""
    turns = np.outer(np.arange(n), 2 * np.arange(n) + 1) % (4 * n)  # exact, so that large n lose no digits
    matrix = np.cos(0.5 * np.pi / n * turns) * np.sqrt(np.where(np.arange(n) == 0, 1.0, 2.0) / n)[:, None]
    with torch.inference_mode(False):
        return sent(torch.tensor(matrix, dtype=dtype), device)


def _rings(shape: Sequence[int], radial: bool | int) -> NDArray[np.int64]:
    """One label per channel and ring of sqrt((i/h)^2 + (j/w)^2)."""
    h, w = (1, *shape)[-2:]
    squares = (np.arange(h)[:, None] * w) ** 2 + (np.arange(w) * h) ** 2  # integers: equal radii compare equal
    if radial is not True:
        radii = np.sqrt(squares)
        squares = np.ceil(radii * (radial - 1) / max(radii.max(), 1.0) - 1e-9).astype(np.int64)
    values, ring = np.unique(squares, return_inverse=True)
    channels = np.arange(math.prod(shape[:-2]), dtype=np.int64)
    return (channels[:, None] * len(values) + ring.reshape(1, -1)).reshape(tuple(shape))


class _Rows:
    """Float64 rows made of a data set batch by batch, and products with their covariance."""

    def __init__(self, data: Data, rows: Callable[[Tensor], Tensor]) -> None:
        self._dataset = as_dataset(data)
        self._rows = rows
        self.count = 0
        total: Any = 0.0
        for x in self._batches():
            self.count = self.count + len(x)
            total = total + x.sum(0)
        self.mean: Tensor = total / self.count

    def _batches(self) -> Iterator[Tensor]:
        for x in batches(self._dataset, range(len(self._dataset)), batch_by_bytes(self._dataset.first.numel())):
            check_examples(x)
            yield self._rows(x.cpu().double())

    def covariance_times(self, y: Tensor | None = None) -> Tensor:
        """Cov y without Cov in memory; Cov itself without y."""
        dim = len(self.mean)
        total = torch.zeros(dim, dim if y is None else y.shape[1], dtype=torch.float64)
        for x in self._batches():
            centred = x - self.mean
            total.addmm_(centred.T, centred if y is None else centred @ y)
        return total.div_(self.count)


def _leading(covariance: Tensor, rank: int, span: Tensor | None = None) -> NDArray[np.float64]:
    """Leading eigenvectors as rows, (rank, d); the first entry of at least half the largest size is positive."""
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :rank]
    rows = (vectors if span is None else span @ vectors).T.numpy()
    for row in rows:
        size = np.abs(row)
        row *= np.sign(row[np.argmax(size >= 0.5 * size.max())])
    return rows


def _orthonormal_rows(matrix: ArrayLike, name: str) -> NDArray[np.float64]:
    """A read-only float64 copy, checked."""
    rows = np.array(matrix, dtype=np.float64, order="C")
    if rows.ndim != 2 or not 1 <= rows.shape[0] <= rows.shape[1]:
        raise InputError(f"{name} must be a matrix of at most as many rows as columns, got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise InputError(f"{name}: NaN or inf among the entries; fit to finite data")
    error = np.abs(rows @ rows.T - np.eye(len(rows))).max()
    if error > 1e-10:
        raise InputError(f"the rows of {name} are not orthonormal (off by {error:.1e}); take np.linalg.qr(matrix.T)[0].T")
    rows.setflags(write=False)
    return rows
