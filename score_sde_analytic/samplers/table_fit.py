"""The best table of a network, from paths of its own flow: closed-form rows, a grid that costs no call, a certificate.

Rows follow by normal equations on policy (`table_rows`). The grid and the kind of weights are chosen before, on a stand-in that
costs no call: near a path the network says what it said there, plus the linear denoiser's answer to the difference,

m(xh, lam) ~ m*(lam) + alpha c / (alpha^2 c + sigma^2) (xh - x*(lam)),

which is exact on Gaussian data. A sample and the end of its path share z, so

W2^2(law of the sampler, law of the flow) <= E ||xh_0 - x0*||^2,

measured on paths that nothing was fitted to: the certificate.

The flow of a network may itself vary too little. `matched` gives samples of a table the data's variance in all, by one number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from torch import Tensor

from score_sde_analytic.arrays import Array, available, numbers, slices
from score_sde_analytic.checks import each, number, settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import plain, require_match
from score_sde_analytic.grids.zolotarev import zolotarev
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.samplers.flow_paths import AROUND, FlowPaths, exponential_weights, lagrange, preserving
from score_sde_analytic.samplers.gaussian_tables import QUANTILE, ends, resolvent
from score_sde_analytic.samplers.table import Table
from score_sde_analytic.samplers.table_rows import Fitted, Policy, Rule, fitted_rows
from score_sde_analytic.uncertainty import Estimate

#: Calls nearer than this in log-SNR would be one.
NEAREST = 0.2
#: With more calls all grids are at the network's floor.
MOST_REFINED = 10


@dataclass(frozen=True)
class Fitting:
    """How tables are fitted.

    Attributes:
        pooled: weights of all coordinates' common fit to choose from, in paths; inf is one set of weights for all.
        held_out: share of the paths that only judge.
        gain, ridge: of `Rule`.
        trials: grids tried per call of the table, on the stand-in.
        quantile: of the spectrum, where Zolotarev's interval begins.
        batch_size: paths per network call.
    """

    pooled: Annotated[tuple[float, ...], each(number(0.0, np.inf), 1)] = (math.inf, 30.0, 3.0)
    held_out: Annotated[float, number(above=0, below=1)] = 0.25
    gain: str = "coordinate"
    ridge: Annotated[float, number(0.0)] = 1e-6
    trials: Annotated[int, whole(0)] = 40
    quantile: Annotated[float, number(0, 1)] = QUANTILE
    batch_size: Annotated[int, whole(1)] = 100

    def __post_init__(self) -> None:
        settle(self)

    def rule(self, pooled: float) -> Rule:
        """Rows with this weight of the common fit."""
        return Rule(pooled, self.gain, self.ridge)  # type: ignore[arg-type]


class Projected:
    """Paths in the coordinates of a basis, centred, in float64: z, states and predictions at any level between their ends."""

    def __init__(self, paths: FlowPaths, linear: LinearDenoiser) -> None:
        self.log_snrs = paths.log_snrs
        self.linear = linear
        self.z = self._flat(paths.z, 0.0)
        self.predictions = np.stack([self._flat(x_0, 1.0) for x_0 in paths.predictions])
        self.first = self._flat(paths.first, preserving(self.log_snrs[0])[0])

    def _flat(self, x: Tensor, share: float) -> Array:
        """U (x - share mu) of every path, as rows."""
        return self.linear.basis.forward(x.double() - share * self.linear.mean).flatten(1).numpy()

    def back(self, y: Float64[Array, "n d"], share: float) -> Float64[Tensor, " n *dims"]:
        """U^T y + share mu, in examples' shape."""
        shaped = torch.from_numpy(y).reshape(len(y), *self.linear.mean.shape)
        return self.linear.basis.inverse(shaped) + share * self.linear.mean

    @cached_property
    def states(self) -> list[Array]:
        """At the recorded levels."""
        states = [self.first]
        for level in range(1, len(self.log_snrs)):
            states.append(self._between(states[-1], level - 1, self.log_snrs[level]))
        return states

    def _around(self, below: int) -> slice:
        """The recorded levels that a cubic between one and the next goes through."""
        start = min(max(below - 1, 0), len(self.log_snrs) - AROUND)
        return slice(max(start, 0), start + AROUND)

    def _between(self, x: Array, below: int, log_snr: float) -> Array:
        known = self._around(below)
        r, weights = exponential_weights(self.log_snrs[known], self.log_snrs[below], log_snr)
        return r * x + np.einsum("j,jnd->nd", weights, self.predictions[known])

    def _below(self, log_snr: float) -> int:
        low, high = self.log_snrs[0], self.log_snrs[-1]
        if not low - 1e-9 <= log_snr <= high + 1e-9:
            raise InputError(f"a call at log-SNR {log_snr:.4g} lies outside the paths' levels {low:.4g} to {high:.4g}")
        return int(np.clip(np.searchsorted(self.log_snrs, log_snr, "right") - 1, 0, len(self.log_snrs) - 2))

    def state(self, log_snr: float) -> Float64[Array, "n d"]:
        """x* at a level."""
        below = self._below(log_snr)
        return self._between(self.states[below], below, log_snr)

    def prediction(self, log_snr: float) -> Float64[Array, "n d"]:
        """m* at a level."""
        known = self._around(self._below(log_snr))
        weights = lagrange(self.log_snrs[known], np.array([log_snr]))[:, 0]
        return np.einsum("j,jnd->nd", weights, self.predictions[known])

    def targets(self, log_snrs: Array) -> list[Array]:
        """States at the calls' levels, and the ends."""
        return [*(self.state(log_snr) for log_snr in log_snrs), self.predictions[-1]]

    def stand_in(self, log_snrs: Array) -> Policy:
        """What the network would say near the paths."""
        spectrum = self.linear.spectrum.ravel()
        gains = [resolvent(spectrum, log_snr) for log_snr in log_snrs]
        known = [self.prediction(log_snr) for log_snr in log_snrs]
        states = [self.state(log_snr) for log_snr in log_snrs]
        return lambda x, call: known[call] + gains[call] * (x - states[call])

    def network(self, model: ScoreModel, log_snrs: Array, batch_size: int, device: torch.device | str) -> Policy:
        """What the network says."""
        levels = [model.schedule.level_at(log_snr) for log_snr in log_snrs]

        def answers(x: Array, call: int) -> Iterator[Tensor]:
            level = levels[call]
            states = self.back(x, preserving(level.log_snr)[0]).float() * level.norm
            for part in slices(len(states), batch_size):
                yield model.rows(part).predict(states[part].to(device), level).x_0.cpu()

        @torch.no_grad()
        def policy(x: Array, call: int) -> Array:
            return self._flat(torch.cat(list(answers(x, call))), 1.0)

        return policy


