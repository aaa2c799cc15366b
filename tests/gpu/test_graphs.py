"""A sampler's steps as one graph give the samples of the steps; and nothing in them waits for the host."""

import warnings

import numpy as np
import pytest
import torch
from networks import VP, small

from score_sde_analytic import Budget, Chain, ContinuousTime, DataRange, bits_per_dim, generate
from score_sde_analytic.covariance import Diagonal, Isotropic
from score_sde_analytic.data import DCT
from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.measure import NoiseCurve, Spectrum, estimate
from score_sde_analytic.models.compiled import compiled
from score_sde_analytic.process import CategoricalDecoder
from score_sde_analytic.samplers import (
    LMS,
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    Heun,
    Langevin,
    OneGraph,
    PredictorCorrector,
    TableSampler,
    UniPC,
    table_of,
)

pytestmark = pytest.mark.gpu

GRID = even_log_snr(VP, 4, 2e-2)
LOG_SNR = np.array([-6.0, 6.0])
CURVE = NoiseCurve(LOG_SNR, np.array([0.0, 1.0]))
RISING = np.linspace(-1.0, 3.0, 16)[None, None] + np.arange(2.0)[:, None, None]
DIAGONAL = Diagonal(Spectrum(LOG_SNR, RISING, np.zeros((2, 0)), np.ones(16)), DCT())
SHAPE = (1, 4, 4)
DATA = torch.randn(48, *SHAPE, generator=torch.Generator().manual_seed(0)).clamp(-1.0, 1.0)

SAMPLERS = {
    "isotropic": lambda model: Ancestral(model, Isotropic(CURVE)),
    "diagonal": lambda model: Ancestral(model, DIAGONAL),
    "multistep": lambda model: AnalyticMultistep(model, Isotropic(CURVE)),
    "heun": lambda model: Heun(model, s_churn=2.0),
    "lms": LMS,
    "table": lambda model: TableSampler(model, table_of(LMS(model), GRID)),
    "langevin": lambda model: PredictorCorrector(Ancestral(model, Isotropic(CURVE)), Langevin()),
    "dpm": DPMSolverPP,
    "sde_dpm": lambda model: DPMSolverPP(model, noisy=True),
}


def drawn(sampler, gpu, count=7, batch_size=3, **options):
    grid = getattr(sampler, "grid", GRID)
    return generate(sampler, grid, SHAPE, count, batch_size=batch_size, device=gpu, **options)


def close(there, here, tolerance=1e-4):
    torch.testing.assert_close(there, here, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_graph_gives_the_samples_of_its_steps(gpu, name):
    """Full batches and the last, smaller one; twice, so that a graph is used again."""
    sampler = SAMPLERS[name](small(gpu))
    graph = type("Own", (OneGraph,), {"grid": property(lambda self: getattr(self.sampler, "grid", GRID))})(sampler)
    for seed in (0, 1):
        close(drawn(graph, gpu, seed=seed), drawn(sampler, gpu, seed=seed))


def test_a_graph_takes_the_conditions_of_each_batch(gpu):
    sampler = Ancestral(small(gpu, conditions=["shift"]), Isotropic(CURVE))
    conditions = {"shift": torch.linspace(-1.0, 1.0, 7)}
    graph = drawn(OneGraph(sampler), gpu, conditions=conditions)
    close(graph, drawn(sampler, gpu, conditions=conditions))
    assert (graph - drawn(sampler, gpu, conditions={"shift": 0.0})).abs().max() > 1e-2


def test_steps_and_network_as_one_program(gpu):
    sampler = Ancestral(small(gpu), Isotropic(CURVE))
    close(drawn(OneGraph(sampler, fuse=True), gpu), drawn(sampler, gpu), 1e-3)


def test_a_compiled_network_in_a_graph(gpu):
    plain = small(gpu)
    model = compiled(plain, "default")
    expected = drawn(Heun(plain), gpu)
    close(drawn(Heun(model), gpu, batch_size=7), expected, 1e-3)
    close(drawn(OneGraph(Heun(model)), gpu, batch_size=7), expected, 1e-3)


# --- the host waits for a GPU once per batch ------------------------------------------------------------------------------


def waits(gpu, work):
    """Where the host waited, the second time that this is done."""
    if gpu.type != "cuda":
        pytest.skip("only CUDA says when it is waited for")
    work()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{one.filename}:{one.lineno}" for one in heard if "called a synchronizing" in str(one.message)]


def test_waits_are_heard(gpu):
    x = torch.ones(2, device=gpu)
    places = waits(gpu, lambda: [x.sum().item() for _ in range(3)])
    assert len(places) == 3, places


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_wait_once_per_batch(gpu, name):
    sampler = SAMPLERS[name](small(gpu))
    places = waits(gpu, lambda: drawn(sampler, gpu))
    assert len(places) == 3, places


def test_a_graph_waits_once_per_batch(gpu):
    graph = OneGraph(Heun(small(gpu), s_churn=2.0))
    places = waits(gpu, lambda: drawn(graph, gpu))
    assert len(places) == 3, places


def test_a_pass_waits_for_copies_alone(gpu):
    """Once per batch, on an event of its own and not on all that is under way."""
    budget = Budget(min_draws=48, max_draws=48, batch_size=16)
    model = small(gpu)
    places = waits(gpu, lambda: estimate(model, DATA, [-2.0, 0.0, 2.0], budget, device=gpu, progress=False))
    assert len(places) == 0, places


METHODS = {
    "isotropic": Chain(GRID, Isotropic(CURVE), 0.2),
    "diagonal": Chain(GRID, DIAGONAL, 0.2),
    "continuous": ContinuousTime(0.05, 0.2, 4, CURVE),
}


@pytest.mark.parametrize("name", METHODS)
def test_bounds_wait_once_per_batch(gpu, name):
    model = small(gpu)
    work = lambda: bits_per_dim(model, DATA, METHODS[name], device=gpu, batch_size=16, progress=False)  # noqa: E731
    places = waits(gpu, work)
    assert len(places) == 3, places


def test_a_categorical_decoder_waits_once_per_batch(gpu):
    data_range = DataRange(-1.0, 1.0, 256)
    data = data_range.encode(np.random.default_rng(0).integers(0, 256, (48, *SHAPE)))
    chain = Chain(GRID, Isotropic(CURVE), CategoricalDecoder())
    model = small(gpu)
    places = waits(gpu, lambda: bits_per_dim(model, data, chain, data_range, device=gpu, batch_size=16, progress=False))
    assert len(places) == 3, places


# --- last, as a recording that broke off may leave its traces ------------------------------------------------------------


def test_what_copies_from_the_host_is_refused(gpu):
    if gpu.type != "cuda":
        pytest.skip("only CUDA records graphs")
    with pytest.raises(UnsupportedError, match="cannot be recorded"):
        drawn(OneGraph(UniPC(small(gpu), order=3)), gpu)
    close(drawn(OneGraph(LMS(small(gpu))), gpu), drawn(LMS(small(gpu)), gpu))  # and nothing is broken by that
