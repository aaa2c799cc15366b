"""The probability-flow ODE and the reverse SDE of a score model, in one of three variables, and the ODE's divergence.

    in time      dx/dt   = f x + g^2 / (2 sigma) eps_hat(x, t)
    in log-SNR   du/dlam = w u / 2 - sqrt(w) eps_hat / 2,     u = x / sqrt(alpha^2 + sigma^2),   w = 1 / (1 + e^lam)
    in VE        du/ds   = eps_hat,                           u = x / alpha,   s = sigma / alpha

Its marginals are those of the diffusion (Song et al., ICLR 2021, eq. 13). In log-SNR and variance-preserving coordinates u, the
field is the same for every schedule and of order one everywhere; in VE coordinates Euler's method is DDIM. With twice the gain
and the noise whose score that pays for,

    du = (drift u + 2 gain eps_hat) ds + sqrt(noise) dW,     noise = 2 |gain| sigma / scale

(g^2 in time, w in log-SNR, 2 s in VE) it is the reverse SDE (eq. 6 there), s running from the prior to the data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from score_sde_analytic.arrays import readable, slices, wide
from score_sde_analytic.errors import RunError, UnsupportedError
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive, Fixed, integrate
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Coefficients:
    """du/ds = drift u + gain y(x), x = scale u, y the prediction's `quantity`, at one value of the integration variable."""

    level: Level
    scale: float
    drift: float
    gain: float
    quantity: str = "eps"

    @property
    def noise(self) -> float:
        """d Var u / d|s| of the reverse SDE's noise."""
        return 2.0 * abs(self.gain) * self.level.sigma / self.scale


class Clock(ABC):
    """The variable s that an ODE is integrated in, with its coordinates u = x / scale.

    Attributes:
        max_step: a longest step; a solver sees too little of the field to judge a longer one.
    """

    max_step: ClassVar[float] = math.inf

    @abstractmethod
    def at(self, schedule: Schedule, s: float) -> Coefficients: ...

    @abstractmethod
    def value(self, level: Level) -> float:
        """s at a noise level."""

    def span(self, schedule: Schedule, t_min: float, t_max: float = 1.0) -> tuple[float, float]:
        """(s at t_min, s at t_max)."""
        return self.value(schedule.level(t_min)), self.value(schedule.level(t_max))

    @abstractmethod
    def first_step(self, schedule: Schedule, t_min: float) -> float:
        """A first step from t_min that no field of order one makes too long."""


class LogSNRClock(Clock):
    """s = log-SNR, u = x / sqrt(alpha^2 + sigma^2).

    The field vanishes at both ends, so that steps grow there: unlimited, one of them may jump across all of it unseen.
    """

    max_step: ClassVar[float] = 4.0

    def at(self, schedule: Schedule, s: float) -> Coefficients:
        low, high = schedule.log_snr_range
        level = schedule.level_at(min(max(s, low), high))
        sigma2 = 1.0 / (1.0 + math.exp(s))
        return Coefficients(level, math.hypot(level.alpha, level.sigma), 0.5 * sigma2, -0.5 * math.sqrt(sigma2))

    def value(self, level: Level) -> float:
        return float(level.log_snr)

    def first_step(self, schedule: Schedule, t_min: float) -> float:
        return 0.1


class TimeClock(Clock):
    """s = t, u = x."""

    def at(self, schedule: Schedule, s: float) -> Coefficients:
        level = schedule.level(s)
        return Coefficients(level, 1.0, schedule.drift(s), 0.5 * schedule.diffusion(s) ** 2 / level.sigma)

    def value(self, level: Level) -> float:
        return float(level.t)

    def first_step(self, schedule: Schedule, t_min: float) -> float:
        return min(t_min, 0.01)


class VEClock(Clock):
    """s = sigma / alpha, u = x / alpha."""

    def at(self, schedule: Schedule, s: float) -> Coefficients:
        low, high = schedule.log_snr_range
        level = schedule.level_at(min(max(-2.0 * math.log(s), low), high))
        return Coefficients(level, level.alpha, 0.0, 1.0)

    def value(self, level: Level) -> float:
        return float(level.ratio)

    def first_step(self, schedule: Schedule, t_min: float) -> float:
        return self.value(schedule.level(t_min))


class NoiseClock(Clock):
    """s = 2 log(1 + e^(lam / 2)), u = x / sqrt(alpha^2 + sigma^2): log-SNR where there is signal, 0 in pure noise.

    du/ds = -(sigma^2 + alpha sigma) v_hat / 2 in variance-preserving coordinates, regular from end to end.
    """

    max_step: ClassVar[float] = 4.0

    def at(self, schedule: Schedule, s: float) -> Coefficients:
        root_snr = math.expm1(0.5 * max(s, 0.0))
        level = schedule.level_at(2.0 * math.log(root_snr) if root_snr > 0.0 else -math.inf)
        scale = math.hypot(level.alpha, level.sigma)
        return Coefficients(level, scale, 0.0, -0.5 * (1.0 + root_snr) / (1.0 + root_snr**2) / scale, "v")

    def value(self, level: Level) -> float:
        return 2.0 * math.log1p(math.exp(0.5 * level.log_snr))

    def first_step(self, schedule: Schedule, t_min: float) -> float:
        return 0.1


CLOCKS: dict[str, Clock] = {"log_snr": LogSNRClock(), "t": TimeClock(), "ve": VEClock()}


