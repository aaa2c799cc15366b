"""Tables fitted to paths: least squares on Gaussian data, the certificate, interruption, and what is refused."""

import math
import signal

import numpy as np
import pytest
import torch

from score_sde_analytic.data.transforms import DCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.noise import SampleNoise
from score_sde_analytic.process.schedule import VE, LinearVP, SubVP
from score_sde_analytic.samplers import (
    Fitting,
    FlowPaths,
    Rule,
    TableSampler,
    fit_table,
    gaussian_price,
    generate,
    matched,
    record_paths,
    spectrum_table,
)
from score_sde_analytic.samplers.flow_paths import exponential_weights, preserving
from score_sde_analytic.samplers.gaussian_tables import transfer
from score_sde_analytic.samplers.table_fit import Projected
from score_sde_analytic.samplers.table_rows import applied

SPECTRUM = np.geomspace(0.005, 2.0, 12)
LEVELS = np.linspace(-6.0, 9.0, 32)


@pytest.fixture(scope="module")
def linear():
    return LinearDenoiser(DCT(), torch.linspace(-1.0, 1.0, 12), SPECTRUM)


@pytest.fixture(scope="module")
def gaussian_paths(linear):
    return record_paths(linear.score_model(LinearVP()), linear, (12,), LEVELS, count=60, progress=False)


@pytest.fixture(scope="module")
def mixed():
    """Three components in four dimensions, and the best linear denoiser of them."""
    generator = np.random.default_rng(2)
    mixture = GaussianMixture(np.ones(3), generator.normal(size=(3, 4)), np.geomspace(0.3, 0.01, 4))
    return mixture, LinearDenoiser.exact(*mixture.moments())


@pytest.fixture(scope="module")
def mixed_paths(mixed):
    mixture, linear = mixed
    return record_paths(mixture.score_model(LinearVP()), linear, (4,), LEVELS, count=80, seed=3, progress=False)


# --- paths ---


def test_exponential_weights_are_exact_for_polynomials():
    """m a cubic in log-SNR: the step from four nodes is the integral, here by a fine trapezium."""
    cubic = np.polynomial.Polynomial([0.3, -0.5, 0.2, 0.1])
    nodes, start, end = np.array([-1.0, 0.2, 0.9, 2.0]), 0.2, 1.4
    r, weights = exponential_weights(nodes, start, end)
    lam = np.linspace(start, end, 200_001)
    integral = preserving(end)[1] * np.trapezoid(0.5 * np.exp(0.5 * lam) * cubic(lam), lam)
    assert weights @ cubic(nodes) == pytest.approx(integral, rel=1e-9)
    assert r == pytest.approx(preserving(end)[1] / preserving(start)[1])


def test_paths_follow_the_exact_flow_of_gaussian_data(linear, gaussian_paths):
    """x = alpha mu + U^T sqrt(alpha^2 c + sigma^2) U z at recorded levels and between them."""
    projected = Projected(gaussian_paths, linear)
    for log_snr in (-6.0, -1.3, 2.22, 8.9):
        alpha, sigma = preserving(log_snr)
        expected = np.sqrt(alpha**2 * SPECTRUM + sigma**2) * projected.z
        np.testing.assert_allclose(projected.state(log_snr), expected, atol=3e-3)
        np.testing.assert_allclose(
            projected.prediction(log_snr), alpha * SPECTRUM / (alpha**2 * SPECTRUM + sigma**2) * expected, atol=5e-3
        )


def test_the_solver_is_of_third_order(linear):
    model = linear.score_model(LinearVP())
    errors = []
    for steps in (20, 40, 80):
        paths = record_paths(model, linear, (12,), np.linspace(-6.0, 9.0, steps + 1), count=2, progress=False)
        projected = Projected(paths, linear)
        alpha, sigma = preserving(9.0)
        exact = alpha * SPECTRUM / (alpha**2 * SPECTRUM + sigma**2) ** 0.5 * projected.z
        errors.append(np.abs(projected.predictions[-1] - exact).max())
    assert 2.4 < math.log2(errors[0] / errors[2]) / 2 < 3.8


