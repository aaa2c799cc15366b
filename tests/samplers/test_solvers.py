"""Solvers: orders of convergence, published updates, calls, batches, schedules, misuse."""

import itertools
import math
import sys

import pytest
import torch

import score_sde_analytic.samplers as package
from orders import GAUSSIAN, MEAN, MILD, VARIANCE, Silent, flow_error, moments, slope, to_first_level
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde
from score_sde_analytic.grids.grid import Grid, even, even_log_snr
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.process.schedule import VE, LinearVP, SubVP, Tabulated
from score_sde_analytic.samplers import (
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    ReverseSDE,
    SASolver,
    UniPC,
    carry,
    generate,
)

pytest.importorskip("torchsde")
pytest.importorskip("torchdiffeq")

#: name -> sampler of a model, for all that are deterministic, with their order.
FLOWS = {
    "euler": (lambda m: ProbabilityFlow(m), 1),
    "euler_t": (lambda m: ProbabilityFlow(m, variable="t"), 1),
    "euler_ve": (lambda m: ProbabilityFlow(m, variable="ve"), 1),
    "ddim": (lambda m: Ancestral(m, BetaTilde(), eta=0.0), 1),
    "midpoint": (lambda m: ProbabilityFlow(m, "midpoint"), 2),
    "heun2": (lambda m: ProbabilityFlow(m, "heun2"), 2),
    "heun3": (lambda m: ProbabilityFlow(m, "heun3"), 3),
    "rk4": (lambda m: ProbabilityFlow(m, "rk4"), 4),
    "rk4_t": (lambda m: ProbabilityFlow(m, "rk4", "t"), 4),
    "rk4_ve": (lambda m: ProbabilityFlow(m, "rk4", "ve"), 4),
    "heun_edm": (lambda m: Heun(m), 2),
}
#: name -> sampler of a model, for all that draw noise, linear in state and draws, with their weak order.
CHAINS = {
    "euler_maruyama": (EulerMaruyama, 1),
    "reverse_diffusion": (ReverseDiffusion, 1),
    "beta": (lambda m: Ancestral(m, Beta()), 1),
    "beta_tilde": (lambda m: Ancestral(m, BetaTilde()), 1),
    "sde_euler": (lambda m: ReverseSDE(m), 1),
    "sde_euler_t": (lambda m: ReverseSDE(m, variable="t"), 1),
    "sde_euler_ve": (lambda m: ReverseSDE(m, variable="ve"), 1),
    "sde_milstein": (lambda m: ReverseSDE(m, "milstein"), 1),
    "srk": (lambda m: ReverseSDE(m, "srk"), 2),
    "srk_t": (lambda m: ReverseSDE(m, "srk", variable="t"), 2),
    "srk_ve": (lambda m: ReverseSDE(m, "srk", variable="ve"), 2),
    "churn": (lambda m: Heun(m, s_churn=4.0), 2),
}
OTHERS = {
    "predictor_corrector": lambda m: PredictorCorrector(ReverseDiffusion(m), AnnealedLangevin(0.1, 2)),
    "ancestral_langevin": lambda m: PredictorCorrector(Ancestral(m, Beta()), Langevin(0.1)),
    "churn_all": lambda m: Heun(m, 5.0, 0.05, 50.0, 1.003),
}
ADAPTIVE = {
    "dopri5": lambda m: ProbabilityFlow(m, Adaptive(1e-2, 1e-2)),
    "dopri5_t": lambda m: ProbabilityFlow(m, Adaptive(1e-2, 1e-2), "t"),
    "dopri5_ve": lambda m: ProbabilityFlow(m, Adaptive(1e-2, 1e-2), "ve"),
    "sde_adaptive": lambda m: ReverseSDE(m, "euler", AdaptiveSDE(0.5, 0.5)),
    "srk_adaptive": lambda m: ReverseSDE(m, "srk", AdaptiveSDE(0.5, 0.5)),
}
ON_GRID = {k: v[0] for k, v in (FLOWS | CHAINS).items()} | OTHERS


# --- orders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOWS)
def test_order_of_deterministic_solvers(name):
    make, order = FLOWS[name]
    errors = [flow_error(make, LinearVP(), k) for k in (16, 32)]
    assert slope(errors) == pytest.approx(order, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["log_snr", "t", "ve"])
