"""Fits are judged by draws they never saw, chosen by them, priced by them, and kept in files that say what they are."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit

from score_sde_analytic import likelihood
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.data.basis import Basis, Pixel, PixelChannel, Scalar
from score_sde_analytic.data.transforms import DCT, PCA
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.draws import Recorder, ResidualDraws
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.held_out import GROUPS, STEPS, Choice, HeldOut, held_out_cost, jackknife_error, price
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.measure.statistics import Energy, GradientEnergy, HighFrequency, Statistic
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.decoder import NoDecoder
from score_sde_analytic.process.kernel import reverse_kernel
from score_sde_analytic.process.schedule import LinearVP

VP = LinearVP()
PLAIN, POOLED = Choice(None, 1, 0.0, False), Choice(None, 1, 0.0, False, pooled=True)


def chi_squares(residual, n, seed, phi=None):
    """n draws per knot of Gaussian residuals with these R, (m, L) or (m, n, L); each example has one draw at every knot."""
    rng, residual = np.random.default_rng(seed), np.asarray(residual, dtype=np.float64)
    residual = residual if residual.ndim == 3 else np.repeat(residual[:, None], n, axis=1)
    m, _, labels = residual.shape
    rms = np.sqrt(residual * rng.chisquare(1, (m, n, labels))).reshape(-1, labels).astype(np.float16)
    statistics = {} if phi is None else {"phi": phi.reshape(m * n, 1).astype(np.float32)}
    knot, example = np.repeat(np.arange(m), n), np.tile(np.arange(n), m)
    return ResidualDraws(np.linspace(-6, 6, m), knot, example, rms, statistics, np.ones(labels, dtype=np.int64))


TRUTH = expit(0.8 * np.linspace(-6, 6, 5)[:, None] + np.linspace(-2, 2, 12))


# --- held-out prices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [PLAIN, POOLED, Choice("phi", 3, 10.0, False), Choice("phi", 3, 10.0, True)])
def test_every_fold_is_priced_by_the_fit_to_the_others(choice):
    phi = np.random.default_rng(1).normal(size=(5, 120))
    draws = chi_squares(TRUTH, 120, 0, phi)  # 120 examples in 8 folds of 15
    span = draws.log_snr[-1] - draws.log_snr[0]
    parts = []
    for fold in range(8):
        kept = choice.fit(draws.take(draws.example % 8 != fold))
        parts.append(price(kept, draws.take(draws.example % 8 == fold), choice.statistic, span / 10))
    expected = np.trapezoid(np.mean(parts, 0), draws.log_snr) * 10 / span
    found = HeldOut(draws, choice).chain(10)
    assert found.shape == (1 + GROUPS,)
    assert found[0] == pytest.approx(expected, rel=1e-10)
    assert held_out_cost(draws, choice, 10, 8) == pytest.approx(expected, rel=1e-10)


def folded_price(draws, step):
    """Plain fits, each fold priced by the fit to the others."""
    group = draws.example % 8
    return np.mean([price(Spectrum.fit(draws.take(group != f)), draws.take(group == f), None, step) for f in range(8)], 0)


def test_corrections_lead_from_the_fitted_to_the_held_out_price():
    draws = chi_squares(TRUTH, 64, 0)
    held_out, whole = HeldOut(draws, PLAIN), Spectrum.fit(draws)
    for step in STEPS[[3, 8, 11]]:
        fitted = [whole.step_nats(lam + step, lam) for lam in draws.log_snr]
        found = held_out.correction(draws.log_snr + step, draws.log_snr)
        np.testing.assert_allclose(fitted + found, folded_price(draws, step), rtol=1e-9)
    # Between the tabulated steps and knots it is interpolated; steps so small or large keep their correction per unit.
    step = math.sqrt(STEPS[8] * STEPS[9])
    fitted = np.array([whole.step_nats(lam + step, lam) for lam in draws.log_snr])
    expected = folded_price(draws, step) - fitted
    np.testing.assert_allclose(held_out.correction(draws.log_snr + step, draws.log_snr), expected, atol=3e-4)
    halfway = held_out.correction(draws.log_snr[:-1] + 1.5 + step, draws.log_snr[:-1] + 1.5)
    both = held_out.correction(draws.log_snr + step, draws.log_snr)
    np.testing.assert_allclose(halfway, 0.5 * (both[1:] + both[:-1]), rtol=1e-9)


@pytest.mark.slow
def test_held_out_prices_are_honest_where_fitted_ones_are_low():
    """60 draws for 12 curves, 100 repetitions: fitted prices are low by more than 10 standard errors of their mean.

    Held out, the mean is within 4 standard errors (false alarm 6e-5) of what fits to 7/8 of the draws truly cost, and 2
    standard errors of each hold the truth in 85 of 100 (95 expected; fewer with probability 2e-4).
    """
    rng, e = np.random.default_rng(5), math.expm1(1.2)
    fitted, held_out, errors, truth = (np.empty(100) for _ in range(4))

    def true_cost(spectrum):
        r = np.stack([spectrum.residual(lam)[0] for lam in np.linspace(-6, 6, 5)])
        costs = 0.5 * (np.log1p(e * r) + e * (TRUTH - r) / (1 + e * r)).mean(1)
        return np.trapezoid(costs, np.linspace(-6, 6, 5)) * 10 / 12

    for i in range(100):
        draws = chi_squares(TRUTH, 60, int(rng.integers(2**31)))
        values = HeldOut(draws, PLAIN).chain(10)
        held_out[i], errors[i] = values[0], jackknife_error(values)
        whole = Spectrum.fit(draws)
        costs = [whole.step_nats(lam + 1.2, lam) for lam in draws.log_snr]
        fitted[i] = np.trapezoid(costs, draws.log_snr) * 10 / 12
        truth[i] = np.mean([true_cost(Spectrum.fit(draws.take(draws.example % 8 != f))) for f in range(8)])
    assert (truth - fitted).mean() > 10 * (truth - fitted).std(ddof=1) / 10
    assert abs((held_out - truth).mean()) < 4 * (held_out - truth).std(ddof=1) / 10
    assert (np.abs(held_out - truth) < 2 * errors).sum() >= 85


def test_jackknife_errors_skip_groups_without_examples():
    values = np.array([2.0, 1.9, 2.0, 2.2, 2.1])  # the second group is empty: without it nothing changes
    rest = np.array([1.9, 2.2, 2.1])
    assert jackknife_error(values) == pytest.approx(math.sqrt(2 / 3 * ((rest - rest.mean()) ** 2).sum()))
    assert jackknife_error(np.full(5, 2.0)) == 0.0


MIXTURE = GaussianMixture(np.ones(3), 0.8 * np.random.default_rng(0).normal(size=(3, 12)), np.geomspace(0.5, 0.01, 12))


@pytest.mark.slow
def test_predictions_of_fitted_covariances_agree_with_measured_bounds():
    """K = 3, 6, 12, few draws for many curves: the difference within 4 of its standard errors (false alarm 2e-4 in all)."""
    basis = PixelChannel()
    recorder = Recorder(basis, {"energy": Energy()})
    model, statistics = MIXTURE.score_model(VP), MIXTURE.statistics()
    options = {"budget": Budget(min_draws=160, max_draws=160), "statistics": statistics, "progress": False}
    moments = estimate(model, MIXTURE.sample(160, seed=1), np.linspace(-9.9, 7.0, 16), observers={"x": recorder}, **options)
    draws, chains = recorder.result(moments.log_snr), {}
    for choice in (PLAIN, Choice("energy", 6, 0.0, False)):
        statistic = Energy() if choice.statistic else None
        for name, held_out in (("held out", HeldOut(draws, choice).correction), ("fitted", None)):
            covariance = Diagonal(choice.fit(draws), basis, statistic, held_out)
            for k in (3, 6, 12):
                grid = even_log_snr(VP, k, float(VP.time(6.0)))
                chains[f"{name} {choice.statistic} {k}"] = Chain(grid, covariance, NoDecoder())
    measured = bits_per_dim(model, MIXTURE.sample(4000, seed=2), chains, batch_size=1000, progress=False)
    predicted = likelihood.price(moments, VP, chains, statistics)
    for name in (n for n in chains if n.startswith("held out")):
        assert predicted[name].transitions.stderr > 0
        error = math.hypot(measured[name].total.stderr, predicted[name].total.stderr)
        assert abs(measured[name].total.value - predicted[name].total.value) < 4 * error, name
        low = predicted[name.replace("held out", "fitted")]
        assert low.total.value < predicted[name].total.value
        assert low.transitions.stderr < predicted[name].transitions.stderr  # fitted curves say nothing of the draws' errors


# --- pooling --------------------------------------------------------------------------------------------------------------


def test_pooling_helps_where_curves_are_alike_and_leaves_others_alone():
    alike = np.repeat(TRUTH[:, :1], 40, axis=1)
    few = chi_squares(alike, 30, 0)
    alone, pooled = Spectrum.fit(few), Spectrum.fit(few, pooled=True)
    for lam in few.log_snr:
        error = np.abs(np.log(np.stack([alone.residual(lam)[0], pooled.residual(lam)[0]]) / expit(0.8 * lam - 2))).mean(1)
        assert error[1] < 0.6 * error[0]
    different = expit(0.8 * np.linspace(-6, 6, 5)[:, None] + np.linspace(-8, 3, 40))
    many = chi_squares(different, 400, 0)
    alone, pooled = Spectrum.fit(many), Spectrum.fit(many, pooled=True)
    for lam in many.log_snr:
        np.testing.assert_allclose(pooled.residual(lam), alone.residual(lam), rtol=0.02)
        np.testing.assert_allclose(pooled.residual(lam).mean(), alone.residual(lam).mean(), rtol=0.02)
    assert HeldOut.choose(few)[0].pooled
    assert held_out_cost(few, POOLED) < held_out_cost(few, PLAIN)
    assert held_out_cost(many, POOLED) == pytest.approx(held_out_cost(many, PLAIN), rel=1e-3)


def test_the_integral_of_one_curve_is_the_scalar_one():
    lam, y = np.linspace(-8, 8, 9), np.linspace(-1, 3, 9) ** 3 / 9
    curve = NoiseCurve(lam, y)
    draws_free = Spectrum.fit(chi_squares(TRUTH, 20, 0))
    one = type(draws_free)(lam, y[:, None, None], np.zeros((9, 0)), np.ones(1))
    expected = quad(lambda x: float(np.sqrt(curve.spread(x))), -7, 7, limit=200)[0]
    assert one.root_integral(-7.0, 7.0) == pytest.approx(expected, rel=2e-3)


# --- files ----------------------------------------------------------------------------------------------------------------


class Doubled(Statistic):
    def __call__(self, prediction):
        return 2.0 * prediction.x_0.flatten(1).mean(1)


class Mirrored(Basis):
    def forward(self, x):
        return -x.flip(-1)

    def inverse(self, y):
        return -y.flip(-1)

    def config(self):
        return {"name": "Mirrored"}


def diagonal(basis, statistic, shape=(1, 4, 4), smooth=True):
    rng = np.random.default_rng(0)
    d = math.prod(shape)
    phi = None if statistic is None else rng.normal(-2, 1, (5, 64, 1 if not statistic.local else d))
    truth = expit(0.8 * np.linspace(-6, 6, 5)[:, None] + rng.normal(size=d))
    base = chi_squares(truth, 64, 1)
    if phi is None:
        return Diagonal(Spectrum.fit(base), basis, None)
    draws = ResidualDraws(base.log_snr, base.knot, base.example, base.rms, {"phi": phi.reshape(320, -1)}, base.sizes)
    return Diagonal(Spectrum.fit(draws, "phi", 4, 5.0, smooth), basis, statistic)


AXES = np.linalg.qr(np.random.default_rng(3).normal(size=(16, 16)))[0]
SAVED = {
    "plain": (Pixel(), None),
    "given": (Pixel(), HighFrequency()),
    "local": (Pixel(), GradientEnergy(5)),
    "pca": (PCA(AXES), Energy()),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_covariance_is_the_same(name, tmp_path):
    original = diagonal(*SAVED[name])
    original.save(tmp_path / "c.safetensors", {"network": "abc"})
    loaded = Diagonal.load(tmp_path / "c.safetensors", {"network": "abc"})
    s, t = VP.level(0.3), VP.level(0.7)
    x, z = (torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    prediction, kernel = Prediction(x, t, 0.5 * x, "eps"), reverse_kernel(s, t)
    draws = [c.steps([kernel], [t])[0].add_noise(x.clone(), prediction, z) for c in (original, loaded)]
    assert torch.equal(*draws)
    assert loaded.fingerprint([kernel], [t]) == original.fingerprint([kernel], [t])
    if original.spectrum.mass is not None:
        np.testing.assert_array_equal(loaded.spectrum.mass, original.spectrum.mass)


def test_a_saved_covariance_keeps_its_held_out_price(tmp_path):
    draws = chi_squares(TRUTH, 60, 0)
    original = Diagonal(Spectrum.fit(draws), PixelChannel(), None, HeldOut(draws, PLAIN).correction)
    original.save(tmp_path / "c.safetensors")
    loaded = Diagonal.load(tmp_path / "c.safetensors")
    for group in (None, 3):
        prices = [c.correction(np.array([1.5, 9.0]), np.array([-2.0, 1.5]), group) for c in (original, loaded)]
        np.testing.assert_array_equal(*prices)
    assert np.all(prices[0] != 0.0)


def test_a_flipped_byte_is_found(tmp_path):
    path = tmp_path / "c.safetensors"
    diagonal(Pixel(), None).save(path)
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is damaged"):
        Diagonal.load(path)


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    diagonal(Pixel(), HighFrequency()).save(path, {"network": "abc"})
    with pytest.raises(ValueError, match="network: file has 'abc', expected 'xyz'"):
        Diagonal.load(path, {"network": "xyz"})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="truncated"):
        Diagonal.load(path)
    with pytest.raises(FileNotFoundError, match="no diagonal covariance file"):
        Diagonal.load(tmp_path / "absent")


def test_own_bases_and_statistics_are_passed_again(tmp_path):
    path = tmp_path / "c.safetensors"
    diagonal(Mirrored(), Doubled()).save(path)
    with pytest.raises(ValueError, match="basis 'Mirrored' is not built in"):
        Diagonal.load(path, statistic=Doubled())
    with pytest.raises(ValueError, match="statistic 'Doubled' is not built in"):
        Diagonal.load(path, basis=Mirrored())
    with pytest.raises(ValueError, match="not the one it was saved as"):
        Diagonal.load(path, basis=Mirrored(), statistic=Energy())
    loaded = Diagonal.load(path, basis=Mirrored(), statistic=Doubled())
    assert isinstance(loaded.basis, Mirrored)


def test_curves_of_another_basis_or_shape_are_refused():
    s, t = VP.level(0.3), VP.level(0.7)
    x = torch.zeros(2, 1, 4, 4)
    for wrong in (
        replace(diagonal(Pixel(), None), basis=Scalar()),
        diagonal(Pixel(), None, shape=(1, 2, 4)),
        replace(diagonal(Pixel(), GradientEnergy()), basis=DCT()),
    ):
        step = wrong.steps([reverse_kernel(s, t)], [t])[0]
        with pytest.raises(ValueError, match=r"another basis or to another shape|needs the basis Pixel"):
            step.add_noise(x, Prediction(x, t, x, "eps"), x)


def test_statistics_of_another_version_are_refused(tmp_path):
    @dataclass(frozen=True)
    class Newer(GradientEnergy):
        reach: int = 2

        def config(self):
            return super().config() | {"name": "GradientEnergy"}

    diagonal(Pixel(), Newer()).save(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="another version"):
        Diagonal.load(tmp_path / "c.safetensors")
