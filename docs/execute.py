"""Runs notebooks of this folder from top to bottom and keeps them with their outputs.

python docs/execute.py [docs/notebook.ipynb ..]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parent
#: What outputs say of the run, and not of what was computed.
PASSING = ("execution", "collapsed")


def execute(path: Path) -> None:
    """The notebook with fresh outputs, in place.

    Raises:
        CellExecutionError: a cell that does not run.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(DOCS.parent)}}).execute()
    for cell in notebook.cells:
        for name in PASSING:
            cell.metadata.pop(name, None)
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":  # warnings name a file, wherever it lies
                output.text = output.text.replace(f"{DOCS.parent}/", "")
    nbformat.write(notebook, path)
    print(f"Written: {path}, {path.stat().st_size // 1024} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", default=sorted(DOCS.glob("*.ipynb")))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:IProgress"}  # of widgets that no page needs
    for path in options.notebooks:
        execute(path)


if __name__ == "__main__":
    main()
