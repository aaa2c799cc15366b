"""Tables on Gaussian data: what one costs, and the best one, without a network call.

With variances c in the table's basis a call multiplies by a resolvent,

m_j - mu = alpha_j c / (alpha_j^2 c + sigma_j^2) (xh_j - alpha_j mu),

so the sample is mu + r(c) z with r rational of degree K, where the flow has sqrt(c):

W2^2(law of the table, data) = sum_i (|r(c_i)| - sqrt(c_i))^2
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, numbers
from score_sde_analytic.checks import number, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.zolotarev import zolotarev
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.samplers.flow_paths import preserving
from score_sde_analytic.samplers.table import Table
from score_sde_analytic.samplers.table_rows import Rule, fitted_rows

#: Share of the variances that lie below c_min: what is that small matters to nobody.
QUANTILE = 0.25
#: Rows by least squares on a spectrum alone must not lean on its last digits.
SPECTRUM = Rule(ridge=1e-3)


def resolvent(spectrum: Float64[Array, "*dims"], log_snr: float) -> Float64[Array, "*dims"]:
    """alpha c / (alpha^2 c + sigma^2).

    >>> resolvent(np.array([1.0]), 0.0)
    array([0.7071])
    """
    alpha, sigma = preserving(log_snr)
    return alpha * spectrum / (alpha**2 * spectrum + sigma**2)


def spread(spectrum: Float64[Array, "*dims"], log_snr: float) -> Float64[Array, "*dims"]:
    """sqrt(alpha^2 c + sigma^2)."""
    alpha, sigma = preserving(log_snr)
    return np.sqrt(alpha**2 * spectrum + sigma**2)


def transfer(table: Table, spectrum: Float64[Array, "*dims"]) -> Float64[Array, "*dims"]:
    """r(c), by which a table multiplies coefficients of z on the way to the sample."""
    terms = [np.ones_like(spectrum)]
    states = [table.rows[0][0] * terms[0]]
    for log_snr, row in zip(table.log_snrs, table.rows[1:], strict=True):
        terms.append(resolvent(spectrum, log_snr) * states[-1])
        states.append(sum(w * term for w, term in zip(row, terms, strict=True)))
    return states[-1]


def gaussian_price(table: Table, spectrum: ArrayLike) -> float:
    """W2^2 = sum_i (|r(c_i)| - sqrt(c_i))^2 of its samples to Gaussian data, in total over all coordinates.

    Args:
        spectrum: the data's variances in the table's basis, in an example's shape where weights are per coefficient. Their
            mean is the table's, or 0.

    Raises:
        InputError: a negative variance, or another number of them than the table has coefficients.

    >>> gaussian_price(Table([0.0], [[1.0], [0.0, 1.0]]), [1.0, 0.01])
    0.0932
    """
    c = numbers("spectrum", spectrum)
    if not np.all(c >= 0.0):
        raise InputError("variances are not negative; clip what rounding left below zero")
    if any(row.ndim > 1 and row.shape[1:] != c.shape for row in table.rows):
        raise InputError(f"this table is of coefficients {table.rows[-1].shape[1:]}, the spectrum {c.shape}; give one of each")
    return float(np.sum((np.abs(transfer(table, c)) - np.sqrt(c)) ** 2))


def spectrum_table(
    linear: LinearDenoiser, steps: int, log_snrs: ArrayLike | None = None, rule: Rule = SPECTRUM, quantile: float = QUANTILE
) -> Table:
    """The best table for Gaussian data of this spectrum: no path, and no network call.

    Args:
        linear: mean, basis and spectrum of the data.
        log_snrs: of the calls; Zolotarev's from the spectrum's lower quantile to its largest value when absent.
        rule: how rows follow.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> spectrum_table(LinearDenoiser.of(data), 3).log_snrs.round(1)
    array([-2.6, -0.1,  1.9])
    """
    c = linear.spectrum
    at = zolotarev(*ends(c, quantile), whole(1)("steps", steps)) if log_snrs is None else numbers("log_snrs", log_snrs)
    targets = [spread(c, log_snr).reshape(1, -1) for log_snr in at] + [np.sqrt(c).reshape(1, -1)]
    gains = [resolvent(c, log_snr).reshape(1, -1) for log_snr in at]
    rows = fitted_rows(lambda x, call: gains[call] * x, np.ones_like(targets[0]), targets, rule, slice(None)).rows
    shifts = np.array([*(preserving(log_snr)[0] for log_snr in at), 1.0])
    shaped = tuple(row if row.ndim == 1 else row.reshape(len(row), *c.shape) for row in rows)
    return Table(at, shaped, shifts, linear.mean, linear.basis, f"spectrum(K={steps})")


def ends(spectrum: Float64[Array, "*dims"], quantile: float = QUANTILE) -> tuple[float, float]:
    """(c_min, c_max): a lower quantile of the variances that are not zero, and the largest.

    >>> ends(np.array([0.0, 1.0, 2.0, 3.0]), 0.5)
    (2.000, 3.000)
    """
    c = spectrum[spectrum > 1e-10 * spectrum.max()]
    return float(np.quantile(c, number(0, 1)("quantile", quantile))), float(c.max())
