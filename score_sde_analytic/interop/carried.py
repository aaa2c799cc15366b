"""What a scheduler carries beside its own settings: plain data under one private key of its config.

    covariance    of its steps, with its curve                     eta, clip   as of `Ancestral`
    grids         number of steps -> times, the last of them 0     solvers     number of steps -> another rule than `Ancestral`

JSON writes float64 so that it is read back exactly. Other schedulers hand the key on without a word, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from score_sde_analytic.checks import number, whole
from score_sde_analytic.covariance import Isotropic, of_content
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.declared import reading, require_shape
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.solvers import sampler_of
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.samplers import Ancestral, Sampler
from score_sde_analytic.samplers.starts import Start

KEY = "_analytic"
PATH = f"{KEY} of a scheduler's config"
AGAIN = "give the scheduler its curve again, with_curve(..)"
SHAPE = {
    "covariance?": ({"name": str}, None),
    "eta?": float,
    "clip?": float,
    "grids?": {str: [float]},
    "solvers?": {str: {"name": str}},
}


@dataclass(frozen=True)
class Carried:
    """The plain data, read where it is asked for.

    Args:
        content: what stands under the key; empty where nothing does.
        hand: the covariance of steps where none is carried.
        hand_eta: eta where none is carried.

    Raises:
        InputError: the content is not what it should be.
    """

    content: Mapping[str, Any]
    hand: Covariance
    hand_eta: float

    def __post_init__(self) -> None:
        require_shape(self.content, SHAPE, PATH, AGAIN)

    @cached_property
    def covariance(self) -> Covariance:
        """Of its steps."""
        held = self.content.get("covariance")
        return self.hand if held is None else of_content(held, PATH)

    @property
    def eta(self) -> float:
        """Of its kernel."""
        return number(0, 1)("eta", self.content.get("eta", self.hand_eta))

    @cached_property
    def grids(self) -> dict[int, Grid]:
        """By their numbers of steps."""
        held = self.content.get("grids", {})
        with reading(PATH, AGAIN):
            return {int(steps): _grid(times, int(steps)) for steps, times in held.items()}

    def sampler(self, model: ScoreModel, steps: int | None) -> tuple[Sampler[Any], Start | None]:
        """The rule of a run of so many steps on the carried grid, None for any other run, and what it begins with."""
        solvers = self.content.get("solvers", {})
        if str(steps) in solvers:
            return sampler_of(solvers[str(steps)], model, PATH)
        return Ancestral(model, self.covariance, self.eta, clip=self.content.get("clip", 0.0)), None


def content_of(
    covariance: Covariance | NoiseCurve, grids: Mapping[int, Any] | None, eta: float, clip: float = 0.0
) -> dict[str, Any]:
    """The plain data of a covariance, or of the optimal isotropic one of a curve, and of what else is carried.

    >>> sorted(content_of(curve, {2: (1.0, 0.5, 0.0)}, eta=1.0))
    ['clip', 'covariance', 'eta', 'grids']

    Args:
        grids: number of steps -> `Grid`, or its times in visiting order, the last of them 0.

    Raises:
        UnsupportedError: a covariance without a form of plain data.
        InputError: a grid that has not the steps that it is given for.
    """
    held = Isotropic(covariance) if isinstance(covariance, NoiseCurve) else covariance
    eta = number(0, 1)("eta", eta)
    held.require_eta(eta)
    times = {str(whole(1)("steps", steps)): list(_grid(grid, steps).times) for steps, grid in (grids or {}).items()}
    return {"covariance": held.content(), "eta": eta, "clip": number(0)("clip", clip), "grids": times}


def _grid(given: Any, steps: int) -> Grid:
    made = given if isinstance(given, Grid) else Grid(tuple(given), "carried")
    if made.steps != steps:
        raise InputError(f"the grid given for {steps} steps has {made.steps}; key grids by their number of steps")
    return made
