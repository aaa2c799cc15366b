"""Pictures of any kind as arrays (channels, height, width) of one form: crop, resize, channels.

The middle of a picture, of the shape that is asked for, is cut out and then resized by Pillow's filter of that name, whose
support grows with the reduction. 8-bit pictures stay uint8; others are resized as numbers, within the range that they have, and
keep their dtype, rounded where it is of integers. What is transparent lies on white, unless four channels are asked for.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from score_sde_analytic.arrays import native
from score_sde_analytic.checks import Check, one_of, optional, settle
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import optional as package

#: Filters of Pillow.
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
#: Channels -> Pillow's mode of 8-bit pictures.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: Modes of Pillow whose pictures have one channel.
GREY = ("1", "L", "LA", "La", "I", "F")
#: What Pillow raises where a file is damaged or no picture.
DAMAGED = (OSError, SyntaxError, ValueError)
#: How many levels integers of a dtype have.
LEVELS = {"uint8": 256, "uint16": 65536}
#: The largest value of 16 bits.
DEEPEST = 65535


def _sides(value: Any) -> tuple[int, int]:
    sides = (value, value) if np.ndim(value) == 0 else tuple(value)
    height, width = (int(side) for side in sides if int(side) == side and side >= 1)
    return height, width


SIZE: Check[tuple[int, int]] = Check("a side in pixels, or (height, width)", _sides)


def _known(value: Any) -> int:
    if value not in MODES or isinstance(value, bool):
        raise ValueError
    return int(value)


CHANNELS: Check[int] = Check("1 (grey), 3 (colour) or 4 (colour and opacity)", _known)


@dataclass(frozen=True)
class Form:
    """What all pictures are brought to.

    >>> Form(size=2)(np.arange(24, dtype=np.uint8).reshape(4, 6)).shape
    (1, 2, 2)

    Attributes:
        size: (height, width), one number for both; None leaves pictures as large as they are.
        channels: 1, 3 or 4; None leaves them as they are.
        resample: Pillow's filter.
    """

    size: Annotated[Any, optional(SIZE)] = None
    channels: Annotated[int | None, optional(CHANNELS)] = None
    resample: Annotated[str, one_of(FILTERS)] = "bicubic"

    def __post_init__(self) -> None:
        settle(self)

    def __call__(self, picture: Any) -> Shaped[np.ndarray, "channels height width"]:
        """A picture of Pillow, the bytes of its file (also in a mapping), or an array, as an array of this form.

        Raises:
            InputError: it is none of these, or cannot be brought to this form.
        """
        x = self._as_array(picture)
        if self.size is not None and x.shape[1:] != self.size:
            x = self._resized(x)
        return x if self.channels in (None, len(x)) else self._coloured(x)

    def _as_array(self, picture: Any) -> np.ndarray:
        if isinstance(picture, Mapping) and picture.get("bytes") is not None:  # as tables keep pictures
            picture = picture["bytes"]
        if isinstance(picture, bytes):
            picture = _unpacked(picture)
        if isinstance(picture, Tensor):
            picture = picture.detach().cpu().numpy()
        if isinstance(picture, np.ndarray):
            return planes(native(picture))
        if hasattr(picture, "getbands"):
            return self._of_pillow(picture)
        kind = type(picture).__name__
        raise InputError(f"it is {kind}, not a picture or an array; name the column that holds pictures, or convert it")

    def _of_pillow(self, picture: Any) -> np.ndarray:
        deep = picture.mode.startswith("I") or picture.mode == "F"
        if deep:
            values = np.array(picture)[None]
            return values if picture.mode == "F" else _sixteen_bits(values)
        clear = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
        channels = self.channels or (1 if picture.mode in GREY else 3)
        if clear and channels < 4:
            above = picture.convert("RGBA")
            picture = pillow().new("RGBA", above.size, "white")
            picture.alpha_composite(above)
        return _pixels(picture.convert(MODES[channels]))

    def _resized(self, x: np.ndarray) -> np.ndarray:
        """The middle of a picture at the size that is asked for."""
        height, width = self.size
        scale = min(x.shape[1] / height, x.shape[2] / width)
        cut = round(scale * height), round(scale * width)
        top, left = ((side - kept) // 2 for side, kept in zip(x.shape[1:], cut, strict=True))
        x = x[:, top : top + cut[0], left : left + cut[1]]
        method = getattr(pillow().Resampling, self.resample.upper())
        if x.dtype == np.uint8 and len(x) in MODES:
            return _pixels(_as_pillow(x).resize((width, height), method))
        channels = [pillow().fromarray(np.ascontiguousarray(channel, dtype=np.float32)) for channel in x]
        values = np.stack([np.array(channel.resize((width, height), method), np.float64) for channel in channels])
        values = values if x.dtype.kind == "f" else values.round()
        return values.clip(x.min(), x.max()).astype(x.dtype)  # filters with negative weights overshoot

    def _coloured(self, x: np.ndarray) -> np.ndarray:
        """Channels as they are asked for."""
        if len(x) == 1 and self.channels == 3:
            return np.repeat(x, 3, 0)
        if x.dtype != np.uint8 or len(x) not in MODES:
            raise InputError(f"its {len(x)} channels of {x.dtype} do not become {self.channels}; convert them before")
        return self._of_pillow(_as_pillow(x))


def _pixels(picture: Any) -> np.ndarray:
    x = np.array(picture)
    return x[None] if x.ndim == 2 else np.ascontiguousarray(x.transpose(2, 0, 1))


def _as_pillow(x: np.ndarray) -> Any:
    return pillow().fromarray(np.ascontiguousarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)))


def _unpacked(content: bytes) -> Any:
    try:
        picture = pillow().open(io.BytesIO(content))
        picture.load()
    except DAMAGED as error:
        raise InputError(f"it is damaged or no picture ({error}); remove it, or copy it again") from error
    return picture


def planes(x: Shaped[np.ndarray, " ..."]) -> Shaped[np.ndarray, "channels height width"]:
    """A picture's array with its channels first: it has none, or 1 or 3 of them first, or 1, 3 or 4 last.

    >>> planes(np.zeros((5, 6, 3))).shape, planes(np.zeros((3, 5, 6))).shape, planes(np.zeros((5, 6))).shape
    ((3, 5, 6), (3, 5, 6), (1, 5, 6))

    Raises:
        InputError: it has another number of dimensions.
    """
    if x.ndim == 2:
        return x[None]
    if x.ndim != 3:
        raise InputError(f"an array of shape {x.shape} is no picture; give (height, width) or (channels, height, width)")
    first = x.shape[0] in (1, 3) or x.shape[2] not in MODES
    return x if first else np.ascontiguousarray(x.transpose(2, 0, 1))


def _sixteen_bits(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > DEEPEST:
        raise InputError(f"its values {values.min()}..{values.max()} are not those of 16 bits; scale them to 0..{DEEPEST}")
    return values.astype(np.uint16)


def pillow() -> Any:
    """Pillow's module of pictures.

    Raises:
        MissingExtraError: it is not installed.
    """
    return package("PIL.Image", extra="images", user="reading and resizing pictures", package="Pillow")