def fit_table(
    model: ScoreModel,
    paths: FlowPaths,
    linear: LinearDenoiser,
    steps: int | None = None,
    log_snrs: ArrayLike | None = None,
    fitting: Fitting = Fitting(),
    label: str | None = None,
    device: torch.device | str = "cpu",
) -> Table:
    """The table of so many calls that leads nearest to where the network's own flow leads: n K network evaluations.

    Args:
        paths: of this model (`record_paths`).
        linear: the basis and mean of the table, and the spectrum that its grid begins with.
        steps: K; the grid is chosen on the paths.
        log_snrs: of the calls, in place of `steps`.
        device: of the model's network.

    Returns:
        a table whose `facts` hold the certificate, E ||xh_0 - x0*||^2 per dimension on held-out paths with its standard error,
        the share of the data's variance that its samples have, and the network evaluations spent on paths and fit.

    Raises:
        InputError: paths of another model, too few of them, or calls beyond their levels.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> from score_sde_analytic.samplers import record_paths
    >>> linear = LinearDenoiser.of(data)
    >>> paths = record_paths(model, linear, (2,), np.linspace(-4, 6, 16), progress=False)
    >>> table = fit_table(model, paths, linear, steps=3)
    >>> table.label, table.facts["certificate"] < 0.01
    ('fewest(K=3)', True)
    """
    device = available(device)
    require_match("the recorded paths", paths.identity["model"], plain(model.fingerprint()))
    if (steps is None) == (log_snrs is None):
        raise InputError("give either the number of calls or their log-SNRs")
    if linear.spectrum.shape != tuple(paths.z.shape[1:]) or not linear.spectrum.any():
        has = f"shape {linear.spectrum.shape}{'' if linear.spectrum.any() else ', none of which varies'}"
        raise InputError(f"paths of examples {tuple(paths.z.shape[1:])} need a linear denoiser of them, got one of {has}")
    projected = Projected(paths, linear)
    judged = max(2, round(paths.count * fitting.held_out))
    if paths.count - judged < 4:
        raise InputError(f"{paths.count} paths are too few to fit a table and judge it; record some tens")
    choice = _Choice(projected, fitting, paths.count - judged)
    at = choice.grid(whole(1)("steps", steps)) if log_snrs is None else numbers("log_snrs", np.atleast_1d(log_snrs))
    rule = choice.rule(at)
    with model.metered() as cost:
        policy = projected.network(model.for_batch(paths.conditions, device), at, fitting.batch_size, device)
        fitted = fitted_rows(policy, projected.z, projected.targets(at), rule, choice.fit)
    judge = slice(choice.count, None)
    share = variance_share(fitted.ends[choice.fit], projected.z[choice.fit], linear.spectrum.ravel())
    certificate = choice.residual(fitted, judge)
    of_matched = choice.residual(replace(fitted, ends=fitted.ends / math.sqrt(share)), judge)
    facts = {
        "certificate": certificate.value,
        "certificate_stderr": certificate.stderr,
        "variance_share": share,
        "matched_certificate": of_matched.value,
        "matched_certificate_stderr": of_matched.stderr,
        "paths": float(paths.count),
        "path_evaluations": float(paths.cost.evaluations),
        "fit_evaluations": float(cost.evaluations),
    }
    if math.isfinite(rule.pooled):
        facts["pooled"] = rule.pooled
    rows = tuple(row if row.ndim == 1 else row.reshape(len(row), *linear.spectrum.shape) for row in fitted.rows)
    shifts = np.array([*(preserving(log_snr)[0] for log_snr in at), 1.0])
    name = f"fewest(K={len(at)})" if label is None else label
    return Table(at, rows, shifts, linear.mean, linear.basis, name, paths.identity["model"], facts)


