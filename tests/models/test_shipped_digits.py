"""The shipped digits networks that are given classes, and that predict a flow's velocity."""

from pathlib import Path

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_classes, digits_flow
from score_sde_analytic.runners import datasets, networks

from score_sde_analytic.data import Examples
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.guidance import ClassifierFree, mutual_information
from score_sde_analytic.measure import Budget, estimate
from score_sde_analytic.models import LinearDenoiser
from score_sde_analytic.samplers import DPMSolverPP, generate

CPU = torch.device("cpu")
KNOTS = np.linspace(-7.0, 6.0, 12)
DRAWS = Budget(min_draws=300, max_draws=300, batch_size=100)


@pytest.fixture(scope="module")
def given():
    """(model, validation images with their classes)."""
    config = digits_classes.get_config()
    return networks.model(config, Path(), CPU), datasets.splits(config).validation


def measured(model, data):
    return estimate(model, data, KNOTS, DRAWS, progress=False)


def test_classes_are_worth_bits(given):
    """1/2 int (R_u - R_c): I(image; class) / d of exact scores, at most log2(10) / 64 = 0.052, and what the network knows worse
    without a class, which it was trained on a tenth of the time, besides.
    """
    model, data = given
    told = mutual_information(measured(model, data), measured(model.given(class_labels=10), data))
    assert told.value > 5.0 * told.stderr


@pytest.mark.slow
def test_wrong_classes_are_worse_than_none(given):
    model, data = given
    batch = data.batch(range(len(data)))
    wrong = Examples(batch.x_0, conditions={"class_labels": (batch.conditions["class_labels"] + 1) % 10})
    right, rolled = measured(model, data), measured(model, wrong)
    middle = slice(3, 8)
    error = np.hypot(right.stderr("residual"), rolled.stderr("residual"))[middle]
    assert np.all((rolled.residual - right.residual)[middle] > 5.0 * error)


def test_guidance_runs_on_a_real_network(given):
    """Samples of one class, guided, have that class's mean more than any other's."""
    model, data = given
    guided = ClassifierFree(model, 2.0, {"class_labels": 10})
    grid = even_log_snr(model.schedule, 10, float(model.schedule.time(6.0)))
    x = generate(
        DPMSolverPP(guided, 2), grid, (1, 8, 8), 20, seed=0, conditions={"class_labels": torch.zeros(20, dtype=torch.long)}
    )
    batch = data.batch(range(len(data)))
    means = torch.stack([batch.x_0[batch.conditions["class_labels"] == k].mean(0) for k in range(10)])
    nearest = (x.mean(0) - means).square().flatten(1).sum(1).argmin()
    assert int(nearest) == 0


def test_a_flow_knows_more_than_a_covariance():
    """From log-SNR 0 up; and in pure noise, alpha = 0, its x_0 is the mean of the data."""
    config = digits_flow.get_config()
    model, splits = networks.model(config, Path(), CPU), datasets.splits(config)
    assert model.predicts == "velocity"
    assert model.schedule.ends_in_noise
    linear = LinearDenoiser.of(splits.train)
    moments = measured(model, splits.validation)
    assert np.all((moments.residual + 5.0 * moments.stderr("residual"))[6:] < linear.residual(KNOTS)[6:])
    x_0 = model(torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 1.0).x_0.mean(0)
    assert (x_0 - splits.train.mean(0)).abs().mean() < 0.05
