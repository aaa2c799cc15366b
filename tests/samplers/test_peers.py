"""The public solvers that a comparison needs: their orders, their published forms, their calls."""

import math

import numpy as np
import pytest
import torch

from orders import GAUSSIAN, MEAN, MILD, VARIANCE, Silent, flow_error, moments, slope, to_first_level
from score_sde_analytic.grids.grid import Grid, even, even_log_snr
from score_sde_analytic.measure import EmpiricalStatistics
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import ZeroBased
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import LinearVP, SubVP, Tabulated
from score_sde_analytic.samplers import (
    DEIS,
    IPNDM,
    LMS,
    DPMSolverPP,
    DPMSolverSinglestep,
    DPMSolverV3,
    SASolver,
    UniPC,
    carry,
    generate,
)
from score_sde_analytic.samplers.dpm_solver_v3 import rule
from score_sde_analytic.samplers.linear_multistep import adams_weights

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def statistics():
    """Of the mild mixture's exact score."""
    return EmpiricalStatistics.of(
        MILD.score_model(LinearVP()), MILD.sample(300, seed=1), np.linspace(-9.9, 5.0, 32), 300, seed=1
    )


# --- orders -------------------------------------------------------------------------------------------------------------

#: name -> (sampler of a model, order).
FLOWS = {
    "deis1": (lambda m: DEIS(m, 1), 1),
    "deis2": (lambda m: DEIS(m, 2), 2),
    "deis3": (lambda m: DEIS(m, 3), 3),
    "single1": (lambda m: DPMSolverSinglestep(m, 1), 1),
    "single2": (lambda m: DPMSolverSinglestep(m, 2), 2),
    "single2_heun": (lambda m: DPMSolverSinglestep(m, 2, "heun"), 2),
    "single3": (lambda m: DPMSolverSinglestep(m, 3), 3),
    "single3_heun": (lambda m: DPMSolverSinglestep(m, 3, "heun"), 3),
    "ipndm1": (lambda m: IPNDM(m, 1), 1),
    "ipndm2": (lambda m: IPNDM(m, 2), 2),
    "ipndm4": (lambda m: IPNDM(m, 4), 2),
    "lms1": (lambda m: LMS(m, 1), 1),
    "lms2": (lambda m: LMS(m, 2), 2),
    "lms3": (lambda m: LMS(m, 3), 3),
    "lms4": (lambda m: LMS(m, 4), 4),
    "unipc1_bh1": (lambda m: UniPC(m, 1, "bh1"), 2),
    "unipc1_bh2": (lambda m: UniPC(m, 1, "bh2"), 2),
    "unipc2_bh1": (lambda m: UniPC(m, 2, "bh1"), 3),
    "unipc2_bh2": (lambda m: UniPC(m, 2, "bh2"), 3),
    "sa_flow_1": (lambda m: SASolver(m, 0.0, 1, 0), 1),
    "sa_flow_2": (lambda m: SASolver(m, 0.0, 2, 0), 2),
    "sa_flow_3": (lambda m: SASolver(m, 0.0, 3, 0), 3),
    "sa_flow_33": (lambda m: SASolver(m, 0.0, 3, 3), 3),
}


