"""Training in several processes: the curve of one at the same batch, by torchrun and by accelerate, resumed by any number."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launching import digests, ended, files, launched

pytestmark = pytest.mark.slow

LEARNER = "tests.learner"
#: Sums over a batch are taken in another order; a step multiplies what that changes.
ROUNDING = {"single": 1e-5, "double": 1e-10}
ROWS = ("loss", "train_bits", "train_stderr", "validation_bits", "validation_stderr")
ACCELERATE = [
    str(Path(sys.executable).with_name("accelerate")),
    *("launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    @cache
    def learn(processes: int, *words: str) -> Path:
        folder = tmp_path_factory.mktemp("learned")
        launched(processes, LEARNER, folder, *words)
        return folder

    return learn


def curve(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "curve.json").read_text())


def require_close(found: Path, expected: Path, tolerance: float) -> None:
    """Rows of the log, or losses of every head, and weights."""
    one, other = curve(found), curve(expected)
    for name in ROWS:
        values = [[row[name] for row in each["rows"] if row.get(name) is not None] for each in (one, other)]
        np.testing.assert_allclose(*values, rtol=tolerance, err_msg=name)
    for name in other["losses"][0]:
        np.testing.assert_allclose(
            *([losses[name] for losses in each["losses"]] for each in (one, other)), rtol=tolerance, err_msg=name
        )
    np.testing.assert_allclose(one["weights"], other["weights"], atol=30 * tolerance)
    assert one["cost"] == other["cost"]


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("what", ["network", "heads"])
def test_the_curve_is_that_of_one_process(learned, what, processes, precision):
    """With dropout, classes, mirrored images and levels that are drawn by a network of their own; 10 rows in 4 parts."""
    words = ["--heads"] * (what == "heads") + ["--double"] * (precision == "double")
    found = learned(processes, *words)
    assert curve(found)["processes"] == processes
    require_close(found, learned(1, *words), ROUNDING[precision])


@pytest.mark.parametrize("words", [(), ("--precision=bfloat16",)])
def test_two_processes_are_the_two_halves_of_a_batch_to_the_bit(learned, words):
    found, expected = learned(2, *words), learned(1, "--slices=2", *words)
    assert curve(found)["digest"] == curve(expected)["digest"]
    assert (found / "training.jsonl").read_text() == (expected / "training.jsonl").read_text()
    assert (found / "state.safetensors").read_bytes() == (expected / "state.safetensors").read_bytes()


def test_mixed_precision_is_another_curve_nearby(learned):
    single, mixed = (curve(learned(1, *words)) for words in ((), ("--precision=bfloat16",)))
    first = [each["losses"][0]["loss"] for each in (single, mixed)]
    assert 0.0 < abs(first[0] - first[1]) < 0.02 * first[0]


def test_an_interrupted_run_goes_on_to_the_identical_result(learned, tmp_path):
    launched(2, LEARNER, tmp_path, "--until=11")
    assert not (tmp_path / "curve.json").exists()
    launched(2, LEARNER, tmp_path)
    names = ("state.safetensors", "training.jsonl")
    assert [digests(tmp_path)[name] for name in names] == [digests(learned(2))[name] for name in names]


def test_another_number_of_processes_goes_on(learned, tmp_path):
    launched(4, LEARNER, tmp_path, "--until=11")
    launched(1, LEARNER, tmp_path)
    rows, expected = (curve(folder)["rows"] for folder in (tmp_path, learned(1)))
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    np.testing.assert_allclose([r["loss"] for r in rows], [r["loss"] for r in expected], rtol=ROUNDING["single"])


def test_accelerate_launches_the_same(learned, tmp_path):
    ended([*ACCELERATE, "--main_process_port=0", "-m", LEARNER, str(tmp_path)])
    assert curve(tmp_path)["processes"] == 2
    assert curve(tmp_path)["digest"] == curve(learned(2))["digest"]


def test_a_precision_of_the_launcher_is_refused(tmp_path):
    told = [word.replace("precision=no", "precision=bf16") for word in ACCELERATE]
    with pytest.raises(AssertionError, match=r"set train\.precision='bfloat16'"):
        ended([*told, "--main_process_port=0", "-m", LEARNER, str(tmp_path)])


@pytest.mark.parametrize("mode", ["train", "train_head", "train_classifier"])
def test_modes_write_what_one_process_writes(mode, tmp_path):
    """A classifier, whose batches are normalised as a whole, is the same to the bit."""
    words = [
        "--config=digits_vp",
        f"--mode={mode}",
        "--config.data.split=(200,100,100)",
        "--config.train.steps=12",
        "--config.train.log_every=1",
        "--config.train.unet.block_out_channels=(8,8)",
        "--config.train.unet.norm_num_groups=4",
        "--config.head.steps=12",
        "--config.head.batch_size=16",
        "--config.head.held_out_draws=1",
        "--config.classifier.steps=20",
    ]
    folders = tmp_path / "one", tmp_path / "two"
    for processes, folder in enumerate(folders, 1):
        output = launched(processes, "runners.main", *words, f"--workdir={folder}")
        assert output.count("Written:") == 1
    assert list(files(folders[0])) == list(files(folders[1]))
    if mode == "train_classifier":
        assert digests(folders[0]) == digests(folders[1])
    if mode == "train":
        losses = [[json.loads(row)["loss"] for row in (f / "training.jsonl").read_text().splitlines()] for f in folders]
        np.testing.assert_allclose(*losses, rtol=ROUNDING["single"])
    if mode == "train_head":
        one, two = (json.loads((folder / "report.json").read_text())["heads"] for folder in folders)
        assert one["cost"] == two["cost"]
        for kind, bits in one["held_out_transition_bits"]["uncalibrated"].items():
            assert two["held_out_transition_bits"]["uncalibrated"][kind] == pytest.approx(bits, rel=1e-4)
