"""How many network evaluations a pass may take, and for which answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from score_sde_analytic.checks import COUNT, each, number, one_of, settle, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.answers import ANSWERS
from score_sde_analytic.shards import Shard


@dataclass(frozen=True)
class Budget:
    """How many draws a knot gets, and how they are dealt out.

    Every knot gets `min_draws`. Then draws go where they matter for the answer asked, until its error is at most `tolerance`:

        variance    largest relative standard error of R; a knot is finished once its own is small enough
        bits        standard error of bits/dim in the limit of many steps
        grid        share of an optimal grid's excess that errors of the curve add to it

    After `max_draws` a knot is finished in any case. `answers.reached` says what came of it.

    Attributes:
        batch_size: draws of a knot per network call.
        groups: of examples, from which standard errors follow.
        shard: (i, n) makes the i-th of n parts of the pass, i = 0 .. n - 1, `max_draws` / n draws of every knot, in a file of
            its own; `merge_passes` puts the parts together.
        most_knots: where y between knots is not known as well as at them, knots are added, up to so many in all; 0 adds none.

    Raises:
        InputError: numbers that contradict each other.
    """

    tolerance: Annotated[float, number(0.0, 1e9)] = 0.01
    min_draws: Annotated[int, COUNT] = 300
    max_draws: Annotated[int, COUNT] = 3000
    batch_size: Annotated[int, COUNT] = 100
    groups: Annotated[int, whole(2, 10**6)] = 32
    most_knots: Annotated[int, whole(0, 10_000)] = 0
    answer: Annotated[str, one_of(ANSWERS)] = "variance"
    shard: Annotated[tuple[int, ...], each(whole(0), 2, 2)] = (0, 1)

    def __post_init__(self) -> None:
        settle(self)
        Shard(*self.shard)
        if self.groups > self.min_draws:
            raise InputError(
                f"errors come from {self.groups} groups of examples, more than min_draws={self.min_draws}: set groups to at"
                " most that"
            )
        if self.min_draws > self.max_draws:
            raise InputError(
                f"need groups ({self.groups}) <= min_draws ({self.min_draws}) <= max_draws ({self.max_draws}): for a pass of n"
                " draws set min_draws and max_draws to n"
            )

    def settings(self) -> dict[str, Any]:
        """What decides when a pass ends, as plain data."""
        names = ("answer", "tolerance", "min_draws", "max_draws", "batch_size", "most_knots")
        return {name: getattr(self, name) for name in names}


DEFAULT = Budget()
