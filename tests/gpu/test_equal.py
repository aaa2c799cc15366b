"""What a GPU computes is what the CPU computes, but for rounding."""

import math

import numpy as np
import pytest
import torch
from networks import VP, small

import fake_device
from score_sde_analytic import Budget, Chain, ContinuousTime, DataRange, Flow, bits_per_dim, generate, metrics
from score_sde_analytic.covariance import BetaTilde, Diagonal, Isotropic, Tweedie
from score_sde_analytic.data import DCT, PCA, ColourDCT
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.likelihood import Diffused, ExactTrace, Fixed, Hutchinson, Uniform
from score_sde_analytic.measure import EmpiricalStatistics, HighFrequency, NoiseCurve, Recorder, Spectrum, estimate
from score_sde_analytic.models import Prediction
from score_sde_analytic.process import CategoricalDecoder, GaussianDecoder, NoDecoder, kernels, noise
from score_sde_analytic.samplers import (
    DEIS,
    IPNDM,
    LMS,
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    DPMSolverSinglestep,
    DPMSolverV3,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    SASolver,
    TableSampler,
    UniPC,
    table_of,
)

pytestmark = pytest.mark.gpu

GRID = even_log_snr(VP, 5, 2e-2)
LOG_SNR = np.array([-6.0, -2.0, 1.0, 5.0])
CURVE = NoiseCurve(LOG_SNR, np.array([-1.0, 0.3, 0.9, 2.5]))
RISING = np.linspace(-1.0, 3.0, 48)[None, None] + np.arange(4.0)[:, None, None]
SPECTRUM = Spectrum(LOG_SNR, RISING, np.zeros((4, 0)), np.ones(48))
BINS = Spectrum(LOG_SNR, np.repeat(RISING, 2, 1), np.tile([-2.0, -1.0, 0.0], (4, 1)), np.ones(48))
TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(48, 48)))[0]
FEW = Spectrum(LOG_SNR, RISING[..., :9], np.zeros((4, 0)), np.array([1] * 8 + [40]))
COVARIANCES = {
    "isotropic": Isotropic(CURVE),
    "dct": Diagonal(SPECTRUM, DCT()),
    "colour": Diagonal(SPECTRUM, ColourDCT(np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2)[0])),
    "pca": Diagonal(FEW, PCA(TURN[:8])),
    "statistic": Diagonal(BINS, DCT(), HighFrequency()),
}
RANGE = DataRange(-1.0, 1.0, 16)
DATA = RANGE.encode(np.random.default_rng(0).integers(0, 16, (48, 3, 4, 4)))
SHAPE = (3, 4, 4)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Products in float32, and noise of the host wherever it is used."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(noise, "torch", fake_device.HostGenerators())


def both(gpu, work):
    """(there, here) of some work on a model."""
    return work(small(gpu, 3), gpu), work(small(channels=3), torch.device("cpu"))


