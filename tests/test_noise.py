"""Noise streams: a function of (seed, sample, draw), independent of everything else."""

import itertools
import math

import pytest
import torch

from score_sde_analytic.noise import BatchNoise, SampleNoise, stream_seed


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


def test_another_batch_size_is_refused():
    with pytest.raises(ValueError, match="noise for 2 samples"):
        SampleNoise(0, range(2)).draw(torch.empty(3, 1))


def test_shapes_may_change_between_draws():
    noise = SampleNoise(0, range(2))
    assert noise.draw(torch.empty(2, 3)).shape == (2, 3)
    assert noise.draw(torch.empty(2, 1, 4, 4)).shape == (2, 1, 4, 4)
    assert SampleNoise(0, []).draw(torch.empty(0, 3)).shape == (0, 3)
