"""The best grid and first time of a solver at a budget, chosen on the metric itself.

Every grid of `GRIDS` at every first time: t_1 is a large lever of few steps, and solvers differ in where they want it. Chosen
on the very samples that are reported, the best of them is the most that one could hope for who had tuned the solver to the
metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.compare.failures import FAILURES
from score_sde_analytic.errors import RunError, UserError
from score_sde_analytic.files import finite, read_json, write_json
from score_sde_analytic.grids.grid import Grid, even_log_snr, karras
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers import Sampler

#: Grids that are tried: (schedule, steps, first time, top=time of the start) -> Grid.
GRIDS: dict[str, Callable[..., Grid]] = {
    "even log-SNR": even_log_snr,
    "Karras, rho = 7": karras,
    "Karras, rho = 20": partial(karras, rho=20.0),
}
KIND = "search"
_TRIED = {"tried": [{"name": str, "log_snr": float, "value": (float, None)}]}


@dataclass(frozen=True)
class Candidate:
    """A grid by name and the log-SNR of its first time; with its value, None where it failed."""

    name: str
    log_snr: float
    value: float | None = None

    def grid(self, schedule: Schedule, steps: int, top: float = 1.0) -> Grid:
        """Its times, from `top`."""
        first = float(schedule.time(self.log_snr))
        return Grid((top, 0.0)) if steps == 1 else GRIDS[self.name](schedule, steps, first, top=top)


def candidates(schedule: Schedule, steps: int, firsts: tuple[float, ...], top: float = 1.0) -> Iterator[Candidate]:
    """All that differ: one step has no times to choose, and two have but the first.

    >>> [candidate.name for candidate in candidates(model.schedule, 2, (3.0,))]
    ['even log-SNR']
    """
    seen: set[tuple[float, ...]] = set()
    for log_snr in firsts:
        for name in GRIDS:
            candidate = Candidate(name, log_snr)
            times = tuple(round(t, 12) for t in candidate.grid(schedule, steps, top).times)
            if times not in seen:
                seen.add(times)
                yield candidate


@dataclass(frozen=True, eq=False)
class Search:
    """What decides a choice.

    Attributes:
        firsts: log-SNRs of the first times that are tried.
        draw: samples of a sampler on a grid.
        judge: samples -> the main metric.
        lower: whether less of it is better.
        identity: plain data that decide the samples and their values.
        folder: that keeps what was tried.
        top: the time where grids begin.
    """

    firsts: tuple[float, ...]
    draw: Callable[[Sampler[Any], Grid], Float[Tensor, " n *dims"]]
    judge: Callable[[Tensor], float]
    lower: bool
    identity: Mapping[str, Any]
    folder: Path
    top: float = 1.0

    def best(self, sampler: Sampler[Any], steps: int) -> tuple[Grid, dict[str, Any]]:
        """(the best grid, how it was chosen as plain data).

        Raises:
            RunError: the solver failed on every grid.
        """
        schedule = sampler.model.schedule
        tried = self._tried(sampler, steps)
        values = [(candidate.value, candidate) for candidate in tried if candidate.value is not None]
        if not values:
            raise RunError(f"{sampler.name} failed on all {len(tried)} grids of {steps} steps that were tried")
        value, chosen = (min if self.lower else max)(values, key=lambda pair: pair[0])
        told = {"grid": chosen.name, "first_log_snr": chosen.log_snr, "value": value, "tried": len(tried)}
        return chosen.grid(schedule, steps, self.top), told

    def _tried(self, sampler: Sampler[Any], steps: int) -> list[Candidate]:
        schedule = sampler.model.schedule
        grids = list(candidates(schedule, steps, self.firsts, self.top))
        asked = [(candidate.name, candidate.log_snr) for candidate in grids]
        marks = sampler.fingerprints(grids[0].grid(schedule, steps, self.top))
        own = {"sampler": sampler.config(), "covariances": marks, "steps": steps, "grids": asked}
        path = self.folder / f"search-{digest(json.dumps(dict(self.identity) | own, sort_keys=True, default=str))[:12]}.json"
        kept = _kept(path)
        if kept is None:
            kept = [self._valued(sampler, candidate, steps) for candidate in grids]
            write_json(path, KIND, {"tried": [asdict(candidate) for candidate in kept]})
        return kept

    def _valued(self, sampler: Sampler[Any], candidate: Candidate, steps: int) -> Candidate:
        try:
            value = self.judge(self.draw(sampler, candidate.grid(sampler.model.schedule, steps, self.top)))
        except FAILURES:
            value = math.nan
        return Candidate(candidate.name, candidate.log_snr, finite(value))


def _kept(path: Path) -> list[Candidate] | None:
    """What was tried before, if its file is whole."""
    try:
        return [Candidate(**item) for item in read_json(path, KIND, _TRIED)["tried"]]
    except UserError:
        return None
