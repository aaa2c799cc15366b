"""All steps as one graph: the samples, the noise, the conditions and the costs of the steps one by one."""

import numpy as np
import pytest
import torch

from score_sde_analytic import CosineVP, GaussianMixture, LinearVP, ScoreModel, generate
from score_sde_analytic.covariance import Diagonal, Isotropic
from score_sde_analytic.data import DCT
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.measure import NoiseCurve, Spectrum
from score_sde_analytic.models import Adaptive
from score_sde_analytic.models.compiled import compiled
from score_sde_analytic.models.networks import LearnedRange, WithFeatures, learns_range
from score_sde_analytic.samplers import (
    LMS,
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    Langevin,
    OneGraph,
    PredictorCorrector,
    ProbabilityFlow,
    TableSampler,
    table_of,
)

VP = LinearVP()
GRID = even_log_snr(VP, 4, 1e-2)
LOG_SNR = np.array([-6.0, 6.0])
CURVE = NoiseCurve(LOG_SNR, np.array([0.0, 1.0]))
RISING = np.linspace(-1.0, 3.0, 16)[None, None] + np.arange(2.0)[:, None, None]
DIAGONAL = Diagonal(Spectrum(LOG_SNR, RISING, np.zeros((2, 0)), np.ones(16)), DCT())
SHAPE = (1, 4, 4)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t, shift=None):
        said = torch.tanh(self.layer(x) + t.to(x)[:, None, None, None])
        return said if shift is None else said + shift.to(x)[:, None, None, None]


class Last(torch.nn.Module):
    """A network whose last layer is known by its name."""

    def __init__(self, outputs):
        super().__init__()
        self.conv_out = torch.nn.Conv2d(1, outputs, 3, padding=1)

    def forward(self, x, t):
        return self.conv_out(torch.tanh(x))


def small(schedule=VP, **settings):
    torch.manual_seed(0)
    return ScoreModel(Small(), schedule, predicts="v", clamp=(-2.0, 2.0), fingerprint="small", **settings)


MODEL = small()
SAMPLERS = {
    "isotropic": Ancestral(MODEL, Isotropic(CURVE)),
    "cosines": Ancestral(MODEL, DIAGONAL),
    "multistep": AnalyticMultistep(MODEL, Isotropic(CURVE)),
    "heun": Heun(MODEL, s_churn=2.0),
    "lms": LMS(MODEL),
    "euler_maruyama": EulerMaruyama(MODEL),
    "langevin": PredictorCorrector(Ancestral(MODEL, Isotropic(CURVE)), Langevin()),
    "dpm": DPMSolverPP(MODEL),
    "sde_dpm": DPMSolverPP(MODEL, noisy=True),
    "table": TableSampler(MODEL, table_of(LMS(MODEL), GRID)),
}


@pytest.fixture
def traced(monkeypatch):
    """The graph as it was traced, and how often one was made."""
    made = []

    def keep(graph, fullgraph, dynamic):
        assert fullgraph
        made.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", keep)
    return made


