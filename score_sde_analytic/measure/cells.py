"""Mean squared residuals of bins and labels: n draws of a cell, shrunk toward the profile of all bins and toward each other."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Int64, Num

from score_sde_analytic.arrays import Array


def quantile_bins(
    phi: Float64[Array, "n values"], bins: int
) -> tuple[Int64[np.ndarray, "n values"], Float64[Array, " 2*{bins}-1"]]:
    """(bin of every value, medians and edges of the bins) by quantiles over all values of a knot.

    >>> index, quantiles = quantile_bins(np.arange(4.0)[:, None], 2)
    >>> index[:, 0], quantiles
    (array([0, 0, 1, 1]), array([0.75, 1.5 , 2.25]))
    """
    quantiles = np.quantile(phi, np.linspace(0.0, 1.0, 2 * bins + 1))[1:-1]
    return np.searchsorted(quantiles[1::2], phi, side="right"), quantiles


def cell_means(
    square: Float64[Array, "n L"],
    index: Int64[np.ndarray, " n #L"],
    number: Float64[Array, " n"],
    bins: int,
    shrinkage: float,
    sizes: Num[np.ndarray, " L"],
    pooled: bool,
) -> tuple[Float64[Array, "{bins} L"], Float64[Array, "{bins} L"], Float64[Array, "{bins} L"]]:
    """(R, its effective number of draws, share of the label's draws) of every bin and label.

    Args:
        square: of draws, or means of so many of a bin.
        number: how many.
    """
    sums, counts = _sums(square, index, number, bins)
    mass = counts / number.sum()
    occupied = np.flatnonzero(counts.any(1))
    source = occupied[np.searchsorted(occupied, np.arange(bins))]  # ties fall into the next bin above, the last is never empty
    sums, counts = sums[source], counts[source]
    means = _empirical_bayes(square, number, sizes) if pooled else np.average(square, axis=0, weights=number)
    if bins == 1 and pooled:
        return means[None], np.maximum(counts, 1.0), mass
    level = (sums * sizes).sum(1) / np.maximum((counts * means * sizes).sum(1), 1e-300)
    profile = np.outer(level, means)
    if math.isinf(shrinkage):
        return profile, np.maximum(counts, 1.0), mass
    total = np.maximum(counts + shrinkage, 1e-300)
    cells = np.where(counts + shrinkage > 0, (sums + shrinkage * profile) / total, profile)
    return cells, np.maximum(counts, 1.0) + shrinkage, mass


def _empirical_bayes(square: Array, number: Array, sizes: np.ndarray) -> Array:
    """Mean squares of all labels, their logarithms shrunk toward the mean logarithm, (L,); the mean over coefficients is kept.

    log R_k = x_k + error of variance e_k^2, x_k ~ N(mu, tau^2): the posterior mean, with tau^2 from the scatter that errors
    leave unexplained (Efron & Morris, 1973).
    """
    mean = np.maximum(np.average(square, axis=0, weights=number), 1e-300)
    variance = number @ (square - mean) ** 2 / (len(square) - 1)  # of a draw: means of n scatter by 1/n of it
    error2 = variance / (number.sum() * mean**2)
    log = np.log(mean)
    mu = np.average(log, weights=sizes)
    tau2 = max(float(np.average((log - mu) ** 2 - error2, weights=sizes)), 0.0)
    share = np.divide(tau2, tau2 + error2, out=np.ones_like(error2), where=tau2 + error2 > 0)
    shrunk = np.exp(mu + share * (log - mu))
    return shrunk * float((mean * sizes).sum() / (shrunk * sizes).sum())


def _sums(square: Array, index: np.ndarray, number: Array, bins: int) -> tuple[Array, Array]:
    """Sum of squares and number of draws in every bin and label, (B, L) each."""
    labels = square.shape[1]
    if index.shape[1] == 1:  # one bin per draw
        member: Array = (index == np.arange(bins)) * number[:, None]
        return member.T @ square, np.repeat(member.sum(0)[:, None], labels, axis=1)
    cell = (index * labels + np.arange(labels)).ravel()
    sums = np.bincount(cell, weights=square.ravel(), minlength=bins * labels)
    counts = np.bincount(cell, minlength=bins * labels).astype(np.float64)
    return np.asarray(sums, dtype=np.float64).reshape(bins, labels), counts.reshape(bins, labels)
