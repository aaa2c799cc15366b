"""What samples are compared in: the shipped classifiers, network files, and distances that grow with corruption."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import struct
import sys
import types

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_vp, patches
from score_sde_analytic.runners import classifier, datasets
from torch import nn

from score_sde_analytic.data import sources
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.transforms import DCT
from score_sde_analytic.metrics import (
    KID,
    Classifier,
    ClassifierFeatures,
    CleanFIDFeatures,
    Coefficients,
    EnergyDistance,
    Features,
    Frechet,
    ModuleFeatures,
    Pixels,
    Reference,
    SlicedWasserstein,
    TorchFidelityFeatures,
    classifier_training,
    evaluate,
    extract,
    load_classifier,
    save_classifier,
)
from score_sde_analytic.metrics.features import BytePixels


@pytest.fixture(scope="module")
def splits() -> datasets.Splits:
    return datasets.splits(digits_vp.get_config())


@pytest.fixture(scope="module")
def features() -> ClassifierFeatures:
    return ClassifierFeatures.load("digits_classifier")


# --- the shipped classifiers --------------------------------------------------------------------------------------------


def test_shipped_digits_classifier_is_as_accurate_as_it_says(splits: datasets.Splits):
    net, config = load_classifier("digits_classifier")
    default = digits_vp.get_config()
    truth = datasets.labels(default)
    assert len(splits.test) == len(truth[2]) == 297
    found = classifier_training.accuracy(net, splits.test, truth[2])
    assert found == pytest.approx(config["accuracy"]["test"], abs=1.5 / 297)  # one image on the border of two classes
    assert found > 0.97
    recipe = config["recipe"]
    assert recipe["classifier"] == json.loads(json.dumps(default.classifier.to_dict()))  # the default command makes it
    assert recipe["data"]["split_seed"] == default.data.split_seed
    assert recipe["seed"] == default.seed


def test_shipped_mnist_classifier_reads():
    net, config = load_classifier("mnist_classifier")
    assert config["accuracy"]["test"] > 0.98
    assert config["recipe"]["data"]["split"] == [8000, 1000, 1000]
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_classifier_features_do_not_depend_on_the_batch(features: ClassifierFeatures, splits: datasets.Splits):
    x = splits.train
    whole = extract(features, x)
    assert whole.dtype == torch.float64
    assert whole.shape == (1200, 32)
    np.testing.assert_allclose(extract(features, x, batch_size=7), whole, rtol=0, atol=1e-12)
    assert float(whole.square().mean()) == pytest.approx(1.0, rel=1e-4)  # the scale that KID's kernel expects
    assert torch.equal(extract(features, x[:50]), extract(features, x[:50]))
    with pytest.raises(ValueError, match=r"trained on images \(1, 8, 8\)"):
        features(torch.zeros(2, 3, 8, 8))


def test_classifier_files(tmp_path):
    net = Classifier(3, 9, 4, [5, 6], 7, dropout=0.5)
    x = torch.randn(11, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    net.eval().standardise(x)
    assert float(net.features(x).square().mean()) == pytest.approx(1.0, rel=1e-5)
    save_classifier(net, tmp_path / "net", {"note": 1})
    again, config = load_classifier(tmp_path / "net")
    assert torch.equal(again(x), net(x))
    assert config["note"] == 1
    assert ClassifierFeatures(again).config() == ClassifierFeatures(net.float()).config()
    shutil.copytree(tmp_path / "net", tmp_path / "mixed")
    save_classifier(Classifier(3, 9, 4, [5, 6], 7), tmp_path / "other", {})
    shutil.copy(tmp_path / "other" / "classifier.safetensors", tmp_path / "mixed")
    with pytest.raises(ValueError, match="different classifiers"):
        load_classifier(tmp_path / "mixed")
    (tmp_path / "mixed" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="train_classifier"):
        load_classifier(tmp_path / "mixed")
    with pytest.raises(FileNotFoundError, match="train_classifier"):
        load_classifier(tmp_path / "absent")
    with pytest.raises(ValueError, match="halve"):
        Classifier(1, 4, 2, [2, 2, 2], 3)


def test_training_a_classifier(tmp_path, capsys):
    config = digits_vp.get_config()
    config.classifier.steps = 60
    assert classifier.run(config, tmp_path) == [tmp_path / "classifier", tmp_path / "classifier_state.safetensors"]
    net, record = load_classifier(tmp_path / "classifier")
    assert record["accuracy"]["test"] > 0.5  # chance is 0.1
    assert f"test split: {record['accuracy']['test']:.4f}" in capsys.readouterr().out
    first = net(torch.zeros(1, 1, 8, 8))
    classifier.run(config, tmp_path)
    assert torch.equal(load_classifier(tmp_path / "classifier")[0](torch.zeros(1, 1, 8, 8)), first)
    with pytest.raises(ValueError, match="data set with labels"):
        datasets.labels(patches.get_config())


def test_moved_images_are_shifted_copies():
    x = torch.arange(2 * 3 * 5 * 5, dtype=torch.float64).reshape(2, 3, 5, 5)
    assert classifier_training.moved(x, 0) is x
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        for image, original in zip(classifier_training.moved(x, 1), x, strict=True):
            offset = float(image[0, 2, 2] - original[0, 2, 2])
            down, right = divmod(round(offset) + 1, 5) if offset + 1 >= 0 else (-1, round(offset) + 6)
            seen.add((down, right - 1))
            inner = original[:, 1 + down : 4 + down, right : 3 + right]
            assert torch.equal(image[:, 1:4, 1:4], inner)
    assert seen == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_label_files(tmp_path):
    content = struct.pack(">II", 0x801, 4) + bytes([3, 1, 4, 1])
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(content)
    (tmp_path / "b-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    for name in ("a-labels-idx1-ubyte", "b-labels-idx1-ubyte.gz"):
        assert sources.read_idx_labels(tmp_path / name).tolist() == [3, 1, 4, 1]
    for damage, message in ((content[:-1], "truncated"), (b"\0\0\x08\x03" + content[4:], "label file"), (b"x", "damaged")):
        (tmp_path / "bad").write_bytes(damage)
        with pytest.raises(ValueError, match=message):
            sources.read_idx_labels(tmp_path / "bad")
    with pytest.raises(FileNotFoundError, match=r"data\.directory"):
        sources.read_idx_labels(tmp_path / "absent")
    for name in ("a-images-idx3-ubyte", "b-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(struct.pack(">IIII", 0x803, 4, 1, 1) + bytes(4))
    config = digits_vp.get_config()
    config.data.name, config.data.directory, config.data.split = "mnist", str(tmp_path), (4, 2, 2)
    parts = torch.cat(datasets.labels(config))
    assert sorted(parts.tolist()) == [1, 1, 1, 1, 3, 3, 4, 4]
    (tmp_path / "b-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="b-labels-idx1-ubyte"):
        datasets.labels(config)
    config.data.directory = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"set data\.directory"):
        datasets.labels(config)


# --- network files ------------------------------------------------------------------------------------------------------


class Extractor(nn.Module):
    """Like torch-fidelity's: uint8 RGB in, a tuple of layers out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 5, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        if x.dtype != torch.uint8 or x.shape[1] != 3:
            raise RuntimeError("need uint8 RGB")
        return (self.net(x.to(self.net.weight.dtype)).mean((2, 3)),)


