"""The table of forward variances beta_1 .. beta_N that a discrete DPM is given by, and what is mistaken for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from score_sde_analytic.arrays import Array, numbers
from score_sde_analytic.errors import InputError


def checked_betas(values: ArrayLike) -> Array:
    """The table in float64.

    Raises:
        InputError: it is empty, not 1-d, has values outside (0, 1), or falls as alphas_cumprod do.

    >>> checked_betas([0.1, 0.2])
    array([0.1, 0.2])
    """
    betas = numbers("betas", values)
    if betas.ndim != 1 or len(betas) == 0:
        raise InputError(f"betas must be a non-empty 1-d table, got shape {betas.shape}")
    if not np.all((betas > 0.0) & (betas < 1.0) | (np.arange(len(betas)) == max(1, len(betas) - 1)) & (betas == 1.0)):
        raise InputError(
            "betas must lie strictly between 0 and 1 (a leading beta_0 = 0 must be dropped); only the last of several may be 1,"
            " which is pure noise"
        )
    if len(betas) > 1 and betas[0] > 0.9 and np.all(np.diff(betas) < 0):
        raise InputError(
            f"betas fall from {betas[0]:.4g} to {betas[-1]:.4g}, as alphas_cumprod do; pass betas, which are"
            " 1 - alphas_cumprod[1:] / alphas_cumprod[:-1] after the first, 1 - alphas_cumprod[0]"
        )
    return betas


def betas_of(alpha_bar: ArrayLike) -> Array:
    """The table 1 - alpha_bar_n / alpha_bar_{n-1}, with alpha_bar_0 = 1.

    Raises:
        InputError: alpha_bar does not fall from below 1 to 0 or above.

    >>> betas_of([0.9, 0.45, 0.0])
    array([0.1, 0.5, 1. ])
    """
    table = numbers("alpha_bar", alpha_bar)
    if table.ndim != 1 or len(table) == 0 or np.any(np.diff(table, prepend=1.0) >= 0.0) or table[-1] < 0.0:
        raise InputError("alpha_bar must fall from below 1 (a leading 1 must be dropped) and may end in 0, as a 1-d table")
    return 1.0 - table / np.append(1.0, table[:-1])


def without_terminal_signal(betas: ArrayLike) -> Array:
    """The table with sqrt(alpha_bar) shifted and scaled to end in 0, its first value kept (Lin et al., WACV 2024, alg. 1).

    >>> without_terminal_signal([0.1, 0.2, 0.3])
    array([0.1  , 0.663, 1.   ])
    """
    root = np.exp(0.5 * np.cumsum(np.log1p(-checked_betas(betas))))
    if len(root) == 1:
        raise InputError("a table of one beta cannot end in pure noise; give more")
    return betas_of(((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2)
