"""Differences of values that share their noise and reference, with the error of the difference."""

import math

import numpy as np
import pytest
import torch

from score_sde_analytic.metrics import KID, EnergyDistance, Frechet, Measured, Precision, Recall, Reference, difference
from score_sde_analytic.metrics.measured import mean_difference, share


def normal(count, dim, seed):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_means_it_is_that_of_paired_values():
    """Its error: the spread of x_i - z_i over sqrt(n), to rounding; the reference cancels."""
    x, z, y = normal(40, 1, 0)[:, 0], normal(40, 1, 1)[:, 0], normal(60, 1, 2)[:, 0]
    z = 0.9 * x + 0.1 * z
    found = difference(mean_difference(x, y), mean_difference(z, y))
    assert found.value == pytest.approx(float((x - z).mean()))
    assert found.stderr == pytest.approx(float((x - z).std()) / math.sqrt(40))
    alone = mean_difference(x, y)
    assert found.stderr < 0.2 * alone.stderr


def test_of_shares_it_is_mcnemars():
    """n_10 hits of the one alone, n_01 of the other: ((n_10 + n_01)/n - difference^2) / (n - 1)."""
    a = torch.tensor([True] * 30 + [False] * 20)
    b = torch.tensor([True] * 26 + [False] * 23 + [True])
    found = difference(share(a), share(b))
    assert found.value == pytest.approx(3 / 50)
    assert found.stderr == pytest.approx(math.sqrt((5 / 50 - (3 / 50) ** 2) / 49))


def test_of_energy_distances_it_has_the_first_order_terms():
    """2 E|x - y| - E|x - x'|: the influence of each example on the difference; the delete-one jackknife has it, to 1/n."""
    x, y = normal(80, 3, 0), normal(90, 3, 1)
    z = 1.1 * x + 0.2
    found = difference(EnergyDistance()(x, y), EnergyDistance()(z, y))
    cross = torch.cdist(x, y) - torch.cdist(z, y)
    own = (torch.cdist(x, x) - torch.cdist(z, z)).sum(1) / 79
    influence = 2.0 * (cross.mean(1) - own), 2.0 * cross.mean(0)
    expected = math.sqrt(sum(float(part.var()) / len(part) for part in influence))
    assert found.value == pytest.approx(float(2.0 * cross.mean() - own.mean()))
    assert found.stderr == pytest.approx(expected, rel=0.03)


def test_equal_samples_do_not_differ():
    x, reference = normal(40, 2, 0), Reference(normal(50, 2, 1))
    for metric in (Frechet(groups=5), KID(), EnergyDistance(), Precision(), Recall()):
        value = metric(x, reference)
        assert value.replicates
        found = difference(value, metric(x.clone(), reference))
        assert found.value == found.stderr == 0.0


#: Trials and samples of the coverage tests.
TRIALS, COUNT = 100, 60


def trial(metric, seed):
    """Two samplers from the same noise against one reference, all new."""
    noise, y = normal(COUNT, 2, 3 * seed), Reference(normal(2 * COUNT, 2, 3 * seed + 1))
    other = 0.97 * noise + 0.1 * normal(COUNT, 2, 3 * seed + 2)
    return metric(1.3 * noise + 0.2, y), metric(1.2 * other + 0.2, y)


def frechet(scale):
    """Of N(0.2, scale^2 I) to N(0, I) in the plane."""
    return 2 * 0.2**2 + 2 * (scale - 1.0) ** 2


def test_intervals_of_paired_differences_cover_the_truth():
    """Frechet distances of Gaussians, known in closed form: 95 % of the intervals should hold the true difference.

    At least 83 % of 100 do: with true coverage of 92 % (few groups, 60 examples) a false alarm has probability 0.2 %.
    """
    truth = frechet(1.3) - frechet(1.2 * math.hypot(0.97, 0.1))
    pairs = [trial(Frechet(groups=10), seed) for seed in range(TRIALS)]
    found = [difference(*pair) for pair in pairs]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.83
    # Neither too wide: standard errors are those of the differences, within 25 %, and far below those of independent values.
    spread = np.std([one.value for one in found])
    size = math.sqrt(np.mean([one.stderr**2 for one in found]))
    assert spread == pytest.approx(size, rel=0.25)
    independent = math.sqrt(np.mean([a.stderr**2 + b.stderr**2 for a, b in pairs]))
    assert size < 0.5 * independent


def test_pairs_need_the_same_groups():
    x, y = normal(40, 2, 0), Reference(normal(40, 2, 1))
    with pytest.raises(ValueError, match="same groups"):
        difference(Frechet(groups=5)(x, y), Frechet(groups=4)(x, y))
    with pytest.raises(ValueError, match="same groups"):
        difference(Measured(0.0, 1.0, -2.0, 2.0, 0.0), Measured(0.0, 1.0, -2.0, 2.0, 0.0))
