"""Kills: every long mode ended at random moments by SIGKILL, SIGTERM and SIGINT, then continued by the same command.

What the finished run leaves must be what an uninterrupted one leaves: arrays and weights to the byte, reports but for the times
of clocks. Runs are forked from a process that has imported all of it.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks.faults.outcome import Outcome
from runners import main as application
from score_sde_analytic.files import read_json

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
#: Fields of a report that clocks decide; the seal of a file that holds one follows them.
CLOCKS = ("created", "seconds_per_sample", "ratio_to_bare", "checkpoint_seconds")
PATIENCE = 240.0

_PLANE = (
    "--config=mixture_2d",
    "--config.data.split=(1, 300, 200)",
    "--config.estimate.knots=12",
    "--config.estimate.most_knots=0",
    "--config.estimate.min_draws=200",
    "--config.estimate.max_draws=200",
    "--config.estimate.batch_size=20",
    "--config.grid.points=60",
    "--config.evaluate.batch_size=20",
    "--config.evaluate.steps=(3, 5)",
    "--config.evaluate.predicted_steps=(3, 5)",
    "--config.evaluate.flow.examples_per_block=40",
    "--config.evaluate.flow.rtol=1e-2",
    "--config.evaluate.flow.atol=1e-2",
    "--config.sample.steps=(5, 20)",
    "--config.sample.count=200",
    "--config.sample.batch_size=50",
)
_ADDED = ("--config.estimate.knots=5", "--config.estimate.most_knots=16")
_DIGITS = ("--config=digits_vp", "--config.data.split=(200, 100, 60)", "--config.estimate.most_knots=0")
_UNET = (
    "--config.train.unet.block_out_channels=(8, 8)",
    "--config.train.unet.norm_num_groups=4",
    "--config.train.unet.attention_head_dim=4",
)
#: Long modes with settings that take seconds; what follows a comma tells runs of one mode apart.
MODES: dict[str, tuple[str, ...]] = {
    "estimate": (*_PLANE, "--config.covariance.bases=('pca',)"),
    "estimate, knots added": (*_PLANE, *_ADDED, "--config.covariance.bases=('pca',)"),
    "evaluate": _PLANE,
    "sample": _PLANE,
    "compare": (
        *_PLANE,
        "--config.compare.solvers=('ddim', 'ancestral(residual)', 'dpmpp_2', 'ode_dopri5')",
        "--config.compare.calls=(3, 6)",
        "--config.compare.grids=('log_snr',)",
        "--config.compare.tolerances=(0.1,)",
        "--config.compare.count=60",
        "--config.compare.reference_examples=80",
        "--config.compare.groups=5",
        "--config.compare.bits=measured",
        "--config.compare.paths=6",
    ),
    "train": (
        *_DIGITS,
        *_UNET,
        "--config.train.steps=60",
        "--config.train.batch_size=8",
        "--config.train.unet.attention_head_dim=4",
    ),
    "train_head": (
        *_DIGITS,
        "--config.head.kinds=('npr', 'sn')",
        "--config.head.steps=25",
        "--config.head.batch_size=8",
        "--config.head.hidden=8",
        "--config.head.held_out_draws=1",
        "--config.estimate.batch_size=50",
    ),
    "train_classifier": (*_DIGITS, "--config.classifier.steps=120", "--config.classifier.batch_size=16"),
}


def outcomes(trials: int, seed: int) -> Iterator[Outcome]:
    """One outcome per kill; what it says is what the run came to that it was a part of."""
    dice = random.Random(seed)
    _import_all()
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[str, tuple[Path, float]] = {}
        done = 0
        while done < trials:
            mode = list(MODES)[done % len(MODES)] if done < len(MODES) else dice.choice(list(MODES))
            if mode not in whole:
                began = time.monotonic()
                _finish(mode, Path(folder, f"{mode}_whole"))
                whole[mode] = Path(folder, f"{mode}_whole"), time.monotonic() - began
            kills = min(dice.randint(2, 4), trials - done)
            yield from _killed(mode, Path(folder, f"{mode}_{done}"), *whole[mode], kills, dice)
            done += kills


def _import_all() -> None:
    """What a fork need not import again."""
    torch.set_num_threads(1)
    from runners import classifier, compare, evaluate, modes, sampling, settings, train, train_head

    assert all((classifier, compare, evaluate, modes, sampling, settings, train, train_head))


def _killed(mode: str, workdir: Path, whole: Path, seconds: float, kills: int, dice: random.Random) -> Iterator[Outcome]:
    """Kill a run so often, then let it finish and compare."""
    trials = []
    verdict, detail = "right", ""
    for _ in range(kills):
        number = dice.choice(SIGNALS)
        after = 0.05 + dice.uniform(0.0, 0.9) * seconds / math.sqrt(kills)
        process = _start(mode, workdir)
        code = _wait(process, after)
        twice = dice.random() < 0.3
        if code is None:
            os.kill(process, number)
            if twice:
                time.sleep(dice.uniform(0.0, 0.05))
                os.kill(process, dice.choice(SIGNALS[1:]))  # not reaped yet: its id is its own
            code = _wait(process, PATIENCE)
        trials.append(f"{signal.Signals(number).name}{' twice' if twice else ''} after {after:.2f} s")
        problem = _ending(code, number, workdir)
        verdict, detail = problem or (verdict, detail)
        if code is None:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    code = _finish(mode, workdir)
    if verdict == "right":
        verdict, detail = _comparison(code, whole, workdir)
    for trial in trials:
        yield Outcome(mode, f"{mode}: {trial} of {len(trials)}", verdict, detail)  # type: ignore[arg-type]


def _ending(code: int | None, number: int, workdir: Path) -> tuple[str, str] | None:
    """What is wrong with how a killed run ended, if anything; it may have finished before."""
    if code is None:
        return "hung", f"no end within {PATIENCE:.0f} s"
    said = (workdir.parent / f"{workdir.name}.log").read_text(errors="replace")
    if code == 0 or (code == -signal.SIGKILL == -number) or (code == -signal.SIGTERM and "Written:" in said):
        return None
    if code in (130, 143) and "the same command continues from here" in said and "Traceback" not in said:
        return None
    return "raw", f"exit {code}: {said[-300:]}"


def _start(mode: str, workdir: Path) -> int:
    """Fork a run; its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        log = os.open(workdir.parent / f"{workdir.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))  # not what a test captures
        application.cli([f"--mode={mode.partition(',')[0]}", f"--workdir={workdir}", *MODES[mode]])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _wait(process: int, seconds: float) -> int | None:
    """The exit code of a process, minus the signal that ended it; None where it goes on."""
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.005)


