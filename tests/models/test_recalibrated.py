"""A mean stacked with what is free: never worse, right where the answer is known, a model like any other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks import foreign
from score_sde_analytic import LinearVP, ScoreModel
from score_sde_analytic.data import DCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure.recalibration import CrossMoments, Recalibration, recalibrate
from score_sde_analytic.models import GaussianMixture, LinearDenoiser, LogSNR, Recalibrated, Stack

SCHEDULE = LinearVP()
LEVELS = np.array([-8.0, -4.0, 0.0, 4.0])
COVARIANCE = torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64))
MEAN = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
DATA = GaussianMixture([1.0], MEAN[None].numpy(), COVARIANCE[None].numpy())
FREE = LinearDenoiser.exact(MEAN, COVARIANCE)


def _wrong(own: float, seed: int = 3) -> ScoreModel:
    """A network of Gaussian data whose x_0_hat is `own` parts of what is right and a constant error of each coordinate."""
    error = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    right = FREE.score_model(SCHEDULE)

    def net(x, log_snr):
        return (own * (right.net(x.double(), log_snr) - MEAN) + MEAN + (1.0 - own) * error).to(x)

    return ScoreModel(net, SCHEDULE, "x_0", LogSNR(), coordinates="vp", fingerprint=f"wrong {own} {seed}")


def _error(model: ScoreModel, log_snr: float, count: int = 4000) -> float:
    """Mean square error of x_0 on data that no fit saw."""
    level = SCHEDULE.level_at(log_snr)
    x_0 = DATA.sample(count, seed=9)
    eps = torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    return float((model.predict(level.diffuse(x_0, eps), level).x_0 - x_0).square().mean())


def _fitted(model: ScoreModel, **settings):
    return recalibrate(model, DATA.sample(800, seed=1), FREE, log_snr=LEVELS, draws=800, progress=False, **settings)


def test_a_network_that_is_right_stays_alone():
    """At each of 4 levels a gain beyond 3 standard errors of 8 folds by chance has probability 1 % at most."""
    better, found = _fitted(FREE.score_model(SCHEDULE))
    assert not found.stack.changes.any()
    x = torch.ones(2, 4)
    level = SCHEDULE.level_at(0.0)
    assert torch.equal(better.predict(x, level).x_0, better.model.predict(x, level).x_0)


@pytest.mark.parametrize("log_snr", LEVELS)
def test_a_wrong_network_becomes_the_linear_one_on_gaussian_data(log_snr):
    better, found = _fitted(_wrong(0.5))
    best = _error(FREE.score_model(SCHEDULE), log_snr)
    assert _error(better.model, log_snr) > 1.05 * best
    assert _error(better, log_snr) < 1.02 * best
    at = int(np.flatnonzero(log_snr == LEVELS)[0])
    expected = float(FREE.residual(log_snr)[0]) * math.exp(-log_snr)
    assert abs(found.stacked[at].value - expected) < 4.0 * found.stacked[at].stderr


def test_the_mean_alone_repairs_what_is_too_loud():
    """x_0_hat = mu + 3 (x_0_hat* - mu): a third of it is right, and no covariance is needed to know."""
    better, found = _fitted(_wrong(3.0, seed=4), kind="mean")
    assert _error(better, -4.0) < 0.5 * _error(better.model, -4.0)
    assert found.stack.shares.shape[2] == 1


def test_least_squares_agrees_with_numpy():
    """Pooled shares are those of one regression over all coordinates, from the draws themselves."""
    model, level = _wrong(0.7), SCHEDULE.level_at(-1.0)
    x_0 = DATA.sample(500, seed=2)
    eps = torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    prediction = model.predict(level.diffuse(x_0, eps), level)
    cross = CrossMoments(FREE)
    examples = np.arange(500)
    cross.add(0, examples, cross.observed(examples, eps, prediction))
    found = Recalibration.fit(np.array([-1.0]), cross.sums, pooled=True)
    columns = [FREE.basis.forward(x - MEAN).numpy() for x in (prediction.x_0, FREE.x_0(prediction.x_t, level), x_0)]
    design = np.stack([columns[0].ravel(), columns[1].ravel()], 1)
    expected = np.linalg.lstsq(design, columns[2].ravel(), rcond=None)[0]
    np.testing.assert_allclose(found.stack.shares[0, :2, 0], expected, rtol=1e-3, atol=1e-4)


def test_sums_do_not_depend_on_batches():
    model, level = _wrong(0.7), SCHEDULE.level_at(-1.0)
    x_0 = DATA.sample(60, seed=2)
    prediction = model.predict(level.diffuse(x_0, torch.ones_like(x_0)), level)
    whole, parts = CrossMoments(FREE), CrossMoments(FREE)
    examples = np.arange(60)
    whole.add(0, examples, whole.observed(examples, torch.ones_like(x_0), prediction))
    for rows in np.split(np.arange(60), [7, 20]):
        part = model.predict(prediction.x_t[rows], level)
        parts.add(0, rows, parts.observed(rows, torch.ones_like(x_0[rows]), part))
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-10)
    again = CrossMoments(FREE)
    again.restore(whole.arrays())
    np.testing.assert_array_equal(again.sums, whole.sums)


def test_levels_of_their_own_and_costs():
    better, _ = _fitted(_wrong(0.5))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    together = better(x, t).x_0
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], better(x[i : i + 1], float(t[i])).x_0)
    with better.metered() as cost, better.model.metered() as inner:
        better(x, 0.5)
    assert (cost.calls, cost.evaluations) == (inner.calls, inner.evaluations) == (1, 3)
    seen = []
    with better.watched(seen.append):
        prediction = better(x, 0.5)
    assert seen == [prediction]


def test_clamp_confines_the_stacked_mean():
    stack = Stack(np.zeros(1), np.tile([[[3.0], [0.0], [0.0]]], (1, 1, 4)))
    base = ScoreModel(lambda x, labels: x, SCHEDULE, "x_0", clamp=(-1.0, 1.0), fingerprint="identity")
    x = torch.full((1, 4), 0.9)
    assert float(Recalibrated(base, FREE, stack)(x, 0.5).x_0.abs().max()) <= 1.0


def test_unclamped_is_so_within():
    stack = Stack(np.zeros(1), np.tile([[[1.0], [0.0], [0.0]]], (1, 1, 4)))
    base = ScoreModel(lambda x, labels: 3.0 * x, SCHEDULE, "x_0", clamp=(-1.0, 1.0), fingerprint="loud")
    x, better = torch.full((1, 4), 0.9), Recalibrated(base, FREE, stack)
    with better.metered() as cost:
        torch.testing.assert_close(better.unclamped()(x, 0.5).x_0, 3.0 * x)
    assert cost.calls == 1
    assert float(better(x, 0.5).x_0.max()) == 1.0


def test_files(tmp_path):
    better, _ = _fitted(_wrong(0.5))
    better.save(tmp_path)
    again = Recalibrated.load(tmp_path, better.model)
    assert again.fingerprint() == better.fingerprint() != better.model.fingerprint()
    x = torch.ones(2, 4)
    assert torch.equal(again(x, 0.5).x_0, better(x, 0.5).x_0)
    with pytest.raises(InputError, match="made for something else"):
        Recalibrated.load(tmp_path, _wrong(0.6))


def test_a_pass_goes_on(tmp_path):
    """Interrupted or not, the same sums: the observer's are kept with the moments."""
    once, found = _fitted(_wrong(0.5), path=tmp_path / "pass.safetensors")
    again, refound = _fitted(_wrong(0.5), path=tmp_path / "pass.safetensors")
    assert again.fingerprint() == once.fingerprint()
    assert refound.gain == found.gain


