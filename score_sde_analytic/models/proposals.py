"""From which noise levels training draws, and what it minimises: two questions, two answers.

    objective = E_even[w(lam) ||eps - eps_hat||^2 / d] = E_pi[w(lam) ||eps - eps_hat||^2 / d / pi(lam)]

A proposal says pi, relative to the density that is even in log-SNR on the range: dividing by it leaves the objective what it
was, whatever pi is. An objective says w, as a factor of the squared error of what the network predicts. All are of the same
scale: the bound 1/2 integral of R over the range is divided by half the range's width, which makes it a mean of R.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from score_sde_analytic.errors import InputError
from score_sde_analytic.models.monotone_net import MonotoneNet, descend_variance
from score_sde_analytic.process.schedule import LinearVP, Schedule

#: Bins of the running mean, its rate per draw, and the share of its density that is even whatever was seen.
BINS, RATE, DEFENSIVE = 30, 0.02, 0.03
#: Learning rate of the network for the density.
NET_RATE = 3e-3


class Proposal(ABC):
    """A density of log-SNR on a range, relative to the even one.

    Attributes:
        low, high: ends of the range.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    @abstractmethod
    def draw(self, shares: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """(log-SNR, density there) at these shares of the probability, each in [0, 1)."""

    def observe(self, log_snr: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        """What the objective's integrand w r turned out to be at levels that were drawn."""
        return

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        return


class Even(Proposal):
    """Even in log-SNR.

    >>> Even(-8.0, 7.0).draw(torch.tensor([0.0, 0.5]))
    (tensor([-8.0000, -0.5000]), tensor([1., 1.]))
    """

    def draw(self, shares: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """As they come, in the precision of the shares."""
        return self.low + (self.high - self.low) * shares, torch.ones_like(shares)

    def density(self, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """1 everywhere."""
        return torch.ones_like(log_snr)


class EvenInTime(Proposal):
    """Even in t of a rectified flow, lam = -2 logit t: relative density (high - low) t (1 - t) / 2 / (t_1 - t_0)."""

    def draw(self, shares: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """As they come, in the precision of the shares."""
        ends = self._ends
        log_snr = -2.0 * torch.logit(ends[0] + (ends[1] - ends[0]) * shares)
        return log_snr, self.density(log_snr)

    def density(self, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """At log-SNRs of the range."""
        t = torch.sigmoid(-0.5 * log_snr)
        return (self.high - self.low) * 0.5 * t * (1.0 - t) / (self._ends[1] - self._ends[0]).to(t)

    @property
    def _ends(self) -> Tensor:
        return torch.sigmoid(-0.5 * torch.tensor([self.high, self.low]))


class OfSchedule(Proposal):
    """Even in the time of a schedule: relative density (high - low) / |d lam / dt| / (t(low) - t(high)).

    >>> log_snr, density = OfSchedule(-8.0, 7.0, LinearVP()).draw(torch.tensor([0.0, 0.5]))
    >>> log_snr.round(decimals=2).tolist(), density.round(decimals=2).tolist()
    ([-8.0, -1.91], [0.95, 1.63])

    Raises:
        InputError: the schedule does not reach the range.
    """

    def __init__(self, low: float, high: float, schedule: Schedule) -> None:
        super().__init__(low, high)
        self.schedule = schedule
        self.first = float(schedule.time(high))
        self.last = float(schedule.time(low))

    def draw(self, shares: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        t = self.last + (self.first - self.last) * shares.double().cpu()
        return self.schedule.log_snr(t), self._density(t)

    def density(self, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """At log-SNRs of the range."""
        return self._density(self.schedule.time(log_snr.double().cpu()))

    def _density(self, t: Tensor) -> Tensor:
        rate = (self.schedule.diffusion(t) / self.schedule.sigma(t)) ** 2
        return (self.high - self.low) / rate / (self.last - self.first)


class Adaptive(Proposal):
    """In proportion to a running mean of the integrand in bins of log-SNR; a small share of it even.

    The density for which the objective's estimator varies least is proportional to the root of the integrand's second moment,
    of which its mean is within a percent; until anything was seen it is even.

    >>> adaptive = Adaptive(0.0, 1.0, bins=2)
    >>> for _ in range(20):
    ...     adaptive.observe(torch.tensor([0.25] * 50 + [0.75] * 50), torch.tensor([1.0] * 50 + [3.0] * 50))
    >>> adaptive.draw(torch.tensor([0.1, 0.9]))[1].round(decimals=2)  # 0.97 (1/2, 3/2) + 0.03
    tensor([0.5200, 1.4800], dtype=torch.float64)
    """

    def __init__(self, low: float, high: float, bins: int = BINS) -> None:
        super().__init__(low, high)
        self.running = torch.ones(bins, dtype=torch.float64)

    @property
    def relative(self) -> Float64[Tensor, " bins"]:
        """The density in every bin."""
        return (1.0 - DEFENSIVE) * self.running / self.running.mean() + DEFENSIVE

    def draw(self, shares: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        relative = self.relative
        mass = torch.cat([relative.new_zeros(1), relative.cumsum(0)])
        rank = shares.double().cpu() * mass[-1]
        cell = (torch.searchsorted(mass, rank, right=True) - 1).clamp(0, len(relative) - 1)
        place = (cell + ((rank - mass[cell]) / relative[cell]).clamp(0.0, 1.0)) / len(relative)
        return self.low + (self.high - self.low) * place, relative[cell]

    def observe(self, log_snr: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        """n draws in a bin move its mean by 1 - (1 - RATE)^n of the way to theirs."""
        bins = len(self.running)
        cell = ((log_snr.double().cpu() - self.low) / (self.high - self.low) * bins).long().clamp(0, bins - 1)
        count = torch.bincount(cell, minlength=bins)
        total = torch.bincount(cell, values.double().cpu(), minlength=bins)
        moved = 1.0 - (1.0 - RATE) ** count.double()
        self.running += moved * (total / count.clamp(min=1) - self.running)

    def state(self) -> dict[str, Any]:
        return {"running": self.running.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.running = state["running"].cpu()


class LearnedNet(Proposal):
    """By a `MonotoneNet` that goes down the variance of the objective's estimator, a step with every batch."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low, high)
        self.net = MonotoneNet(low, high)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=NET_RATE)

    @torch.no_grad()
    def draw(self, shares: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        places = shares.double().cpu()
        return self.net(places), (self.high - self.low) / self.net.rate(places)

    def observe(self, log_snr: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        places = self.net.share(log_snr.cpu())
        descend_variance(self.net, self.optimiser, places, values.double().cpu() ** 2, NET_RATE)

    def state(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])


class Steps(Proposal):
    """The noisier ends of a grid's steps, each as likely: the bound of so many steps.

        L_T = 1/2 sum_i expm1(lam_(i-1) - lam_i) E[r | lam_i] = T/2 E_i[..],   lam_0 > lam_1 > .. > lam_T

    in nats per dimension, its transitions with the posterior's own variance. The relative density is
    (high - low) / (T expm1(lam_(i-1) - lam_i)), that of the grid's points as T grows.

    >>> log_snr, density = Steps([-1.0, 0.0, 2.0]).draw(torch.tensor([0.0, 0.5]))
    >>> log_snr.tolist(), (3.0 / density / 2).round(decimals=2).tolist()  # expm1(1), expm1(2)
    ([-1.0, 0.0], [1.72, 6.39])

    Args:
        log_snr: of the grid, rising; the last is where the decoder takes over.

    Raises:
        InputError: log-SNRs that do not rise, or fewer than two.
    """

    def __init__(self, log_snr: Sequence[float]) -> None:
        levels = torch.tensor(sorted(log_snr), dtype=torch.float64)
        if len(levels) < 2 or not bool((levels.diff() > 0).all()):
            raise InputError("a grid of training needs two or more different log-SNRs")
        super().__init__(float(levels[0]), float(levels[-1]))
        self.noisier = levels[:-1]
        self.relative = (self.high - self.low) / (len(levels) - 1) / torch.expm1(levels.diff())

    def draw(self, shares: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        count = len(self.noisier)
        step = (shares.double().cpu() * count).long().clamp(0, count - 1)
        return self.noisier[step], self.relative[step]


#: What `times` may be, besides "even": the law's own.
PROPOSALS: dict[str, Callable[[float, float], Proposal]] = {
    "adaptive": Adaptive,
    "linear_vp": lambda low, high: OfSchedule(low, high, LinearVP()),
    "learned_net": LearnedNet,
}

#: The factor of the squared error of what is predicted, at log-SNRs.
Objective = Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]
