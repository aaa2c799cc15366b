"""The bound of infinitely many steps: exact for exact scores, unbiased, blind to the schedule, the limit of chains."""

import math

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.likelihood import BITS, Chain, ContinuousTime, bits_per_dim, price
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.decoder import CategoricalDecoder, GaussianDecoder, NoDecoder
from score_sde_analytic.process.schedule import VE, LinearVP

QUIET = {"progress": False}
LAST = 11.0  # log-SNR at which the decoder takes over
SCHEDULE = LinearVP()
T_MIN = SCHEDULE.time(LAST)


def fitted(mixture, **options):
    x = mixture.sample(20_000, seed=5)
    knots = np.linspace(-10.0, LAST, 32)
    options = {"budget": Budget(min_draws=400, max_draws=400), "statistics": mixture.statistics(), **options}
    return estimate(mixture.score_model(SCHEDULE), x, knots, **options, **QUIET)


@pytest.fixture(scope="module")
def separated():
    """Three narrow, correlated components in two dimensions, with the moments of its exact score."""
    means = [[-1.2, 0.5], [0.2, -1.0], [1.0, 0.8]]
    covariances = [[[0.02, 0.01], [0.01, 0.03]], [[0.1, -0.05], [-0.05, 0.06]], [[0.005, 0.0], [0.0, 0.02]]]
    mixture = GaussianMixture([0.3, 0.3, 0.4], means, covariances)
    return mixture, fitted(mixture)


@pytest.fixture(scope="module")
def sixteen(mixture):
    return mixture, fitted(mixture)


@pytest.fixture(params=["separated", "sixteen"])
def case(request):
    """(mixture, moments of its exact score, enough examples)."""
    return *request.getfixturevalue(request.param), {"separated": 5000, "sixteen": 1200}[request.param]


def decoder_of(curve, log_snr=LAST):
    return GaussianDecoder(math.sqrt(curve.posterior_variance(log_snr)))


def exact_bits(mixture, x):
    return -BITS * mixture.log_density(x, SCHEDULE.level(0.0)).numpy() / mixture.dim


def scores(values):
    """Mean in units of its standard error."""
    return values.mean() / (values.std() / math.sqrt(len(values)))


# --- exact scores -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bounds_of_an_exact_score(case):
    """E[-log p] = continuous time < 50 steps < 10 steps, for one first time and decoder.

    The continuous bound within 4 standard errors, uniform times and importance sampled (false alarm 6e-5 each; what the
    Gaussian decoder and the prior lack is below 1e-3), the order beyond 4 (3e-5 each).
    """
    mixture, moments, count = case
    curve, x = NoiseCurve.fit(moments), mixture.sample(count, seed=11)
    decoder = decoder_of(curve)
    methods = {
        "uniform": ContinuousTime(T_MIN, decoder),
        "curve": ContinuousTime(T_MIN, decoder, curve=curve),
        "50": Chain(even_log_snr(SCHEDULE, 50, T_MIN), Isotropic(curve), decoder),
        "10": Chain(even_log_snr(SCHEDULE, 10, T_MIN), Isotropic(curve), decoder),
    }
    model = mixture.score_model(SCHEDULE)
    found = {name: bound.per_example for name, bound in bits_per_dim(model, x, methods, batch_size=count, **QUIET).items()}
    exact = exact_bits(mixture, x)
    for name in ("uniform", "curve"):
        gap = found[name] - exact
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(count) + 1e-3, name
        assert scores(found["50"] - found[name]) > 4, name
    assert scores(found["10"] - found["50"]) > 4


@pytest.mark.slow
@pytest.mark.parametrize("perturb", [lambda e, x: 1.05 * e, lambda e, x: e + 0.1 * x.sin()], ids=["scaled", "biased"])
def test_bounds_of_wrong_scores_are_bounds(separated, perturb):
    """Above E[-log p] whatever the network; false alarm 3e-5 each."""
    mixture, moments = separated
    curve, x = NoiseCurve.fit(moments), mixture.sample(1500, seed=12)
    model = ScoreModel(lambda x, lam: perturb(mixture(x, lam), x), SCHEDULE, times=LogSNR(), coordinates="vp")
    methods = {k: Chain(even_log_snr(SCHEDULE, k, T_MIN), Isotropic(curve), decoder_of(curve)) for k in (10, 50)}
    methods["continuous"] = ContinuousTime(T_MIN, decoder_of(curve), curve=curve)
    bounds = bits_per_dim(model, x, methods, batch_size=1500, **QUIET)
    for name, bound in bounds.items():
        gap = bound.per_example - exact_bits(mixture, x)
        assert scores(gap) > -4, name