def test_features_of_a_torchscript_file(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())
    torch.jit.script(net).save(str(tmp_path / "mine.pt"))
    found = ModuleFeatures.load(tmp_path / "mine.pt", dtype=torch.float64)
    x = torch.randn(5, 1, 6, 6)
    np.testing.assert_allclose(found(x), net.double()(x.double()).detach().flatten(1), rtol=1e-12)
    assert found.name == "mine"
    assert found.config() == ModuleFeatures.load(tmp_path / "mine.pt", dtype=torch.float64).config()
    (tmp_path / "bad.pt").write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"torch\.jit\.save"):
        ModuleFeatures.load(tmp_path / "bad.pt")
    with pytest.raises(FileNotFoundError, match="no TorchScript"):
        ModuleFeatures.load(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="gave tuple for 5 examples"):
        ModuleFeatures(Extractor(), prepare=BytePixels(DataRange(-1, 1)))(x)
    with pytest.raises(ValueError, match="rows for 5 examples"):
        ModuleFeatures(nn.Flatten(0))(x)


def test_bytes_are_what_the_data_range_says():
    declared = DataRange(-1.0, 1.0, 256)
    levels = np.arange(256).reshape(1, 1, 16, 16)
    found = BytePixels(declared)(declared.encode(levels))
    assert found.dtype == torch.uint8
    assert found.shape == (1, 3, 16, 16)
    assert (found.numpy() == levels).all()
    assert BytePixels(declared)(torch.full((1, 3, 2, 2), 1.7)).unique().tolist() == [255]  # clipped, never wrapped
    with pytest.raises(ValueError, match="1 or 3"):
        BytePixels(declared)(torch.zeros(1, 2, 4, 4))


