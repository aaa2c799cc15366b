"""The rows of `papers.py`: chains whose bits are measured, and samplers, by the names that its tables have them under.

Published rows: times n/N even in the index, or optimal for the objective that was published with the variance; t_1 = 1/N, and
the decoder of the step from the second index to the first. Ours: the first time and the decoder are chosen too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from benchmarks.papers_cases import TABLE
from score_sde_analytic.covariance import Beta, BetaTilde, Covariance, Isotropic
from score_sde_analytic.data import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids import Grid, Lattice
from score_sde_analytic.grids.dynamic import StepCosts, shortest_paths
from score_sde_analytic.grids.grid import optimal_paths
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.likelihood.chain import paper_chain
from score_sde_analytic.measure import NoiseCurve
from score_sde_analytic.samplers import Ancestral
from score_sde_analytic.study import Study
from score_sde_analytic.study.plan import SamplingPlan

#: Numbers of steps in the papers, and more of them, to say how many are enough.
STEPS = (10, 25, 50, 100, 200, 400, 1000)
BETWEEN = (2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 20, 30, 35, 40, 60, 75, 150, 300, 600)
#: Of samplers, fewer besides.
CALLS = (2, 3, 5, *STEPS)
#: Of tables fitted to the flow.
FEW = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        family: under which it stands.
        name: in its family.
        make: number of steps -> what is measured.
        steps: that are measured.
    """

    family: str
    name: str
    make: Callable[[int], Chain] | Callable[[int], SamplingPlan]
    steps: tuple[int, ...] = STEPS

    @property
    def key(self) -> str:
        return f"{self.family}: {self.name}"


EVEN, OPTIMAL, OURS = "even", "optimal", "ours"
ONE = "one variance"
NAMES = {"residual": ONE, "dct": "cosines", "colour_dct": "cosines of colours", "pca": "principal components"}
NAMES |= {"pixel": "pixels", "sn": "SN-DDPM's head", "npr": "NPR-DDPM's head", "ocm": "OCM-DDPM's head"}
BETA, BETA_TILDE, ANALYTIC = "DDPM, beta", "DDPM, beta-tilde", "Analytic-DDPM"
DDIM, ANALYTIC_DDIM = "DDIM", "Analytic-DDIM"
TABLES = "table of the flow"


def even(steps: int) -> Grid:
    """The even trajectory of the published code: whole indices, rounded.

    >>> even(3).times
    (1.0, 0.5, 0.001, 0.0)
    """
    index = np.round(np.linspace(TABLE, 1, steps)) if steps > 1 else np.array([TABLE])
    return Grid((*(index / TABLE).tolist(), 0.0), "even in the index")


def _fewer(steps: tuple[int, ...], most: int) -> tuple[int, ...]:
    return tuple(k for k in steps if k <= most)


