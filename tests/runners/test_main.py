"""The command line: configs by name and file, help, and which errors are told in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from score_sde_analytic.runners import main as application
from score_sde_analytic.runners import modes

from score_sde_analytic.errors import InputError

ROOT = Path(__file__).parents[2]


def failure(capsys, *arguments):
    """The exit code and the lines on stderr of a command that fails."""
    with pytest.raises(SystemExit) as ended:
        application.cli(arguments)
    return ended.value.code, capsys.readouterr().err.splitlines()


def chosen(*arguments):
    """The config that a command line selects."""
    return application.parse(["score-sde-analytic", *arguments]).config


@pytest.fixture
def mine(tmp_path):
    """A config of one's own whose get_config takes an argument."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from score_sde_analytic.configs.mixture import get_config as mixture\n\n\n"
        "def get_config(dim='16'):\n    config = mixture()\n    config.mixture.dim = int(dim)\n    return config\n"
    )
    return file


@pytest.mark.parametrize("name", application.shipped())
def test_a_shipped_config_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert chosen(f"--config={name}") == chosen(f"--config={ROOT}/configs/{name}.py")


def test_a_config_of_ones_own_is_a_file(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    assert chosen("--config=mine.py").mixture.dim == 16
    assert chosen("--config=mine.py:3").mixture.dim == 3
    assert chosen("--config", f"{mine}:4", "--config.grid.points=7").to_dict()["grid"]["points"] == 7


def test_without_a_config_it_is_the_digits():
    assert chosen() == chosen("--config=digits_vp")
    assert chosen("--config.grid.points=7").grid.points == 7


@pytest.mark.parametrize("given", ["mixture", "configs/mixture.py"])
def test_the_workdir_is_named_by_the_config(given, tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modes, "estimate", lambda experiment: [experiment.workdir / "moments"])
    application.cli([f"--config={given}", "--mode=estimate"])
    assert (tmp_path / "results" / "mixture").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.estimate.nots=3"], "nots"),
        (["--config=configs/nothing.py"], "configs/nothing.py"),
        (["--config=nothing"], "digits_flow, digits_ve, digits_vp"),
        (["--config=mnist_small", "--mode=estimate"], "data.directory is not set"),
        (["--config=digits_vp", "--config.network.source=nowhere", "--mode=estimate"], "run --mode=train"),
        (["--mode=nothing"], "demo|estimate"),
        (["--config.grid.points=many"], "many"),
        (["--nothing=3"], "nothing"),
        (["digits_vp"], "unexpected argument 'digits_vp'"),
        (["--workdir=/dev/null/results"], "choose another --workdir"),
    ],
)
def test_what_a_user_can_put_right_is_told_in_one_line(arguments, message, tmp_path, capsys):
    code, lines = failure(capsys, f"--workdir={tmp_path}", *arguments)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_mistake_found_by_the_library_is_one_line(tmp_path, monkeypatch, capsys):
    def mode(experiment):
        raise InputError("the levels do not fit;\n  give others")

    monkeypatch.setattr(modes, "estimate", mode)
    assert failure(capsys, "--mode=estimate", f"--workdir={tmp_path}") == (
        2,
        ["error: the levels do not fit; give others"],
    )


def test_a_defect_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(modes, "estimate", lambda experiment: np.zeros(3) + np.zeros(2))
    with pytest.raises(ValueError, match="broadcast"):
        application.cli(["--mode=estimate", f"--workdir={tmp_path}"])


def test_a_defect_ends_the_process_with_1_and_its_traceback(tmp_path):
    script = (
        "import numpy as np\n"
        "from score_sde_analytic.runners import main, modes\n"
        "modes.estimate = lambda experiment: np.zeros(3) + np.zeros(2)\n"
        f"main.cli(['--mode=estimate', '--workdir={tmp_path}'])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_what_killed_runs_were_writing_is_swept(tmp_path):
    left = [tmp_path / ".moments.safetensors.abcdefgh.partial", tmp_path / "compare" / "cells" / ".a.json.12345678.partial"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    application.cli(["--config=mixture_2d", "--mode=check", f"--workdir={tmp_path}"])
    assert not any(path.exists() for path in left)


def test_an_error_in_a_config_of_ones_own_keeps_its_place(mine, tmp_path):
    with pytest.raises(Exception, match=r"mine\.py.*line 6"):
        application.cli([f"--config={mine}:many", f"--workdir={tmp_path}"])


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def mode(experiment):
        raise KeyboardInterrupt

    monkeypatch.setattr(modes, "estimate", mode)
    code, lines = failure(capsys, "--mode=estimate", f"--workdir={tmp_path}")
    assert code == 130
    assert "continues from here" in lines[-1]


def test_help_teaches_every_mode_and_config(capsys):
    application.cli(["--help"])
    text = capsys.readouterr().out
    for word in [*application.MODES, *application.shipped(), "score-sde-analytic", "python -m runners.main", "default.py"]:
        assert word in text
    assert max(map(len, text.splitlines())) <= 128


def test_help_is_fast():
    """Neither torch nor the package's rooms are imported to explain the flags."""
    script = "import sys; from score_sde_analytic.runners import main; main.cli(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, check=True)


@pytest.mark.parametrize("mode", application.MODES.values(), ids=application.MODES)
def test_every_mode_of_the_table_exists(mode):
    assert callable(mode.run)
