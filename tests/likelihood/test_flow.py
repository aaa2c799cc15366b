"""Probability-flow likelihoods: the exact density of exact scores, the order of every approximation, unbiased estimates."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.stats import norm

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.likelihood import (
    BITS,
    Adaptive,
    Diffused,
    Direct,
    ExactTrace,
    Fixed,
    Flow,
    Hutchinson,
    Uniform,
    bits_per_dim,
)
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.decoder import CategoricalDecoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, SubVP, Tabulated

QUIET = {"progress": False}
EXACT = {"divergence": ExactTrace(), "solver": Adaptive(1e-7, 1e-7)}
#: Schedules whose prior differs from q(x_1) by less than 1e-6 nats, and where the flow starts.
WIDE = {
    "linear_vp": (LinearVP(0.1, 60.0), 1e-6),
    "cosine_vp": (CosineVP(log_snr_min=-30.0), CosineVP(log_snr_min=-30.0).time(13.8)),
    "sub_vp": (SubVP(0.1, 60.0), 1e-6),
    "ve": (VE(1e-3, 1e5), 1e-12),
}
DEFAULT = {
    "linear_vp": (LinearVP(), 1e-6),
    "cosine_vp": (CosineVP(), CosineVP().time(13.8)),
    "sub_vp": (SubVP(), 1e-6),
    "ve": (VE(1e-3, 5.0), 1e-12),
}


@pytest.fixture(params=WIDE.values(), ids=WIDE.keys())
def wide(request):
    return request.param


def exact_nats(mixture, x):
    return -mixture.log_density(x, LinearVP().level(0.0)).numpy()


class Recorded(ScoreModel):
    """The exact score of a mixture; remembers the time and the rows of every call."""

    def __init__(self, mixture, schedule):
        super().__init__(mixture, schedule, times=LogSNR(), coordinates="vp")
        self.times_seen, self.rows_seen = [], []

    def predict(self, x_t, level):
        self.times_seen.append(level.t)
        self.rows_seen.append(len(x_t))
        return super().predict(x_t, level)


def standard(dim=1):
    """N(0, I): under a variance-preserving schedule its flow is at rest, so that few solver steps are exact."""
    return GaussianMixture([1.0], np.zeros((1, dim)), 1.0)


AT_REST = {"t_min": 1e-6, "divergence": ExactTrace(), "solver": Fixed(2)}


# --- exact densities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["log_snr", "t"])
def test_every_density_of_a_mixture_is_exact(planar, wide, variable):
    (schedule, t_min), x = wide, planar.sample(8, seed=3)
    flow = Flow(t_min, variable=variable, divergence=ExactTrace(), solver=Adaptive(1e-6, 1e-6))
    bound = bits_per_dim(planar.score_model(schedule), x, flow, **QUIET)
    assert np.abs(bound.nats - exact_nats(planar, x)).max() < 1e-4


@pytest.mark.parametrize("name", ["linear_vp", "ve"])
def test_every_density_is_exact_in_sixteen_dimensions(mixture, name):
    """Variances down to 0.002."""
    (schedule, t_min), x = WIDE[name], mixture.sample(5, seed=3)
    bound = bits_per_dim(mixture.score_model(schedule), x, Flow(t_min, **EXACT), **QUIET)
    assert np.abs(bound.nats - exact_nats(mixture, x)).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFAULT)
def test_what_is_left_is_the_prior_mismatch(planar, name):
    """The model's density is the data's times N(x_1; 0, prior_variance) / q(x_1) at the latent."""
    (schedule, t_min), x = DEFAULT[name], planar.sample(6, seed=4)
    flow, model = Flow(t_min, **EXACT), planar.score_model(schedule)
    latent = flow.encode(model, x)
    prior = norm.logpdf(latent.numpy(), scale=math.sqrt(schedule.prior_variance)).sum(1)
    mismatch = planar.log_density(latent, schedule.level(1.0)).numpy() - prior
    nats = bits_per_dim(model, x, flow, **QUIET).nats
    np.testing.assert_allclose(nats, exact_nats(planar, x) + mismatch, atol=1e-4)
    if name == "ve":
        assert np.abs(mismatch).max() > 1e-2  # there is something to explain


def test_the_prior_column_is_the_prior(planar):
    schedule, x = LinearVP(), planar.sample(4)
    flow, model = Flow(1e-4, **EXACT), planar.score_model(schedule)
    bound, latent = bits_per_dim(model, x, flow, **QUIET), flow.encode(model, x)
    assert bound.columns == ("prior", "volume")
    np.testing.assert_allclose(bound.terms[:, 0], -BITS * norm.logpdf(latent.numpy()).mean(1), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dopri5", "fehlberg2", "adaptive_heun"])
def test_no_solver_steps_over_the_field(method):
    """In log-SNR the field vanishes at both ends, where steps grow: one of them must not jump across all of it."""
    schedule = SubVP(0.1, 60.0)
    for variance in (0.01, 2.0, 100.0):
        gaussian = GaussianMixture([1.0], [[0.0]], variance)
        x = gaussian.sample(2, seed=1)
        flow = Flow(1e-6, divergence=ExactTrace(), solver=Adaptive(1e-4, 1e-4, method))
        bound = bits_per_dim(gaussian.score_model(schedule), x, flow, **QUIET)
        assert np.abs(bound.nats - exact_nats(gaussian, x)).max() < 0.2, variance


def test_a_model_that_is_not_the_data_costs_more(planar):
    """Gibbs: E[-log p] >= E[-log q] for the density p that any network's flow defines; false alarm 3e-5."""
    schedule, x = LinearVP(0.1, 60.0), planar.sample(300, seed=5)
    for scale in (0.9, 1.05):
        net = lambda x, lam, scale=scale: scale * planar(x, lam)  # noqa: E731
        model = ScoreModel(net, schedule, times=LogSNR(), coordinates="vp")
        flow = Flow(1e-3, divergence=ExactTrace(), solver=Fixed(30), examples_per_block=300)
        gap = bits_per_dim(model, x, flow, batch_size=300, **QUIET).nats - exact_nats(planar, x)
        assert gap.mean() > -4 * gap.std() / math.sqrt(len(gap))
        assert gap.mean() > 0.01  # and these two are visibly wrong


