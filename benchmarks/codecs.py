"""What public codecs and simple models make of the images that the chain is measured on, bits/dim.

  python -m benchmarks.codecs [--configs digits_vp patches emoji]

Each codec at its strongest setting: on every image alone ("file"), headers included, and on one large picture of all images
("mosaic"); general compressors on the bytes of one image, and of all. "order 0" is the information of every pixel under its own
histogram over the training images, one added to each count: what a model without neighbours comes to. "raw" is log2(levels).
Needs imagecodecs and brotli.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import lzma
import math
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.report.tables import markdown

Pixels = NDArray[np.uint8]
#: Test images per config.
COUNTS = {"digits_vp": 297, "patches": 300, "emoji": 200}


def _pillow(kind: str, **options: Any) -> Callable[[Pixels], int]:
    def size(picture: Pixels) -> int:
        kept = io.BytesIO()
        Image.fromarray(picture).save(kept, kind, **options)
        return len(kept.getvalue())

    return size


#: (height, width) or (height, width, 3) of uint8 -> bytes.
IMAGE_CODECS: dict[str, Callable[[Pixels], int]] = {
    "PNG": _pillow("PNG", optimize=True, compress_level=9),
    "WebP lossless": _pillow("WEBP", lossless=True, quality=100, method=6, exact=True),
    "JPEG XL lossless": lambda x: len(imagecodecs.jpegxl_encode(x, lossless=True, effort=9)),
    "JPEG-LS": lambda x: len(imagecodecs.jpegls_encode(x)),
}
COMPRESSORS: dict[str, Callable[[bytes], int]] = {
    "zlib": lambda content: len(zlib.compress(content, 9)),
    "zstd": lambda content: len(imagecodecs.zstd_encode(content, level=22)),
    "brotli": lambda content: len(brotli.compress(content, quality=11, lgwin=24)),
    "lzma": lambda content: len(lzma.compress(content, format=lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=list(COUNTS), choices=list(COUNTS))
    parser.add_argument("--output", type=Path, default=Path("docs/results/codecs.json"))
    options = parser.parse_args()
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.configs:
        found[name] = rates(name)
        options.output.write_text(json.dumps(found, indent=1) + "\n")
        print(f"\n{name}\n\n{text(found[name])}")


def rates(name: str) -> dict[str, dict[str, float | None]]:
    """Bits/dim of every codec, on single images and on all together."""
    train, test, levels = pixels(name)
    dim, count = test[0].size, len(test)
    whole = mosaic(test)
    found: dict[str, dict[str, float | None]] = {
        codec: {
            "file": 8 * sum(size(one) for one in test) / (count * dim),
            "mosaic": 8 * size(whole) / (count * dim),
        }
        for codec, size in IMAGE_CODECS.items()
    }
    for codec, packed in COMPRESSORS.items():
        single = sum(packed(one.tobytes()) for one in test)
        found[codec] = {"file": 8 * single / (count * dim), "mosaic": 8 * packed(test.tobytes()) / (count * dim)}
    found["order 0 per pixel"] = {"file": order_0(train, test, levels), "mosaic": None}
    found["raw"] = {"file": math.log2(levels), "mosaic": math.log2(levels)}
    return found


def pixels(name: str) -> tuple[Pixels, Pixels, int]:
    """Training and test images as levels, (n, height, width[, 3])."""
    config = importlib.import_module(f"score_sde_analytic.configs.{name}").get_config()
    with tempfile.TemporaryDirectory() as work:
        splits = Experiment(config, Path(work)).splits
    declared = splits.data_range

    def levels_of(split: str, most: int) -> Pixels:
        examples = as_dataset(splits.some(split, most), declared)
        x = declared.index(examples.batch(range(len(examples))).x_0).numpy().astype(np.uint8)
        return np.ascontiguousarray(x[:, 0] if x.shape[1] == 1 else x.transpose(0, 2, 3, 1))

    return levels_of("train", 0), levels_of("test", COUNTS[name]), declared.levels


def mosaic(images: Pixels) -> Pixels:
    """All images in one picture, about square, the last row filled with zeros."""
    n, height, width = images.shape[:3]
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.zeros((rows * columns, *images.shape[1:]), np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, columns, *images.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(sheet.reshape(rows * height, columns * width, *images.shape[3:]))


def order_0(train: Pixels, test: Pixels, levels: int) -> float:
    """-log2 of the histogram of every pixel and channel, on average."""
    flat, asked = train.reshape(len(train), -1), test.reshape(len(test), -1)
    counts = np.stack([np.bincount(column, minlength=levels) for column in flat.T]) + 1.0
    share = counts / counts.sum(1, keepdims=True)
    return float(-np.log2(share[np.arange(share.shape[0]), asked]).mean())


def text(found: dict[str, dict[str, float | None]]) -> str:
    """A table, the best mosaic first."""
    order = sorted(found, key=lambda codec: found[codec]["mosaic"] or found[codec]["file"] or math.inf)
    show = [[codec, *("-" if v is None else f"{v:.3f}" for v in found[codec].values())] for codec in order]
    return markdown(["codec", "each image a file", "all in one"], show)


if __name__ == "__main__":
    main()
