"""The page of benchmarks/dalle2.py, from its JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


CASES = {"features": "The prior: class to 32 features of the shipped classifier", "digits": "Digits given their class"}
HEAD = """# DALL-E 2's way of sampling, in small
"""


def page(folder: Path) -> str:
    return HEAD + "\n\n".join(_sections(folder)) + "\n"


def _sections(folder: Path) -> Iterator[str]:
    for case, title in CASES.items():
        yield f"\n## {title}"
        for part, text in {"bits": _bits, "quality": _quality, "few": _few}.items():
            file = folder / f"dalle2_{case}_{part}.json"
            if file.exists():
                yield text(json.loads(file.read_text()))


def _shown(pair: list[float] | None, digits: int = 3) -> str:
    return "-" if pair is None else f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def _bits(found: dict[str, Any]) -> str:
    return json.dumps(found)


_quality = _few = _bits
