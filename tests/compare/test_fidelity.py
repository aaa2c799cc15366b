"""What samples are compared by."""

from __future__ import annotations

import pytest
import torch

from score_sde_analytic.compare import Examples, fidelity
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.metrics import ClassifierFeatures, Coefficients, Pixels


def images(name: str = "data") -> Examples:
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Examples(x, x, x, name)


def test_usual_features_suit_the_data(examples):
    assert fidelity.usual_features(examples) == "pixels"
    assert fidelity.usual_features(images()) == "colour_dct"
    assert fidelity.usual_features(images("digits")) == "digits_classifier"


@pytest.mark.parametrize(
    ("name", "kind"), [("pixels", Pixels), ("dct", Coefficients), ("digits_classifier", ClassifierFeatures)]
)
def test_features_by_name(name, kind):
    fidelity.check_features(name)
    assert isinstance(fidelity.features(name, images().train), kind)


def test_data_are_no_further_from_themselves_than_other_samples():
    """All columns of examples as their own samples, against the same with noise; the identity knows the reference."""
    x = images().test
    measure = fidelity.of_examples(x, Pixels(), DataRange(0.0, 1.0), groups=5)
    near, far = measure.measure(x), measure.measure(x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    assert [column.name for column in measure.columns] == list(near)
    assert measure.columns[0].name == "frechet"
    for column in measure.columns:
        worse = far[column.name].value - near[column.name].value
        assert worse > 0 if column.better == "lower" else worse <= 0, column
    other = fidelity.of_examples(x[:20], Pixels(), DataRange(0.0, 1.0), groups=5)
    assert other.identity != measure.identity
    assert (measure.examples, other.examples) == (30, 20)


def test_samples_of_discrete_data_are_compared_as_images():
    levels = DataRange(-1.0, 1.0, 3)
    x = torch.tensor([[-7.0, -0.6, 0.4, 0.6, 2.0]])
    assert fidelity.displayed(x, levels).tolist() == [[-1.0, -1.0, 0.0, 1.0, 1.0]]
    assert fidelity.displayed(x, DataRange(-1.0, 1.0)) is x
