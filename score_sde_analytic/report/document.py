"""What the pages have in common: templates, pictures inside the page, provenance, a file that is whole or absent."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.image import imread, imsave

from score_sde_analytic.data.pictures import DAMAGED
from score_sde_analytic.files import atomic

#: Bytes of sample sheets, as base64, that a page may carry; the sheets of further budgets are only named.
MOST_SHEETS = 4_000_000
#: Pixels of a sheet for each of the page, at most: what fine screens show.
SHARP = 2
#: Width of a sheet on a page that has many, in CSS pixels.
SHEET_WIDTH = 192

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Sheet:
    """A picture as a data URI, with its size on the page."""

    uri: str
    width: int
    height: int
    enlarged: bool


@dataclass
class Album:
    """Reads sheets from a folder until the page would grow too large.

    Attributes:
        room: bytes of base64 that are left.
        width: of a sheet on the page, in CSS pixels: small sheets are enlarged by a whole number, large ones reduced.
        notes: what is wrong with the sheets that could not be had.
    """

    folder: Path
    room: int = MOST_SHEETS
    width: int = SHEET_WIDTH
    notes: list[str] = field(default_factory=list)

    def sheet(self, name: str) -> Sheet | None:
        """The sheet, or None with a note of what is wrong with it."""
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            return self._without(name, "lies outside the folder of the report")
        if not path.is_file():
            return self._without(name, "is missing")
        data = path.read_bytes()
        if not data.startswith(PNG) or len(data) < 24:
            return self._without(name, "is not a PNG file")
        try:
            data = _reduced(data, SHARP * self.width)
        except DAMAGED:
            return self._without(name, "is damaged")
        text = base64.b64encode(data).decode()
        if len(text) > self.room:
            return self._without(name, "would make the page too large")
        self.room -= len(text)
        width, height = struct.unpack(">II", data[16:24])
        scale = max(1, self.width // max(width, 1))
        uri = f"data:image/png;base64,{text}"
        if width > self.width:
            return Sheet(uri, self.width, max(1, round(self.width * height / width)), False)
        return Sheet(uri, scale * width, scale * height, True)

    def _without(self, name: str, why: str) -> Sheet | None:
        self.notes.append(f"{name} {why}")
        return None


def _reduced(data: bytes, most: int) -> bytes:
    """A PNG of at most so many pixels in width: means of squares of pixels, or of all rows where those are fewer.

    Raises:
        OSError, SyntaxError, ValueError: it is damaged; one that is small enough is read to see that.
    """
    pixels = imread(io.BytesIO(data))
    square = -(-pixels.shape[1] // most)
    if square < 2:
        return data
    rows = min(square, len(pixels))
    height, width = len(pixels) // rows, pixels.shape[1] // square
    blocks = pixels[: height * rows, : width * square].reshape(height, rows, width, square, -1)
    small = io.BytesIO()
    means = blocks.mean((1, 3), dtype=float)
    imsave(small, means[..., 0] if means.shape[-1] == 1 else means, cmap="gray", vmin=0.0, vmax=1.0, format="png")
    return small.getvalue()


@cache
def environment() -> Environment:
    """Of the templates, which escape whatever they are given."""
    loader = PackageLoader("score_sde_analytic.report", "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["finite"] = math.isfinite
    return made


def write_page(path: str | Path, text: str) -> Path:
    """Write a page; the file is whole or absent."""
    target = Path(path)
    with atomic(target) as temporary:
        temporary.write_bytes(text.encode())
    return target


def as_text(facts: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Facts as a page lists them; what is None is left out.

    >>> as_text([("seed", 0), ("device", "cpu"), ("date", None)])
    [('seed', '0'), ('device', 'cpu')]
    """
    known = [(name, value) for name, value in facts if value is not None]
    return [(name, value if isinstance(value, str) else json.dumps(value, default=str)) for name, value in known]


#: An absolute path of two names or more: where a machine keeps something.
PLACE = re.compile(r"(?<![\w.:/<~])/(?:[^\s'\":,;()\[\]{}<>/]+/)+(?=[^\s'\":,;()\[\]{}<>/])")


def portable(content: Any) -> Any:
    """Plain data without the folders of a machine: of absolute paths in strings, the last name is left.

    >>> portable({"command": "run --workdir=/home/me/results/digits --config=configs/digits.py"})
    {'command': 'run --workdir=…/digits --config=configs/digits.py'}
    """
    if isinstance(content, Mapping):
        return {key: portable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [portable(value) for value in content]
    return PLACE.sub("…/", content) if isinstance(content, str) else content
