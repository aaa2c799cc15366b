"""Docstrings as they are written here, plain text, to reStructuredText.

Indented lines are formulas and stay as they stand; `>>>` begins an example; `Args:`, `Attributes:`, `Raises:`, `Returns:` and
`Warns:` begin lists; all else is text, in which only `names` between backquotes mean something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rooms import PACKAGE, target

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Warns):$")
TITLES = {"Args": "Arguments"}
ITEM = re.compile(r"(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*): (.*)")
BULLET = re.compile(r"[-*] |\d+\. ")
SPECIAL = re.compile(r"([\\*|_<>])")


def text(line: str, room: str = "") -> str:
    """A line of prose of a room: names between backquotes as code, linked where they are public; nothing else is markup.

    >>> text("`karras` of x_t * |z|")
    ':py:obj:`karras <score_sde_analytic.grids.karras>` of x\\\\_t \\\\* \\\\|z\\\\|'
    """
    parts = re.split(r"(``[^`]+``|`[^`]+`)", line)
    written = [_code(part.strip("`"), room) if i % 2 else SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts)]
    # Markup ends where no letter follows: an escaped blank, which is not shown, stands before one.
    return re.sub(r"(?<=`)\0(?=\w)", r"\\ ", "\0".join(written)).replace("\0", "")


def _code(name: str, room: str) -> str:
    path = target(name, room)
    return f":py:obj:`{name} <{path}>`" if path else f"``{name}``"


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


class Lines:
    """Lines that are taken one by one, or while they belong together."""

    def __init__(self, lines: list[str]) -> None:
        self.lines, self.at = lines, 0

    def __bool__(self) -> bool:
        return self.at < len(self.lines)

    @property
    def next(self) -> str:
        return self.lines[self.at]

    def take(self) -> str:
        self.at += 1
        return self.lines[self.at - 1]

    def indented(self) -> list[str]:
        """The lines that stand further right, blank ones between them too."""
        start = self.at
        while self and (not self.next.strip() or self.next.startswith(" ")):
            self.at += 1
        taken = self.lines[start : self.at]
        while taken and not taken[-1].strip():
            taken.pop()
        return taken

    def filled(self) -> list[str]:
        """The lines up to the next blank one."""
        start = self.at
        while self and self.next.strip():
            self.at += 1
        return self.lines[start : self.at]


def section(title: str, body: list[str], room: str) -> Iterator[str]:
    """A list of names, or text, under a title."""
    yield from ("", f":{TITLES.get(title, title)}:")
    left = min((indent_of(line) for line in body if line.strip()), default=0)
    for line in body:
        item = ITEM.match(line[left:]) if indent_of(line) == left else None
        if item:
            yield from ("", f"    {_code(item[1], room)}", f"        {text(item[2], room)}")
        elif not line.strip():
            yield ""
        else:
            yield f"    {' ' * 4 * (indent_of(line) > left)}{text(line.strip(), room)}"
    yield ""


def converted(lines: list[str], room: str) -> Iterator[str]:
    """reStructuredText of a docstring of a room."""
    rest = Lines(lines)
    while rest:
        line = rest.next
        found = SECTION.match(line)
        if found:
            rest.take()
            yield from section(found[1], rest.indented(), room)
        elif line.startswith(">>>"):
            yield from ("", *rest.filled(), "")
        elif line.startswith(" "):
            yield from ("", ".. code-block:: text", "", *(f"    {each}" for each in rest.indented()), "")
        elif BULLET.match(line):
            head = BULLET.match(rest.take())[0]  # type: ignore[index]
            yield from ("", head + text(line[len(head) :], room))
            yield from (" " * len(head) + text(each.strip(), room) for each in rest.indented())
            yield from ("",) * (not rest or not BULLET.match(rest.next))
        else:
            yield text(rest.take(), room)


def joined(lines: list[str]) -> list[str]:
    """Names between backquotes stand in one line each.

    >>> joined(["see `a", "b` there"])
    ['see `a b`', 'there']
    """
    whole = re.sub(r"(?<!`)`([^`\n]+)\n *([^`\n]+)`(?!`) *", _closed, "\n".join(lines))
    return whole.split("\n")


def _closed(match: re.Match[str]) -> str:
    # What stands between two names that are closed is no name.
    before = match.string.rfind("\n", 0, match.start()) + 1
    opens = match.string.count("`", before, match.start()) % 2 == 0
    return f"`{match[1]} {match[2]}`\n" if opens else match[0]


def _process(app: Any, what: str, name: str, obj: Any, options: Mapping[str, Any], lines: list[str]) -> None:
    if any(line.startswith(".. ") for line in lines):  # inherited from another package
        lines.clear()
    room = name.removeprefix(f"{PACKAGE}.").partition(".")[0]
    lines[:] = list(converted(joined(lines), room))


def bare(signature: str) -> str:
    """Types without what checks them, aliases by their names.

    >>> bare("(eta: Annotated[float | None, Check(read=number(0, [1]))] = 1.0, data: TypeAliasForwardRef('Data'))")
    '(eta: float | None = 1.0, data: Data)'
    """
    signature = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature)
    while (start := signature.find("Annotated[")) >= 0:
        first = start + len("Annotated[")
        depth, comma, end = 0, 0, first
        while depth >= 0:
            depth += (signature[end] in "[(") - (signature[end] in "])")
            comma = comma or (end if signature[end] == "," and depth == 0 else 0)
            end += 1
        signature = signature[:start] + signature[first:comma] + signature[end:]
    return signature


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    return signature and bare(signature), returns and bare(returns)


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
