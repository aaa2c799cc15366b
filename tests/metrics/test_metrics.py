"""Distances against closed forms, brute force and scipy; their intervals against simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from score_sde_analytic.metrics import (
    KID,
    EnergyDistance,
    ExtrapolatedFrechet,
    Frechet,
    GaussianMMD,
    GaussianSummary,
    Metric,
    Pixels,
    Precision,
    Recall,
    Reference,
    SlicedWasserstein,
    cross_entropy_gap,
    entropy,
    evaluate,
    frechet_distance,
    jackknife,
    kl_divergence,
    mixture_metrics,
    wasserstein_1d,
)
from score_sde_analytic.metrics.frechet import sample_moments
from score_sde_analytic.metrics.measured import groups_of, mean_difference, proportion
from score_sde_analytic.models.mixture import GaussianMixture

ALL: dict[str, Metric] = {
    "frechet": Frechet(groups=4),
    "extrapolated": ExtrapolatedFrechet(groups=4),
    "kid": KID(),
    "mmd": GaussianMMD(),
    "energy": EnergyDistance(),
    "sliced": SlicedWasserstein(groups=4, directions=8),
    "precision": Precision(),
    "recall": Recall(),
}


def normal(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread(dim: int, rank: int, seed: int) -> torch.Tensor:
    """A random covariance of the given rank."""
    factor = normal(dim, rank, seed)
    return factor @ factor.T


# --- Frechet ------------------------------------------------------------------------------------------------------------


def test_frechet_of_commuting_gaussians():
    q = torch.linalg.qr(normal(6, 6, 0)).Q
    a, b = torch.rand(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    a[:2], b[1:3] = 0.0, 0.0  # of less than full rank, each in its own directions
    mean = normal(2, 6, 1)
    found = frechet_distance(
        GaussianSummary.of(mean[0], q @ torch.diag(a) @ q.T), GaussianSummary.of(mean[1], q @ torch.diag(b) @ q.T)
    )
    expected = (mean[0] - mean[1]).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_frechet_of_general_gaussians_is_the_matrix_square_root():
    a, b = spread(5, 9, 0), spread(5, 9, 1)
    root = scipy.linalg.sqrtm((a @ b).numpy())
    expected = float(a.trace() + b.trace()) - 2.0 * np.trace(root).real
    zero = torch.zeros(5, dtype=torch.float64)
    assert frechet_distance(GaussianSummary.of(zero, a), GaussianSummary.of(zero, b)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_frechet_of_orthogonal_supports_is_the_sum_of_traces(rank: int):
    a = torch.zeros(8, 8, dtype=torch.float64)
    a[:rank, :rank] = spread(rank, rank, 0) if rank else 0.0
    b = torch.zeros(8, 8, dtype=torch.float64)
    b[4:, 4:] = spread(4, 4, 1)
    zero = torch.zeros(8, dtype=torch.float64)
    found = frechet_distance(GaussianSummary.of(zero, a), GaussianSummary.of(zero, b))
    assert found == pytest.approx(float(a.trace() + b.trace()), rel=1e-12)


@pytest.mark.parametrize(("count", "dim"), [(200, 5), (40, 60)])
def test_frechet_of_a_set_with_itself_is_zero_and_no_rotation_changes_it(count: int, dim: int):
    x, y = normal(count, dim, 0), 1.5 * normal(count, dim, 1) + 0.3
    q = torch.linalg.qr(normal(dim, dim, 2)).Q
    metric = Frechet(groups=4)
    assert metric(x, x).plug_in < 1e-10 * float(x.square().sum(1).mean())
    assert metric(x @ q, y @ q).plug_in == pytest.approx(metric(x, y).plug_in, rel=1e-10)


def test_sample_moments_are_those_of_numpy():
    x = normal(9000, 3, 0)  # more than one block of rows
    mean, covariance = sample_moments(x)
    np.testing.assert_allclose(mean, x.numpy().mean(0), rtol=1e-10)
    np.testing.assert_allclose(covariance, np.cov(x.numpy().T), rtol=1e-10)


# --- kernels ------------------------------------------------------------------------------------------------------------


def brute(kernel, x, y) -> float:
    """The U-statistic by loops."""
    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return float(xx + yy - 2.0 * sum(kernel(a, b) for a in x for b in y) / (n * m))


KERNELS = {
    "kid": (KID(), lambda a, b: (a @ b / len(a) + 1.0) ** 3),
    "gaussian": (GaussianMMD(bandwidth=1.3), lambda a, b: math.exp(-float((a - b).square().sum()) / (2 * 1.3**2))),
    "energy": (EnergyDistance(), lambda a, b: -float((a - b).norm())),
}


@pytest.mark.parametrize("name", KERNELS)
def test_discrepancies_are_double_loops_and_so_are_their_errors(name: str):
    metric, kernel = KERNELS[name]
    x, y = normal(9, 4, 0), normal(12, 4, 1) + 0.5
    found = metric(x, y)
    assert found.value == pytest.approx(brute(kernel, x, y), rel=1e-9)
    variance = 0.0
    for a, b, keep_first in ((x, y, True), (y, x, False)):
        rows = range(len(a))
        left = [a[[j for j in rows if j != i]] for i in rows]
        values = np.array([brute(kernel, part, b) if keep_first else brute(kernel, b, part) for part in left])
        variance += (len(a) - 1) / len(a) * np.square(values - values.mean()).sum()
    assert found.stderr == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, y = normal(70, 4, 0), normal(90, 4, 1) + 0.5
    whole = {name: ALL[name](x, y) for name in ("kid", "mmd", "energy", "precision", "recall")}
    for module in ("kernels", "neighbours"):
        monkeypatch.setattr(f"score_sde_analytic.metrics.{module}.ROWS", 16)
    for name, value in whole.items():
        assert ALL[name](x, y).value == pytest.approx(value.value, rel=1e-10), name


@pytest.mark.parametrize("sizes", [(50, 50), (40, 73)])
def test_energy_and_wasserstein_agree_with_scipy_in_one_dimension(sizes: tuple[int, int]):
    x, y = normal(sizes[0], 1, 0), 1.4 * normal(sizes[1], 1, 1) + 0.7
    energy = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert EnergyDistance()(x, y).plug_in == pytest.approx(energy**2, rel=1e-7)
    transport = scipy.stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert SlicedWasserstein(groups=4, power=1.0, directions=3)(x, y).plug_in == pytest.approx(transport, rel=1e-10)


@pytest.mark.parametrize("metric", [KID(), GaussianMMD(1.0), EnergyDistance()], ids=lambda m: type(m).__name__)
def test_discrepancies_are_unbiased_on_equal_distributions(metric: Metric):
    # z-test of the mean over 200 independent pairs; beyond 4.4 standard errors with probability 1e-5.
    values = np.array([metric(normal(20, 3, 2 * i), normal(30, 3, 2 * i + 1)).value for i in range(200)])
    assert abs(values.mean()) < 4.4 * values.std(ddof=1) / math.sqrt(len(values))
    assert np.mean(values < 0) > 0.2  # an unbiased estimate of 0 falls on both sides
    # The V-statistic, which is not, fails the same test.
    plug_in = np.array([metric(normal(20, 3, 2 * i), normal(30, 3, 2 * i + 1)).plug_in for i in range(30)])
    assert plug_in.mean() > 4.4 * plug_in.std(ddof=1) / math.sqrt(len(plug_in))


def test_bandwidth_is_the_median_distance_of_the_reference():
    y = normal(60, 3, 0)
    assert GaussianMMD().width(Reference(y)) == pytest.approx(float(torch.pdist(y).median()), rel=1e-9)
    with pytest.raises(ValueError, match="bandwidth"):
        GaussianMMD()(y, torch.ones(60, 3, dtype=torch.float64))


# --- sliced Wasserstein -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_unequal_sizes_are_transported_as_their_repetitions(power: float):
    x, y = normal(3, 6, 0).sort(1).values, normal(3, 4, 1).sort(1).values
    equal = wasserstein_1d(x.repeat_interleave(4, 1), y.repeat_interleave(6, 1), power)
    np.testing.assert_allclose(wasserstein_1d(x, y, power), equal, rtol=1e-12)


def test_sliced_wasserstein_of_shifted_and_scaled_copies():
    # x -> a x + v of the same points is optimal in every direction: the mean of (theta.v + (a - 1) theta.x)^2.
    x, shift = normal(200, 4, 0), torch.tensor([0.3, -1.0, 0.0, 2.0], dtype=torch.float64)
    metric = SlicedWasserstein(groups=4, directions=2000)
    assert metric(x + shift, x).plug_in == pytest.approx(float(shift.square().sum()) / 4, rel=0.1)
    theta = metric._theta(x)
    expected = ((x @ theta * 0.5 + shift @ theta).square()).mean()
    assert metric(1.5 * x + shift, x).plug_in == pytest.approx(float(expected), rel=1e-12)
    assert metric(x[torch.randperm(200)], x).plug_in < 1e-25


# --- precision and recall -----------------------------------------------------------------------------------------------


def test_precision_and_recall_of_constructed_sets():
    x = normal(80, 2, 0)
    disjoint = x + 100.0
    for metric in (Precision(), Recall()):
        assert metric(x, x).value == 1.0
        assert metric(disjoint, x).value == 0.0
    two_modes = torch.cat([x, disjoint])
    assert Precision()(x, two_modes).value == 1.0  # a mode is missing: samples are like data,
    assert Recall()(x, two_modes).value == 0.5  # half of the data is not like samples
    assert Precision()(two_modes, x).value == 0.5
    assert Recall()(two_modes, x).value == 1.0


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_their_definitions(k: int):
    x, y = normal(40, 3, 0), 1.2 * normal(50, 3, 1) + 1.6

    def share(points, centres):
        radii = [np.sort([float((c - o).norm()) for o in centres])[k] for c in centres]  # its own distance comes first
        return np.mean([any(float((p - c).norm()) <= r for c, r in zip(centres, radii, strict=True)) for p in points])

    assert 0.0 < share(x, y) < 1.0
    assert Precision(k=k)(x, y).value == share(x, y)
    assert Recall(k=k)(x, y).value == share(y, x)


# --- errors and intervals -----------------------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=50)
    deleted = np.array([np.delete(x, i).mean() for i in range(50)])
    found = jackknife(x.mean(), deleted)
    assert found.stderr == pytest.approx(x.std(ddof=1) / math.sqrt(50), rel=1e-10)
    assert found.value == pytest.approx(x.mean(), rel=1e-10)
    reach = scipy.stats.t.ppf(0.975, 49) * found.stderr
    assert (found.low, found.high) == pytest.approx((x.mean() - reach, x.mean() + reach))


def test_jackknife_turns_the_plug_in_variance_into_the_unbiased_one():
    x = np.random.default_rng(0).normal(size=30)
    found = jackknife(x.var(), [np.delete(x, i).var() for i in range(30)])
    assert found.value == pytest.approx(x.var(ddof=1), rel=1e-10)


def test_groups_are_a_partition_and_belong_to_the_seed():
    kept = groups_of(23, 5, seed=1)
    left_out = torch.cat([torch.tensor([i for i in range(23) if i not in k]) for k in kept])
    assert sorted(left_out.tolist()) == list(range(23))
    assert all(torch.equal(a, b) for a, b in zip(kept, groups_of(23, 5, seed=1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(kept, groups_of(23, 5, seed=2), strict=True))


def test_wilson_interval_is_scipys():
    for hits, count in ((0, 20), (7, 20), (20, 20)):
        expected = scipy.stats.binomtest(hits, count).proportion_ci(method="wilson")
        found = proportion(hits, count)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_sample_has_no_spread():
    with pytest.raises(ValueError, match="at least two values of each sample, got 1 and 3"):
        mean_difference(torch.zeros(1), torch.zeros(3))


def test_mean_difference_is_welchs_interval():
    x, y = normal(30, 1, 0)[:, 0], 2.0 * normal(20, 1, 1)[:, 0] + 1.0
    expected = scipy.stats.ttest_ind(x.numpy(), y.numpy(), equal_var=False).confidence_interval()
    found = mean_difference(x, y)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("different", [False, True], ids=["equal", "different"])
@pytest.mark.parametrize("name", ["frechet", "sliced", "energy"])
def test_intervals_hold_the_truth(name: str, different: bool):
    # 120 pairs at nominal 95 %: fewer than 102 hits have probability 1e-5 where the coverage is 0.95.
    shift, scale, dim = (0.5, 1.5, 3) if different else (0.0, 1.0, 3)
    metric: Metric = {
        "frechet": Frechet(groups=10),
        "sliced": SlicedWasserstein(groups=10, directions=8),
        "energy": EnergyDistance(),
    }[name]
    truth = _truth(metric, shift, scale, dim)
    hits = 0
    for i in range(120):
        found = metric(scale * normal(150, dim, 2 * i) + shift, normal(200, dim, 2 * i + 1))
        hits += found.low <= truth <= found.high
    assert hits >= 102, hits


def _truth(metric: Metric, shift: float, scale: float, dim: int) -> float:
    if isinstance(metric, Frechet):
        return dim * (shift**2 + (scale - 1.0) ** 2)
    if isinstance(metric, SlicedWasserstein):
        theta = metric._theta(torch.zeros(1, dim, dtype=torch.float64))
        return float((shift * theta.sum(0)).square().mean()) + (scale - 1.0) ** 2
    # x - y and x - x' are normal: E||N(m, s^2 I)|| by the noncentral chi distribution (m = 0 for the latter two).
    if scale == 1.0 and shift == 0.0:
        return 0.0
    return 2 * _norm(dim, shift, math.hypot(scale, 1.0)) - _norm(dim, 0.0, math.sqrt(2) * scale) - _norm(dim, 0.0, math.sqrt(2))


def _norm(dim: int, shift: float, scale: float) -> float:
    """E ||N(shift 1, scale^2 I)||."""
    if shift == 0.0:
        return scale * scipy.stats.chi(dim).mean()
    noncentral = scipy.stats.ncx2(dim, dim * (shift / scale) ** 2)
    return scale * float(noncentral.expect(np.sqrt))


@pytest.mark.slow
def test_corrections_remove_the_bias_of_small_samples():
    # Means over 50 pairs of one distribution: within 4.4 standard errors of 0 (false alarm 1e-5), unlike the plug-in value.
    for metric in (Frechet(groups=10), ExtrapolatedFrechet(groups=4)):
        found = [metric(normal(100, 5, 2 * i), normal(100, 5, 2 * i + 1)) for i in range(50)]
        values = np.array([f.value for f in found])
        assert abs(values.mean()) < 4.4 * values.std(ddof=1) / math.sqrt(50)
    plain = np.array([Frechet(groups=4)(normal(100, 5, 2 * i), normal(100, 5, 2 * i + 1)).plug_in for i in range(60)])
    assert plain.mean() > 20 * plain.std(ddof=1) / math.sqrt(60)


def test_results_are_functions_of_the_seed():
    x, y = normal(60, 3, 0), normal(70, 3, 1) + 0.2
    for metric in ALL.values():
        assert metric(x, y) == metric(x, Reference(y))
    for metric in (ALL["frechet"], ALL["sliced"], ALL["extrapolated"]):
        assert metric(x, y) != replace(metric, seed=1)(x, y)  # type: ignore[type-var]


def test_printing_shows_two_digits_of_the_error():
    assert str(jackknife(1.23456, [1.2, 1.25, 1.24], correct=False)) == "1.235 ± 0.031"


# --- evaluate -----------------------------------------------------------------------------------------------------------


def test_evaluate_computes_features_once():
    class Counting(Pixels):
        calls = 0

        def __call__(self, x):
            self.calls += len(x)
            return super().__call__(x)

    features = Counting()
    data, samples = normal(60, 4, 0).reshape(60, 1, 2, 2), normal(50, 4, 1).reshape(50, 1, 2, 2)
    reference = Reference.of(data, features)
    found = evaluate(ALL, samples, reference, batch_size=7)
    assert features.calls == 110
    assert found == evaluate(ALL, samples, data, features)
    assert found["kid"] == KID()(samples.flatten(1), data.flatten(1))


def test_errors_name_the_cause():
    good, metric = normal(60, 4, 0), Frechet(groups=4)
    data = good.reshape(60, 1, 2, 2)
    bad = data.clone()
    bad[41] = math.nan
    with pytest.raises(ValueError, match=r"the samples, examples 40\.\.59, hold NaN"):
        evaluate(ALL, bad, data, Pixels(), batch_size=20)
    with pytest.raises(ValueError, match=r"the reference, examples 40\.\.59, hold NaN"):
        evaluate(ALL, data, bad, Pixels(), batch_size=20)
    with pytest.raises(ValueError, match="1 of 60 feature vectors of the samples"):
        metric(bad.flatten(1), good)
    with pytest.raises(ValueError, match="needs at least 8 samples, got 7"):
        metric(good[:7], good)
    with pytest.raises(ValueError, match="at least 4 reference"):
        Recall()(good, good[:3])
    with pytest.raises(ValueError, match="3 features, the reference 4"):
        metric(good[:, :3], good)
    with pytest.raises(ValueError, match=r"\(count, n\)"):
        metric(data, data)
    with pytest.raises(ValueError, match="must be equal"):
        evaluate(ALL, data[:, :, :1], data, Pixels())
    with pytest.raises(ValueError, match="in which features"):
        evaluate(ALL, data, data)
    with pytest.raises(ValueError, match="empty"):
        evaluate(ALL, data[:0], data, Pixels())
    with pytest.raises(ValueError, match="level"):
        Frechet(groups=4, level=1.0)(good, good)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_numbers():
    x, y = normal(300, 6, 0), normal(400, 6, 1) + 0.1
    for name, metric in ALL.items():
        here, there = metric(x, y), metric(x.cuda(), y.cuda())
        assert there.value == pytest.approx(here.value, rel=1e-8, abs=1e-10), name
        assert there.stderr == pytest.approx(here.stderr, rel=1e-6), name


# --- mixtures -----------------------------------------------------------------------------------------------------------


def test_entropy_of_a_gaussian():
    # Its standard error here is about sqrt((d/2 + psi'(k)) / n) = 0.021; 5 of them, and a bias below 0.02.
    x = 0.5 * normal(4000, 3, 0)
    assert entropy(x) == pytest.approx(1.5 * math.log(2 * math.pi * math.e * 0.25), abs=0.12)
    with pytest.raises(ValueError, match="equal"):
        entropy(torch.zeros(20, 2, dtype=torch.float64))


@pytest.mark.slow
def test_kl_and_cross_entropy_of_gaussians():
    mixture = GaussianMixture([1.0], [[0.0, 0.0, 0.0]], [1.0])
    x, draws = 1.5 * normal(2000, 3, 0) + 0.5, mixture.sample(2000, 3)
    truth = 0.5 * (3 * 0.25 + 3 * 2.25 - 3 - 3 * math.log(2.25))
    kl = kl_divergence(x, draws, mixture)
    assert abs(kl.value - truth) < 4.4 * kl.stderr + 0.02  # 1e-5, and the bias of entropies
    gap = cross_entropy_gap(x, draws, mixture)
    assert abs(gap.value - 0.5 * (0.75 + 6.75 - 3)) < 4.4 * gap.stderr
    assert gap.low > kl.value  # they are not the same: p is wider


def test_exact_draws_of_a_mixture_pass_every_test(planar: GaussianMixture):
    # Each beyond 4.4 standard errors with probability 1e-5; a mode distance is an upper bound by construction.
    found = mixture_metrics(planar.sample(2000, 7), planar, groups=10)
    for name in ("cross-entropy gap", "KL", "energy distance", "Frechet", "mean", "covariance"):
        assert abs(found[name].value) < 4.4 * found[name].stderr, name


def test_a_missing_mode_is_seen_by_every_test(triple: GaussianMixture):
    x = triple.sample(3000, 1)
    found = mixture_metrics(x[x[:, 0] > -0.6], triple, groups=10)  # the first mode, of weight 0.3, is left out
    assert found["KL"].value == pytest.approx(-math.log(0.7), abs=0.1)
    assert found["mode distance"].value == pytest.approx(0.3, abs=0.03)
    for name in ("KL", "energy distance", "Frechet", "mean", "mode distance"):
        assert found[name].low > 0.0, name


def test_exact_moments_of_a_mixture(planar: GaussianMixture):
    x = planar.sample(200_000, 0)
    mean, covariance = planar.moments()
    np.testing.assert_allclose(x.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(x.numpy().T), covariance, atol=0.03)
    with pytest.raises(ValueError, match="dimension 3, the mixture 2"):
        mixture_metrics(normal(100, 3, 0), planar)