def _finish(mode: str, workdir: Path) -> int | None:
    process = _start(mode, workdir)
    code = _wait(process, PATIENCE)
    if code is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return code


def _comparison(code: int | None, whole: Path, workdir: Path) -> tuple[str, str]:
    """The verdict on a run that was continued to its end."""
    if code is None:
        return "hung", "the continued run did not end"
    if code:
        return "raw", f"exit {code}: {(workdir.parent / f'{workdir.name}.log').read_text(errors='replace')[-500:]}"
    found = {path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()}
    expected = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    if found != expected:
        return "silent", f"other files: {sorted(map(str, found ^ expected))[:5]}"
    differing = [f"{name}{_where(name, workdir, whole)}" for name in sorted(found) if not _equal(name, workdir, whole)]
    return ("silent", f"differ: {differing[:5]}") if differing else ("right", "")


def _equal(name: Path, workdir: Path, whole: Path) -> bool:
    a, b = workdir / name, whole / name
    if name.suffix == ".json":
        return _sayings(a, workdir) == _sayings(b, whole)
    return name.suffix in (".png", ".html", ".md") or a.read_bytes() == b.read_bytes()


def _where(name: Path, workdir: Path, whole: Path) -> str:
    """Which arrays of two files differ, and by how much."""
    if name.suffix != ".safetensors":
        return ""
    a, b = (load_file(folder / name) for folder in (workdir, whole))
    if set(a) != set(b) or any(a[key].shape != b[key].shape for key in a):
        return " (names or shapes)"
    largest = {key: float(np.abs(a[key].astype(float) - b[key].astype(float)).max()) for key in a if (a[key] != b[key]).any()}
    return f" ({largest or 'metadata'})"


def _sayings(path: Path, workdir: Path) -> Any:
    """What a file says, but for times of clocks and for where it lies."""
    text = path.read_text()
    if '"sha256"' in text:
        read_json(path, json.loads(text)["kind"])
    return _without_clocks(json.loads(text.replace(str(workdir), "")))


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        clocks = {"sha256", *CLOCKS} if set(CLOCKS) & set(value) else set()
        return {name: _without_clocks(item) for name, item in value.items() if name not in clocks}
    return [_without_clocks(item) for item in value] if isinstance(value, list) else value
