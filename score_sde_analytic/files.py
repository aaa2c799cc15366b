"""Files that are either whole or absent: atomic writes, and reads whose errors say what to do."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from score_sde_analytic.checks import scalar
from score_sde_analytic.errors import InputError, MissingFileError


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` on success and is removed on failure.

    >>> folder = tempfile.mkdtemp()
    >>> with atomic(f"{folder}/notes.txt") as path:
    ...     path.write_text("whole")
    ...     os.listdir(folder) == [path.name]
    5
    True
    >>> os.listdir(folder)
    ['notes.txt']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


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
    whole = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    payload = serialise(whole, {"json": json.dumps(metadata), "sha256": _digest(whole)})
    with atomic(path) as temporary:
        temporary.write_bytes(payload)


def load_arrays(path: str | Path, kind: str, names: Iterable[str] = ()) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Args:
        kind: the value that metadata["kind"] must have.
        names: arrays it must hold.

    Raises:
        MissingFileError: no such file.
        InputError: the file is truncated, not safetensors, of another kind, or lacks an array.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"no {kind} file at {path}; check the path or run the estimate mode to create it")
    try:
        with safe_open(str(path), framework="numpy") as file:
            head = file.metadata() or {}
            metadata = json.loads(head.get("json", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError, OSError, ValueError) as error:
        raise InputError(f"{path} is truncated or not a safetensors file ({error}); delete it and measure again") from error
    if head.get("sha256", _digest(arrays)) != _digest(arrays):
        raise InputError(f"{path} is damaged: its contents are not those that were written; delete it and measure again")
    if metadata.get("kind") != kind:
        raise InputError(f"{path} holds {metadata.get('kind')!r}, not {kind!r}; pass a {kind} file")
    missing = sorted(set(names) - set(arrays))
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; it is of another version: delete it and measure again")
    return arrays, metadata


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of the bytes of all arrays, by name."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(arrays[name]).data)
    return sha.hexdigest()


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
        elif a != b:
            lines.append(f"{prefix}{key}: file has {a!r}, expected {b!r}")
    return lines


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