def drawn(sampler, grid=GRID, count=6, **options):
    """Batches of three."""
    return generate(sampler, grid, SHAPE, count, batch_size=3, **options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_samples_are_those_of_the_steps(traced, name):
    """One graph serves all batches; its operations are those of the steps, to the last bit."""
    sampler = SAMPLERS[name]
    graph, grid = OneGraph(sampler, fuse=True), getattr(sampler, "grid", GRID)
    rounding = 1e-5 if name == "cosines" else 0.0  # which the host takes by a fast transform that is not recorded
    for seed in (0, 1):
        torch.testing.assert_close(drawn(graph, grid, seed=seed), drawn(sampler, grid, seed=seed), rtol=rounding, atol=rounding)
    assert len(traced) == 1


def test_a_smaller_batch_is_filled_up(traced):
    """Products of another size round otherwise."""
    found, expected = (drawn(each, count=7) for each in (OneGraph(SAMPLERS["heun"], fuse=True), SAMPLERS["heun"]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(traced) == 1


@pytest.mark.slow
def test_the_samples_of_a_compiled_program():
    sampler = SAMPLERS["isotropic"]
    torch.testing.assert_close(drawn(OneGraph(sampler, fuse=True)), drawn(sampler), rtol=1e-5, atol=1e-5)


def test_a_larger_batch_and_another_model_have_graphs_of_their_own(traced):
    graph = OneGraph(SAMPLERS["heun"], fuse=True)
    drawn(graph)
    assert torch.equal(generate(graph, GRID, SHAPE, 5), generate(SAMPLERS["heun"], GRID, SHAPE, 5))
    free = graph.with_model(MODEL.unclamped())
    assert torch.equal(drawn(free), drawn(SAMPLERS["heun"].with_model(MODEL.unclamped())))
    assert len(traced) == 3


def test_another_schedule_has_other_steps(traced):
    """Where they are kept by the times alone."""
    other = small(CosineVP())
    graph = OneGraph(SAMPLERS["heun"])
    drawn(graph)
    assert torch.equal(drawn(graph.with_model(other)), drawn(SAMPLERS["heun"].with_model(other)))


def test_conditions_belong_to_their_batch(traced):
    sampler = Heun(small(conditions=["shift"]))
    conditions = {"shift": torch.linspace(-1.0, 1.0, 6)}
    found = drawn(OneGraph(sampler, fuse=True), conditions=conditions)
    assert torch.equal(found, drawn(sampler, conditions=conditions))
    assert len(traced) == 1
    assert not torch.equal(found, drawn(sampler, conditions={"shift": 0.5}))


def test_what_it_costs(traced):
    """A run to see how the steps go, one to trace them, and one per batch."""
    sampler = SAMPLERS["heun"]
    graph = OneGraph(sampler, fuse=True)
    with MODEL.metered() as first:
        drawn(graph)
    with MODEL.metered() as again:
        drawn(graph)
    assert graph.calls(GRID) == sampler.calls(GRID) == 7
    assert (first.calls, again.calls) == (4 * 7, 2 * 7)
    assert again.evaluations == 2 * 7 * 3


def test_it_is_the_sampler_by_name(traced):
    sampler = SAMPLERS["table"]
    graph = OneGraph(sampler, fuse=True)
    assert (graph.name, graph.config(), graph.fingerprints(GRID)) == (
        sampler.name,
        sampler.config(),
        sampler.fingerprints(GRID),
    )
    assert graph.beginning is sampler.beginning


def test_a_number_that_decides_is_refused(traced):
    with pytest.raises(UnsupportedError, match="decides as it goes"):
        drawn(OneGraph(ProbabilityFlow(MODEL, Adaptive())))
    with pytest.raises(UnsupportedError, match="no one graph"):
        drawn(OneGraph(ProbabilityFlow(MODEL, "rk4"), fuse=True))
    mixture = GaussianMixture([1.0], [[0.0] * 16], 1.0).score_model(VP)
    assert generate(OneGraph(Heun(mixture), fuse=True), GRID, (16,), 2).isfinite().all()


def test_a_compiled_network_is_fed_as_the_network_is(monkeypatch):
    """Conditions, and weights in half precision; compiling is torch's affair."""
    monkeypatch.setattr(torch, "compile", lambda net, mode: net)
    plain = small(conditions=["shift"])
    model = compiled(plain, "default")
    shift = torch.tensor([0.1, 0.2])
    x = torch.ones(2, *SHAPE)
    assert torch.equal(model(x, 0.5, shift=shift).v, plain(x, 0.5, shift=shift).v)
    assert model.fingerprint() == plain.fingerprint()
    for net in (LearnedRange(Last(2)), WithFeatures(Last(1))):
        told = ScoreModel(net, VP, predicts="eps")
        one, other = (each(x, 0.5) for each in (told, compiled(told, "default")))
        for name in ("eps", "extra", "learned_range"):
            first, second = getattr(one, name), getattr(other, name)
            assert first is second is None or torch.equal(first, second), name
        assert learns_range(compiled(told, "default").net) == learns_range(net)
    plain.net.bfloat16()
    assert compiled(plain, "default")(x, 0.5, shift=shift).v.dtype == torch.float32