@pytest.mark.parametrize("name", FLOWS)
def test_order_of_flows(name):
    make, order = FLOWS[name]
    errors = [flow_error(make, LinearVP(), k) for k in (48, 96)]
    assert slope(errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("solver_type", ["bh1", "bh2"])
def test_unipc_of_order_three_starts_with_order_three(solver_type):
    errors = [flow_error(lambda m: UniPC(m, 3, solver_type), LinearVP(), k) for k in (48, 96)]
    assert slope(errors) > 2.8
    assert errors[1] < flow_error(lambda m: UniPC(m, 2, "bh1"), LinearVP(), 96)


def even_ratio(schedule, steps):
    """sigma / alpha even from 3 to 1/2."""
    lam = -2.0 * np.log(np.linspace(3.0, 0.5, steps + 1))
    return Grid((*np.asarray(schedule.time(lam)).tolist(), 0.0))


def local_error(make, schedule, steps):
    """Error of Gaussian data's flow over a grid even in sigma / alpha whose first levels are exact."""
    sampler = make(GAUSSIAN.score_model(schedule))
    plan = sampler.plan(even_ratio(schedule, steps))
    z = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]

    def exact(level):
        return level.alpha * MEAN + math.sqrt(level.alpha**2 * VARIANCE + level.sigma**2) * z

    state = sampler.init(plan, exact(plan[0].t))
    for i, step in enumerate(plan[:-1]):
        x = exact(step.t) if i < 4 else x  # noqa: F821
        x, state = sampler.step(x, step, state, Silent())
    return float((x - exact(plan[-1].t)).abs().max())


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("solver", [IPNDM, LMS])
def test_adams_solvers_have_their_order_on_equal_steps(solver, order):
    errors = [local_error(lambda m: solver(m, order), LinearVP(), k) for k in (64, 128)]
    assert slope(errors) == pytest.approx(order, abs=0.3)


def test_ipndm_is_lms_on_equal_steps():
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    ends = []
    for solver in (IPNDM, LMS):
        for final in (False, True):
            sampler = solver(MILD.score_model(LinearVP()), lower_order_final=final)
            grid = even_ratio(LinearVP(), 7)
            ends.append(carry(sampler, sampler.plan(grid), x, Silent()))
    torch.testing.assert_close(ends[1], ends[3], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ends[0], ends[1], atol=1e-3)


@pytest.mark.parametrize("degree", range(4))
def test_adams_weights_integrate_polynomials(degree):
    nodes = [1.0, 1.4, 2.1, 2.7]
    weights = adams_weights(nodes, 1.0, 0.6)
    assert np.dot(weights, np.array(nodes) ** degree) == pytest.approx((0.6 ** (degree + 1) - 1.0) / (degree + 1))


# --- weak orders --------------------------------------------------------------------------------------------------------

CHAINS = {
    "sa1": (lambda m: SASolver(m, 1.0, 1, 0), 1),
    "sa2": (lambda m: SASolver(m, 1.0, 2, 0), 2),
    "sa12": (lambda m: SASolver(m, 1.0, 1, 2), 2),
    "sa22": (lambda m: SASolver(m), 2),
    "sa22_quiet": (lambda m: SASolver(m, 0.4), 2),
    "sa22_loud": (lambda m: SASolver(m, 1.4), 2),
}


