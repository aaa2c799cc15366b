"""Measured moments: accurate, honest about their error, resumable to the bit."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, _Pass, estimate
from score_sde_analytic.measure.moments import DECODER_RATIOS, Moments, decoder_scale
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.decoder import decoder_nats
from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP

ARRAYS = ("log_snr", "counts", "sums", "products", "decoder_sums", "squares")
BUDGET = Budget(min_draws=64, max_draws=64, batch_size=32, groups=16)
SMALL = {"budget": BUDGET, "progress": False}


def assert_identical(first: Moments, second: Moments) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert first.fingerprint == second.fingerprint
    assert first.state == second.state


@pytest.fixture(scope="module")
def flawed(mixture, table) -> ScoreModel:
    """The exact score with eps scaled by 1.1."""

    def net(x, log_snr):
        return 1.1 * mixture(x, log_snr)

    return ScoreModel(net, table, times=LogSNR(), fingerprint="flawed")


def test_accuracy_on_the_mixture(mixture, table, moments, curve):
    """At most 10,000 evaluations determine R at all 1000 times; truth from the exact posterior of 4000 states."""
    assert moments.evaluations <= 10_000
    times = table.times[::20]
    truth = np.array([mixture.residual(table.level(float(t)), 4000)[0] for t in times])
    error = np.abs(curve.residual(table.log_snr(times)) / truth - 1)
    assert error.mean() < 0.015
    assert error.max() < 0.1


def test_an_exact_score_is_consistent(moments):
    """32 comparisons at 4.5 standard errors (31 degrees of freedom): false alarm below 0.3 %, and the seed is fixed."""
    difference, size = moments.calibration()
    assert np.abs(size).max() < 4.5
    assert np.abs(difference).max() < 0.05
    assert np.all(np.diff(moments.residual) > 0)


def test_the_three_moments_are_tied(moments):
    """R = 1 - 2 X + Lambda for any network, exactly: the controls remove the error of E||eps||^2 = d."""
    np.testing.assert_allclose(moments.residual, 1 - 2 * moments.cross + moments.noise_power, atol=1e-10)


def test_a_flawed_score_is_flagged(mixture, flawed):
    """Lambda = 1.21 L, X = 1.1 L, R = 1 - 0.99 L for the exact L: the contrast is -0.22 L."""
    knots = np.array([-4.0, 0.0, 2.0])
    options = {"budget": Budget(max_draws=600), "statistics": mixture.statistics(), "progress": False}
    measured = estimate(flawed, mixture.sample(5000), knots, **options)
    exact = estimate(mixture.score_model(flawed.schedule), mixture.sample(5000), knots, **options)
    difference, size = measured.calibration()
    assert np.all(np.abs(size) > 5)
    np.testing.assert_allclose(difference, -0.22 * exact.noise_power, rtol=0.1)
    # Each beyond 5 standard errors with probability 6e-7.
    error = np.hypot(measured.stderr("residual"), 0.99 * exact.stderr("noise_power"))
    assert np.all(np.abs(measured.residual - 1 + 0.99 * exact.noise_power) < 5 * error)


def quadrature_residual(mixture: GaussianMixture, level) -> float:
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    variance = mixture.posterior(x, level)[1][:, 0, 0] * (level.alpha / level.sigma) ** 2
    return float(torch.trapezoid(mixture.log_density(x, level).exp() * variance, x[:, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("closed_form", [True, False])
def test_standard_errors_cover(triple, closed_form):
    """Over 100 repetitions (value - truth) / error is standard normal.

    Its sample deviation is 1.03 (31 degrees of freedom) +- 0.075 and its mean 0 +- 0.1, so leaving the intervals below has
    probability under 1e-4 for each knot, plus what small-sample regression on the controls takes.
    """
    schedule, knots = LinearVP(), np.array([-2.0, 1.0, 3.0])
    truth = np.array([quadrature_residual(triple, schedule.level_at(float(lam))) for lam in knots])
    statistics = triple.statistics() if closed_form else None
    model, scores = triple.score_model(schedule), []
    for seed in range(100):
        x = triple.sample(640, seed=1000 + seed)
        budget = Budget(min_draws=640, max_draws=640, batch_size=640)
        m = estimate(model, x, knots, budget, statistics=statistics, seed=seed, progress=False)
        scores.append((m.residual - truth) / m.stderr("residual"))
    spread, bias = np.std(scores, axis=0, ddof=1), np.mean(scores, axis=0)
    assert np.all((spread > 0.72) & (spread < 1.36)), spread
    assert np.all(np.abs(bias) < 0.5), bias


def test_jackknife_of_a_mean_is_its_standard_error(moments):
    """Delete-one-group of a ratio of sums agrees with the linearised error."""
    value, error = moments.jackknife(lambda m: m.residual)
    np.testing.assert_allclose(value, moments.residual)
    np.testing.assert_allclose(error, moments.stderr("residual"), rtol=0.05)


def test_controls_reduce_variance_and_not_the_mean(moments):
    plain = moments.sums.sum(0)[:, 2] / moments.draws
    raw_error = moments.sums[..., 2].std(0, ddof=1) / moments.draws * np.sqrt(moments.groups)
    assert np.all(np.abs(plain - moments.residual) < 6 * raw_error)
    assert np.all(moments.variance_reduction >= 1 - 1e-9)
    assert np.median(moments.variance_reduction[:, 2]) > 3


def test_residual_does_not_depend_on_the_schedule(triple):
    """Exact scores of VP and VE see the same problem at the same log-SNR, from the same noise."""
    knots, x = np.array([-3.0, 2.0]), triple.sample(500)
    options = {"statistics": triple.statistics(), **SMALL}
    results = [estimate(triple.score_model(s), x, knots, **options).means for s in (LinearVP(), CosineVP(), VE())]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-9)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-9)


# --- visiting and stopping ----------------------------------------------------------------------------------------------


def test_stopping_rule(triple):
    """An easy tolerance stops at min_draws rounded up to a batch, an impossible one exactly at max_draws."""
    model, x = triple.score_model(LinearVP()), triple.sample(1000)
    budget = Budget(min_draws=90, max_draws=330, batch_size=40)
    easy = estimate(model, x, [-1.0, 1.0], replace(budget, tolerance=1e9), progress=False)
    hard = estimate(model, x, [-1.0, 1.0], replace(budget, tolerance=0.0), progress=False)
    assert easy.draws.tolist() == [120, 120]
    assert hard.draws.tolist() == [330, 330]
    assert hard.evaluations == 660
    between = estimate(model, x, np.linspace(-8, 8, 9), replace(budget, tolerance=0.03), progress=False)
    done = between.stderr("residual") <= 0.03 * between.residual
    assert np.all(done | (between.draws == 330))
    assert len(set(between.draws.tolist())) > 1


def test_evaluations_are_the_networks_own_count(triple):
    model = triple.score_model(LinearVP())
    with model.metered() as cost:
        m = estimate(model, triple.sample(50), [0.0, 1.0], **SMALL)
    assert cost.evaluations == m.evaluations == 128
    assert m.decoder_nats().shape == (2, len(DECODER_RATIOS))


def test_every_example_is_visited_equally_often():
    """A chain of permutations: 96 draws of 32 examples use each example three times."""
    seen = []

    def net(x, t):
        return x * 0

    class Recorder(TensorDataset):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    model = ScoreModel(net, LinearVP(), fingerprint="zero")
    data = Recorder(torch.randn(32, 2))
    options = {"budget": Budget(min_draws=96, max_draws=96, batch_size=20), "progress": False}
    statistics = DataStatistics.of(data)
    seen.clear()
    estimate(model, data, [0.0], statistics=statistics, **options)
    assert np.bincount(seen, minlength=32).tolist() == [3] * 32


@pytest.mark.parametrize("wrap", [lambda x: TensorDataset(x, torch.zeros(len(x))), lambda x: DataLoader(TensorDataset(x), 7)])
def test_data_containers_agree(triple, wrap):
    model, x = triple.score_model(LinearVP()), triple.sample(100)
    assert_identical(estimate(model, x, [0.0], **SMALL), estimate(model, wrap(x), [0.0], **SMALL))


def test_images_in_float32():
    """Channels and pixels are coordinates: N(0, c^2) images have their closed form."""

    def net(x, t):
        return x * 0.5**0.5 / (0.5 * 0.25 + 0.5)

    x = 0.5 * torch.randn(400, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    m = estimate(ScoreModel(net, LinearVP(), fingerprint="image"), x, [0.0], progress=False)
    assert abs(m.residual[0] - 0.2) < 5 * m.stderr("residual")[0] + 1e-6


def test_decoder_table_is_a_gaussian_likelihood(triple):
    """Column j is E[-log N(x_0; x0_hat, s_j^2)], whose expectation is log s + (log 2 pi + MSE / s^2) / 2."""
    schedule = LinearVP()
    budget = Budget(min_draws=2000, max_draws=2000)
    m = estimate(triple.score_model(schedule), triple.sample(2000), [2.0], budget, progress=False)
    level = schedule.level_at(2.0)
    std = DECODER_RATIOS * decoder_scale(2.0, m.data_variance)
    plain = m.sums.sum(0)[0, 2] / m.draws[0] * (level.sigma / level.alpha) ** 2
    np.testing.assert_allclose(m.decoder_nats()[0], np.log(std) + 0.5 * (np.log(2 * np.pi) + plain / std**2), rtol=1e-9)


def test_decoder_of_discrete_data_is_a_probability():
    x, x_hat = torch.tensor([[-1.0, 0.0]]), torch.tensor([[-0.9, 0.3]])
    total = sum(
        torch.exp(-2 * decoder_nats(torch.tensor([[a, b]]), x_hat, 0.4, DataRange(levels=3))).item()
        for a in (-1.0, 0.0, 1.0)
        for b in (-1.0, 0.0, 1.0)
    )
    assert total == pytest.approx(1.0, abs=1e-12)
    fine = decoder_nats(x, x_hat, 0.4, DataRange(levels=200_001)) + np.log(1e-5)
    inside = decoder_nats(x[:, 1:], x_hat[:, 1:], 0.4, None)
    assert decoder_nats(x[:, 1:], x_hat[:, 1:], 0.4, DataRange(levels=200_001)).item() + np.log(1e-5) == pytest.approx(
        inside.item(), rel=1e-6
    )
    assert torch.isfinite(fine).all()


# --- files and resuming -------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupting(mixture: GaussianMixture, after: float, error: type[BaseException] = Interrupted) -> ScoreModel:
    calls = 0

    def net(x, log_snr):
        nonlocal calls
        calls += 1
        if calls > after:
            raise error
        return mixture(x, log_snr)

    return ScoreModel(net, LinearVP(), times=LogSNR(), fingerprint="mixture")


def test_ctrl_c_keeps_every_draw_and_what_it_cost(tmp_path, triple):
    x, knots, path = triple.sample(70), [-2.0, 0.0, 2.0], tmp_path / "m"
    expected = estimate(interrupting(triple, np.inf), x, knots, **SMALL)
    assert expected.cost.evaluations == expected.evaluations
    with pytest.raises(KeyboardInterrupt) as caught:
        estimate(interrupting(triple, 4, KeyboardInterrupt), x, knots, path=path, **SMALL)
    assert caught.value.__notes__ == [f"{Moments.load(path).evaluations} network evaluations are in {path}"]
    assert Moments.load(path).cost.calls == 4
    assert_identical(estimate(interrupting(triple, np.inf), x, knots, path=path, **SMALL), expected)
    assert Moments.load(path).cost == expected.cost


@pytest.mark.parametrize("stops", [(1,), (3,), (7, 2), (11, 1, 1)])
def test_an_interrupted_run_resumes_to_the_bit(tmp_path, triple, stops):
    x, knots, path = triple.sample(70), [-2.0, 0.0, 2.0], tmp_path / "m"
    options = SMALL | {"budget": replace(BUDGET, max_draws=192, tolerance=0.05)}
    expected = estimate(interrupting(triple, np.inf), x, knots, **options)
    for stop in stops:
        with pytest.raises(Interrupted):
            estimate(interrupting(triple, stop), x, knots, path=path, save_seconds=0.0, **options)
    model = interrupting(triple, np.inf)
    with model.metered() as cost:
        resumed = estimate(model, x, knots, path=path, save_seconds=0.0, **options)
    assert_identical(resumed, expected)
    assert_identical(Moments.load(path), expected)
    assert cost.evaluations == expected.evaluations - 32 * sum(stops)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_pass_that_adds_knots_is_the_same_however_often_it_is_interrupted(tmp_path, triple):
    x, knots, path = triple.sample(70), [-6.0, 0.0, 6.0], tmp_path / "m"
    options = SMALL | {"budget": replace(BUDGET, tolerance=0.0, most_knots=6)}
    expected = estimate(interrupting(triple, np.inf), x, knots, **options)
    assert len(expected.log_snr) == 6
    for batch in range(11):  # two of each knot, but for the last
        with pytest.raises(Interrupted):
            estimate(interrupting(triple, 1), x, knots, path=path, save_seconds=0.0, **options)
        assert Moments.load(path).evaluations == 32 * (batch + 1)
    assert_identical(estimate(interrupting(triple, 1), x, knots, path=path, **options), expected)


def test_a_pass_killed_after_its_last_batch_is_ended_by_the_next(tmp_path, triple, monkeypatch):
    x, knots, path, whole = triple.sample(70), [-2.0, 2.0], tmp_path / "m", tmp_path / "whole"
    options = SMALL | {"budget": replace(BUDGET, batch_size=64)}
    model = interrupting(triple, np.inf)
    estimate(model, x, knots, path=whole, **options)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(_Pass, "_unfinished", lambda self: 1 // 0)
        estimate(model, x, knots, path=path, save_seconds=0.0, **options)
    assert Moments.load(path).evaluations == 128
    estimate(model, x, knots, path=path, **options)
    assert path.read_bytes() == whole.read_bytes()


KILLED = """
import sys, time
import torch
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.process.schedule import LinearVP

