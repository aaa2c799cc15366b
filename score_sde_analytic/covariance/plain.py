"""Covariances read back from plain data, as configs of other packages carry them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from score_sde_analytic.checks import unknown
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.heads import Interpolated
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic, StepVariances
from score_sde_analytic.declared import reading, require_shape
from score_sde_analytic.measure.curve import NoiseCurve

AGAIN = "save it again from the covariance itself"
#: Of an isotropic covariance; a cap of null is none.
ISOTROPIC = {
    "log_snr": [float],
    "y": [float],
    "source": {"residual", "score"},
    "max_posterior_variance?": (float, None),
}


def of_content(content: Mapping[str, Any], path: str = "a covariance") -> Covariance:
    """The covariance of a `content`.

    >>> of_content(Isotropic(curve).content()).content() == Isotropic(curve).content()
    True

    Args:
        path: where it was read, for messages.

    Raises:
        InputError: an unknown name, or content that is not what it should be.
    """
    require_shape(content, {"name": str}, path, AGAIN)
    name = content["name"]
    if name not in KINDS:
        raise unknown("covariance", name, KINDS)
    with reading(path, AGAIN):
        return KINDS[name](content, path)


def _isotropic(content: Mapping[str, Any], path: str) -> Isotropic:
    require_shape(content, ISOTROPIC, path, AGAIN)
    cap = content.get("max_posterior_variance")
    curve = NoiseCurve(np.array(content["log_snr"], np.float64), np.array(content["y"], np.float64), content["source"])
    return Isotropic(curve, math.inf if cap is None else cap)


#: name -> (content, where it was read) -> Covariance.
KINDS: dict[str, Callable[[Mapping[str, Any], str], Covariance]] = {
    "beta": lambda content, path: Beta(),
    "beta_tilde": lambda content, path: BetaTilde(),
    "isotropic": _isotropic,
    "diagonal": Diagonal.of_content,
    "interpolated": lambda content, path: Interpolated(),
    "steps": lambda content, path: StepVariances(tuple(content["variances"])),
}
