"""The solvers that --mode=compare knows, by name: one entry each, made from an experiment's model and covariances.

Any covariance of the experiment is a solver too: "ancestral(pca)", "ancestral(dct|high_frequency)", "ancestral(auto, eta=0.5)",
"multistep(pca)".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.grids.grid import Grid, even
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.samplers import (
    AdaptiveSDE,
    AnalyticMultistep,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    ReverseSDE,
    Sampler,
    UniPC,
)

from .experiment import Experiment

Family = Literal["analytic", "ode", "sde", "multistep", "corrector"]
Make = Callable[..., Sampler[Any]]


@dataclass(frozen=True)
class Solver:
    """How a solver is made and how tables speak of it.

    Attributes:
        make: experiment -> sampler; of an adaptive solver, (experiment, tolerance) -> sampler.
        order: of convergence as the step goes to 0 (with noise: of the mean, weakly), as tables print it.
        deterministic: whether the start decides the sample.
        grid: a grid it is run on besides those of all; empty for none.
        covariance: name of the covariance its steps take, for the moments' pass to record.
    """

    label: str
    family: Family
    about: str
    make: Make
    order: str | None = None
    deterministic: bool = False
    adaptive: bool = False
    grid: str = ""
    covariance: str = ""


def _of_model(make: Callable[..., Sampler[Any]], **settings: Any) -> Make:
    return lambda experiment: make(experiment.model, **settings)


def _ancestral(covariance: str, eta: float = 1.0) -> Callable[[Experiment], Ancestral]:
    def make(experiment: Experiment) -> Ancestral:
        return Ancestral(experiment.model, experiment.study.covariance(covariance), eta, experiment.config.sample.final)

    return make


def _multistep(covariance: str, eta: float = math.sqrt(0.5)) -> Make:
    return lambda experiment: AnalyticMultistep(experiment.model, experiment.study.covariance(covariance), eta)


def _corrected(predictor: Make, corrector: Langevin | AnnealedLangevin) -> Make:
    return lambda experiment: PredictorCorrector(predictor(experiment), corrector)


def _ode(solver: str, variable: str = "log_snr") -> Make:
    return _of_model(ProbabilityFlow, solver=solver, variable=variable)


def _dopri5(variable: str) -> Make:
    def make(experiment: Experiment, tolerance: float) -> ProbabilityFlow:
        most = experiment.config.compare.max_steps
        return ProbabilityFlow(experiment.model, Adaptive(tolerance, tolerance, max_steps=most), variable, per_sample=False)  # type: ignore[arg-type]

    return make


def _adaptive_sde(experiment: Experiment, tolerance: float) -> ReverseSDE:
    return ReverseSDE(experiment.model, adaptive=AdaptiveSDE(tolerance, tolerance), per_sample=False)


def _sde(solver: str, variable: str = "log_snr") -> Make:
    return _of_model(ReverseSDE, solver=solver, variable=variable)


_BATCH = "the tolerance is relative and absolute; one sequence of steps for the batch"

SOLVERS: dict[str, Solver] = {
    "ddpm_beta": Solver("DDPM, beta", "analytic", "ancestral, variance sigma_ts^2", _ancestral("beta"), "1"),
    "ddpm_beta_tilde": Solver("DDPM, beta-tilde", "analytic", "ancestral, variance rho^2", _ancestral("beta_tilde"), "1"),
    "ddim": Solver("DDIM", "analytic", "eta = 0, no noise", _ancestral("beta_tilde", 0.0), "1", deterministic=True),
    "analytic_ddpm": Solver("Analytic-DPM", "analytic", "ancestral, optimal scalar variance", _ancestral("residual"), "1"),
    "analytic_ddim": Solver("Analytic-DDIM", "analytic", "eta = 0, optimal scalar variance", _ancestral("residual", 0.0), "1"),
    "analytic_multistep": Solver(
        "analytic multistep", "multistep", "extrapolation and optimal scalar variance share the work", _multistep("residual")
    ),
    "ode_euler": Solver("PF-ODE, Euler", "ode", "in log-SNR", _ode("euler"), "1", deterministic=True),
    "ode_midpoint": Solver("PF-ODE, midpoint", "ode", "in log-SNR, 2 calls a step", _ode("midpoint"), "2", deterministic=True),
    "ode_rk4": Solver("PF-ODE, RK4", "ode", "in log-SNR, 4 calls a step", _ode("rk4"), "4", deterministic=True),
    "ode_euler_t": Solver("PF-ODE, Euler in t", "ode", "in time", _ode("euler", "t"), "1", deterministic=True),
    "ode_midpoint_t": Solver("PF-ODE, midpoint in t", "ode", "in time, 2 calls a step", _ode("midpoint", "t"), "2", True),
    "ode_rk4_t": Solver("PF-ODE, RK4 in t", "ode", "in time, 4 calls a step", _ode("rk4", "t"), "4", deterministic=True),
    "ode_dopri5": Solver("PF-ODE, dopri5", "ode", f"in log-SNR; {_BATCH}", _dopri5("log_snr"), "5", True, adaptive=True),
    "ode_dopri5_t": Solver("PF-ODE, dopri5 in t", "ode", f"in time; {_BATCH}", _dopri5("t"), "5", True, adaptive=True),
    "heun": Solver("EDM Heun", "ode", "in sigma/alpha, 2 calls a step", _of_model(Heun), "2", True, grid="karras"),
    "heun_churn": Solver(
        "EDM Heun, churn", "sde", "S_churn = 10, 2 calls a step", _of_model(Heun, s_churn=10.0), None, grid="karras"
    ),
    "dpmpp_1": Solver("DPM-Solver++ 1", "multistep", "the DDIM step", _of_model(DPMSolverPP, order=1), "1", True),
    "dpmpp_2": Solver("DPM-Solver++ 2M", "multistep", "extrapolates x_0", _of_model(DPMSolverPP, order=2), "2", True),
    "dpmpp_3": Solver("DPM-Solver++ 3M", "multistep", "extrapolates x_0", _of_model(DPMSolverPP, order=3), "2", True),
    "sde_dpmpp_2": Solver(
        "SDE-DPM-Solver++ 2M", "multistep", "with noise", _of_model(DPMSolverPP, order=2, noisy=True), "2 (mean)"
    ),
    "unipc_2": Solver("UniPC 2", "multistep", "predictor and corrector share calls", _of_model(UniPC, order=2), "3", True),
    "unipc_3": Solver(
        "UniPC 3", "multistep", "predictor and corrector share calls", _of_model(UniPC, order=3), "3 or more", True
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

#: Families with a covariance: name -> (label, what it is, (covariance, eta if given) -> make, order).
FAMILIES: dict[str, tuple[Family, str, Callable[..., Make], str | None]] = {
    "ancestral": ("analytic", "analytic family", _ancestral, "1"),
    "multistep": ("multistep", "extrapolation and covariance share the work", _multistep, None),
}
_NAMED = re.compile(r"(?P<family>ancestral|multistep)\((?P<covariance>[^(),\s]+)(?:,\s*eta=(?P<eta>[0-9]*\.?[0-9]+))?\)")


def solver(name: str) -> Solver:
    """The entry of a name, or of "ancestral(COVARIANCE)", "ancestral(COVARIANCE, eta=NUMBER)", and so for "multistep".

    Raises:
        ValueError: an unknown name.
    """
    if name in SOLVERS:
        return SOLVERS[name]
    match = _NAMED.fullmatch(name)
    if match is None:
        choices = ", ".join([*SOLVERS, "ancestral(COVARIANCE)", "ancestral(COVARIANCE, eta=NUMBER)", "multistep(COVARIANCE)"])
        raise ValueError(f"unknown solver {name!r}; choose one of {choices}")
    family, about, make, order = FAMILIES[match["family"]]
    covariance, eta = match["covariance"], () if match["eta"] is None else (float(match["eta"]),)
    if eta and eta[0] > 1.0:
        raise ValueError(f"eta of {name!r} must lie in [0, 1]")
    label = f"{match['family']}, {covariance.replace('|', ' given ')}" + "".join(f", eta = {value:g}" for value in eta)
    return Solver(label, family, about, make(covariance, *eta), order, covariance=covariance)


def covariances(names: Iterable[str]) -> tuple[str, ...]:
    """Covariances that these solvers take by name."""
    return tuple(dict.fromkeys(entry.covariance for entry in map(solver, names) if entry.covariance))


def cost(sampler: Sampler[Any], grid: Grid) -> int | None:
    """Network calls of a run, where a vector product with the network's Jacobian counts as one; None if adaptive."""
    calls, rule = sampler.calls(grid), getattr(sampler, "covariance", None)
    if calls is None or not isinstance(rule, Tweedie):
        return calls
    return calls + (grid.steps - 1) * (1 + rule.products_per_draw * (1 + rule.two_sided))


def steps_within(sampler: Sampler[Any], budget: int) -> int:
    """The largest number of steps whose calls stay within the budget.

    Raises:
        ValueError: a single step costs more.
    """
    for steps in range(budget, 0, -1):
        calls = cost(sampler, even(steps, 0.5))
        if calls is not None and calls <= budget:
            return steps
    raise ValueError(f"no step of {sampler.name} fits {budget} network calls; raise the budget")
