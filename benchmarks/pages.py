"""Draw the pages of results, and those that quote them, from what was measured, and take what a command printed.

  python -m benchmarks.pages [NAME ..] [--check]
  python -m benchmarks.pages --take NAME FILE.md [--tables SLUG ..] --command "python -m benchmarks.NAME"

The first writes docs/results/NAME.md: its words are in benchmarks/words/NAME.md, its tables in docs/results/NAME.json. In the
words `{{ table("slug") }}` is a table, `{{ rows("slug") }}` its rows, `{{ cell("slug", row, column) }}` one of its cells, `{{
value(..) }}` the number at its beginning; a row is named by its first cell, or its first cells joined by ", ". Pages that quote
tables of others are in QUOTING. The second keeps the tables of a Markdown file, each under the slug of the heading before it,
or under the names given.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from score_sde_analytic.errors import InputError, UserError
from score_sde_analytic.files import read_json, write_json, write_text

RESULTS = Path("docs/results")
WORDS = Path("benchmarks/words")
#: Pages without tables of their own: where they are, and whose tables they quote.
QUOTING = {"few_calls_guide": (Path("docs/few_calls.md"), "few_calls")}
#: Of the files that keep tables.
KIND = "tables of results"
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Table:
    """Cells as they were printed."""

    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def cell(self, row: str | int, column: str | int) -> str:
        """One cell, without the marks of emphasis."""
        return plain(self._row(row)[self._number(column)])

    def _row(self, row: str | int) -> list[str]:
        if not isinstance(row, str):
            return self.rows[row]
        for parts in range(1, len(self.columns) + 1):
            found = [line for line in self.rows if plain(", ".join(line[:parts])) == row]
            if len(found) == 1:
                return found[0]
        names = "; ".join(plain(", ".join(line[:2])) for line in self.rows)
        raise InputError(f"no single row {row!r}; those are: {names}")

    def _number(self, column: str | int) -> int:
        if not isinstance(column, str):
            return column
        names = [plain(name) for name in self.columns]
        if names.count(column) != 1:
            raise InputError(f"no single column {column!r}; those are: {'; '.join(names)}")
        return names.index(column)


def plain(text: str) -> str:
    """Without bold, italics and code.

    >>> plain("**2.31** `a`")
    '2.31 a'
    """
    return re.sub(r"[*`]", "", text).strip()


def value(text: str) -> float:
    """The number that a cell begins with.

    >>> value("2,020.5 ± 0.1"), value("5.1%")
    (2020.5, 5.1)
    """
    found = NUMBER.search(text.replace("−", "-"))
    if found is None:
        raise InputError(f"no number in {text!r}")
    return float(found[0].replace(",", ""))


def tables(text: str) -> Iterator[tuple[str, Table]]:
    """Tables of a text in Markdown, each with the slug of the heading before it: the second of a heading is `slug-2`."""
    slug, seen = "table", dict[str, int]()
    block: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]])
            continue
        if len(block) > 1:
            seen[slug] = seen.get(slug, 0) + 1
            yield slug if seen[slug] == 1 else f"{slug}-{seen[slug]}", Table(block[0], block[2:])
        block = []
        if line.startswith("#"):
            slug = re.sub(r"[^a-z0-9_]+", "-", line.lower()).strip("-")


def take(name: str, file: Path, slugs: Sequence[str], command: str) -> None:
    """Keep the tables of a file, and the command that they are of."""
    try:
        found = list(tables(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no text that can be read: {error}") from error
    if not found or (slugs and len(slugs) != len(found)):
        raise InputError(f"{file} has {len(found)} tables, and {len(slugs)} names were given")
    if len(set(slugs)) < len(slugs):
        raise InputError(f"names of tables occur twice: {' '.join(slugs)}")
    for slug, table in found:
        if any(len(row) != len(table.columns) for row in table.rows):
            raise InputError(f"{file}: rows of the table {slug!r} have other numbers of cells than its head")
    kept = content(name) if path(name).exists() else {}
    for slug, (own, table) in zip(slugs or [own for own, _ in found], found, strict=True):
        kept[slug] = {"command": command, "version": version("score_sde_analytic"), "day": str(date.today())}
        kept[slug] |= {"columns": table.columns, "rows": table.rows}
        print(f"{path(name)}: {slug}, {len(table.rows)} rows" + (f" (of {own})" if own != slug else ""))
    write_json(path(name), KIND, {"tables": kept})


def content(name: str) -> dict[str, Any]:
    """Tables of a page, by slug."""
    return read_json(path(name), KIND, {"tables": dict})["tables"]


def path(name: str) -> Path:
    return RESULTS / f"{name}.json"


def page(name: str) -> str:
    """The text of a page."""
    if not (WORDS / f"{name}.md").exists():
        raise InputError(f"no page {name!r}: its words would be in {WORDS / f'{name}.md'}; those are {', '.join(names())}")
    kept = content(QUOTING[name][1] if name in QUOTING else name)
    found = {slug: Table(one["columns"], one["rows"]) for slug, one in kept.items()}

    def of(slug: str) -> Table:
        if slug not in found:
            raise InputError(f"no table {slug!r} in {path(name)}; those are {', '.join(found)}")
        return found[slug]

    texts = Environment(loader=FileSystemLoader(WORDS), undefined=StrictUndefined, keep_trailing_newline=True)
    texts.globals |= {
        "table": lambda slug: of(slug).markdown(),
        "rows": lambda slug: of(slug).rows,
        "cell": lambda slug, row, column: of(slug).cell(row, column),
        "value": lambda slug, row, column: value(of(slug).cell(row, column)),
    }
    text = texts.get_template(f"{name}.md").render()
    return text if name in QUOTING else f"{text}\n{measured(kept)}\n"


def target(name: str) -> Path:
    """The page itself."""
    return QUOTING[name][0] if name in QUOTING else RESULTS / f"{name}.md"


def measured(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """One line: when, and by which version, the tables of a page were measured."""
    origins: dict[str, list[str]] = {}
    for slug, one in kept.items():
        origins.setdefault(f"version {one['version']}" + (f" on {one['day']}" if "day" in one else ""), []).append(slug)
    if len(origins) == 1:
        return f"Measured by {next(iter(origins))}."
    return "Measured by " + "; ".join(f"{origin}: {', '.join(slugs)}" for origin, slugs in sorted(origins.items())) + "."


def names() -> list[str]:
    """Of the pages that this draws."""
    return sorted(file.stem for file in WORDS.glob("*.md"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="pages; all if none is given")
    parser.add_argument("--check", action="store_true", help="say which pages differ, and write none")
    parser.add_argument("--take", nargs=2, metavar=("NAME", "FILE"), help="keep the tables of a file for a page")
    parser.add_argument("--tables", nargs="+", default=[], help="their names, in order; of the headings if not given")
    parser.add_argument("--command", default="", help="that printed them")
    asked = parser.parse_args()
    if asked.take and (asked.names or asked.check or not asked.command):
        parser.error("--take needs --command, and neither pages nor --check")
    try:
        if asked.take:
            take(asked.take[0], Path(asked.take[1]), asked.tables, asked.command)
        else:
            draw(asked.names or names(), asked.check)
    except (UserError, TemplateError) as error:
        raise SystemExit(f"error: {error}") from error


def draw(wanted: Sequence[str], check: bool = False) -> None:
    """Write pages, or end at the first that is not what it would be."""
    for name in wanted:
        file, text = target(name), page(name)
        if check and (not file.exists() or file.read_text(encoding="utf-8") != text):
            raise SystemExit(f"{file} is not what was measured says; python -m benchmarks.pages {name} draws it")
        if not check:
            write_text(file, text)
            print(file)


if __name__ == "__main__":
    main()