def matched(table: Table) -> Table:
    """The same calls and weights, with samples that have the data's variance in all: the last row over sqrt(variance share).

    Its certificate still bounds the distance to the network's flow, which is then not what the samples are to be near to.

    Raises:
        InputError: a table that was not fitted to paths.

    >>> from score_sde_analytic.models import LinearDenoiser
    >>> from score_sde_analytic.samplers import record_paths
    >>> linear = LinearDenoiser.of(data)
    >>> paths = record_paths(model, linear, (2,), np.linspace(-4, 6, 16), progress=False)
    >>> matched(fit_table(model, paths, linear, steps=3)).facts["variance_share"]
    1.0
    """
    share = table.facts.get("variance_share")
    if share is None:
        raise InputError(f"the table {table.label} was not fitted to paths, so the variance of its samples is not known")
    last = table.rows[-1] / math.sqrt(share)
    known = {name: table.facts[f"matched_{name}"] for name in ("certificate", "certificate_stderr")}
    return replace(table, rows=(*table.rows[:-1], last), facts={**table.facts, **known, "variance_share": 1.0})


def variance_share(ends: Float64[Array, "n d"], z: Float64[Array, "n d"], spectrum: Float64[Array, " d"]) -> float:
    """E ||y||^2 / sum c of samples y of z, both centred and in the basis of the spectrum c.

    sum c z^2, whose mean is sum c, is the control: where samples are multiples of z no error is left.

    >>> z = np.random.default_rng(0).normal(size=(9, 2))
    >>> variance_share(0.5 * z, z, np.ones(2))
    0.25
    """
    power, control = np.sum(ends**2, 1), z**2 @ spectrum
    slope = np.cov(power, control)[0, 1] / np.var(control, ddof=1)
    return float((power.mean() - slope * (control.mean() - spectrum.sum())) / spectrum.sum())


