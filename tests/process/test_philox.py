"""Philox: the published numbers, the same on every path, and normal."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

from score_sde_analytic.process import philox
from score_sde_analytic.process.noise import SampleNoise, stream_seed
from score_sde_analytic.process.philox import HostDraws, blocks, half, kind, normals, signed

#: counter, key, words: the vectors of Random123 for philox4x64-10 (zeros, ones, digits of pi).
PUBLISHED = [
    (
        [0] * 4,
        [0] * 2,
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        [2**64 - 1] * 4,
        [2**64 - 1] * 2,
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]
STREAMS = [stream_seed(3, i) for i in range(5)]
SIZES = [1, 2, 7, 16, 17, 33, 100]
DTYPES = [torch.float32, torch.float64]


def draw(streams, n, dtype, k, draws=1):
    return HostDraws(streams, (len(streams), n), dtype, draws).draw(k)


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_words_are_the_published_ones(counter, key, expected):
    counter, key = ([torch.tensor(signed(word)) for word in part] for part in (counter, key))
    assert [int(word) % 2**64 for word in philox._words(counter, key)] == expected


def test_blocks_are_numpys():
    """Whose counter is raised before its first block."""
    for stream, second, place in [(0, 0, 0), (7, 12, 3), (2**63 - 1, 5, 2**40)]:
        key, counter = np.array([stream, second], np.uint64), np.array([place, 0, 0, 0], np.uint64)
        theirs = np.random.Philox(key=key, counter=counter).random_raw(20).view(np.int64).reshape(5, 4)
        ours = blocks(torch.tensor([stream])[:, None], second, torch.arange(place + 1, place + 6))
        assert np.array_equal(ours[0].numpy(), theirs)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_host_draws_what_a_device_does(n, dtype):
    """In float64 to the bit; float32 within 6 units in the last place: numpy's float32 against rounded float64."""
    for k in (0, 1, 5):
        host, device = draw(STREAMS, n, dtype, k), normals(torch.tensor(STREAMS), k, n, dtype)
        assert host.dtype == device.dtype == dtype
        if dtype == torch.float64:
            assert torch.equal(host, device)
        else:
            np.testing.assert_array_max_ulp(host.numpy(), device.numpy(), 6)


def test_every_device_draws_the_same(device):
    noise, host = SampleNoise(3, range(5), device), SampleNoise(3, range(5))
    for dtype, ulp in [(torch.float32, 6), (torch.float64, 4), (torch.float32, 6)]:
        found, expected = (source.draw(torch.empty(5, 33, dtype=dtype)) for source in (noise, host))
        np.testing.assert_array_max_ulp(found.numpy(), expected.numpy(), ulp)


def test_float32_is_close_on_the_whole_line():
    host, device = draw([9], 2**18, torch.float32, 0), normals(torch.tensor([9]), 0, 2**18, torch.float32)
    np.testing.assert_array_max_ulp(host.numpy(), device.numpy(), 6)


def test_one_by_one_and_all_at_once_are_the_same_words():
    one_by_one, all_at_once = philox.ONE_BY_ONE(STREAMS, 7, 11, 3), philox._all_at_once(STREAMS, 7, 11, 3)
    assert np.array_equal(one_by_one, all_at_once.view(np.uint64))
    many = [stream_seed(1, i) for i in range(philox.FEW + 5)]
    assert torch.equal(draw(many, 3, torch.float32, 2)[:4], draw(many[:4], 3, torch.float32, 2))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_made_ahead_are_the_same_in_any_order(n, dtype):
    ahead = HostDraws(STREAMS, (5, n), dtype, 20)
    for k in (*range(20), 3, 19, 0):
        assert torch.equal(ahead.draw(k), draw(STREAMS, n, dtype, k))
        assert torch.equal(ahead.draw(k)[2:4], draw(STREAMS[2:4], n, dtype, k))


