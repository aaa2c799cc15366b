"""What adapters have in common: they are short, import nothing of what they serve, and come when they are asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from score_sde_analytic import interop

FOLDER = Path(interop.__file__).parent
ADAPTERS = ("analytic_dpm", "azula", "edm", "guided_diffusion", "k_diffusion", "lucidrains", "score_sde")
#: Packages that this one is installed with.
OWN = {"score_sde_analytic", "torch", "numpy", "jaxtyping", "tqdm", *sys.stdlib_module_names}
LONGEST = 150


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        yield from (name.partition(".")[0] for name in names)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_short_and_import_nothing_else(name: str) -> None:
    path = FOLDER / f"{name}.py"
    assert len(path.read_text().splitlines()) < LONGEST
    assert set(imported(path)) <= OWN


@pytest.mark.parametrize("name", ADAPTERS)
def test_their_names_are_those_of_the_room(name: str) -> None:
    for public in interop.HOMES[name]:
        assert getattr(interop, public).__module__ == f"score_sde_analytic.interop.{name}"
        assert public in interop.__all__


def test_other_names_are_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'from_nothing'; it has"):
        interop.from_nothing  # noqa: B018


@pytest.mark.slow
def test_the_room_alone_loads_none_of_them() -> None:
    code = (
        "import sys, score_sde_analytic.interop; print([m for m in sys.modules if m.startswith('score_sde_analytic.interop.')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
