"""--mode=translate: pictures in the data's form, energies that move their own measure, all that it writes."""

from __future__ import annotations

import json

import matplotlib.image
import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_classes, digits_vp, mixture
from score_sde_analytic.runners import classifier, datasets, domains, translate
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.main import MODES

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.files import load_arrays


def small(config=None):
    config = config or digits_vp.get_config()
    config.estimate.knots, config.estimate.most_knots = 24, 0
    config.estimate.min_draws = config.estimate.max_draws = 64
    config.translate.start, config.translate.steps, config.translate.count = (-0.5, 1.0), 6, 24
    config.translate.strengths, config.translate.energies = (0.3, 1.0, 3.0), (("lowpass", 1.0),)
    return config


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Digits turned by a quarter, as pictures of 16 x 16 with labels."""
    x = domains._digits()
    path = tmp_path_factory.mktemp("others") / "turned.npz"
    turned = np.rot90(x["x"][:, 0], axes=(1, 2)).repeat(2, 1).repeat(2, 2)
    np.savez(path, x=turned, label=x["label"])
    return path


@pytest.fixture(scope="module")
def splits():
    return datasets.splits(digits_vp.get_config())


def test_pictures_come_in_the_form_of_the_data(splits, others):
    """8 bits at 16 x 16 become 17 levels at 8 x 8, here without a loss."""
    config = digits_vp.get_config()
    config.data.resample = "box"
    every = domains.domain(config, splits, "digits")
    turned = domains.domain(config, splits, str(others))
    assert torch.equal(turned.x, torch.rot90(every.x, dims=(2, 3)))
    assert torch.equal(turned.labels, every.labels)
    splits.data_range.check(turned.x)
    found = domains.domain(config, splits, "test")
    assert torch.equal(found.x, splits.test)
    rows = {tuple(x.flatten().tolist()): int(y) for x, y in zip(every.x, every.labels, strict=True)}
    assert [rows[tuple(x.flatten().tolist())] for x in found.x] == found.labels.tolist()
    fours = every.of_class(4).first(7)
    assert fours.labels.tolist() == [4] * 7


def test_continuous_data_keep_all_levels(splits):
    found = domains.images(np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    np.testing.assert_allclose(domains._in_units(found, DataRange(0.0, 1.0)).flatten(), np.arange(256) / 255, atol=1e-7)


def test_what_cannot_be_read_is_told(splits, tmp_path):
    config = digits_vp.get_config()
    with pytest.raises(MissingFileError, match="there is no"):
        domains.domain(config, splits, str(tmp_path / "none"))
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8, 8), np.uint8))
    plain = domains.domain(config, splits, str(tmp_path / "x.npz"))
    with pytest.raises(InputError, match=r"have no labels: leave translate\.source_label at -1"):
        plain.of_class(3)
    np.savez(tmp_path / "y.npz", x=np.zeros((3, 8, 8)))
    with pytest.raises(InputError, match="8 or 16 bits"):
        domains.domain(config, splits, str(tmp_path / "y.npz"))
    with pytest.raises(InputError, match="pictures are for data of pictures"):
        domains.domain(config, datasets.splits(mixture.get_config()), "digits")


@pytest.fixture(scope="module")
def written(tmp_path_factory, others):
    workdir = tmp_path_factory.mktemp("translate")
    config = small()
    config.translate.source = str(others)
    return config, workdir, MODES["translate"](config, workdir)


def test_all_that_was_written_is_there(written):
    _, workdir, files = written
    kinds = {f"translate{end}" for end in (".safetensors", ".png", ".npz", ".md", ".html", "_frontier.png")}
    assert {file.name for file in files} == {*kinds, "report.json"}
    for file in files:
        assert file.suffix != ".png" or matplotlib.image.imread(file).std() > 0.01
    arrays = np.load(workdir / "translate.npz")
    assert len(arrays.files) == 1 + 2 * 4
    assert all(arrays[name].shape == (24, 1, 8, 8) and arrays[name].max() <= 16 for name in arrays.files)
    rows = (workdir / "translate.md").read_text().splitlines()
    assert rows[2].startswith("| source")
    assert sum(row.startswith("| ") for row in rows) == 2 + 1 + 2 * 4
    page = (workdir / "translate.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert all(row.split("|")[1].strip() in page for row in rows[2:11])


def test_faithfulness_grows_with_its_weight(written):
    """At every start; SDEdit is the weight 0."""
    scores = json.loads((written[1] / "report.json").read_text())["translate"]["scores"]
    for start in ("-0.5", "1"):
        names = [f"SDEdit, from {start}", *(f"energies x {s}, from {start}" for s in ("0.3", "1", "3"))]
        values = [scores[name]["low_pass"]["value"] for name in names]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.9 * values[0]


def test_strength_nought_is_sdedit_and_what_is_finished_is_kept(written):
    config, workdir, _ = written
    experiment = Experiment(config, workdir)
    asked = translate.Translation(experiment)
    kept = load_arrays(workdir / "translate.safetensors", "samples")[0]
    plan = asked.plan(translate.Point(-0.5, 0.0))
    assert np.array_equal(plan(24, config.translate.seed, 64).numpy(), kept["sdedit_from_-0.5"])
    file = translate.Sheets.open(workdir / "translate.safetensors", config.translate.seed)
    assert {file.kept[point.array].identity for point in asked.points} == {
        asked.identity(asked.plan(point)) for point in asked.points
    }
    assert len({sheet.identity for sheet in file.kept.values()}) == 8


def test_what_is_missing_is_told(others, tmp_path):
    config = small()
    config.translate.energies = (("cosine", 1.0),)
    with pytest.raises(InputError, match=r"classifier of domains, which --mode=train_classifier"):
        _ = translate.Translation(Experiment(config, tmp_path)).energies
    config.translate.classifier = "digits_classifier"
    with pytest.raises(InputError, match="knows images without noise only"):
        _ = translate.Translation(Experiment(config, tmp_path)).energies
    config.translate.label = 3
    with pytest.raises(InputError, match=r"set network\.condition, or leave it at -1"):
        _ = translate.Translation(Experiment(config, tmp_path)).conditions
    config.translate.energies = (("cosines", 1.0),)
    with pytest.raises(InputError, match=r"translate\.energies"):
        MODES["check"](config, tmp_path)


@pytest.mark.slow
def test_realism_grows_with_its_weight(others, tmp_path):
    config = small()
    config.classifier.against, config.classifier.log_snr, config.classifier.steps = str(others), (-6.0, 8.0), 300
    classifier.run(config, tmp_path)
    config.translate.source, config.translate.classifier = str(others), str(tmp_path / "classifier")
    config.translate.energies, config.translate.count = (("cosine", 10.0),), 60
    MODES["translate"](config, tmp_path)
    scores = json.loads((tmp_path / "report.json").read_text())["translate"]["scores"]
    for start in ("-0.5", "1"):
        names = [f"SDEdit, from {start}", *(f"energies x {s}, from {start}" for s in ("0.3", "1", "3"))]
        values = [scores[name]["cosine"]["value"] for name in names]
        assert values == sorted(values, reverse=True)
        assert scores[names[-1]]["domain"]["value"] > scores["source"]["domain"]["value"]


@pytest.mark.slow
def test_a_class_is_led_to_another(tmp_path):
    """Much noise and a conditional network: most results are of the class that was asked for."""
    config = small(digits_classes.get_config())
    config.translate.source_label, config.translate.label, config.translate.start = 3, 8, (-2.5,)
    config.translate.strengths = (0.3,)
    MODES["translate"](config, tmp_path)
    scores = json.loads((tmp_path / "report.json").read_text())["translate"]["scores"]
    assert scores["source"]["reached"]["value"] < 0.1
    assert scores["SDEdit, from -2.5"]["reached"]["value"] > 0.8
