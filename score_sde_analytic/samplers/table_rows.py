"""The rows of a table by normal equations, on policy.

phi = (z, m_K, .., m_k),   C = E phi phi^T,   b = E phi x*,   v = E x*^2            per coordinate, or summed over coordinates
W   = g C^{-1} b,          g = sqrt(v / E (W phi)^2)

C^{-1} b is the best linear predictor of the path's next state x*. It is too quiet, and the next call would see a wrong noise
level: g C^{-1} b minimises E (x* - w phi)^2 subject to E (w phi)^2 = v. The states are those that the table's own earlier rows
lead to, so what they do wrong is in the statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.checks import number, one_of, settle

#: A gain beyond says that a coordinate hardly varies, not that it should.
MOST_GAIN = 3.0
#: Below this share of the mean square a coordinate is constant.
CONSTANT = 1e-12

#: (state in centred coordinates, call) -> x0_hat in centred coordinates.
Policy = Callable[[Array, int], Array]


@dataclass(frozen=True)
class Rule:
    """How a row follows from second moments.

    Attributes:
        pooled: the weight of all coordinates' common fit in that of each, in paths; inf for one set of weights.
        gain: per "coordinate", one for all ("common"), or "none".
        ridge: on the scaled C, whose diagonal is 1.
        start: the first state is z times a number per "coordinate", as on the flow of Gaussian data, or times one for all
            ("common"), which needs no basis.
    """

    pooled: Annotated[float, number(0.0, np.inf)] = np.inf
    gain: Annotated[Literal["coordinate", "common", "none"], one_of(("coordinate", "common", "none"))] = "coordinate"
    ridge: Annotated[float, number(0.0)] = 1e-6
    start: Annotated[Literal["coordinate", "common"], one_of(("coordinate", "common"))] = "coordinate"

    def __post_init__(self) -> None:
        settle(self)

    def first(self, z: Float64[Array, "n d"], target: Float64[Array, "n d"]) -> Float64[Array, " ..."]:
        """w_K, so that w_K z varies as the target does."""
        axis = 0 if self.start == "coordinate" else None
        return np.asarray(np.sqrt(np.mean(target**2, axis) / np.mean(z**2, axis)))

    def row(self, terms: Float64[Array, "terms n d"], target: Float64[Array, "n d"]) -> Float64[Array, "terms ..."]:
        """Weights (terms,), or (terms, d)."""
        weights = self._predictor(terms, target)
        if self.gain == "none":
            return weights
        y = applied(weights, terms)
        axis = 0 if self.gain == "coordinate" else None
        gain = _gain(np.asarray(np.mean(target**2, axis)), np.asarray(np.mean(y**2, axis)))
        return gain * (weights if weights.ndim > 1 or gain.ndim == 0 else weights[:, None])

    def _predictor(self, terms: Array, target: Array) -> Array:
        """C^{-1} b."""
        flat = terms.reshape(len(terms), -1)
        if self.ridge == 0.0 and not np.isfinite(self.pooled):
            return _least_squares(flat.T, target.ravel())
        common = _solved(flat @ flat.T, flat @ target.ravel(), self.ridge)
        return common if not np.isfinite(self.pooled) else self._each(common, terms, target)

    def _each(self, common: Array, terms: Array, target: Array) -> Array:
        """Of every coordinate, as if `pooled` further paths had followed the common one."""
        columns = terms.transpose(2, 0, 1)  # (d, terms, n)
        c = columns @ columns.transpose(0, 2, 1)
        b = (columns @ target.T[:, :, None])[..., 0]
        further = np.einsum("drr->dr", c)[:, :, None] * np.eye(len(common)) * self.pooled / len(target)
        return (common + _solved(c + further, b - c @ common, self.ridge)).T


def applied(weights: Float64[Array, "terms ..."], terms: Float64[Array, "terms n d"]) -> Float64[Array, "n d"]:
    """The state that a row makes of the terms."""
    return np.einsum("r,rnd->nd" if weights.ndim == 1 else "rd,rnd->nd", weights, terms)


def _solved(c: Array, b: Array, ridge: float) -> Array:
    """C^{-1} b with C scaled to a unit diagonal; coordinates that are constant get weights 0."""
    diagonal = np.einsum("...rr->...r", c)
    scale = 1.0 / np.sqrt(np.where(diagonal > CONSTANT * diagonal.max(), diagonal, np.inf))
    unit = c * scale[..., :, None] * scale[..., None, :] + ridge * np.eye(c.shape[-1])
    unit += np.eye(c.shape[-1]) * (scale == 0.0)[..., None]
    return np.linalg.solve(unit, (b * scale)[..., None])[..., 0] * scale


def _least_squares(columns: Array, target: Array) -> Array:
    """The same without forming C, whose condition is the square of theirs."""
    scale = 1.0 / np.linalg.norm(columns, axis=0)
    return np.linalg.lstsq(columns * scale, target, rcond=1e-15)[0] * scale


def _gain(wanted: Array, present: Array) -> Array:
    """sqrt(wanted / present), within limits; 1 where nothing varies."""
    varies = present > CONSTANT * np.max(present)
    ratio = np.divide(wanted, present, out=np.ones_like(wanted), where=varies)
    return np.sqrt(np.clip(ratio, MOST_GAIN**-2, MOST_GAIN**2))


@dataclass(frozen=True, eq=False)
class Fitted:
    """Rows, and where they lead all paths: their ends, in centred coordinates."""

    rows: tuple[Array, ...]
    ends: Array


def fitted_rows(policy: Policy, z: Float64[Array, "n d"], targets: list[Array], rule: Rule, fit: slice) -> Fitted:
    """Rows from the first state to the sample.

    Args:
        policy: what the network says at a state.
        targets: (n, d) each: the paths' states at the calls' levels, and their ends.
        fit: the paths that weights are fitted to; the others are carried along.
    """
    first = rule.first(z[fit], targets[0][fit])
    rows = [first[None]]
    terms = [z]
    x = first * z
    for call, target in enumerate(targets[1:]):
        terms.append(policy(x, call))
        stacked = np.stack(terms)
        rows.append(rule.row(stacked[:, fit], target[fit]))
        x = applied(rows[-1], stacked)
    return Fitted(tuple(rows), x)
