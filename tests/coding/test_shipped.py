"""Files of the shipped networks' held-out images."""

import pytest
import torch
from score_sde_analytic.configs import digits_vp
from score_sde_analytic.runners.experiment import Experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(study, test images) of a pass of few draws."""
    config = digits_vp.get_config()
    config.estimate.knots, config.estimate.most_knots = 32, 0
    config.estimate.min_draws = config.estimate.max_draws = 300
    config.sample.variances = config.evaluate.variances = ()
    experiment = Experiment(config, tmp_path_factory.mktemp("digits"), ("pca",))
    return experiment.study, experiment.splits.held("test")


@pytest.mark.parametrize(("steps", "most"), [(10, 1.95), (25, 1.84)])
def test_held_out_digits(digits, steps, most):
    """Below what the bound says, with about 1 % to begin with; JSON and checksums take about a hundred bytes."""
    study, images = digits
    codec = study.codec(steps, covariance="pca", prior="gaussian")
    done = codec.compress(images)
    assert torch.equal(codec.decode(done.content), images)
    assert done.net_rate < most
    assert done.net_rate == pytest.approx(done.worth_rate, rel=3e-3)
    assert done.beginning < 0.011 * done.net_rate * images.numel()
    assert 8 * len(done.content) < 1.035 * done.net_rate * images.numel()
