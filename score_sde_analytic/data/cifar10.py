"""CIFAR-10's own batches: those "for Python", pickles of arrays, and those "for C", files .bin.

10,000 rows per file, each a class and 3 x 32 x 32 bytes, channel by channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from score_sde_analytic.data.pickled import PickledArray, read_pickle
from score_sde_analytic.errors import InputError

#: Names of files.
BATCH = "*_batch*"
SUFFIXES = ("", ".bin")
SHAPE = (3, 32, 32)
SIZE = 3 * 32 * 32


def is_batch(path: Path) -> bool:
    """Whether a file is called as one of the batches is."""
    return path.match(BATCH) and path.suffix in SUFFIXES


def read_cifar10(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Pictures "x", (n, 3, 32, 32) bytes, and classes "label" of batches, one after the other.

    Raises:
        InputError: a file that is damaged, or no batch.
    """
    parts = [_binary(file) if file.suffix else _python(file) for file in files]
    pixels, labels = zip(*parts, strict=True)
    return {"x": np.concatenate(pixels), "label": np.concatenate(labels)}


def _binary(path: Path) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, " n"]]:
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % (1 + SIZE):
        raise InputError(f"{path} has {len(content)} bytes, no whole number of rows of {1 + SIZE}: copy it again")
    rows = content.reshape(-1, 1 + SIZE)
    return rows[:, 1:].reshape(-1, *SHAPE), rows[:, 0].astype(np.int64)


def _python(path: Path) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, " n"]]:
    content = read_pickle(path)
    try:
        said = {name.decode() if isinstance(name, bytes) else name: value for name, value in content.items()}
        array, labels = said["data"], np.asarray(said["labels"], dtype=np.int64)
        if not isinstance(array, PickledArray):
            raise TypeError("its data are no array")
        pixels = array.numbers("u1").reshape(len(labels), *SHAPE)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no batch of CIFAR-10 ({error}); copy it again") from error
    return pixels, labels
