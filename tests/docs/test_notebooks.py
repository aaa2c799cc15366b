"""The notebooks of the site run from top to bottom in the time they promise, and are kept with what they print and draw."""

import contextlib
import io
import json
import re
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
#: Seconds of one core; pictures.
PROMISED = {"notebook": (180.0, 5), "tutorial": (600.0, 3)}


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def printed(cell):
    return "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


def words(text):
    """What a cell prints, but for the numbers: their last digits are the machine's."""
    return re.sub(r"-?\d+(\.\d+)?", "#", text).split()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_with_outputs(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PROMISED[path.stem][1]
    assert path.stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of pictures that are not shown, and of the least noise of a table
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, monkeypatch):
    for extra in ("diffusers", "sklearn", "matplotlib"):
        pytest.importorskip(extra)
    monkeypatch.chdir(ROOT)
    names = {"__name__": path.stem}
    begun = time.process_time()
    for cell in code_cells(path):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("".join(cell["source"]), str(path), "exec", dont_inherit=True), names)
        assert words(said.getvalue()) == words(printed(cell)), "run `make notebooks`"
    assert time.process_time() - begun < PROMISED[path.stem][0]
