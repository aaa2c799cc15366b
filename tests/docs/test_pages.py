"""Pages of results are what their stored tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import pages
from score_sde_analytic.errors import InputError

TEXT = """
# One page

## A part

| K | bits | cost |
|---|---|---|
| 5 | **2.31** ± 0.02 | -1,000 |
| 10 | 2.1 | 3e-05 |

| a | b |
|---|---|
| same | 1 |
| same | 2 |
"""


@pytest.mark.parametrize("name", pages.names())
def test_a_page_is_what_its_tables_say(name: str):
    assert pages.target(name).read_text(encoding="utf-8") == pages.page(name)


def test_what_was_printed_is_taken_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    printed, words = tmp_path / "printed.md", tmp_path / "words"
    printed.write_text(TEXT, encoding="utf-8")
    words.mkdir()
    (words / "one.md").write_text('{{ table("a-part") }}\n\n{{ cell("a-part", "5", "bits") }}, {{ value("b", 1, 1) + 1 }}\n')
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "WORDS", words)
    pages.take("one", printed, ["a-part", "b"], "python -m it")
    drawn = pages.page("one")
    assert next(pages.tables(drawn))[1] == next(pages.tables(TEXT))[1]
    assert "\n2.31 ± 0.02, 3.0\n" in drawn
    with pytest.raises(InputError, match="no single row 'same'"):
        pages.Table(["a", "b"], [["same", "1"], ["same", "1"]]).cell("same", "b")


@pytest.mark.parametrize(
    ("text", "slugs", "message"),
    [
        ("no table", [], "has 0 tables"),
        (TEXT, ["one"], "has 2 tables, and 1 names were given"),
        (TEXT, ["one", "one"], "occur twice: one one"),
        (TEXT.replace("| 10 | 2.1 |", "| 10 |"), [], "rows of the table 'a-part' have other numbers of cells"),
    ],
)
def test_what_is_no_table_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, slugs: list[str], message: str
):
    printed = tmp_path / "printed.md"
    printed.write_text(text, encoding="utf-8")
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    with pytest.raises(InputError, match=message):
        pages.take("one", printed, slugs, "python -m it")
    assert not (tmp_path / "one.json").exists()


def test_numbers_of_cells():
    table = next(pages.tables(TEXT))[1]
    assert [pages.value(table.cell(row, "cost")) for row in ("5", "10")] == [-1000, 3e-05]
    assert table.cell("5, 2.31 ± 0.02", 0) == "5"


def test_the_readme_says_what_the_page_of_the_papers_says():
    """Of the columns that both have, every row."""
    ours = _first_of(Path("README.md"), "DDPM, 1000 steps")
    theirs = _first_of(pages.RESULTS / "papers.md", "DDPM, K = 1000")
    assert len(ours.rows) == len(theirs.rows) == 5
    for row, full in zip(ours.rows, theirs.rows, strict=True):
        said, known = dict(zip(ours.columns, row, strict=True)), dict(zip(theirs.columns, full, strict=True))
        assert known[""].startswith(said.pop(""))
        assert known["DDPM, K = 1000"].startswith(f"{said.pop('DDPM, 1000 steps')} (")
        assert said == {name: known[name] for name in said}


def _first_of(file: Path, column: str) -> pages.Table:
    return next(table for _, table in pages.tables(file.read_text(encoding="utf-8")) if column in table.columns)
