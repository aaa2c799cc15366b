"""What examples are conditioned on: found in any container, kept beside its example, part of the data's identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

from score_sde_analytic.data.examples import Examples, as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.statistics import DataStatistics

X = torch.arange(12.0).reshape(6, 2)
Y = torch.tensor([3, 1, 4, 1, 5, 9])
ROWS = [{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)]
CONTAINERS = {
    "columns beside a tensor": lambda: Examples(X, conditions={"y": Y}),
    "a list beside an array": lambda: Examples(X.numpy(), conditions={"y": Y.tolist()}),
    "columns by name": lambda: Examples({"image": X, "label": Y}, conditions={"y": "label"}),
    "dictionaries": lambda: Examples(ROWS, conditions={"y": "label"}),
    "tuples by position": lambda: Examples(TensorDataset(X, Y), conditions={"y": 1}),
    "a loader": lambda: Examples(DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True), conditions={"y": 1}),
    "items with a dictionary": lambda: Examples([(x, {"y": int(y)}) for x, y in zip(X, Y, strict=True)]),
    "a key of that dictionary": lambda: Examples([(x, {"k": y}) for x, y in zip(X, Y, strict=True)], conditions={"y": "k"}),
    "numpy scalars": lambda: Examples([(x, {"y": np.int32(y)}) for x, y in zip(X, Y, strict=True)]),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_says_the_same(container):
    examples = CONTAINERS[container]()
    x_0, conditions = examples.batch([5, 0, 2, 0])
    assert torch.equal(x_0, X[[5, 0, 2, 0]])
    assert list(conditions) == ["y"] == list(examples.conditions)
    assert torch.equal(conditions["y"], Y[[5, 0, 2, 0]])
    assert conditions["y"].dtype == torch.int64
    assert DataStatistics.of(examples).digest == DataStatistics.of(Examples(X, conditions={"y": Y})).digest


@pytest.mark.parametrize("container", CONTAINERS)
def test_parts_keep_them(container):
    """Subsets and splits by torch's own classes, of the data set of examples itself."""
    examples = CONTAINERS[container]()
    part = as_dataset(Subset(examples, [4, 1]))
    assert part.batch([0, 1]).conditions["y"].tolist() == [5, 1]
    halves = random_split(examples, [4, 2], generator=torch.Generator().manual_seed(0))
    found = [as_dataset(half).batch(range(len(half))) for half in halves]
    for x_0, conditions in found:
        assert torch.equal(Y[(x_0[:, 0] / 2).long()], conditions["y"])


def test_tuples_without_names_stay_unconditional():
    """As they were before: the second entry of a pair is nobody's business, and the digest is that of the examples."""
    pairs = Examples(TensorDataset(X, Y))
    assert pairs.conditions == ()
    assert pairs.batch([1, 2]).conditions == {}
    assert torch.equal(pairs[3], X[3])
    assert DataStatistics.of(pairs).digest == DataStatistics.of(X).digest


def test_the_digest_is_of_every_condition_and_its_place():
    digests = {
        DataStatistics.of(Examples(X, conditions=given)).digest
        for given in ({"y": Y}, {"z": Y}, {"y": Y.roll(1)}, {"y": Y.float()}, {"y": Y, "z": Y}, {"y": Y[:, None]}, None)
    }
    assert len(digests) == 7
    one, other = (DataStatistics.of(Examples(X, conditions={"y": Y}), batch_size=size).digest for size in (2, 6))
    assert one == other


def test_pictures_are_encoded_as_examples_are():
    """A low-resolution or masked image beside each image, as pixels or as a picture, in the range of the data."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    declared = DataRange(-1, 1, 256)
    pictures = [{"image": Image.fromarray(p), "low": Image.fromarray(p[::2, ::2])} for p in pixels]
    x_0, conditions = Examples(pictures, declared, conditions={"low": "low"}).batch([0, 2])
    assert torch.equal(conditions["low"], x_0[:, :, ::2, ::2])
    column = Examples(pictures, declared, conditions={"low": np.moveaxis(pixels, -1, 1)})
    assert torch.equal(column.batch([1]).conditions["low"], column.batch([1]).x_0)
    tensor = Examples(np.moveaxis(pixels, -1, 1), declared, conditions={"low": np.moveaxis(pixels, -1, 1)})
    assert torch.equal(tensor.batch([1, 2]).conditions["low"], tensor.batch([1, 2]).x_0)


def test_classes_divide_the_data():
    parts = CONTAINERS["dictionaries"]().divided("y")
    assert {label: part.batch(range(len(part))).x_0.tolist() for label, part in parts.items()} == {
        label: X[label == Y].tolist() for label in (1, 3, 4, 5, 9)
    }
    assert parts[1].batch([0, 1]).conditions["y"].tolist() == [1, 1]


class Restless:
    """Labels that change from reading to reading."""

    reads = 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        Restless.reads += 1
        return X[index], {"y": Restless.reads}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Examples(X, conditions={"y": Y[:4]}), "the condition y is .4,. for 6 examples"),
        (lambda: Examples(X, conditions={"y": 3.0}), "the condition y is float for 6 examples"),
        (lambda: Examples(ROWS, conditions={"y": "class"}).batch([0]), "no 'class' for the condition y .* 'image', 'label'"),
        (lambda: Examples(TensorDataset(X, Y), conditions={"y": 2}).batch([0]), "no 2 for the condition y"),
        (lambda: Examples([(X[0], {"y": "a cat"})]).batch([0]), "the condition y is str; .* words must be embedded"),
        (lambda: Examples([(X[0], {"y": 1}), (X[1], {})]).batch([0, 1]), "example 1 has no condition y"),
        (lambda: Examples([(X[i], {"y": torch.zeros(i + 1)}) for i in range(2)]).batch([0, 1]), "the condition y of example 1"),
        (lambda: Examples(X, conditions={"y": Y}).divided("z"), "no condition 'z' but y"),
        (lambda: Examples(X, conditions={"y": Y.float()}).divided("y"), "not a class"),
        (lambda: [Examples(Restless()).batch([0, 0])], "changed between two readings"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
