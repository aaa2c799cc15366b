"""Guidance of the shipped network of digits by class, judged by the shipped classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_classes
from score_sde_analytic.runners import datasets, networks

from score_sde_analytic.covariance import Isotropic
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.guidance import ClassifierFree, estimate_guided
from score_sde_analytic.measure import Budget
from score_sde_analytic.metrics.classifier import load_classifier
from score_sde_analytic.samplers import Ancestral, generate

LABELS = torch.arange(100) % 10
NULL = {"class_labels": 10}


@pytest.fixture(scope="module")
def known():
    """(model, both of its branches measured)."""
    config = digits_classes.get_config()
    model, data = networks.model(config, Path(), torch.device("cpu")), datasets.splits(config).validation
    budget = Budget(min_draws=300, max_draws=300, batch_size=100)
    return model, estimate_guided(model, data, NULL, np.linspace(-8.0, 8.0, 9), budget, progress=False)


@pytest.mark.slow
def test_its_branches_are_farther_apart_than_those_of_data(known):
    """By G and by their errors it claims more than log2(10) / 64 bits/dim, and says so."""
    _, measured = known
    assert measured.ceiling == pytest.approx(np.log2(10) / 64, rel=0.01)
    for by in ("gap", "difference"):
        with pytest.warns(UserWarning, match="entropy of its condition"):
            assert measured.information(by=by).value > 1.2 * measured.ceiling


def right(known, scale, steps, variance):
    """Share of samples that the classifier takes for what they were asked to be."""
    model, measured = known
    sampler = Ancestral(ClassifierFree(model, scale, NULL), Isotropic(measured.curve(scale, variance)))
    grid = even_log_snr(model.schedule, steps, float(model.schedule.time(7.0)))
    x = generate(sampler, grid, (1, 8, 8), 100, batch_size=100, conditions={"class_labels": LABELS}).clamp(-1.0, 1.0)
    judge = load_classifier("digits_classifier")[0].eval()
    with torch.no_grad():
        return float((judge(x).argmax(1) == LABELS).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2.0, 4.0])
@pytest.mark.parametrize("steps", [10, 25])
def test_guided_digits_are_of_their_class(known, scale, steps):
    assert right(known, scale, steps, "conditional") >= 0.99


@pytest.mark.slow
def test_the_residual_of_the_guided_prediction_is_a_trap(known):
    """Too much noise for few steps at a large scale."""
    assert right(known, 4.0, 5, "residual") < 0.9 < right(known, 4.0, 5, "conditional")
