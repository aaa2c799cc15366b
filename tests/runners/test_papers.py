"""The papers' tables: rows of the published code, a page that follows from its figures, and the way to CIFAR-10."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import papers
from benchmarks.papers_page import KIND, Sheet, page, reached
from benchmarks.papers_rows import ANALYTIC, BETA, BETA_TILDE, STEPS, Rows, even
from score_sde_analytic.data import DataRange
from score_sde_analytic.files import read_json, write_json
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.models import ScoreModel
from score_sde_analytic.process.schedule import Tabulated
from score_sde_analytic.samplers import Ancestral

#: Numbers of the published code.
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "analytic_dpm_linear.json"
DATA = "twopoint_0.8_s0.1"


def test_even_trajectories_are_of_whole_indices() -> None:
    for steps in STEPS:
        index = np.array(even(steps).times) * 1000
        np.testing.assert_allclose(index, index.round(), rtol=0, atol=1e-9)
        assert (index[0], index[-2], index[-1]) == (1000, 1, 0)
        assert len(set(index.round())) == steps + 1
    assert even(1).times == (1.0, 0.0)


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    if not REFERENCE.is_file():
        pytest.skip("the numbers of their code are not beside the checkout")
    return json.loads(REFERENCE.read_text())


@pytest.fixture(scope="module")
def rows(theirs: dict[str, Any]) -> Rows:
    """Of their schedule and table of E||eps_hat||^2 / d, as it is."""
    schedule = Tabulated(theirs["inputs"]["linear"]["betas"][1:])
    power = np.array(theirs["inputs"]["linear"]["ms_eps"][DATA][1:])
    log_snr = schedule.log_snr(schedule.times)
    curve = NoiseCurve(log_snr[::-1].copy(), (log_snr + np.log(power) - np.log1p(-power))[::-1].copy(), "score")
    known = {"schedule": schedule, "curves": {"score": curve}, "curve": curve, "data_range": DataRange(levels=256)}
    return Rows(SimpleNamespace(**known), (), (), Path())  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [10, 50])
def test_even_rows_are_the_published_ones(steps: int, rows: Rows, theirs: dict[str, Any]) -> None:
    told = theirs["results"][f"linear|{DATA}"]["ddpm"][f"even_K{steps}_clip_sigma_idx1"]
    grid = even(steps)
    assert [round(1000 * t) for t in grid.times[:-1]] == told["r"]
    wired = ScoreModel(torch.zeros_like, rows.study.schedule)
    plan = Ancestral(wired, rows.published[ANALYTIC], clip=2 * rows.range.bin_width).plan(grid)
    found = [step.covariance.variance for step in plan[:-1]]  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, told["sigma2"][:-1], rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_optimal_rows_are_the_published_ones(rows: Rows, theirs: dict[str, Any]) -> None:
    for steps, told in theirs["results"][f"linear|{DATA}"]["dp_seg"].items():
        times = rows.chain_optimal(ANALYTIC, rows.published[ANALYTIC], int(steps)).grid.times
        assert [round(1000 * t) for t in times[-2::-1]] == told["steps"]


def cell(value: float, above: float, ours: float | None = None, interval: bool = False) -> dict[str, Any]:
    """With an error of 0.1 everywhere."""

    def told(number: float) -> list[float]:
        return [number, 0.1, *((number - 0.2, number + 0.2) if interval else ())]

    references = {f"even: {BETA_TILDE}": told(above), f"even: {BETA}": told(above - 1.0)}
    return {"value": told(value), "above": references, "paired": told(0.0), "ours": None if ours is None else told(ours)}


@pytest.fixture
def figures() -> dict[str, Any]:
    bits = {
        f"even: {BETA_TILDE}": {"10": cell(9.0, 6.0, 7.5), "1000": cell(3.0, 0.0)},
        f"even: {BETA}": {"10": cell(5.0, 2.0, 3.5), "1000": cell(4.0, 1.0)},
        f"even: {ANALYTIC}": {"10": cell(1.4, 0.1, -0.3), "50": cell(2.9, -0.1), "100": cell(2.5, -0.5)},
        "ours: one variance": {"5": cell(3.1, 0.1), "10": cell(1.5, -1.5, 0.0)},
    }
    samples = {
        key: {
            k: {"Frechet": cell(one["value"][0], one["above"][f"even: {BETA_TILDE}"][0], interval=True)}
            for k, one in row.items()
        }
        for key, row in bits.items()
    }
    return {
        "shape": [1, 2, 2],
        "examples": 3,
        "count": 4,
        "evaluations": 5000,
        "loud": -1.5,
        "bits": bits,
        "samples": samples,
    }


def test_what_follows_from_figures(figures: dict[str, Any]) -> None:
    sheet = Sheet.of(figures["bits"])
    assert sheet.reference == f"even: {BETA_TILDE}"
    assert [sheet.enough(f"even: {ANALYTIC}", told) for told in (False, True)] == [50, 10]
    assert [sheet.enough("ours: one variance", told) for told in (False, True)] == [10, 5]
    assert sheet.enough("ours: nothing") is None
    assert sheet.losses(STEPS) == {f"even: {ANALYTIC}": [10]}
    columns = {"one": [f"even: {ANALYTIC}"], "other": ["ours: nothing"]}
    sheets = {"a": sheet, "b": Sheet.of({key: row for key, row in figures["bits"].items() if "ours" not in key})}
    assert reached(sheets, columns, "one") == "in 50 steps (20 times fewer)"
    assert reached(sheets, columns, "other") == "in no number of steps that was measured"
    late = Sheet.of(figures["bits"] | {f"even: {ANALYTIC}": {"10": cell(9.0, 5.0)}})
    assert reached(sheets | {"c": late}, columns, "one") == "in 50 steps (20 times fewer, on 1 of 3 data sets never)"


def test_page_is_of_its_files_alone(figures: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "papers_mnist.json", KIND, figures)
    papers.main(["--page", "--output", str(tmp_path)])
    text = (tmp_path / "papers.md").read_text()
    assert text == page(tmp_path)
    text = " ".join(text.split())
    assert "by Analytic-DDPM in 50 steps (20 times fewer) of the even" in text
    assert "one variance in 10 steps (100 times fewer)" in text
    assert "MNIST, bits/dim: Analytic-DDPM (even) at K = 10" in text
    assert "above 1 up to log-SNR -1.5" in text
    assert "**1.40 ± 0.10**" in text  # the least of K = 10
    assert "**3.00 ± 0.10**" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of a network that knows nothing
def test_from_a_folder_of_diffusers_to_the_table_of_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command for google/ddpm-cifar10-32, on a stand-in of random weights and a batch as the data set has them."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 2}
    blocks |= {"add_attention": False}
    net = diffusers.UNet2DModel(32, 3, 3, block_out_channels=(4, 4), layers_per_block=1, **blocks)
    scheduler = diffusers.DDPMScheduler(20, beta_end=0.6)
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(tmp_path / "weights")
    rows = np.random.default_rng(0).integers(0, 256, (80, 3073)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    rows.tofile(tmp_path / "images" / "test_batch.bin")
    for module in ("papers", "papers_cases", "papers_rows", "papers_page"):
        monkeypatch.setattr(f"benchmarks.{module}.TABLE", 20)
    for name, steps in {"STEPS": (3, 5, 20), "BETWEEN": (), "CALLS": (2, 3, 20), "FEW": (1, 2)}.items():
        monkeypatch.setattr(f"benchmarks.papers_rows.{name}", steps)
    monkeypatch.setitem(papers.CASES, "cifar10", replace(papers.CASES["cifar10"], learning={"steps": 2, "batch_size": 2}))
    places = ["--weights", str(tmp_path / "weights"), "--images", str(tmp_path / "images")]
    sizes = ["--examples", "4", "--count", "24", "--most", "3"]
    kept = ["--workdir", str(tmp_path / "work"), "--output", str(tmp_path)]
    papers.main(["--data", "cifar10", "--page", *places, *sizes, *kept])
    content = read_json(tmp_path / "papers_cifar10.json", KIND)
    assert content["shape"] == [3, 32, 32]
    assert set(content["bits"][f"even: {ANALYTIC}"]) == {"3", "5", "20"}
    assert set(content["samples"][f"even: {ANALYTIC}"]) == {"2", "3"}
    assert set(content["samples"][f"even: {BETA}"]) == {"2", "3", "20"}
    assert set(content["samples"]["even: NPR-DDPM's head"]) == {"2", "3"}
    assert "## CIFAR-10, 32x32 in colour" in (tmp_path / "papers.md").read_text()
