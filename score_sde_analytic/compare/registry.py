"""Solvers by name: one entry each, made from a study's model and covariances.

Any covariance of the study is a solver too: "ancestral(pca)", "ancestral(dct|high_frequency)", "ancestral(auto, eta=0.5)",
"multistep(pca)".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from score_sde_analytic.checks import unknown
from score_sde_analytic.compare.likelihoods import Likelihoods
from score_sde_analytic.data.examples import Data
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid, even
from score_sde_analytic.measure import EmpiricalStatistics
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.samplers import (
    DEIS,
    IPNDM,
    LMS,
    AdaptiveSDE,
    AnalyticMultistep,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPP,
    DPMSolverSinglestep,
    DPMSolverV3,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    ReverseSDE,
    Sampler,
    SASolver,
    TableSampler,
    UniPC,
    spectrum_table,
)
from score_sde_analytic.study import CovarianceName, GridName, Study, few
from score_sde_analytic.study.plan import SamplingPlan

Kind = Literal["analytic", "ode", "sde", "multistep", "corrector"]


@dataclass(frozen=True)
class Options:
    """What decides a sampler besides its entry.

    Attributes:
        final: whether ancestral samples end in the "mean" or a "draw" of the last step.
        tolerance: of an adaptive solver, relative and absolute.
        max_steps: of an adaptive solver; a run that needs more fails.
        statistics: measures those of DPM-Solver-v3 per coordinate; None for what the study's moments tell of them.
        free: the Gaussian of the data, which the fewest calls begin with; None for the study's own.
        examples: that the fewest calls are chosen by.
        folder: keeps paths and tables of the fewest calls; None keeps nothing.
    """

    final: Literal["mean", "draw"] = "mean"
    tolerance: float = 1e-2
    max_steps: int = 1000
    statistics: Callable[[], EmpiricalStatistics] | None = field(default=None, compare=False)
    free: LinearDenoiser | None = field(default=None, compare=False)
    examples: Data | None = field(default=None, compare=False)
    folder: Path | None = field(default=None, compare=False)


Make = Callable[[Study, Options], Sampler[Any]]
#: Of a solver with times and a start of its own: (study, K, options) -> all of it.
Own = Callable[[Study, int, Options], SamplingPlan]
#: What a cell keeps of the bits/dim of a sampler on its grid; None where it has none.
Bits = Callable[[Likelihoods, Any, Grid], "dict[str, Any] | None"]


@dataclass(frozen=True)
class Solver:
    """How a solver is made and how tables speak of it.

    Attributes:
        make: (study, options) -> sampler, that takes any grid.
        own: makes instead the sampler of K calls on times, and from a start, of its own.
        order: of convergence as the step goes to 0 (with noise: of the mean, weakly), as tables print it.
        deterministic: whether the start decides the sample.
        grid: a grid it is run on besides those of all; None for none.
        bits: its bits/dim, if it follows a chain or a flow that has any.
    """

    label: str
    family: Kind
    about: str
    make: Make
    order: str | None = None
    deterministic: bool = False
    adaptive: bool = False
    grid: GridName | None = None
    bits: Bits | None = None
    own: Own | None = None


def _needs_calls(study: Study, options: Options) -> Sampler[Any]:
    raise InputError("a solver with times of its own is made for a number of calls: ask its `own`")


def _fewest(study: Study, calls: int, options: Options) -> SamplingPlan:
    return study.fewest(calls, free=options.free, path=options.folder, progress=False)


def _fewest_chosen(study: Study, calls: int, options: Options) -> SamplingPlan:
    return study.fewest(calls, options.examples, free=options.free, path=options.folder, progress=False)


def _spectrum_table(study: Study, calls: int, options: Options) -> SamplingPlan:
    sampler = TableSampler(study.model, spectrum_table(few.gaussian(study, options.free), calls))
    return study.plan(sampler, sampler.grid)


def _of_model(make: Callable[..., Sampler[Any]], **settings: Any) -> Make:
    return lambda study, options: make(study.model, **settings)


def _ancestral(covariance: str | CovarianceName, eta: float = 1.0) -> Make:
    return lambda study, options: Ancestral(study.model, study.covariance(covariance), eta, options.final)


def _multistep(covariance: str | CovarianceName, eta: float = math.sqrt(0.5)) -> Make:
    return lambda study, options: AnalyticMultistep(study.model, study.covariance(covariance), eta)


def _corrected(predictor: Make, corrector: Langevin | AnnealedLangevin) -> Make:
    return lambda study, options: PredictorCorrector(predictor(study, options), corrector)


def _ode(solver: str, variable: Literal["log_snr", "t"] = "log_snr") -> Make:
    return _of_model(ProbabilityFlow, solver=solver, variable=variable)


def _dopri5(variable: Literal["log_snr", "t"]) -> Make:
    def make(study: Study, options: Options) -> ProbabilityFlow:
        solver = Adaptive(options.tolerance, options.tolerance, max_steps=options.max_steps)
        return ProbabilityFlow(study.model, solver, variable, per_sample=False)

    return make


def _adaptive_sde(study: Study, options: Options) -> ReverseSDE:
    return ReverseSDE(study.model, adaptive=AdaptiveSDE(options.tolerance, options.tolerance), per_sample=False)


def _v3(order: int) -> Make:
    def make(study: Study, options: Options) -> DPMSolverV3:
        known = options.statistics
        return DPMSolverV3(study.model, known() if known else EmpiricalStatistics.of_moments(study.moments), order)

    return make


def _sde(solver: str, variable: Literal["log_snr", "t"] = "log_snr") -> Make:
    return _of_model(ReverseSDE, solver=solver, variable=variable)


_CHAIN: Bits = Likelihoods.of_chain
_FLOW: Bits = Likelihoods.of_flow
_KARRAS = GridName("karras")
_BATCH = "the tolerance is relative and absolute; one sequence of steps for the batch"

SOLVERS: dict[str, Solver] = {
    "ddpm_beta": Solver("DDPM, beta", "analytic", "ancestral, variance sigma_ts^2", _ancestral("beta"), "1", bits=_CHAIN),
    "ddpm_beta_tilde": Solver(
        "DDPM, beta-tilde", "analytic", "ancestral, variance rho^2", _ancestral("beta_tilde"), "1", bits=_CHAIN
    ),
    "ddim": Solver("DDIM", "analytic", "eta = 0, no noise", _ancestral("beta_tilde", 0.0), "1", deterministic=True),
    "analytic_ddpm": Solver(
        "Analytic-DPM", "analytic", "ancestral, optimal scalar variance", _ancestral("residual"), "1", bits=_CHAIN
    ),
    "analytic_ddim": Solver("Analytic-DDIM", "analytic", "eta = 0, optimal scalar variance", _ancestral("residual", 0.0), "1"),
    "analytic_multistep": Solver(
        "analytic multistep", "multistep", "extrapolation and optimal scalar variance share the work", _multistep("residual")
    ),
    "spectrum_table": Solver(
        "table of the spectrum",
        "multistep",
        "the best weights for Gaussian data; no call to fit",
        _needs_calls,
        own=_spectrum_table,
    ),
    "fewest": Solver("fewest calls", "multistep", "weights fitted to paths of the flow", _needs_calls, own=_fewest),
    "fewest_chosen": Solver(
        "fewest calls, chosen",
        "multistep",
        "such weights, or noise too where the examples of the study say so",
        _needs_calls,
        own=_fewest_chosen,
    ),
    "ode_euler": Solver("PF-ODE, Euler", "ode", "in log-SNR", _ode("euler"), "1", deterministic=True),
    "ode_midpoint": Solver("PF-ODE, midpoint", "ode", "in log-SNR, 2 calls a step", _ode("midpoint"), "2", deterministic=True),
    "ode_rk4": Solver("PF-ODE, RK4", "ode", "in log-SNR, 4 calls a step", _ode("rk4"), "4", deterministic=True),
    "ode_euler_t": Solver("PF-ODE, Euler in t", "ode", "in time", _ode("euler", "t"), "1", deterministic=True),
    "ode_midpoint_t": Solver("PF-ODE, midpoint in t", "ode", "in time, 2 calls a step", _ode("midpoint", "t"), "2", True),
    "ode_rk4_t": Solver("PF-ODE, RK4 in t", "ode", "in time, 4 calls a step", _ode("rk4", "t"), "4", deterministic=True),
    "ode_dopri5": Solver(
        "PF-ODE, dopri5", "ode", f"in log-SNR; {_BATCH}", _dopri5("log_snr"), "5", True, adaptive=True, bits=_FLOW
    ),
    "ode_dopri5_t": Solver(
        "PF-ODE, dopri5 in t", "ode", f"in time; {_BATCH}", _dopri5("t"), "5", True, adaptive=True, bits=_FLOW
    ),
    "heun": Solver("EDM Heun", "ode", "in sigma/alpha, 2 calls a step", _of_model(Heun), "2", True, grid=_KARRAS),
    "heun_churn": Solver(
        "EDM Heun, churn", "sde", "S_churn = 10, 2 calls a step", _of_model(Heun, s_churn=10.0), None, grid=_KARRAS
    ),
    "dpmpp_1": Solver("DPM-Solver++ 1", "multistep", "the DDIM step", _of_model(DPMSolverPP, order=1), "1", True),
    "dpmpp_2": Solver("DPM-Solver++ 2M", "multistep", "extrapolates x_0", _of_model(DPMSolverPP, order=2), "2", True),
    "dpmpp_3": Solver("DPM-Solver++ 3M", "multistep", "extrapolates x_0", _of_model(DPMSolverPP, order=3), "2", True),
    "sde_dpmpp_2": Solver(
        "SDE-DPM-Solver++ 2M", "multistep", "with noise", _of_model(DPMSolverPP, order=2, noisy=True), "2 (mean)"
    ),
    "sde_dpmpp_3": Solver(
        "SDE-DPM-Solver++ 3M", "multistep", "with noise", _of_model(DPMSolverPP, order=3, noisy=True), "2 (mean)"
    ),
    "dpmpp_2s": Solver(
        "DPM-Solver++ 2S", "multistep", "singlestep, 2 calls a step", _of_model(DPMSolverSinglestep, order=2), "2", True
    ),
    "dpmpp_3s": Solver(
        "DPM-Solver++ 3S", "multistep", "singlestep, 3 calls a step", _of_model(DPMSolverSinglestep, order=3), "3", True
    ),
    "unipc_1": Solver("UniPC 1", "multistep", "predictor and corrector share calls", _of_model(UniPC, order=1), "2", True),
    "unipc_2": Solver("UniPC 2", "multistep", "predictor and corrector share calls", _of_model(UniPC, order=2), "3", True),
    "unipc_3": Solver(
        "UniPC 3", "multistep", "predictor and corrector share calls", _of_model(UniPC, order=3), "3 or more", True
    ),
    "unipc_1_bh1": Solver(
        "UniPC 1, bh1", "multistep", "the same, B(h) = h", _of_model(UniPC, order=1, solver_type="bh1"), "2", True
    ),
    "unipc_2_bh1": Solver(
        "UniPC 2, bh1", "multistep", "the same, B(h) = h", _of_model(UniPC, order=2, solver_type="bh1"), "3", True
    ),
    "unipc_3_bh1": Solver(
        "UniPC 3, bh1", "multistep", "the same, B(h) = h", _of_model(UniPC, order=3, solver_type="bh1"), "3 or more", True
    ),
    "deis_2": Solver("DEIS 2", "multistep", "extrapolates eps in log-SNR", _of_model(DEIS, order=2), "2", True),
    "deis_3": Solver("DEIS 3", "multistep", "extrapolates eps in log-SNR", _of_model(DEIS, order=3), "3", True),
    "ipndm": Solver("iPNDM", "multistep", "Adams-Bashforth with the weights of equal steps", _of_model(IPNDM), "2", True),
    "lms": Solver("LMS", "multistep", "Adams-Bashforth in sigma/alpha", _of_model(LMS), "4", True),
    "dpm_solver_v3": Solver(
        "DPM-Solver-v3", "multistep", "around the model's own linear part; predictor and corrector", _v3(3), "3 or more", True
    ),
    "dpm_solver_v3_2": Solver(
        "DPM-Solver-v3, order 2", "multistep", "around the model's own linear part", _v3(2), "2 or more", True
    ),
    "sa_solver": Solver("SA-Solver", "multistep", "with noise, tau = 1; order 2", _of_model(SASolver), "2 (mean)"),
    "sa_solver_quiet": Solver(
        "SA-Solver, tau = 0.2",
        "multistep",
        "with little noise, for few steps; order 2",
        _of_model(SASolver, tau=0.2),
        "2 (mean)",
    ),
    "sde_euler": Solver("reverse SDE, Euler", "sde", "torchsde, in log-SNR", _sde("euler"), "1"),
    "sde_srk": Solver("reverse SDE, SRK", "sde", "torchsde's SRA1, in log-SNR, 2 calls a step", _sde("srk"), "2"),
    "sde_euler_t": Solver("reverse SDE, Euler in t", "sde", "torchsde, in time", _sde("euler", "t"), "1"),
    "sde_adaptive": Solver("reverse SDE, adaptive Euler", "sde", f"torchsde; {_BATCH}", _adaptive_sde, "1", adaptive=True),
    "euler_maruyama": Solver("Euler-Maruyama", "sde", "score SDE's predictor, in time", _of_model(EulerMaruyama), "1"),
    "reverse_diffusion": Solver("reverse diffusion", "sde", "score SDE's predictor", _of_model(ReverseDiffusion), "1"),
    "pc_ancestral": Solver(
        "PC, DDPM beta", "corrector", "Langevin, 2 calls a step", _corrected(_ancestral("beta"), Langevin())
    ),
    "pc_reverse_diffusion": Solver(
        "PC, reverse diffusion", "corrector", "Langevin, 2 calls a step", _corrected(_of_model(ReverseDiffusion), Langevin())
    ),
    "pc_analytic": Solver(
        "PC, Analytic-DPM", "corrector", "Langevin, 2 calls a step", _corrected(_ancestral("residual"), Langevin())
    ),
    "pc_analytic_annealed": Solver(
        "PC, Analytic-DPM, annealed",
        "corrector",
        "annealed Langevin, 2 calls a step",
        _corrected(_ancestral("residual"), AnnealedLangevin()),
    ),
}


@dataclass(frozen=True)
class Family:
    """Solvers that differ by their covariance and eta.

    Attributes:
        make: (covariance, eta if given) -> how the sampler is made.
        chain: whether with eta = 1, taken where none is given, they are chains with bits/dim.
    """

    kind: Kind
    about: str
    make: Callable[..., Make]
    order: str | None
    chain: bool

    def solver(self, name: SolverName, covariance: CovarianceName) -> Solver:
        """The entry of one member."""
        given = () if name.eta is None else (name.eta,)
        label = f"{name.base}, {covariance.title}" + "".join(f", eta = {eta:g}" for eta in given)
        bits = _CHAIN if self.chain and name.eta in (None, 1.0) else None
        return Solver(label, self.kind, self.about, self.make(covariance, *given), self.order, bits=bits)


FAMILIES: dict[str, Family] = {
    "ancestral": Family("analytic", "analytic family", _ancestral, "1", chain=True),
    "multistep": Family("multistep", "extrapolation and covariance share the work", _multistep, None, chain=False),
}
_MEMBER = re.compile(r"(?P<family>\w+)\((?P<covariance>[^(),\s]+)(?:,\s*eta=(?P<eta>[0-9]*\.?[0-9]+(?:e-[0-9]+)?))?\)")


@dataclass(frozen=True)
class SolverName:
    """A solver as settings name it.

    Attributes:
        base: an entry, or a family.
        covariance: of a member of a family.
        eta: of a member of a family, where it is not the usual one.

    >>> SolverName.parse("ancestral(pca, eta=0.5)").eta
    0.5
    >>> print(SolverName("multistep", CovarianceName("pca")))
    multistep(pca)
    """

    base: str
    covariance: CovarianceName | None = None
    eta: float | None = None

    def __str__(self) -> str:
        if self.covariance is None:
            return self.base
        eta = "" if self.eta is None else f", eta={repr(self.eta).removesuffix('.0')}"
        return f"{self.base}({self.covariance}{eta})"

    @property
    def entry(self) -> Solver:
        """How it is made."""
        if self.covariance is None:
            return SOLVERS[self.base]
        return FAMILIES[self.base].solver(self, self.covariance)

    @classmethod
    def parse(cls, text: str | SolverName) -> SolverName:
        """The solver that a name means: that of an entry, "FAMILY(COVARIANCE)" or "FAMILY(COVARIANCE, eta=NUMBER)".

        Raises:
            InputError: an unknown solver or covariance, or eta outside [0, 1].
        """
        if isinstance(text, SolverName):
            return text
        if text in SOLVERS:
            return cls(text)
        match = _MEMBER.fullmatch(text)
        if match is None or match["family"] not in FAMILIES:
            members = ["ancestral(COVARIANCE)", "ancestral(COVARIANCE, eta=NUMBER)", "multistep(COVARIANCE)"]
            raise unknown("solver", text, [*SOLVERS, *members])
        eta = None if match["eta"] is None else float(match["eta"])
        if eta is not None and eta > 1.0:
            raise InputError(f"eta of {text!r} must lie in [0, 1]")
        return cls(match["family"], CovarianceName.parse(match["covariance"]), eta)


def solver_names(texts: Iterable[str | SolverName]) -> tuple[SolverName, ...]:
    """The solvers that names mean, each once, in order."""
    return tuple(dict.fromkeys(map(SolverName.parse, texts)))


def covariances(texts: Iterable[str | SolverName]) -> tuple[CovarianceName, ...]:
    """Covariances that these solvers take by name, for the moments' pass to record."""
    return tuple(dict.fromkeys(name.covariance for name in solver_names(texts) if name.covariance is not None))


def cost(sampler: Sampler[Any], grid: Grid) -> int | None:
    """Network calls of a run, where a vector product with the network's Jacobian counts as one; None if adaptive."""
    calls = sampler.calls(grid)
    return None if calls is None else calls + sampler.extra_calls(grid)


def steps_within(sampler: Sampler[Any], budget: int) -> int:
    """The largest number of steps whose calls stay within the budget.

    Raises:
        InputError: a single step costs more.
    """
    for steps in range(budget, 0, -1):
        calls = cost(sampler, even(steps, 0.5))
        if calls is not None and calls <= budget:
            return steps
    raise InputError(f"no step of {sampler.name} fits {budget} network calls; raise the budget")