def test_pooled_labels_and_another_form_of_the_network():
    x_0 = torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    free = LinearDenoiser.of(x_0, DCT(radial=True), shrinkage=0.0)
    labels = int(free.basis.labels((1, 4, 4)).max()) + 1
    stack = Stack(np.zeros(1), np.tile([[[0.5], [0.5], [0.0]]], (1, 1, labels)))
    base = ScoreModel(lambda x, labels: x, SCHEDULE, "x_0", fingerprint="identity")
    better = Recalibrated(base, free, stack)
    x, level = x_0[:3], SCHEDULE.level(0.5)
    torch.testing.assert_close(better.predict(x, level).x_0, 0.5 * x + 0.5 * free.x_0(x, level))
    other = better.with_network(lambda x, labels: 2.0 * x, "twice")
    torch.testing.assert_close(other.predict(x, level).x_0, x + 0.5 * free.x_0(x, level))
    with pytest.raises(InputError, match="labels"):
        Recalibrated(base, free, Stack(np.zeros(1), np.zeros((1, 3, labels + 1))))


@pytest.mark.slow
@pytest.mark.skipif(not foreign.WEIGHTS.is_dir(), reason="needs the networks of others beside the project")
def test_networks_of_others_are_repaired():
    """On an MNIST network: R at least 3 times smaller below log-SNR -7, 4 % smaller at -2.2, never larger beyond error."""
    model, (fitted, judged) = foreign.model("mnist"), foreign.halves("mnist")
    better, _ = recalibrate(model, fitted, draws=400, progress=False)
    held_out = judged[:1000]
    for log_snr, most in ((-9.5, 1 / 3), (-7.0, 1 / 2.5), (-2.2, 0.97), (1.0, 1.005), (4.0, 1.005)):
        level = model.schedule.level_at(log_snr)
        eps = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(1))
        x_t = level.diffuse(held_out, eps)
        errors = [float((m.predict(x_t, level).x_0 - held_out).square().mean()) for m in (model, better)]
        assert errors[1] < most * errors[0]


def test_w_is_not_judged_by_the_examples_that_it_was_fitted_to():
    """Forty examples of 64 coordinates: a W of these very examples knows them by heart, and would displace a right network."""
    data = GaussianMixture([0.5, 0.5], [[-0.5] * 64, [0.5] * 64], np.geomspace(1.0, 0.05, 64))
    model = data.score_model(SCHEDULE)
    better, _ = recalibrate(model, data.sample(40, seed=1), draws=200, log_snr=np.array([0.0, 2.0, 4.0]), progress=False)
    x_0 = data.sample(500, seed=2)
    for log_snr in (0.0, 2.0, 4.0):
        level = SCHEDULE.level_at(log_snr)
        x_t = level.diffuse(x_0, torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
        own, stacked = (float((m.predict(x_t, level).x_0 - x_0).square().mean()) for m in (model, better))
        assert stacked < 1.03 * own
    with pytest.raises(InputError, match="too few for a recalibration"):
        recalibrate(model, data.sample(12, seed=1), progress=False)
