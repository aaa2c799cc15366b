"""Models in exact arithmetic: equal to the last bit in any company; what a codec computes around them; shipped networks."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from score_sde_analytic.coding.exact import exact_model, settled
from score_sde_analytic.coding.exact_arithmetic import ExactArithmetic
from score_sde_analytic.covariance import BetaTilde, Diagonal
from score_sde_analytic.data import DCT, PCA, ColourDCT, DataRange
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.errors import RunError, UnsupportedError
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.guidance import ClassifierFree
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.measure.statistics import Energy, GradientEnergy, HighFrequency, MeanLevel
from score_sde_analytic.models import Constant, ScoreModel
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process import LinearVP, RectifiedFlow
from score_sde_analytic.process.kernel import reverse_kernel

VP = LinearVP()
#: x_0 of the network and the states below.
GOLDEN = "6b0286efcd937a31c2fd4111aef119ce0d433524605953784611261c21118541"


def steady(*shape, salt=0):
    """Numbers in [-1, 1) that no generator of random numbers makes."""
    index = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(salt)
    words = (index * np.uint64(2654435761) + np.uint64(40503)) % np.uint64(2**32)
    words = (words ^ (words >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    return torch.from_numpy(words.astype(np.float64) / 2.0**31 - 1.0).reshape(shape)


class Net(nn.Module):
    """Convolutions, normalisation, attention, a time embedding, classes, down and up again."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.down, self.norm = nn.Conv2d(16, 16, 3, 2, 1), nn.GroupNorm(4, 16)
        self.attention, self.time = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 16)
        self.classes, self.act = nn.Embedding(11, 16), nn.SiLU()
        for salt, weight in enumerate(self.parameters()):
            weight.data.copy_(steady(*weight.shape, salt=1000 * salt) / max(weight[0].numel(), 4) ** 0.5)
        self.eval()

    def forward(self, x, labels, label=None):
        frequencies = torch.exp(-torch.arange(8, dtype=torch.float32))
        angles = labels[:, None].float() * frequencies
        context = self.time(torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype))
        context = context if label is None else context + self.classes(label)
        h = self.first(x)
        low = self.act(self.norm(self.down(h) + context[:, :, None, None]))
        tokens = low.flatten(2).mT
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        low = tokens.mT.reshape(low.shape)
        return self.last(self.act(h + nn.functional.interpolate(low, scale_factor=2.0)))


def model(**settings):
    return ScoreModel(Net(), settings.pop("schedule", VP), **settings)


STATES = steady(64, 3, 8, 8, salt=7).float() * 1.7
T = 0.37


def in_parts(made, size, t=T, states=STATES):
    return torch.cat([made(part, t).x_0 for part in states.split(size)])


@pytest.fixture(scope="module")
def exact():
    return exact_model(model())


@pytest.mark.parametrize("settings", [{}, {"predicts": "v", "clamp": (-1.0, 1.0)}, {"predicts": "edm", "coordinates": "edm"},
                                      {"predicts": "velocity", "schedule": RectifiedFlow()}], ids=str)  # fmt: skip
def test_predictions_do_not_see_their_batch(settings):
    """Batches of 64, 7 and 1 and any order: equal, where float32 is not in the same test."""
    made, plain = exact_model(model(**settings)), model(**settings)
    whole = in_parts(made, 64)
    assert torch.equal(in_parts(made, 7, states=STATES[:14]), whole[:14])
    assert torch.equal(in_parts(made, 1, states=STATES[:3]), whole[:3])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:20]
    assert torch.equal(made(STATES[order], T).x_0, whole[order])
    assert whole.dtype == STATES.dtype
    assert not torch.equal(in_parts(plain, 1, states=STATES[:14]), in_parts(plain, 64)[:14])
    torch.testing.assert_close(whole, in_parts(plain, 64), rtol=1e-4, atol=1e-5)


def test_predictions_do_not_see_threads_and_libraries(exact):
    whole = exact(STATES[:16], T).x_0
    torch.backends.mkldnn.set_flags(False)
    torch.set_num_threads(2)
    try:
        assert torch.equal(exact(STATES[:16], T).x_0, whole)
    finally:
        torch.backends.mkldnn.set_flags(True)
        torch.set_num_threads(1)
    with torch.inference_mode():
        assert torch.equal(exact(STATES[:16], T).x_0, whole)