@pytest.mark.parametrize("schedule", [VE(), SubVP()], ids=["ve", "sub_vp"])
def test_paths_are_the_same_under_every_schedule(linear, schedule):
    levels = np.linspace(-6.0, 8.0, 8)
    own = record_paths(linear.score_model(schedule), linear, (12,), levels, count=3, progress=False)
    other = record_paths(linear.score_model(LinearVP()), linear, (12,), levels, count=3, progress=False)
    torch.testing.assert_close(own.predictions, other.predictions, atol=1e-5, rtol=0.0)


class Interrupting:
    """A network that asks for an end at one of its calls."""

    def __init__(self, free, at):
        self.free, self.at, self.calls = free, at, 0

    def __call__(self, x, t):
        self.calls += 1
        if self.calls == self.at:
            signal.raise_signal(signal.SIGINT)
        return torch.tanh(x) * t[:, None]


@pytest.mark.parametrize("at", [1, 5, 9])
def test_interrupted_paths_go_on_to_the_identical_result(linear, tmp_path, at):
    def recorded(net, path):
        model = ScoreModel(net, LinearVP(), predicts="x_0", fingerprint="tanh")
        options = {"count": 5, "batch_size": 3, "path": path, "progress": False}
        return record_paths(model, linear, (12,), np.linspace(-4.0, 4.0, 6), **options)

    whole = recorded(Interrupting(linear, 0), None)
    with pytest.raises(KeyboardInterrupt):
        recorded(Interrupting(linear, at), tmp_path / "paths.safetensors")
    with pytest.raises(InputError, match="not finished"):
        FlowPaths.load(tmp_path / "paths.safetensors")
    rest = Interrupting(linear, 0)
    resumed = recorded(rest, tmp_path / "paths.safetensors")
    assert rest.calls == 12 - at
    assert torch.equal(resumed.predictions, whole.predictions)
    assert resumed.cost == whole.cost
    assert torch.equal(FlowPaths.load(tmp_path / "paths.safetensors").predictions, whole.predictions)


def test_a_file_of_other_paths_is_refused(linear, tmp_path):
    model = linear.score_model(LinearVP())
    record_paths(model, linear, (12,), [-1.0, 1.0], count=2, path=tmp_path / "paths", progress=False)
    with pytest.raises(InputError, match="count: file has 2, expected 3"):
        record_paths(model, linear, (12,), [-1.0, 1.0], count=3, path=tmp_path / "paths", progress=False)


def test_paths_keep_conditions_in_half_precision(linear, tmp_path):
    model = ScoreModel(lambda x, t, emb: 0.0 * x, LinearVP(), conditions=["emb"], fingerprint="nothing")
    options = {"count": 4, "conditions": {"emb": torch.rand(4, 3).bfloat16()}, "progress": False}
    paths = record_paths(model, linear, (12,), [-1.0, 1.0], **options, path=tmp_path / "paths")
    again = record_paths(model, linear, (12,), [-1.0, 1.0], **options, path=tmp_path / "paths")
    assert torch.equal(paths.predictions, again.predictions)


# --- fits ---


def test_on_gaussian_data_fitted_rows_are_those_of_the_spectrum(linear, gaussian_paths):
    """Same grid, same rule: weights from 45 paths cost on the data what those from the spectrum do, up to sampling."""
    at = np.array([-1.5, 1.0, 3.5])
    fitting = Fitting(pooled=(math.inf,), gain="none", ridge=0.0)
    fitted = fit_table(linear.score_model(LinearVP()), gaussian_paths, linear, log_snrs=at, fitting=fitting)
    exact = gaussian_price(spectrum_table(linear, 3, at, Rule(gain="none", ridge=0.0)), SPECTRUM)
    price = gaussian_price(fitted, SPECTRUM)
    assert exact <= price * (1.0 + 1e-6)  # the least squares are the least
    assert price < 2.0 * exact + 1e-5