# --- the order of approximations ----------------------------------------------------------------------------------------


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def test_the_step_into_the_flow_is_of_second_order(planar):
    """Holding the score constant below t_min leaves an error of order tau^2, tau = (sigma / alpha)^2."""
    schedule, x = LinearVP(0.1, 60.0), planar.sample(8, seed=6)
    taus, errors = np.array([5e-4, 1e-3, 2e-3]), []
    for tau in taus:
        flow = Flow(schedule.time(-math.log(tau)), divergence=ExactTrace(), solver=Adaptive(1e-7, 1e-7))
        bound = bits_per_dim(planar.score_model(schedule), x, flow, **QUIET)
        errors.append(np.abs(bound.nats - exact_nats(planar, x)).mean())
    assert errors[0] > 1e-6  # well above the solver's error
    assert slope(taus, errors) == pytest.approx(2.0, abs=0.3)


@pytest.mark.slow
def test_fixed_steps_have_their_order(planar):
    schedule, x = LinearVP(), planar.sample(3, seed=7)

    def nats(solver):
        return bits_per_dim(planar.score_model(schedule), x, Flow(1e-3, divergence=ExactTrace(), solver=solver), **QUIET).nats

    exact = nats(Adaptive(1e-9, 1e-9, "dopri8"))
    for method, order, steps in (("euler", 1, (40, 80, 160)), ("midpoint", 2, (20, 40, 80)), ("rk4", 4, (16, 32, 64))):
        errors = [np.abs(nats(Fixed(count, method)) - exact).mean() for count in steps]
        assert slope(1 / np.array(steps), errors) == pytest.approx(order, abs=0.3), method


