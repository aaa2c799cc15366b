"""What each room computes does not depend on the device, nor on the precision of the states beyond its rounding.

`pytest --device=cuda --dtype=bfloat16` runs these elsewhere; the reference is always the CPU in float64.
"""

import math

import numpy as np
import pytest
import torch

from score_sde_analytic import Budget, Chain, ContinuousTime, GaussianMixture, LinearVP, bits_per_dim
from score_sde_analytic.covariance import Diagonal, Isotropic
from score_sde_analytic.data import DCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.measure import NoiseCurve, Spectrum, estimate
from score_sde_analytic.models import LinearDenoiser, Prediction
from score_sde_analytic.process import GaussianDecoder, SampleNoise, kernels
from score_sde_analytic.samplers import Ancestral, Heun, carry, generate, record_paths

VP = LinearVP()
GRID = even_log_snr(VP, 8, 1e-3)
LOG_SNR = np.array([-6.0, -2.0, 1.0, 5.0])
#: A curve and, for images of 4 x 4, a spectrum whose labels differ.
CURVE = NoiseCurve(LOG_SNR, np.array([-1.0, 0.3, 0.9, 2.5]))
RISING = np.linspace(-1.0, 3.0, 16)[None, None] + np.arange(4.0)[:, None, None]
SPECTRUM = Spectrum(LOG_SNR, RISING, np.zeros((4, 0)), np.ones(16))
COVARIANCES = {"isotropic": Isotropic(CURVE), "dct": Diagonal(SPECTRUM, DCT())}


def mixture():
    """A fresh one: its model moves to a device."""
    return GaussianMixture([0.5, 0.3, 0.2], [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], [0.05, 0.2, 0.1])


def model_on(device):
    return mixture().to(device).score_model(VP)


def close(found, expected, dtype):
    """Equal but for the rounding of `dtype`, gathered over a few operations."""
    assert found.dtype == dtype
    tolerance = 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance)


# --- covariance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COVARIANCES)
def test_a_step_adds_the_same_noise(name, device, dtype):
    generator = torch.Generator().manual_seed(0)
    x_t, mean, eps, z = (torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=generator) for _ in range(4))
    levels = VP.levels([0.7, 0.2])
    (step,) = COVARIANCES[name].steps(kernels(levels, 1.0), levels[:-1])
    expected = step.add_noise(mean.clone(), Prediction(x_t, levels[0], eps, "eps"), z)
    x_t, mean, eps, z = (x.to(device, dtype) for x in (x_t, mean, eps, z))
    close(step.add_noise(mean, Prediction(x_t, levels[0], eps, "eps"), z), expected, dtype)


@pytest.mark.parametrize("name", COVARIANCES)
def test_a_step_costs_the_same(name, device, dtype):
    generator = torch.Generator().manual_seed(1)
    x_t, x_0, eps = (torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    levels = VP.levels([0.7, 0.2])
    (kernel,) = kernels(levels, 1.0)
    (step,) = COVARIANCES[name].steps([kernel], levels[:-1])
    expected = step.kl(kernel, Prediction(x_t, levels[0], eps, "eps"), x_0)
    found = step.kl(kernel, Prediction(x_t.to(device, dtype), levels[0], eps.to(device, dtype), "eps"), x_0.to(device, dtype))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=60 * torch.finfo(dtype).eps, atol=0.0)


# --- samplers ------------------------------------------------------------------------------------------------------------


def samplers(model):
    return {"ancestral": Ancestral(model, COVARIANCES["isotropic"]), "heun": Heun(model)}


@pytest.mark.parametrize("name", ["ancestral", "heun"])
def test_the_same_noise_is_carried_to_the_same_sample(name, device, dtype):
    """In the median: rounding may send a sample between two components to either."""
    start = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    samples = []
    for place, precision in (("cpu", torch.float64), (device, dtype)):
        sampler = samplers(model_on(place))[name]
        noise = Rounded(SampleNoise(5, range(16)))
        samples.append(carry(sampler, sampler.plan(GRID), start.to(place, precision), noise))
    assert samples[1].dtype == dtype
    assert samples[1].device.type == device.type
    error = (samples[1].cpu().double() - samples[0]).abs()
    assert error.median() < 100 * torch.finfo(dtype).eps


class Rounded:
    """The same float32 draws for states of every precision."""

    def __init__(self, noise):
        self.noise = noise

    def draw(self, like):
        return self.noise.draw(torch.empty(like.shape)).to(like)


def test_samples_lie_where_they_were_asked_for(device, dtype):
    """Means within 5 standard errors, for the data's standard deviation below 1."""
    x = generate(Heun(model_on(device)), GRID, (2,), 400, seed=3, batch_size=400, device=device, dtype=dtype)
    assert (x.dtype, x.device.type) == (dtype, device.type)
    assert (x.cpu().double().mean(0) - mixture().moments()[0]).abs().max() < 5 / math.sqrt(400) + 0.05


# --- measure -------------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_exact_model(device, dtype):
    """Within 5 standard errors; bfloat16 adds its rounding of eps, 2^-9 of each, to R."""
    data = mixture().sample(500, seed=1).to(dtype)
    budget = Budget(max_draws=500)
    moments = estimate(
        model_on(device), data, LOG_SNR, budget, statistics=mixture().statistics(), device=device, progress=False
    )
    for i, log_snr in enumerate(LOG_SNR):
        exact, error = mixture().residual(VP.level_at(log_snr))
        margin = 5 * math.hypot(moments.stderr("residual")[i], error) + torch.finfo(dtype).eps
        assert abs(moments.residual[i] - exact) < margin


# --- likelihood ----------------------------------------------------------------------------------------------------------


METHODS = {
    "chain": Chain(GRID, COVARIANCES["isotropic"], 0.2),
    "continuous": ContinuousTime(0.05, GaussianDecoder(0.2), 8, CURVE),
}


@pytest.mark.parametrize("name", METHODS)
def test_bounds_are_those_of_the_cpu(name, device, dtype):
    """Other devices draw other noise: two estimates within 5 standard errors of both, and the rounding of the data."""
    data = mixture().sample(300, seed=2)
    options = {"progress": False, "seed": 1, "batch_size": 100}
    expected = bits_per_dim(model_on("cpu"), data, METHODS[name], **options).total
    found = bits_per_dim(model_on(device), data.to(dtype), METHODS[name], device=device, **options).total
    margin = 5 * math.hypot(expected.stderr, found.stderr) + 10 * torch.finfo(dtype).eps
    assert abs(found.value - expected.value) < margin


@pytest.mark.parametrize("name", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    model, data, grid = mixture().score_model(VP), mixture().sample(100), even_log_snr(VP, 2, 0.1)
    sampler = Ancestral(model, Isotropic(CURVE))
    entries = [
        lambda: estimate(model, data, [0.0], Budget(max_draws=300), device=name, progress=False),
        lambda: bits_per_dim(model, data, ContinuousTime(0.05, GaussianDecoder(0.2), 8, CURVE), device=name, progress=False),
        lambda: generate(sampler, grid, (2,), 3, device=name),
        lambda: record_paths(model, LinearDenoiser.of(data), (2,), np.array([-4.0, 6.0]), device=name),
    ]
    for entry in entries:
        with pytest.raises(InputError, match=f"device '{name}' is not available here"):
            entry()
