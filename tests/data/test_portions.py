"""Data larger than memory: what is read of them, how often, and what is known of them all the same."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from score_sde_analytic import Budget, LinearVP, LogSNR, ScoreModel, Settings, analyse, bits_per_dim
from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.data import DataStatistics, portions
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.data.loading import Ahead
from score_sde_analytic.data.portions import batch_by_bytes, is_large, portion
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids import even
from score_sde_analytic.likelihood import Chain
from score_sde_analytic.measure import estimate
from score_sde_analytic.process import GaussianDecoder
from score_sde_analytic.study.settings import Knots

ROOT = Path(__file__).parents[2]
SHAPE = (3, 8, 8)
DIM = 3 * 8 * 8
LARGE = 200 * 8 * DIM
COUNT = 300
CHAIN = Chain(even(3, 1e-3), BetaTilde(), GaussianDecoder(0.1))
FEW = {"budget": Budget(min_draws=64, max_draws=64, batch_size=32), "progress": False}


class Large(Dataset):
    """Examples by index, each a constant of its own, and how often each was read."""

    def __init__(self, changed=(), count=COUNT):
        self.read = np.zeros(count, dtype=int)
        self.changed = set(changed)

    def __len__(self):
        return len(self.read)

    def __getitem__(self, index):
        self.read[index] += 1
        return torch.full(SHAPE, np.sin(index) + (index in self.changed))


def model():
    """As a Gaussian of variance 1/2 has it, the variance of a sine."""

    def net(x, log_snr):
        alpha2, sigma2 = (torch.sigmoid(sign * log_snr).reshape(-1, *(1,) * (x.ndim - 1)) for sign in (1, -1))
        return alpha2.sqrt() / (alpha2 + 2 * sigma2) * x

    return ScoreModel(net, LinearVP(), "x_0", LogSNR(), coordinates="vp", fingerprint="linear")


@pytest.fixture(autouse=True)
def _small_memory(monkeypatch):
    monkeypatch.setattr(portions, "LARGE", LARGE)
    monkeypatch.setattr(portions, "PORTION", LARGE)


def test_a_pass_reads_the_examples_that_it_draws():
    data = Large()
    moments = estimate(model(), data, [-2.0, 2.0], **FEW)
    assert (data.read > 0).sum() <= 65  # the first one says what shape they have
    assert data.read.sum() <= 129
    assert moments.draws.tolist() == [64, 64]


def test_given_statistics_are_not_measured_again():
    """Nothing but what is drawn, which is read once more to know it again."""
    data = Large()
    known = replace(DataStatistics.of(Subset(data, range(8)), max_eigen=0), count=COUNT)
    data.read[:] = 0
    estimate(model(), data, [-2.0], statistics=known, **FEW)
    assert data.read.sum() <= 129
    few = Subset(data, range(8))
    data.read[:] = 0
    bits_per_dim(model(), few, CHAIN, statistics=replace(known, count=8), progress=False)
    assert data.read.sum() == 9  # the shape of the first, and every example


@pytest.mark.parametrize("given", [False, True])
def test_a_pass_over_large_data_goes_on_with_the_same_examples_alone(tmp_path, given):
    """What is not drawn may be anything; one of those drawn may not change, nor how many there are."""
    data = Large()
    options = dict(FEW)
    if given:
        options["statistics"] = replace(DataStatistics.of(Subset(data, range(8)), max_eigen=0), count=COUNT)
    data.read[:] = 0
    first = estimate(model(), data, [-2.0], path=tmp_path / "moments", **options)
    drawn, others = np.flatnonzero(data.read[1:]) + 1, np.flatnonzero(data.read == 0)
    again = estimate(model(), Large(others[:5]), [-2.0], path=tmp_path / "moments", **options)
    assert np.array_equal(again.residual, first.residual)
    for other in (Large(drawn[:1]), Large(count=COUNT + 1)):
        with pytest.raises(InputError, match="made for something else"):
            estimate(model(), other, [-2.0], path=tmp_path / "moments", **options)


def test_drawing_all_of_large_data_knows_them_all():
    """The mean of the examples that are drawn is that of all where all are drawn, in whatever order."""
    data = Large(count=40)
    order = np.random.default_rng(0).permutation(40)
    some, whole = DataStatistics.of_some(data, order), DataStatistics.of(data)
    assert some.variance == pytest.approx(whole.variance, rel=1e-12)
    assert some.digest != whole.digest
    assert torch.allclose(some.mean, whole.mean)


def test_statistics_of_other_data_are_refused():
    data = torch.randn(10, 4)
    with pytest.raises(InputError, match="statistics are of 10 examples, the data have 9"):
        bits_per_dim(model(), data[:9], CHAIN, statistics=DataStatistics.of(data), progress=False)


def test_known_data_are_the_same_data(tmp_path):
    """A file of bits made without statistics is found again with them."""
    data = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    plain = bits_per_dim(model(), data, CHAIN, path=tmp_path / "bits", progress=False)
    known = bits_per_dim(model(), data, CHAIN, path=tmp_path / "bits", statistics=DataStatistics.of(data), progress=False)
    assert np.array_equal(plain.terms, known.terms)


def test_batches_of_statistics_do_not_matter():
    x = torch.randn(12, 3, 40, 40, generator=torch.Generator().manual_seed(0)) + 3
    one, other = (DataStatistics.of(x, batch_bytes=b, max_eigen=0) for b in (1, 1 << 30))
    assert one.digest == other.digest
    assert one.variance == pytest.approx(other.variance, rel=1e-12)
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=1e-12)


def test_small_data_are_taken_as_before():
    """Batches of 1,024, so that what was measured before is still known by its numbers."""
    assert batch_by_bytes(8192) == 1024
    assert batch_by_bytes(10**9) == 1
    assert is_large(COUNT, DIM)
    assert not is_large(COUNT - 100, DIM)


def test_a_portion_is_spread_and_read_once():
    data = Large()
    part = portion(data)
    assert len(part) == LARGE // (8 * DIM)
    assert data.read.max() <= 2  # the first one twice
    assert data.read.sum() == len(part) + 1
    assert data.read[-1] == 1
    gaps = np.diff(np.flatnonzero(data.read))
    assert gaps.max() <= 2
    assert len(portion(torch.zeros(50, 3), 7)) == 7
    small = Examples(torch.zeros(50, 3))
    assert portion(small) is small


@pytest.mark.slow
def test_a_study_of_large_data_reads_them_once():
    """And a part of them for the bases, and what it draws."""
    data = Large()
    analyse(model(), data, record=("colour_dct",), settings=Settings(knots=Knots(count=9, most=9)), **FEW)
    assert data.read.sum() <= COUNT + LARGE // (8 * DIM) + 129


@pytest.mark.slow
@pytest.mark.parametrize("task", ["estimate, 64 draws", "bits of 64 examples"])
def test_five_gigabytes_take_half_a_gigabyte(task):
    command = [sys.executable, "-m", "benchmarks.memory", "--tasks", task]
    (row,) = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    _, _, read, passes, gigabytes, *_ = (cell.strip() for cell in row.split("|"))
    assert int(read) <= 129
    assert float(passes) < 1.0
    assert float(gigabytes) < 0.5


class Numbers(Dataset):
    """Examples that say which process read them."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.full((2,), float(index)), os.getpid()


