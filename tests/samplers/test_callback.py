"""Callbacks: told of every step of every sampler, in k-diffusion's words, and without a trace in the samples."""

import itertools

import numpy as np
import pytest
import torch

import score_sde_analytic.samplers as package
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.grids.grid import even, even_log_snr
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.ode_solvers import Adaptive
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import LinearVP, SubVP
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
    Langevin,
    OneGraph,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    ReverseSDE,
    Sampler,
    SASolver,
    TableSampler,
    UniPC,
    carry,
    generate,
)
from score_sde_analytic.samplers.base import Step, intervals, prior_sample

pytest.importorskip("torchsde")
pytest.importorskip("torchdiffeq")
pytest.importorskip("diffusers")

MILD = GaussianMixture([0.5, 0.5], [[-0.8], [0.6]], [0.1, 0.2])
CURVE = Isotropic(NoiseCurve(np.zeros(1), np.array([1.0])))
COARSE = Adaptive(1e-2, 1e-2)

#: name -> sampler of a model; each class, and each way in which it asks the network.
SAMPLERS = {
    "ancestral": lambda m: Ancestral(m, CURVE, final="draw"),
    "tweedie": lambda m: Ancestral(m, Tweedie(m, 1)),
    "analytic_multistep": lambda m: AnalyticMultistep(m, CURVE),
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "predictor_corrector": lambda m: PredictorCorrector(Ancestral(m, Beta()), Langevin(0.1, 2)),
    "heun": Heun,
    "churn": lambda m: Heun(m, s_churn=2.0),
    "dpm_solver": lambda m: DPMSolverPP(m, 3),
    "dpm_solver_sde": lambda m: DPMSolverPP(m, noisy=True),
    "dpm_solver_sde_3": lambda m: DPMSolverPP(m, 3, noisy=True),
    "unipc": UniPC,
    "deis": DEIS,
    "ipndm": IPNDM,
    "singlestep": DPMSolverSinglestep,
    "sa_solver": SASolver,
    "lms": LMS,
    "euler": ProbabilityFlow,
    "rk4_t": lambda m: ProbabilityFlow(m, "rk4", "t"),
    "dopri5": lambda m: ProbabilityFlow(m, COARSE),
    "dopri5_ve": lambda m: ProbabilityFlow(m, COARSE, "ve"),
    "dopri5_batch": lambda m: ProbabilityFlow(m, COARSE, per_sample=False),
    "sde_srk": lambda m: ReverseSDE(m, "srk"),
    "sde_adaptive": lambda m: ReverseSDE(m, "euler", AdaptiveSDE(0.5, 0.5)),
    "srk_adaptive": lambda m: ReverseSDE(m, "srk", AdaptiveSDE(0.5, 0.5)),
    "srk_adaptive_batch": lambda m: ReverseSDE(m, "srk", AdaptiveSDE(0.5, 0.5), per_sample=False),
}
#: Samplers whose samples depend on the batch, as they say.
OF_A_BATCH = {"dopri5_batch", "srk_adaptive_batch"}
GRID = even_log_snr(SubVP(), 4, 0.05)


def sampler_of(name):
    return SAMPLERS[name](MILD.score_model(SubVP()))


def reports(sampler, count=3, batch_size=3):
    """(samples, what a callback was told)."""
    told = []
    x = generate(sampler, GRID, (1,), count, seed=5, batch_size=batch_size, dtype=torch.float64, callback=told.append)
    return x, told


def test_every_sampler_is_here():
    classes = {c for c in map(package.__dict__.get, package.__all__) if isinstance(c, type) and issubclass(c, Sampler)}
    # Of statistics, of a grid of its own, around another one: test_peers, test_sampler_table, test_one_graph.
    elsewhere = {DPMSolverV3, TableSampler, OneGraph}
    assert {type(sampler_of(name)) for name in SAMPLERS} == classes - {Sampler} - elsewhere


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_callback_is_told_the_whole_path(name):
    """One report per step of the plan; the first x is the draw of x_T, each x_s the next x, and the last the samples."""
    sampler = sampler_of(name)
    x, told = reports(sampler)
    plan = sampler.plan(GRID)
    assert [report["i"] for report in told] == list(range(len(plan)))
    assert [(report["t"], report["s"]) for report in told] == [(step.t, step.s) for step in plan]
    assert [report["sigma"] for report in told] == [step.t.sigma / step.t.alpha for step in plan]
    assert all(report["indices"] == range(3) for report in told)
    start = prior_sample(SubVP(), SampleNoise(5, range(3)), torch.empty(3, 1, dtype=torch.float64))
    assert torch.equal(told[0]["x"], start)
    for before, after in itertools.pairwise(told):
        assert before["x_s"] is after["x"]
    assert torch.equal(told[-1]["x_s"], x)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "churn"])
def test_denoised_is_the_networks_x_0_at_the_start_of_the_step(name):
    """To the rounding of a change of variables and back."""
    _, told = reports(sampler_of(name))
    model = MILD.score_model(SubVP())
    for report in told:
        expected = model.predict(report["x"], report["t"]).x_0
        torch.testing.assert_close(report["denoised"], expected, rtol=1e-9, atol=1e-9)
        assert report["sigma_hat"] == pytest.approx(report["sigma"], rel=1e-9)


