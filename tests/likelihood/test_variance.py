"""The variance of the bound: predicted = measured, the closed form is the least, stratified times remove what they should."""

import numpy as np
import pytest
import torch

from score_sde_analytic.errors import InputError
from score_sde_analytic.likelihood import (
    BITS,
    ContinuousTime,
    TimesPerExample,
    bits_per_dim,
    times_per_example,
    variance_of_bound,
)
from score_sde_analytic.likelihood.method import Batch
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process import CosineVP, Density, Learned, LinearVP
from score_sde_analytic.process.decoder import NoDecoder
from score_sde_analytic.uncertainty import Estimate

QUIET = {"progress": False}
LOW, HIGH = -10.0, 7.0
SCHEDULE = Learned(Density.uniform(LOW, HIGH))
T_MIN = SCHEDULE.time(HIGH)
COUNT = 6000


@pytest.fixture(scope="module")
def mixture():
    """Three narrow components in four dimensions."""
    means = np.random.default_rng(2).normal(size=(3, 4))
    return GaussianMixture([0.3, 0.3, 0.4], means, [0.3, 0.1, 0.03, 0.01])


@pytest.fixture(scope="module")
def moments(mixture):
    knots = np.linspace(LOW, HIGH, 35)
    budget = Budget(min_draws=1500, max_draws=1500, batch_size=500)
    return estimate(mixture.score_model(SCHEDULE), mixture.sample(20_000, seed=5), knots, budget, **QUIET)


def densities(moments):
    curve = NoiseCurve.fit(moments, warn=False)
    return {
        "linear": Density.of(LinearVP(), LOW, HIGH),
        "cosine": Density.of(CosineVP(), LOW, HIGH),
        "even": Density.uniform(LOW, HIGH),
        "curve": Density.from_curve(curve, LOW, HIGH),
        "independent": Density.from_moments(moments, "independent", LOW, HIGH),
        "stratified": Density.from_moments(moments, "stratified", LOW, HIGH),
    }


@pytest.fixture(scope="module")
def measured(mixture, moments):
    """Transitions of many examples, one draw of each, for every density and sampling."""
    model, x = mixture.score_model(SCHEDULE), mixture.sample(COUNT, seed=9)
    methods = {
        (name, sampling): ContinuousTime(T_MIN, NoDecoder(), 1, density=density, sampling=sampling)
        for name, density in densities(moments).items()
        for sampling in ("independent", "stratified")
    }
    named = {"-".join(key): method for key, method in methods.items()}
    bounds = bits_per_dim(model, x, named, batch_size=COUNT, **QUIET)
    return {key: bounds["-".join(key)].part("transitions") for key in methods}


def test_predicted_variances_are_those_measured(moments, measured):
    """Five standard errors of both, that of a sample variance from its fourth moment; six densities."""
    for name, density in densities(moments).items():
        values = measured[name, "independent"]
        predicted = variance_of_bound(moments, density)
        centred = (values - values.mean()) ** 2
        error = np.hypot(predicted.variance.stderr, centred.std() / np.sqrt(COUNT))
        assert abs(centred.mean() - predicted.variance.value) < 5.0 * error, name
        assert abs(values.mean() - predicted.mean.value) < 5.0 * np.hypot(predicted.mean.stderr, values.std() / np.sqrt(COUNT))


def test_stratified_times_leave_the_variance_within_a_level(moments, measured):
    """Neighbours in time differ by what is left: mean of their squared differences over 2."""
    for name, density in densities(moments).items():
        predicted = variance_of_bound(moments, density, "stratified")
        method = ContinuousTime(T_MIN, NoDecoder(), 1, density=density, sampling="stratified")
        places = (method.places(_batch())[:, 0]).argsort()
        halves = np.diff(measured[name, "stratified"][places])[::2] ** 2 / 2.0
        error = np.hypot(predicted.variance.stderr, halves.std() / np.sqrt(len(halves)))
        assert abs(halves.mean() - predicted.variance.value) < 5.0 * error, name


def _batch():
    return Batch(torch.zeros(COUNT, 1), range(COUNT), 0, 0, None, COUNT)


@pytest.mark.parametrize("sampling", ["independent", "stratified"])
def test_no_density_varies_less_than_the_closed_form(moments, sampling):
    """Cauchy-Schwarz, cell by cell: any change of the density makes it worse."""
    best = Density.from_moments(moments, sampling, LOW, HIGH)
    least = variance_of_bound(moments, best, sampling).variance.value
    rng = np.random.default_rng(0)
    for name, other in densities(moments).items():
        assert variance_of_bound(moments, other, sampling).variance.value >= least * (1 - 1e-12), name
    for size in (0.01, 0.1, 1.0):
        bent = Density(LOW, HIGH, best.mass * np.exp(size * rng.normal(size=len(best.mass))))
        assert variance_of_bound(moments, bent, sampling).variance.value > least


