"""Parts of work for jobs that never talk to each other: each has a part and a file, and a merge puts them together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from score_sde_analytic.checks import whole
from score_sde_analytic.errors import InputError, MissingFileError

_OF = re.compile(r"-(\d+)of(\d+)$")


@dataclass(frozen=True)
class Shard:
    """The part `number`, 0 .. of - 1, of work in `of` parts; on the command line and in the names of files they count from 1.

    >>> Shard.parse("2/4")
    Shard(number=1, of=4)
    >>> Shard(1, 4).file("results/moments.safetensors")
    PosixPath('results/moments-2of4.safetensors')
    >>> Shard(1, 4).part(total=10, unit=2)
    range(2, 4)

    Raises:
        InputError: not 0 <= number < of.
    """

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        for name in ("number", "of"):
            object.__setattr__(self, name, whole(0)(f"shard: {name}", getattr(self, name)))
        if not self.number < self.of:
            raise InputError(f"shard (i, n) needs 0 <= i < n, got {(self.number, self.of)}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """What "2/4" means, the second of four; "" is the whole.

        Raises:
            InputError: something else.
        """
        if not text:
            return cls()
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"a shard is given as i/n with 1 <= i <= n, as in 2/4, got {text!r}")
        return cls(int(number) - 1, int(of))

    @property
    def pair(self) -> tuple[int, int]:
        """(i, n)."""
        return self.number, self.of

    def __bool__(self) -> bool:
        """Whether there are other parts."""
        return self.of > 1

    def file(self, path: str | Path) -> Path:
        """Where this part of what `path` is to hold is kept."""
        path = Path(path)
        return path.with_name(f"{path.stem}-{self.number + 1}of{self.of}{path.suffix}") if self else path

    def part(self, total: int, unit: int = 1) -> range:
        """The items of this part, whole units of them."""
        units = -(-total // unit)
        low, high = (min(units * i // self.of * unit, total) for i in (self.number, self.number + 1))
        return range(low, high)


def whole_of(path: str | Path) -> Path | None:
    """What a file is a part of, by its name; None where it is none.

    >>> whole_of("results/moments-2of4.safetensors")
    PosixPath('results/moments.safetensors')
    """
    path = Path(path)
    return path.with_name(_OF.sub("", path.stem) + path.suffix) if _OF.search(path.stem) else None


def parts_of(path: str | Path) -> list[Path]:
    """The files of all parts of `path`, in order.

    Raises:
        MissingFileError: there is none, or one is missing.
        InputError: there are parts of several cuts.
    """
    path = Path(path)
    files = [file for file in path.parent.glob("*") if whole_of(file) == path]
    cuts = sorted({int(match[2]) for file in files if (match := _OF.search(file.stem))})
    if len(cuts) > 1:
        ways = " and into ".join(map(str, cuts))
        raise InputError(f"{path} was cut in several ways, into {ways} parts; delete those of one")
    parts = [Shard(i, of).file(path) for of in cuts or [2] for i in range(of)]
    missing = [part.name for part in parts if part not in files]
    if missing:
        raise MissingFileError(f"no part {', '.join(missing)} in {path.parent}: run that shard first")
    return parts
