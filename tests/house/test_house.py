"""The house: rooms and what they may import, the size of files and functions, behaviour asked for instead of inspected."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "score_sde_analytic"
APPLICATION = ["runners", "configs"]
#: From the ground up: a room, or a module beside the rooms, imports only from those before it.
ORDER = [
    "errors",
    "checks",
    "interruption",
    "extras",
    "arrays",
    "processes",
    "shards",
    "uncertainty",
    "declared",
    "files",
    "data",
    "process",
    "models",
    "measure",
    "guidance",
    "covariance",
    "grids",
    "samplers",
    "likelihood",
    "coding",
    "metrics",
    "report",
    "study",
    "compare",
    "interop",
    "front",  # names of the package's top, imported on demand
]
#: Families whose members are asked for what they do: only their own module or room may look which one it holds.
FAMILIES = {"Covariance": "covariance", "StepCovariance": "covariance", "Decoder": "process.decoder", "Entry": "likelihood"}
LONGEST_FILE = 400
MOST_PARAMETERS = 12
MEDIAN_FUNCTION = 6


def modules() -> dict[str, Path]:
    """Modules of the package by dotted name below it, "" for its top."""
    folder = ROOT / PACKAGE
    names = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def sources() -> list[Path]:
    """All code that is installed."""
    return [*modules().values(), *(path for name in APPLICATION for path in sorted((ROOT / name).rglob("*.py")))]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def shown(path: Path, node: ast.AST | None = None) -> str:
    place = str(path.relative_to(ROOT))
    return place if node is None else f"{place}:{node.lineno}"


# --- who imports whom ----------------------------------------------------------------------------------------------------


def imports(name: str, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a module imports, at its top or inside a function; types included."""
    for node in ast.walk(tree(known[name])):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(known[name], node)}: imports inside the package are absolute"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            below = target.removeprefix(f"{PACKAGE}.")
            if below == target:
                continue
            while below not in known and below:
                below = below.rpartition(".")[0]
            if below:
                yield below


def room(name: str) -> str:
    return name.partition(".")[0]


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(name, known)) - {name} for name in known if name}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A way from a module back to itself, or nothing."""
    finished: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in finished:
            for target in sorted(arrows.get(name, ())):
                if loop := visit(target, [*way, name]):
                    return loop
            finished.add(name)
        return []

    return next((loop for name in arrows if (loop := visit(name, []))), [])


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other():
    assert " -> ".join(circle(graph())) == ""


def test_every_room_has_its_place():
    assert {room(name) for name in modules() if name} <= set(ORDER)


def test_rooms_import_only_from_those_below():
    rank = {name: i for i, name in enumerate(ORDER)}
    upward = [
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target in sorted(targets)
        if rank[room(target)] > rank[room(name)]
    ]
    assert upward == []


def test_the_package_does_not_know_its_application():
    for name in APPLICATION:
        assert [
            shown(path) for path in modules().values() if re.search(rf"^\s*(from|import) {name}\b", path.read_text(), re.M)
        ] == []
        assert not any(target.startswith(name) for targets in graph().values() for target in targets)


def test_the_map_of_the_readme_lists_the_rooms_in_this_order():
    """A line "  ROOM/   what is in it" for each in the fenced block after the mark, from the ground up or from the top down."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- map -->\s*```[^\n]*\n(.*?)```", text, re.S)
    assert block, "README.md has no fenced block after <!-- map -->"
    rooms = [name for name in ORDER if (ROOT / PACKAGE / name).is_dir()]
    listed = [name for name in re.findall(r"^ +(\w+)/", block[1], re.M) if name != "assets"]
    assert listed in (rooms, rooms[::-1])


# --- how large things are ------------------------------------------------------------------------------------------------


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function without its docstring, blank lines and comments."""
    numbers = set(range(function.lineno, function.end_lineno + 1))
    if ast.get_docstring(function, clean=False) is not None:
        numbers -= set(range(function.body[0].lineno, function.body[0].end_lineno + 1))
    texts = (lines[i - 1].strip() for i in numbers)
    return sum(1 for text in texts if text and not text.startswith("#"))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [parameter.arg for parameter in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_files_are_short():
    sizes = {shown(path): len(path.read_text().splitlines()) for path in sources()}
    assert {name: size for name, size in sizes.items() if size >= LONGEST_FILE} == {}


def test_functions_take_few_parameters():
    counts = {f"{shown(path, node)} {node.name}": parameters(node) for path in sources() for node in functions(path)}
    assert {name: count for name, count in counts.items() if count > MOST_PARAMETERS} == {}


@pytest.mark.parametrize("name", [PACKAGE, "runners"])
def test_functions_are_short(name):
    """In the median; a config is one long list of settings."""
    files = sorted((ROOT / name).rglob("*.py"))
    sizes = [length(node, path.read_text().split("\n")) for path in files for node in functions(path)]
    assert median(sizes) < MEDIAN_FUNCTION


# --- behaviour is asked for ----------------------------------------------------------------------------------------------


def bases() -> dict[str, set[str]]:
    """Names of classes -> names of their direct bases, over the whole package."""
    found: dict[str, set[str]] = {}
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                names = {getattr(base, "id", getattr(base, "attr", "")) for base in map(_plain, node.bases)}
                found.setdefault(node.name, set()).update(names)
    return found


def _plain(base: ast.expr) -> ast.expr:
    """A base class without its type arguments."""
    return base.value if isinstance(base, ast.Subscript) else base


def family(root: str) -> set[str]:
    """A class and everything that inherits from it."""
    known, members = bases(), {root}
    while more := {name for name, above in known.items() if above & members} - members:
        members |= more
    return members


def inspected(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Names of the classes that `isinstance`, `issubclass` and `match` tell apart."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            for part in ast.walk(node.args[1]):
                if isinstance(part, ast.Name | ast.Attribute):
                    yield node, getattr(part, "id", getattr(part, "attr", ""))
        elif isinstance(node, ast.MatchClass):
            yield node, getattr(node.cls, "id", getattr(node.cls, "attr", ""))


@pytest.mark.parametrize("root", FAMILIES)
def test_nobody_looks_which_one_it_holds(root):
    members, own = family(root), (ROOT / PACKAGE / FAMILIES[root].replace(".", "/"))
    assert len(members) > 1
    outside = [path for path in sources() if path != own.with_suffix(".py") and own not in path.parents]
    told = [f"{shown(path, node)} {name}" for path in outside for node, name in inspected(path) if name in members]
    assert told == []


def test_scipy_stats_is_not_imported():
    """It alone takes half a second; `scipy.special` has the quantiles."""
    importing = re.compile(r"^\s*(import scipy\.stats|from scipy\.stats\b|from scipy import [^\n]*\bstats\b)", re.M)
    assert [shown(path) for path in sources() if importing.search(path.read_text())] == []


def test_every_folder_of_the_package_is_a_room():
    """A folder that holds code has an `__init__`, so that it is installed."""
    folders = {path.parent for path in modules().values()}
    assert [shown(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_package_names_its_rooms_in_this_order():
    from score_sde_analytic import ROOMS

    assert list(ROOMS) == [name for name in ORDER if (ROOT / PACKAGE / name).is_dir()]
