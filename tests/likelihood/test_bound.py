"""Variational bounds: above the exact likelihood, tight in the limit, and predicted before they are measured."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.grids.grid import Grid, even, even_log_snr
from score_sde_analytic.likelihood import Chain, ContinuousTime, bits_per_dim, paper_chain, price
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.moments import decoder_scale
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.decoder import CategoricalDecoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.kernel import prior_kl, reverse_kernel
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, Tabulated

BITS = 1 / math.log(2)
QUIET = {"progress": False}


def chains_of(moments, grid, schedule, data_range=None):
    """Every variance choice on one grid, with the decoder the measured table prefers."""
    std = float(Reconstruction.of(moments).best(schedule.log_snr(grid.times[-2]))[1][0])
    covariances = {"beta": Beta(), "beta_tilde": BetaTilde()} | {
        source: Isotropic(NoiseCurve.fit(moments, source)) for source in ("score", "residual")
    }
    return {name: Chain(grid, covariance, std) for name, covariance in covariances.items()}


def assert_predicted(predicted, measured):
    """Total and parts agree within 4 standard errors of their difference: false alarm 6e-5 per comparison."""
    for name in measured:
        for part in ("total", "transitions", "reconstruction"):
            (a, error_a), (b, error_b) = getattr(predicted[name], part), getattr(measured[name], part)
            assert abs(a - b) < 4 * math.hypot(error_a, error_b), (name, part)


@pytest.mark.parametrize("k", [2, 10, 50])
def test_mixture_in_sixteen_dimensions(mixture, table, moments, k):
    x = mixture.sample(600, seed=11)
    grid = even_log_snr(table, k, table.time(7.0))
    chains = chains_of(moments, grid, table)
    measured = bits_per_dim(mixture.score_model(table), x, chains, seed=2, **QUIET)
    predicted = price(moments, table, chains, mixture.statistics())
    assert_predicted(predicted, measured)
    exact = -BITS * mixture.log_density(x, table.level(0.0)).numpy() / 16
    for name, bound in measured.items():
        gap = bound.per_example - exact
        assert gap.mean() > -4 * gap.std() / math.sqrt(len(gap)), name  # false alarm 3e-5
        assert bound.prior.value == pytest.approx(float(prior_kl(table, float(x.square().mean()))) * BITS, rel=1e-9)
    assert measured["residual"].transitions.value <= min(b.transitions.value for b in measured.values()) * 1.01


@pytest.mark.slow
def test_the_bound_is_tight_in_the_limit(triple):
    """With many steps the gap of the exact score closes to that of the decoder; the gap falls with K."""
    schedule, x = CosineVP(), triple.sample(2000, seed=8)
    moments = estimate(
        triple.score_model(schedule), triple.sample(20_000), np.linspace(-10, 12, 45), Budget(max_draws=600), **QUIET
    )
    exact = -BITS * triple.log_density(x, schedule.level(0.0)).numpy()
    gaps = []
    for k in (4, 16, 100):
        grid = even_log_snr(schedule, k, schedule.time(11.0))
        chains = {"residual": chains_of(moments, grid, schedule)["residual"]}
        bound = bits_per_dim(triple.score_model(schedule), x, chains, seed=k, **QUIET)["residual"]
        difference = bound.per_example - exact
        gaps.append((difference.mean(), difference.std() / math.sqrt(len(x))))
    assert gaps[0][0] > gaps[1][0] > gaps[2][0]
    # 4 standard errors, plus the w h^2 / 4 excess of 100 steps and the curvature that a Gaussian decoder misses.
    assert -4 * gaps[2][1] < gaps[2][0] < 4 * gaps[2][1] + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), VE(0.02, 20.0), Tabulated.cosine()], ids=repr)
def test_one_dimension_under_every_schedule(triple, schedule):
    low, high = max(schedule.log_snr_range[0], -9.0), 6.0
    knots = np.linspace(low, high, 31)
    moments = estimate(
        triple.score_model(schedule), triple.sample(20_000), knots, Budget(max_draws=1000, min_draws=1000), **QUIET
    )
    for k in (3, 12):
        grid = even_log_snr(schedule, k, schedule.time(5.0))
        chains = chains_of(moments, grid, schedule)
        measured = bits_per_dim(triple.score_model(schedule), triple.sample(2000, seed=9), chains, **QUIET)
        predicted = price(moments, schedule, chains, triple.statistics())
        assert_predicted(predicted, measured)


@pytest.fixture(scope="module")
def toy():
    """Two correlated coordinates on five levels: the exact score of a discrete law, and its entropy."""
    levels = np.linspace(-1, 1, 5)
    points = np.stack(np.meshgrid(levels, levels, indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(-3 * (points[:, 0] - points[:, 1]) ** 2 + points[:, 0])
    mass /= mass.sum()
    mixture = GaussianMixture(mass, points, 0.0)
    return mixture, -BITS * (mass * np.log(mass)).sum() / 2


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 20])
def test_discrete_data(toy, k):
    """Measured above the entropy, and predicted; the decoder is integrated over the bins."""
    (mixture, entropy), schedule, data_range = toy, LinearVP(), DataRange(-1, 1, 5)
    model = mixture.score_model(schedule)
    options = {"budget": Budget(max_draws=600, min_draws=600), "data_range": data_range, **QUIET}
    moments = estimate(model, mixture.sample(20_000), np.linspace(-9, 6, 31), **options)
    grid = even_log_snr(schedule, k, schedule.time(3.5))
    chains = chains_of(moments, grid, schedule)
    measured = bits_per_dim(model, mixture.sample(1500, seed=4), chains, data_range, **QUIET)
    predicted = price(moments, schedule, chains, mixture.statistics())
    assert_predicted(predicted, measured)
    for bound in measured.values():
        assert bound.total.value > entropy - 4 * bound.total.stderr
        assert bound.reconstruction.value >= 0
    if k == 20:
        assert measured["residual"].total.value < entropy * 1.15


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 20])
def test_discrete_data_with_a_categorical_decoder(toy, k):
    """Measured above the entropy, predicted from the histogram of levels, and one network call cheaper."""
    (mixture, entropy), schedule, data_range = toy, LinearVP(), DataRange(-1, 1, 5)
    model, train = mixture.score_model(schedule), mixture.sample(20_000)
    budget = Budget(max_draws=600, min_draws=600)
    moments = estimate(model, train, np.linspace(-9, 6, 31), budget, data_range=data_range, **QUIET)
    grid, curve = even_log_snr(schedule, k, schedule.time(3.5)), NoiseCurve.fit(moments)
    methods = {
        "chain": Chain(grid, Isotropic(curve), CategoricalDecoder()),
        "continuous": ContinuousTime(schedule.time(3.5), CategoricalDecoder(), k, curve),
    }
    x = mixture.sample(1500, seed=4)
    measured = bits_per_dim(model, x, methods, data_range, **QUIET)
    assert_predicted(price(moments, schedule, methods, DataStatistics.of(train, data_range)), measured)
    for bound in measured.values():
        assert bound.total.value > entropy - 4 * bound.total.stderr  # false alarm 3e-5
    assert measured["chain"].evaluations == (k - 1) * 1500
    if k == 20:
        assert measured["chain"].total.value < entropy * 1.15


def test_gaussian_data_reach_the_exact_likelihood(schedule):
    """Isotropic Gaussian data, exact score: the bound is -E log p at any K once the decoder has the posterior variance.

    What is left is KL(q(x_T) || p(x_T)), below 2e-3 bits/dim under every schedule.
    """
    gaussian = GaussianMixture([1.0], [[0.3, -0.2]], 0.4)
    curve, x = NoiseCurve(np.zeros(1), np.array([-math.log(0.4)])), gaussian.sample(4000)
    for k in (1, 2, 7):
        grid = even_log_snr(schedule, k, 0.02)
        std = math.sqrt(curve.posterior_variance(schedule.log_snr(grid.times[-2])))
        bound = bits_per_dim(gaussian.score_model(schedule), x, {"a": Chain(grid, Isotropic(curve), std)}, seed=k, **QUIET)["a"]
        gap = bound.per_example + BITS * gaussian.log_density(x, schedule.level(0.0)).numpy() / 2
        # Four standard errors: false alarm 6e-5.
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap)) + 2e-3


def test_the_parts_add_up(triple):
    schedule, grid = LinearVP(), even(4, 0.01)
    bound = bits_per_dim(triple.score_model(schedule), triple.sample(50), {"a": Chain(grid, Beta(), 0.1)}, **QUIET)["a"]
    assert bound.total.value == pytest.approx(sum(p.value for p in (bound.prior, bound.transitions, bound.reconstruction)))
    assert bound.per_step.shape == (3,)
    assert bound.per_step.sum() == pytest.approx(bound.transitions.value)
    assert bound.per_example.mean() == pytest.approx(bound.total.value)
    assert bound.total.stderr == pytest.approx(bound.per_example.std(ddof=1) / math.sqrt(50))
    assert bound.evaluations == 200
    summary = bound.summary()
    assert summary["total"] == {"value": bound.total.value, "stderr": bound.total.stderr}
    assert summary["evaluations"] == 200


def test_evaluations_are_the_networks_own_count(triple):
    model = triple.score_model(LinearVP())
    chains = {"a": Chain(even(4, 0.01), Beta(), 0.1), "b": Chain(even(4, 0.01), BetaTilde(), 0.1)}
    with model.metered() as cost:
        bounds = bits_per_dim(model, triple.sample(10), chains, draws=3, **QUIET)
    assert cost.evaluations == bounds["a"].evaluations == 120
    assert bounds["a"].prior == bounds["b"].prior
    assert bounds["a"].transitions != bounds["b"].transitions


@pytest.mark.parametrize("draws", [1, 2])
def test_the_batch_size_does_not_matter(triple, draws):
    chains = {"a": Chain(even(3, 0.05), Beta(), 0.2)}
    x = triple.sample(13)
    results = [
        bits_per_dim(triple.score_model(LinearVP()), x, chains, batch_size=b, draws=draws, seed=3, **QUIET)["a"].per_example
        for b in (1, 4, 13, 100)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-12)
    reseeded = bits_per_dim(triple.score_model(LinearVP()), x, chains, draws=draws, seed=4, **QUIET)["a"]
    assert not np.allclose(reseeded.per_example, results[0])


@pytest.mark.parametrize("shape", [(8, 3), (8, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(schedule, shape, dtype):
    model = ScoreModel(lambda x, t: 0.5 * x, schedule)
    x = torch.randn(shape, dtype=dtype).clamp(-1, 1)
    bound = bits_per_dim(model, x, {"a": Chain(even(3, 0.1), Beta(), 0.5)}, **QUIET)["a"]
    assert math.isfinite(bound.total.value)
    assert bound.per_example.shape == (8,)


def test_one_step_has_no_transitions(triple, moments):
    schedule, chain = LinearVP(), Chain(Grid((1.0, 0.0)), Beta(), 0.7)
    bound = bits_per_dim(triple.score_model(schedule), triple.sample(1), {"a": chain}, **QUIET)["a"]
    assert bound.transitions.value == 0.0
    assert bound.per_step.shape == (0,)
    assert math.isnan(bound.total.stderr)  # one example
    wide = float(decoder_scale(schedule.log_snr(1.0), moments.data_variance))
    predicted = price(moments, schedule, {"a": Chain(Grid((1.0, 0.0)), Beta(), wide)}, triple.statistics())["a"]
    assert predicted.transitions == (0.0, 0.0)


def test_paper_chain(table):
    chain = paper_chain(table, Beta(), 10)
    assert chain.grid.times[-2] == pytest.approx(1e-3)
    assert chain.grid.steps == 10
    bar = np.cumprod(1 - table.betas)
    assert chain.decoder.std**2 == pytest.approx((1 - bar[0]) / (1 - bar[1]) * table.betas[1], rel=1e-9)
    assert chain.decoder.std**2 == pytest.approx(reverse_kernel(table.level(1e-3), table.level(2e-3)).rho2)
    custom = Grid((1.0, 0.4, 1e-3, 0.0))
    assert paper_chain(table, Beta(), 99, grid=custom).grid is custom
    assert paper_chain(Tabulated.cosine(50), Beta(), 5, table=50).grid.times[-2] == pytest.approx(0.02)
    with pytest.raises(ValueError, match="t_1 = 1/1000"):
        paper_chain(table, Beta(), 5, grid=even(5, 0.01))


# --- by hand ------------------------------------------------------------------------------------------------------------


def constant(value, schedule):
    """A network that always predicts the same x_0: no term depends on the noise."""
    return ScoreModel(lambda x, t: torch.full_like(x, value), schedule, predicts="x_0")


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_two_levels_and_no_idea_cost_one_bit(schedule, k):
    """A decoder centred between two levels gives each 1/2, whatever its std. With beta-tilde the transitions telescope:

    KL = (x - x_hat)^2 (snr_s - snr_t) / 2 per step, so (x - x_hat)^2 (snr(t_1) - snr(1)) / 2 in all.
    """
    x, data_range = torch.tensor([[-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]], dtype=torch.float64), DataRange(-1, 1, 2)
    grid = even(k, 0.1)
    bound = bits_per_dim(constant(0.0, schedule), x, Chain(grid, BetaTilde(), 0.37), data_range, **QUIET)
    top, first = schedule.level(1.0), schedule.level(grid.times[-2])
    assert bound.reconstruction.value == pytest.approx(1.0, rel=1e-14)
    telescoped = 0.5 * (math.exp(first.log_snr) - math.exp(top.log_snr)) * BITS
    assert bound.transitions.value == pytest.approx(telescoped, rel=1e-9, abs=1e-12)
    ratio = top.sigma**2 / schedule.prior_variance
    prior = 0.5 * (ratio - 1 - math.log(ratio) + top.alpha**2 / schedule.prior_variance)
    assert bound.prior.value == pytest.approx(prior * BITS, rel=1e-9)
    assert bound.total.value == pytest.approx(1.0 + (telescoped + prior * BITS), rel=1e-9)
    assert bound.nats == pytest.approx(bound.per_example * 3 / BITS)


@pytest.mark.parametrize(("lo", "hi", "levels", "width"), [(-1, 1, 256, 2 / 255), (0, 1, 17, 1 / 16), (0, 255, 256, 1.0)])
def test_a_level_costs_its_probability(lo, hi, levels, width):
    """A single step with a fixed mean: -log2 of the normal mass between the edges halfway to the neighbours."""
    mean, std, level = lo + 0.4 * (hi - lo), 0.1 * (hi - lo), levels // 2
    data_range, schedule = DataRange(lo, hi, levels), VE(0.01, 1e9)
    x = data_range.encode(np.array([[level]])).double()
    bound = bits_per_dim(constant(mean, schedule), x, Chain(Grid((1.0, 0.0)), Beta(), std), data_range, **QUIET)
    value, normal = lo + level * width, NormalDist(mean, std)
    by_hand = -math.log2(normal.cdf(value + width / 2) - normal.cdf(value - width / 2))
    assert data_range.bin_width == pytest.approx(width, rel=1e-14)
    assert bound.total.value == pytest.approx(by_hand, rel=1e-6)  # float32 levels, doubled


@pytest.mark.parametrize(("scale", "shift"), [(127.5, 127.5), (0.5, 0.5), (-3.0, 10.0)])
@pytest.mark.parametrize("decoder", ["gaussian", "categorical", "none"])
def test_bits_do_not_depend_on_the_units_of_the_data(scale, shift, decoder):
    """Data, range, network, decoder and (VE) noise rescaled together; a density changes by log|scale| nats per dimension."""
    width, index = abs(scale), torch.randint(0, 9, (6, 3), generator=torch.Generator().manual_seed(0))
    ends = sorted((shift - scale, shift + scale))
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[index]

    def evaluate(a, b, low, high, levels):
        schedule = VE(1e-2 * abs(a), 1e7 * abs(a))
        chosen = {"gaussian": GaussianDecoder(0.2 * abs(a)), "categorical": CategoricalDecoder(), "none": NoDecoder()}[decoder]
        chain = Chain(even(6, 0.15), Beta(), chosen)
        return bits_per_dim(constant(a * 0.3 + b, schedule), a * x + b, chain, DataRange(low, high, levels), **QUIET)

    original, other = evaluate(1, 0, -1, 1, 9), evaluate(scale, shift, *ends, 9)
    change = math.log(width) if decoder == "none" else 0.0
    np.testing.assert_allclose(other.nats, original.nats + 3 * change, rtol=1e-9, atol=1e-9)
    if decoder == "gaussian":
        original, other = evaluate(1, 0, -1, 1, None), evaluate(scale, shift, *ends, None)
        np.testing.assert_allclose(other.nats, original.nats + 3 * math.log(width), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_continuous_time_telescopes_too():
    """The integral of (x - x_hat)^2 snr / 2 over log-SNR is (x - x_hat)^2 (snr(t_min) - snr(1)) / 2; 4 SE, false alarm 6e-5."""
    schedule, t_min = LinearVP(), 0.2
    x = torch.ones(200, 2, dtype=torch.float64)
    bound = bits_per_dim(constant(0.4, schedule), x, ContinuousTime(t_min, NoDecoder(), 64), **QUIET)
    snr = math.exp(schedule.log_snr(t_min)) - math.exp(schedule.log_snr(1.0))
    assert abs(bound.transitions.value - BITS * 0.36 * snr / 2) < 4 * bound.transitions.stderr
    assert bound.transitions.stderr < 0.01 * bound.transitions.value
    assert bound.reconstruction.value == pytest.approx(BITS * NoDecoder.entropy(schedule.level(t_min)))


def test_errors_of_the_steps(triple):
    bound = bits_per_dim(triple.score_model(LinearVP()), triple.sample(40), Chain(even(4, 0.01), Beta(), 0.1), **QUIET)
    np.testing.assert_allclose(bound.per_step, bound.terms[:, 1:-1].mean(0))
    np.testing.assert_allclose(bound.per_step_stderr, bound.terms[:, 1:-1].std(0, ddof=1) / math.sqrt(40))
    assert bound.summary()["per_step"] is not None


# --- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
def test_decoders_need_a_width(std):
    with pytest.raises(ValueError, match="std must be"):
        Chain(even(3, 0.1), Beta(), std)


@pytest.mark.parametrize(
    ("x", "data_range", "match"),
    [
        (torch.zeros(0, 2), None, "empty"),
        (torch.full((3, 2), torch.nan), None, "NaN"),
        (torch.full((3, 2), 2.0), DataRange(), "declared range"),
        (torch.full((3, 2), 0.3), DataRange(levels=3), "grid of 3"),
    ],
)
def test_bad_data_are_refused(x, data_range, match):
    model = ScoreModel(lambda x, t: x, LinearVP())
    with pytest.raises(ValueError, match=match):
        bits_per_dim(model, x, {"a": Chain(even(3, 0.1), Beta(), 0.1)}, data_range, **QUIET)


def test_bad_requests_are_refused():
    model, x, chain = ScoreModel(lambda x, t: x, LinearVP()), torch.zeros(3, 2), Chain(even(3, 0.1), Beta(), 0.1)
    with pytest.raises(ValueError, match="at least one"):
        bits_per_dim(model, x, {}, **QUIET)
    with pytest.raises(ValueError, match="at least 1"):
        bits_per_dim(model, x, chain, draws=0, **QUIET)
    with pytest.raises(ValueError, match="starts from the prior"):
        Chain(Grid((0.5, 0.1, 0.0)), Beta(), 0.1)


def test_a_hopeless_decoder_is_reported():
    model = ScoreModel(lambda x, t: x, LinearVP())
    with pytest.raises(ValueError, match="std 1e-155 has no finite nats: it is too narrow"):
        bits_per_dim(model, torch.ones(3, 2), {"a": Chain(even(2, 0.1), Beta(), 1e-155)}, **QUIET)


def test_what_cannot_be_priced_is_refused(moments, table, triple):
    class Dense(Covariance):
        def steps(self, kernels, levels):
            return []

        def fingerprint(self, kernels, levels):
            return []

    grid = even_log_snr(table, 3, 0.05)
    with pytest.raises(TypeError, match="cannot be priced"):
        price(moments, table, {"a": Chain(grid, Dense(), 0.1)}, triple.statistics())
    with pytest.raises(ValueError, match="prices come from the residual"):
        Chain(grid, Beta(), 0.1).transition_nats(table, NoiseCurve.fit(moments, "score"), None)


def test_a_categorical_decoder_is_priced_from_a_histogram(moments, table, triple, toy):
    chain = {"a": Chain(even_log_snr(table, 3, 0.05), Beta(), CategoricalDecoder())}
    with pytest.raises(ValueError, match="histogram of levels"):
        price(moments, table, chain, triple.statistics())
    statistics = DataStatistics.of(toy[0].sample(10), DataRange(-1, 1, 5))
    with pytest.raises(ValueError, match="declare the data_range"):
        price(moments, table, chain, statistics)
    with pytest.raises(ValueError, match="declare their levels"):
        bits_per_dim(triple.score_model(table), triple.sample(3), chain, **QUIET)
