"""Noise streams: a function of (seed, sample, draw), independent of everything else."""

import itertools
import math

import pytest
import torch

from score_sde_analytic.process.noise import KNOTS, BatchNoise, LevelNoise, SampleNoise, stream_seed


def test_streams_of_different_keys_differ():
    """Also keys of different length: a stream (seed, i) is not the stream (seed, i, 0)."""
    keys = [key for n in (1, 2, 3) for key in itertools.product(range(6), repeat=n)] + [(2**32, 5), (2**32 + 1,), (0, 2**40)]
    assert len({stream_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= stream_seed(*key) < 2**63 for key in keys)


def test_rows_depend_on_their_index_only():
    like = torch.empty(4, 3)
    whole, part = SampleNoise(7, range(4)), SampleNoise(7, [2, 0])
    for _ in range(3):
        draw = whole.draw(like).clone()
        assert torch.equal(part.draw(like[:2]), draw[[2, 0]])


def test_draws_are_standard_normal_and_independent():
    """20,000 numbers: mean, variance and correlation within five standard errors (false alarm 2e-6 in all)."""
    n, noise = 20_000, SampleNoise(0, range(200))
    first, second = (noise.draw(torch.empty(200, 100)).double().flatten().clone() for _ in range(2))
    limit = 5 / math.sqrt(n)
    assert abs(float(first.mean())) < limit
    assert abs(float(first.var()) - 1) < limit * math.sqrt(2)
    assert abs(float((first * second).mean())) < limit
    assert abs(float((first[:-100] * first[100:]).mean())) < limit * 1.01


@pytest.mark.parametrize("make", [lambda: SampleNoise(3, range(2)), lambda: BatchNoise(3)])
def test_half_precision_rounds_the_same_stream(make):
    single = make().draw(torch.empty(2, 5))
    half = make().draw(torch.empty(2, 5, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, single.bfloat16())
    assert make().draw(torch.empty(2, 5, dtype=torch.float64)).dtype == torch.float64


def test_batch_noise_is_seeded():
    like = torch.empty(3, 2)
    assert torch.equal(BatchNoise(1).draw(like), BatchNoise(1).draw(like))
    assert not torch.equal(BatchNoise(1).draw(like), BatchNoise(2).draw(like))


def test_batch_noise_is_the_stream_of_its_generator():
    """In the memory of the draw before, where that has its shape and precision."""
    noise, generator = BatchNoise(4), torch.Generator().manual_seed(stream_seed(4))
    for shape, dtype in [((3, 20), torch.float32)] * 2 + [((2, 20), torch.float32), ((2, 20), torch.float64)]:
        expected = torch.randn(shape, generator=generator, dtype=dtype)
        assert torch.equal(noise.draw(torch.empty(shape, dtype=dtype)), expected)


def test_another_batch_size_is_refused():
    with pytest.raises(ValueError, match="noise for 2 samples"):
        SampleNoise(0, range(2)).draw(torch.empty(3, 1))


def test_shapes_may_change_between_draws():
    noise = SampleNoise(0, range(2))
    assert noise.draw(torch.empty(2, 3)).shape == (2, 3)
    assert noise.draw(torch.empty(2, 1, 4, 4)).shape == (2, 1, 4, 4)
    assert SampleNoise(0, []).draw(torch.empty(0, 3)).shape == (0, 3)


# --- noise as a function of log-SNR -------------------------------------------------------------------------------------


def test_noise_of_a_level_is_standard_normal():
    """On knots and between, of either sign: three moments within 5 standard errors (false alarm 2e-5 in all)."""
    n, keys = 20_000, [(i, 0) for i in range(200)]
    for log_snr in (-7.3, -1.0, 0.0, 0.5, 12.25):
        eps = LevelNoise(0, keys).at(log_snr, torch.empty(200, 100)).double()
        assert abs(float(eps.mean())) < 5 / math.sqrt(n)
        assert abs(float(eps.square().mean()) - 1) < 5 * math.sqrt(2 / n)
        assert abs(float(eps.pow(4).mean()) - 3) < 5 * math.sqrt(96 / n)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 0.1 * KNOTS])
def test_neighbouring_levels_share_their_noise(distance):
    """Across a knot too; the difference is at most pi / 2 per knot spacing, times the two draws."""
    for log_snr in (0.3, 1.0 - 0.5 * distance, -2.0 - 0.5 * distance):
        noise = LevelNoise(1, [(i,) for i in range(50)])
        a, b = (noise.at(level, torch.empty(50, 40)) for level in (log_snr, log_snr + distance))
        assert float((a - b).square().mean().sqrt()) <= 1.1 * math.pi / 2 * distance / KNOTS + 1e-6


def test_levels_two_knots_apart_are_independent():
    """Correlation of 20,000 numbers within 5 standard errors: false alarm 6e-7 each."""
    keys, like = [(i,) for i in range(200)], torch.empty(200, 100)
    for log_snr in (0.0, 0.4, -3.7):
        a, b = (LevelNoise(2, keys).at(level, like) for level in (log_snr, log_snr + 2 * KNOTS))
        assert abs(float((a * b).mean())) < 5 / math.sqrt(20_000)


def test_one_level_per_sample_is_the_same_noise():
    """Whatever the batch, the order of the levels and what was asked before."""
    keys, like = [(i, 3) for i in range(6)], torch.empty(6, 2, 3)
    log_snr = torch.tensor([0.2, -4.0, 0.2, 7.9, 1.0, -0.5])
    each = LevelNoise(5, keys).at(log_snr, like)
    noise = LevelNoise(5, keys)
    for i in (3, 0, 5, 1, 4, 2):
        torch.testing.assert_close(noise.at(float(log_snr[i]), like)[i], each[i])
        torch.testing.assert_close(LevelNoise(5, keys[i : i + 1]).at(float(log_snr[i]), like[:1])[0], each[i])
        torch.testing.assert_close(LevelNoise(5, keys[i : i + 1]).at(log_snr[i : i + 1], like[:1])[0], each[i])
    assert not torch.allclose(each[0], each[2])  # two samples at one level
    assert not torch.allclose(LevelNoise(6, keys).at(log_snr, like), each)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_noise_of_a_level_has_the_dtype_of_the_data(dtype):
    like = torch.empty(2, 3, dtype=dtype)
    for log_snr in (0.5, torch.tensor([0.5, 1.5])):
        assert LevelNoise(0, [(0,), (1,)]).at(log_snr, like).dtype == dtype
