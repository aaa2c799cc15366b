"""Readers of public data, and their parts: digits, photographs cut into patches, IDX files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.extras import optional

Part = Literal["train", "validation", "test"]
#: Files of pictures in a folder of IDX files.
IDX = "*images-idx3-ubyte*"
#: Bytes that are read at once.
CHUNK = 1 << 20


def digits() -> Int64[np.ndarray, "1797 1 8 8"]:
    """scikit-learn's 1,797 handwritten digits: integers 0..16.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    return _datasets("the set of digits").load_digits().images.astype(np.int64)[:, None]


def photographs() -> list[UInt8[np.ndarray, "427 640 3"]]:
    """scikit-learn's two sample photographs, a pagoda and a flower: integers 0..255.

    Raises:
        ImportError: scikit-learn, or the Pillow it reads pictures with, is not installed.
    """
    user = "the set of photographs"
    optional("PIL.Image", extra="images", user=user, package="Pillow")
    return list(_datasets(user).load_sample_images().images)


def part_mask(height: int, width: int, tile: int, part: Part) -> Bool[np.ndarray, "{height} {width}"]:
    """Which pixels of a photograph belong to a part of the data; every pixel belongs to one part.

    Square tiles are dealt out along a slanted lattice: of seven neighbours in a row or column five are for training, one
    for validation, one for testing, so that every part sees every region of the photograph.

    >>> part_mask(2, 7, 1, "train").astype(int)
    array([[0, 1, 1, 0, 1, 1, 1],
           [1, 0, 1, 1, 1, 0, 1]])
    """
    row, column = np.arange(height)[:, None] // tile, np.arange(width) // tile
    residue = (column + 2 * row) % 7
    return {"train": (residue != 0) & (residue != 3), "validation": residue == 0, "test": residue == 3}[part]


def patches(images: Sequence[NDArray[np.uint8]], size: int, count: int, part: Part, seed: int) -> NDArray[np.uint8]:
    """Patches at different random positions that lie wholly in one part of the images, of shape (count, 3, size, size).

    The three parts share no pixel (`part_mask`, tiles of twice the size). Patches of one part may overlap. They are a
    function of (images, size, part, seed); a smaller count gives the first of them.

    >>> patches([np.zeros((64, 64, 3), np.uint8)], size=4, count=10, part="test", seed=0).shape
    (10, 3, 4, 4)

    Args:
        images: (height, width, 3) each.

    Raises:
        InputError: an unknown part, a size below 1, or fewer positions than `count`.
    """
    if part not in get_args(Part):
        raise InputError(f"part must be one of {get_args(Part)}, got {part!r}")
    if size < 1:
        raise InputError(f"the size of patches must be at least 1, got {size}")
    corners = [_windows(part_mask(image.shape[0], image.shape[1], 2 * size, part), size) for image in images]
    total = sum(map(len, corners))
    if count > total:
        raise InputError(f"the {part} part has {total} positions for patches of size {size}, {count} are needed")
    order = np.random.default_rng((seed, get_args(Part).index(part))).permutation(total)[:count]
    owner = np.repeat(np.arange(len(images)), [len(c) for c in corners])[order]
    chosen = np.empty((count, size, size, 3), np.uint8)
    for k, (index, (top, left)) in enumerate(zip(owner, np.concatenate(corners)[order], strict=True)):
        chosen[k] = images[index][top : top + size, left : left + size]
    return chosen.transpose(0, 3, 1, 2).copy()