def test_churn_is_denoised_where_it_rose_to():
    class Same:
        def draw(self, like):
            return torch.full_like(like, 0.3)

    sampler, told = sampler_of("churn"), []
    start = torch.tensor([[1.0], [-20.0]], dtype=torch.float64)
    carry(sampler, sampler.plan(GRID), start, Same(), callback=told.append)
    rises = [report["sigma_hat"] > report["sigma"] for report in told]
    assert rises == [False, True, True, True]  # no schedule reaches beyond t = 1
    for report, step in zip(told, sampler.plan(GRID), strict=True):
        u = report["x"] / step.t.alpha + step.noise * 0.3
        expected = sampler.model.predict(u * step.hat.alpha, step.hat).x_0
        torch.testing.assert_close(report["denoised"], expected, rtol=1e-9, atol=1e-9)
        assert report["sigma_hat"] == step.hat.sigma / step.hat.alpha


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_callback_leaves_no_trace(name):
    """The same bits from the same calls; and what it was told is not written to later."""
    sampler, copies = sampler_of(name), []

    def keep(report):
        copies.append((report, {k: v.clone() for k, v in report.items() if isinstance(v, torch.Tensor)}))

    options = {"seed": 5, "batch_size": 2, "dtype": torch.float64}
    with sampler.model.metered() as cost:
        expected = generate(sampler, GRID, (1,), 3, **options)
    with sampler.model.metered() as told:
        assert torch.equal(generate(sampler, GRID, (1,), 3, callback=keep, **options), expected)
    assert told == cost
    for report, copied in copies:
        assert all(torch.equal(report[k], v) for k, v in copied.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in OF_A_BATCH])
def test_reports_do_not_depend_on_the_batch_size(name):
    """Put together by step, batches report what one batch does, to the bit; `indices` tells them apart."""
    _, whole = reports(sampler_of(name))
    for size in (1, 2):
        _, told = reports(sampler_of(name), batch_size=size)
        assert len(told) == len(whole) * -(-3 // size)
        for expected in whole:
            batches = [report for report in told if report["i"] == expected["i"]]
            assert [i for report in batches for i in report["indices"]] == list(expected["indices"])
            for key in ("x", "x_s", "denoised"):
                assert torch.equal(torch.cat([report[key] for report in batches]), expected[key]), key


def test_indices_go_on_where_a_set_ended():
    told = []
    generate(sampler_of("ancestral"), GRID, (1,), range(10, 13), batch_size=2, callback=told.append)
    assert [report["indices"] for report in told] == [range(10, 12)] * 4 + [range(12, 13)] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_callback_can_stop(name):
    class Enough(Exception):
        pass

    def stop(report):
        raise Enough

    sampler, told = sampler_of(name), []
    with pytest.raises(Enough):
        generate(sampler, GRID, (1,), 3, callback=stop)
    carry(sampler, sampler.plan(GRID), torch.ones(1, 1), SampleNoise(0, range(1)), callback=told.append)
    assert len(told) == len(sampler.plan(GRID))


def test_a_state_that_is_not_finite_is_seen_when_it_arises():
    """Before the network is asked about it: here the second step overflows, and the third never runs."""
    model = ScoreModel(lambda x, t: torch.full_like(x, 3e38), LinearVP())

    def check(report):
        if not torch.isfinite(report["x_s"]).all():
            raise RuntimeError(f"step {report['i']}")

    sampler = Ancestral(model, BetaTilde())
    with model.metered() as cost, pytest.raises(RuntimeError, match="step"):
        generate(sampler, even(6, 0.01), (1,), 2, callback=check)
    assert cost.calls < 6


# --- networks that are asked in parts -----------------------------------------------------------------------------------


class Parts(Sampler[Step]):
    """x_s = x0_hat, from calls for the given slices of the batch, each asked twice."""

    def __init__(self, model, slices):
        self.model, self.slices = model, slices

    def calls(self, grid):
        return None

    def plan(self, grid):
        return intervals(self.model.schedule, grid)

    def step(self, x_t, step, state, noise):
        for part in self.slices:
            for _ in range(2):
                self.model.predict(x_t[part], step.t)
        return x_t + 0.0, state


def denoised(slices, x):
    sampler, told = Parts(MILD.score_model(LinearVP()), slices), []
    carry(sampler, sampler.plan(even(1, 0.1)), x, SampleNoise(0, range(len(x))), callback=told.append)
    return told[0]


def test_parts_are_put_together_where_they_make_up_the_batch():
    x = torch.randn(5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = MILD.score_model(LinearVP()).predict(x, LinearVP().level(1.0)).x_0
    for slices in ([slice(0, 5)], [slice(0, 2), slice(2, 5)], [slice(i, i + 1) for i in range(5)]):
        torch.testing.assert_close(denoised(slices, x)["denoised"], expected)
    for slices in ([slice(0, 2)], [slice(0, 2), slice(2, 4)], [slice(0, 3), slice(1, 5)]):
        assert denoised(slices, x)["denoised"] is None


def test_a_step_that_asks_nothing_has_nothing_denoised():
    report = denoised([], torch.ones(2, 1, dtype=torch.float64))
    assert report["denoised"] is None
    assert report["sigma_hat"] == report["sigma"]
