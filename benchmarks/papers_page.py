"""The page of `papers.py`, from its JSON files."""

from pathlib import Path

KIND = "figures of the papers' tables"


def page(folder: Path) -> str:
    return ""
