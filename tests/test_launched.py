"""Real processes of a launcher: every file is that of one process, even where a process was killed on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    "--config=configs/digits_vp.py",
    "--config.estimate.min_draws=100",
    "--config.estimate.max_draws=100",
    "--config.estimate.train_knots=0",
    "--config.sample.count=12",
    "--config.sample.batch_size=4",
    "--config.sample.steps=(3,)",
    "--config.sample.variances=('residual',)",
    "--config.evaluate.methods=('predicted','bound','continuous')",
    "--config.evaluate.variances=('residual',)",
    "--config.evaluate.steps=(3,)",
    "--config.evaluate.examples=40",
    "--config.evaluate.batch_size=10",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--max-restarts=2", "--monitor-interval=0.1"]

pytestmark = pytest.mark.slow


def start(workdir: Path, processes: int, *words: str) -> subprocess.Popen[str]:
    launcher = [*TORCHRUN, f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "runners.main", *SMALL, f"--workdir={workdir}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(run: subprocess.Popen[str]) -> str:
    output, _ = run.communicate(timeout=900)
    assert run.returncode == 0, output[-3000:]
    return output


def digests(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def workers(launcher: int) -> list[int]:
    """The processes that a launcher started, by number."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return sorted(map(int, children.read_text().split()))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("alone") / "results"
    finished(start(folder, 1))
    return digests(folder)


@pytest.mark.parametrize("processes", [2, 4])
def test_files_are_those_of_one_process(tmp_path, alone, processes):
    output = finished(start(tmp_path / "results", processes))
    assert output.count("Written:") == 1
    assert digests(tmp_path / "results") == alone


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_started_again_to_the_identical_result(tmp_path, alone, victim):
    folder = tmp_path / "results"
    run = start(folder, 2)
    while not (folder / "curve_residual.safetensors").exists():  # the pass is done, samples are under way
        assert run.poll() is None, run.communicate()[0][-3000:]
        time.sleep(0.05)
    os.kill(workers(run.pid)[victim], signal.SIGKILL)
    finished(run)
    assert digests(folder) == alone


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_sigterm_keeps_the_work_and_the_same_command_goes_on(tmp_path, alone):
    folder = tmp_path / "results"
    run = start(folder, 2)
    while not workers(run.pid) or not folder.exists():
        time.sleep(0.05)
    time.sleep(8.0)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=120)
    finished(start(folder, 2))
    assert digests(folder) == alone


def test_shards_merge_to_the_samples_and_bits_of_one_job(tmp_path, alone):
    """Moments are the same to rounding, so only what needs none of them is the same to the bit."""
    folder = tmp_path / "results"
    beta = ["--config.sample.grids=('even',)", "--config.sample.variances=('beta',)", "--config.covariance.name=beta"]
    for mode in ("estimate", "sample", "evaluate"):
        for shard in ("1/2", "2/2"):
            finished(start(folder, 1, f"--mode={mode}", f"--shard={shard}", *beta))
        finished(start(folder, 1, "--mode=merge", *beta))
    finished(start(folder, 1, "--mode=sample", *beta))
    whole = tmp_path / "whole"
    finished(start(whole, 1, "--mode=sample", *beta))
    names = ["samples_even.safetensors", "samples_even.png"]
    found, expected = digests(folder), digests(whole)
    assert [found[name] for name in names] == [expected[name] for name in names]
    written = {file: file.stat().st_mtime_ns for file in (folder / "bounds").iterdir()}
    finished(start(folder, 1, "--mode=evaluate", *beta))
    assert {file: file.stat().st_mtime_ns for file in (folder / "bounds").iterdir()} == written  # nothing is measured again
