"""Dynamic thresholds, and clamps of any kind in a model."""

import pytest
import torch

from score_sde_analytic.models.clamps import DynamicThreshold
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.process.schedule import LinearVP


@pytest.mark.parametrize(("ratio", "maximum"), [(0.995, 1.0), (0.9, 1.5), (0.5, 100.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_thresholds_are_those_of_diffusers(ratio, maximum, dtype):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=ratio, sample_max_value=maximum)
    scales = torch.arange(1, 6).reshape(5, 1, 1, 1)
    x_0 = (torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * scales).to(dtype)
    assert torch.equal(DynamicThreshold(ratio, maximum)(x_0), scheduler._threshold_sample(x_0))


def test_a_model_confines_by_it():
    model = ScoreModel(lambda x, t: x, LinearVP(), predicts="x_0", clamp=DynamicThreshold(0.5))
    x = torch.tensor([[0.5, 2.0, -8.0], [0.1, 0.2, 0.3]])
    prediction = model(x, 0.5)
    assert prediction.x_0.tolist() == [[0.25, 1.0, -1.0], pytest.approx([0.1, 0.2, 0.3])]
    torch.testing.assert_close(prediction.level.diffuse(prediction.x_0, prediction.eps), x)


def test_clamps_are_told_apart_in_fingerprints():
    clamps = (None, (-1.0, 1.0), DynamicThreshold(), DynamicThreshold(0.9), DynamicThreshold(maximum=2.0))
    models = [ScoreModel(lambda x, t: x, LinearVP(), clamp=clamp, fingerprint="same") for clamp in clamps]
    assert len({str(model.fingerprint()) for model in models}) == len(clamps)


@pytest.mark.parametrize("settings", [{"ratio": 1.5}, {"maximum": 0.5}, {"ratio": float("nan")}])
def test_thresholds_are_checked(settings):
    with pytest.raises(ValueError, match="must be"):
        DynamicThreshold(**settings)
