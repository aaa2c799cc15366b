"""What a comparison of solvers is asked, and the presets that fill what was left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from score_sde_analytic.checks import COUNT, COUNT_OR_NONE, LOG_SNR, SEED, each, named, number, one_of, settle, whole
from score_sde_analytic.compare.examples import SPLITS
from score_sde_analytic.compare.fidelity import check_features
from score_sde_analytic.compare.likelihoods import Evaluation, FlowLikelihood
from score_sde_analytic.compare.registry import SOLVERS, Options, SolverName, solver_names
from score_sde_analytic.errors import InputError
from score_sde_analytic.study import GridName
from score_sde_analytic.study.free import GAUSSIAN
from score_sde_analytic.study.names import COVARIANCE, GRID, choose

#: What a budget stands for, field by field.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "quick": {
            "solvers": (
                "ddpm_beta",
                "ddpm_beta_tilde",
                "analytic_ddpm",
                "ancestral(auto)",
                "ddim",
                "analytic_ddim",
                "analytic_multistep",
                "ode_rk4",
                "ode_dopri5",
                "heun",
                "dpmpp_2",
                "sde_dpmpp_2",
                "unipc_2",
                "sde_euler",
                "pc_analytic",
            ),
            "calls": (5, 10, 25),
            "grids": ("log_snr", "dp"),
            "tolerances": (1e-2,),
            "count": 200,
            "reference_examples": 1000,
            "bits": "predicted",
        },
        "full": {
            "solvers": (
                *SOLVERS,
                "ancestral(pca)",
                "ancestral(auto)",
                "ancestral(residual, eta=0.5)",
                "ancestral(auto, eta=0.5)",
                "ancestral(auto, eta=0)",
                "multistep(auto)",
            ),
            "calls": (5, 10, 25, 50),
            "grids": ("log_snr", "dp"),
            "tolerances": (1e-1, 1e-2, 1e-3),
            "count": 2000,
            "reference_examples": 4000,
            "bits": "measured",
        },
    }
)


#: How ancestral samples end, and where all samples start.
FINALS = ("mean", "draw")
STARTS = ("prior", GAUSSIAN)


def _usual_or_known(features: str) -> None:
    if features:
        check_features(features)


BUDGET = named(lambda name: choose(PRESETS, name, "budget of compare"), "a budget")
FEATURES = named(_usual_or_known, "the name of features")
SPLIT = named(lambda name: choose(SPLITS, name, "split of compare.reference"), "the name of a split")
COMPILATIONS = ("", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared, on how many samples, by what; `budget` says it for a field that is 0, () or "".

    Attributes:
        budget: "quick" (minutes) or "full".
        solvers: by name (`registry.SOLVERS`); any covariance as "ancestral(NAME)" or "ancestral(NAME, eta=0.5)".
        calls: budgets K of network calls; every solver takes as many steps as fit.
        grids: of all solvers, by name; NAME_tuned has a first time of its own.
        tolerances: of adaptive solvers, relative and absolute.
        max_steps: of adaptive solvers; a run that needs more is marked.
        count: samples per cell.
        batch_size, seed: of samples.
        final: ancestral samples end in the "mean" of the last step, as the papers', or in a "draw".
        start: "prior" for N(0, prior_variance I) at t = 1, or "gaussian" for the Gaussian of the data, carried for no call to
            where the largest variance begins to be known: all grids begin there. Solvers with a start of their own keep it.
        search: log-SNRs of first times: every solver is tried with each of them on each grid of `search.GRIDS`, and the best
            by the main metric itself is a cell on the grid "best"; () for none.
        log_snr_max: log-SNR of the first time t_1 of all solvers and grids; 0 for the best of infinitely many steps.
        grid_variance: the covariance for which "dp" is optimal.
        bits: of chains with eta = 1: "predicted", "measured" on the test split, or "none".
        evaluation: how they are measured.
        flow: also the likelihood of adaptive probability flows, measured so; None for none.
        features: that examples are compared in: "pixels", a basis, a classifier's name or folder; "" for the usual ones.
        reference: splits that samples are compared with.
        reference_examples: at most so many of them; draws of a distribution that is known.
        groups: of the jackknife that gives distances their errors.
        sheet: samples kept per cell.
        paths: budget of the runs whose paths are recorded; 0 for none.
        compile: mode of torch.compile for the network: "default", "reduce-overhead" (CUDA graphs), ..; "" for none.

    Raises:
        InputError: an unknown budget or name, or settings that make no comparison.
    """

    budget: Annotated[str, BUDGET] = "quick"
    solvers: Annotated[tuple[str, ...], each(named(SolverName.parse, "the name of a solver"))] = ()
    calls: Annotated[tuple[int, ...], each(whole(1, 100_000))] = ()
    grids: Annotated[tuple[str, ...], each(GRID)] = ()
    tolerances: Annotated[tuple[float, ...], each(number(above=0.0, most=1e3))] = ()
    max_steps: Annotated[int, COUNT] = 1000
    count: Annotated[int, COUNT_OR_NONE] = 0
    batch_size: Annotated[int, COUNT] = 500
    seed: Annotated[int, SEED] = 0
    final: Annotated[Literal["mean", "draw"], one_of(FINALS)] = "mean"
    start: Annotated[Literal["prior", "gaussian"], one_of(STARTS)] = "prior"
    search: Annotated[tuple[float, ...], each(LOG_SNR)] = ()
    log_snr_max: Annotated[float, LOG_SNR] = 0.0
    grid_variance: Annotated[str, COVARIANCE] = "residual"
    bits: Annotated[str, one_of(("", "predicted", "measured", "none"))] = ""
    evaluation: Evaluation = field(default_factory=Evaluation)
    flow: FlowLikelihood | None = None
    features: Annotated[str, FEATURES] = ""
    reference: Annotated[tuple[str, ...], each(SPLIT, least=1)] = ("validation", "test")
    reference_examples: Annotated[int, COUNT_OR_NONE] = 0
    groups: Annotated[int, whole(2, 10_000)] = 10
    sheet: Annotated[int, COUNT] = 24
    paths: Annotated[int, COUNT_OR_NONE] = 10
    compile: Annotated[str, one_of(COMPILATIONS)] = ""

    def __post_init__(self) -> None:
        settle(self, "compare.")
        if 0 < self.count < 2 * self.groups:
            raise InputError(
                f"need compare.count at least {2 * self.groups} samples, two for each of compare.groups, got {self.count}"
            )

    def resolved(self) -> ComparisonSettings:
        """The same with everything that was left open filled in from its budget."""
        preset = PRESETS[self.budget]
        return replace(self, **{name: getattr(self, name) or value for name, value in preset.items()})

    @property
    def solver_names(self) -> tuple[SolverName, ...]:
        """The solvers, each once."""
        return solver_names(self.solvers)

    @property
    def grid_names(self) -> tuple[GridName, ...]:
        """The grids of all solvers, each once."""
        return tuple(dict.fromkeys(map(GridName.parse, self.grids)))

    @property
    def options(self) -> Options:
        """What decides samplers besides their names."""
        return Options(final=self.final, max_steps=self.max_steps)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the samples and the bits/dim of all cells, as plain data."""
        names = ("seed", "count", "batch_size", "sheet", "bits", "compile")
        return {name: getattr(self, name) for name in names} | {"flow": self.flow is not None}

    def described(self) -> dict[str, Any]:
        """All fields as plain data."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return own | {"evaluation": vars(self.evaluation), "flow": self.flow and self.flow.identity}
