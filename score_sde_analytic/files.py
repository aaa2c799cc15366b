"""Files that are either whole or absent and vouch for all they hold; reads whose errors say what to do.

Every file carries the sha256 of all the rest of it, and is a function of its content to the last byte. What is read has the
shape that its reader declares (`declared`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as deserialise
from safetensors.numpy import save as serialise

from score_sde_analytic.checks import scalar
from score_sde_analytic.declared import AGAIN, UNFIT, require_arrays, require_shape
from score_sde_analytic.errors import InputError, MissingFileError, UserError, WriteError

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows: nothing tells whether the owner of a temporary file lives, so none is swept
    flock = None  # type: ignore[assignment]

#: Of the layout of files; others are refused.
VERSION = 2
#: Characters of a list in a message.
LONGEST = 80
#: How an array file begins, after the length of its header; its digest follows.
_HEAD = b'{"__metadata__":{"version":"%d","sha256":"' % VERSION
_HEX = 64
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.partial")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` on success and is removed on failure.

    Temporary files in the folder that no living process owns are removed.

    >>> folder = tempfile.mkdtemp()
    >>> with atomic(f"{folder}/notes.txt") as path:
    ...     path.write_text("whole")
    ...     os.listdir(folder) == [path.name]
    5
    True
    >>> os.listdir(folder)
    ['notes.txt']

    Raises:
        WriteError: the file cannot be written; what was there before is left.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        with _temporary(target) as temporary:
            yield temporary
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror or error
        raise WriteError(f"{path} cannot be written ({reason}); make room there, or choose another path") from error


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """An empty file beside `target` that is this process's for as long as the block lasts."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    with os.fdopen(handle) as owner:
        if flock is None:
            owner.close()  # Windows replaces no open file
        else:
            flock(owner, LOCK_EX)
        try:
            yield Path(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)


def sweep(folder: str | Path) -> None:
    """Remove what killed processes were writing in a folder.

    >>> folder = tempfile.mkdtemp()
    >>> Path(folder, ".notes.txt.abcdefgh.partial").touch()
    >>> sweep(folder)
    >>> os.listdir(folder)
    []
    """
    if flock is None:
        return
    for name in filter(_TEMPORARY.fullmatch, os.listdir(folder)):
        with suppress(OSError), open(Path(folder, name), "rb") as file:
            flock(file, LOCK_EX | LOCK_NB)  # its owner holds the lock while it lives
            os.unlink(file.name)


