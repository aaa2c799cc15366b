"""Noise is the same to the last bit on the host and on the device."""

from __future__ import annotations

import pytest
import torch

from score_sde_analytic.process.noise import SampleNoise

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_does_not_depend_on_the_device(gpu, dtype):
    """A million draws of each kind, several steps, tuples as keys too."""
    keys = [0, 1, 7, (3, 1), (2**40, 5)]
    here, there = SampleNoise(3, keys), SampleNoise(3, keys, gpu)
    for shape in [(3, 256, 256), (17,), (1,)]:
        like = torch.empty(len(keys), *shape, dtype=dtype)
        for _ in range(2):
            torch.testing.assert_close(there.draw(like.to(gpu)).cpu(), here.draw(like), rtol=0, atol=0)
