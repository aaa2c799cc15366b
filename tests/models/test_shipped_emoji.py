"""The shipped network of emoji: small, stored in half precision, run in float32, and worth more than a covariance."""

from pathlib import Path

import numpy as np
import torch
from score_sde_analytic.configs import emoji
from score_sde_analytic.runners import datasets, networks

from score_sde_analytic.data import Examples
from score_sde_analytic.measure import Budget, estimate
from score_sde_analytic.models import LinearDenoiser
from score_sde_analytic.models.networks import load_unet

FOLDER = networks.ASSETS / "emoji_unet"
KNOTS = np.array([-3.0, 0.0, 3.0, 6.0])
FEW = Budget(min_draws=32, max_draws=32, batch_size=32)


def test_it_is_small_and_half():
    assert (FOLDER / "diffusion_pytorch_model.safetensors").stat().st_size < 4e6
    assert {each.dtype for each in load_unet(FOLDER)[0].parameters()} == {torch.float16}


def test_it_knows_more_than_a_covariance_and_reads_its_group():
    config = emoji.get_config()
    model, splits = networks.model(config, Path(), torch.device("cpu")), datasets.splits(config)
    assert {each.dtype for each in model.net.parameters()} == {torch.float32}
    batch = splits.validation.batch(range(32))
    told = estimate(model, Examples(batch.x_0, conditions=batch.conditions), KNOTS, FEW, progress=False)
    linear = LinearDenoiser.of(splits.train).residual(KNOTS)
    assert np.all(told.residual + 5.0 * told.stderr("residual") < linear)
    wrong = Examples(batch.x_0, conditions={"class_labels": (batch.conditions["class_labels"] + 4) % 9})
    rolled = estimate(model, wrong, KNOTS, FEW, progress=False)
    assert (rolled.residual - told.residual)[:2].sum() > 0.0
