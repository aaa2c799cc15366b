"""The main path on a device without float64, as Apple's: estimate, sample and bits per dimension.

The device is emulated (`fake_device.py`): any operation there that meets float64 raises what MPS raises.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import fake_device
from score_sde_analytic import Budget, Chain, ContinuousTime, DataRange, Flow, LinearVP, ScoreModel, bits_per_dim, generate
from score_sde_analytic.covariance import Diagonal, Isotropic, Tweedie
from score_sde_analytic.data import DCT
from score_sde_analytic.grids import Grid, even_log_snr
from score_sde_analytic.likelihood import Diffused, ExactTrace, Fixed, Hutchinson, Uniform
from score_sde_analytic.measure import NoiseCurve, Spectrum, estimate
from score_sde_analytic.models import LinearDenoiser, MixtureDenoiser
from score_sde_analytic.process import CategoricalDecoder, GaussianDecoder, noise
from score_sde_analytic.samplers import Ancestral, Heun, Langevin, PredictorCorrector

VP = LinearVP()
GRID = even_log_snr(VP, 4, 1e-3)
LOG_SNR = np.array([-6.0, 6.0])
CURVE = NoiseCurve(LOG_SNR, np.array([0.0, 1.0]))
RISING = np.linspace(-1.0, 3.0, 16)[None, None] + np.arange(2.0)[:, None, None]
DIAGONAL = Diagonal(Spectrum(LOG_SNR, RISING, np.zeros((2, 0)), np.ones(16)), DCT())
RANGE = DataRange(-1.0, 1.0, 16)
DATA = RANGE.encode(np.random.default_rng(0).integers(0, 16, (40, 1, 4, 4)))
QUIET = {"progress": False}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(noise, "torch", fake_device.HostGenerators())
    with fake_device.device(narrow=True):
        yield "meta"


def model() -> ScoreModel:
    """A network that runs where its input is."""
    return ScoreModel(lambda x, labels: 0.8 * x, VP, fingerprint="linear")


def test_the_device_is_what_it_stands_for(narrow):
    x = torch.ones(2, 2).to(narrow)
    assert x.device.type == narrow
    assert (2 * x + 1).cpu().tolist() == [[3.0, 3.0], [3.0, 3.0]]
    for wrong in (x.double, lambda: torch.zeros(1, dtype=torch.float64, device=narrow)):
        with pytest.raises(TypeError, match="float64"):
            wrong()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(narrow, dtype):
    options = {"data_range": RANGE, "budget": Budget(min_draws=40, max_draws=40)} | QUIET
    there = estimate(model(), DATA.to(dtype), [-2.0, 0.0, 3.0], device=narrow, **options)
    here = estimate(model(), DATA, [-2.0, 0.0, 3.0], **options)
    if dtype == torch.float32:  # float64 data have noise of their own
        np.testing.assert_allclose(there.sums, here.sums, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(there.residual, here.residual, rtol=0.5)


class Bent(torch.nn.Module):
    """A network whose weight lies on a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.8).to(device))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.weight * x)


def bent(device: str) -> ScoreModel:
    return ScoreModel(Bent(device), VP, fingerprint="bent")


FLOW = {"solver": Fixed(3, "euler"), "divergence": ExactTrace()}
FLOWS = {
    "uniform": Flow(1e-3, Uniform(), **FLOW),
    "diffused": Flow(1e-3, Diffused(GaussianDecoder(0.1)), Hutchinson(), Fixed(3, "euler")),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flow(narrow, name):
    there, here = (
        bits_per_dim(bent(device), DATA[:4], FLOWS[name], RANGE, device=device, **QUIET) for device in (narrow, "cpu")
    )
    np.testing.assert_allclose(there.terms, here.terms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_the_covariance_of_the_jacobian(narrow, method):
    terms, samples = [], []
    for device in (narrow, "cpu"):
        model = bent(device)
        chain = Chain(GRID, Tweedie(model, method=method), 0.1)
        terms.append(bits_per_dim(model, DATA[:4], chain, RANGE, device=device, **QUIET).terms)
        samples.append(generate(Ancestral(model, chain.covariance), GRID, (1, 4, 4), 2, device=device).cpu())
    np.testing.assert_allclose(*terms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*samples, rtol=1e-4, atol=1e-4)


METHODS = {
    "isotropic": Chain(GRID, Isotropic(CURVE), 0.1),
    "diagonal": Chain(GRID, DIAGONAL, 0.1),
    "categorical": Chain(GRID, Isotropic(CURVE), CategoricalDecoder()),
    "continuous": ContinuousTime(0.01, 0.1, 4, CURVE),
}


def test_bits_per_dim(narrow):
    there = bits_per_dim(model(), DATA, METHODS, RANGE, device=narrow, **QUIET)
    here = bits_per_dim(model(), DATA, METHODS, RANGE, **QUIET)
    for name in METHODS:
        np.testing.assert_allclose(there[name].terms, here[name].terms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda m: Ancestral(m, Isotropic(CURVE)),
        lambda m: Ancestral(m, DIAGONAL),
        Heun,
        lambda m: PredictorCorrector(Ancestral(m, Isotropic(CURVE)), Langevin()),
    ],
    ids=["isotropic", "diagonal", "heun", "langevin"],
)
def test_samples(narrow, sampler):
    there = generate(sampler(model()), GRID, (1, 4, 4), 3, device=narrow)
    assert there.device.type == narrow
    here = generate(sampler(model()), GRID, (1, 4, 4), 3)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


LINEAR = LinearDenoiser.of(DATA, DCT(), shrinkage=0.1)
FREE = {"linear": LINEAR, "mixture": MixtureDenoiser.of(DATA, LINEAR, components=(2,), shrinkage=(0.5,), rank=3)}


@pytest.mark.parametrize("name", FREE)
def test_free_models(narrow, name):
    """As the start of samples, the prior of bounds, and a model of its own."""
    free, below = FREE[name], Grid((0.5, 0.1, 0.0))
    methods = {
        "chain": Chain(below, Isotropic(CURVE), 0.1, prior=free),
        "limit": ContinuousTime(0.01, 0.1, 4, CURVE, prior=free),
    }
    terms, samples, means = [], [], []
    for device in (narrow, "cpu"):
        bounds = bits_per_dim(model(), DATA[:4], methods, RANGE, device=device, **QUIET)
        terms.append(np.concatenate([bounds[each].terms for each in methods], 1))
        samples.append(generate(Heun(model()), below, (1, 4, 4), 3, device=device, start=free).cpu())
        means.append(free.score_model(VP)(DATA[:4].to(device), 0.5).x_0.cpu())
    np.testing.assert_allclose(*terms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*samples, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*means, rtol=1e-4, atol=1e-4)