@pytest.mark.parametrize("schedule", [SubVP(), VE(0.01, 10.0)], ids=["sub_vp", "ve"])
def test_order_on_other_schedules(schedule, variable):
    errors = [flow_error(lambda m: ProbabilityFlow(m, "midpoint", variable), schedule, k) for k in (32, 64)]
    assert slope(errors) == pytest.approx(2, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["log_snr", "t", "ve"])
@pytest.mark.parametrize("schedule", [LinearVP(), SubVP(), VE(0.01, 10.0)], ids=["linear_vp", "sub_vp", "ve"])
def test_adaptive_steps_meet_their_tolerance(schedule, variable):
    make = lambda tol: lambda m: ProbabilityFlow(m, Adaptive(tol, tol), variable, per_sample=False)  # noqa: E731
    errors = [flow_error(make(tol), schedule, 3) for tol in (1e-2, 1e-5)]
    assert errors[0] < 0.1
    assert errors[1] < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_weak_order_of_stochastic_solvers(name):
    make, order = CHAINS[name]
    errors = [moments(make, LinearVP(), k) for k in (24, 48)]
    assert slope([abs(e[1]) for e in errors]) == pytest.approx(order, abs=0.3)
    # Means of the ancestral chains and in VE coordinates are exact for Gaussian data.
    assert abs(errors[1][0]) < 1e-12 or slope([abs(e[0]) for e in errors]) == pytest.approx(order, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "sde_euler", "srk"])
def test_stochastic_solvers_converge_on_every_schedule(schedule, name):
    make, order = CHAINS[name]
    errors = [abs(moments(make, schedule, k, 2)[1]) for k in (16, 32)]
    assert errors[1] < errors[0] / 2 ** (order - 0.4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["euler", "srk"])
def test_adaptive_sde_has_the_law_of_the_data(method):
    """Mean and variance of 300 samples: five standard errors, false alarm 1e-6, beyond the solver's tolerance."""
    sampler = ReverseSDE(GAUSSIAN.score_model(LinearVP()), method, AdaptiveSDE(0.1, 0.1), per_sample=False)
    plan, n = sampler.plan(Grid((1.0, 0.2, 0.0))), 300
    noise = package.base.SampleNoise(0, range(n))
    x = to_first_level(sampler, plan, noise.draw(torch.empty(n, 1, dtype=torch.float64)).clone(), noise)
    end = plan[-1].t
    expected = end.alpha**2 * VARIANCE + end.sigma**2
    assert float(x.mean()) == pytest.approx(end.alpha * MEAN, abs=5 * math.sqrt(expected / n) + 0.03)
    assert float(x.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / n) + 0.08)


# --- published updates --------------------------------------------------------------------------------------------------


def test_euler_in_ve_is_ddim(schedule):
    grid, x = even_log_snr(schedule, 7, 0.01), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    model = MILD.score_model(schedule)
    x = x * schedule.prior_variance**0.5
    samplers = Ancestral(model, BetaTilde(), 0.0), ProbabilityFlow(model, variable="ve")
    ddim, euler = (carry(s, s.plan(grid), x, Silent()) for s in samplers)
    torch.testing.assert_close(euler, ddim, rtol=1e-8, atol=1e-8)


def test_torchsde_euler_in_time_is_euler_maruyama(schedule):
    model, grid = MILD.score_model(schedule), even(6, 0.1)
    samplers = EulerMaruyama(model), ReverseSDE(model, variable="t")
    ours, theirs = (generate(s, grid, (1,), 5, dtype=torch.float64) for s in samplers)
    torch.testing.assert_close(theirs, ours, rtol=1e-8, atol=1e-8)


def test_milstein_is_euler_for_additive_noise():
    model, grid = MILD.score_model(LinearVP()), even(6, 0.1)
    a, b = (generate(ReverseSDE(model, method), grid, (1,), 5, dtype=torch.float64) for method in ("euler", "milstein"))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1000, 400, 2])