def test_no_two_draws_share_a_block():
    """Draws of one size follow each other without a gap; other sizes and precisions have another key."""
    for dtype in DTYPES:
        h = half(33, dtype)
        places = [1 + 2 * h * k + j for k in range(4) for j in range(2 * h)]
        assert places == list(range(1, 1 + 8 * h))
        assert 8 * h * (1 if dtype == torch.float64 else 2) >= 33 > 8 * (h - 1)
    assert len({kind(n, dtype) for n in range(50) for dtype in DTYPES}) == 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_are_normal(dtype):
    """2^18 numbers: Kolmogorov-Smirnov and four moments, false alarm 1e-6 each."""
    z = draw([stream_seed(8)], 2**18, dtype, 0).double().flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-6
    for power, mean, variance in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]:
        assert abs((z**power).mean() - mean) < 4.9 * math.sqrt(variance / len(z))


def test_neighbours_are_independent():
    """Of seeds, samples and draws, of z and z^2: correlations of 20,000 numbers within 6 errors; false alarm 1e-6 in all."""
    like = torch.empty(10, 20_000)
    noises = [SampleNoise(seed, range(10)) for seed in (0, 1)]
    rows = torch.cat([noise.draw(like).double() for noise in noises for _ in range(2)])
    for x in (rows, rows.square() - 1.0):
        x = x / x.square().mean(1, keepdim=True).sqrt()
        correlations = (x @ x.T / x.shape[1]).fill_diagonal_(0.0)
        assert correlations.abs().max() < 6.0 / math.sqrt(x.shape[1])


def test_cosines_and_sines_of_a_pair_are_independent():
    """The halves of a draw share their radii: their product and that of their squares, within 5 errors (2e-6 in all)."""
    z = draw([4], 2**18, torch.float64, 0).reshape(2, -1)
    assert abs(float(z.prod(0).mean())) < 5.0 / math.sqrt(2**17)
    assert abs(float((z.square() - 1.0).prod(0).mean())) < 5.0 * 2.0 / math.sqrt(2**17)


def test_the_tail_is_there():
    """Numbers beyond 4 are as many as there should be, within 5 errors; the smallest u gives 6.66, of float64 9.42."""
    z = draw([11], 2**20, torch.float32, 0)
    expected = 2**20 * 2.0 * stats.norm.sf(4.0)
    assert abs(int((z.abs() > 4.0).sum()) - expected) < 5.0 * math.sqrt(expected)
    for dtype, bits, largest in [(torch.float32, 32, 6.66), (torch.float64, 64, 9.42)]:
        r, *_ = philox._polar(torch.tensor([0.0], dtype=dtype), torch.zeros(1, dtype=dtype), bits)
        assert float(r) == pytest.approx(largest, abs=0.01)


@pytest.mark.parametrize("integer", [-(2**31), -1, 0, 1, 2**31 - 1])
def test_no_integer_makes_a_number_that_is_not_finite(integer):
    integers = np.full((2, 1, 4), integer, np.float32)
    for part in philox._polar_float32(integers):
        assert np.isfinite(part).all()


@pytest.mark.slow
def test_a_device_is_not_asked_for_a_number():
    """Traced without numbers, of a draw that is not known yet."""
    streams, k = torch.tensor(STREAMS), torch.tensor(4)
    traced = make_fx(lambda streams, k: normals(streams, k, 33, torch.float32), tracing_mode="fake")(streams, k)
    assert torch.equal(traced(streams, k), normals(streams, 4, 33, torch.float32))
    assert torch.equal(traced(streams, k + 1), normals(streams, 5, 33, torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_compiled_kernel_draws_the_same(dtype):
    """Compiled for the CPU, as it is for a GPU."""
    streams = torch.tensor(STREAMS[:4])
    kernel = philox._compiled(4, 33, dtype, torch.device("cpu"))
    for k in (0, 3):
        close = kernel(streams, torch.tensor(k))
        torch.testing.assert_close(close, normals(streams, k, 33, dtype), rtol=1e-6, atol=1e-7)
