"""The host waits for a device once per batch: to see that the samples are numbers, or for what was measured.

The device is emulated (`fake_device.py`) and notes each operation whose result, or whose place in memory, the host waits for.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import fake_device
from score_sde_analytic import Budget, Chain, ContinuousTime, DataRange, LinearVP, ScoreModel, bits_per_dim, generate
from score_sde_analytic.covariance import Diagonal, Isotropic
from score_sde_analytic.data import DCT, PCA
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.measure import EmpiricalStatistics, HighFrequency, NoiseCurve, Spectrum, estimate
from score_sde_analytic.models import DynamicThreshold, ZeroBased
from score_sde_analytic.process import CategoricalDecoder, NoDecoder, SampleNoise
from score_sde_analytic.samplers import (
    LMS,
    AnalyticMultistep,
    Ancestral,
    DPMSolverPP,
    DPMSolverV3,
    Heun,
    Langevin,
    PredictorCorrector,
    TableSampler,
    table_of,
)

VP = LinearVP()
GRID = even_log_snr(VP, 4, 1e-3)
LOG_SNR = np.array([-6.0, 6.0])
CURVE = NoiseCurve(LOG_SNR, np.array([0.0, 1.0]))
ISOTROPIC = Isotropic(CURVE)
RISING = np.linspace(-1.0, 3.0, 16)[None, None] + np.arange(2.0)[:, None, None]
DIAGONAL = Diagonal(Spectrum(LOG_SNR, RISING, np.zeros((2, 0)), np.ones(16)), DCT())
PRINCIPAL = Diagonal(Spectrum(LOG_SNR, RISING[..., :3], np.zeros((2, 0)), np.array([1, 1, 14])), PCA(np.eye(16)[:2]))
BINS = Spectrum(LOG_SNR, np.repeat(RISING, 2, 1), np.tile([-2.0, -1.0, 0.0], (2, 1)), np.ones(16))
TEXTURED = Diagonal(BINS, DCT(), HighFrequency())
RANGE = DataRange(-1.0, 1.0, 16)
DATA = RANGE.encode(np.random.default_rng(0).integers(0, 16, (40, 1, 4, 4)))
QUIET = {"progress": False, "device": "meta"}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Where the host waited; noise is made on the device."""
    draw = SampleNoise.draw
    there = lambda noise, like: draw(noise, torch.empty(like.shape, dtype=like.dtype)).to(like.device, non_blocking=True)  # noqa: E731
    begin = SampleNoise.__init__
    monkeypatch.setattr(SampleNoise, "draw", there)
    monkeypatch.setattr(SampleNoise, "__init__", lambda noise, seed, indices, device="cpu": begin(noise, seed, indices))
    with fake_device.device() as device:
        yield device.waits


def model(**settings) -> ScoreModel:
    return ScoreModel(lambda x, labels: 0.8 * x, VP, fingerprint="linear", **settings)


def test_waits_are_noted(waits):
    x = torch.tensor([1.0, -1.0, 2.0], device="meta")
    before = len(waits)
    asking = [
        lambda: x.sum().item(),
        lambda: bool((x > 0).any()),
        lambda: x[x > 0],
        lambda: x.cpu(),
        lambda: torch.ones(2).to("meta"),
    ]
    for ask in asking:
        ask()
    assert len(waits) == before + len(asking)
    torch.ones(2).to("meta", non_blocking=True)
    assert (x[x.long().clamp(0)] + 1.0).shape == (3,)
    assert len(waits) == before + len(asking)


V3 = EmpiricalStatistics(LOG_SNR, *(np.full((2, 1), value) for value in (0.2, 0.1, 0.05)))
SAMPLERS = {
    "isotropic": lambda: Ancestral(model(), ISOTROPIC),
    "clamped": lambda: Ancestral(model(clamp=(-1, 1)), ISOTROPIC),
    "threshold": lambda: Ancestral(model(clamp=DynamicThreshold()), ISOTROPIC),
    "table index": lambda: Ancestral(model(times=ZeroBased(1000, integer=True)), ISOTROPIC),
    "cosines": lambda: Ancestral(model(), DIAGONAL),
    "principal": lambda: Ancestral(model(), PRINCIPAL),
    "statistic": lambda: Ancestral(model(), TEXTURED),
    "multistep": lambda: AnalyticMultistep(model(), ISOTROPIC),
    "heun": lambda: Heun(model(), s_churn=2.0),
    "lms": lambda: LMS(model()),
    "table": lambda: TableSampler(model(), TABLE),
    "langevin": lambda: PredictorCorrector(Ancestral(model(), ISOTROPIC), Langevin()),
    "dpm": lambda: DPMSolverPP(model()),
    "sde dpm": lambda: DPMSolverPP(model(), noisy=True),
    "v3": lambda: DPMSolverV3(model(), V3),
}
TABLE = table_of(LMS(model()), GRID)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples(waits, name):
    """Two batches."""
    sampler = SAMPLERS[name]()
    x = generate(sampler, getattr(sampler, "grid", GRID), (1, 4, 4), 4, batch_size=2, device="meta")
    assert x.device.type == "meta"
    assert len(waits) == 2, waits


def test_samples_with_conditions(waits):
    """Sent once for all."""
    network = ScoreModel(lambda x, labels, shift: 0.8 * x + shift[:, None, None, None], VP, fingerprint="shifted")
    generate(Heun(network), GRID, (1, 4, 4), 4, batch_size=2, device="meta", conditions={"shift": torch.ones(4)})
    assert len(waits) == 2, waits


def test_a_pass(waits):
    """Two rounds of three knots."""
    budget = Budget(min_draws=40, max_draws=40, batch_size=20, groups=20)
    estimate(model(), DATA, [-2.0, 0.0, 3.0], budget, data_range=RANGE, **QUIET)
    assert len(waits) == 6, waits


METHODS = {
    "isotropic": Chain(GRID, ISOTROPIC, 0.1),
    "cosines": Chain(GRID, DIAGONAL, 0.1),
    "statistic": Chain(GRID, TEXTURED, 0.1),
    "categorical": Chain(GRID, ISOTROPIC, CategoricalDecoder()),
    "density": Chain(GRID, ISOTROPIC, NoDecoder()),
    "continuous": ContinuousTime(0.01, 0.1, 4, CURVE),
}


@pytest.mark.parametrize("name", METHODS)
def test_bounds(waits, name):
    """Two blocks."""
    bits_per_dim(model(), DATA[:8], METHODS[name], RANGE, batch_size=4, **QUIET)
    assert len(waits) == 2, waits
