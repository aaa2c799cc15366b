"""Samplers that start from pure noise, alpha = 0 at t = 1: exact on Gaussian data, equal to flow matching's own Euler."""

import math

import numpy as np
import pytest
import torch

from schedules import TO_NOISE
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.data.basis import Pixel
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.grids.grid import Grid, even, even_log_snr, karras, quadratic
from score_sde_analytic.measure import EmpiricalStatistics
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.models.times import Interpolant, ZeroBased
from score_sde_analytic.process.kernel import kernels
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import LinearVP, RectifiedFlow, Tabulated
from score_sde_analytic.samplers import (
    DEIS,
    IPNDM,
    LMS,
    AdaptiveSDE,
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    DPMSolverSinglestep,
    DPMSolverV3,
    EulerMaruyama,
    Heun,
    ProbabilityFlow,
    ReverseDiffusion,
    ReverseSDE,
    SASolver,
    TableSampler,
    UniPC,
    generate,
    table_of,
)

MEAN, VARIANCE = 0.7, 0.3
EXACT = NoiseCurve(np.zeros(1), np.array([-math.log(VARIANCE)]))
GAUSSIAN = GaussianMixture([1.0], [[MEAN]], VARIANCE)
GRIDS = {
    "even": lambda schedule, k: even(k, 1e-2),
    "quadratic": lambda schedule, k: quadratic(k, 1e-2),
    "even_log_snr": lambda schedule, k: even_log_snr(schedule, k, 1e-2),
    "karras": lambda schedule, k: karras(schedule, k, 1e-2),
}
to_noise = pytest.mark.parametrize("schedule", TO_NOISE.values(), ids=TO_NOISE)


class Fixed:
    """Noise that is always the same."""

    def __init__(self, z):
        self.z = torch.tensor(z, dtype=torch.float64)

    def draw(self, like):
        return self.z.to(like).expand(like.shape)


def propagate(sampler, grid):
    """(level, mean, variance) after every step from N(0, 1), from probes (x, z) = (0, 0), (1, 0), (0, 1)."""
    noise, mean, variance = Fixed([[0.0], [0.0], [1.0]]), 0.0, 1.0
    for step in sampler.plan(grid):
        x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        offset, at_one, at_noise = sampler.step(x, step, None, noise)[0].flatten().tolist()
        mean = offset + (at_one - offset) * mean
        variance = (at_one - offset) ** 2 * variance + (at_noise - offset) ** 2
        yield step.s, mean, variance


@to_noise
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("k", "eta"), [(1, 1.0), (2, 0.3), (5, 0.0), (20, 1.0)])
def test_gaussian_marginals_are_exact(schedule, name, k, eta):
    sampler = Ancestral(GAUSSIAN.score_model(schedule), Isotropic(EXACT), eta, final="draw")
    grid = GRIDS[name](schedule, k)
    assert grid.times[0] == 1.0
    for level, mean, variance in propagate(sampler, grid):
        assert mean == pytest.approx(level.alpha * MEAN, rel=1e-9)
        assert variance == pytest.approx(level.alpha**2 * VARIANCE + level.sigma**2, rel=1e-9)


@to_noise
def test_diagonal_covariances_have_their_limit(schedule):
    """rho^2 + b^2 c_k, b = alpha_s: what is known of a coordinate before anything is seen of it."""
    variances = np.array([2.0, 0.5, 0.01])
    y = np.broadcast_to(-np.log(variances), (2, 1, 3))
    spectrum = Spectrum(np.array([-8.0, 8.0]), y, np.zeros((2, 0)), np.ones(3))
    levels = schedule.levels([1.0, 0.4, 0.1])
    ks = kernels(levels)
    (step, _) = Diagonal(spectrum, Pixel()).steps(ks, levels[:-1])
    z = torch.ones(1, 1, 1, 3, dtype=torch.float64)
    model = ScoreModel(lambda x, t: x, schedule, "x_0")
    added = step.add_noise(torch.zeros_like(z), model.predict(z, levels[0]), z)
    expected = np.sqrt(levels[1].sigma ** 2 + levels[1].alpha ** 2 * variances)
    np.testing.assert_allclose(added.flatten().numpy(), expected, rtol=1e-12)