# --- the divergence -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed():
    """Nats of one example, 1500 times with different probes, and with the exact trace: on one fixed path."""
    rng = np.random.default_rng(2)
    factors = 0.5 * rng.normal(size=(2, 3, 3))
    mixture = GaussianMixture([0.4, 0.6], rng.normal(size=(2, 3)), factors @ factors.transpose(0, 2, 1) + 0.05 * np.eye(3))
    x, found = mixture.sample(1, seed=2).repeat(1500, 1), {}
    for law, probes in [("rademacher", 1), ("rademacher", 4), ("gaussian", 1), ("gaussian", 4)]:
        flow = Flow(0.01, divergence=Hutchinson(probes, law), solver=Fixed(10), examples_per_block=1500)
        found[law, probes] = bits_per_dim(mixture.score_model(LinearVP()), x, flow, batch_size=1500, **QUIET).nats
    exact = bits_per_dim(mixture.score_model(LinearVP()), x[:1], Flow(0.01, divergence=ExactTrace(), solver=Fixed(10)), **QUIET)
    return found, float(exact.nats[0])


def test_hutchinson_is_unbiased(probed):
    """Within 4 standard errors: false alarm 6e-5 for each of four."""
    found, exact = probed
    for nats in found.values():
        assert nats.std() > 0
        assert abs(nats.mean() - exact) < 4 * nats.std() / math.sqrt(len(nats))


def test_the_variance_of_hutchinson(probed):
    """Smaller for Rademacher, which the diagonal of the Jacobian does not trouble; and in proportion to 1 / probes.

    A ratio of two variances of 1500 values each has a standard error below a tenth: the limits lie 4 of them away.
    """
    variance = {key: nats.var() for key, nats in probed[0].items()}
    for probes in (1, 4):
        assert variance["rademacher", probes] < 0.8 * variance["gaussian", probes]
    for law in ("rademacher", "gaussian"):
        assert 2.6 < variance[law, 1] / variance[law, 4] < 6.0


def test_one_rademacher_probe_is_exact_for_an_isotropic_jacobian():
    gaussian = GaussianMixture([1.0], [[0.3, -0.2, 0.1]], 0.4)
    x, schedule = gaussian.sample(5), LinearVP()
    flows = [Flow(1e-3, divergence=d, solver=Fixed(20)) for d in (Hutchinson(), ExactTrace(), Hutchinson(law="gaussian"))]
    one, exact, other = (bits_per_dim(gaussian.score_model(schedule), x, flow, **QUIET).per_example for flow in flows)
    np.testing.assert_allclose(one, exact, rtol=1e-12)
    assert not np.allclose(other, exact, rtol=1e-3)