torch.set_num_threads(1)
mixture = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1)

def net(x, log_snr):
    time.sleep(float(sys.argv[2]))
    return mixture(x, log_snr)

model = ScoreModel(net, LinearVP(), times=LogSNR(), fingerprint="mixture")
budget = Budget(tolerance=0.0, min_draws=64, max_draws=640, batch_size=32)
estimate(model, mixture.sample(200), [-2.0, 0.0, 2.0], budget, path=sys.argv[1], save_seconds=0.0, progress=False)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(tmp_path):
    interrupted, whole = tmp_path / "a" / "m", tmp_path / "b" / "m"
    command = [sys.executable, "-c", KILLED, str(interrupted)]
    process = subprocess.Popen([*command, "0.05"])
    deadline = time.monotonic() + 60
    while not interrupted.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    evaluations = Moments.load(interrupted).evaluations
    assert 0 < evaluations < 1920
    resume = subprocess.Popen([*command, "0"])
    subprocess.run([sys.executable, "-c", KILLED, str(whole), "0"], check=True)
    assert resume.wait() == 0
    assert_identical(Moments.load(interrupted), Moments.load(whole))


def test_a_finished_file_costs_no_evaluation(tmp_path, triple):
    path, x = tmp_path / "deep" / "m", triple.sample(70)
    first = estimate(triple.score_model(LinearVP()), x, [0.0], path=path, **SMALL)
    model = triple.score_model(LinearVP())
    with model.metered() as cost:
        assert_identical(estimate(model, x, [0.0], path=path, **SMALL), first)
    assert cost.calls == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": 1}, "seed: file has 0, expected 1"),
        ({"budget": replace(BUDGET, groups=8)}, "groups"),
        ({"budget": replace(BUDGET, max_draws=128)}, "settings.max_draws"),
        ({"log_snr": [0.5]}, "knots"),
        ({"data_range": DataRange(-5, 5)}, "decoder"),
        ({"data": torch.zeros(70, 1, dtype=torch.float64)}, "data"),
        ({"model": VE()}, "model.schedule"),
    ],
)
def test_a_file_of_another_run_is_refused(tmp_path, triple, change, match):
    settings = {
        "model": triple.score_model(LinearVP()),
        "data": triple.sample(70),
        "log_snr": [0.0],
        "path": tmp_path / "m",
    } | SMALL
    estimate(**settings)
    if "model" in change:
        change = {"model": triple.score_model(change["model"])}
    with pytest.raises(ValueError, match=match):
        estimate(**(settings | change))


