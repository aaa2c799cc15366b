"""A new schedule, covariance, decoder, sampler, basis, statistic or entry is one class, written outside the package.

Each is driven through samples, measured and predicted bounds, and optimal grids, on a mixture whose answers are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance import BetaTilde, Covariance, Diagonal, StepCovariance
from score_sde_analytic.data import Basis
from score_sde_analytic.grids import Lattice, even_log_snr
from score_sde_analytic.likelihood import Chain, ContinuousTime, Direct, Entered, ExactTrace, Flow, bits_per_dim
from score_sde_analytic.likelihood.entries import Entry
from score_sde_analytic.measure import Budget, HeldOut, Recorder, Statistic, estimate
from score_sde_analytic.models import GaussianMixture
from score_sde_analytic.process import Decoder, LinearVP
from score_sde_analytic.process.gaussian import diagonal_kl, mean_square
from score_sde_analytic.process.kernel import reverse_kernel
from score_sde_analytic.process.schedule import VariancePreserving
from score_sde_analytic.samplers import Ancestral, Sampler, generate
from score_sde_analytic.samplers.base import intervals
from score_sde_analytic.study import Knots, Search, Settings, analyse

SETTINGS = Settings(knots=Knots(count=16), search=Search(points=80, most=8))
BUDGET = Budget(min_draws=300, max_draws=300)
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def distribution() -> GaussianMixture:
    means = np.array([[-1.0, 0.4, 0.1], [0.8, -0.3, 0.2]])
    return GaussianMixture([0.4, 0.6], means, np.array([0.4, 0.05, 0.01]))


@pytest.fixture(scope="module")
def study(distribution):
    return analysed(distribution, LinearVP())


def analysed(distribution, schedule):
    data = distribution.sample(400, seed=2)
    return analyse(distribution.score_model(schedule), data, settings=SETTINGS, budget=BUDGET, record=(), **QUIET)


def agrees(study, distribution, chain):
    """Whether a chain's measured bits are those predicted, within 5 standard errors (false alarm 6e-7)."""
    predicted = study.price({"": chain})[""].total
    measured = bits_per_dim(study.model, distribution.sample(600, seed=7), chain, **QUIET).total
    return abs(measured.apart(predicted)) < 5


# --- a schedule -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class QuadraticVP(VariancePreserving):
    """log alpha = -rate t^2 / 2."""

    rate: float = 12.0

    def _log_alpha(self, t):
        return -0.5 * self.rate * t**2

    def _log_alpha_rate(self, t):
        return -self.rate * t

    def _time_of_log_alpha(self, log_alpha):
        return np.sqrt(-2.0 * log_alpha / self.rate)

    def config(self):
        return {"name": "quadratic_vp", "rate": self.rate}


def test_a_schedule(distribution):
    own = analysed(distribution, QuadraticVP())
    assert own.sample(4, steps=3).shape == (4, 3)
    assert own.grid(5).steps == 5
    assert agrees(own, distribution, own.chain(5))


# --- a covariance ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AxisStep(StepCovariance):
    """Sigma = diag(rho^2 + excess_i)."""

    excess: torch.Tensor
    rho2: float

    def add_noise(self, mean, prediction, z):
        return mean + (self.rho2 + self.excess).sqrt().to(z) * z

    def kl(self, kernel, prediction, x_0):
        square = kernel.b**2 * (x_0 - prediction.x_0).double().square()
        return diagonal_kl(square, kernel.rho2, self.excess)


@dataclass(frozen=True)
class Axes(Covariance):
    """The posterior variance dealt out over the axes in fixed shares of mean one."""

    shares: tuple[float, ...]
    curve: object
    priced: ClassVar[bool] = True

    def _excess(self, kernel, t):
        return kernel.b**2 * self.curve.posterior_variance(t.log_snr) * np.array(self.shares)

    def steps(self, kernels, levels):
        return [AxisStep(torch.as_tensor(self._excess(k, t)), k.rho2) for k, t in zip(kernels, levels, strict=True)]

    def fingerprint(self, kernels, levels):
        return [self._excess(k, t).tolist() for k, t in zip(kernels, levels, strict=True)]

    def step_nats(self, curve, s, t):
        """Where errors are alike on all axes: 1/2 mean_i [log(1 + g_i) + (g - g_i) / (1 + g_i)]."""
        kernel = reverse_kernel(s, t)
        even = np.asarray(kernel.b**2 * curve.posterior_variance(t.log_snr) / kernel.rho2)[..., None]
        own = even * np.array(self.shares)
        return 0.5 * (np.log1p(own) + (even - own) / (1.0 + own)).mean(-1)


def test_a_covariance():
    alike = GaussianMixture([0.5, 0.5], [[-1.0] * 3, [1.0] * 3], 0.05)  # the same errors on all axes
    study = analysed(alike, LinearVP())
    covariance = Axes((0.8, 1.0, 1.2), study.curve)
    lattice = Lattice.even_log_snr(study.schedule, 80, 9.0)
    first = study.reconstruction.best(lattice.levels.log_snr)[0]
    grids = lattice.optimal_grids(study.curve, covariance, first, 6)
    fixed = Chain(even_log_snr(study.schedule, 6, float(study.schedule.time(5.0))), covariance, study.decoder(0.05))
    best = Chain(grids[6], covariance, study.decoder(grids[6].times[-2]))
    for chain in (fixed, best):
        assert agrees(study, alike, chain)
    named = study.with_covariance("axes", covariance)  # the same by name
    assert named.grid(6, covariance="axes").times == grids[6].times
    assert named.chain(6, covariance="axes").covariance is covariance
    again, once = named.bits(6, covariance="axes")[6].total, study.price({"": best})[""].total
    assert abs(again.value - once.value) < 2 * again.stderr  # its times are chosen anew by each fold
    with pytest.raises(ValueError, match="means a covariance already"):
        study.with_covariance("pca", covariance)
    assert study.price({"": best})[""].total.value < study.price({"": fixed})[""].total.value
    assert generate(Ancestral(study.model, covariance), grids[6], (3,), 4).shape == (4, 3)