def test_predictions_are_the_same_on_every_machine(exact):
    """Weights and states are whole numbers of a recipe, so is the answer: another one here is another arithmetic."""
    assert hashlib.sha256(exact(STATES.double(), T).x_0.numpy().tobytes()).hexdigest() == GOLDEN


def test_arithmetic_inside_arithmetic_is_the_same(exact):
    """A codec may ask the model where it works out the rest; refusals and errors leave nothing behind."""
    with ExactArithmetic():
        inside = exact(STATES[:3], T).x_0
        with pytest.raises(UnsupportedError), ExactArithmetic():
            inside.cumsum(1)
        mean = inside.mean((1, 2, 3))
    assert torch.equal(inside.float(), exact(STATES[:3], T).x_0)
    with ExactArithmetic():
        assert torch.equal(exact(STATES[:3], T).x_0.mean((1, 2, 3)), mean)
    assert torch.equal(STATES.cumsum(1), STATES.cumsum(1))


def test_times_of_their_own_are_those_of_all(exact):
    each = torch.full((64,), T, dtype=torch.float64)
    torch.testing.assert_close(exact(STATES, each).x_0, exact(STATES, T).x_0)
    several = torch.linspace(0.1, 0.9, 64, dtype=torch.float64)
    assert torch.equal(exact(STATES, several).x_0[9:11], exact(STATES[9:11], several[9:11]).x_0)


def test_conditions_and_guidance_are_exact_too():
    labels = torch.arange(64) % 10
    for made in (
        exact_model(model(conditions=["label"])),
        exact_model(ClassifierFree(model(conditions=["label"]), 2.0, {"label": 10})),
    ):
        whole = made(STATES, T, label=labels).x_0
        assert torch.equal(made(STATES[5:8], T, label=labels[5:8]).x_0, whole[5:8])
        assert made.given(label=Constant(torch.tensor(3)))(STATES[:2], T).x_0.shape == (2, 3, 8, 8)


def test_a_mixture_is_a_model_like_any_other():
    mixture = GaussianMixture([0.5, 0.3, 0.2], [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], [0.05, 0.2, 0.1])
    plain, x = mixture.score_model(VP), steady(64, 2)
    made = exact_model(plain)
    assert torch.equal(in_parts(made, 1, states=x), in_parts(made, 64, states=x))
    torch.testing.assert_close(made(x, T).x_0, plain(x, T).x_0, rtol=1e-4, atol=1e-5)


def test_identity_clamp_and_costs(exact):
    """The network's own, told apart from float32's; one call is one call."""
    plain = model()
    assert exact.fingerprint() == plain.fingerprint() | {"arithmetic": "exact"}
    clamped = exact_model(model(clamp=(-0.125, 0.125)))
    assert float(clamped(STATES, T).x_0.abs().max()) == 0.125 < float(clamped.unclamped()(STATES, T).x_0.abs().max())
    with exact.metered() as cost:
        exact(STATES, T)
    assert (cost.calls, cost.evaluations) == (1, 64)


def test_a_trained_network_is_not_touched():
    plain = model()
    before = plain(STATES[:3], T).x_0
    exact_model(plain)(STATES[:3], T)
    assert torch.equal(plain(STATES[:3], T).x_0, before)
    assert next(plain.net.parameters()).dtype == torch.float32


def test_what_cannot_be_exact_is_refused(exact):
    odd = exact_model(ScoreModel(lambda x, labels: x.cumsum(1), VP, fingerprint="odd"))
    with pytest.raises(UnsupportedError, match=r"no aten\.cumsum"):
        odd(STATES, T)
    with pytest.raises(RunError, match="NaN or inf"):
        exact(torch.full((2, 3, 8, 8), math.nan), T)
    with pytest.raises(RunError, match="NaN or inf"):
        exact(torch.full((2, 3, 8, 8), math.inf), T)


@pytest.mark.parametrize("value", [1.0, math.pi, -1e-30, 1e200])
def test_settled_numbers_forget_the_last_bits(value):
    near = [math.nextafter(value, sign * math.inf) for sign in (-1, 1)]
    assert {settled(value), *map(settled, near)} == {settled(value)}
    assert abs(settled(value) - value) <= abs(value) * 2.0**-40
    assert float(settled(torch.tensor(value, dtype=torch.float64))) == settled(value)
    assert settled(-math.inf) == -math.inf
    assert settled(0.0) == 0.0


BASES = {
    "dct": DCT(),
    "colour": ColourDCT(np.linalg.qr(steady(3, 3).numpy())[0]),
    "pca": PCA(np.linalg.qr(steady(192, 40).numpy())[0].T),
}


