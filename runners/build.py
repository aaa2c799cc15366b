"""From configuration to what a study, a budget and a likelihood are told; one-line errors for names that do not exist."""

from __future__ import annotations

from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde_analytic.arrays import available
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood import Diffused, Direct, Entry, ExactTrace, Hutchinson, Uniform
from score_sde_analytic.likelihood.flow import Flow
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.models.ode_solvers import FIXED, Adaptive, Fixed
from score_sde_analytic.process.decoder import Decoder
from score_sde_analytic.processes import local
from score_sde_analytic.shards import Shard
from score_sde_analytic.study.names import choose
from score_sde_analytic.study.settings import Knots, Search, Settings, Structure


def without(settings: ConfigDict, *names: str) -> dict[str, Any]:
    """A part of the config as plain data, but for fields that say where and when, not what."""
    return {name: value for name, value in settings.to_dict().items() if name not in names}


def device(config: ConfigDict) -> torch.device:
    """The device of config.device; "auto" prefers a GPU. Applies config.threads."""
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    if config.device != "auto":
        return available(local(config.device))
    return torch.device(local("cuda" if torch.cuda.is_available() else "cpu"))


def study_settings(config: ConfigDict) -> Settings:
    """What a study decides by itself, from config.covariance, .grid, .estimate and .evaluate."""
    estimate, grid, covariance = config.estimate, config.grid, config.covariance
    structure = ("bases", "statistics", "pca_rank", "bins", "shrinkage", "smooth", "steps")
    return Settings(
        covariance=covariance.name or "residual",
        decoder=config.evaluate.decoder,
        capped=tuple(estimate.bounds),
        products=covariance.products,
        two_sided=covariance.two_sided,
        knots=Knots(estimate.log_snr_min, estimate.log_snr_max, estimate.knots, estimate.most_knots),
        structure=Structure(**{name: covariance[name] for name in structure}),
        search=Search(
            points=grid.points,
            table=grid.table,
            log_snr_max=grid.log_snr_max,
            min_spacing=grid.min_spacing,
            most=max((*config.evaluate.predicted_steps, *config.sample.steps)),
        ),
    )


def budget(config: ConfigDict, shard: Shard | None = None) -> Budget:
    """Network evaluations of the pass over the validation split, or of a part of it."""
    names = ("answer", "tolerance", "min_draws", "max_draws", "batch_size")
    return Budget(**{name: config.estimate[name] for name in names}, shard=shard.pair if shard else (0, 1))


def entry(settings: ConfigDict, decoder: Decoder) -> Entry:
    """How data enter the probability flow, config.evaluate.flow.entry."""
    choices = {"diffused": lambda: Diffused(decoder), "uniform": Uniform, "direct": Direct}
    return choose(choices, settings.entry, "entry of the flow")()


def divergence(settings: ConfigDict) -> ExactTrace | Hutchinson:
    """Exact trace with 0 probes, else Hutchinson's estimate."""
    if settings.importance_samples > 1 and settings.probes:
        raise InputError("importance weights need the exact trace: set evaluate.flow.probes=0, or importance_samples=1")
    return Hutchinson(settings.probes, settings.law) if settings.probes else ExactTrace()


def ode_solver(settings: ConfigDict) -> Adaptive | Fixed:
    """A fixed number of steps where there is one, else adaptive steps."""
    if settings.steps:
        return Fixed(settings.steps, settings.solver)
    if settings.solver in FIXED:
        raise InputError(f"evaluate.flow.solver={settings.solver!r} takes fixed steps: set evaluate.flow.steps to their number")
    return Adaptive(settings.rtol, settings.atol, settings.solver, settings.max_steps)


def flow(settings: ConfigDict, t_min: float, decoder: Decoder) -> Flow:
    """The probability flow of config.evaluate.flow, from t_min on."""
    parts = entry(settings, decoder), divergence(settings), ode_solver(settings)
    return Flow(t_min, *parts, settings.importance_samples, settings.variable, settings.examples_per_block)
