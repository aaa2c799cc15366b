"""Multistep solvers: diffusers' own loops, orders, and the analytic family between the flow and the chain."""

import math

import numpy as np
import pytest
import torch

from orders import MILD, VARIANCE, Silent, flow_error, moments, slope, to_first_level
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic
from score_sde_analytic.grids.grid import Grid, even, even_log_snr
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import ZeroBased
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import LinearVP, SubVP, Tabulated
from score_sde_analytic.samplers import AnalyticMultistep, Ancestral, DPMSolverPP, UniPC, carry, generate

diffusers = pytest.importorskip("diffusers")

EXACT = Isotropic(NoiseCurve(np.zeros(1), np.array([-math.log(VARIANCE)])))

DPM = [{"order": o, "noisy": n} for o in (1, 2, 3) for n in (False, True) if (o, n) != (3, True)]
DPM += [{"solver_type": "heun"}]
DPM += [{"order": 2, "noisy": True, "solver_type": "heun"}, {"order": 3, "lower_order_final": False}]
UNIPC = [{"order": o, "solver_type": b} for o in (1, 2, 3) for b in ("bh1", "bh2")]


class Given:
    """The same tensors in the same order, from one generator."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(4)

    def draw(self, like):
        return torch.randn(like.shape, generator=self.generator)


def net(x, t):
    """A smooth eps that knows its label."""
    return torch.tanh(x) * torch.cos(t / 1000)[:, None]


# --- diffusers' own loops -----------------------------------------------------------------------------------------------


def theirs(scheduler, steps, x):
    """The loop of a diffusers pipeline on the scheduler's own grid, and that grid in our times."""
    scheduler.set_timesteps(steps)
    times = [(int(n) + 1) / 1000 for n in scheduler.timesteps]
    noise, takes = Given(), "variance_noise" in scheduler.step.__code__.co_varnames
    for t in scheduler.timesteps:
        options = {"variance_noise": noise.draw(x)} if takes and "sde" in scheduler.config.algorithm_type else {}
        x = scheduler.step(net(x, t.expand(len(x)).float()), t, x, **options).prev_sample
    return x, Grid((*times, 0.0))


def start():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("options", DPM)
def test_dpm_solver_is_diffusers_own_loop(options, steps):
    names = {"order": "solver_order"}
    settings = {names.get(k, k): v for k, v in options.items() if k != "noisy"}
    algorithm = "sde-dpmsolver++" if options.get("noisy") else "dpmsolver++"
    expected, grid = theirs(diffusers.DPMSolverMultistepScheduler(algorithm_type=algorithm, **settings), steps, start())
    sampler = DPMSolverPP(ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000)), **options)
    torch.testing.assert_close(carry(sampler, sampler.plan(grid), start(), Given()), expected, rtol=2e-5, atol=2e-5)


class Corrected(diffusers.DPMSolverMultistepScheduler):
    """diffusers' scheduler with 1/2 where it has -1/2 in the third-order step of the SDE."""

    def multistep_dpm_solver_third_order_update(self, outputs, *args, sample, noise, **kwargs):
        rho_s, rho, rho_1, rho_2 = (self.sigmas[self.step_index + i] for i in (1, 0, -1, -2))
        h, h_0, h_1 = (rho / rho_s).log(), (rho_1 / rho).log(), (rho_2 / rho_1).log()
        now, before, first = outputs[::-1]
        second = h**2 * ((now - before) / h_0 - (before - first) / h_1) / (h_0 + h_1)
        wrong = super().multistep_dpm_solver_third_order_update(outputs, *args, sample=sample, noise=noise, **kwargs)
        return wrong + second / (1 + rho_s**2) ** 0.5


def test_third_order_of_the_sde_has_the_sign_of_taylors_term():
    """diffusers' loop but for that sign."""
    scheduler = Corrected(algorithm_type="sde-dpmsolver++", solver_order=3)
    expected, grid = theirs(scheduler, 20, start())
    sampler = DPMSolverPP(ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000)), order=3, noisy=True)
    torch.testing.assert_close(carry(sampler, sampler.plan(grid), start(), Given()), expected, rtol=2e-5, atol=2e-5)


