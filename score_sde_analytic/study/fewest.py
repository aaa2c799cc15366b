"""One answer to "how few calls": the sampler of so many network calls whose samples lie nearest to examples.

Candidates share the times of the table, and the Gaussian of the data as their start:

    table         weights fitted to recorded paths of the flow: no noise, and no better than the network's own flow
    matched       the same, with samples of the data's variance in all, where the flow has too little
    eta, kappa    the family between flow and chain: noise by the best covariance at hand, and extrapolation

Nothing says beforehand which is best: with few calls it is a table, with more the family, whose noise makes up for what the
flow gets wrong. So samples of each are compared to examples by the sliced W2^2; kappa is chosen first, then eta. (The spread of
recorded paths does not choose: on digits, steps that keep it have five times the Frechet distance of the best.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.metrics import Reference, SlicedWasserstein
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.samplers import AnalyticMultistep, TableSampler, matched
from score_sde_analytic.study import few
from score_sde_analytic.study.few import Few
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.reportable import Reportable

#: Shares of the extrapolation and scales of the noise that are tried, the others at the first of these.
KAPPAS, ETAS = (0.9, 1.0, 0.75, 0.5), (0.7071, 0.0, 0.5, 0.866)
#: Examples and samples that judge, and groups of them.
JUDGED, GROUPS = 400, 10
TABLE, MATCHED = "the table", "the table with the data's variance"


def of(
    study: Reportable, steps: int, data: Data | None, free: LinearDenoiser | None, options: Mapping[str, Any]
) -> SamplingPlan:
    """The table, or what examples choose.

    Raises:
        InputError: a study without a free model, and none given.
    """
    known = free
    if known is None:
        if study.free is None:
            raise InputError("this study holds no Gaussian of its data; give one, free=LinearDenoiser.of(examples)")
        known = cast(LinearDenoiser, study.free.free)  # as `study.free` makes it
    settings = Few(known, **options)
    recorded = few.paths(study, settings)
    table = few.plan(study, steps, settings, recorded)
    return table if data is None else _chosen(study, table, known, as_dataset(data, study.data_range))


def _chosen(study: Reportable, table: SamplingPlan, free: LinearDenoiser, examples: Examples) -> SamplingPlan:
    """The nearest to the examples."""
    fitted = cast(TableSampler, table.sampler).table
    judge, plans = _Judge.of(study, examples), {TABLE: table, MATCHED: few.of_table(study, matched(fitted))}
    with study.model.metered() as cost:
        distances = {name: judge(plan) for name, plan in plans.items()}
        if table.grid.steps > 1:  # one call leaves no step to be shared
            for name, plan in _family(study, table, free, distances):
                plans[name], distances[name] = plan, judge(plan)
    ranked = sorted(distances, key=lambda name: distances[name])
    others = ", ".join(f"{name} {distances[name]:.2g}" for name in ranked[1:3])
    reason = (
        f"{ranked[0]} is nearest to the examples of {len(ranked)} candidates, sliced W2^2 over the variance"
        f" {distances[ranked[0]]:.2g}{f' (then {others})' if others else ''}; choosing took {cost.evaluations} network"
        f" evaluations. The table: {table.reason}"
    )
    return replace(plans[ranked[0]], reason=reason)


def _family(
    study: Reportable, table: SamplingPlan, free: LinearDenoiser, distances: Mapping[str, float]
) -> Iterator[tuple[str, SamplingPlan]]:
    """Members of the family between flow and chain: all kappas at the first eta, then the other etas at the best kappa."""
    covariance = study.covariance("auto" if study.recorders else "")

    def name(eta: float, kappa: float) -> str:
        return f"eta = {eta:g} with kappa = {kappa:g}"

    def member(eta: float, kappa: float) -> tuple[str, SamplingPlan]:
        return name(eta, kappa), replace(table, sampler=AnalyticMultistep(study.model, covariance, eta, kappa), start=free)

    for kappa in KAPPAS:
        yield member(ETAS[0], kappa)
    best = min(KAPPAS, key=lambda kappa: distances[name(ETAS[0], kappa)])
    for eta in ETAS[1:]:
        yield member(eta, best)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Sliced W2^2 of samples to examples, over the variance of the data."""

    reference: Reference
    metric: SlicedWasserstein
    unit: float
    limits: tuple[float, float] | None
    seed: int

    @classmethod
    def of(cls, study: Reportable, examples: Examples) -> _Judge:
        some = examples.take(np.arange(min(JUDGED, len(examples)))).flatten(1).double()
        limits = None if study.data_range is None else (study.data_range.lo, study.data_range.hi)
        # Samples from starts that nothing else draws.
        return cls(Reference(some), SlicedWasserstein(groups=GROUPS), study.statistics.variance, limits, study.seed + 1_000_003)

    def __call__(self, plan: SamplingPlan) -> float:
        x = plan(JUDGED, self.seed, batch_size=100).flatten(1).double().cpu()
        shown = x if self.limits is None else x.clamp(*self.limits)
        return self.metric(shown, self.reference).value / self.unit