# --- both ways ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["log_snr", "t"])
@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), SubVP(), VE(), Tabulated.linear()], ids=repr)
def test_the_map_of_a_gaussian_is_known(schedule, variable):
    """x_1 = alpha m + (x_0 - m) sqrt((alpha^2 c^2 + sigma^2) / c^2), and back."""
    mean, variance = torch.tensor([0.3, -0.2], dtype=torch.float64), 0.4
    gaussian, top = GaussianMixture([1.0], [mean.tolist()], variance), schedule.level(1.0)
    t_min = 1e-6 if schedule.log_snr_range[1] == math.inf else 1e-12
    tau = (schedule.sigma(t_min) / schedule.alpha(t_min)) ** 2
    flow = Flow(t_min, variable=variable, solver=Adaptive(1e-5, 1e-5))
    x_0, model = gaussian.sample(5), gaussian.score_model(schedule)
    stretch = math.sqrt((top.alpha**2 * variance + top.sigma**2) / variance)
    x_1 = top.alpha * mean + (x_0 - mean) * stretch
    found = flow.encode(model, x_0)
    tolerance = 5e-4 + (tau / variance) ** 2
    torch.testing.assert_close(found, x_1, rtol=tolerance, atol=tolerance * stretch)
    torch.testing.assert_close(flow.decode(model, x_1, dtype=torch.float64), x_0, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_round_trips(planar, name):
    """Data to latents, to data, to latents."""
    (schedule, t_min), x_0 = WIDE[name], planar.sample(6, seed=8)
    flow, model = Flow(t_min, solver=Adaptive(1e-6, 1e-6)), planar.score_model(schedule)
    x_1 = flow.encode(model, x_0)
    assert x_1.dtype == torch.float64
    decoded = flow.decode(model, x_1, dtype=torch.float64)
    torch.testing.assert_close(decoded, x_0, rtol=0, atol=1e-4)
    unit = math.sqrt(schedule.prior_variance)
    torch.testing.assert_close(flow.encode(model, decoded) / unit, x_1 / unit, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_decoded_latents_are_data(planar):
    """Mean and covariance of decoded prior samples, 4 standard errors each: false alarm 4e-4 in all."""
    schedule, count = LinearVP(0.1, 60.0), 2000
    latent = torch.randn(count, 2, generator=torch.Generator().manual_seed(1)).double()
    x = Flow(1e-4, solver=Adaptive(1e-4, 1e-4)).decode(planar.score_model(schedule), latent, torch.float64, batch_size=count)
    true = planar.sample(400_000, seed=9)
    for moment in (lambda x: x, lambda x: x.square(), lambda x: x.prod(1, keepdim=True)):
        ours, theirs = moment(x), moment(true)
        limit = 4 * ours.std(0) / math.sqrt(count) * math.hypot(1, math.sqrt(count / len(true)))
        assert ((ours.mean(0) - theirs.mean(0)).abs() < limit).all()


@pytest.mark.slow
def test_float32_networks(planar):
    """The network computes in the dtype of the data, the solver in float64."""
    seen = []

    def net(x, lam):
        seen.append(x.dtype)
        return planar(x, lam)

    model = ScoreModel(net, LinearVP(), times=LogSNR(), coordinates="vp")
    x, flow = planar.sample(4, seed=2), Flow(1e-4, divergence=ExactTrace())
    single = bits_per_dim(model, x.float(), flow, **QUIET).nats
    decoded = flow.decode(model, flow.encode(model, x.float()))
    assert set(seen) == {torch.float32}
    assert decoded.dtype == torch.float32
    np.testing.assert_allclose(single, bits_per_dim(model, x, flow, **QUIET).nats, atol=2e-3)
    torch.testing.assert_close(decoded, x.float(), rtol=0, atol=2e-3)


# --- discrete data, noise and importance weights ------------------------------------------------------------------------


@pytest.mark.slow
def test_uniform_dequantisation_by_hand():
    """On N(0, c^2) the mean over the noise is log2(sqrt(2 pi) c / width) + (x^2 + width^2 / 12) / (2 c^2 log 2).

    Two ranges, 1000 draws of every level: 4 standard errors, false alarm 6e-5 for each of 22 levels.
    """
    for data_range in (DataRange(-1, 1, 5), DataRange(0, 1, 17)):
        levels = torch.linspace(data_range.lo, data_range.hi, data_range.levels, dtype=torch.float64)
        x, schedule = levels.repeat_interleave(1000)[:, None], LinearVP(0.1, 60.0)
        flow = Flow(entry=Uniform(), examples_per_block=100_000, **AT_REST)
        bound = bits_per_dim(standard().score_model(schedule), x, flow, data_range, batch_size=100_000, **QUIET)
        width = (data_range.hi - data_range.lo) / (data_range.levels - 1)
        by_hand = BITS * (0.5 * math.log(2 * math.pi) - math.log(width) + 0.5 * (levels.numpy() ** 2 + width**2 / 12))
        found = bound.per_example.reshape(-1, 1000)
        assert (np.abs(found.mean(1) - by_hand) < 4 * found.std(1) / math.sqrt(1000) + 1e-6).all()
        assert bound.parts["dequantisation"].value == pytest.approx(-math.log2(width), rel=1e-12)
        assert bound.columns == ("prior", "volume", "dequantisation")


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "shift"), [(127.5, 127.5), (0.25, -3.0)])
def test_bits_do_not_depend_on_the_units_of_the_data(scale, shift):
    """Data, range and model rescaled together: the same nats for discrete data, d log(scale) more for a density."""
    schedule, t_min = WIDE["linear_vp"]
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(-1, 1).repeat(1, 2)

    def nats(a, b, entry, data_range):
        model = GaussianMixture([1.0], [[b, b]], 0.3 * a**2).score_model(schedule)
        return bits_per_dim(model, a * x + b, Flow(t_min, entry, solver=Adaptive(1e-6, 1e-6)), data_range, **QUIET).nats

    ranges = DataRange(-1, 1, 9), DataRange(shift - scale, shift + scale, 9)
    np.testing.assert_allclose(nats(1, 0, Uniform(), ranges[0]), nats(scale, shift, Uniform(), ranges[1]), atol=5e-4)
    original, other = nats(1, 0, Direct(), None), nats(scale, shift, Direct(), None)
    np.testing.assert_allclose(original + 2 * math.log(scale), other, atol=5e-4)