@pytest.mark.parametrize("name", CHAINS)
def test_weak_order_of_stochastic_solvers(name):
    """Exact propagation of mean and variance; the means of Gaussian data are exact."""
    make, order = CHAINS[name]
    errors = [moments(make, LinearVP(), k, 1) for k in (48, 96)]
    assert abs(errors[1][0]) < 1e-12
    assert slope([abs(error[1]) for error in errors]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("corrector", [0, 3])
def test_third_order_predictor_of_sa_solver_has_more_than_weak_order_two(corrector):
    errors = [abs(moments(lambda m: SASolver(m, 1.0, 3, corrector), LinearVP(), k, 1)[1]) for k in (48, 96)]
    assert slope(errors) > 2.4
    assert errors[1] < 0.5 * abs(moments(lambda m: SASolver(m, 1.0, 2, 0), LinearVP(), 96, 1)[1])


def test_sa_solver_without_noise_is_unipc():
    """tau = 0 with a corrector of one value more than the predictor: the same polynomials, but for B(h) = h of "bh1"."""
    model, grid = MILD.score_model(LinearVP()), even_log_snr(LinearVP(), 9, 0.02)
    for order in (1, 2):
        pair = [SASolver(model, 0.0, order, order + 1, lower_order_final=False), UniPC(model, order, "bh1")]
        sa, uni = (generate(sampler, grid, (1,), 4, dtype=torch.float64) for sampler in pair)
        torch.testing.assert_close(sa, uni, rtol=1e-6, atol=1e-6)


def test_noise_is_confined_to_its_levels():
    model, grid = MILD.score_model(LinearVP()), even_log_snr(LinearVP(), 9, 0.02)
    everywhere, within, nowhere = (
        generate(SASolver(model, tau, between=ends), grid, (1,), 4)
        for tau, ends in ((1.0, (0.0, 1e9)), (1.0, (0.05, 1.0)), (1.0, (0.0, 0.0)))
    )
    assert not torch.allclose(everywhere, within)
    torch.testing.assert_close(nowhere, generate(SASolver(model, 0.0), grid, (1,), 4))


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    generate(SASolver(MILD.score_model(LinearVP())), even(4, 0.05), (1,), 2)
    assert torch.equal(torch.get_rng_state(), before)


# --- diffusers' own loops -----------------------------------------------------------------------------------------------


def net(x, t):
    """A smooth eps that knows its label."""
    return torch.tanh(x) * torch.cos(t / 1000)[:, None]


@pytest.mark.parametrize(
    ("scheduler", "make"),
    [
        (lambda: diffusers.DEISMultistepScheduler(solver_order=2), lambda m: DEIS(m, 2)),
        (lambda: diffusers.DEISMultistepScheduler(solver_order=3), lambda m: DEIS(m, 3)),
        (
            lambda: diffusers.DPMSolverSinglestepScheduler(solver_order=2, lower_order_final=True),
            lambda m: DPMSolverSinglestep(m, 2),
        ),
        (
            lambda: diffusers.DPMSolverSinglestepScheduler(solver_order=3, solver_type="heun", lower_order_final=True),
            lambda m: DPMSolverSinglestep(m, 3, "heun"),
        ),
    ],
)
@pytest.mark.parametrize("steps", [7, 9])
def test_schedulers_are_diffusers_own(scheduler, make, steps):
    """Their loop on their grid, up to the last noisy level."""
    theirs = scheduler()
    theirs.set_timesteps(steps)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    sampler = make(ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000)))
    grid = Grid((*((int(n) + 1) / 1000 for n in theirs.timesteps), 0.0))
    ours = to_first_level(sampler, sampler.plan(grid), x, Silent())
    for t in theirs.timesteps[:-1]:
        x = theirs.step(net(x, t.expand(len(x)).float()), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=5e-5, atol=5e-5)


