"""What is measured of a batch of draws."""

import numpy as np
import pytest
import torch

from score_sde_analytic import LinearVP
from score_sde_analytic.measure.outcomes import DECODER_COORDINATES, some_coordinates
from score_sde_analytic.models import Prediction


@pytest.mark.parametrize("dim", [1, 7, 256, 257, 1000, 1024])
def test_coordinates_are_equally_likely(dim):
    """Counts of 4000 draws within 5 standard errors of the even share; all of few, and different ones of whole stretches."""
    generator = torch.Generator().manual_seed(0)
    drawn = [some_coordinates(dim, generator).numpy() for _ in range(4000)]
    counts = np.bincount(np.concatenate(drawn), minlength=dim) / len(drawn)
    share = min(1.0, DECODER_COORDINATES / dim)
    assert len(counts) == dim
    assert np.abs(counts - share).max() <= (5 * np.sqrt(share / len(drawn)) if share < 1.0 else 0.0)
    if dim % DECODER_COORDINATES == 0:
        assert all(len(np.unique(places)) == len(places) for places in drawn[:100])


@pytest.mark.parametrize("kind", ["x_0", "eps", "v", "velocity"])
def test_the_error_of_a_prediction_is_that_of_its_eps(kind):
    generator = torch.Generator().manual_seed(0)
    x_0, eps, said = (torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(3))
    level = LinearVP().level(0.4)
    prediction = Prediction(level.diffuse(x_0, eps), level, said, kind)
    torch.testing.assert_close(prediction.error(x_0, eps), eps - prediction.eps, rtol=1e-10, atol=1e-10)