def weights_spread(x, width):
    """E w^2 / (E w)^2 - 1 of w = density under N(0, 1) at uniform noise in the bin of x."""
    u = np.linspace(x - width / 2, x + width / 2, 20_001)
    w = norm.pdf(u)
    return width * np.trapezoid(w**2, u) / np.trapezoid(w, u) ** 2 - 1


@pytest.mark.slow
def test_importance_weights_reach_the_probability_of_a_bin():
    """k = 1 is above -log P(bin); the value falls with k, at last to it, but for the weights' relative variance / (2k).

    Each comparison within, or beyond, 4 standard errors: false alarm 3e-5.
    """
    data_range, schedule, copies, values = DataRange(-4, 4, 5), LinearVP(0.1, 60.0), 1000, np.array([2.0])
    exact = -np.log(norm.cdf(values + 1) - norm.cdf(values - 1))
    x, mean, error = torch.from_numpy(values).repeat_interleave(copies)[:, None], {}, {}
    for k in (1, 4, 32):
        flow = Flow(entry=Uniform(), importance_samples=k, examples_per_block=10_000, **AT_REST)
        bound = bits_per_dim(standard().score_model(schedule), x, flow, data_range, batch_size=10_000, **QUIET)
        nats = bound.nats.reshape(-1, copies)
        mean[k], error[k] = nats.mean(1), nats.std(1) / math.sqrt(copies)
        assert bound.columns == ("prior", "volume", "dequantisation", *(["weighting"] if k > 1 else []))
        np.testing.assert_allclose(bound.terms.sum(1), bound.per_example)
        if k > 1:
            assert (bound.terms[:, -1] <= 1e-12).all()
            assert bound.parts["weighting"].value < 0
    assert (mean[1] - exact > 4 * error[1]).all()
    assert (mean[1] - mean[4] > 4 * np.hypot(error[1], error[4])).all()
    assert (mean[4] - mean[32] > 4 * np.hypot(error[4], error[32])).all()
    excess = np.array([weights_spread(v, 2.0) for v in values]) / 64
    assert (np.abs(mean[32] - exact - excess) < 4 * error[32] + 0.2 * excess).all()


@pytest.mark.slow
def test_importance_weights_integrate_over_the_noise():
    """With k samples the bound tends to -log of the integral of p(z) p(x | z), here with a decoder narrower than the posterior.

    4 standard errors as above.
    """
    schedule, copies, value = LinearVP(0.1, 60.0), 1500, 0.7
    level = schedule.level(0.05)
    gain, std = level.alpha / (level.alpha**2 + level.sigma**2), level.sigma / 1.5
    z = np.linspace(-9, 9, 40_001)
    q, joint = norm.pdf(z, level.alpha * value, level.sigma), norm.pdf(z) * norm.pdf(value, gain * z, std)
    mass, square = np.trapezoid(joint, z), np.trapezoid(joint**2 / np.maximum(q, 1e-300), z)
    exact, spread, gaps = -2 * math.log(mass), (square / mass**2) ** 2 - 1, []  # two equal coordinates
    assert mass == pytest.approx(norm.pdf(value, scale=math.hypot(gain, std)))
    x = torch.full((copies, 2), value, dtype=torch.float64)
    for k in (1, 3, 30):
        flow = Flow(0.05, Diffused(GaussianDecoder(std)), ExactTrace(), Fixed(2), k, examples_per_block=copies)
        gap = bits_per_dim(standard(2).score_model(schedule), x, flow, batch_size=copies, **QUIET).nats - exact
        gaps.append((gap.mean(), gap.std() / math.sqrt(copies)))
    for (a, error_a), (b, error_b) in itertools.pairwise(gaps):
        assert a - b > 4 * math.hypot(error_a, error_b)
    assert abs(gaps[-1][0] - spread / 60) < 4 * gaps[-1][1] + 0.2 * spread / 60


