"""Public solvers at their best: solver, grid and first time chosen on the metric that judges, by samples of another seed.

All combinations, or ("coordinates") every grid and every second first time with DPM-Solver++ 3M, then that of the other solvers
on the best of these, and the first times beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.few_worlds import Draw, World
from score_sde_analytic.grids import Grid, even_log_snr, karras
from score_sde_analytic.models import LinearDenoiser, ScoreModel
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.samplers import DPMSolverPP, Sampler, UniPC, generate

BATCH = 250
#: The seed that public solvers are chosen with.
OTHER = 999
#: Log-SNRs of the first time t_1.
ENDS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 10.5)
SOLVERS: dict[str, Callable[[ScoreModel], Sampler]] = {
    "DPM-Solver++ 3M": lambda model: DPMSolverPP(model, 3),
    "DPM-Solver++ 2M": lambda model: DPMSolverPP(model, 2),
    "UniPC 2 bh1": lambda model: UniPC(model, 2, "bh1"),
    "UniPC 2 bh2": lambda model: UniPC(model, 2, "bh2"),
    "UniPC 3 bh1": lambda model: UniPC(model, 3, "bh1"),
    "UniPC 3 bh2": lambda model: UniPC(model, 3, "bh2"),
}
GRIDS: dict[str, Callable[[Schedule, int, float], Grid]] = {
    "even": even_log_snr,
    "Karras 7": karras,
    "Karras 20": lambda schedule, steps, first: karras(schedule, steps, first, 20.0),
}


@dataclass(frozen=True)
class Choice:
    """A public solver on a grid.

    Attributes:
        end: log-SNR of the first time; None with one call, which leaves nothing to choose.
        network: a key of `World.models`.
    """

    solver: str
    grid: str
    end: float | None
    network: str

    @property
    def family(self) -> str:
        return self.solver.split()[0]

    def __str__(self) -> str:
        where = "" if self.end is None else f", {self.grid} to {self.end:g}"
        return f"{self.solver}{where}{self.network}"

    def times(self, world: World, steps: int) -> Grid:
        schedule = world.models[self.network].schedule
        first = 1e-3 if self.end is None else float(schedule.time(self.end))
        return GRIDS[self.grid](schedule, steps, first)

    def draw(self, world: World, steps: int) -> Draw:
        return drawn(world, SOLVERS[self.solver](world.models[self.network]), self.times(world, steps))


def drawn(world: World, sampler: Sampler, grid: Grid, start: LinearDenoiser | None = None) -> Draw:
    return lambda count, seed: generate(sampler, grid, world.shape, count, seed, BATCH, start=start)


@dataclass(frozen=True)
class Search:
    """How thoroughly public solvers are tuned.

    Attributes:
        count: samples of each.
        coordinates: whether not all combinations are tried.
    """

    count: int
    coordinates: bool = False

    def scores(self, world: World, steps: int) -> dict[Choice, float]:
        """All that was tried, by what the metric says."""
        tried: dict[Choice, float] = {}
        for network in world.models:
            own: dict[Choice, float] = {}
            for choices in self._rounds(steps, network, own):
                for choice in choices:
                    if choice not in own:
                        own[choice] = world.judge.first(choice.draw(world, steps)(self.count, OTHER))
            tried |= own
        return tried

    def _rounds(self, steps: int, network: str, known: dict[Choice, float]) -> Iterator[list[Choice]]:
        if steps == 1:
            yield [Choice("DPM-Solver++ 2M", "even", None, network), Choice("UniPC 2 bh2", "even", None, network)]
            return
        solvers, ends = (["DPM-Solver++ 3M"], ENDS[::2]) if self.coordinates else (SOLVERS, ENDS)
        yield [Choice(solver, grid, end, network) for solver in solvers for grid in GRIDS for end in ends]
        if self.coordinates:
            best = min(known, key=lambda choice: known[choice])
            at = ENDS.index(best.end)
            beside = [replace(best, end=end) for end in ENDS[max(at - 1, 0) : at + 2]]
            yield [*beside, *(replace(best, solver=solver) for solver in SOLVERS)]


def best(scores: dict[Choice, float]) -> list[Choice]:
    """The best of every family on any network, and the best on the network as it was published."""

    def least(choices: list[Choice]) -> Choice:
        return min(choices, key=lambda choice: scores[choice])

    families = {choice.family: choice for choice in scores}
    chosen = [least([choice for choice in scores if choice.family == family]) for family in families]
    return list(dict.fromkeys([*chosen, least([choice for choice in scores if choice.network == ""])]))
