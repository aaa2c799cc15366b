"""The noise curve: exact for Gaussian data, monotone for any data, bounded, differentiable, saved whole or refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.files import save_arrays
from score_sde_analytic.measure.curve import NoiseCurve, residual_cap
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import CosineVP

LAM = np.linspace(-12.0, 12.0, 241)
CONTAINERS = ("y_at", "y_slope", "residual", "noise_power", "derivative", "effective_variance", "posterior_variance")


def gaussian_residual(log_snr, variance):
    return 1 / (1 + np.exp(-log_snr) / variance)


@pytest.fixture
def wavy() -> NoiseCurve:
    """A curve with a steep and a flat part."""
    lam = np.linspace(-8.0, 8.0, 12)
    return NoiseCurve(lam, 0.3 * lam + np.tanh(lam - 1))


@pytest.mark.parametrize("variance", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("knot", [-6.0, 0.0, 5.0])
@pytest.mark.parametrize("source", ["residual", "score"])
def test_one_knot_is_exact_for_gaussian_data(schedule, variance, knot, source):
    """The control variates leave no Monte Carlo error, and constant y no interpolation error."""
    gaussian = GaussianMixture([1.0], [[0.5, -1.0, 2.0]], variance)
    moments = estimate(
        gaussian.score_model(schedule), gaussian.sample(300), [knot], statistics=gaussian.statistics(), progress=False
    )
    curve = NoiseCurve.fit(moments, source)
    np.testing.assert_allclose(curve.residual(LAM), gaussian_residual(LAM, variance), rtol=1e-8)
    np.testing.assert_allclose(curve.effective_variance(LAM), variance, rtol=1e-8)
    assert np.all(curve.y_slope(LAM) == 0)


@pytest.mark.parametrize("variance", [1e-3**2, 300.0**2])
def test_scale_of_the_data_does_not_matter(table, variance):
    """Rescaled data at the matching log-SNR are the same problem: still no Monte Carlo error."""
    gaussian = GaussianMixture([1.0], [[0.5, -1.0, 2.0]], variance)
    knot = min(8.0, max(-8.0, -math.log(variance)))
    moments = estimate(
        gaussian.score_model(table), gaussian.sample(300), [knot], statistics=gaussian.statistics(), progress=False
    )
    assert moments.residual[0] == pytest.approx(gaussian_residual(knot, variance), rel=1e-8)


@given(
    r=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=20),
    relative=st.floats(1e-4, 0.5),
    bounded=st.sampled_from(["none", "variance", "range"]),
)
def test_y_never_decreases(r, relative, bounded):
    lam = np.linspace(-6.0, 6.0, len(r))
    statistics = DataStatistics(0, torch.zeros(2), 0.6, np.array([0.2, 1.0]), "")
    cap = {"none": None, "variance": residual_cap(statistics), "range": residual_cap(None, DataRange())}[bounded]
    curve = NoiseCurve.from_residual(lam, r, relative * np.array(r), cap=cap)
    assert np.all(np.diff(curve.y) >= -1e-12)
    assert np.all(np.diff(curve.y_at(LAM)) >= -1e-9)
    assert np.all(curve.y_slope(LAM) >= -1e-9)
    if cap is not None:
        assert np.all(curve.residual(lam) <= cap(lam) * (1 + 1e-9))


def test_noisy_measurements_are_pooled_by_their_precision():
    """Isotonic regression of (2, 1) with weights 3 : 1 is their weighted mean."""
    lam, y = np.array([0.0, 1.0]), np.array([2.0, 1.0])
    r = 1 / (1 + np.exp(y - lam))
    error = r * (1 - r) / np.sqrt([3.0, 1.0])
    np.testing.assert_allclose(NoiseCurve.from_residual(lam, r, error).y, 1.75)
    np.testing.assert_allclose(NoiseCurve.from_residual(lam, r).y, 1.5)


def test_measured_values_are_interpolated():
    lam = np.linspace(-5, 5, 9)
    r = gaussian_residual(lam, np.exp(-0.2 * lam))
    np.testing.assert_allclose(NoiseCurve.from_residual(lam, r).residual(lam), r, rtol=1e-12)


def test_unusable_knots_are_dropped():
    curve = NoiseCurve.from_residual([-2.0, 0.0, 2.0, 3.0], [-0.01, 0.5, 1.2, math.nan])
    assert curve.log_snr.tolist() == [0.0]
    with pytest.raises(ValueError, match="no knot"):
        NoiseCurve.from_residual([0.0, 1.0], [0.0, 1.0])


def test_constant_y_beyond_the_end_knots(wavy):
    assert wavy.y_at(-50.0) == wavy.y[0]
    assert wavy.y_at(math.inf) == wavy.y[-1]
    assert wavy.y_slope(-50.0) == wavy.y_slope(50.0) == 0.0
    assert wavy.posterior_variance(math.inf) == 0.0
    assert wavy.noise_power(math.inf) == 0.0


def test_views_are_consistent(wavy):
    r, c, snr = wavy.residual(LAM), wavy.effective_variance(LAM), np.exp(LAM)
    np.testing.assert_allclose(r, snr * c / (1 + snr * c), rtol=1e-12)
    np.testing.assert_allclose(wavy.noise_power(LAM), 1 / (1 + snr * c), rtol=1e-12)
    np.testing.assert_allclose(wavy.posterior_variance(LAM), r / snr, rtol=1e-12)


def test_derivatives_match_finite_differences(wavy):
    step, lam = 1e-6, LAM + 0.013  # off the knots, where the second derivative jumps
    for value, slope in ((wavy.residual, wavy.derivative), (wavy.y_at, wavy.y_slope)):
        numeric = (value(lam + step) - value(lam - step)) / (2 * step)
        np.testing.assert_allclose(slope(lam), numeric, rtol=1e-5, atol=1e-8)


def test_gamma_is_the_power_of_the_score(schedule):
    """Gamma = E||score||^2 / d = 1 / (alpha^2 c^2 + sigma^2) for Gaussian data."""
    curve, t = NoiseCurve(np.array([0.0]), np.array([-math.log(0.3)])), np.linspace(0.01, 1.0, 7)
    expected = 1 / (schedule.alpha(t) ** 2 * 0.3 + schedule.sigma(t) ** 2)
    np.testing.assert_allclose(curve.gamma(schedule, t), expected, rtol=1e-12)
    assert isinstance(curve.gamma(schedule, 0.5), float)
    np.testing.assert_allclose(curve.gamma(schedule, torch.from_numpy(t)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("method", CONTAINERS)
@pytest.mark.parametrize("knots", [1, 5])
def test_containers(method, knots):
    law = getattr(NoiseCurve(np.arange(knots, dtype=float), np.arange(knots, dtype=float)), method)
    lam = np.array([-1.0, 0.5, 7.0])
    expected = np.array([law(float(v)) for v in lam])
    assert isinstance(law(0.5), float)
    assert isinstance(law(lam), np.ndarray)
    np.testing.assert_allclose(law(lam), expected, rtol=1e-14)
    tensor = law(torch.from_numpy(lam))
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-14)
    assert law(lam.reshape(3, 1)).shape == (3, 1)


def test_bounds(triple):
    """Every cap holds for the exact residual; eigenvalues are tighter than the variance, variance than range."""
    lam = np.linspace(-8.0, 8.0, 17)
    anisotropic = DataStatistics(0, torch.zeros(2), 0.5, np.array([0.1, 0.9]), "")
    plain = DataStatistics(0, torch.zeros(2), 0.5, None, "")
    by_range, by_variance = residual_cap(None, DataRange())(lam), residual_cap(plain)(lam)
    by_eigenvalues = residual_cap(anisotropic)(lam)
    assert np.all(residual_cap()(lam) == 1)
    np.testing.assert_allclose(by_range, gaussian_residual(lam, 1.0))  # no data in [-1, 1] vary more than 1
    assert np.all(by_range <= np.minimum(1, np.exp(lam)))
    np.testing.assert_allclose(by_variance, gaussian_residual(lam, 0.5))
    np.testing.assert_allclose(by_eigenvalues, (gaussian_residual(lam, 0.1) + gaussian_residual(lam, 0.9)) / 2)
    assert np.all(by_eigenvalues < by_variance)
    assert np.all(by_variance < by_range)
    cap = residual_cap(triple.statistics())
    for value in lam[::4]:
        level = CosineVP().level_at(float(value))
        r, error = triple.residual(level)
        assert r <= cap(np.array([value]))[0] + 5 * error


def test_fit_uses_the_requested_source(moments):
    """For an exact score both sources describe one curve; the cap lowers both."""
    residual, score = NoiseCurve.fit(moments), NoiseCurve.fit(moments, "score")
    assert (residual.source, score.source) == ("residual", "score")
    np.testing.assert_allclose(score.residual(score.log_snr[5:-5]), residual.residual(score.log_snr[5:-5]), rtol=0.1)
    capped = NoiseCurve.fit(moments, cap=lambda lam: np.full_like(lam, 0.2))
    assert capped.residual(capped.log_snr).max() <= 0.2 + 1e-12
    with pytest.raises(ValueError, match="source"):
        NoiseCurve.fit(moments, "variance")


@pytest.mark.parametrize(
    ("knots", "values", "match"),
    [
        ([0.0, 1.0], [0.0], "equally many"),
        ([], [], "equally many"),
        ([[0.0]], [[0.0]], "equally many"),
        ([0.0, math.nan], [0.0, 1.0], "finite"),
        ([0.0, 1.0], [0.0, math.inf], "finite"),
        ([0.0, 0.0], [0.0, 1.0], "increasing"),
        ([1.0, 0.0], [0.0, 1.0], "increasing"),
    ],
)
def test_bad_curves_are_refused(knots, values, match):
    with pytest.raises(ValueError, match=match):
        NoiseCurve(np.array(knots, dtype=float), np.array(values, dtype=float))


def test_save_and_load(tmp_path, curve, mixture, table):
    path = tmp_path / "curve.safetensors"
    curve.save(path)
    loaded = NoiseCurve.load(path, mixture.score_model(table).fingerprint())
    np.testing.assert_array_equal(loaded.y, curve.y)
    np.testing.assert_array_equal(loaded.log_snr, curve.log_snr)
    assert loaded.source == "residual"
    assert NoiseCurve.load(path).fingerprint == loaded.fingerprint
    assert loaded.fingerprint["model"] == curve.fingerprint["model"]


def test_another_model_is_refused(tmp_path, curve, triple, table):
    path = tmp_path / "curve.safetensors"
    curve.save(path)
    with pytest.raises(ValueError, match=r"network: file has .* expected"):
        NoiseCurve.load(path, triple.score_model(table).fingerprint())


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, curve, keep):
    path = tmp_path / "curve.safetensors"
    curve.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated"):
        NoiseCurve.load(path)


def test_other_files_are_refused(tmp_path, moments):
    path = tmp_path / "file"
    moments.save(path)
    with pytest.raises(ValueError, match="holds 'moments', not 'noise curve'"):
        NoiseCurve.load(path)
    save_arrays(path, {"y": np.zeros(1)}, {})
    with pytest.raises(ValueError, match="not 'noise curve'"):
        NoiseCurve.load(path)
    with pytest.raises(FileNotFoundError, match="no noise curve file"):
        NoiseCurve.load(tmp_path / "absent")


def test_a_sample_covariance_of_few_examples_caps_nothing():
    """For 300 isotropic Gaussian examples in 64 dimensions its eigenvalues would put R below the truth."""
    few = DataStatistics.of(TensorDataset(torch.randn(300, 64, generator=torch.Generator().manual_seed(0))))
    lam = np.linspace(-4.0, 8.0, 9)
    np.testing.assert_allclose(residual_cap(few)(lam), gaussian_residual(lam, few.variance))


def test_values_of_r_that_no_curve_can_take_are_reported():
    with pytest.warns(UserWarning, match=r"outside \(0, 1\) at log-SNR 2.0"):
        curve = NoiseCurve.from_residual([0.0, 1.0, 2.0], [0.4, 0.6, 1.1])
    assert len(curve.y) == 2
