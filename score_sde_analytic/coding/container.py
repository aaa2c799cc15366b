"""The bytes of a file: docs/coding.md has the format.

"SSAC", a byte of version, a header of JSON (deflated), 32-bit words, CRC32 of the pixels, CRC32 of all before it
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from score_sde_analytic.coding.stack import Words
from score_sde_analytic.declared import require_shape
from score_sde_analytic.errors import InputError, UnsupportedError

MAGIC, VERSION = b"SSAC", 1
CURE = "take an undamaged copy"
#: Most bytes of a header.
MOST_HEADER = 2**24
#: Most numbers of an image.
MOST_DIM = 2**22
#: Most values of a number.
MOST_LEVELS = 2**16
PAIRS = [[int]]
#: Of a header.
SHAPE = {
    "shape": [range(1, MOST_DIM)],
    "count": range(1, 2**32),
    "levels": range(2, MOST_LEVELS + 1),
    "range": [float],
    "network": str,
    "chain": str,
    "ratio": float,
    "batches": PAIRS,
    "raw": PAIRS,
    "random": range(2**16),
    "arithmetic": ({"float32": {"torch": str, "threads": range(1, 4097), "probe": str}}, {"exact": {"probe": str}}),
    "about?": dict,
}
#: What headers have in common; part of the version.
COMMON = (
    b'"},"about":{"pictures":[["","chain":{"steps":10,"times":[1.0,"arithmetic":{"exact":{"probe":"{"shape":[3,16,16],"count":1'
    b',"levels":17,"{"shape":[1,8,8],"count":2,"levels":256,"range":[-1.0,1.0],"network":"0123456789abcdef","chain":"fedcba98","'
    b'ratio":0.5,"batches":[[-1,1],[1,1],[2,1],[4,1],[8,1],[16,1],[32,1],[64,4]],"raw":[[0,1]],"random":0,"arithmetic":{"float3'
    b'2":{"torch":"2.13.0+cpu","threads":1,"probe":"'
)


def pack(header: Mapping[str, Any], words: Words, pixels: Shaped[np.ndarray, " ..."]) -> bytes:
    """A file of them."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=COMMON)
    body = MAGIC + bytes([VERSION]) + deflate.compress(text) + deflate.flush() + words.astype("<u4").tobytes()
    body += _crc(np.asarray(pixels).astype("<u2").tobytes())
    return body + _crc(body)


def require_readable(header: Mapping[str, Any]) -> None:
    """Raise UnsupportedError where no reader would take a file of this header."""
    try:
        require_shape(header, SHAPE, "its header", "cut the images into tiles")
    except InputError as error:
        raise UnsupportedError(f"a file of these images could not be read again: {error}") from error


def unpack(content: bytes) -> tuple[dict[str, Any], Words, bytes]:
    """(header, words, checksum of the pixels) of a file.

    Raises:
        InputError: it is damaged, of another version, or none.
    """
    start = len(MAGIC) + 1
    if content[: len(MAGIC)] != MAGIC:
        raise InputError("it is not a file of compressed images: it does not begin with SSAC; check the path")
    if content[len(MAGIC) : start] != bytes([VERSION]):
        known = f"version {content[len(MAGIC)] if len(content) > len(MAGIC) else 'none'}, and this is a reader of {VERSION}"
        raise InputError(f"it is of {known}; install the package that wrote it")
    if len(content) < start + 8 or _crc(content[:-4]) != content[-4:]:
        raise InputError(f"it is damaged or truncated: its checksum is not that of its content; {CURE}")
    inflate = zlib.decompressobj(-15, zdict=COMMON)
    try:
        header = json.loads(inflate.decompress(content[start:-8], MOST_HEADER))
    except (zlib.error, ValueError, RecursionError) as error:
        raise InputError(f"its header is damaged ({error}); {CURE}") from error
    if not inflate.eof or len(inflate.unused_data) % 4:
        raise InputError(f"its header or its words do not end where they should; {CURE}")
    require_shape(header, SHAPE, "its header", CURE)
    if len(header["range"]) != 2 or not header["range"][0] < header["range"][1]:
        raise InputError(f"its header has no range of values; {CURE}")
    return header, np.frombuffer(inflate.unused_data, "<u4").astype(np.uint32), content[-8:-4]


def require_pixels(pixels: Shaped[np.ndarray, " ..."], checksum: bytes) -> None:
    """Refuse pixels that are not those that were written.

    Raises:
        InputError: they are others.
    """
    if _crc(np.asarray(pixels).astype("<u2").tobytes()) != checksum:
        raise InputError("the decoded pixels are not those that were encoded: the two machines' numbers differ")


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
