"""Heads on conditional networks: trained, calibrated and priced on the conditions of their examples."""

from __future__ import annotations

import pytest
import torch

from score_sde_analytic.covariance.head_calibration import calibrate, held_out_draws, transition_bits
from score_sde_analytic.covariance.head_training import HeadTrainer, Recipe, draw, new_head
from score_sde_analytic.covariance.heads import covariance_of
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import LinearVP

VP = LinearVP()
CLASSES = GaussianMixture([0.5, 0.5], [[-2.0, 0.0], [2.0, 0.5]], [[0.05, 0.4], [0.2, 0.1]])
MODEL = CLASSES.conditional(VP)
X, COMPONENT = CLASSES.labelled(200)
GIVEN = {"component": COMPONENT}
RECIPE = Recipe(steps=3, batch_size=16, warmup=1, log_snr=(-6.0, 6.0))


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("size", [None, 50])
def test_a_draw_keeps_labels_beside_examples(size):
    """The prediction of every sample is that of its own component's Gaussian, chosen at random or in order."""
    found = draw(MODEL, X, RECIPE, generator(), size=size, conditions=GIVEN)
    labels = (found.x_0[:, 0] > 0).long()  # they lie far apart
    assert torch.equal(found.prediction.conditions.rows["component"], labels)
    for k in (0, 1):
        rows = labels == k
        level = VP.level(VP.time(found.prediction.level.log_snr[rows]))
        alone = CLASSES.component(k).score_model(VP).predict(found.prediction.x_t[rows], level)
        torch.testing.assert_close(found.prediction.eps[rows], alone.eps, rtol=0, atol=1e-6)


def test_the_trainer_pays_for_its_network():
    """Every step is a call of the network on the labels of its batch; another set of labels teaches something else."""
    trained = {}
    for name, given in {"right": GIVEN, "again": GIVEN, "wrong": {"component": COMPONENT.roll(1)}}.items():
        trainer = HeadTrainer({"npr": new_head("npr", MODEL, X, RECIPE)}, MODEL, X, RECIPE, conditions=given)
        losses = [trainer.advance()["npr"] for _ in range(RECIPE.steps)]
        trained[name] = losses
        assert trainer.cost.evaluations == RECIPE.steps * RECIPE.batch_size
    assert trained["right"] == trained["again"]
    assert trained["wrong"][0] > 2.0 * trained["right"][0]


def test_calibration_and_price_on_held_out_labels():
    """Calibrated on other examples with their labels, an untrained head costs less than before; wrong labels cost more."""
    head = new_head("npr", MODEL, X, RECIPE)
    held_out = CLASSES.labelled(300, seed=1)
    draws = list(held_out_draws(MODEL, held_out[0], RECIPE, draws=2, conditions={"component": held_out[1]}))
    wrong = list(held_out_draws(MODEL, held_out[0], RECIPE, draws=2, conditions={"component": held_out[1].roll(1)}))
    before, after = calibrate(head, draws, RECIPE, VP)
    assert after < before
    prices = [transition_bits({"npr": covariance_of(head)}, some, VP, (-6.0, 6.0))["npr"] for some in (draws, wrong)]
    assert prices[1] > prices[0] + 0.5