@pytest.mark.slow
@pytest.mark.parametrize("log_snr", [1.0, 4.0])
def test_without_a_decoder_the_noisy_data_are_measured(separated, log_snr):
    """E[-log q(x_{t_1})] from the mixture's density there; 4 standard errors, false alarm 6e-5."""
    mixture, moments = separated
    level, x = SCHEDULE.level_at(log_snr), mixture.sample(3000, seed=13)
    method = ContinuousTime(level.t, NoDecoder(), curve=NoiseCurve.fit(moments))
    bound = bits_per_dim(mixture.score_model(SCHEDULE), x, method, batch_size=3000, **QUIET)
    noise = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t = level.alpha * x + level.sigma * noise
    difference = bound.per_example + BITS * mixture.log_density(x_t, level).numpy() / 2
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(3000) + 1e-4
    assert bound.evaluations == 16 * 3000


# --- the estimator ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("y", [-3.0, 6.0])
def test_any_curve_is_unbiased(sixteen, y):
    """Importance sampling by the curve of quite other data; paired, 4 standard errors, false alarm 6e-5."""
    mixture, moments = sixteen
    wrong, x = NoiseCurve(np.zeros(1), np.array([y])), mixture.sample(1000, seed=14)
    decoder = decoder_of(NoiseCurve.fit(moments))
    methods = {"wrong": ContinuousTime(T_MIN, decoder, 8, wrong), "uniform": ContinuousTime(T_MIN, decoder, 8)}
    bounds = bits_per_dim(mixture.score_model(SCHEDULE), x, methods, batch_size=1000, **QUIET)
    assert abs(scores(bounds["wrong"].per_example - bounds["uniform"].per_example)) < 4


@pytest.fixture(scope="module")
def variances(sixteen):
    """Variance of the integral of one example over 1500 seeds, by (times, draws, whether by the curve)."""
    mixture, moments = sixteen
    curve, x = NoiseCurve.fit(moments), mixture.sample(1, seed=11).repeat(1500, 1)
    found = {}
    for times, draws in ((16, 1), (1, 16)):
        for by in (None, curve):
            method = ContinuousTime(T_MIN, NoDecoder(), times, by)
            bound = bits_per_dim(mixture.score_model(SCHEDULE), x, method, draws=draws, batch_size=1500, **QUIET)
            assert bound.evaluations == 16 * 1500
            found[times, by is curve] = bound.per_example.var()
    return found


@pytest.mark.slow
def test_importance_sampling_pays(variances):
    """Ratios of variances of 1500 values, standard error below 6 %: limits 3 of them and more away (false alarm 1e-3)."""
    assert variances[1, True] < 0.5 * variances[1, False]
    assert variances[16, True] < 0.95 * variances[16, False]


def test_strata_beat_independent_times(variances):
    """16 times in one draw against one time in each of 16 draws, at the same number of evaluations.

    With importance sampling times add little variance, and what is left is that of the noise, which neighbours share.
    """
    assert variances[16, False] < 0.9 * variances[1, False]


def test_times_lie_in_their_strata_and_in_the_range():
    """One log-SNR in each stratum of equal probability, never beyond the ends; weights average to the length of the range."""
    seen = []

    def net(x, lam):
        seen.append(lam.clone())
        return 0.0 * x

    model = ScoreModel(net, SCHEDULE, times=LogSNR(), coordinates="vp")
    x = torch.zeros(200, 3, dtype=torch.float64)
    method = ContinuousTime(0.05, NoDecoder(), times=5)
    bound = bits_per_dim(model, x, method, batch_size=200, **QUIET)
    low, high = SCHEDULE.log_snr(1.0), SCHEDULE.log_snr(0.05)
    lam = torch.stack(seen, 1).numpy()
    assert lam.shape == (200, 5)
    share = (lam - low) / (high - low) * 5
    assert (np.floor(np.clip(share, 1e-9, 5 - 1e-9)) == np.arange(5)).all()
    # A network that returns 0 has E||eps||^2 = 1 everywhere: the integral is half the range. 4 SE, false alarm 6e-5.
    assert abs(bound.transitions.value - BITS * (high - low) / 2) < 4 * bound.transitions.stderr


def test_the_schedule_matters_by_its_ends_only(sixteen):
    """Equal log-SNR ends: equal transitions for every example, as times and noise are functions of log-SNR."""
    mixture, moments = sixteen
    curve, x = NoiseCurve.fit(moments), mixture.sample(50, seed=15)
    low, high = SCHEDULE.log_snr(1.0), 8.0
    ve = VE(math.exp(-6.0), math.exp(-low / 2))
    assert ve.log_snr(1.0) == pytest.approx(low)
    found = []
    for schedule in (SCHEDULE, ve, LinearVP(0.01, 20.1 - 0.01)):
        by = curve if schedule is not SCHEDULE else NoiseCurve(curve.log_snr, curve.y)
        method = ContinuousTime(schedule.time(high), NoDecoder(), curve=by)
        found.append(bits_per_dim(mixture.score_model(schedule), x, method, seed=3, **QUIET))
    for other in found[1:]:
        np.testing.assert_allclose(other.terms[:, 1], found[0].terms[:, 1], rtol=1e-6)