@pytest.mark.parametrize("order", [range(40), [3, 1, 2] * 9, []])
def test_workers_read_ahead_in_the_order_that_is_expected(order):
    ahead = Ahead.of(DataLoader(Numbers(), num_workers=2))
    ahead.expect(order)
    items = [ahead[i] for i in order]
    assert [int(x[0]) for x, _ in items] == list(order)
    assert os.getpid() not in {process for _, process in items}
    assert ahead[5][1] == os.getpid()  # nobody expected it


def test_another_order_than_expected_is_served():
    ahead = Ahead.of(DataLoader(Numbers(), num_workers=1))
    ahead.expect(range(10))
    assert [int(ahead[i][0][0]) for i in (0, 1, 7, 2, 3)] == [0, 1, 7, 2, 3]


def test_passes_are_the_same_with_workers():
    """Of a loader its workers are used, and nothing else changes: neither moments, nor bits, nor what identifies them."""
    x = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x), num_workers=1, pin_memory=True)
    one, other = (estimate(model(), data, [-2.0, 2.0], **FEW) for data in (x, loader))
    assert np.array_equal(one.sums, other.sums)
    assert one.fingerprint == other.fingerprint
    bits = [bits_per_dim(model(), data, CHAIN, batch_size=7, progress=False) for data in (x, loader)]
    assert np.array_equal(bits[0].terms, bits[1].terms)
    assert bits[0].identity == bits[1].identity
