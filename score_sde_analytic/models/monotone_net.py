"""The network of variational diffusion models for their schedule, its end points pinned, trained by the variance of the bound.

    lam(u) = low + (high - low) (g(u) - g(0)) / (g(1) - g(0)),   g(u) = a + sum_j w_j sigmoid(k_j a + b_j),   a = c u + d

with c, w_j, k_j > 0: log-SNR rises with the share u. With u uniform, log-SNR has the density pi = 1 / lam'(u), and one draw of
the bound 1/2 integral of R has the second moment E[(r / 2 pi)^2] = 1/4 integral of E[r^2 | lam] / pi dlam, which training
lowers. The bound itself does not depend on what lies between the end points. (Kingma et al., Variational diffusion models,
NeurIPS 2021, whose gamma is -lam; there the end points move.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.functional import softplus

from score_sde_analytic.checks import COUNT, LOG_SNR
from score_sde_analytic.errors import InputError

#: Halvings of [0, 1] that find the share of a log-SNR.
HALVINGS = 52
#: Points of the quadrature that judges a fit.
POINTS = 4096


class MonotoneNet(nn.Module):
    """Log-SNR as a rising function of a share in [0, 1]; about even in log-SNR to begin with.

    >>> MonotoneNet(-8.0, 7.0)(torch.tensor([0.0, 1.0])).tolist()
    [-8.0, 7.0]

    Args:
        low, high: log-SNR at the shares 0 and 1, whatever the weights.
        width: sigmoids; 1024 in the paper.

    Raises:
        InputError: low is not below high.
    """

    def __init__(self, low: float, high: float, width: int = 128) -> None:
        super().__init__()
        self.low, self.high = LOG_SNR("low", low), LOG_SNR("high", high)
        if not self.low < self.high:
            raise InputError(f"a schedule needs low < high, got {low:g} and {high:g}")
        count = COUNT("width", width)
        slope = torch.ones(count, dtype=torch.float64)
        centre = torch.linspace(self.low, self.high, count, dtype=torch.float64)
        self.slope = nn.Parameter(_inverse_softplus(torch.tensor(self.high - self.low, dtype=torch.float64)))
        self.shift = nn.Parameter(torch.tensor(self.low, dtype=torch.float64))
        self.steepness = nn.Parameter(_inverse_softplus(slope))
        self.bias = nn.Parameter(-slope * centre)
        self.height = nn.Parameter(_inverse_softplus((self.high - self.low) / count * slope))

    def forward(self, share: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Log-SNR at these shares."""
        return self.low + (self.high - self.low) * (self._raw(share) - self._start) / self._rise

    def rate(self, share: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """d lam / du at these shares: the inverse of the density of log-SNR there."""
        return (self.high - self.low) * self._raw_rate(share) / self._rise

    def bend(self, share: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """d^2 lam / du^2 at these shares."""
        gate = self._gate(share)
        curved = softplus(self.height) * softplus(self.steepness) ** 2 * gate * (1.0 - gate) * (1.0 - 2.0 * gate)
        return (self.high - self.low) * softplus(self.slope) ** 2 * curved.sum(1) / self._rise

    @torch.no_grad()
    def share(self, log_snr: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """The shares at which it has these log-SNRs, by bisection; carries no gradient.

        >>> net = MonotoneNet(-8.0, 7.0)
        >>> round(float(net.share(net(torch.tensor([0.3])).detach())), 6)
        0.3
        """
        risen = (log_snr.double() - self.low) / (self.high - self.low)
        target = self._start + self._rise * risen
        below, above = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(HALVINGS):
            middle = 0.5 * (below + above)
            higher = self._raw(middle) < target
            below, above = torch.where(higher, middle, below), torch.where(higher, above, middle)
        return 0.5 * (below + above)

    def density(self, log_snr: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Of log-SNR where the share is uniform: integrates to 1 from low to high; carries no gradient.

        >>> MonotoneNet(-8.0, 7.0).density(torch.tensor([0.0])).round(decimals=2)
        tensor([0.0600], dtype=torch.float64)
        """
        with torch.no_grad():
            return 1.0 / self.rate(self.share(log_snr))

    @property
    def _start(self) -> Tensor:
        return self._raw(torch.zeros(1))

    @property
    def _rise(self) -> Tensor:
        return self._raw(torch.ones(1)) - self._start

    def _line(self, share: Tensor) -> Tensor:
        return softplus(self.slope) * share.to(self.slope) + self.shift

    def _gate(self, share: Tensor) -> Tensor:
        return torch.sigmoid(softplus(self.steepness) * self._line(share)[:, None] + self.bias)

    def _raw(self, share: Tensor) -> Tensor:
        return self._line(share) + self._gate(share) @ softplus(self.height)

    def _raw_rate(self, share: Tensor) -> Tensor:
        gate = self._gate(share)
        return softplus(self.slope) * (1.0 + (gate * (1.0 - gate)) @ (softplus(self.height) * softplus(self.steepness)))


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))


def variance_loss(net: MonotoneNet, share: Float[Tensor, " n"], squares: Float[Tensor, " n"]) -> Float64[Tensor, ""]:
    """E[(r / 2 pi)^2] = 1/4 integral of E[r^2 | lam] / pi dlam by r^2 at lam(u); its gradient is that of the integral.

    At a fixed log-SNR, d log pi = -d lam' / lam' + (lam'' / lam'^2) d lam, so r needs no gradient of its own: the draws stay
    where they are, and only their density moves.

    >>> net, share = MonotoneNet(-8.0, 7.0), torch.linspace(0.0, 1.0, 101)
    >>> round(float(variance_loss(net, share, torch.ones(101))), 1)  # (15 / 2)^2 where r = 1 and pi is about even
    56.3
    """
    rate = net.rate(share)
    still = rate.detach()
    value = 0.25 * squares.to(still) * still**2
    log_density = net.bend(share).detach() / still**2 * net(share) - rate / still
    moved = -value * log_density
    return (value + moved - moved.detach()).mean()


def fit_by_variance(
    net: MonotoneNet,
    second_moment: Callable[[Float64[Tensor, " n"]], Float64[Tensor, " n"]],
    steps: int = 2000,
    lr: float = 0.02,
    draws: int = 256,
) -> float:
    """Lower 1/4 integral of E[r^2 | lam] / pi dlam by Adam, its rate falling to zero; returns what it is in the end.

    >>> even = MonotoneNet(-8.0, 7.0, width=32)
    >>> fit_by_variance(even, lambda log_snr: torch.exp(-log_snr.abs()), steps=100) < 9.0  # 1/4 (2 - 2 exp(-7.5)) 15 = 7.5 even
    True

    Args:
        second_moment: E[r^2 | lam] of log-SNRs.
        draws: stratified, of every step.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for step in range(COUNT("steps", steps)):
        share = (torch.arange(draws) + torch.rand(draws, generator=generator, dtype=torch.float64)) / draws
        descend_variance(net, optimiser, share, second_moment(net(share).detach()), lr * _cosine(step / steps))
    share = (torch.arange(POINTS) + 0.5) / POINTS
    with torch.no_grad():
        return float(variance_loss(net, share, second_moment(net(share))))


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


def descend_variance(
    net: MonotoneNet,
    optimiser: torch.optim.Optimizer,
    share: Float[Tensor, " n"],
    squares: Float[Tensor, " n"],
    rate: float,
) -> None:
    """One step of the optimiser at this learning rate down the variance; the logarithm of it, whose scale is no matter."""
    optimiser.param_groups[0]["lr"] = rate
    optimiser.zero_grad()
    variance_loss(net, share, squares).log().backward()
    optimiser.step()