def k_diffusion_3m_sde(model, plan, x, noise):
    """k-diffusion's `sample_dpmpp_3m_sde` with eta = s_noise = 1, up to the first level: its loop, its names, its formulas."""
    denoised_1 = denoised_2 = h_1 = h_2 = None
    for step in plan[:-1]:
        sigma, after = step.t.ratio, step.s.ratio
        denoised = model.predict(x * step.t.alpha, step.t).x_0
        h = math.log(sigma) - math.log(after)
        h_eta = 2.0 * h
        x = math.exp(-h_eta) * x - math.expm1(-h_eta) * denoised
        phi_2 = math.expm1(-h_eta) / h_eta + 1.0
        if h_2 is not None:
            r0, r1 = h_1 / h, h_2 / h
            d1_0, d1_1 = (denoised - denoised_1) / r0, (denoised_1 - denoised_2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            d2 = (d1_0 - d1_1) / (r0 + r1)
            x = x + phi_2 * d1 - (phi_2 / h_eta - 0.5) * d2
        elif h_1 is not None:
            x = x + phi_2 * (denoised - denoised_1) / (h_1 / h)
        x = x + noise.draw(x) * after * math.sqrt(-math.expm1(-2.0 * h))
        denoised_1, denoised_2, h_1, h_2 = denoised, denoised_1, h, h_1
    return x * plan[-1].t.alpha


def test_third_order_of_the_sde_is_k_diffusions():
    model = MILD.score_model(LinearVP())
    sampler = DPMSolverPP(model, 3, noisy=True, solver_type="heun", lower_order_final=False)
    plan = sampler.plan(even_log_snr(LinearVP(), 9, 0.05))
    x = start()[:, :1]
    ours = to_first_level(sampler, plan, x, Given())
    theirs = k_diffusion_3m_sde(model, plan, x / plan[0].t.alpha, Given())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("options", UNIPC)
def test_unipc_is_diffusers_own_loop(options, steps):
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=options["order"], solver_type=options["solver_type"], final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(steps)
    x = start()
    for t in scheduler.timesteps[:-1]:
        x = scheduler.step(net(x, t.expand(len(x)).float()), t, x).prev_sample
    times = [(int(n) + 1) / 1000 for n in scheduler.timesteps]
    sampler = UniPC(ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000)), **options)
    plan = sampler.plan(Grid((*times, 0.0)))
    ours = start()
    state = sampler.init(plan, ours)
    for step in plan[:-1]:
        ours, state = sampler.step(ours, step, state, Silent())
    torch.testing.assert_close(ours, x, rtol=2e-5, atol=2e-5)


def test_unipc_ends_as_diffusers_does():
    expected, grid = theirs(diffusers.UniPCMultistepScheduler(), 8, start())
    sampler = UniPC(ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000)))
    torch.testing.assert_close(carry(sampler, sampler.plan(grid), start(), Silent()), expected, rtol=2e-5, atol=2e-5)


def test_ddpm_is_diffusers_own_loop():
    """DDPMScheduler with fixed_small, step for step: the same noise, 1e-5 but for its float32 table."""
    scheduler = diffusers.DDPMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    sampler = Ancestral(ScoreModel(net, Tabulated.linear(), times=ZeroBased(1000)), BetaTilde())
    times = [(int(n) + 1) / 1000 for n in scheduler.timesteps]
    plan = sampler.plan(Grid((*times, 0.0)))
    x = start()
    for t, step in zip(scheduler.timesteps[:-1], plan, strict=False):
        eps, seed = net(x, t.expand(len(x)).float()), int(t)
        expected = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(seed)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        ours = sampler.step(x, step, None, Known(noise))[0]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=2e-5)
        x = expected


class Known:
    def __init__(self, z):
        self.z = z

    def draw(self, like):
        return self.z


# --- orders -------------------------------------------------------------------------------------------------------------


FLOWS = {
    "dpm1": (lambda m: DPMSolverPP(m, 1), 1),
    "dpm2": (lambda m: DPMSolverPP(m, 2), 2),
    "dpm2_heun": (lambda m: DPMSolverPP(m, 2, solver_type="heun"), 2),
    "unipc1": (lambda m: UniPC(m, 1), 2),
    "unipc2": (lambda m: UniPC(m, 2, lower_order_final=False), 3),
    "analytic_multistep": (lambda m: AnalyticMultistep(m, BetaTilde(), 0.0), 2),
}


@pytest.mark.parametrize("schedule", [LinearVP(), SubVP()], ids=["linear_vp", "sub_vp"])
@pytest.mark.parametrize("name", FLOWS)
def test_order_of_deterministic_solvers(schedule, name):
    make, order = FLOWS[name]
    coarse, fine = (flow_error(make, schedule, k) for k in (32, 64))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