def clock_of(variable: str, schedule: Schedule) -> Clock:
    """The clock of a variable; from pure noise on, "log_snr" counts from 0.

    Raises:
        UnsupportedError: another variable, which is infinite in pure noise or moves infinitely fast there.

    >>> from score_sde_analytic import RectifiedFlow
    >>> clock_of("log_snr", RectifiedFlow()).value(RectifiedFlow().level(1.0))
    0.0
    """
    if not schedule.ends_in_noise:
        return CLOCKS[variable]
    if variable != "log_snr":
        raise UnsupportedError(f"the flow from pure noise, alpha = 0, is not regular in {variable!r}: use variable='log_snr'")
    return NoiseClock()


def velocity(
    model: ScoreModel, c: Coefficients, u: Float64[Tensor, " batch *dims"], dtype: torch.dtype, rows: int
) -> Float64[Tensor, " batch *dims"]:
    """du/ds, in network calls of at most `rows` samples of the given dtype."""
    parts = slices(len(u), rows)
    return torch.cat([c.drift * u[part] + c.gain * _said(model.rows(part), c, u[part], dtype) for part in parts])


def _said(model: ScoreModel, c: Coefficients, u: Tensor, dtype: torch.dtype) -> Tensor:
    return wide(getattr(model.predict((c.scale * u).to(dtype), c.level), c.quantity))


def transport(
    model: ScoreModel,
    clock: Clock,
    x: Float64[Tensor, " batch *dims"],
    span: tuple[float, float],
    solver: Adaptive | Fixed,
    first_step: float,
    dtype: torch.dtype,
    rows: int,
) -> Float64[Tensor, " batch *dims"]:
    """x at span[1] on the flow through x at span[0], both in the clock's variable, either way.

    >>> from score_sde_analytic.models import GaussianMixture
    >>> standard = GaussianMixture([1.0], [[0.0]], 1.0).score_model(model.schedule)  # its flow is at rest
    >>> x = torch.ones(1, 1, dtype=torch.float64)
    >>> transport(standard, CLOCKS["log_snr"], x, (-5.0, 5.0), Fixed(2), first_step=1.0, dtype=x.dtype, rows=1)
    tensor([[1.0]], dtype=torch.float64)

    Args:
        first_step: of an adaptive solver, in the clock's variable.
        dtype, rows: of the network's calls, as in `velocity`.

    Raises:
        ImportError: torchdiffeq is absent.
        RunError: the solver gave up.
    """
    first = clock.at(model.schedule, span[0])
    last = clock.at(model.schedule, span[1])

    def field(s: Tensor, u: tuple[Tensor]) -> tuple[Tensor]:
        return (velocity(model, clock.at(model.schedule, float(s)), u[0], dtype, rows),)

    (u,) = integrate(field, (x / first.scale,), span, solver, first_step, clock.max_step)
    return last.scale * u


#: The probe vectors for a slice of the batch, one tensor like u at a time.
Probes = Callable[[Float64[Tensor, " batch *dims"], slice], Iterable[Float64[Tensor, " batch *dims"]]]


def eps_and_divergence(
    model: ScoreModel,
    level: Level,
    x_t: Float64[Tensor, " batch *dims"],
    probes: Probes,
    dtype: torch.dtype,
    rows: int,
    quantity: str = "eps",
) -> tuple[Float64[Tensor, " batch *dims"], Float64[Tensor, " batch"]]:
    """(eps_hat, its divergence estimate sum_v v^T (d eps_hat / d x_t) v); vector products are charged to the model's receipts.

    Another quantity of the prediction in place of eps_hat, where one is named.

    The graph of a network call lives only as long as its slice of at most `rows` samples.

    >>> level, x = model.schedule.level(0.5), torch.zeros(3, 2, dtype=torch.float64)
    >>> eps, divergence = eps_and_divergence(model, level, x, one_hot_probes, torch.float64, rows=2)
    >>> eps.shape, divergence.shape
    (torch.Size([3, 2]), torch.Size([3]))

    Raises:
        RunError: a gradient is not finite.
    """
    parts = slices(len(x_t), rows)
    blocks = [_eps_and_divergence(model.rows(part), level, x_t, part, probes, dtype, quantity) for part in parts]
    values, divergences = zip(*blocks, strict=True)
    return torch.cat(values), torch.cat(divergences)


def _eps_and_divergence(
    model: ScoreModel, level: Level, x_t: Tensor, part: slice, probes: Probes, dtype: torch.dtype, quantity: str
) -> tuple[Tensor, Tensor]:
    """The same for a slice of the batch, by one network call."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x_t[part].detach().clone().requires_grad_()
        eps = wide(getattr(model.predict(x.to(dtype), level), quantity))
    divergence = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for v in probes(x, part):
        with torch.inference_mode(False):
            (gradient,) = torch.autograd.grad(eps, x, v.clone(), retain_graph=True)
        divergence += (gradient * v).flatten(1).sum(1)
        model.charge(vector_products=len(x))
    if readable(divergence) and not torch.isfinite(divergence).all():
        raise RunError(
            f"the network's gradient holds NaN or inf at log-SNR {level.log_snr:.4g}; look for square roots, norms or"
            " divisions that are not differentiable where they are evaluated, or use a variational bound instead"
        )
    return eps.detach(), divergence


def one_hot_probes(x: Float64[Tensor, " batch *dims"], part: slice) -> Iterable[Float64[Tensor, " batch *dims"]]:
    """The d unit vectors: the exact trace in d products.

    >>> [v.tolist() for v in one_hot_probes(torch.zeros(1, 2, dtype=torch.float64), slice(1))]
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    for k in range(x[0].numel()):
        v = torch.zeros_like(x)
        v.view(len(x), -1)[:, k] = 1.0
        yield v
