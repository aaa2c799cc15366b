"""The variational bound of infinitely many steps.

    -log p(x_0) <= KL(q(x_1 | x_0) || p(x_1)) + 1/2 integral of E||eps - eps_hat||^2 dlam - log p(x_0 | x_{t_min})

with the integral over log-SNR from t = 1 to t_min, by stratified draws of lam, and both ends as in any chain. It depends on the
schedule through its end points only. (Kingma et al., Variational diffusion models, NeurIPS 2021; Song et al., NeurIPS 2021.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args

import numpy as np
import scipy
import torch
from jaxtyping import Float64
from torch import Tensor

from score_sde_analytic.arrays import Array, float64_place
from score_sde_analytic.checks import number, one_of, settle, whole
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.likelihood.method import Batch, Method, Terms
from score_sde_analytic.likelihood.prior import check_top, prior_nats, settings_of
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.free import FreeModel
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import Decoder, as_decoder
from score_sde_analytic.process.density import Density, Sampling
from score_sde_analytic.process.forward import BLANK
from score_sde_analytic.process.gaussian import expand, mean_square
from score_sde_analytic.process.noise import KNOTS, stream_seed
from score_sde_analytic.process.schedule import Schedule

#: Step of the sequence frac(u + i step), which spreads evenly over [0, 1] however many of it are taken.
GOLDEN = 0.5 * (5.0**0.5 - 1.0)
#: Share of that density which is uniform, whatever the curve: no weight exceeds its inverse.
DEFENSIVE = 0.1
#: Points of the integral of R.
POINTS = 4001


@dataclass(frozen=True)
class ContinuousTime(Method):
    """The continuous-time bound.

    Attributes:
        t_min: where the integral stops and the decoder takes over.
        decoder: p(x_0 | x_{t_min}).
        times: noise levels per example, one in each of so many strata of equal probability.
        curve: None draws them uniformly in log-SNR; a curve, in proportion to its R, so that the choice of times adds
            little variance (importance sampling; unbiased for any curve).
        choice: (moments without a fold, its number) -> the method that they would have led to, by which `price` cross-fits;
            None where nothing was chosen.
        prior: a free model of the data, p(x_{t_max}); None for N(0, prior_variance I) at t = 1.
        t_max: where the integral starts; below 1 with a free prior only.
        density: draws times from it, whatever R is; unbiased for any that reaches from one end to the other.
        sampling: "independent", or "stratified": the times of a stratum are spread evenly over the examples, as VDM's over a
            batch: the mean varies less than the errors say, which take examples to be independent.

    >>> low, high = ContinuousTime(t_min=0.01, decoder=0.1).range(model.schedule)
    >>> round(low, 2), round(high, 2)
    (-10.05, 6.22)
    """

    t_min: Annotated[float, number(above=0, below=1)]
    decoder: Decoder
    times: Annotated[int, whole(1)] = 16
    curve: NoiseCurve | None = field(default=None, repr=False)
    choice: Callable[[Moments, int], ContinuousTime] | None = field(default=None, compare=False, repr=False)
    prior: FreeModel | None = None
    t_max: Annotated[float, number(above=0, most=1)] = 1.0
    density: Density | None = field(default=None, repr=False)
    sampling: Annotated[Sampling, one_of(get_args(Sampling))] = "independent"

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", as_decoder(self.decoder))
        settle(self)
        check_top("the continuous bound", self.prior, self.t_max)
        if self.curve is not None and self.density is not None:
            raise InputError("times are drawn by a curve or by a density: give one of them")
        if not self.t_min < self.t_max:
            raise InputError(f"need t_min < t_max, got {self.t_min:g} and {self.t_max:g}")

    def columns(self) -> tuple[str, ...]:
        return ("prior", "transitions", "reconstruction")

    def config(self, model: ScoreModel) -> dict[str, Any]:
        curve = None if self.curve is None else digest(self.curve.log_snr.tolist(), self.curve.y.tolist())
        settings = {"name": "continuous", "t_min": self.t_min, "times": self.times, "curve": curve}
        top = {} if self.prior is None else {"t_max": self.t_max}
        drawn: dict[str, Any] = {} if self.sampling == "independent" else {"sampling": self.sampling}
        if self.density is not None:
            drawn["density"] = digest(self.density.low, self.density.high, self.density.mass.tolist())
        return settings | self.decoder.config() | settings_of(self.prior) | top | drawn

    def check(self, model: ScoreModel, data_range: DataRange | None) -> None:
        self.decoder.check(data_range)

    @property
    def top(self) -> float:
        """t_max, where the prior is."""
        return self.t_max

    @property
    def first_time(self) -> float:
        """t_min, where the decoder takes over."""
        return self.t_min

    def transition_nats(self, schedule: Schedule, curve: NoiseCurve, group: int | None) -> Float64[Array, " 1"]:
        """1/2 integral of R over log-SNR, the price of infinitely many transitions, nats per dimension."""
        curve.require_price()
        log_snr = np.linspace(*self.range(schedule), POINTS)
        return np.array([0.5 * scipy.integrate.simpson(curve.residual(log_snr), x=log_snr)])

    @property
    def judged(self) -> bool:
        """Whether the price of transitions is that of recorded draws: it is that of the curve."""
        return False

    def slopes(self, schedule: Schedule, curve: NoiseCurve) -> tuple[Float64[Array, "1 n"], Float64[Array, "1 n"]]:
        """(points of the integral, change of it for a unit of y at each: -1/2 R (1 - R) dlam), nats per dimension."""
        log_snr = np.linspace(*self.range(schedule), POINTS)
        weights = np.full(POINTS, log_snr[1] - log_snr[0])
        weights[[0, -1]] /= 2.0
        return log_snr[None], (-0.5 * weights * curve.residual(log_snr) * curve.noise_power(log_snr))[None]

    def range(self, schedule: Schedule) -> tuple[float, float]:
        """Log-SNR at t_max and at t_min; from pure noise on, the integral begins where all below is rounding."""
        return max(float(schedule.log_snr(self.t_max)), 2.0 * BLANK), float(schedule.log_snr(self.t_min))

    def terms(self, model: ScoreModel, batch: Batch) -> Terms:
        with model.metered() as cost:
            integral = self._integral(model, batch)
            prior = prior_nats(self.prior, model.schedule, self.t_max, batch)
            values = torch.stack([prior, integral, self._last(model, batch)], 1)
        return Terms(values, cost.evaluations, cost.vector_products)

    def _integral(self, model: ScoreModel, batch: Batch) -> Tensor:
        """1/2 sum of weight * error, (batch,)."""
        x_0 = batch.x_0
        low, high = self.range(model.schedule)
        log_snr, weight = self._draws(batch, low, high)
        # Strata closer than noise forgets take turns among independent copies, or they would repeat each other's draws.
        noises = [batch.noise(c) for c in range(max(1, int(self.times * KNOTS / (high - low))))]
        parts = []
        for j in range(self.times):
            level = model.schedule.level(model.schedule.time(log_snr[:, j]))
            eps = noises[j % len(noises)].at(log_snr[:, j], x_0)
            error = mean_square(eps - model.predict(level.diffuse(x_0, eps), level).eps)
            parts.append(0.5 * expand(weight[:, j], error) * error)
            batch.progress.reached((j + 1) / (self.times + 1))
        return torch.stack(parts).sum(0)

    def _draws(self, batch: Batch, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Log-SNRs (batch, times) and their weights 1 / (times x density)."""
        log_snr, weight = self._density(low, high).draw((np.arange(self.times) + self.places(batch)) / self.times)
        return torch.from_numpy(log_snr), torch.from_numpy(weight / self.times)

    def places(self, batch: Batch) -> Array:
        """Where in its stratum every time lies, uniform in [0, 1), (batch, times)."""
        if self.sampling == "independent":
            return np.stack([np.random.default_rng(stream_seed(batch.seed, *key)).random(self.times) for key in batch.keys])
        first = np.random.default_rng(stream_seed(batch.seed, batch.repetition)).random(self.times)
        return (first + GOLDEN * np.array(batch.indices, dtype=np.float64)[:, None]) % 1.0

    def _density(self, low: float, high: float) -> Density:
        if self.density is not None:
            return self.density.between(low, high)
        if self.curve is not None:
            return Density.from_curve(self.curve, low, high).defended(DEFENSIVE)
        return Density.uniform(low, high)

    def _last(self, model: ScoreModel, batch: Batch) -> Tensor:
        """The decoder's term, (batch,)."""
        x_0, data_range = batch.x_0, batch.data_range
        level = model.schedule.level(self.t_min)
        exact = self.decoder.expected(x_0, level, data_range)
        if exact is not None:
            return exact.to(float64_place(x_0.device))
        x_t = level.diffuse(x_0, batch.noise().at(level.log_snr, x_0))
        return self.decoder.nats(x_0, x_t, model.predict(x_t, level).x_0, level, data_range)