@pytest.mark.slow
@pytest.mark.parametrize("t_min", [1e-4, 0.05, 0.4])
def test_the_posterior_undoes_the_noise_exactly(t_min):
    """p(z) p(x | z) / q(z | x) = p(x) for every z: every example is exact, whatever t_min."""
    schedule, variance = LinearVP(0.1, 60.0), 0.4
    gaussian, level = GaussianMixture([1.0], [[0.3, -0.2]], variance), schedule.level(t_min)
    posterior = math.sqrt(variance * level.sigma**2 / (level.alpha**2 * variance + level.sigma**2))
    x, flow = gaussian.sample(5, seed=1), Flow(t_min, Diffused(GaussianDecoder(posterior)), ExactTrace(), Adaptive(1e-9, 1e-9))
    bound = bits_per_dim(gaussian.score_model(schedule), x, flow, **QUIET)
    assert bound.columns == ("prior", "volume", "dequantisation", "reconstruction")
    np.testing.assert_allclose(bound.nats, exact_nats(gaussian, x), atol=1e-6)


def test_noise_without_a_decoder_measures_the_noisy_density(planar):
    """Diffused(NoDecoder()) is the density of x_{t_min}: its mean is the entropy of that, from the mixture's own density."""
    schedule, level = LinearVP(0.1, 60.0), LinearVP(0.1, 60.0).level(0.05)
    x = planar.sample(400, seed=2)
    flow = Flow(0.05, Diffused(NoDecoder()), ExactTrace(), Fixed(30), examples_per_block=400)
    nats = bits_per_dim(planar.score_model(schedule), x, flow, batch_size=400, **QUIET).nats
    x_t = level.alpha * planar.sample(100_000, seed=3) + level.sigma * torch.randn(100_000, 2, dtype=torch.float64)
    exact = -planar.log_density(x_t, level)
    error = math.hypot(nats.std() / 20, float(exact.std()) / math.sqrt(100_000))
    assert abs(nats.mean() - float(exact.mean())) < 4 * error  # false alarm 6e-5


def test_discrete_data_with_a_categorical_decoder():
    """Coding x through its noisy version: above -log P(bin) for a model with bins, near it once the noise is small."""
    data_range, schedule = DataRange(-4, 4, 9), LinearVP(0.1, 60.0)
    # The discrete law with masses of N(0, 1) on nine levels, and its exact score.
    levels = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    mass = norm.pdf(levels.numpy()[:, 0])
    mass /= mass.sum()
    law = GaussianMixture(mass, levels.numpy(), 0.0)
    x = law.sample(300, seed=1)
    flow = Flow(schedule.time(4.0), Diffused(CategoricalDecoder()), ExactTrace(), Fixed(60), examples_per_block=300)
    bound = bits_per_dim(law.score_model(schedule), x, flow, data_range, batch_size=300, **QUIET)
    exact = -BITS * np.log(mass)[data_range.index(x)[:, 0].numpy()]
    gap = bound.per_example - exact
    assert gap.mean() > -4 * gap.std() / math.sqrt(300)  # false alarm 3e-5
    assert gap.mean() < 0.05


# --- bookkeeping --------------------------------------------------------------------------------------------------------

ENTRIES = {
    "direct": (Direct(), None, 1),
    "uniform": (Uniform(), DataRange(-1, 1, 5), 3),
    "diffused": (Diffused(GaussianDecoder(0.1)), DataRange(-1, 1, 5), 2),
    "categorical": (Diffused(CategoricalDecoder()), DataRange(-1, 1, 5), 1),
}


def level_data(count, dim=2, seed=0):
    """Values on five levels in [-1, 1]."""
    index = torch.randint(0, 5, (count, dim), generator=torch.Generator().manual_seed(seed))
    return -1.0 + 0.5 * index.double()


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_batch_size_does_not_matter(planar, entry):
    """And no network call exceeds it."""
    way, data_range, k = ENTRIES[entry]
    trace, x = ExactTrace() if k > 1 else Hutchinson(), level_data(6)
    flow = Flow(1e-2, way, trace, Adaptive(0.1, 0.1), importance_samples=min(k, 2), examples_per_block=4)
    results, models, costs = [], [], []
    for batch_size in (2, 3, 100):
        models.append(Recorded(planar, LinearVP()))
        with models[-1].metered() as cost:
            results.append(bits_per_dim(models[-1], x, flow, data_range, batch_size=batch_size, seed=3, **QUIET))
        costs.append(cost)
        assert max(models[-1].rows_seen) <= batch_size
    for bound, model, cost in zip(results, models, costs, strict=True):
        np.testing.assert_allclose(bound.per_example, results[0].per_example, rtol=0, atol=1e-10)
        assert bound.evaluations == cost.evaluations == sum(model.rows_seen) == results[0].evaluations
    reseeded = bits_per_dim(models[0], x, flow, data_range, seed=4, **QUIET)
    assert not np.allclose(reseeded.per_example, results[0].per_example)


