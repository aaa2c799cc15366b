"""Tar files of pictures, as WebDataset has them, read by index: names, places and sizes are listed once, contents mapped.

SHARD.tar           KEY.jpg, KEY.cls, KEY.json, ..: members of one key are one row, in the order of the file
SHARD.tar.index     names, offsets and sizes of its members, and the size and time of the tar file that they are of

A key ends at the first dot after the last slash. Columns are "name", the key; "label", of .cls or else the folder of the key;
and what .json files say in numbers and words. Where the index cannot be written it is made anew every time.
"""

from __future__ import annotations

import json
import mmap
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from score_sde_analytic.checks import scalar
from score_sde_analytic.data.readers import SUFFIXES, Source
from score_sde_analytic.errors import InputError, UserError, WriteError
from score_sde_analytic.files import load_arrays, save_arrays

KIND = "index of a tar file"
ARRAYS = {"names": "uint8 letters", "offset": "int64 n", "size": "int64 n"}
SHAPE = {"of": {"size": int, "time": int}}
#: Files that are mapped at a time: each has a descriptor of its own.
MAPPED = 64
CLASS, JSON = "cls", "json"


@dataclass(frozen=True)
class Member:
    """Where the contents of a member lie."""

    shard: int
    offset: int
    size: int


class Shards(Source):
    """Rows of tar files, one file after the other.

    Args:
        paths: of the tar files.
        column: suffix of the pictures, as "jpg"; "" for the only one.

    Raises:
        InputError: damaged or compressed files, no pictures, several in a row, or rows without one.
    """

    def __init__(self, paths: Sequence[Path], column: str = "") -> None:
        self.paths = tuple(paths)
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        rows: dict[tuple[int, str], dict[str, Member]] = {}
        for shard, path in enumerate(self.paths):
            for name, offset, size in _index(path):
                key, suffix = _parted(name)
                rows.setdefault((shard, key), {})[suffix] = Member(shard, offset, size)
        pictured = {key: row for key, row in rows.items() if any(_is_picture(suffix) for suffix in row)}
        self._keys = [key for _, key in pictured]
        self._rows = list(pictured.values())
        self._suffix = self._chosen(column)

    def _chosen(self, column: str) -> str:
        if not self._rows:
            raise InputError(f"{self.paths[0]} holds no {', '.join(SUFFIXES[:3])} or other pictures; check what was packed")
        known = sorted(filter(_is_picture, self._rows[0]))
        chosen = column.lstrip(".") or (known[0] if len(known) == 1 else "")
        if chosen not in known:
            raise InputError(
                f"which of {', '.join(known)} of {self.place(0)} is the picture? name it, as in images(.., column={known[0]!r})"
            )
        lacking = next((i for i, row in enumerate(self._rows) if chosen not in row), None)
        if lacking is not None:
            raise InputError(f"{self.place(lacking)} has no .{chosen}, others have; convert them to one kind")
        return chosen

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int, name: str) -> tuple[Any, Any]:
        return self._read(self._rows[index][self._suffix]), self._value(index, name) if name else None

    def place(self, index: int) -> str:
        return f"{self._keys[index]} of {self.paths[next(iter(self._rows[index].values())).shard]}"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        first = self._rows[0]
        said = [name for name, value in self._json(0).items() if isinstance(value, str | int | float)] if JSON in first else []
        labelled = CLASS in first or any("/" in key for key in self._keys)
        return tuple(dict.fromkeys(["name", *(["label"] if labelled else []), *said]))

    def column(self, name: str) -> Sequence[Any]:
        return [self._value(i, name) for i in range(len(self))]

    def _value(self, index: int, name: str) -> Any:
        row, key = self._rows[index], self._keys[index]
        if name == "name":
            return key
        if JSON in row and name in (known := self._json(index)):
            return known[name]
        if name != "label":
            raise InputError(f"{self.place(index)} has no {name!r} in its .json, others have; give it to all")
        return key.rpartition("/")[0] or "." if CLASS not in row else self._class(index)

    def _class(self, index: int) -> int:
        text = self._read(self._rows[index][CLASS]).decode(errors="replace").strip()
        if not text.isdecimal():
            raise InputError(f".cls of {self.place(index)} holds {text!r:.40}, not the number of a class")
        return int(text)

    def _json(self, index: int) -> Mapping[str, Any]:
        try:
            known = json.loads(self._read(self._rows[index][JSON]))
        except ValueError as error:
            raise InputError(f".json of {self.place(index)} is damaged ({error}); pack it again") from error
        if not isinstance(known, dict):
            raise InputError(f".json of {self.place(index)} holds {type(known).__name__}, not names and values")
        return {name: scalar(value) for name, value in known.items()}

    def _read(self, member: Member) -> bytes:
        content = self._mapped(member.shard)[member.offset : member.offset + member.size]
        if len(content) < member.size:
            raise InputError(f"{self.paths[member.shard]} is shorter than its members; copy it again")
        return content

    def _mapped(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            if len(self._maps) >= MAPPED:
                self._maps.popitem(last=False)[1].close()
            with open(self.paths[shard], "rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.move_to_end(shard)
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        """Workers map the files themselves."""
        return {**vars(self), "_maps": OrderedDict()}


def _parted(name: str) -> tuple[str, str]:
    """(key, suffix) of a member.

    >>> _parted("train/00.7/a.seg.png")
    ('train/00.7/a', 'seg.png')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _is_picture(suffix: str) -> bool:
    return f".{suffix}".endswith(SUFFIXES)


def _index(path: Path) -> Iterable[tuple[str, int, int]]:
    """(name, offset, size) of every member, from the file beside it where that is of this very tar file."""
    beside = path.with_name(path.name + ".index")
    status = path.stat()
    of = {"size": status.st_size, "time": status.st_mtime_ns}
    with suppress(UserError):
        arrays, metadata = load_arrays(beside, KIND, ARRAYS, SHAPE)
        if metadata["of"] == of:
            names = arrays["names"].tobytes().decode(errors="surrogateescape").split("\0")
            return list(zip(names, arrays["offset"].tolist(), arrays["size"].tolist(), strict=True))
    members = _members(path)
    joined = "\0".join(name for name, _, _ in members).encode(errors="surrogateescape")
    arrays = {"names": np.frombuffer(joined, dtype=np.uint8)}
    arrays |= {key: np.array([m[i] for m in members], dtype=np.int64) for i, key in ((1, "offset"), (2, "size"))}
    with suppress(WriteError):
        save_arrays(beside, arrays, {"kind": KIND, "of": of})
    return members


def _members(path: Path) -> list[tuple[str, int, int]]:
    try:
        with tarfile.open(path, "r:") as archive:
            named = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in archive if m.isreg()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{path} is damaged, compressed or no tar file ({error}); unpack it with gunzip, or copy it"
        ) from error
    return [member for member in named if not member[0].rpartition("/")[2].startswith(".")]