# --- a decoder ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rescaled(Decoder):
    """N(x_t / alpha, std^2 I): no network call."""

    std: float

    def nats(self, x_0, x_t, x_0_hat, level, data_range):
        return self._nats(mean_square(x_0 - x_t / level.alpha))

    def expected_nats(self, level, table, histogram, data_range):
        return float(self._nats(level.ratio**2))

    def _nats(self, square):
        return 0.5 * math.log(2.0 * math.pi * self.std**2) + 0.5 * square / self.std**2

    def config(self):
        return {"decoder": "rescaled", "std": self.std}


def test_a_decoder(study, distribution):
    grid = study.grid(5)
    decoder = Rescaled(study.schedule.level(grid.times[-2]).ratio)
    chain = Chain(grid, study.covariance(), decoder)
    assert agrees(study, distribution, chain)
    assert chain.calls == 4  # the last step needs none
    limit = ContinuousTime(grid.times[-2], decoder)
    bound = bits_per_dim(study.model, distribution.sample(600, seed=7), limit, **QUIET)
    assert abs(bound.total.apart(study.price({"": limit})[""].total)) < 5


# --- a sampler ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Renoise(Sampler):
    """x_s = alpha_s x0_hat + sigma_s eps_hat, the step of DDIM as it is said in words."""

    model: object

    def calls(self, grid):
        return grid.steps

    def plan(self, grid):
        return intervals(self.model.schedule, grid)

    def step(self, x_t, step, state, noise):
        prediction = self.model.predict(x_t, step.t)
        return step.s.diffuse(prediction.x_0, prediction.eps), state


def test_a_sampler(study):
    grid = study.grid(5)
    seen = []
    with study.model.metered() as cost:
        own = generate(Renoise(study.model), grid, (3,), 6, dtype=torch.float64, callback=seen.append)
    assert cost.calls == len(seen) == 5
    ddim = generate(Ancestral(study.model, BetaTilde(), eta=0.0), grid, (3,), 6, dtype=torch.float64)
    torch.testing.assert_close(own, ddim, rtol=1e-9, atol=1e-9)


# --- a basis and a statistic ----------------------------------------------------------------------------------------------


class Reversed(Basis):
    """Coordinates in reverse order, with the opposite sign."""

    def forward(self, x):
        return -x.flip(-1)

    def inverse(self, y):
        return -y.flip(-1)

    def config(self):
        return {"name": "Reversed"}


@dataclass(frozen=True)
class FirstAxis(Statistic):
    """x0_hat on the first axis: which component a state belongs to."""

    def __call__(self, prediction):
        return prediction.x_0[:, 0]


def test_a_basis_and_a_statistic(study, distribution):
    recorder = Recorder(Reversed(), {"first": FirstAxis()})
    options = {"statistics": distribution.statistics(), "observers": {"own": recorder}, **QUIET}
    moments = estimate(study.model, distribution.sample(600, seed=3), study.moments.log_snr, BUDGET, **options)
    draws = recorder.result(moments.log_snr)
    choice = HeldOut.choose(draws, bins=(1, 3), statistics=["first"])[0]
    statistic = FirstAxis() if choice.statistic else None
    covariance = Diagonal(choice.fit(draws), Reversed(), statistic, HeldOut(draws, choice).correction)
    lattice = Lattice.even_log_snr(study.schedule, 60, 6.0)
    grid = lattice.optimal_grids(study.curve, covariance, study.reconstruction.best(lattice.levels.log_snr)[0], 6)[6]
    chain = Chain(grid, covariance, study.decoder(grid.times[-2]))
    assert agrees(study, distribution, chain)
    scalar = Chain(grid, study.covariance(), chain.decoder)
    assert study.price({"": chain})[""].total.value < study.price({"": scalar})[""].total.value
    assert generate(Ancestral(study.model, covariance), grid, (3,), 4).shape == (4, 3)


# --- an entry of the flow -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretched(Entry):
    """Continuous data in other units: x_0 = unit z, and the density of x_0 is that of z over unit^d."""

    unit: float

    def check(self, data_range):
        Direct().check(data_range)

    def config(self):
        return {"entry": "stretched", "unit": self.unit}

    def columns(self):
        return ("units",)

    def enter(self, gate):
        x_t, volume = gate.hold_score(gate.x_0.double() / self.unit)
        return Entered(x_t, volume, (torch.full_like(volume, math.log(self.unit)),))


def test_an_entry(study, distribution):
    """The flow of an exact score gives the exact density, here of data in thirds."""
    x = distribution.sample(40, seed=11)
    flow = Flow(float(study.schedule.time(12.0)), Stretched(3.0), ExactTrace())
    bound = bits_per_dim(study.model, 3.0 * x, flow, **QUIET)
    exact = -distribution.log_density(x, study.schedule.level(0.0)) + 3 * math.log(3.0)
    np.testing.assert_allclose(bound.nats, exact.numpy(), atol=0.05)