def _windows(mask: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """(top, left) of every size x size window that is all true, (n, 2)."""
    if size > min(mask.shape):
        return np.empty((0, 2), np.int64)
    rows = sliding_window_view(mask, size, axis=0).all(-1)
    return np.argwhere(sliding_window_view(rows, size, axis=1).all(-1))


def read_idx_images(path: str | Path) -> Int64[np.ndarray, "n 1 h w"]:
    """Images of an IDX file, optionally gzipped (MNIST's format): integers 0..255.

    Raises:
        MissingFileError: no such file.
        InputError: not an IDX image file, or one that holds less or more than it declares.
    """
    return read_idx_pixels(path).astype(np.int64)


def read_idx_pixels(path: str | Path) -> UInt8[np.ndarray, "n 1 h w"]:
    """The same in a byte per pixel."""
    file = Path(path)
    (count, height, width), content = _idx(file, 0x803, "image")
    _require_size(file, content, count * height * width, f"{count} images of {height}x{width}")
    return np.frombuffer(content, np.uint8).reshape(count, 1, height, width)


def digit_labels() -> Int64[np.ndarray, " 1797"]:
    """The class 0..9 of every image of `digits`.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    return _datasets("the set of digits").load_digits().target.astype(np.int64)


def _datasets(user: str) -> Any:
    return optional("sklearn.datasets", extra="images", user=user, package="scikit-learn")


def read_idx_labels(path: str | Path) -> Int64[np.ndarray, " n"]:
    """Labels of an IDX file, optionally gzipped (MNIST's format).

    Raises:
        MissingFileError: no such file.
        InputError: not an IDX label file, or one that holds less or more than it declares.
    """
    (count,), content = _idx(Path(path), 0x801, "label")
    _require_size(Path(path), content, count, f"{count} labels")
    return np.frombuffer(content, np.uint8).astype(np.int64)


def idx_files(folder: str | Path) -> list[Path]:
    """A folder's IDX files of pictures, each once where it lies there gzipped, too.

    >>> size = Path("a-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7]))
    >>> [file.name for file in idx_files(".")], read_idx(idx_files("."))
    (['a-images-idx3-ubyte'], (array([[[[7]]]], dtype=uint8), None))
    """
    files = sorted(Path(folder).glob(IDX))
    return [file for file in files if file.suffix != ".gz" or file.with_suffix("") not in files]


def read_idx(files: Sequence[Path]) -> tuple[UInt8[np.ndarray, "n 1 h w"], Int64[np.ndarray, " n"] | None]:
    """(pictures of a folder's files, one after the other; their labels, where every file has some beside it).

    Raises:
        InputError: a damaged file, pictures of several sizes, or files with more or fewer labels than pictures.
    """
    folder, pixels = files[0].parent, [read_idx_pixels(file) for file in files]
    if len(sizes := {f"{x.shape[2]}x{x.shape[3]}" for x in pixels}) > 1:
        raise InputError(f"the IDX files in {folder} hold pictures of {' and '.join(sorted(sizes))}: keep one size in a folder")
    beside = [file for file in map(_labels_beside, files) if file is not None]
    if len(beside) < len(files):
        return np.concatenate(pixels), None
    labels = [read_idx_labels(file) for file in beside]
    pictures, labelled = ([len(rows) for rows in each] for each in (pixels, labels))
    if pictures != labelled:  # equal totals would give pictures the labels of others
        held = f"{pictures} pictures and {labelled} labels"
        raise InputError(f"the IDX files in {folder} hold {held}: give the labels of each file")
    return np.concatenate(pixels), np.concatenate(labels)


def _labels_beside(file: Path) -> Path | None:
    """The file of the labels of a file's pictures, gzipped or not."""
    name = file.name.removesuffix(".gz").replace("images-idx3", "labels-idx1")
    return next((path for end in ("", ".gz") if (path := file.with_name(name + end)).is_file()), None)


def _idx(file: Path, magic: int, kind: str) -> tuple[tuple[int, ...], bytes]:
    """The sizes that an IDX file declares, and as much of the rest as they need, or one byte more."""
    if not file.is_file():
        raise MissingFileError(f"no IDX file at {file}; set data.directory to the folder that holds it")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            (found,) = struct.unpack(">I", stream.read(4))
            if found != magic:
                raise InputError(f"{file} is not an IDX {kind} file (magic {found:#x}, expected {magic:#x})")
            axes = magic & 0xFF
            sizes = struct.unpack(f">{axes}I", stream.read(4 * axes))
            return sizes, _at_most(stream, math.prod(sizes) + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise InputError(f"{file} is damaged ({error}); copy it again") from error


def _at_most(stream: BufferedIOBase, size: int) -> bytes:
    """The next bytes; memory is taken for those that are there, whatever the size."""
    content = bytearray()
    while len(content) < size and (chunk := stream.read(min(CHUNK, size - len(content)))):
        content += chunk
    return bytes(content)


def _require_size(file: Path, content: bytes, size: int, what: str) -> None:
    if len(content) > size:
        raise InputError(f"{file} is damaged: it goes on after {what}; copy it again")
    if len(content) < size:
        raise InputError(f"{file} is truncated: {len(content)} bytes for {what}; copy it again")
