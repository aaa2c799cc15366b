"""Statistics of a state: what they mean, the shapes they take, and the errors that name misuse."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.data.basis import Channel, Pixel, Scalar
from score_sde_analytic.data.transforms import DCT
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.held_out import HeldOut
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.measure.statistics import FLOOR, Energy, GradientEnergy, HighFrequency, MeanLevel, Statistic, checked
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.decoder import GaussianDecoder
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import Ancestral, generate

VP = LinearVP()
IMAGES = [HighFrequency(), GradientEnergy(), GradientEnergy(window=5)]
ALL = [Energy(), MeanLevel(), *IMAGES]


def predicted(x_0, kind="x_0"):
    """A prediction of x_0, known as it or as the eps that stands for it."""
    level = VP.level(0.5)
    x_t = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(9)).to(x_0)
    value = x_0 if kind == "x_0" else (x_t - level.alpha * x_0) / level.sigma
    return Prediction(x_t, level, value, kind)


def pictures(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (2, 1, 6), (3, 4, 1), (1, 1, 1), (3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_shapes_and_constant_images(statistic, shape, dtype):
    """One float32 number per sample or per pixel, finite also where there is no contrast at all; odd sizes as they are."""
    x = torch.stack([torch.zeros(shape), torch.ones(shape), pictures(*shape)]).to(dtype)
    values = statistic(predicted(x))
    assert values.shape == ((3, *shape[-2:]) if statistic.local else (3,))
    assert checked(values, predicted(x)).shape == (3, shape[-2] * shape[-1] if statistic.local else 1)
    assert torch.isfinite(values).all()
    if isinstance(statistic, HighFrequency | GradientEnergy):
        assert values.dtype == torch.float32
        np.testing.assert_allclose(values[:2].double(), math.log(FLOOR), rtol=1e-6)


@pytest.mark.parametrize("statistic", [Energy(), MeanLevel()], ids=repr)
def test_vectors_have_energy_and_mean(statistic):
    assert statistic(predicted(pictures(4, 9))).shape == (4,)


@pytest.mark.parametrize("shape", [(7,), (3, 5, 6)])
def test_energy_and_mean_by_their_formulas(shape):
    x = pictures(4, *shape)
    np.testing.assert_allclose(Energy()(predicted(x)), ((x.double() ** 2).flatten(1).mean(1) + FLOOR).log(), rtol=1e-5)
    np.testing.assert_allclose(MeanLevel()(predicted(x)), x.double().flatten(1).mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (2, 4, 3), (1, 1, 5)])
def test_high_frequency_by_loops(shape):
    """Blocks of two by two from the upper left; a last odd row or column is repeated to fill its blocks."""
    x = pictures(3, *shape)
    c, h, w = shape
    expected = []
    for image in x.double().numpy():
        total = 0.0
        for k in range(c):
            for i in range(h):
                for j in range(w):
                    rows, columns = [2 * (i // 2), min(2 * (i // 2) + 1, h - 1)], [2 * (j // 2), min(2 * (j // 2) + 1, w - 1)]
                    total += (image[k, i, j] - np.mean([image[k, a, b] for a in rows for b in columns])) ** 2
        expected.append(math.log(total / (c * h * w) + FLOOR))
    np.testing.assert_allclose(HighFrequency()(predicted(x)), expected, rtol=1e-4, atol=1e-5)


def test_high_frequency_ranks_textured_above_flat():
    """A checkerboard above noise of half its power, above a smooth ramp, above nothing; brightness does not matter."""
    i, j = np.indices((16, 16))
    ramp = torch.tensor((i + j) / 16.0, dtype=torch.float32)
    board = torch.tensor((-1.0) ** (i + j), dtype=torch.float32)
    x = torch.stack([torch.zeros(16, 16), ramp, math.sqrt(0.5) * pictures(16, 16), board])[:, None]
    values = HighFrequency()(predicted(x))
    assert values.diff().min() > 0.3
    np.testing.assert_allclose(HighFrequency()(predicted(x + 3.0)), values, rtol=1e-3)


@pytest.mark.parametrize("window", [1, 3, 5, 9])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (2, 1, 4)])
def test_gradient_energy_by_loops(window, shape):
    """Squared differences to the up to four neighbours, mean over the channels and over the part of the window inside."""
    x = pictures(2, *shape)
    h, w = shape[1:]
    expected = np.zeros((2, h, w))
    for n, image in enumerate(x.double().numpy()):
        energy = np.zeros((h, w))
        for i in range(h):
            for j in range(w):
                for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                    if 0 <= a < h and 0 <= b < w:
                        energy[i, j] += ((image[:, i, j] - image[:, a, b]) ** 2).mean()
        half = window // 2
        for i in range(h):
            for j in range(w):
                inside = energy[max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]
                expected[n, i, j] = math.log(inside.mean() + FLOOR)
    np.testing.assert_allclose(GradientEnergy(window)(predicted(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [1, 3])
def test_gradient_energy_is_local(window):
    """A change of one pixel is felt as far as its neighbours and half a window, and nowhere else."""
    x = pictures(1, 2, 11, 11)
    y = x.clone()
    y[0, 0, 5, 5] += 1.0
    changed = (GradientEnergy(window)(predicted(x)) != GradientEnergy(window)(predicted(y)))[0]
    reach = 1 + window // 2
    i, j = changed.nonzero(as_tuple=True)
    assert (i - 5).abs().max() == (j - 5).abs().max() == reach
    assert changed[5, 5]


@pytest.mark.parametrize("statistic", ALL, ids=repr)
def test_only_the_predicted_image_counts(statistic):
    """The same x0_hat known as eps gives the same value; so do other samples beside it."""
    x = pictures(5, 3, 6, 6, dtype=torch.float64)
    whole = statistic(predicted(x))
    torch.testing.assert_close(statistic(predicted(x, "eps")), whole, rtol=1e-4, atol=1e-4)
    for i in range(5):
        torch.testing.assert_close(statistic(predicted(x[i : i + 1])), whole[i : i + 1], rtol=1e-5, atol=1e-5)


# --- identity and errors -------------------------------------------------------------------------------------------------


def test_configs_identify_statistics():
    configs = [repr(s.config()) for s in ALL]
    assert len(set(configs)) == len(ALL)
    assert GradientEnergy(window=5).config() == {"name": "GradientEnergy", "window": 5}
    assert [s.local for s in ALL] == [False, False, False, True, True]


@pytest.mark.parametrize("window", [0, 2, -1])
def test_a_window_has_a_middle(window):
    with pytest.raises(ValueError, match=r"odd|at least 1"):
        GradientEnergy(window)


@pytest.mark.parametrize("statistic", IMAGES, ids=repr)
@pytest.mark.parametrize("shape", [(4, 9), (4, 3, 9)])
def test_vectors_are_no_images(statistic, shape):
    with pytest.raises(ValueError, match=r"images.*Energy or MeanLevel"):
        statistic(predicted(pictures(*shape)))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (torch.zeros(()), "one number per sample"),
        (torch.zeros(3), "one number per sample"),
        (torch.zeros(4, 1), "one number per sample"),
        (torch.zeros(4, 2, 6, 5), "per pixel"),
        (torch.zeros(4, 5, 6), "per pixel"),
        (torch.tensor([0.0, math.nan, 0.0, 0.0]), "NaN or inf"),
        (torch.tensor([0.0, math.inf, 0.0, 0.0]), "NaN or inf"),
        (torch.tensor([0.0, 1e300, 0.0, 0.0], dtype=torch.float64), "NaN or inf"),  # finite, but not as float32
        (torch.full((4, 6, 5), -math.inf), "NaN or inf"),
    ],
)
def test_values_are_checked(values, match):
    with pytest.raises(ValueError, match=match):
        checked(values, predicted(pictures(4, 2, 6, 5)))


def test_checked_values_are_float32_columns():
    prediction = predicted(pictures(4, 2, 6, 5))
    for values in (torch.arange(4), torch.arange(4.0, dtype=torch.float64), torch.arange(4) > 1):
        column = checked(values, prediction)
        assert (column.shape, column.dtype) == ((4, 1), torch.float32)
        assert column.flatten().tolist() == values.double().tolist()
    pixels = torch.arange(120.0).reshape(4, 6, 5)
    assert torch.equal(checked(pixels, prediction), pixels.flatten(1))


# --- a user's own --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrast(Statistic):
    """log of the standard deviation of x0_hat within a border of some pixels."""

    border: int = 1

    def __call__(self, prediction):
        inner = prediction.x_0[..., self.border : -self.border, self.border : -self.border].float()
        return (inner.flatten(1).std(1) + 1e-4).log()


class Halves(Statistic):
    """Whether the first pixel is bright: two values only, and no settings."""

    def __call__(self, prediction):
        return (prediction.x_0[:, 0, 0, 0] > 0).float()


def flat_and_loud(count, seed=0):
    """Half the images 0.1, half 1.0 times white noise, (count, 1, 4, 4)."""
    x = pictures(count, 1, 4, 4, seed=seed)
    loud = torch.from_numpy(np.random.default_rng(seed).random(count) < 0.5)
    return x * torch.where(loud, 1.0, 0.1).reshape(-1, 1, 1, 1)


def exact(x, log_snr):
    """eps of the scale mixture, sample by sample."""
    lam = float(log_snr[0])
    alpha, sigma = 1 / math.sqrt(1 + math.exp(-lam)), 1 / math.sqrt(1 + math.exp(lam))
    variances = alpha**2 * torch.tensor([0.01, 1.0], dtype=torch.float64) + sigma**2
    square = x.double().square().flatten(1).sum(1, keepdim=True)
    weights = (-0.5 * square / variances - 0.5 * x[0].numel() * variances.log()).softmax(1)
    return (sigma * x.double() * (weights / variances).sum(1).reshape(-1, 1, 1, 1)).to(x)


@pytest.mark.parametrize(
    ("statistic", "basis"),
    [(Contrast(), Channel()), (Halves(), Scalar()), (Energy(), DCT(radial=True)), (GradientEnergy(), Pixel())],
    ids=lambda value: type(value).__name__,
)
def test_own_statistics_work_end_to_end(statistic, basis):
    """Recorded, fitted, chosen, measured and sampled; what tells loud from flat lowers the bound beyond 5 standard errors."""

    def network(x, t):
        return exact(x, torch.tensor([VP.log_snr(float(t[0]))]))

    model = ScoreModel(network, VP, fingerprint="flat and loud")
    recorder = Recorder(basis, {"own": statistic})
    options = {"budget": Budget(min_draws=1000, max_draws=1000, batch_size=500), "progress": False}
    moments = estimate(model, flat_and_loud(1000), np.linspace(-8, 6, 8), observers={"own": recorder}, **options)
    draws = recorder.result(moments.log_snr)
    assert draws.phi["own"].shape == (8000, 16 if statistic.local else 1)
    ranked = HeldOut.choose(draws, bins=(4,), shrinkage=(0.0, 100.0), smooth=(False,))
    plain = next(c.cost for c in ranked if c.statistic is None)
    assert ranked[0].cost < (1.0 if isinstance(statistic, Halves) else 0.98) * plain + 1e-12
    grid = even_log_snr(VP, 5, float(VP.time(5.0)))
    covariances = {
        "plain": Diagonal(Spectrum.fit(draws), basis),
        "own": Diagonal(Spectrum.fit(draws, "own", 4, 30.0), basis, statistic),
    }
    chains = {name: Chain(grid, covariance, GaussianDecoder(0.1)) for name, covariance in covariances.items()}
    found = bits_per_dim(model, flat_and_loud(1000, seed=1), chains, batch_size=500, progress=False)
    gain = found["plain"].per_example - found["own"].per_example
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    if isinstance(statistic, Halves):
        assert abs(gain.mean()) < 5 * error + 0.01
    else:
        assert gain.mean() > 5 * error
    sampler = Ancestral(model, covariances["own"])
    samples = generate(sampler, even_log_snr(VP, 25, float(VP.time(7.0))), (1, 4, 4), 64, batch_size=64)
    assert samples.shape == (64, 1, 4, 4)
    size = samples.square().flatten(1).mean(1).log()
    assert (size < math.log(0.1)).sum() > 10  # both kinds occur
    assert (size > math.log(0.1)).sum() > 10
    config = covariances["own"].fingerprint([], [])["statistic"]
    assert config == statistic.config()
    assert config["name"] == type(statistic).__name__
