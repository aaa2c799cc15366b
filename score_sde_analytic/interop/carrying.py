"""Schedulers that carry a covariance, grids and solvers: how these are given, and seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.interop.carried import KEY, content_of
from score_sde_analytic.interop.driving import Driven
from score_sde_analytic.interop.solvers import of_sampler
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.samplers import Sampler


class Carrying(Driven):
    """What it carries stands in its config, as plain data, and is read from there."""

    #: eta where none is carried.
    hand_eta: ClassVar[float] = 1.0

    def with_curve(
        self,
        curve: NoiseCurve | Covariance,
        grids: Mapping[int, Any] | None = None,
        *,
        eta: float = 1.0,
        clip: float = 0.0,
    ) -> Self:
        """The scheduler itself, from now on with the variances of a curve, or another covariance, and with these grids alone.

        Args:
            grids: number of steps -> `Grid`, or its times; runs of other numbers are spaced as the config says.
            eta: 1 for DDPM's kernel, 0 for DDIM's, anything between. The variance is the best for that kernel, and is not 0 at
                eta = 0: runs without noise are those of `with_curve(BetaTilde(), eta=0.0)`.
            clip: of the last noisy step, as of `Ancestral`.

        Raises:
            UnsupportedError: a covariance that plain data cannot tell, as of a head.
            InputError: a grid that has not the steps that it is given for.
        """
        return self._carry(content_of(curve, grids, eta, clip))

    def with_sampler(self, sampler: Sampler[Any], grid: Grid | None = None, start: LinearDenoiser | None = None) -> Self:
        """The scheduler itself, from now on with another rule for runs of so many steps as a grid has.

        `plan = study.fewest(3)` is given as `with_sampler(plan.sampler, plan.grid, plan.start)`.

        Args:
            sampler: of the network that the pipeline calls.
            grid: its times; None for a table's own.
            start: what its runs begin with, None for noise or a table's own. It is made of the pipeline's noise in
                `scale_model_input`, which most pipelines call, but not DDPMPipeline and those of flows.

        Raises:
            UnsupportedError: a sampler that does not call the network just once a step.
        """
        times = getattr(sampler, "grid", None) if grid is None else grid
        if times is None:
            raise InputError(f"{sampler.name} takes any grid: say which, with_sampler(sampler, grid)")
        steps, held = str(times.steps), self._desk.carried.content
        solvers = {**held.get("solvers", {}), steps: of_sampler(sampler, start)}
        grids = {**held.get("grids", {}), steps: list(times.times)}
        return self._carry({**held, "grids": grids, "solvers": solvers})

    def _carry(self, content: Mapping[str, Any]) -> Self:
        self.register_to_config(**{KEY: dict(content)})  # type: ignore[attr-defined]
        return self

    @property
    def curve(self) -> NoiseCurve | None:
        """Of its covariance; None where that has none."""
        return getattr(self.covariance, "curve", None)

    @property
    def covariance(self) -> Covariance:
        """Of its steps."""
        return self._desk.carried.covariance

    @property
    def eta(self) -> float:
        """Of its kernel."""
        return self._desk.carried.eta

    @property
    def grids(self) -> dict[int, Grid]:
        """Carried grids by their numbers of steps."""
        return dict(self._desk.carried.grids)
