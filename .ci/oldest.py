"""Runs the tests with the oldest versions that setup.py allows: every `>=` becomes `==`, in a fresh environment.

  python3.11 .ci/oldest.py [PYTEST ARGUMENT ...]        or: make test-oldest

TORCH, a version, replaces torch's lower bound where only that version can be had; any other project's bound is replaced by
OLDEST_PINS, as in OLDEST_PINS="numpy==1.26.4 mypy==1.13".
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRA = "test"
TESTS = ["-m", "not slow"]
#: Tools of the developers: what they find does not depend on the versions of the package's dependencies.
TOOLS = ("ruff", "mypy")


def requirements(python: Path) -> list[str]:
    """What the package and its tests require, as the build states it."""
    script = (
        "import pathlib, sys, tempfile\n"
        "from email.parser import Parser\n"
        "from setuptools import build_meta\n"
        "folder = tempfile.mkdtemp()\n"
        "name = build_meta.prepare_metadata_for_build_wheel(folder)\n"
        "text = pathlib.Path(folder, name, 'METADATA').read_text()\n"
        "print('\\n'.join(['REQUIRES', *Parser().parsestr(text).get_all('Requires-Dist')]))\n"
    )
    output = subprocess.run([python, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return output.partition("REQUIRES\n")[2].splitlines()


def oldest(lines: list[str]) -> dict[str, str]:
    """name -> "name==lowest" of what is always required and of the extra `test`."""
    pins = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        if marker and f'extra == "{EXTRA}"' not in marker:
            continue
        name, lowest = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement.strip()).groups()
        if name not in TOOLS:
            pins[name] = f"{name}=={lowest}"
    return pins


def replaced(pins: dict[str, str]) -> dict[str, str]:
    """The pins, with those that the environment variables give instead."""
    given = os.environ.get("OLDEST_PINS", "").split()
    if "TORCH" in os.environ:
        given.append(f"torch=={os.environ['TORCH']}")
    for pin in given:
        name = pin.partition("==")[0]
        print(f"not the oldest: {pin} instead of {pins[name]}")
        pins[name] = pin
    return pins


def main(arguments: list[str]) -> int:
    if sys.version_info[:2] != (3, 11):
        print(f"this is Python {sys.version.split()[0]}; the oldest is 3.11", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="oldest-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "setuptools>=77.0.3"], check=True)
        pins = replaced(oldest(requirements(python)))
        print("\n".join(["installing", *(f"  {pin}" for pin in sorted(pins.values()))]), flush=True)
        subprocess.run([*pip, *pins.values()], check=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT], check=True)
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", *(arguments or TESTS)]
        return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