def test_the_least_variance_is_that_of_the_formula(moments):
    error = moments.squared_error
    lam = Density.uniform(LOW, HIGH).middles
    width = (HIGH - LOW) / len(lam)
    root, mean = 0.5 * width * error.root_mean_square(lam).sum(), 0.5 * width * error.mean(lam).sum()
    best = variance_of_bound(moments, Density.from_moments(moments, "independent", LOW, HIGH))
    assert best.variance.value == pytest.approx(BITS**2 * (root**2 - mean**2), rel=1e-9)
    assert best.relative.value == pytest.approx((root / mean) ** 2 - 1.0, rel=1e-9)


def test_stratified_samples_spread_over_examples_whatever_the_batch(mixture, moments):
    model, x = mixture.score_model(SCHEDULE), mixture.sample(64, seed=1)
    method = ContinuousTime(T_MIN, NoDecoder(), 2, sampling="stratified")
    one, two = (bits_per_dim(model, x, method, batch_size=size, **QUIET).per_example for size in (64, 7))
    np.testing.assert_allclose(one, two, rtol=1e-9)
    places = method.places(_batch())
    assert places.shape == (COUNT, 2)
    gaps = np.diff(np.sort(places[:, 0]))
    assert gaps.max() < 3.0 / COUNT


def test_any_density_is_unbiased(mixture, measured):
    """All six agree in pairs of independent draws, each within four standard errors: one false alarm in 1,000."""
    values = [measured[name, "independent"] for name in ("linear", "even", "curve", "independent")]
    for one in values[1:]:
        error = np.hypot(one.std(), values[0].std()) / np.sqrt(COUNT)
        assert abs(one.mean() - values[0].mean()) < 4.0 * error


def test_variance_between_and_within_examples(mixture, moments):
    """Total variance of one draw = between + within, and within falls as 1 / times."""
    model, x = mixture.score_model(SCHEDULE), mixture.sample(1500, seed=4)
    density = densities(moments)["independent"]
    one, many = (
        times_per_example(model, x, ContinuousTime(T_MIN, NoDecoder(), times, density=density), **QUIET) for times in (1, 8)
    )
    predicted = variance_of_bound(moments, density).variance
    total = one.between.value + one.within.value
    assert abs(total - predicted.value) < 5.0 * np.hypot(one.between.stderr + one.within.stderr, predicted.stderr)
    assert many.within.value < one.within.value / 4.0
    assert abs(many.between.value - one.between.value) < 5.0 * np.hypot(many.between.stderr, one.between.stderr)


def test_both_measurements_are_kept(mixture, tmp_path):
    model, x, method = mixture.score_model(SCHEDULE), mixture.sample(20, seed=4), ContinuousTime(T_MIN, NoDecoder(), 2)
    found = times_per_example(model, x, method, path=tmp_path / "pair.safetensors", **QUIET)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pair-0.safetensors", "pair-1.safetensors"]
    with model.metered() as cost:
        assert times_per_example(model, x, method, path=tmp_path / "pair.safetensors", **QUIET) == found
    assert cost.calls == 0


def test_how_many_times_are_worth_drawing():
    found = TimesPerExample(4, between=Estimate(1.0, 0.0), within=Estimate(0.5, 0.0))
    times = found.worth(0.1)
    share = (0.5 * 4 / times) / (1.0 + 0.5 * 4 / times)
    assert share <= 0.1 < (0.5 * 4 / (times - 1)) / (1.0 + 0.5 * 4 / (times - 1))
    with pytest.raises(InputError, match="do not differ measurably"):
        TimesPerExample(4, between=Estimate(-0.1, 1.0), within=Estimate(0.5, 0.0)).worth()


def test_what_does_not_fit_is_refused(moments):
    curve = NoiseCurve.fit(moments, warn=False)
    with pytest.raises(InputError, match="by a curve or by a density"):
        ContinuousTime(T_MIN, NoDecoder(), 1, curve, density=Density.uniform(LOW, HIGH))
    with pytest.raises(InputError, match="sampling must be one of"):
        variance_of_bound(moments, Density.uniform(LOW, HIGH), "sobol")
    with pytest.raises(InputError, match="sampling must be one of"):
        ContinuousTime(T_MIN, NoDecoder(), 1, sampling="sobol")
    assert variance_of_bound(moments, Density.uniform(LOW, HIGH)).draws(1e9) == 1
