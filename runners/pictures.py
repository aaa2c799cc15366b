"""Pictures as they lie in a folder or in a file of arrays, to the last bit: read for --mode=compress, written back after."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Shaped

from score_sde_analytic.data.pictures import pillow
from score_sde_analytic.data.readers import SUFFIXES, Files
from score_sde_analytic.declared import require_shape
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.files import write_bytes

#: Modes of Pillow whose pixels are those of another, which has as many channels as a network.
PLAIN = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
CHANNELS = {"L": 1, "RGB": 3}
SIDE = range(1, 2**24)
#: What a file says of its pictures.
SHAPE = (
    {"folder": [[object]]},
    {"npz": {"name": str, "dtype": {"uint8", "uint16"}, "layout": {"nhw", "nchw", "nhwc"}, "height": SIDE, "width": SIDE}},
)
CURE = "take an undamaged copy"
INPUT, OUTPUT = "--config.code.input=PATH", "--config.code.output=PATH"
#: Suffixes of files of one array.
STACKED = (".npz", ".npy")


@dataclass(frozen=True)
class Pictures:
    """Some pictures (channels, height, width), and what a file says of how they lay there."""

    arrays: list[np.ndarray]
    about: dict[str, Any]

    @classmethod
    def read(cls, source: Path) -> Pictures:
        """Those of a folder, of a file .npz or .npy, or one picture.

        Raises:
            MissingFileError: there is none.
            InputError: they are not of 8 bits, or have an opacity.
        """
        if not source.exists():
            raise MissingFileError(f"there is no {source}: give a folder of pictures, or a file .npz or .npy, {INPUT}")
        if source.is_dir():
            return cls._of_folder(source)
        if source.name.lower().endswith(SUFFIXES):
            return cls._of_files(source.parent, [Path(source.name)])
        return cls._of_arrays(source)

    @classmethod
    def _of_folder(cls, folder: Path) -> Pictures:
        files = Files(folder).files
        if not files:
            raise InputError(f"{folder} holds no pictures that are known by their suffix; give another folder, or a file .npz")
        return cls._of_files(folder, files)

    @classmethod
    def _of_files(cls, folder: Path, files: Sequence[Path]) -> Pictures:
        arrays = [_pixels(folder / file) for file in files]
        names = [PurePosixPath(file).with_suffix("").as_posix() for file in files]
        twice = next((name for name in names if names.count(name) > 1), "")
        if twice:
            raise InputError(f"{folder} holds two files of the name {twice}, and one would replace the other: rename one")
        return cls(arrays, {"folder": [[name, *array.shape[1:]] for name, array in zip(names, arrays, strict=True)]})

    @classmethod
    def _of_arrays(cls, path: Path) -> Pictures:
        arrays = _arrays(path)
        stacks = {name: x for name, x in arrays.items() if x.ndim in (3, 4) and x.dtype in (np.uint8, np.uint16) and x.size}
        if len(stacks) != 1:
            held = ", ".join(f"{name} {x.dtype} {x.shape}" for name, x in arrays.items()) or "nothing"
            raise InputError(f"{path} holds {held}; need one array of uint8, (n, height, width), with channels or without")
        ((name, stack),) = stacks.items()
        layout = _layout(stack)
        planes = _planes(stack, layout)
        about = {"name": name, "dtype": str(stack.dtype), "layout": layout, "height": planes.shape[2], "width": planes.shape[3]}
        return cls(list(planes), {"npz": about})

    @staticmethod
    def sizes(about: dict[str, Any], tiles: int, tile: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of every picture that a file tells of, where it holds so many tiles of a size.

        Raises:
            InputError: it tells of none.
        """
        require_shape(about, SHAPE, "what it says of its pictures", CURE)
        if "npz" in about:
            _require_inside(about["npz"]["name"])
            size = about["npz"]["height"], about["npz"]["width"]
            each = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
            return [size] * (tiles // each)
        for entry in about["folder"]:
            require_shape(dict(_by_name(entry)), {"name": str, "height": SIDE, "width": SIDE}, "a picture's entry", CURE)
            _require_inside(entry[0])
        return [(height, width) for _, height, width in about["folder"]]

    def write(self, target: Path) -> list[Path]:
        """To a folder, or to a file .npz or .npy, in place of what is there; each file is whole or absent.

        Raises:
            InputError: a file where a folder is to be, or pictures of several sizes in one array.
        """
        require_target(target, [array.shape[1:] for array in self.arrays])
        if target.suffix in STACKED:
            return [self._write_arrays(target)]
        entries = self.about.get("folder") or [[f"{i:06d}"] for i in range(len(self.arrays))]
        for (name, *_), array in zip(entries, self.arrays, strict=True):
            write_bytes(target / f"{name}.png", _png(array, name))
        return [target]

    def _write_arrays(self, target: Path) -> Path:
        about = self.about.get("npz", {"name": "x", "dtype": "uint8", "layout": "nchw"})
        planes = np.stack(self.arrays).astype(about["dtype"])
        layout = about["layout"]
        stack = planes[:, 0] if layout == "nhw" else planes.transpose(0, 2, 3, 1) if layout == "nhwc" else planes
        entry = io.BytesIO()
        np.save(entry, np.ascontiguousarray(stack))
        write_bytes(target, entry.getvalue() if target.suffix == ".npy" else _npz(about["name"], entry.getvalue()))
        return target


def require_target(target: Path, sizes: Sequence[Sequence[int]]) -> None:
    """Refuse a place that pictures of these sizes cannot be written to.

    Raises:
        InputError: a file where a folder is to be, or the other way round, or pictures of several sizes in one array.
    """
    stacked = target.suffix in STACKED
    if stacked and target.is_dir():
        raise InputError(f"{target} is a folder, where a file is to be: name another, {OUTPUT}")
    if not stacked and target.is_file():
        raise InputError(f"{target} is a file, where a folder is to be: name one for pictures, or a file .npz, {OUTPUT}")
    require_below(target)
    if stacked and len(set(map(tuple, sizes))) > 1:
        raise InputError(f"these pictures are of several sizes, and {target} holds one array: name a folder, {OUTPUT}")


def require_below(target: Path) -> None:
    """Refuse a place below a file.

    Raises:
        InputError: it is.
    """
    file = next((folder for folder in target.parents if folder.is_file()), None)
    if file is not None:
        raise InputError(f"{target} cannot be written, for {file} is a file and no folder: name another place, {OUTPUT}")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Of a file .npz by their names, or that of a file .npy; what numpy says of others is advice to run them."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        said = f" ({error})" if isinstance(error, OSError) else ""
        raise InputError(f"{path} is no file of numpy's, or damaged{said}; write it with np.savez, or give a folder") from error


def _npz(name: str, entry: bytes) -> bytes:
    """An archive of one array."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", entry)
    return held.getvalue()


def _by_name(entry: Sequence[Any]) -> list[tuple[str, Any]]:
    """A picture's entry by names."""
    return list(zip(("name", "height", "width"), entry, strict=False))


def _require_inside(name: str) -> None:
    """Refuse a name that leads out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.name or {"..", "."} & set(path.parts) or "\\" in name or ":" in name or "\0" in name:
        raise InputError(f"it names a picture {name!r}, which leads out of the folder; {CURE}")


def _pixels(path: Path) -> np.ndarray:
    """A picture's pixels, (channels, height, width)."""
    try:
        with pillow().open(path) as picture:
            mode = picture.mode
            if mode not in PLAIN or "transparency" in picture.info:
                raise InputError(
                    f"{path} is of Pillow's mode {mode}{' with transparency' * ('transparency' in picture.info)}: only grey and"
                    " colour of 8 bits are coded; lay it on a background, or convert it"
                )
            if getattr(picture, "n_frames", 1) > 1:
                raise InputError(f"{path} has several frames, of which one would be kept; split it into pictures")
            x = np.asarray(picture.convert(PLAIN[mode]))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a picture ({error}); take it out, or replace it") from error
    return x[None] if x.ndim == 2 else np.ascontiguousarray(x.transpose(2, 0, 1))


def _layout(stack: Shaped[np.ndarray, " ..."]) -> str:
    if stack.ndim == 3:
        return "nhw"
    return "nchw" if stack.shape[1] in CHANNELS.values() or stack.shape[3] not in CHANNELS.values() else "nhwc"


def _planes(stack: Shaped[np.ndarray, " ..."], layout: str) -> Shaped[np.ndarray, "n c h w"]:
    return stack[:, None] if layout == "nhw" else stack.transpose(0, 3, 1, 2) if layout == "nhwc" else stack


def _png(array: Shaped[np.ndarray, "c h w"], name: str) -> bytes:
    if array.max(initial=0) > 255:
        raise InputError(f"the picture {name} has more than 8 bits: name a file .npz")
    pixels = array.astype(np.uint8)
    held = io.BytesIO()
    pillow().fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(held, "PNG")
    return held.getvalue()
