"""Bits/dim of the solvers that follow a chain or a probability flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from score_sde_analytic.checks import COUNT, COUNT_OR_NONE, settle
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.files import finite
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.likelihood import Chain, Diffused, Divergence, Entry, Flow, Hutchinson, Method
from score_sde_analytic.process.decoder import Decoder, NoDecoder
from score_sde_analytic.samplers import Ancestral, ProbabilityFlow
from score_sde_analytic.study import Study
from score_sde_analytic.uncertainty import Estimate


@dataclass(frozen=True)
class FlowLikelihood:
    """How the likelihoods of probability flows are found; solver, variable and first time are those of the sampler.

    Attributes:
        entry: how data enter the flow, given the last step of its first time.
        divergence, importance_samples, examples_per_block: of `Flow`.
        known_by: plain data that identify all this where the other fields do not say it, as for a setting of one's own.
    """

    entry: Callable[[Decoder], Entry] = Diffused
    divergence: Divergence = field(default_factory=Hutchinson)
    importance_samples: Annotated[int, COUNT] = 1
    examples_per_block: Annotated[int, COUNT] = 100
    known_by: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        settle(self)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that tell these likelihoods from others."""
        if self.known_by is not None:
            return dict(self.known_by)
        entry = self.entry(NoDecoder()).config()["entry"]
        settings = {"importance_samples": self.importance_samples, "examples_per_block": self.examples_per_block}
        return {"entry": entry, "divergence": self.divergence.config()} | settings

    def of(self, sampler: ProbabilityFlow, t_1: float, decoder: Decoder) -> Flow:
        """The likelihood of the flow that an adaptive sampler follows down to t_1."""
        return Flow(
            t_1,
            self.entry(decoder),
            self.divergence,
            sampler.solver,  # type: ignore[arg-type]
            self.importance_samples,
            sampler.variable,
            self.examples_per_block,
        )


@dataclass(frozen=True)
class Evaluation:
    """How bounds are measured.

    Attributes:
        draws: of the noise, per example and step.
        batch_size: examples per network call.
        examples: of the test split; 0 for all.
    """

    draws: Annotated[int, COUNT] = 1
    batch_size: Annotated[int, COUNT] = 100
    examples: Annotated[int, COUNT_OR_NONE] = 0

    def __post_init__(self) -> None:
        settle(self)

    def part(self, test: Examples) -> Examples:
        """The examples that are used."""
        return test.part(range(min(self.examples, len(test)))) if self.examples else test


@dataclass(frozen=True)
class Likelihoods:
    """Bits/dim of what a solver does, as a cell keeps them: {"value", "stderr", "kind"}.

    Attributes:
        study: the measured network.
        test: the examples.
        chains: whether bits/dim of chains are "predicted" or "measured"; "none" leaves out those of flows too.
        flow: how flows are measured; None to leave them out.
        evaluation: how bounds are measured.
        folder: where bounds are kept.
    """

    study: Study
    test: Examples
    chains: str
    flow: FlowLikelihood | None
    evaluation: Evaluation
    folder: Path

    def of_chain(self, sampler: Ancestral, grid: Grid) -> dict[str, Any] | None:
        """Of the chain that ancestral sampling with eta = 1 is; None where it has no price and is not measured."""
        if self.chains == "none":
            return None
        chain = Chain(grid, sampler.covariance, self.study.decoder(grid.times[-2]))
        if self.chains == "measured":
            return _reading(self._measured(chain), "measured")
        if not self.study.priceable(chain):
            return None
        return _reading(self.study.price({"": chain})[""].total, "predicted")

    def of_flow(self, sampler: ProbabilityFlow, grid: Grid) -> dict[str, Any] | None:
        """Of the flow that an adaptive solver follows; None where it is not asked for."""
        if self.flow is None or self.chains == "none":
            return None
        t_1 = grid.times[-2]
        return _reading(self._measured(self.flow.of(sampler, t_1, self.study.decoder(t_1))), "flow")

    def _measured(self, method: Method) -> Estimate:
        evaluation = self.evaluation
        options = {"draws": evaluation.draws, "batch_size": evaluation.batch_size}
        return self.study.evaluate(self.test, {"compare": method}, self.folder, **options)["compare"].total


def _reading(total: Estimate, kind: str) -> dict[str, Any]:
    return {"value": finite(total.value), "stderr": finite(total.stderr), "kind": kind}
