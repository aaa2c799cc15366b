"""Noise is the same on the host and on the device, within what they make of log, sin and cos."""

from __future__ import annotations

import pytest
import torch

from score_sde_analytic.process.noise import SampleNoise

pytestmark = pytest.mark.gpu


#: Units in the last place, as the documentation has it; a rounded number may fall to the other side.
ULPS = {torch.float32: 6, torch.float64: 6, torch.bfloat16: 1}


@pytest.mark.parametrize("dtype", ULPS)
def test_noise_does_not_depend_on_the_device(gpu, dtype):
    """A million draws of each kind, several steps, tuples as keys too."""
    keys = [0, 1, 7, (3, 1), (2**40, 5)]
    here, there = SampleNoise(3, keys), SampleNoise(3, keys, gpu)
    for shape in [(3, 256, 256), (17,), (1,)]:
        like = torch.empty(len(keys), *shape, dtype=dtype)
        for _ in range(2):
            unit = ULPS[dtype] * torch.finfo(dtype).eps
            torch.testing.assert_close(there.draw(like.to(gpu)).cpu(), here.draw(like), rtol=unit, atol=unit / 8)
