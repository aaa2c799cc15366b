"""WORKDIR/report.json: the numbers of all modes, put together from a file per section, WORKDIR/report/SECTION.json.

No two modes write the same section, so modes that run at once lose nothing; whoever puts the report together looks again
afterwards, and once more where another section came meanwhile. A damaged file is set aside, one of another programme refused.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from score_sde_analytic.errors import InputError
from score_sde_analytic.files import plain, write_text

REPORT = "report.json"
#: What a section says besides its content: modes may run with different settings.
ABOUT = {"config": "configs", "model": "models", "versions": "versions"}


def record(workdir: Path, section: str, content: Any, about: Mapping[str, Any]) -> Path:
    """Write a section, and the report with it; returns the report's path.

    Raises:
        InputError: the report is of another programme; the section is kept beside it.
    """
    folder = workdir / "report"
    path = workdir / REPORT
    _write(folder / f"{section}.json", {**about, "content": content})
    sections = None
    while sections != (sections := _sections(folder)):
        _set_foreign_aside(path, sections)
        _write(path, _report(sections))
    return path


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def _sections(folder: Path) -> dict[str, dict[str, Any]]:
    """All sections by name; files that are none are set aside."""
    whole = {}
    for path in sorted(folder.glob("[!.]*.json")):
        section = _read(path)
        if isinstance(section, dict) and set(section) == {*ABOUT, "content"}:
            whole[path.stem] = section
        else:
            _set_aside(path)
    return whole


def _report(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    about = {plural: {name: section[one] for name, section in sections.items()} for one, plural in ABOUT.items()}
    return about | {name: section["content"] for name, section in sections.items()}


def require_own(path: Path) -> None:
    """Find out before the work that a report cannot be written.

    Raises:
        InputError: the file at `path` is of another programme.
    """
    found = _read(path)
    if path.exists() and found is not None and not (isinstance(found, dict) and "configs" in found):
        raise InputError(f"{path} is not a report of this programme: move it away, or choose another --workdir")


def _set_foreign_aside(path: Path, sections: Mapping[str, Any]) -> None:
    """A damaged report is set aside, and one that holds anything but these sections, as one of an earlier version does."""
    require_own(path)
    found = _read(path)
    if path.exists() and (found is None or set(found) - {*ABOUT.values(), *sections}):
        _set_aside(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _set_aside(path: Path) -> None:
    kept = next(name for n in count(1) if not (name := path.with_name(f"{path.name}.{n}")).exists())
    try:
        os.rename(path, kept)
    except FileNotFoundError:  # another mode was first
        return
    warnings.warn(f"{path} is damaged or of another programme; it is kept as {kept}", stacklevel=2)