@dataclass(frozen=True, eq=False)
class _Choice:
    """Grid and kind of weights, by the residual on the stand-in.

    Attributes:
        count: of the paths that may be fitted to; the others judge.
    """

    projected: Projected
    fitting: Fitting
    count: int

    @property
    def fit(self) -> slice:
        return slice(0, self.count)

    def residual(self, fitted: Fitted, judge: slice) -> Estimate:
        """E ||xh_0 - x0*||^2 per dimension over some paths."""
        error = fitted.ends[judge] - self.projected.predictions[-1][judge]
        return Estimate.of(np.mean(error**2, 1))

    def _tried(self, log_snrs: Array, rule: Rule, fit: slice, judge: slice) -> float:
        projected = self.projected
        policy = projected.stand_in(log_snrs)
        return self.residual(fitted_rows(policy, projected.z, projected.targets(log_snrs), rule, fit), judge).value

    def rule(self, log_snrs: Array) -> Rule:
        """The best weight of the common fit: of two thirds of the paths, judged by the rest."""
        some = slice(0, 2 * self.count // 3)
        rules = [self.fitting.rule(pooled) for pooled in self.fitting.pooled]
        return min(rules, key=lambda rule: self._tried(log_snrs, rule, some, slice(some.stop, self.count)))

    def grid(self, steps: int) -> Array:
        """Zolotarev's, refined."""
        begin = self._zolotarev(steps)
        if self.fitting.trials == 0 or steps > MOST_REFINED:
            return begin
        from scipy.optimize import minimize  # which takes long to import

        place = _place(begin)
        simplex = np.stack([place, *(place + 0.5 * direction for direction in np.eye(steps))])
        options = {"maxfev": self.fitting.trials * steps, "xatol": 1e-2, "fatol": 1e-3, "initial_simplex": simplex}
        best = _placed(minimize(lambda x: self._score(_placed(x)), place, method="Nelder-Mead", options=options).x)
        return min(best, begin, key=self._score)

    def _zolotarev(self, steps: int) -> Array:
        """As far as the paths reach; even places where that leaves them too near to each other."""
        low, high = self.projected.log_snrs[[0, -1]]
        at = np.clip(zolotarev(*ends(self.projected.linear.spectrum, self.fitting.quantile), steps), low, high)
        return at if np.all(np.diff(at) > NEAREST) else np.linspace(low, high, steps + 2)[1:-1]

    def _score(self, log_snrs: Array) -> float:
        low, high = self.projected.log_snrs[[0, -1]]
        if log_snrs[0] < low or log_snrs[-1] > high:
            return math.inf
        return math.log(self._tried(log_snrs, self.fitting.rule(math.inf), self.fit, self.fit) + 1e-300)


def _place(log_snrs: Array) -> Array:
    """The first, and the logarithms of the gaps beyond the nearest allowed."""
    gaps = np.maximum(np.diff(log_snrs) - NEAREST, 1e-3)
    return np.concatenate([log_snrs[:1], np.log(gaps)])


def _placed(place: Array) -> Array:
    return np.cumsum(np.concatenate([place[:1], NEAREST + np.exp(place[1:])]))