def test_rows_of_both_ways_stay_within_the_batch_size(planar):
    model, flow = Recorded(planar, LinearVP()), Flow(1e-3, solver=Fixed(3))
    x_1 = flow.encode(model, planar.sample(7), batch_size=3)
    flow.decode(model, x_1, torch.float64, batch_size=3)
    assert max(model.rows_seen) == 3
    torch.testing.assert_close(flow.encode(model, planar.sample(7)), x_1)


@pytest.mark.parametrize("divergence", [ExactTrace(), Hutchinson(), Hutchinson(3)])
@pytest.mark.parametrize("entry", ENTRIES)
def test_costs(planar, entry, divergence):
    """Evaluations are the network's own count; each has one vector product per probe, but for the decoder's."""
    (way, data_range, k), x = ENTRIES[entry], level_data(5)
    k = k if isinstance(divergence, ExactTrace) else 1
    model, flow = Recorded(planar, LinearVP()), Flow(1e-3, way, divergence, Fixed(4, "euler"), k)
    with model.metered() as cost:
        bound = bits_per_dim(model, x, flow, data_range, draws=2, **QUIET)
    decoding, entering = int(entry == "diffused"), int(entry in ("direct", "uniform"))
    assert bound.evaluations == cost.evaluations == 2 * k * 5 * (4 + decoding + entering)
    probes = 2 if isinstance(divergence, ExactTrace) else divergence.probes_per_sample
    assert bound.vector_products == probes * (bound.evaluations - 2 * k * 5 * decoding)
    assert bound.summary()["vector_products"] == bound.vector_products
    assert bound.calls_per_example == bound.evaluations / 5


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["log_snr", "t"])
@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("solver", [Adaptive(0.1, 0.1), Fixed(3), Fixed(3, "euler")], ids=["adaptive", "rk4", "euler"])
def test_no_time_outside_the_flow(planar, name, variable, solver):
    """From t_min, where the network was trained, to 1 and back: not below, not beyond (but for rounding)."""
    (schedule, t_min), x = WIDE[name], planar.sample(1)
    t_min = max(t_min, 1e-5)
    model, flow = Recorded(planar, schedule), Flow(t_min, variable=variable, solver=solver)
    bits_per_dim(model, x, flow, **QUIET)
    flow.decode(model, flow.encode(model, x), torch.float64)
    seen = np.array(model.times_seen)
    assert seen.min() >= t_min * (1 - 1e-9)
    assert seen.max() <= 1.0
    assert seen.min() == pytest.approx(t_min, rel=1e-9)
    assert seen.max() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 2, 2)])
