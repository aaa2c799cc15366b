"""A page per room of the package: under each file its mathematics, then the public names that it holds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.util.nodes import make_refnode

import score_sde_analytic
from score_sde_analytic import ROOMS

PACKAGE = score_sde_analytic.__name__
#: Generated pages, in docs/.
FOLDER = "reference"
#: Modules below the rooms whose names a reader meets.
GROUND = ("errors", "uncertainty")


def names_of(room: str) -> list[str]:
    """Public names of a room, or of a module of the ground."""
    module = import_module(f"{PACKAGE}.{room}")
    if room in GROUND:
        return [
            name
            for name, found in vars(module).items()
            if getattr(found, "__module__", "") == module.__name__ and name[0] != "_"
        ]
    return list(getattr(module, "__all__", ()))


def home(room: str, name: str) -> str:
    """The module that defines a name; its room's own where it does not say."""
    found = getattr(getattr(import_module(f"{PACKAGE}.{room}"), name), "__module__", "")
    return found if found.startswith(f"{PACKAGE}.{room}") else f"{PACKAGE}.{room}"


ROOMS_AND_GROUND = [*GROUND, *(room for room in ROOMS if names_of(room))]
#: Where a public name is documented: in the room that defines it, else in the first that has it.
PUBLIC: dict[str, str] = {}
#: Where what a module defines is documented.
DEFINED: dict[str, str] = {}
for _room in ROOMS_AND_GROUND:
    for _name in names_of(_room):
        _path = f"{PACKAGE}.{_room}.{_name}"
        PUBLIC.setdefault(_name, _path)
        DEFINED.setdefault(f"{home(_room, _name)}.{_name}", _path)


def kind(room: str, name: str) -> str:
    """Of autodoc's directives, the one for a name."""
    found = getattr(import_module(f"{PACKAGE}.{room}"), name)
    if inspect.isclass(found):
        return "autoexception" if issubclass(found, BaseException) else "autoclass"
    return "autofunction" if callable(found) else "autodata"


def by_module(room: str) -> dict[str, list[str]]:
    """Public names of a room under the modules that define them, in the order of its list."""
    modules: dict[str, list[str]] = {}
    for name in names_of(room):
        modules.setdefault(home(room, name), []).append(name)
    return dict(sorted(modules.items(), key=lambda item: item[0].rpartition(".")[2]))


def page(room: str) -> Iterator[str]:
    """reStructuredText of a room."""
    module = f"{PACKAGE}.{room}"
    yield from (room, "=" * len(room), "", f".. automodule:: {module}", "")
    for defining, names in by_module(room).items():
        if defining != module:
            title = defining.removeprefix(f"{module}.")
            yield from (title, "-" * len(title), "", f".. automodule:: {defining}", "   :no-index:", "")
        yield from (f".. currentmodule:: {module}", "")
        for name in names:
            if PUBLIC[name] != f"{module}.{name}":
                yield f":py:obj:`{name} <{PUBLIC[name]}>` is one of `models` that is also found here.\n"
                continue
            yield f".. {kind(room, name)}:: {name}"
            yield from ("   :members:",) * (kind(room, name) == "autoclass")
            yield ""


BESIDE = {
    name.lower(): f".. include:: ../../{name}.md\n   :parser: myst_parser.docutils_\n" for name in ("CONTRIBUTING", "CHANGELOG")
}


def linked(app: Any, name: str, source: list[str]) -> None:
    """Names of the page of names lead to what their docstrings say."""
    if name != "api":
        return
    lines = source[0].splitlines()
    for i, line in enumerate(lines):
        if line.startswith("| `"):
            cell, bar, rest = line[2:].partition(" |")
            lines[i] = "| " + re.sub(r"`(\w+)`", _link, cell) + bar + rest
    source[0] = "\n".join(lines)


def _link(match: re.Match[str]) -> str:
    target = PUBLIC.get(match[1], "")
    return f"{{py:obj}}`{match[1]} <{target}>`" if target else match[0]


def write(app: Any) -> None:
    """Pages of rooms, and those of files beside docs/, written where they differ from what is there."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    pages = {room: "\n".join(page(room)) for room in ROOMS_AND_GROUND} | BESIDE
    for name, made in pages.items():
        file = folder / f"{name}.rst"
        if not file.is_file() or file.read_text(encoding="utf-8") != made:
            file.write_text(made, encoding="utf-8")


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Annotations name the module that defines a class; its page names the room."""
    defined = node.get("reftarget", "")
    target = DEFINED.get(defined)
    known = env.domains["py"].objects.get(target)
    if known is None:  # a class that only annotations name
        return content if defined.startswith(f"{PACKAGE}.") and node.get("reftype") == "class" else None
    return make_refnode(app.builder, node["refdoc"], known.docname, known.node_id, content, target)


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", write)
    app.connect("source-read", linked)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
