"""One answer to "how few calls": the sampler of so many network calls whose samples lie nearest to examples.

Candidates share their start, the Gaussian of the data, and their times, those of the table:

    table         weights fitted to recorded paths of the flow: no noise, and no better than the network's own flow
    eta, kappa    the family between flow and chain: noise by the best covariance at hand, and extrapolation

Nothing says beforehand which is best: with few calls and a network whose flow is good it is the table, with more the family, whose
noise makes up for what the flow gets wrong. So samples of each are compared to examples by the sliced W2^2, all from the same
starts; eta and kappa one after the other. Bits stay with the chain: neither has a likelihood that is worth having.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.metrics import Reference, SlicedWasserstein
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.samplers import AnalyticMultistep
from score_sde_analytic.study import few
from score_sde_analytic.study.few import Few
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.reportable import Reportable

#: Shares of the extrapolation and scales of the noise that are tried, the others at the first of these.
KAPPAS, ETAS = (0.9, 1.0, 0.75, 0.5), (0.7071, 0.0, 0.5, 0.866)
#: Examples and samples that judge, and groups of them.
JUDGED, GROUPS = 400, 10
TABLE = "table"


@dataclass(frozen=True, eq=False)
class Fewest:
    """What was chosen, among what, at what cost.

    Attributes:
        plan: draws its samples.
        name: of the candidate that is nearest to the examples.
        distances: sliced W2^2 to the examples, per dimension of data of variance 1, by candidate.
        paths, calls: network evaluations spent on recorded paths and on choosing.
    """

    plan: SamplingPlan
    name: str
    distances: Mapping[str, float]
    paths: int
    calls: int

    def __str__(self) -> str:
        """What it chose and why.

        >>> print(study.choose_fewest(data, 2, progress=False))  # doctest: +SKIP
        """
        ranked = sorted(self.distances.items(), key=lambda entry: entry[1])
        others = ", ".join(f"{name} {distance:.2g}" for name, distance in ranked[1:3])
        beside = f" (then {others})" if others else ""
        return (
            f"{self.plan.calls} calls: {self.name}, nearest to the examples of {len(self.distances)} candidates, sliced W2^2"
            f" {ranked[0][1]:.2g}{beside}; {self.paths} network evaluations for paths, {self.calls} to fit and choose"
        )


def choose(study: Reportable, steps: int, settings: Few, examples: Examples) -> Fewest:
    """The nearest to the examples of all candidates, on samples from starts that no other run draws."""
    with study.model.metered() as cost:
        table = few.plan(study, steps, settings)
        plans = {TABLE: table}
        judge = _Judge.of(study, examples)
        distances = {TABLE: judge(table)}
        if steps > 1:  # one call leaves no step to be shared
            for name, plan in _family(study, table, settings, distances):
                plans[name], distances[name] = plan, judge(plan)
    name = min(distances, key=lambda name: distances[name])
    recorded = few.paths(study, settings).cost.evaluations
    return Fewest(plans[name], name, distances, recorded, cost.evaluations - recorded if cost.evaluations > recorded else cost.evaluations)


def _family(
    study: Reportable, table: SamplingPlan, settings: Few, distances: Mapping[str, float]
) -> Iterator[tuple[str, SamplingPlan]]:
    """Members of the family between flow and chain: all kappas at the first eta, then the other etas at the best kappa."""
    covariance = study.covariance("auto" if study.recorders else "")

    def member(eta: float, kappa: float) -> tuple[str, SamplingPlan]:
        sampler = AnalyticMultistep(study.model, covariance, eta, kappa)
        plan = SamplingPlan(sampler, table.grid, study.shape, study.device, study.dtype, settings.free)
        return f"eta = {eta:g}, kappa = {kappa:g}", plan

    for kappa in KAPPAS:
        yield member(ETAS[0], kappa)
    best = min(KAPPAS, key=lambda kappa: distances[member(ETAS[0], kappa)[0]])
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
        return cls(Reference(some), SlicedWasserstein(groups=GROUPS), study.statistics.variance, limits, study.seed + 2)

    def __call__(self, plan: SamplingPlan) -> float:
        x = plan(JUDGED, self.seed, batch_size=100).flatten(1).double().cpu()
        shown = x if self.limits is None else x.clamp(*self.limits)
        return self.metric(shown, self.reference).value / self.unit