@pytest.mark.parametrize("name", BASES)
def test_coefficients_do_not_see_their_batch(name):
    """U x and U^T y of one example are those of 64, and undo each other to 1e-5."""
    basis, x = BASES[name], STATES.double()
    with ExactArithmetic():
        w = basis.forward(x)
        assert torch.equal(torch.cat([basis.forward(part) for part in x.split(1)]), w)
        back = basis.inverse(w)
        assert torch.equal(torch.cat([basis.inverse(part) for part in w.split(7)]), back)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(w, basis.forward(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("statistic", [HighFrequency(), Energy(), MeanLevel(), GradientEnergy(window=1)], ids=str)
def test_free_statistics_do_not_see_their_batch(exact, statistic):
    whole, one = exact(STATES, T), exact(STATES[5:6], T)
    with ExactArithmetic():
        assert torch.equal(statistic(whole)[5:6], statistic(one))
        phi = statistic(whole)
    torch.testing.assert_close(phi.float(), statistic(whole), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smooth", [False, True])
def test_variances_given_a_statistic_do_not_see_their_batch(exact, smooth):
    """Means and variances of a step, as a codec asks for them."""
    y = np.linspace(-1.0, 2.0, 2 * 3 * 192).reshape(2, 3, 192)
    quantiles = np.array([[-6.0, -4.0, -3.0, -2.0, 0.0]] * 2)
    spectrum = Spectrum(np.array([-9.0, 9.0]), y, quantiles, np.ones(192), smooth)
    covariance = Diagonal(spectrum, BASES["colour"], HighFrequency())
    s, t = VP.level(0.3), VP.level(T)
    kernel = reverse_kernel(s, t)
    (step,) = covariance.steps([kernel], [t])
    rows = []
    for part in (STATES, STATES[5:6]):
        prediction = exact(part, T)
        with ExactArithmetic():
            mean = covariance.basis.forward(prediction.combine(kernel.a, kernel.b))
            noise = step.add_noise(torch.zeros_like(mean), prediction, torch.ones_like(mean))
        rows.append((mean, noise))
    (mean, noise), (mean_of_one, noise_of_one) = rows
    assert torch.equal(mean[5:6], mean_of_one)
    assert torch.equal(noise[5:6], noise_of_one)


def shipped(name):
    from score_sde_analytic.runners import datasets, networks

    config = importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()
    data = as_dataset(datasets.splits(config).validation)
    return networks.model(config, Path(), torch.device("cpu")), data, config.data.levels


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_other_processors_find_the_same(capability):
    """Kernels without vectors, or with shorter ones, and another path through MKL."""
    own = {"ATEN_CPU_CAPABILITY": capability, "MKL_CBWR": "COMPATIBLE", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    files = map(str, Path(__file__).parent.glob("test_exact*.py"))
    command = [sys.executable, "-m", "pytest", "-q", *files, "-k", "every_machine or last_bit_everywhere"]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("..")  # of the two that know their digests


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_vp", "digits_classes", "digits_flow", "patches", "emoji"])
def test_shipped_networks(name):
    """Equal in any company, near float32, and a bound within 0.1 % of float32's at the same draws."""
    plain, data, levels = shipped(name)
    made, count = exact_model(plain), 24
    batch = data.batch(range(count))
    for log_snr in (-6.0, 0.0, 5.0):
        level = plain.schedule.level_at(log_snr)
        x_t = level.diffuse(batch.x_0, steady(*batch.x_0.shape, salt=3).float())
        given = made.for_batch(batch.conditions)
        whole = given.predict(x_t, level).x_0
        alone = [given.rows(slice(i, i + 1)).predict(x_t[i : i + 1], level).x_0 for i in range(count)]
        assert torch.equal(torch.cat(alone), whole)
        torch.testing.assert_close(whole, plain.for_batch(batch.conditions).predict(x_t, level).x_0, rtol=0, atol=1e-4)
    chain = Chain(even_log_snr(plain.schedule, 5, float(plain.schedule.time(6.0))), BetaTilde(), decoder=0.05)
    part = torch.utils.data.Subset(data, range(count))
    ranged = DataRange(-1.0, 1.0, levels=levels)
    bits = [bits_per_dim(one, part, chain, ranged, progress=False).per_example for one in (plain, made)]
    assert abs(bits[1].mean() / bits[0].mean() - 1.0) < 1e-3
    assert not np.array_equal(*bits)
