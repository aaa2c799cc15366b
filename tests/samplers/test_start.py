"""Samples from the start of a free model: on its own Gaussian data every sampler begins on the exact flow, at any level."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid, even
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import VE, LinearVP
from score_sde_analytic.samplers import (
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    ReverseSDE,
    UniPC,
    generate,
)
from score_sde_analytic.samplers.base import prior_sample

MEAN = torch.tensor([0.7, -0.2, 0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 0.2]], dtype=torch.float64)
GAUSSIAN = GaussianMixture([1.0], MEAN[None], COVARIANCE[None])
FREE = LinearDenoiser.exact(MEAN, COVARIANCE)
CURVE = NoiseCurve(np.zeros(1), np.array([-math.log(0.5)]))


def flow(z: torch.Tensor) -> torch.Tensor:
    """Where the flow of the data ends: mu + U^T sqrt(c) U z."""
    c = torch.as_tensor(FREE.spectrum)
    return MEAN + FREE.basis.inverse(c.sqrt() * FREE.basis.forward(z))


DETERMINISTIC = {
    "ddim": lambda model: Ancestral(model, BetaTilde(), eta=0.0),
    "heun": Heun,
    "dpm_solver_pp_2m": lambda model: DPMSolverPP(model, order=2),
    "dpm_solver_pp_3m": lambda model: DPMSolverPP(model, order=3),
    "unipc": lambda model: UniPC(model, order=3),
    "flow": lambda model: ProbabilityFlow(model, "rk4"),
    "adaptive_flow": lambda model: ProbabilityFlow(model, Adaptive(1e-6, 1e-6)),
}
STOCHASTIC = {
    "ancestral": lambda model: Ancestral(model, Isotropic(CURVE)),
    "analytic_multistep": lambda model: AnalyticMultistep(model, Isotropic(CURVE)),
    "dpm_solver_pp_sde": lambda model: DPMSolverPP(model, order=2, noisy=True),
    "reverse_sde": ReverseSDE,
    "reverse_diffusion": ReverseDiffusion,
    "euler_maruyama": EulerMaruyama,
    "predictor_corrector": lambda model: PredictorCorrector(ReverseDiffusion(model), Langevin(snr=0.03)),
}


@pytest.mark.parametrize("schedule", [LinearVP(), VE()])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_end_on_the_exact_flow(name: str, schedule: Any) -> None:
    """From log-SNR -1, far below t = 1: the end differs from that of the flow by the solver's error and the last step's."""
    model = GAUSSIAN.score_model(schedule)
    times = schedule.time(np.linspace(-1.0, 9.0, 60))
    grid = Grid((*times.tolist(), 0.0))
    x = generate(DETERMINISTIC[name](model), grid, (3,), 5, seed=1, dtype=torch.float64, start=FREE)
    z = SampleNoise(1, range(5)).draw(torch.empty(5, 3, dtype=torch.float64))
    tolerance = 0.05 if name == "ddim" else 4e-3
    torch.testing.assert_close(x, flow(z), rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_keep_the_moments(name: str) -> None:
    schedule = LinearVP()
    model = GAUSSIAN.score_model(schedule)
    grid = Grid((*schedule.time(np.linspace(-1.0, 7.0, 40)).tolist(), 0.0))
    x = generate(STOCHASTIC[name](model), grid, (3,), 2000, seed=1, batch_size=2000, start=FREE).double()
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0.0, atol=0.12)
    torch.testing.assert_close(torch.cov(x.T), COVARIANCE, rtol=0.0, atol=0.16)


def test_the_start_is_that_of_the_same_noise() -> None:
    """Without a start nothing changes; with one, z is the draw that the prior would use."""
    like = torch.empty(2, 3)
    z = SampleNoise(3, range(2)).draw(like).clone()
    ve = VE()
    assert torch.equal(prior_sample(ve, SampleNoise(3, range(2)), like), z * ve.prior_variance**0.5)
    assert torch.equal(prior_sample(ve, SampleNoise(3, range(2)), like, FREE, 0.5), FREE.start(z, ve.level(0.5)))


def test_a_start_does_not_depend_on_the_batch() -> None:
    model = GAUSSIAN.score_model(LinearVP())
    sampler, grid = DPMSolverPP(model), Grid((0.4, 0.1, 0.0))
    whole, single = (generate(sampler, grid, (3,), 4, batch_size=size, start=FREE) for size in (4, 1))
    torch.testing.assert_close(whole, single, rtol=1e-6, atol=1e-6)


def test_a_grid_below_one_needs_a_start() -> None:
    model: ScoreModel = GAUSSIAN.score_model(LinearVP())
    with pytest.raises(InputError, match="free model"):
        generate(Heun(model), Grid((0.5, 0.0)), (3,), 2)
    assert generate(Heun(model), even(2, 0.1), (3,), 2, start=FREE).shape == (2, 3)