def test_third_orders_beat_the_second():
    """They start and (DPM-Solver++3M, whose last coefficient is half of Taylor's) go on at lower order: no slope is named."""
    makers = FLOWS["dpm2"][0], lambda m: DPMSolverPP(m, 3), lambda m: UniPC(m, 3, lower_order_final=False)
    second, third, uni = (flow_error(make, LinearVP(), 64) for make in makers)
    assert third < 0.6 * second
    assert uni < 0.1 * second


def taylor(make, power):
    """Error of one step, after exact ones, with x0_hat = (lam - lam_r)^power whatever the state, against the exact integral."""
    schedule, lams = LinearVP(), [-2.0, -1.75, -1.5, -1.25]
    grid = Grid((*(schedule.time(lam) for lam in lams), 0.0))
    model = ScoreModel(lambda x, t: ((t - lams[2]) ** power)[:, None].expand_as(x), schedule, predicts="x_0", times=Lam())
    sampler = make(model)
    plan = sampler.plan(grid)
    x = torch.zeros(1, 1, dtype=torch.float64)
    state = sampler.init(plan, x)
    for step in plan[:2]:
        _, state = sampler.step(x, step, state, Silent())
    x, state = sampler.step(x, plan[2], state, Silent())
    s = plan[2].s
    # x_s = sigma_s integral of e^{lam/2} x0_hat dlam / 2 from x = 0
    lam = np.linspace(lams[2], lams[3], 2001)
    exact = s.sigma * np.trapezoid(0.5 * np.exp(lam / 2) * (lam - lams[2]) ** power, lam)
    return float(x) / exact - 1.0


class Lam:
    def label(self, level):
        return level.log_snr


def test_linear_x_0_is_exact():
    assert abs(taylor(lambda m: AnalyticMultistep(m, BetaTilde(), 0.0), 1)) < 1e-6
    assert abs(taylor(lambda m: DPMSolverPP(m, 2, solver_type="heun", lower_order_final=False), 1)) < 1e-5
    assert abs(taylor(lambda m: DPMSolverPP(m, 3, lower_order_final=False), 1)) < 1e-5


def test_third_order_dpm_solver_takes_half_of_the_curvature():
    """Of the term of x0_hat'' the published coefficients hold half: DPM-Solver++(3M) has order two, with a smaller constant."""
    assert taylor(lambda m: DPMSolverPP(m, 3, lower_order_final=False), 2) == pytest.approx(-0.5, abs=0.01)


# --- between the flow and the chain -------------------------------------------------------------------------------------


def variance_error(make, steps):
    """Error of the variance at t_1 of a linear sampler started from the exact law."""
    return abs(moments(make, LinearVP(), steps, per_step=1)[1])


@pytest.mark.slow
@pytest.mark.parametrize("kappa", [0.5, None])
@pytest.mark.parametrize("eta", [0.0, 0.5, 0.8])
def test_shares_that_add_to_one_have_weak_order_two(eta, kappa):
    coarse, fine = (variance_error(lambda m: AnalyticMultistep(m, EXACT, eta, kappa), k) for k in (128, 256))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_full_shares_of_both_count_twice(eta):
    """Extrapolation without its share of the covariance, and covariance with all of the extrapolation: order one."""

    class Whole(AnalyticMultistep):
        def plan(self, grid):
            chain = Ancestral(self.model, self.covariance, self.eta).plan(grid)
            return [type(s)(s.t, s.s, s.kernel, c.covariance, s.slope) for s, c in zip(super().plan(grid), chain, strict=True)]

    coarse, fine = (variance_error(lambda m: Whole(m, EXACT, eta, 1.0), k) for k in (128, 256))
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.3)
    assert fine > 100 * variance_error(lambda m: AnalyticMultistep(m, EXACT, eta, 1.0), 256)


@pytest.mark.parametrize("noisy", [False, True])
def test_sde_dpm_solver_has_weak_order_two(noisy):
    """kappa = 1 without a covariance, eta 0 and 1: the published solvers' coefficients, float32 apart."""
    options = {"noisy": noisy, "solver_type": "midpoint", "lower_order_final": False}
    coarse, fine = (variance_error(lambda m: DPMSolverPP(m, 2, **options), k) for k in (64, 128))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.35)


def test_third_order_of_the_sde_has_more_than_weak_order_two():
    """With diffusers' sign it had one."""
    options = {"noisy": True, "lower_order_final": False}
    errors = [variance_error(lambda m: DPMSolverPP(m, 3, **options), k) for k in (32, 64)]
    assert slope(errors) > 2.3
    assert errors[1] < 0.6 * variance_error(lambda m: DPMSolverPP(m, 2, **options), 64)


