"""Every mode in several processes: the files of one, but for the times that a comparison records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launching import digests, files, launched

pytestmark = pytest.mark.slow

DIGITS = (
    "--config=digits_vp",
    "--config.data.split=(200,100,100)",
    "--config.estimate.knots=12",
    "--config.estimate.most_knots=0",
    "--config.estimate.min_draws=60",
    "--config.estimate.max_draws=60",
    "--config.estimate.batch_size=20",
    "--config.grid.points=80",
)
MIXTURE = (
    "--config=mixture_2d",
    "--config.data.split=(1,400,300)",
    "--config.estimate.knots=20",
    "--config.estimate.most_knots=0",
    "--config.estimate.min_draws=200",
    "--config.estimate.max_draws=200",
    "--config.estimate.batch_size=100",
    "--config.grid.points=80",
)
MODES = {
    "estimate": DIGITS,
    "sample": (
        *DIGITS,
        "--config.sample.count=10",
        "--config.sample.batch_size=4",
        "--config.sample.steps=(3,)",
        "--config.sample.grids=('dp',)",
        "--config.sample.fewest=(3,)",
    ),
    "evaluate": (
        *DIGITS,
        "--config.evaluate.examples=40",
        "--config.evaluate.batch_size=16",
        "--config.evaluate.steps=(5,)",
        "--config.evaluate.predicted_steps=(5,)",
        "--config.evaluate.variances=('beta','residual')",
        "--config.evaluate.methods=('predicted','bound')",
    ),
    "grid": (*DIGITS, "--config.grid.steps_table=(3,8)", "--config.grid.max_steps=12", "--config.grid.shown_steps=5"),
    "schedule": DIGITS,
    "translate": (
        *DIGITS,
        "--config.translate.steps=4",
        "--config.translate.count=12",
        "--config.translate.batch_size=4",
        "--config.translate.start=(0.5,)",
    ),
    "check": DIGITS,
    "inspect": DIGITS,
}
#: Of a comparison.
TIMES = {"seconds_per_sample", "ratio_to_bare", "created", "clock", "command", "sha256"}
COMPARED = (
    *MIXTURE,
    "--mode=compare",
    "--config.compare.count=60",
    "--config.compare.batch_size=16",
    "--config.compare.solvers=('ddpm_beta','ancestral(auto)','ddim','dpmpp_2','ode_dopri5')",
    "--config.compare.calls=(5,)",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process writes, by the words of its command."""
    known: dict[tuple[str, ...], Path] = {}

    def folder(*words: str) -> Path:
        if words not in known:
            known[words] = tmp_path_factory.mktemp("alone") / "results"
            launched(1, "runners.main", *words, f"--workdir={known[words]}")
        return known[words]

    return folder


@pytest.mark.parametrize("mode", MODES)
def test_files_are_those_of_one_process(mode, alone, tmp_path):
    words = (*MODES[mode], f"--mode={mode}")
    output = launched(2, "runners.main", *words, f"--workdir={tmp_path / 'results'}")
    assert output.count("Written:") <= 1
    assert digests(tmp_path / "results") == digests(alone(*words))


def untimed(value: Any) -> Any:
    """Plain data without what depends on the clock."""
    if isinstance(value, dict):
        return {name: untimed(item) for name, item in value.items() if name not in TIMES}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def require_same_comparison(found: Path, expected: Path) -> None:
    """All but times, in plain data; tables without their last two columns, pages that tell both are of one name."""
    one, other = files(found), files(expected)
    assert list(one) == list(other)
    for name in one:
        texts = [each[name].read_bytes() for each in (one, other)]
        if name.endswith(".json"):
            assert untimed(json.loads(texts[0])) == untimed(json.loads(texts[1])), name
        elif name.endswith(".md"):
            rows = [re.findall(r"^\|.*\|(?= [^|]* \| [^|]* \|$)", text.decode(), re.M) for text in texts]
            assert rows[0] == rows[1], name
        elif not name.endswith(".html"):
            assert texts[0] == texts[1], name


@pytest.mark.parametrize("processes", [2, 4])
def test_a_comparison_differs_in_times_alone(processes, alone, tmp_path):
    folder = tmp_path / "results"
    launched(processes, "runners.main", *COMPARED, f"--workdir={folder}")
    require_same_comparison(folder, alone(*COMPARED))
    content = json.loads((folder / "compare" / "compare.json").read_text())
    assert content["clock"].endswith(f"the sum of {processes} processes")
    assert all(cell["status"] == "ok" and cell["seconds_per_sample"] > 0.0 for cell in content["cells"])


def test_pictures_are_compressed_and_come_back(tmp_path):
    x = np.random.default_rng(0).integers(0, 17, (3, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    coded = []
    for processes in (1, 2):
        coded.append(tmp_path / f"{processes}.ssac")
        words = [
            *DIGITS,
            f"--config.code.input={tmp_path / 'x.npz'}",
            f"--config.code.output={coded[-1]}",
            "--config.code.steps=4",
            "--config.code.arithmetic=exact",
            "--config.code.embed=True",
        ]
        launched(processes, "runners.main", *words, "--mode=compress", f"--workdir={tmp_path / str(processes)}")
    assert coded[0].read_bytes() == coded[1].read_bytes()
    words = [*DIGITS, f"--config.code.input={coded[0]}", f"--config.code.output={tmp_path / 'y.npz'}"]
    launched(2, "runners.main", *words, "--mode=decompress", f"--workdir={tmp_path / 'other'}")
    assert np.array_equal(np.load(tmp_path / "y.npz")["x"], x)
