"""The wheel in a fresh environment outside the checkout: one new package, one command, configs by name.

The environment sees the packages of the running one behind its own, so that nothing is fetched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "score_sde_analytic", "runners", "configs"]
TINY = ["--config.estimate.knots=12", "--config.estimate.min_draws=40", "--config.estimate.max_draws=40"]


def succeed(*command, cwd):
    """The output of a command that must succeed, run in a folder where the checkout is out of sight."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "PYTEST"))}
    result = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves its folders beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    built = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", built]
    succeed(*pip, copy, cwd=built)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the environment's programs, its packages, and what the wheel added to them."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    packages = next(folder.glob("lib/python*/site-packages"))
    before = set(packages.iterdir())
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index"]
    succeed(*pip, wheel, cwd=folder)
    added = {path.name for path in set(packages.iterdir()) - before}
    borrowed = [path for path in sys.path if "site-packages" in path]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return programs, packages, added


def test_the_wheel_adds_one_package(installed):
    *_, added = installed
    assert {name for name in added if not name.endswith(".dist-info")} == {"score_sde_analytic"}
    assert len(added) == 2


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    for line in ["License-Expression: Apache-2.0", "Requires-Python: >=3.11", "Classifier: Typing :: Typed", "Keywords: "]:
        assert line in text
    assert "# score_sde_analytic" in text


def test_the_library_is_the_installed_one(installed, tmp_path):
    programs, packages, _ = installed
    script = "import score_sde_analytic.runners, score_sde_analytic.configs; print(score_sde_analytic.__file__)"
    where = succeed(programs / "python", "-c", script, cwd=tmp_path)
    assert Path(where.strip()).parent == packages / "score_sde_analytic"


def test_help_lists_the_configs(installed, tmp_path):
    programs, packages, _ = installed
    text = succeed(programs / "score-sde-analytic", "--help", cwd=tmp_path)
    assert "digits_cosine, digits_ve, digits_vp" in text
    assert str(packages / "score_sde_analytic" / "configs" / "default.py") in text


def test_the_command_runs_a_shipped_config_from_any_folder(installed, tmp_path):
    programs, *_ = installed
    output = succeed(programs / "score-sde-analytic", "--config=digits_vp", "--mode=estimate", *TINY, cwd=tmp_path)
    results = tmp_path / "results" / "digits_vp"
    written = [line.strip() for line in output.partition("Written:")[2].splitlines() if line.strip()]
    assert "results/digits_vp/report.json" in written
    assert all((tmp_path / path).exists() for path in written)
    assert len(json.loads((results / "report.json").read_text())["moments"]["knots"]["log_snr"]) == 12


def test_an_unknown_config_is_told_with_the_names(installed, tmp_path):
    programs, *_ = installed
    command = [programs / "score-sde-analytic", "--config=digits"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "digits_cosine, digits_ve, digits_vp" in result.stderr