def test_ipndm_is_diffusers_own_loop():
    """With levels as it takes them, sigma of a variance-preserving process, and its own step to the data."""
    sigmas = [0.999, 0.97, 0.8, 0.6, 0.4, 0.15]
    theirs = diffusers.IPNDMScheduler(trained_betas=[*sigmas, 0.0])
    theirs.set_timesteps(6)
    lam = np.log(1.0 / np.square(sigmas) - 1.0)
    grid = Grid((*np.asarray(LinearVP().time(lam)).tolist(), 0.0))
    model = ScoreModel(lambda x, t: torch.tanh(x), LinearVP(), predicts="x_0")
    sampler = IPNDM(model, lower_order_final=False)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = carry(sampler, sampler.plan(grid), x, Silent())
    for i, t in enumerate(theirs.timesteps):
        alpha, sigma = theirs.alphas[i].double(), theirs.betas[i].double()
        x_0 = torch.tanh(x)
        x = theirs.step(alpha * (x - alpha * x_0) / sigma - sigma * x_0, t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


# --- DPM-Solver-v3 ------------------------------------------------------------------------------------------------------


def of_gaussian(lam):
    """l, s, b of one-dimensional Gaussian data: N = -(1 - l) e^-lam' ... is the same for all states, so s has nothing to do."""
    snr = np.exp(lam)
    l_ = 1.0 / (1.0 + snr * VARIANCE)
    # eps_hat = sigma (x - alpha m) / (alpha^2 c + sigma^2), so N = -m l and N. = 2 m l (1 - l)
    return l_, np.zeros_like(l_), 2.0 * MEAN * l_ * (1.0 - l_)


def test_statistics_are_those_of_gaussian_data():
    knots = np.linspace(-6.0, 6.0, 25)
    found = EmpiricalStatistics.of(GAUSSIAN.score_model(LinearVP()), GAUSSIAN.sample(500, seed=2), knots, 500)
    l_, _, b = of_gaussian(knots)
    np.testing.assert_allclose(found.linear[:, 0], l_, atol=0.05)
    # What l misses by chance, s and b take up: of Gaussian data they leave nothing, whatever l is.
    lam = 0.5 * knots
    y = np.array([[-1.0], [2.0]])
    n = -MEAN * l_ + (l_ - found.linear[:, 0]) * y
    flow = -np.exp(-lam) * 0.0 - (n + found.linear[:, 0] * y)
    rate = np.gradient(l_ - found.linear[:, 0], lam) * y + (l_ - found.linear[:, 0]) * flow + b
    inner = slice(3, -3)
    left = rate - found.scale[:, 0] * n - found.offset[:, 0]
    assert np.abs(left[:, inner]).max() < 0.03
    assert np.abs(rate[:, inner]).max() > 0.3


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_v3_is_exact_for_gaussian_data(order, steps):
    lam = np.linspace(-10.2, 9.0, 400)
    known = EmpiricalStatistics(lam, *(part[:, None] for part in of_gaussian(lam)))
    assert flow_error(lambda m: DPMSolverV3(m, known, order), LinearVP(), steps, GAUSSIAN) < 1e-7


@pytest.mark.parametrize(
    ("order", "correct", "expected"), [(1, True, 1), (2, False, 2), (3, False, 3), (3, True, 3.6), (4, False, 3.8)]
)
def test_v3_has_its_order(statistics, order, correct, expected):
    """The corrector adds up to one."""
    errors = [flow_error(lambda m: DPMSolverV3(m, statistics, order, correct), LinearVP(), k) for k in (24, 48)]
    assert slope(errors) == pytest.approx(expected, abs=0.45)


def test_v3_with_l_zero_is_an_exponential_integrator_of_eps():
    """l = b = 0, s = -1, N = e^-lam eps_hat: DPM-Solver in eps_hat, whose first order is DDIM."""
    lam = np.linspace(-10.2, 9.0, 3)
    none = EmpiricalStatistics(lam, np.zeros((3, 1)), -np.ones((3, 1)), np.zeros((3, 1)))
    model, grid = MILD.score_model(LinearVP()), even_log_snr(LinearVP(), 6, 0.02)
    ours, ddim = (
        generate(sampler, grid, (1,), 4, dtype=torch.float64) for sampler in (DPMSolverV3(model, none, 1), DEIS(model, 1))
    )
    torch.testing.assert_close(ours, ddim, rtol=1e-6, atol=1e-6)


def test_v3_with_l_one_is_an_exponential_integrator_of_x_0():
    """l = 1, s = b = 0, N = -x0_hat: DPM-Solver++, whose first order is DDIM again."""
    lam = np.linspace(-10.2, 9.0, 3)
    ones = EmpiricalStatistics(lam, np.ones((3, 1)), np.zeros((3, 1)), np.zeros((3, 1)))
    model, grid = MILD.score_model(LinearVP()), even_log_snr(LinearVP(), 6, 0.02)
    ours, ddim = (
        generate(sampler, grid, (1,), 4, dtype=torch.float64)
        for sampler in (DPMSolverV3(model, ones, 1), DPMSolverPP(model, 1))
    )
    torch.testing.assert_close(ours, ddim, rtol=1e-4, atol=1e-4)


def test_a_rule_follows_g_where_it_is_a_polynomial(statistics):
    """N whose g is 0.3 - 0.7 (lam - lam_t): a line through two values is exact, and pseudo or not the same."""
    start, end, other = 0.2, 0.9, -0.5
    lam = np.linspace(start, end, 4001)
    l_ = statistics.at(2.0 * lam)[0][:, 0]

    def running(values, x):
        return np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(x))])

    def n_of(x, g):
        s_, b_ = (part[:, 0] for part in statistics.at(2.0 * x)[1:])
        total = running(s_, x)
        return np.exp(total) * (g + running(np.exp(-total) * b_, x))

    n = n_of(lam, 0.3 - 0.7 * (lam - start))
    back = np.linspace(start, other, 4001)
    before = n_of(back, 0.3 - 0.7 * (back - start))[-1]
    total = running(l_, lam)
    exact = np.exp(-total[-1]) * (1.5 - running(np.exp(total) * n, lam)[-1])
    for pseudo in (False, True):
        found = rule(statistics, start, end, [other], pseudo)
        reached = found(torch.tensor([[1.5]], dtype=torch.float64), [torch.tensor([[value]]) for value in (n[0], before)])
        assert float(reached) == pytest.approx(exact, abs=1e-6)