def test_torch_fidelity_is_called_as_it_defines(monkeypatch):
    calls = []

    def create_feature_extractor(name, list_features, cuda=True, **kwargs):
        calls.append((name, list_features, cuda, kwargs))
        if name != "inception-v3-compat":
            raise Exception(f'Feature extractor "{name}" not registered')
        torch.manual_seed(0)
        return Extractor().eval()

    package, utils = types.ModuleType("torch_fidelity"), types.ModuleType("torch_fidelity.utils")
    utils.create_feature_extractor = create_feature_extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.utils", utils)
    found = TorchFidelityFeatures(DataRange(-1, 1), weights="inception.pth")
    assert calls == [
        ("inception-v3-compat", ["2048"], False, {"verbose": False, "feature_extractor_weights_path": "inception.pth"})
    ]
    x = torch.rand(6, 1, 8, 8) * 2 - 1
    assert extract(found, x).shape == (6, 5)
    assert found.name == "inception-v3-compat 2048"
    with pytest.raises(ValueError, match="not registered"):
        TorchFidelityFeatures(DataRange(-1, 1), "nonsense")


def test_clean_fid_resizes_each_image(monkeypatch):
    package, features, resize = (types.ModuleType(name) for name in ("cleanfid", "cleanfid.features", "cleanfid.resize"))
    resize.build_resizer = lambda mode: lambda image: image.astype(np.float32).mean((0, 1), keepdims=True)
    features.build_feature_extractor = lambda mode, device, use_dataparallel: lambda x: x[:, :, 0, 0] / 255
    for module in (package, features, resize):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = CleanFIDFeatures(DataRange(0, 1))
    assert torch.equal(found(torch.ones(4, 3, 5, 5)), torch.ones(4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="modes"):
        CleanFIDFeatures(DataRange(0, 1), "dirty")


@pytest.mark.parametrize("make", [TorchFidelityFeatures, CleanFIDFeatures])
def test_absent_packages_are_named(monkeypatch, make):
    for name in ("torch_fidelity", "torch_fidelity.utils", "cleanfid", "cleanfid.features"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"score_sde_analytic\[fidelity\]"):
        make(DataRange(-1, 1))


# --- what distances see -------------------------------------------------------------------------------------------------


def test_rotations_of_the_data_leave_frechet_and_energy(splits: datasets.Splits):
    metrics = {"frechet": Frechet(groups=2), "energy": EnergyDistance()}
    x, y = splits.test[:100], splits.validation[:120]
    a, b = (evaluate(metrics, x, y, f) for f in (Pixels(), Coefficients(DCT())))
    for name in metrics:
        assert a[name].value == pytest.approx(b[name].value, rel=1e-6)


def noisy(x: torch.Tensor, level: float) -> torch.Tensor:
    return x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))


def blurred(x: torch.Tensor, level: float) -> torch.Tensor:
    frequency = torch.cos(math.pi * torch.arange(8) / 16) ** (8 * level)
    return DCT().inverse(DCT().forward(x) * frequency[:, None] * frequency)


@pytest.mark.parametrize("corrupt", [noisy, blurred])
@pytest.mark.parametrize("space", ["classifier", "pixels"])
def test_distances_grow_with_corruption(corrupt, space: str, features: ClassifierFeatures, splits: datasets.Splits):
    chosen: Features = features if space == "classifier" else Pixels()
    metrics = {
        "Frechet": Frechet(groups=5),
        "KID": KID(),
        "energy": EnergyDistance(),
        "sliced": SlicedWasserstein(groups=5, directions=16),
    }
    reference = Reference.of(splits.validation, chosen)
    levels = (0.0, 0.25, 0.5, 1.0)
    rows = [evaluate(metrics, corrupt(splits.test, level), reference) for level in levels]
    for name in metrics:
        values = [row[name].value for row in rows]
        assert values == sorted(values), name
        assert rows[3][name].low > rows[0][name].high, name  # the corruption is told from chance
        assert rows[0][name].value < 0.15 * values[3], name


def test_features_that_break_their_promise_are_refused():
    class Flat(Pixels):
        def __call__(self, x):
            return x.sum((1, 2, 3))

    class Wild(Pixels):
        def __call__(self, x):
            return (x / 0).flatten(1)

    x = torch.ones(4, 1, 2, 2)
    with pytest.raises(ValueError, match="need"):
        extract(Flat(), x)
    with pytest.raises(ValueError, match="'pixels' of the data"):
        extract(Wild(), x)
    with pytest.raises(ValueError, match="int64"):
        extract(Pixels(), x.long())
    with pytest.raises(ValueError, match="batch_size"):
        extract(Pixels(), x, batch_size=0)
    reference = Reference.of(x, Pixels())
    with pytest.raises(ValueError, match="'pixels', not"):
        evaluate({}, x, reference, Coefficients(DCT()))
    with pytest.raises(ValueError, match="does not know"):
        evaluate({}, x, Reference(x.double().flatten(1)))
