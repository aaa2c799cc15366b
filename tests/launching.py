"""Starts programmes of several processes, and tells what they wrote."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")


def launched(processes: int, module: str, *words: object, launcher: tuple[str, ...] = TORCHRUN) -> str:
    """What a module says, run to its end; `launcher` starts several processes of it."""
    started = [*launcher, f"--nproc-per-node={processes}"] if processes > 1 else []
    return ended([sys.executable, *started, "-m", module, *map(str, words)])


def ended(command: list[str]) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800
    )
    assert run.returncode == 0, run.stdout[-3000:]
    return run.stdout


def files(folder: Path) -> dict[str, Path]:
    """All files below a folder, by their names in it."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files(folder).items()}