def test_statistics_are_kept(statistics, tmp_path):
    statistics.save(tmp_path / "statistics.safetensors")
    again = EmpiricalStatistics.load(tmp_path / "statistics.safetensors")
    assert again.fingerprint == statistics.fingerprint
    sampler = DPMSolverV3(MILD.score_model(LinearVP()), again)
    assert sampler.fingerprints(even(3, 0.1)) == [statistics.fingerprint]


def test_statistics_do_not_depend_on_the_batch():
    model, data = MILD.score_model(LinearVP()), MILD.sample(40, seed=1)
    whole, parts = (EmpiricalStatistics.of(model, data, [-1.0, 0.0, 1.0], 40, batch_size=size) for size in (40, 7))
    np.testing.assert_allclose(whole.scale, parts.scale, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(whole.linear, parts.linear, rtol=1e-9)


def test_bad_statistics_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        EmpiricalStatistics(np.zeros(2), *(np.zeros((2, 1)) for _ in range(3)))
    with pytest.raises(ValueError, match="one shape"):
        EmpiricalStatistics(np.arange(2.0), np.zeros((2, 1)), np.zeros((2, 2)), np.zeros((2, 1)))


# --- calls, batches, states ---------------------------------------------------------------------------------------------

SAMPLERS = {
    "deis": lambda m, s: DEIS(m),
    "single2": lambda m, s: DPMSolverSinglestep(m),
    "single3": lambda m, s: DPMSolverSinglestep(m, 3),
    "ipndm": lambda m, s: IPNDM(m),
    "ipndm2_own_end": lambda m, s: IPNDM(m, 2, lower_order_final=False),
    "lms": lambda m, s: LMS(m),
    "lms_own_end": lambda m, s: LMS(m, lower_order_final=False),
    "sa": lambda m, s: SASolver(m),
    "sa3": lambda m, s: SASolver(m, 0.7, 3, 4),
    "v3": DPMSolverV3,
    "v3_pseudo": lambda m, s: DPMSolverV3(m, s, 3, pseudo=True),
}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_are_as_claimed(statistics, name, k):
    model = MILD.score_model(SubVP())
    sampler, grid = SAMPLERS[name](model, statistics), even_log_snr(SubVP(), k, 0.05)
    with model.metered() as cost:
        x = generate(sampler, grid, (1,), 3, batch_size=3)
    assert cost.calls == sampler.calls(grid) == k
    assert x.abs().max() < 6.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(statistics, name, dtype):
    sampler = SAMPLERS[name](ScoreModel(lambda x, t: torch.tanh(x), LinearVP()), statistics)
    grid = even(6, 0.05)
    whole = generate(sampler, grid, (2, 3), 4, seed=5, batch_size=4, dtype=dtype)
    assert whole.dtype == dtype
    for size in (1, 3):
        assert torch.equal(generate(sampler, grid, (2, 3), 4, seed=5, batch_size=size, dtype=dtype), whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_sampler_serves_runs_that_take_turns(statistics, name):
    sampler, grid = SAMPLERS[name](MILD.score_model(LinearVP()), statistics), even(6, 0.05)
    plan = sampler.plan(grid)
    x = [torch.full((1, 1), v) for v in (0.5, -1.0)]
    alone = [carry(sampler, plan, v, SampleNoise(0, [i])) for i, v in enumerate(x)]
    states = [sampler.init(plan, v) for v in x]
    noises = [SampleNoise(0, [i]) for i in (0, 1)]
    for step in plan:
        for i in (0, 1):
            x[i], states[i] = sampler.step(x[i], step, states[i], noises[i])
    assert torch.equal(torch.cat(x), torch.cat(alone))