def velocity(x, labels):
    """Some velocity, smooth and far from linear."""
    share = labels.reshape(-1, *(1,) * (x.ndim - 1)) / 1000.0
    return torch.sin(3.0 * x) + share * x.roll(1, 1) - 0.3


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 25])
def test_ddim_of_a_velocity_is_flow_matching_euler(shift, steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    x = start = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t.expand(3)), t, x, return_dict=False)[0]
    sigmas = scheduler.sigmas.double().tolist()
    assert sigmas[0] == 1.0
    model = ScoreModel(velocity, RectifiedFlow(), "velocity", Interpolant(1000.0), fingerprint="some")
    sampler = Ancestral(model, BetaTilde(), eta=0.0)
    ours, state = start, None
    for step in sampler.plan(Grid(tuple(sigmas))):
        ours, state = sampler.step(ours, step, state, Fixed(0.0))
    assert float((ours - x).abs().max()) < 1e-5
    shifted = ScoreModel(velocity, RectifiedFlow(shift), "velocity", Interpolant(1000.0), fingerprint="some")
    times = Grid((*np.asarray(RectifiedFlow(shift).time(RectifiedFlow().log_snr(np.array(sigmas[:-1])))).tolist(), 0.0))
    moved = Ancestral(shifted, BetaTilde(), eta=0.0)
    theirs, state = start, None
    for step in moved.plan(times):
        theirs, state = moved.step(theirs, step, state, Fixed(0.0))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [5, 50])
def test_ddim_of_a_table_without_terminal_signal_is_that_of_diffusers(steps):
    """v by index under rescale_betas_zero_snr, given our products: theirs are rounded to float32."""
    diffusers = pytest.importorskip("diffusers")
    schedule = Tabulated.scaled_linear(zero_terminal_snr=True)
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.alphas_cumprod = torch.from_numpy(schedule.alpha(schedule.times) ** 2)
    scheduler.set_timesteps(steps)
    x = start = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t.expand(3)), t, x, return_dict=False)[0]
    model = ScoreModel(velocity, schedule, "v", ZeroBased(1000), fingerprint="some")
    grid = Grid((*((scheduler.timesteps + 1) / 1000).double().tolist(), 0.0))
    assert grid.times[0] == 1.0
    ours, state = start, None
    sampler = Ancestral(model, BetaTilde(), eta=0.0)
    for step in sampler.plan(grid):
        ours, state = sampler.step(ours, step, state, Fixed(0.0))
    assert float((ours - x).abs().max()) < 1e-5 * max(1.0, float(x.abs().max()))


DETERMINISTIC = {
    "ddim": lambda model: Ancestral(model, BetaTilde(), eta=0.0),
    "heun": Heun,
    "lms": LMS,
    "dpm_2m": lambda model: DPMSolverPP(model, order=2),
    "dpm_3m": lambda model: DPMSolverPP(model, order=3),
    "dpm_2s": DPMSolverSinglestep,
    "unipc": UniPC,
    "deis": DEIS,
    "ipndm": IPNDM,
    "sa_flow": lambda model: SASolver(model, tau=0.0),
    "multistep": lambda model: AnalyticMultistep(model, BetaTilde(), eta=0.0),
    "flow_euler": ProbabilityFlow,
    "flow_rk4": lambda model: ProbabilityFlow(model, "rk4"),
}
FIRST_ORDER = {"ddim", "flow_euler"}


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("schedule", ["rectified", pytest.param("table_noise", marks=pytest.mark.slow)])
def test_deterministic_samplers_approach_the_flow(name, schedule):
    """The flow of Gaussian data carries z to mean + sqrt(c) z; the error falls with the steps."""
    schedule = TO_NOISE[schedule]
    sampler = DETERMINISTIC[name](GAUSSIAN.score_model(schedule))
    errors = []
    for k in (20, 80):
        grid = even_log_snr(schedule, k, schedule.time(9.0))
        x = generate(sampler, grid, (1,), 8, seed=5, dtype=torch.float64)
        z = first_draws(8)
        errors.append(float((x - (MEAN + math.sqrt(VARIANCE) * z)).abs().max()))
    assert errors[1] < (0.4 if name in FIRST_ORDER else 0.25) * errors[0] or errors[1] < 3e-4, errors
    assert errors[1] < (0.04 if name in FIRST_ORDER else 6e-3), errors


def first_draws(count):
    """What `generate` begins with."""
    return SampleNoise(5, range(count)).draw(torch.empty(count, 1, dtype=torch.float64))


def test_dpm_solver_v3_begins_after_pure_noise():
    schedule = RectifiedFlow()
    model = GAUSSIAN.score_model(schedule)
    budget = Budget(min_draws=64, max_draws=64)
    moments = estimate(model, GAUSSIAN.sample(200), np.linspace(-10.0, 9.5, 14), budget, progress=False)
    z = first_draws(8)
    errors = []
    for k in (5, 40):
        sampler = DPMSolverV3(model, EmpiricalStatistics.of_moments(moments))
        x = generate(sampler, even_log_snr(schedule, k, schedule.time(9.0)), (1,), 8, seed=5, dtype=torch.float64)
        errors.append(float((x - (MEAN + math.sqrt(VARIANCE) * z)).abs().max()))
    assert errors[1] < 0.02, errors


