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
    if len(betas) > 1 and betas[-1] == 1.0 and np.all((betas[:-1] > 0.0) & (betas[:-1] < 1.0)):
        raise InputError(
            "betas must lie strictly between 0 and 1, and the last is 1 (zero terminal SNR): no x_0 can be read off x_1 = eps;"
            " cap it, as in np.minimum(betas, 0.999)"
        )
    if not np.all((betas > 0.0) & (betas < 1.0)):
        raise InputError("betas must lie strictly between 0 and 1 (a leading beta_0 = 0 must be dropped)")
    if len(betas) > 1 and betas[0] > 0.9 and np.all(np.diff(betas) < 0):
        raise InputError(
            f"betas fall from {betas[0]:.4g} to {betas[-1]:.4g}, as alphas_cumprod do; pass betas, which are"
            " 1 - alphas_cumprod[1:] / alphas_cumprod[:-1] after the first, 1 - alphas_cumprod[0]"
        )
    return betas
