"""A page per room of the package: under each file its mathematics, then the public names that it holds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import partial
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
        own = (name for name, found in vars(module).items() if getattr(found, "__module__", "") == module.__name__)
        return [name for name in own if not name.startswith("_")]
    return list(getattr(module, "__all__", ()))


def object_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def home(room: str, name: str) -> str:
    """The module that defines a name; its room where it does not say."""
    return getattr(object_at(f"{PACKAGE}.{room}.{name}"), "__module__", f"{PACKAGE}.{room}")


ROOMS_AND_GROUND = [*GROUND, *(room for room in ROOMS if names_of(room))]
#: Where a public name is documented: in the first room that has it; two rooms may each have one of a name.
PUBLIC: dict[str, str] = {}
DOCUMENTED: set[str] = set()
#: Where what a module defines is documented.
DEFINED: dict[str, str] = {}
for _room in ROOMS_AND_GROUND:
    for _name in names_of(_room):
        _path = f"{PACKAGE}.{_room}.{_name}"
        _defined = f"{home(_room, _name)}.{_name}"
        if _defined not in DEFINED:
            PUBLIC.setdefault(_name, _path)
            DOCUMENTED.add(_path)
            DEFINED[_defined] = _path


def target(name: str, room: str = "") -> str:
    """The path under which a name is documented, as one of a room means it; empty where it is not public.

    >>> target("Classifier", "metrics"), target("Classifier", "guidance"), target("float")
    ('score_sde_analytic.metrics.Classifier', 'score_sde_analytic.guidance.Classifier', '')
    """
    own = f"{PACKAGE}.{room}.{name}"
    return own if own in DOCUMENTED else PUBLIC.get(name, "")


def kind(room: str, name: str) -> str:
    """Of autodoc's directives, the one for a name."""
    found = object_at(f"{PACKAGE}.{room}.{name}")
    if inspect.isclass(found):
        return "autoexception" if issubclass(found, BaseException) else "autoclass"
    return "autofunction" if callable(found) else "autodata"


def by_module(room: str) -> dict[str, list[str]]:
    """Public names of a room under the modules that define them, in the order of its list."""
    modules: dict[str, list[str]] = {}
    for name in names_of(room):
        defining, own = home(room, name), f"{PACKAGE}.{room}"
        modules.setdefault(defining if defining.startswith(own) else own, []).append(name)
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
            if f"{module}.{name}" not in DOCUMENTED:
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
    room, lines = "", source[0].splitlines()
    for i, line in enumerate(lines):
        if line.startswith("## "):
            room = line[3:]
        elif line.startswith("| `"):
            cell, bar, rest = line[2:].partition(" |")
            lines[i] = "| " + re.sub(r"`(\w+)`", partial(_link, room), cell) + bar + rest
    source[0] = "\n".join(lines)


def _link(room: str, match: re.Match[str]) -> str:
    path = target(match[1], room)
    return f"{{py:obj}}`{match[1]} <{path}>`" if path else match[0]


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
    path = DEFINED.get(defined)
    known = env.domains["py"].objects.get(path)
    if known is None:  # a class that only annotations name
        return content if defined.startswith(f"{PACKAGE}.") and node.get("reftype") == "class" else None
    return make_refnode(app.builder, node["refdoc"], known.docname, known.node_id, content, path)


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", write)
    app.connect("source-read", linked)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