def test_no_share_is_the_ancestral_chain(schedule):
    model, grid = MILD.score_model(schedule), even_log_snr(schedule, 6, 0.02)
    for eta in (0.3, 1.0):
        ours, chain = (
            generate(s, grid, (1,), 4, dtype=torch.float64)
            for s in (AnalyticMultistep(model, EXACT, eta, 0.0), Ancestral(model, EXACT, eta))
        )
        torch.testing.assert_close(ours, chain, rtol=1e-12, atol=1e-12)
    default = generate(AnalyticMultistep(model, EXACT, 1.0), grid, (1,), 4, dtype=torch.float64)
    assert torch.equal(default, ours)


def test_eta_0_is_dpm_solver_of_heun_type():
    model, grid = MILD.score_model(LinearVP()), even_log_snr(LinearVP(), 9, 0.02)
    solver = DPMSolverPP(model, 2, solver_type="heun", lower_order_final=False)
    ours, theirs = (generate(s, grid, (1,), 4) for s in (AnalyticMultistep(model, BetaTilde(), 0.0), solver))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_drift_of_x_0_along_the_chain():
    """E[x0_hat(x_s) - x0_hat(x_t) | x_t] = (1 - eta^2) times the flow's change, to first order; exact moments by quadrature."""
    model = MILD.score_model(LinearVP())
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z, w = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights / weights.sum())
    t = 0.3
    lam = LinearVP().log_snr(t)
    grid = Grid((t, LinearVP().time(lam + 1e-3), 0.0))
    x = torch.full((40, 1), 0.4, dtype=torch.float64)
    drift = {}
    for eta in (0.0, 0.4, 0.8, 1.0):
        sampler = Ancestral(model, BetaTilde(), eta)
        step = sampler.plan(grid)[0]
        after = sampler.step(x, step, None, Known(z))[0]
        drift[eta] = float(w @ (model.predict(after, step.s).x_0 - model.predict(x, step.t).x_0).flatten())
    assert abs(drift[0.0]) > 1e-5
    for eta, value in drift.items():
        assert value == pytest.approx((1 - eta**2) * drift[0.0], abs=0.01 * abs(drift[0.0]))


# --- calls, batches, states, misuse -------------------------------------------------------------------------------------

SAMPLERS = {
    "dpm2": lambda m: DPMSolverPP(m),
    "dpm3_sde": lambda m: DPMSolverPP(m, 3, noisy=True),
    "unipc3": lambda m: UniPC(m, 3),
    "unipc2_bh1": lambda m: UniPC(m, 2, "bh1"),
    "analytic": lambda m: AnalyticMultistep(m, EXACT, 0.75),
}


@pytest.mark.parametrize("k", [1, 2, 3, 20])
@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_are_as_claimed(schedule, name, k):
    model = MILD.score_model(schedule)
    sampler, grid = SAMPLERS[name](model), even_log_snr(schedule, k, 0.05)
    with model.metered() as cost:
        x = generate(sampler, grid, (1,), 3, batch_size=3)
    assert cost.calls == sampler.calls(grid) == k
    assert x.abs().max() < 4.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(name, dtype):
    sampler, grid = SAMPLERS[name](ScoreModel(lambda x, t: torch.tanh(x), LinearVP())), even(6, 0.05)
    whole = generate(sampler, grid, (2, 3), 4, seed=5, batch_size=4, dtype=dtype)
    assert whole.dtype == dtype
    for size in (1, 3):
        assert torch.equal(generate(sampler, grid, (2, 3), 4, seed=5, batch_size=size, dtype=dtype), whole)


def test_one_sampler_serves_runs_that_take_turns():
    sampler, grid = DPMSolverPP(MILD.score_model(LinearVP()), 3), even(6, 0.05)
    plan = sampler.plan(grid)
    x = [torch.full((1, 1), v) for v in (0.5, -1.0)]
    alone = [carry(sampler, plan, v, Silent()) for v in x]
    states = [sampler.init(plan, v) for v in x]
    for step in plan:
        for i in (0, 1):
            x[i], states[i] = sampler.step(x[i], step, states[i], SampleNoise(0, [0]))
    assert torch.equal(torch.cat(x), torch.cat(alone))


@pytest.mark.parametrize(
    ("options", "match"),
    [({"eta": 1.5}, "eta"), ({"kappa": -0.1}, "kappa"), ({"kappa": math.nan}, "kappa"), ({"covariance": Beta()}, "beta")],
)
def test_misuse_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        AnalyticMultistep(**({"model": MILD.score_model(LinearVP()), "covariance": EXACT} | options))