def near(there, here, tolerance=2e-5):
    torch.testing.assert_close(there.cpu().double(), here.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", COVARIANCES)
def test_covariances(gpu, name):
    generator = torch.Generator().manual_seed(0)
    x_t, mean, eps, z, x_0 = torch.randn(5, 3, *SHAPE, generator=generator)
    levels = VP.levels([0.7, 0.2])
    (kernel,) = kernels(levels, 1.0)
    (step,) = COVARIANCES[name].steps([kernel], levels[:-1])

    def noisy(device):
        prediction = Prediction(x_t.to(device), levels[0], eps.to(device), "eps")
        return step.add_noise(mean.to(device), prediction, z.to(device)), step.kl(kernel, prediction, x_0.to(device))

    for there, here in zip(noisy(gpu), noisy("cpu"), strict=True):
        near(there, here)


def test_the_moments_of_a_pass(gpu):
    budget = Budget(min_draws=96, max_draws=96, batch_size=32)

    def measured(model, device):
        recorder = Recorder(DCT(), {"texture": HighFrequency()})
        options = {"data_range": RANGE, "device": device, "progress": False, "observers": {"draws": recorder}}
        return estimate(model, DATA, LOG_SNR, budget, **options), recorder.result(LOG_SNR)

    (there, seen), (here, expected) = both(gpu, measured)
    np.testing.assert_allclose(there.sums, here.sums, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(there.decoder_sums, here.decoder_sums, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(seen.rms, expected.rms, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(seen.phi["texture"], expected.phi["texture"], rtol=1e-3, atol=1e-3)


METHODS = {name: Chain(GRID, covariance, 0.2) for name, covariance in COVARIANCES.items()}
METHODS |= {
    "categorical": Chain(GRID, COVARIANCES["isotropic"], CategoricalDecoder()),
    "density": Chain(GRID, COVARIANCES["isotropic"], NoDecoder()),
    "continuous": ContinuousTime(0.05, GaussianDecoder(0.2), 4, CURVE),
    "flow": Flow(2e-2, Uniform(), ExactTrace(), Fixed(3, "euler")),
    "probes": Flow(2e-2, Diffused(GaussianDecoder(0.2)), Hutchinson(), Fixed(3, "rk4")),
}


@pytest.mark.parametrize("name", METHODS)
def test_bits(gpu, name):
    there, here = both(
        gpu, lambda model, device: bits_per_dim(model, DATA[:8], METHODS[name], RANGE, device=device, progress=False).terms
    )
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4)


def test_bits_by_the_jacobian(gpu):
    def measured(model, device):
        chain = Chain(GRID, Tweedie(model, method="exact"), 0.2)
        return bits_per_dim(model, DATA[:2], chain, RANGE, device=device, progress=False).terms

    np.testing.assert_allclose(*both(gpu, measured), rtol=1e-4, atol=1e-4)


def v3(model):
    cross = np.linspace(-0.3, 0.3, 4)[:, None]
    return DPMSolverV3(model, EmpiricalStatistics(LOG_SNR, cross, 0.1 * cross, 0.05 * cross))


def tabled(model):
    return TableSampler(model, table_of(LMS(model), GRID))


SAMPLERS = {name: lambda model, c=covariance: Ancestral(model, c) for name, covariance in COVARIANCES.items()} | {
    "ddim": lambda model: Ancestral(model, BetaTilde(), eta=0.0),
    "multistep": lambda model: AnalyticMultistep(model, COVARIANCES["isotropic"]),
    "heun": lambda model: Heun(model, s_churn=2.0),
    "flow": lambda model: ProbabilityFlow(model, "rk4"),
    "euler_maruyama": EulerMaruyama,
    "langevin": lambda model: PredictorCorrector(ReverseDiffusion(model), Langevin()),
    "lms": LMS,
    "table": tabled,
    "v3": v3,
    "dpm": DPMSolverPP,
    "sde_dpm": lambda model: DPMSolverPP(model, noisy=True),
    "unipc": UniPC,
    "deis": DEIS,
    "ipndm": IPNDM,
    "singlestep": DPMSolverSinglestep,
    "sa": SASolver,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples(gpu, name):
    def drawn(model, device):
        sampler = SAMPLERS[name](model)
        grid = getattr(sampler, "grid", GRID)
        return generate(sampler, grid, SHAPE, 5, batch_size=3, device=device)

    there, here = both(gpu, drawn)
    assert there.device.type == gpu.type
    near(there, here, 5e-4)


MEASURES = {
    "frechet": metrics.Frechet(),
    "kid": metrics.KID(),
    "energy": metrics.EnergyDistance(),
    "mmd": metrics.GaussianMMD(),
    "sliced": metrics.SlicedWasserstein(),
    "precision": metrics.Precision(),
    "recall": metrics.Recall(),
}


@pytest.mark.parametrize("name", MEASURES)
def test_metrics(gpu, name):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 120, 6, generator=generator) * torch.tensor([[[1.0]], [[1.2]]])
    there, here = (MEASURES[name](x.to(device), y.to(device)) for device in (gpu, "cpu"))
    assert math.isclose(there.value, here.value, rel_tol=1e-4, abs_tol=1e-6)
    assert math.isclose(there.stderr, here.stderr, rel_tol=1e-3, abs_tol=1e-6)


def test_a_network_in_half_precision_and_with_the_channels_last(gpu):
    exact = generate(Heun(small(gpu, 3)), GRID, SHAPE, 5, device=gpu)
    half = generate(Heun(small(gpu, 3, dtype=torch.bfloat16)), GRID, SHAPE, 5, device=gpu)
    assert half.dtype == torch.float32
    near(half, exact.cpu(), 0.1)
    whole = small(gpu, 3)
    model = type(whole)(whole.net.to(memory_format=torch.channels_last), VP, predicts="v", fingerprint="small")
    near(generate(Heun(model), GRID, SHAPE, 5, device=gpu), exact.cpu(), 5e-4)
