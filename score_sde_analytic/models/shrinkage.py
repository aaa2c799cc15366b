"""The spectrum of a covariance from few examples: the basis, the pooling of its coefficients, and how far to shrink.

c_l = mean square of the coefficients of label l,      c' = (1 - s) c + s mean(c)

The strength s in closed form (Ledoit & Wolf, 2004; oracle approximating, Chen et al., 2010), or where examples that the fit did
not see have their largest likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import number, one_of
from score_sde_analytic.data.basis import Basis
from score_sde_analytic.data.examples import Data, Examples, as_dataset, batches
from score_sde_analytic.data.portions import batch_by_bytes
from score_sde_analytic.data.ranges import check_examples
from score_sde_analytic.data.transforms import DCT, PCA, ColourDCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import optional
from score_sde_analytic.process.gaussian import step_kl

Indices = range | NDArray[np.int64]
Shrinkage = float | Literal["held_out", "ledoit_wolf", "oas"]
#: Strengths among which the likelihood of other examples chooses.
STRENGTHS = np.geomspace(1e-5, 1.0, 51)
#: Log-SNRs at which that likelihood is taken: where a prior or a start would be used.
JUDGED_AT = np.arange(-6.0, 5.0)
#: One example in so many is held out.
HELD_OUT = 5
#: Principal components of data that are no images, in more dimensions than all are worked out for.
RANK = 256
#: Numbers that the closed forms of the strength take at most.
MOST_NUMBERS = 10**8


def usual_basis(data: Data, max_exact: int) -> Basis:
    """A basis in which the covariance of such data is nearly diagonal, at a price that their size allows.

    >>> usual_basis(torch.randn(5, 3, 32, 32), max_exact=1024).config()["name"]
    'ColourDCT'
    """
    examples = as_dataset(data)
    dim = math.prod(examples.shape)
    if dim <= max_exact and len(examples) > 1:
        return PCA.of(examples)
    if len(examples.shape) == 3:
        return ColourDCT.of(examples) if examples.shape[0] > 1 else DCT()
    return PCA.of(examples, min(RANK, len(examples) - 1))


def fitted_spectrum(
    data: Data, basis: Basis | None, shrinkage: Shrinkage, max_exact: int
) -> tuple[Basis, Float64[Tensor, "*dims"], Array]:
    """(basis, mean, variance of every coefficient) of examples.

    Raises:
        InputError: examples that are empty, not finite or all the same, or a basis or strength that does not fit them.
    """
    examples = as_dataset(data)
    fit = _Fit(examples, basis, max_exact)
    strength = fit.strength(shrinkage)
    u, mean, spectrum = fit.on(range(len(examples)))
    if not spectrum.mean() > 0.0:
        raise InputError("the data have no spread: all examples equal their mean; check how they were read and scaled")
    return u, mean, shrunk(spectrum, strength)


def shrunk(spectrum: Array, strength: float) -> Array:
    """(1 - s) c + s mean(c).

    >>> shrunk(np.array([0.0, 2.0]), 0.1)
    array([0.1, 1.9])
    """
    return (1.0 - strength) * spectrum + strength * spectrum.mean()


class _Fit:
    """Means and spectra of parts of a data set, in a given basis or in the usual one of each part."""

    def __init__(self, examples: Examples, basis: Basis | None, max_exact: int) -> None:
        self._examples = examples
        self._basis: Callable[[Data], Basis] = (
            (lambda part: usual_basis(part, max_exact)) if basis is None else lambda part: basis
        )

    def _rows(self, indices: Indices) -> Iterator[Tensor]:
        for x in batches(self._examples, indices, batch_by_bytes(self._examples.first.numel())):
            check_examples(x)
            yield x.double()

    def on(self, indices: Indices) -> tuple[Basis, Float64[Tensor, "*dims"], Array]:
        """(basis, mean, pooled spectrum) of some of the examples."""
        mean = torch.stack([x.sum(0) for x in self._rows(indices)]).sum(0) / len(indices)
        basis = self._basis(self._examples.part(indices))
        return basis, mean, _pooled(self._squares(basis, mean, indices), basis)

    def _squares(self, basis: Basis, mean: Tensor, indices: Indices) -> Array:
        """Mean square of every coefficient about a mean."""
        sums = [basis.forward(x - mean).square().sum(0) for x in self._rows(indices)]
        return (torch.stack(sums).sum(0) / len(indices)).numpy()

    def strength(self, shrinkage: Shrinkage) -> float:
        """s, as given or as the examples have it."""
        if not isinstance(shrinkage, str):
            return number(0, 1)("shrinkage", shrinkage)
        name = one_of(("held_out", "ledoit_wolf", "oas"))("shrinkage", shrinkage)
        if name == "held_out":
            return self._best()
        rows = torch.cat([x.flatten(1) for x in self._rows(range(len(self._examples)))]).numpy()
        if rows.size > MOST_NUMBERS:
            raise InputError(f"{name} would hold all {rows.size} numbers of the data at once; choose 'held_out' or a number")
        covariance = optional("sklearn.covariance", extra="images", user=f"shrinkage {name!r}", package="scikit-learn")
        if name == "oas":
            return float(covariance.oas(rows)[1])
        return float(covariance.ledoit_wolf_shrinkage(rows))

    def _best(self) -> float:
        """The strength at which a model of four fifths of the examples explains the others best, over noise levels."""
        if len(self._examples) < HELD_OUT:
            raise InputError(f"{len(self._examples)} examples are too few to hold some out: give the shrinkage as a number")
        fitted = np.arange(len(self._examples)) % HELD_OUT != 0
        basis, mean, spectrum = self.on(np.flatnonzero(fitted))
        squares = self._squares(basis, mean, np.flatnonzero(~fitted))
        snr = np.exp(JUDGED_AT).reshape(-1, *(1,) * spectrum.ndim)
        costs = [step_kl(snr * squares, 1.0, snr * shrunk(spectrum, s)).mean() for s in STRENGTHS]
        return float(STRENGTHS[int(np.argmin(costs))])


def _pooled(squares: Array, basis: Basis) -> Array:
    """Mean squares over the coefficients of each label."""
    labels = basis.labels(squares.shape).ravel()
    return (np.bincount(labels, squares.ravel()) / np.bincount(labels).clip(1))[labels].reshape(squares.shape)