def test_shapes(shape):
    """Images are vectors of pixels."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = ScoreModel(lambda x, t: 0.5 * x + 0.1 * x.sin(), LinearVP())
    flow = Flow(1e-3, solver=Fixed(3), divergence=ExactTrace())
    nats = bits_per_dim(model, x, flow, **QUIET).nats
    np.testing.assert_allclose(nats, bits_per_dim(model, x.flatten(1), flow, **QUIET).nats, rtol=1e-12)
    latent = flow.encode(model, x)
    assert latent.shape == x.shape
    assert flow.decode(model, latent).shape == x.shape


# --- errors -------------------------------------------------------------------------------------------------------------


def linear_model(schedule=None):
    return ScoreModel(lambda x, t: 0.5 * x, schedule or LinearVP())


X = torch.zeros(2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"t_min": 0.0}, "above 0 and below 1"),
        ({"t_min": 1.0}, "t_min"),
        ({"t_min": math.nan}, "t_min"),
        ({"variable": "sigma"}, "variable must be one of log_snr, t"),
        ({"importance_samples": 0}, "at least 1"),
        ({"examples_per_block": 0}, "at least 1"),
        ({"importance_samples": 2}, "in one way only"),
        ({"importance_samples": 2, "entry": Uniform()}, "need exact densities"),
    ],
)
def test_bad_flows_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Flow(**options)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Adaptive(rtol=0.0), "above 0"),
        (lambda: Adaptive(atol=-1.0), "above 0"),
        (lambda: Adaptive(max_steps=0), "at least 1"),
        (lambda: Fixed(0), "at least 1"),
        (lambda: Hutchinson(0), "at least 1"),
        (lambda: Hutchinson(law="cauchy"), "rademacher, gaussian"),
    ],
)
def test_bad_settings_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Adaptive(method="dopri55"), "dopri5"),
        (lambda: Adaptive(method="rk4"), "dopri5"),  # torchdiffeq would take one single step of it
        (lambda: Adaptive(method="explicit_adams"), "dopri5"),
        (lambda: Fixed(method="rk5"), "rk4"),
        (lambda: Fixed(method="dopri5"), "rk4"),  # torchdiffeq would ignore the steps, and step past the end
    ],
)
def test_unknown_solvers_are_refused(make, names):
    """The message names those there are."""
    with pytest.raises(ValueError, match=names):
        bits_per_dim(linear_model(), X, Flow(1e-3, solver=make()), **QUIET)


def test_entries_must_fit_the_data():
    model, discrete = linear_model(), DataRange(-1, 1, 3)
    with pytest.raises(ValueError, match="discrete data have no density"):
        bits_per_dim(model, X, Flow(1e-3), discrete, **QUIET)
    for data_range in (None, DataRange()):
        with pytest.raises(ValueError, match="levels"):
            bits_per_dim(model, X, Flow(1e-3, Uniform()), data_range, **QUIET)
        with pytest.raises(ValueError, match="levels"):
            bits_per_dim(model, X, Flow(1e-3, Diffused(CategoricalDecoder())), data_range, **QUIET)


@pytest.mark.parametrize("variable", ["log_snr", "t"])
def test_a_solver_that_needs_too_many_steps(planar, variable):
    flow = Flow(1e-5, solver=Adaptive(1e-8, 1e-8, max_steps=3), variable=variable)
    with pytest.raises(RuntimeError, match=r"dopri5 reached its limit of 3 steps; .*max_steps"):
        bits_per_dim(planar.score_model(LinearVP()), X, flow, **QUIET)


def test_a_flow_that_diverges():
    """A network that explodes away from its training region."""
    model = ScoreModel(lambda x, t: x**3 * 1e3, LinearVP())
    with pytest.raises(RuntimeError, match=r"diverged|NaN or inf|steps"):
        bits_per_dim(model, X + 1.0, Flow(1e-3, solver=Fixed(5)), **QUIET)
    with pytest.raises(RuntimeError, match=r"diverged|NaN or inf|steps"):
        bits_per_dim(model, X + 1.0, Flow(1e-3, solver=Adaptive(max_steps=50)), **QUIET)


def test_a_network_whose_gradient_is_not_finite():
    """sqrt|x| is finite at 0, its derivative is not."""
    model = ScoreModel(lambda x, t: x.abs().sqrt(), VE())
    with pytest.raises(RuntimeError, match="gradient holds NaN or inf at log-SNR"):
        bits_per_dim(model, X, Flow(1e-3), **QUIET)


def test_a_network_without_gradients():
    """One wrapped in torch.no_grad cannot give a divergence; bounds still can."""
    model = ScoreModel(torch.no_grad()(lambda x, t: 0.5 * x), LinearVP())
    with pytest.raises(RuntimeError, match="gradient"):
        bits_per_dim(model, X, Flow(1e-3), **QUIET)


def test_without_torchdiffeq(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"score_sde_analytic\[ode\]"):
        bits_per_dim(linear_model(), X, Flow(1e-3), **QUIET)
    with pytest.raises(ImportError, match=r"score_sde_analytic\[ode\]"):
        Flow(1e-3).encode(linear_model(), X)