def test_matched_samples_have_the_variance_of_the_data(linear):
    """A network of data half as loud has a flow of a quarter of the variance; one number repairs it, whatever the paths."""
    spectrum = 0.25 * SPECTRUM
    quiet = LinearDenoiser(linear.basis, linear.mean, spectrum).score_model(LinearVP())
    paths = record_paths(quiet, linear, (12,), LEVELS, count=40, progress=False)
    table = fit_table(quiet, paths, linear, 4, fitting=Fitting(trials=0))
    louder = matched(table)
    assert table.facts["variance_share"] == pytest.approx(np.sum(transfer(table, spectrum) ** 2) / SPECTRUM.sum(), rel=1e-3)
    assert np.sum(transfer(louder, spectrum) ** 2) == pytest.approx(SPECTRUM.sum(), rel=1e-3)
    left = [np.sum((np.abs(transfer(either, spectrum)) - np.sqrt(SPECTRUM)) ** 2) for either in (table, louder)]
    assert left[1] < 1e-3 * left[0]
    with pytest.raises(InputError, match="was not fitted to paths"):
        matched(spectrum_table(linear, 2))


def test_the_certificate_of_matched_samples(mixed, mixed_paths):
    """That of the held-out paths with louder ends."""
    mixture, linear = mixed
    model = mixture.score_model(LinearVP())
    louder = matched(fit_table(model, mixed_paths, linear, 2, fitting=Fitting(trials=0)))
    projected = Projected(mixed_paths, linear)
    policy = projected.network(model, louder.log_snrs, 100, "cpu")
    terms, state = [projected.z], louder.rows[0][0].ravel() * projected.z
    for call, row in enumerate(louder.rows[1:]):
        terms.append(policy(state, call))
        state = applied(row.reshape(len(row), -1).squeeze(), np.stack(terms))
    error = np.mean((state - projected.predictions[-1])[60:] ** 2)
    assert louder.facts["certificate"] == pytest.approx(error, rel=1e-4)


def test_rows_are_the_constrained_minimum():
    """g C^{-1} b: no row of the same variance is nearer to the target, whatever the direction."""
    generator = np.random.default_rng(0)
    terms = generator.normal(size=(3, 400, 1))
    target = 0.7 * terms[0] - 0.4 * terms[2] + 0.5 * generator.normal(size=(400, 1))
    row = Rule(gain="common", ridge=0.0).row(terms, target)
    flat = terms[..., 0]
    v = np.mean(target**2)

    def distance(weights):
        return np.mean((target[:, 0] - weights @ flat) ** 2)

    assert np.mean((row @ flat) ** 2) == pytest.approx(v)
    r = np.sqrt(np.mean((target[:, 0] - np.linalg.lstsq(flat.T, target[:, 0], rcond=None)[0] @ flat) ** 2) / v)
    assert distance(row) == pytest.approx(2.0 * v * (1.0 - math.sqrt(1.0 - r**2)))
    for direction in generator.normal(size=(20, 3)):
        other = row + 0.1 * direction
        other *= math.sqrt(v / np.mean((other @ flat) ** 2))
        assert distance(other) >= distance(row)


