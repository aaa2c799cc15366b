"""The prior term of every bound: N(0, prior_variance I) at t = 1, or a free model of the data at any level.

KL(q(x_t | x_0) || p(x_t))      x_t of the bound's first level, in nats per dimension
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float64
from torch import Tensor

from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood.method import Batch
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.process.gaussian import mean_square
from score_sde_analytic.process.kernel import prior_kl
from score_sde_analytic.process.schedule import Schedule
from score_sde_analytic.uncertainty import Estimate


def check_top(what: str, prior: FreeModel | None, top: float) -> None:
    """Refuse a first level that no prior is known at.

    Raises:
        InputError: below t = 1 without a free model.
    """
    if prior is None and top != 1.0:
        raise InputError(
            f"{what} starts from the prior at t = 1, not at {top:.6g}; begin it with 1, or name a free model of the data as"
            " its prior"
        )


def settings_of(prior: FreeModel | None) -> dict[str, Any]:
    """What a prior adds to a method's config.

    >>> settings_of(None)
    {}
    """
    return {} if prior is None else {"prior": prior.config()}


def prior_nats(prior: FreeModel | None, schedule: Schedule, top: float, batch: Batch) -> Float64[Tensor, " batch"]:
    """The prior term of every example, at time `top`."""
    if prior is None:
        return prior_kl(schedule, mean_square(batch.x_0))
    level = schedule.level(top)
    return prior.prior_nats(batch.x_0, level, batch.noise().at(level.log_snr, batch.x_0))


def prior_price(prior: FreeModel | None, schedule: Schedule, top: float, statistics: DataStatistics) -> Estimate:
    """Its expectation over the data, with its error, in nats per dimension."""
    if prior is None:
        return Estimate(float(prior_kl(schedule, statistics.second_moment)), 0.0)
    value, stderr = prior.prior_price([float(schedule.log_snr(top))])
    return Estimate(float(value[0]), float(stderr[0]))