@to_noise
def test_an_adaptive_flow_is_exact(schedule):
    sampler = ProbabilityFlow(GAUSSIAN.score_model(schedule), Adaptive(1e-8, 1e-8), per_sample=False)
    x = generate(sampler, even(2, schedule.time(14.0)), (1,), 5, seed=5, dtype=torch.float64)
    z = first_draws(5)
    torch.testing.assert_close(x, MEAN + math.sqrt(VARIANCE) * z, rtol=0, atol=2e-6)


STOCHASTIC = {
    "ancestral": lambda model: Ancestral(model, Isotropic(EXACT)),
    "multistep": lambda model: AnalyticMultistep(model, Isotropic(EXACT)),
    "sde_dpm_2m": lambda model: DPMSolverPP(model, order=2, noisy=True),
    "sa": SASolver,
    "reverse_sde": ReverseSDE,
    "reverse_sde_adaptive": lambda model: ReverseSDE(model, adaptive=AdaptiveSDE(0.03, 0.03), per_sample=False),
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
}
#: Of first order in steps of log-SNR, or of time.
COARSE = {"reverse_sde", "reverse_sde_adaptive", "euler_maruyama", "reverse_diffusion"}


#: Takes its time.
LONG = "reverse_sde_adaptive"


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == LONG else n for n in STOCHASTIC])
def test_stochastic_samplers_have_the_law_of_the_data(name):
    """Mean and variance of 4,000 numbers within four standard errors, and the solver's own error."""
    schedule = TO_NOISE["shifted"]
    sampler = STOCHASTIC[name](GaussianMixture([1.0], [[MEAN] * 4], VARIANCE).score_model(schedule))
    x = generate(sampler, even_log_snr(schedule, 40, schedule.time(9.0)), (4,), 1000, seed=2, batch_size=1000)
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * math.sqrt(VARIANCE / 4000) + (0.02 if name in COARSE else 0.005))
    assert float(x.var()) == pytest.approx(
        VARIANCE, abs=4 * VARIANCE * math.sqrt(2 / 4000) + (0.05 if name in COARSE else 0.01)
    )
    for steps in (1, 2, 5):
        with sampler.model.metered() as cost:
            generate(sampler, even(steps, 0.1), (4,), 3)
        assert sampler.calls(even(steps, 0.1)) in (cost.calls, None)


@pytest.mark.parametrize("name", ["ddim", "dpm_2m", "lms", "multistep"])
def test_tables_are_read_from_pure_noise(name):
    schedule = RectifiedFlow()
    model = GaussianMixture([0.4, 0.6], [[-1.0, 0.5], [1.0, 0.0]], 0.1).score_model(schedule)
    sampler, grid = DETERMINISTIC[name](model), even(6, 0.05)
    table = table_of(sampler, grid)
    reading = TableSampler(model, table)
    assert reading.grid.times[0] == 1.0
    np.testing.assert_allclose(reading.grid.times, grid.times, rtol=1e-12)
    own, read = (generate(s, g, (2,), 6, seed=1, dtype=torch.float64) for s, g in ((sampler, grid), (reading, reading.grid)))
    torch.testing.assert_close(read, own, rtol=0, atol=1e-6 if name == "dpm_2m" else 1e-12)  # whose weights are float32


def test_heun_counts_the_call_that_it_saves():
    model = GAUSSIAN.score_model(RectifiedFlow())
    for steps in (1, 2, 5):
        with model.metered() as cost:
            generate(Heun(model), even(steps, 0.1), (1,), 3)
        assert cost.calls == Heun(model).calls(even(steps, 0.1))


def test_jacobians_in_pure_noise_are_refused():
    model = GAUSSIAN.score_model(RectifiedFlow())
    with pytest.raises(UnsupportedError, match="pure noise"):
        Ancestral(model, Tweedie(model)).plan(even(4, 0.1))


@pytest.mark.parametrize("variable", ["t", "ve"])
def test_flows_from_pure_noise_are_in_log_snr(variable):
    sampler = ProbabilityFlow(GAUSSIAN.score_model(RectifiedFlow()), "euler", variable)
    with pytest.raises(UnsupportedError, match="log_snr"):
        generate(sampler, even(3, 0.1), (1,), 2)


@pytest.mark.parametrize("predicts", ["eps", "score"])
def test_networks_that_cannot_tell_x_0_from_noise_are_refused(predicts):
    with pytest.raises(ValueError, match="pure noise"):
        ScoreModel(lambda x, t: x, RectifiedFlow(), predicts)
    ScoreModel(lambda x, t: x, LinearVP(), predicts)


def test_inputs_that_are_infinite_in_pure_noise_are_refused():
    with pytest.raises(ValueError, match="infinite"):
        ScoreModel(lambda x, t: x, RectifiedFlow(), "x_0", coordinates="ve")