def test_save_and_load(tmp_path, moments):
    path = tmp_path / "m"
    moments.save(path)
    assert_identical(Moments.load(path, {"seed": 0}), moments)
    np.testing.assert_array_equal(NoiseCurve.fit(Moments.load(path)).y, NoiseCurve.fit(moments).y)
    with pytest.raises(ValueError, match="seed"):
        Moments.load(path, {"seed": 3})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        Moments.load(path)
    with pytest.raises(FileNotFoundError):
        Moments.load(tmp_path / "absent")


# --- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"log_snr": []}, "at least one knot"),
        ({"log_snr": [0.0, 0.0]}, "all different"),
        ({"log_snr": [-100.0]}, "range"),
        ({"log_snr": [np.nan]}, "finite"),
        ({"data": torch.zeros(0, 2)}, "empty"),
        ({"data": torch.full((9, 2), torch.nan)}, "NaN"),
        ({"data": 3 * torch.ones(9, 2), "data_range": DataRange()}, "declared range"),
        ({"data": 0.3 * torch.ones(9, 2), "data_range": DataRange(levels=3)}, "grid of 3 levels"),
    ],
)
def test_bad_settings_are_named(options, match):
    settings = {"model": ScoreModel(lambda x, t: x, LinearVP(), fingerprint="f"), "data": torch.randn(99, 2), "log_snr": [0.0]}
    with pytest.raises(ValueError, match=match):
        estimate(**(settings | SMALL | options))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"groups": 1}, "groups"),
        ({"groups": 100}, "min_draws"),
        ({"min_draws": 100}, "max_draws"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_budgets_that_contradict_themselves_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        replace(BUDGET, **settings)


@pytest.mark.parametrize(
    ("net", "match"), [(lambda x, t: x * torch.nan, "NaN"), (lambda x, t: x[:, :1], "shape"), (lambda x, t: x / 0, "inf")]
)
def test_bad_networks_are_named(net, match):
    model = ScoreModel(net, LinearVP(), fingerprint="f")
    with pytest.raises(RuntimeError, match=match):
        estimate(model, torch.randn(99, 2), [0.0], **SMALL)


def test_overflow_behind_the_network_is_named():
    """A finite x_0 whose eps is not."""
    model = ScoreModel(lambda x, t: torch.full_like(x, 3e38), LinearVP(), "x_0", fingerprint="f")
    with pytest.raises(RuntimeError, match="NaN or inf"):
        estimate(model, torch.randn(99, 2), [4.0], **SMALL)


def test_iterable_data_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(2)

    with pytest.raises(ValueError, match="map-style"):
        estimate(ScoreModel(lambda x, t: x, LinearVP(), fingerprint="f"), Stream(), [0.0], **SMALL)


def test_one_example_cannot_have_a_standard_error(triple):
    """All draws of one example are one group: its between-group error is unknown, not zero."""
    m = estimate(triple.score_model(LinearVP()), triple.sample(1), [0.0], statistics=triple.statistics(), **SMALL)
    assert not m.stderr("residual")[0] < 1e-12