def test_reverse_diffusion_is_score_sde_s(n):
    """Song et al., 2021: x = (2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z for VP, x + (s^2 - s'^2) score + ... for VE."""
    x, eps, z = (torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    table = Tabulated.linear()
    beta, score = table.betas[n - 1], -eps / table.sigma(n / 1000)
    expected = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * z
    torch.testing.assert_close(one_step(ReverseDiffusion, table, n, x, eps, z), expected, rtol=1e-10, atol=1e-10)
    ve = VE()
    high, low = ve.sigma(n / 1000), ve.sigma((n - 1) / 1000)
    expected = x - (high**2 - low**2) * eps / high + math.sqrt(high**2 - low**2) * z
    torch.testing.assert_close(one_step(ReverseDiffusion, ve, n, x, eps, z), expected, rtol=1e-8, atol=1e-8)


class Same:
    def __init__(self, z):
        self.z = z

    def draw(self, like):
        return self.z


def one_step(make, schedule, n, x, eps, z):
    sampler = make(ScoreModel(lambda x, t: eps, schedule))
    return sampler.step(x, sampler.plan(Grid((n / 1000, (n - 1) / 1000, 0.0)))[0], None, Same(z))[0]


def test_heun_is_edm_s():
    """Karras et al., 2022, algorithm 2, written out in VE coordinates with sigma = s."""
    ve, model = VE(0.01, 10.0), MILD.score_model(VE(0.01, 10.0))
    grid, z = even_log_snr(ve, 4, 0.1), torch.tensor([[0.3], [-1.0]], dtype=torch.float64)
    sampler = Heun(model, s_churn=1.2, s_min=0.05, s_max=5.0, s_noise=1.01)
    levels = [ve.sigma(t) for t in grid.times]
    x = start = torch.tensor([[4.0], [-9.0]], dtype=torch.float64)
    slope_at = lambda x, s: model(x, ve.time(-2 * math.log(s))).eps  # noqa: E731
    for s, s_next in itertools.pairwise(levels):
        gamma = min(1.2 / 4, math.sqrt(2) - 1) if 0.05 <= s <= 5.0 else 0.0
        hat = s + gamma * s
        x_hat = x + math.sqrt(hat**2 - s**2) * 1.01 * z
        d = slope_at(x_hat, hat)
        x = x_hat + (s_next - hat) * d
        if s_next > 0:
            x = x_hat + (s_next - hat) * (d + slope_at(x, s_next)) / 2
    torch.testing.assert_close(carry(sampler, sampler.plan(grid), start, Same(z)), x, rtol=1e-9, atol=1e-9)


def test_churn_stays_within_the_schedule(schedule):
    plan = Heun(MILD.score_model(schedule), s_churn=100.0).plan(even_log_snr(schedule, 5, 0.01))
    assert plan[0].noise == 0.0
    assert plan[0].hat == plan[0].t
    for step in plan[1:]:
        ratio = (step.hat.sigma / step.hat.alpha) / (step.t.sigma / step.t.alpha)
        assert 1.0 < ratio <= math.sqrt(2) * (1 + 1e-9)


@pytest.mark.parametrize("corrector", [Langevin(0.2, 3), AnnealedLangevin(0.2, 3)])
def test_langevin_keeps_the_law(schedule, corrector):
    """Steps of Langevin dynamics leave a Gaussian nearly in place: in 400 dimensions, to a few per cent of its variance."""
    level, d = schedule.level(0.5), 400
    variance = level.alpha**2 * VARIANCE + level.sigma**2
    model = ScoreModel(lambda x, t: x * level.sigma / variance, schedule)
    noise = package.base.SampleNoise(0, range(50))
    x = math.sqrt(variance) * noise.draw(torch.empty(50, d, dtype=torch.float64))
    with model.metered() as cost:
        moved = corrector.correct(model, x, level, noise)
    assert cost.calls == 3
    assert not torch.equal(moved, x)
    assert float(moved.var()) == pytest.approx(variance, rel=0.1)
    wide = corrector.correct(model, 2 * x, level, noise)  # and pull a wrong one towards it
    assert variance < float(wide.var()) < 4 * variance


def test_langevin_steps_are_score_sde_s():
    """Algorithm 5: e = 2 a (r ||z|| / ||g||)^2, a = 1 - beta; annealed: e = 2 a (r sigma)^2."""
    table, n, r = Tabulated.linear(), 600, 0.16
    level, a = table.level(n / 1000), 1 - table.betas[n - 1]
    x, eps, z = (torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    g, model = -eps / level.sigma, ScoreModel(lambda x, t: eps, table)
    lengths = {Langevin: z.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True), AnnealedLangevin: level.sigma}
    for corrector, length in lengths.items():
        e = torch.as_tensor(2 * a * (r * length) ** 2)
        moved = corrector(r).correct(model, x, level, Same(z))
        # a from the drift at t_n against the table's step into it
        torch.testing.assert_close(moved, x + e * g + (2 * e).sqrt() * z, rtol=1e-4, atol=1e-4)


def test_predictor_corrector_corrects_where_it_arrived():
    seen = []

    class Recorded(AnnealedLangevin):
        def correct(self, model, x, level, noise):
            seen.append(level.t)
            return x

    grid = even(5, 0.2)
    sampler = PredictorCorrector(EulerMaruyama(MILD.score_model(LinearVP())), Recorded())
    corrected = generate(sampler, grid, (1,), 2)
    assert seen == list(grid.times[1:-1])
    assert torch.equal(corrected, generate(sampler.predictor, grid, (1,), 2))


# --- calls, seeds, batches, ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize("name", ON_GRID)
def test_calls_are_as_claimed(name, k):
    model = MILD.score_model(SubVP())
    sampler, grid = ON_GRID[name](model), even_log_snr(SubVP(), k, 0.05)
    with model.metered() as cost:
        generate(sampler, grid, (1,), 3, batch_size=3, dtype=torch.float64)
    assert cost.calls == sampler.calls(grid)
    assert cost.evaluations == 3 * cost.calls


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_solvers_claim_no_count(name):
    sampler, grid = ADAPTIVE[name](MILD.score_model(LinearVP())), even(3, 0.1)
    assert sampler.calls(grid) is None
    assert [(step.t.t, step.s.t) for step in sampler.plan(grid)] == [(1.0, pytest.approx(0.1)), (pytest.approx(0.1), 0.0)]
    assert len(sampler.plan(even(1, 0.1))) == 1


@pytest.mark.parametrize("name", ON_GRID | ADAPTIVE)
def test_a_sample_does_not_depend_on_its_batch(name):
    make = (ON_GRID | ADAPTIVE)[name]
    sampler, grid = make(ScoreModel(lambda x, t: torch.tanh(x), LinearVP())), even(4, 0.05)
    whole = generate(sampler, grid, (2, 3), 3, seed=5, batch_size=3)
    assert whole.shape == (3, 2, 3)
    assert whole.dtype == torch.float32
    assert torch.equal(generate(sampler, grid, (2, 3), 3, seed=5, batch_size=2), whole)
    assert torch.equal(generate(sampler, grid, (2, 3), range(2, 3), seed=5), whole[2:])
    assert not torch.equal(generate(sampler, grid, (2, 3), 1, seed=6), whole[:1])


@pytest.mark.parametrize("name", ON_GRID)
def test_every_solver_on_every_schedule(schedule, name):
    """Nothing overflows, and the end is the network's x0_hat at t_1, here a constant."""
    model = ScoreModel(lambda x, t: torch.full_like(x, 0.25), schedule, predicts="x_0")
    x = generate(ON_GRID[name](model), even_log_snr(schedule, 5, 0.01), (1,), 4, dtype=torch.float64)
    torch.testing.assert_close(x, torch.full_like(x, 0.25))


@pytest.mark.parametrize("make", [lambda m: ProbabilityFlow(m, "rk4"), lambda m: ReverseSDE(m, "srk"), Heun])
@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_shapes_and_precisions(make, shape, dtype):
    x = generate(make(ScoreModel(lambda x, t: 0.5 * x, LinearVP())), even(3, 0.1), shape, 2, dtype=dtype)
    assert x.shape == (2, *shape)
    assert x.dtype == dtype


def test_all_start_alike():
    """Equal seeds give every sampler the same draw of x_T."""
    starts = []

    def net(x, t):
        if float(t[0]) == 1.0:
            starts.append(x.clone())
        return x

    samplers = [make(ScoreModel(net, LinearVP())) for make in ON_GRID.values()]
    for sampler in samplers:
        generate(sampler, even(2, 0.1), (2,), 3, seed=9)
    assert len(starts) == len(samplers)
    assert all(torch.allclose(x, starts[0], rtol=1e-6) for x in starts)


def test_paths_have_the_law_of_a_brownian_motion():
    """Increments and their integrals over adjacent intervals: 4,000 paths, five standard errors, false alarm 2e-6."""
    from score_sde_analytic.samplers.reverse_sde import _Increments, _Paths

    n, like = 4000, torch.empty(4000, 1, dtype=torch.float64)
    paths = _Paths(range(n), like, 2.0)
    w, u = paths(0.5, 2.0, return_U=True)
    fresh_w, fresh_u = _Increments(package.base.SampleNoise(0, range(n)), like, 1.5)(0.0, 1.5, return_U=True)
    bound = 5 * math.sqrt(2 / n)
    for a, b in ((w, u), (fresh_w, fresh_u)):
        assert float(a.var()) == pytest.approx(1.5, rel=bound)
        assert float(b.var()) == pytest.approx(1.5**3 / 3, rel=bound)
        assert float((a * b).mean()) == pytest.approx(1.5**2 / 2, rel=2 * bound)


# --- names and misuse ---------------------------------------------------------------------------------------------------


def test_names_tell_samplers_apart():
    model = MILD.score_model(LinearVP())
    samplers = [make(model) for make in (ON_GRID | ADAPTIVE).values()]
    names = [sampler.name for sampler in samplers]
    assert len(set(names)) == len(names)
    assert Ancestral(model, BetaTilde(), 0.5).name == "Ancestral(covariance=BetaTilde, eta=0.5)"
    assert ProbabilityFlow(model, Adaptive(1e-3)).name == "ProbabilityFlow(solver=Adaptive(rtol=0.001))"
    between = SASolver(model, between=(0.05, 1.0))
    assert between.config()["between"] == [0.05, 1.0] != SASolver(model).config()["between"]
    assert between.name == "SASolver(between=(0.05, 1))"
    config = PredictorCorrector(ReverseDiffusion(model), Langevin(0.2)).config()
    assert config["predictor"] == {"name": "ReverseDiffusion"}
    assert config["corrector"] == {"name": "Langevin", "snr": 0.2, "steps": 1}


@pytest.mark.parametrize("name", ["euler", "srk", "churn", "euler_maruyama"])
def test_divergence_names_the_sampler(name):
    sampler = ON_GRID[name](ScoreModel(lambda x, t: torch.full_like(x, 3e38), LinearVP()))
    with pytest.raises(RuntimeError, match=f"{type(sampler).__name__}.*NaN or inf"):
        generate(sampler, even(4, 0.01), (1,), 2)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda m: ProbabilityFlow(m, "rk5"), "rk4"),
        (lambda m: ProbabilityFlow(m, "dopri5"), "Adaptive"),
        (lambda m: ProbabilityFlow(m, variable="sigma"), "log_snr, t, ve"),
        (lambda m: ProbabilityFlow(m, per_sample="no"), "per_sample must be True or False"),
        (lambda m: ReverseSDE(m, per_sample="no"), "per_sample must be True or False"),
        (lambda m: ReverseSDE(m, "heun"), "euler, milstein, srk"),
        (lambda m: ReverseSDE(m, variable="sigma"), "log_snr, t, ve"),
        (lambda m: AdaptiveSDE(atol=0.0), "atol"),
        (lambda m: AdaptiveSDE(first_step=2.0), "first_step"),
        (lambda m: Langevin(snr=0.0), "snr"),
        (lambda m: AnnealedLangevin(steps=0), "steps"),
        (lambda m: Heun(m, s_churn=-1.0), "s_churn"),
        (lambda m: Heun(m, s_min=2.0, s_max=1.0), "s_min"),
        (lambda m: DPMSolverPP(m, 4), "order"),
        (lambda m: DPMSolverPP(m, solver_type="bh1"), "midpoint"),
        (lambda m: UniPC(m, 0), "order"),
        (lambda m: UniPC(m, solver_type="heun"), "bh1"),
    ],
)
def test_misuse_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make(MILD.score_model(LinearVP()))


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("torchsde", ReverseSDE, "sde"),
        ("torchdiffeq", ProbabilityFlow, "ode"),
        ("diffusers", DPMSolverPP, "images"),
        ("diffusers", UniPC, "images"),
    ],
)
def test_absent_libraries_are_named(monkeypatch, module, make, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"\[{extra}\]"):
        generate(make(MILD.score_model(LinearVP())), even(3, 0.1), (1,), 2)