def sweep_below(folder: str | Path) -> None:
    """`sweep` a folder and all within it."""
    for within, _, _ in os.walk(folder):
        sweep(within)


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_bytes(path: str | Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def read_bytes(path: str | Path, kind: str, cure: str = AGAIN) -> bytes:
    """All of a file.

    Raises:
        MissingFileError: no such file.
        InputError: one that cannot be read.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"no {kind} file at {path}; check the path, or make one first")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {cure}") from error


def finite(value: float) -> float | None:
    """A number that JSON has."""
    return float(value) if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Data that JSON has: arrays and tuples as lists, numbers that are not finite as None.

    >>> plain({"values": np.array([1.0, np.nan])})
    {'values': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    value = scalar(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write arrays and JSON-able metadata as one safetensors file."""
    # Without metadata: safetensors writes theirs in random order.
    tensors = serialise({name: np.asarray(array, order="C") for name, array in arrays.items()})
    start = 8 + int.from_bytes(tensors[:8], "little")
    listed = tensors[8:start].strip()[1:-1]
    data = memoryview(tensors)[start:]
    said = json.dumps(json.dumps(metadata, allow_nan=False)).encode()
    rest = b'","json":' + said + (b"}," + listed if listed else b"}") + b"}"
    rest += b" " * (-(len(_HEAD) + _HEX + len(rest)) % 8)
    length = (len(_HEAD) + _HEX + len(rest)).to_bytes(8, "little")
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.writelines((length, _HEAD, _seal(length, _HEAD, rest, data), rest, data))


def load_arrays(
    path: str | Path, kind: str, arrays: Mapping[str, str] | None = None, shape: Any = dict, cure: str = AGAIN
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Args:
        kind: the value that metadata["kind"] must have.
        arrays: those it must hold, as `require_arrays` has them.
        shape: of the metadata.
        cure: what to do about a file that is not right.

    Raises:
        MissingFileError: no such file.
        InputError: the file is damaged, not safetensors, of another kind or version, or not of the declared shapes.
    """
    content = read_bytes(path, kind, cure)
    start = 8 + len(_HEAD)
    try:
        found = deserialise(content)
        if content[8:start] != _HEAD:
            raise InputError(f"{path} is of another version or another programme, and cannot be vouched for; {cure}")
        seal = content[start : start + _HEX]
        if _seal(content[:start], memoryview(content)[start + _HEX :]) != seal:
            raise InputError(f"{path} is damaged: its contents are not those that were written; {cure}")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = _parsed(header["__metadata__"]["json"])
    except UserError:
        raise
    except (SafetensorError, RecursionError, *UNFIT) as error:
        raise InputError(f"{path} is truncated or not a safetensors file ({error}); {cure}") from error
    _require_kind(path, metadata, kind)
    require_arrays(found, arrays or {}, path, cure)
    require_shape(metadata, shape, path, cure)
    return found, metadata


def _seal(*parts: bytes | memoryview) -> bytes:
    """The sha256 of all that surrounds it."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest().encode()


def write_json(path: str | Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write JSON-able content as a file that vouches for itself."""
    whole = json.loads(json.dumps({"kind": kind, "version": VERSION, **content}, allow_nan=False))
    write_text(path, json.dumps(whole | {"sha256": _digest(whole)}, indent=1) + "\n")


def read_json(path: str | Path, kind: str, shape: Any = dict, cure: str = AGAIN) -> dict[str, Any]:
    """Read what `write_json` wrote.

    >>> write_json("a.json", "grid", {"times": [1.0, 0.0]})
    >>> read_json("a.json", "grid", {"times": [float]})["times"]
    [1.0, 0.0]

    Raises:
        MissingFileError: no such file.
        InputError: the file is damaged, not JSON, of another kind or version, or not of the declared shape.
    """
    whole = read_plain_json(path, kind, dict, cure)
    digest = whole.pop("sha256", None)
    if "version" in whole and digest != _digest(whole):
        raise InputError(f"{path} is damaged or was changed by hand; {cure}")
    if whole.pop("version", None) != VERSION:
        raise InputError(f"{path} is of another version or another programme, and cannot be vouched for; {cure}")
    _require_kind(path, whole, kind)
    del whole["kind"]
    require_shape(whole, shape, path, cure)
    return whole


def read_plain_json(path: str | Path, kind: str, shape: Any, cure: str) -> Any:
    """Read JSON of a declared shape that people or other programmes may have written.

    Raises:
        MissingFileError: no such file.
        InputError: the file is not JSON, or not of the shape.
    """
    content = read_bytes(path, kind, cure)
    try:
        value = _parsed(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is truncated or not JSON ({error}); {cure}") from error
    require_shape(value, shape, path, cure)
    return value


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _require_kind(path: str | Path, content: Any, kind: str) -> None:
    found = content.get("kind") if isinstance(content, dict) else content
    if found != kind:
        raise InputError(f"{path} holds {found!r}, not {kind!r}; pass a {kind} file")


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The entries in which two fingerprints differ, one readable line each.

    >>> differences({"seed": 0, "data": {"count": 5}}, {"seed": 0, "data": {"count": 6}})
    ['data.count: file has 5, expected 6']
    """
    lines: list[str] = []
    for key in sorted({*found, *expected}):
        a, b = found.get(key), expected.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a is b is None and (key in found) != (key in expected):
            lines.append(f"{prefix}{key}: {'the file' if key in found else 'what is expected'} alone has it")
        elif a != b:
            lines.append(f"{prefix}{key}: file has {_brief(a)}, expected {_brief(b)}")
    return lines


def _brief(value: Any) -> str:
    """A value as messages show it: of a long list, its beginning."""
    text = repr(value)
    return f"{text[: LONGEST - 2]} .." if isinstance(value, list) and len(text) > LONGEST else text


def require_match(path: str | Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise InputError naming every entry in which a file's fingerprint differs from the one expected.

    >>> require_match("results.json", {"seed": 0}, {"seed": 1})
    Traceback (most recent call last):
        ...
    score_sde_analytic.errors.InputError: results.json was made for something else (seed: file has 0, expected 1);
    delete it or use the matching settings
    """
    lines = differences(json.loads(json.dumps(found)), json.loads(json.dumps(expected)))
    if lines:
        raise InputError(f"{path} was made for something else ({'; '.join(lines)}); delete it or use the matching settings")
