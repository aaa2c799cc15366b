"""What a scheduler carries beside its own settings: plain data under one private key of its config.

    {"covariance": {..}, "eta": 1.0, "clip": 0.0, "grids": {"10": [1.0, .., 0.0]}}

JSON writes float64 so that it is read back exactly. Other schedulers pass the key on without a word, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from score_sde_analytic.checks import number, whole
from score_sde_analytic.covariance import BetaTilde, Isotropic, of_content
from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.declared import reading, require_shape
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.samplers import Ancestral, Sampler

KEY = "_analytic"
PATH = f"{KEY} of a scheduler's config"
AGAIN = "give the scheduler its curve again, with_curve(..)"
SHAPE = {"covariance?": ({"name": str}, None), "eta?": float, "clip?": float, "grids?": {str: [float]}}


@dataclass(frozen=True)
class Carried:
    """The plain data, read.

    Args:
        content: what stands under the key; empty where nothing does.
        otherwise: the covariance of steps where none is carried.
        eta: where none is carried.
    """

    content: Mapping[str, Any]
    otherwise: Covariance = field(default_factory=BetaTilde)
    eta_otherwise: float = 1.0

    def __post_init__(self) -> None:
        require_shape(dict(self.content), SHAPE, PATH, AGAIN)

    @classmethod
    def of(cls, config: Mapping[str, Any], otherwise: Covariance, eta: float) -> Carried:
        """By a scheduler's config.

        Raises:
            InputError: what stands under the key is not what it should be.
        """
        return cls(config.get(KEY) or {}, otherwise, eta)

    @cached_property
    def covariance(self) -> Covariance:
        """Of its steps."""
        held = self.content.get("covariance")
        return self.otherwise if held is None else of_content(held, PATH)

    @property
    def curve(self) -> NoiseCurve | None:
        """Of an isotropic covariance."""
        return getattr(self.covariance, "curve", None)

    @property
    def eta(self) -> float:
        return number(0, 1)("eta", self.content.get("eta", self.eta_otherwise))

    @cached_property
    def grids(self) -> dict[int, Grid]:
        """By their numbers of steps."""
        with reading(PATH, AGAIN):
            return _by_steps(Grid(tuple(times), "carried") for times in self.content.get("grids", {}).values())

    def sampler(self, model: ScoreModel) -> Sampler[Any]:
        """The rule of its steps."""
        return Ancestral(model, self.covariance, self.eta, clip=self.content.get("clip", 0.0))


def _by_steps(grids: Iterable[Grid]) -> dict[int, Grid]:
    return {grid.steps: grid for grid in grids}


def content_of(
    covariance: Covariance | NoiseCurve, grids: Mapping[int, Any] | None, eta: float, clip: float = 0.0
) -> dict[str, Any]:
    """The plain data of a covariance, or of the optimal isotropic one of a curve, and of what else is carried.

    Args:
        grids: number of steps -> `Grid`, or its times in visiting order, the last of them 0.

    Raises:
        UnsupportedError: a covariance without a form of plain data.
        InputError: a grid that has not the steps that it is given for.
    """
    held = Isotropic(covariance) if isinstance(covariance, NoiseCurve) else covariance
    held.require_eta(number(0, 1)("eta", eta))
    times = {str(whole(1)("steps", steps)): _times(grid, steps) for steps, grid in (grids or {}).items()}
    return {"covariance": held.content(), "eta": float(eta), "clip": number(0)("clip", clip), "grids": times}


def _times(grid: Any, steps: int) -> list[float]:
    made = grid if isinstance(grid, Grid) else Grid(tuple(grid))
    if made.steps != steps:
        raise InputError(f"the grid given for {steps} steps has {made.steps}; key grids by their number of steps")
    return list(made.times)