@pytest.mark.parametrize("pooled", [math.inf, 3.0])
def test_the_certificate_bounds_the_distance_to_the_fine_flow(mixed, mixed_paths, pooled):
    """E ||xh_0 - x0*||^2 / d on new paths is what the held-out ones say, and W2^2 of the marginals lies below it."""
    mixture, linear = mixed
    model = mixture.score_model(LinearVP())
    table = fit_table(model, mixed_paths, linear, 2, fitting=Fitting(pooled=(pooled,), trials=10))
    sampler = TableSampler(model, table)
    others = record_paths(model, linear, (4,), LEVELS, count=400, seed=5, progress=False)
    level = model.schedule.level_at(float(table.log_snrs[0]))
    from score_sde_analytic.samplers import carry

    x = carry(sampler, sampler.plan(sampler.grid), table.start(others.z, level), SampleNoise(0, range(400)))
    errors = (x - others.predictions[-1]).square().mean(1)
    measured = float(errors.mean())
    spread = math.hypot(table.facts["certificate_stderr"], float(errors.std()) / 20.0)
    assert table.facts["certificate"] == pytest.approx(measured, abs=4.0 * spread)
    sorted_gap = (x.sort(0).values - others.predictions[-1].sort(0).values).square().mean()
    assert float(sorted_gap) <= measured


def test_more_calls_leave_less(mixed, mixed_paths):
    mixture, linear = mixed
    model = mixture.score_model(LinearVP())
    fitting = Fitting(trials=10)
    left = [fit_table(model, mixed_paths, linear, steps, fitting=fitting).facts["certificate"] for steps in (1, 2, 4)]
    assert left[1] < 0.7 * left[0]
    assert left[2] < 0.5 * left[1]


def test_the_refined_grid_is_no_worse_on_what_it_was_refined_on(mixed, mixed_paths):
    mixture, linear = mixed
    model = mixture.score_model(LinearVP())
    plain, refined = (
        fit_table(model, mixed_paths, linear, 3, fitting=Fitting(trials=trials)).facts["certificate"] for trials in (0, 30)
    )
    assert refined < 1.2 * plain


def test_equal_settings_give_equal_tables_and_costs_are_reported(mixed, mixed_paths):
    mixture, linear = mixed
    model = mixture.score_model(LinearVP())
    with model.metered() as cost:
        one, two = (fit_table(model, mixed_paths, linear, 3, fitting=Fitting(trials=10)) for _ in range(2))
    assert one.digest == two.digest
    assert one.label == "fewest(K=3)"
    assert cost.evaluations == 2 * 80 * 3
    assert one.facts["fit_evaluations"] == 80 * 3
    assert one.facts["path_evaluations"] == 80 * 32


@pytest.mark.parametrize("steps", [12, 60])
def test_many_calls_lie_within_the_paths(mixed, mixed_paths, steps):
    mixture, linear = mixed
    table = fit_table(mixture.score_model(LinearVP()), mixed_paths, linear, steps)
    assert LEVELS[0] <= table.log_snrs[0]
    assert table.log_snrs[-1] <= LEVELS[-1]
    assert table.facts["certificate"] < 2e-3


def test_what_does_not_fit(mixed, mixed_paths, linear):
    mixture, own = mixed
    model = mixture.score_model(LinearVP())
    with pytest.raises(InputError, match="made for something else"):
        fit_table(linear.score_model(LinearVP()), mixed_paths, own, 3)
    with pytest.raises(InputError, match="outside the paths' levels"):
        fit_table(model, mixed_paths, own, log_snrs=[-9.0, 0.0])
    with pytest.raises(InputError, match="either the number of calls or"):
        fit_table(model, mixed_paths, own)
    few = record_paths(model, own, (4,), LEVELS, count=3, progress=False)
    with pytest.raises(InputError, match="too few"):
        fit_table(model, few, own, 2)


def test_a_table_learns_the_spread_of_the_flow(mixed, mixed_paths):
    """Gains: samples vary as the flow's ends do, in every coordinate."""
    mixture, linear = mixed
    model = mixture.score_model(LinearVP())
    sampler = TableSampler(model, fit_table(model, mixed_paths, linear, 1))
    x = generate(sampler, sampler.grid, (4,), 4000, batch_size=4000)
    ratio = x.var(0) / mixture.sample(4000).float().var(0)
    assert float(ratio.min()) > 0.7
    assert float(ratio.max()) < 1.4