@dataclass(frozen=True)
class Rows:
    """Of a study.

    Attributes:
        bases: the last of them has the best rows.
        heads: trained for the network.
        folder: that keeps tables of few calls.
    """

    study: Study
    bases: tuple[str, ...]
    heads: tuple[str, ...]
    folder: Path

    @property
    def range(self) -> DataRange:
        if self.study.data_range is None:
            raise InputError("the papers' tables are of images: declare their range")
        return self.study.data_range

    @cached_property
    def published(self) -> dict[str, Covariance]:
        """The variances of the papers; the analytic one is of E||eps_hat||^2, confined to what the range of data allows."""
        most = (0.5 * (self.range.hi - self.range.lo)) ** 2
        return {BETA_TILDE: BetaTilde(), BETA: Beta(), ANALYTIC: Isotropic(self.study.curves["score"], most)}

    @cached_property
    def lattice(self) -> Lattice:
        """The times n/N."""
        return Lattice(self.study.schedule, np.arange(1, TABLE + 1) / TABLE)

    def chain_even(self, covariance: Covariance, steps: int) -> Chain:
        return paper_chain(self.study.schedule, covariance, steps, TABLE, even(steps))

    def chain_optimal(self, name: str, covariance: Covariance, steps: int) -> Chain:
        return paper_chain(self.study.schedule, covariance, steps, TABLE, self._optimal[name][steps])

    @cached_property
    def _optimal(self) -> dict[str, dict[int, Grid]]:
        """From t = 1/N: by the objective of Analytic-DPM, with E||eps_hat||^2 and with R; for beta by the bound itself."""
        first = np.full(TABLE, np.inf)
        first[0] = 0.0

        def analytic(curve: NoiseCurve) -> list[np.ndarray]:
            residual = np.asarray(curve.residual(self.lattice.log_snr))
            return shortest_paths(StepCosts(self.lattice.log_snr, residual), first, TABLE).paths

        beta = optimal_paths(self.lattice.costs(self.study.curve, Beta()), first, TABLE)[0]
        paths = {BETA: beta, ANALYTIC: analytic(self.study.curves["score"]), ONE: analytic(self.study.curve)}
        return {name: self._grids(own) for name, own in paths.items()}

    def _grids(self, paths: list[np.ndarray]) -> dict[int, Grid]:
        times = self.lattice.times
        return {len(path): Grid((*times[path[::-1]].tolist(), 0.0), "optimal from 1/N") for path in paths if len(path)}

    def bits(self) -> Iterator[Row]:
        """Chains, those of a family together."""
        fine = tuple(sorted({*STEPS, *BETWEEN}))
        for name, covariance in self.published.items():
            yield Row(EVEN, name, partial(self.chain_even, covariance), fine if name == ANALYTIC else STEPS)
        for name in ("residual", *self.bases, *self.heads):
            yield Row(EVEN, NAMES[name], partial(self.chain_even, self.study.covariance(name)))
        for name in (BETA, ANALYTIC):
            own = partial(self.chain_optimal, name, self.published[name])
            yield Row(OPTIMAL, name, own, fine if name == ANALYTIC else STEPS)
        yield Row(OPTIMAL, ONE, partial(self.chain_optimal, ONE, self.study.covariance("residual")), fine)
        yield Row(OPTIMAL, f"{ANALYTIC}, best decoder", self._decoded, fine)
        for name in ("residual", *self.bases):
            own = fine if name in ("residual", self.bases[-1]) else STEPS
            yield Row(OURS, NAMES[name], partial(self.study.chain, covariance=name), _fewer(own, 400))
        for name in self.heads:
            own = fine if name == "npr" else STEPS
            yield Row(OURS, NAMES[name], partial(self._headed, name), _fewer(own, 400))
        best = partial(self.study.chain, covariance=self.bases[-1], prior="gaussian")
        yield Row(OURS, f"{NAMES[self.bases[-1]]}, Gaussian prior", best, _fewer(fine, 100))

    def _decoded(self, steps: int) -> Chain:
        """The published path, and the decoder that is best where it ends."""
        path = self.chain_optimal(ANALYTIC, self.published[ANALYTIC], steps)
        return Chain(path.grid, path.covariance, self.study.decoder(path.first_time))

    def _headed(self, name: str, steps: int) -> Chain:
        """On the times that are optimal for one variance: no curve prices a head."""
        plain = self.study.chain(steps)
        return Chain(plain.grid, self.study.covariance(name), plain.decoder)

    def samplers(self) -> Iterator[Row]:
        """What samples are drawn by; the noise of the last step confined to two levels, with DDIM to one, as published."""
        step = self.range.bin_width
        for name, covariance in self.published.items():
            clip = 2 * step if name == ANALYTIC else 0.0
            yield self._sampled(name, Ancestral(self.study.model, covariance, clip=clip))
        analytic = Ancestral(self.study.model, self.published[ANALYTIC], 0.0, clip=step)
        yield self._sampled(DDIM, Ancestral(self.study.model, BetaTilde(), 0.0))
        yield self._sampled(ANALYTIC_DDIM, analytic)
        for name in self.heads:
            yield self._sampled(NAMES[name], Ancestral(self.study.model, self.study.covariance(name)))
        for name in ("residual", self.bases[-1]):
            yield Row(OURS, NAMES[name], partial(self.study.sampler, covariance=name), _fewer(CALLS, 100))
        yield Row(OURS, TABLES, partial(self.study.fewest, path=self.folder, progress=False), FEW)

    def _sampled(self, name: str, sampler: Ancestral) -> Row:
        return Row(EVEN, name, lambda steps: self.study.plan(sampler, even(steps)), CALLS)
