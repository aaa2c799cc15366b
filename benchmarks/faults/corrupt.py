"""Damaged files of every kind that the package writes: what is read is what was written, or is refused in words.

Half of the trials damage bytes; the others write another structure with a digest that is right for it.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from benchmarks.faults.instances import Instance, instances, plain
from benchmarks.faults.outcome import Outcome
from score_sde_analytic.errors import UserError
from score_sde_analytic.files import save_arrays, write_json

Generator = np.random.Generator
#: What a changed entry is instead, if it is not of that type.
WRONG: tuple[Any, ...] = (None, -1, 0.5, "text", [], {}, [["a"]], {"a": 1}, True, 10**30)


def outcomes(trials: int, seed: int) -> Iterator[Outcome]:
    """Trials dealt out among the kinds of files; each is a function of (seed, number)."""
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = list(instances(Path(name)))
        files = [_Pristine(instance, made) for instance in made]
        for trial in range(trials):
            yield files[trial % len(files)].trial(np.random.default_rng((seed, trial)))
    logging.disable(logging.NOTSET)


class _Pristine:
    """A whole file, as it is put back after every trial."""

    def __init__(self, instance: Instance, others: list[Instance]) -> None:
        self.instance = instance
        self.path = instance.path
        self.content = self.path.read_bytes()
        self.others = [other.path.read_bytes() for other in others if other.path.suffix == self.path.suffix]
        self.value = plain(instance.read())
        self.folder = {path: path.read_bytes() for path in self.path.parent.rglob("*") if path.is_file()}

    def trial(self, rng: Generator) -> Outcome:
        damages = [*DAMAGES, *(STRUCTURES if self._sealed() else ())]
        damage = damages[rng.integers(len(DAMAGES))] if rng.random() < 0.5 else damages[rng.integers(len(damages))]
        what = damage(self, rng)
        try:
            return Outcome(self.instance.kind, f"{damage.__name__.strip('_')} {what}", *self._verdict())
        finally:
            self._restore()

    def _verdict(self) -> Any:
        try:
            value = plain(self.instance.read())
        except UserError as error:
            return "refused", str(error)
        except Exception as error:  # the fault that is looked for
            return "raw", f"{type(error).__name__}: {error}"
        return ("right", "") if value == self.value else ("silent", f"{value!r:.300}")

    def _restore(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path)
        self.path.unlink(missing_ok=True)
        for path, content in self.folder.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)

    def _sealed(self) -> bool:
        return b'"sha256"' in self.content

    # --- content ---

    @property
    def json(self) -> bool:
        return self.path.suffix == ".json"

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What an array file holds."""
        with safe_open(self.path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["json"])  # noqa: SIM118

    def metadata(self) -> dict[str, Any]:
        """What a file says besides its arrays."""
        if not self.json:
            return self.arrays()[1]
        return {name: value for name, value in json.loads(self.content).items() if name not in ("version", "sha256")}

    def rewrite(self, metadata: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
        """A file that vouches for another content."""
        if self.json:
            write_json(self.path, str(metadata.get("kind")), {k: v for k, v in metadata.items() if k != "sha256"})
        else:
            save_arrays(self.path, self.arrays()[0] if arrays is None else arrays, metadata)


# --- bytes ---------------------------------------------------------------------------------------------------------------


def _flip(file: _Pristine, rng: Generator) -> str:
    changed = bytearray(file.content)
    # Headers are short beside arrays: half of the flips are among the first bytes.
    within = len(changed) if rng.random() < 0.5 else min(len(changed), 2000)
    at, bit = int(rng.integers(within)), int(rng.integers(8))
    changed[at] ^= 1 << bit
    file.path.write_bytes(changed)
    return f"byte {at} bit {bit}"


def _truncate(file: _Pristine, rng: Generator) -> str:
    size = int(rng.integers(len(file.content)))
    file.path.write_bytes(file.content[:size])
    return f"to {size} of {len(file.content)}"


def _append(file: _Pristine, rng: Generator) -> str:
    extra = rng.bytes(int(rng.integers(1, 100))) if rng.random() < 0.5 else b" " * int(rng.integers(1, 100))
    file.path.write_bytes(file.content + extra)
    return repr(extra)


def _zero(file: _Pristine, rng: Generator) -> str:
    at, size = int(rng.integers(len(file.content))), int(rng.integers(1, 512))
    file.path.write_bytes((file.content[:at] + bytes(size) + file.content[at + size :])[: len(file.content)])
    return f"{size} bytes from {at}"


def _exchange(file: _Pristine, rng: Generator) -> str:
    a, b, size = *(int(n) for n in rng.integers(max(1, len(file.content) - 64), size=2)), 64
    changed = bytearray(file.content)
    changed[a : a + size] = file.content[b : b + size]
    file.path.write_bytes(changed)
    return f"{size} bytes at {a} by those at {b}"


def _foreign(file: _Pristine, rng: Generator) -> str:
    number = int(rng.integers(len(file.others)))
    file.path.write_bytes(file.others[number])
    return f"by that of instance {number}"


def _other(file: _Pristine, rng: Generator) -> str:
    contents = (b"", b"{}", b"[]", b"null", b"1", b'"a"', b"[" * 100_000, bytes(100), b"PK\x03\x04" + bytes(60), b"\xff\xfe{")
    number = int(rng.integers(len(contents)))
    file.path.write_bytes(contents[number])
    return repr(contents[number][:10])


def _folder(file: _Pristine, rng: Generator) -> str:
    file.path.unlink()
    file.path.mkdir()
    return ""


def _remove(file: _Pristine, rng: Generator) -> str:
    file.path.unlink()
    return ""


def _forbid(file: _Pristine, rng: Generator) -> str:
    file.path.chmod(0)
    return ""


# --- structure, with a digest that is right -------------------------------------------------------------------------------


def _place(content: Any, rng: Generator, free: tuple[str, ...]) -> tuple[Any, Any, list[Any]]:
    """A random entry at any depth of mappings: its container, its key, and the way there."""
    way: list[Any] = []
    while True:
        keys = [key for key in content if key not in free]
        key = keys[rng.integers(len(keys))]
        way.append(key)
        below = content[key]
        if not isinstance(below, dict) or not below or rng.random() < 0.4:
            return content, key, way
        content = below


def _drop(file: _Pristine, rng: Generator) -> str:
    metadata = file.metadata()
    container, key, way = _place(metadata, rng, file.instance.free)
    del container[key]
    file.rewrite(metadata)
    return f"{way}"


def _rename(file: _Pristine, rng: Generator) -> str:
    metadata = file.metadata()
    container, key, way = _place(metadata, rng, file.instance.free)
    container[f"{key}_"] = container.pop(key)
    file.rewrite(metadata)
    return f"{way}"


def _retype(file: _Pristine, rng: Generator) -> str:
    metadata = file.metadata()
    container, key, way = _place(metadata, rng, file.instance.free)
    wrong = [value for value in WRONG if _type(value) != _type(container[key])]
    container[key] = wrong[rng.integers(len(wrong))]
    file.rewrite(metadata)
    return f"{way} = {container[key]!r}"


def _type(value: Any) -> type:
    """As JSON tells them apart."""
    return float if type(value) is int else type(value)


def _version(file: _Pristine, rng: Generator) -> str:
    if file.json:
        whole = json.loads(file.content)
        whole["version"] = int(rng.integers(3, 9))
        file.path.write_text(json.dumps(whole))
    else:
        file.path.write_bytes(file.content.replace(b'"version":"2"', b'"version":"3"', 1))
    return ""


def _reshape(file: _Pristine, rng: Generator) -> str:
    if file.json:
        return _retype(file, rng)
    arrays, metadata = file.arrays()
    names = sorted(set(arrays) - set(file.instance.free))
    name = names[rng.integers(len(names))]
    changes: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda array: array[..., None],
        lambda array: array.ravel()[:-1],
        lambda array: array.astype(np.int8 if array.dtype.kind == "f" else np.float32),
        lambda array: array.ravel()[:0],
        lambda array: np.concatenate([array, array]) if array.ndim else array[None],
    ]
    number = int(rng.integers(len(changes) + 3))
    if number < len(changes):
        arrays[name] = changes[number](arrays[name])
    elif number == len(changes) and arrays[name].dtype.kind == "f" and arrays[name].size:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[int(rng.integers(arrays[name].size))] = rng.choice([np.nan, np.inf])
    elif number == len(changes) + 1:
        arrays[f"{name}_"] = arrays.pop(name)
    else:
        del arrays[name]
    file.rewrite(metadata, arrays)
    return f"{name} by change {number}"


DAMAGES = (_flip, _flip, _flip, _truncate, _append, _zero, _exchange, _foreign, _other, _folder, _remove, _forbid)
STRUCTURES = (_drop, _drop, _rename, _retype, _retype, _retype, _version, _reshape, _reshape, _reshape)