def test_the_batch_size_does_not_matter(separated):
    mixture, moments = separated
    x, method = mixture.sample(11), ContinuousTime(T_MIN, GaussianDecoder(0.01), 5, NoiseCurve.fit(moments))
    model = mixture.score_model(SCHEDULE)
    results = [bits_per_dim(model, x, method, batch_size=b, draws=2, seed=4, **QUIET).terms for b in (1, 4, 100)]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-10)
    assert not np.allclose(bits_per_dim(model, x, method, draws=2, seed=5, **QUIET).terms, results[0])


@pytest.mark.parametrize(("decoder", "extra"), [(GaussianDecoder(0.3), 1), (NoDecoder(), 0), (CategoricalDecoder(), 0)])
def test_costs(separated, decoder, extra):
    model, data_range = separated[0].score_model(SCHEDULE), DataRange(-1, 1, 3)
    x, method = torch.ones(4, 2, dtype=torch.float64), ContinuousTime(0.1, decoder, 3)
    with model.metered() as cost:
        bound = bits_per_dim(model, x, method, data_range, **QUIET)
    assert bound.evaluations == cost.evaluations == 4 * (3 + extra)
    assert bound.calls_per_example == 3 + extra
    assert bound.vector_products == 0
    assert bound.columns == ("prior", "transitions", "reconstruction")


# --- predictions --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_predicted_from_the_curve(case):
    """Continuous time and chains, with and without decoder, predicted and measured; false alarm 6e-5 a comparison."""
    mixture, moments, _ = case
    curve, x = NoiseCurve.fit(moments), mixture.sample(1000, seed=16)
    decoder = decoder_of(curve, 8.0)
    t_min = SCHEDULE.time(8.0)
    grid = even_log_snr(SCHEDULE, 12, t_min)
    methods = {
        "continuous": ContinuousTime(t_min, decoder, curve=curve),
        "without": ContinuousTime(t_min, NoDecoder(), curve=curve),
        "chain": Chain(grid, Isotropic(curve), NoDecoder()),
    }
    predicted = price(moments, SCHEDULE, methods, mixture.statistics())
    measured = bits_per_dim(mixture.score_model(SCHEDULE), x, methods, seed=1, batch_size=1000, **QUIET)
    for name, bound in measured.items():
        for part in ("total", "transitions", "reconstruction"):
            (a, error_a), (b, error_b) = getattr(predicted[name], part), getattr(bound, part)
            assert abs(a - b) < 4 * math.hypot(error_a, error_b) + 1e-9, (name, part)
    assert predicted["without"].reconstruction.stderr == pytest.approx(0.0, abs=1e-12)
    assert predicted["continuous"].per_step.shape == (1,)


@pytest.mark.slow
def test_the_prediction_is_the_limit_of_chains(sixteen):
    """Of the predicted bounds of K steps, as K grows; the excess falls like 1 / K."""
    mixture, moments = sixteen
    curve = NoiseCurve.fit(moments)
    t_min, decoder = SCHEDULE.time(8.0), decoder_of(curve, 8.0)
    methods = {k: Chain(even_log_snr(SCHEDULE, k, t_min), Isotropic(curve), decoder) for k in (100, 200, 400, 4000)}
    methods["limit"] = ContinuousTime(t_min, decoder)
    total = {name: p.total.value for name, p in price(moments, SCHEDULE, methods, mixture.statistics()).items()}
    excess = np.array([total[k] - total["limit"] for k in (100, 200, 400, 4000)])
    assert (excess > 0).all()
    np.testing.assert_allclose(excess[:2] / excess[1:3], 2.0, rtol=0.1)
    assert excess[3] < 0.05 * excess[0]


# --- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"t_min": 0.0}, "t_min must be"),
        ({"t_min": 1.0}, "t_min must be"),
        ({"t_min": -0.1}, "t_min must be"),
        ({"t_min": math.nan}, "t_min must be"),
        ({"t_min": 0.1, "times": 0}, "times must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        ContinuousTime(decoder=NoDecoder(), **options)


def test_the_decoder_must_fit_the_data(separated):
    method = ContinuousTime(0.1, CategoricalDecoder())
    with pytest.raises(ValueError, match="declare their levels"):
        bits_per_dim(separated[0].score_model(SCHEDULE), torch.zeros(2, 2), method, **QUIET)
