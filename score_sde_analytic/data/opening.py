"""What a source of pictures is, from its path or its kind: each kind is opened by the package that made it, when it is met."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from score_sde_analytic.data.cifar10 import BATCH, is_batch, read_cifar10
from score_sde_analytic.data.examples import KEYS
from score_sde_analytic.data.readers import SUFFIXES, Arrays, Files, Items, Source, Table
from score_sde_analytic.data.sources import IDX, idx_files, read_idx
from score_sde_analytic.data.tar_files import Shards
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.extras import optional

#: What a folder of `datasets.save_to_disk` holds: one data set, or several parts.
SAVED, PARTS = "state.json", "dataset_dict.json"
KINDS = (
    "a folder of pictures, of tar files, of IDX files or of CIFAR-10's batches, a file .npz, .npy, .parquet or .tar, or a data"
    " set that `datasets` saved"
)


def opened(source: Any, column: str = "") -> Source:
    """The rows of a source.

    Args:
        column: that holds the pictures; "" for the usual one.

    Raises:
        MissingFileError, MissingExtraError, InputError: as `images`.

    >>> opened(torch.zeros(5, 3, 8, 8)).place(2)
    'the tensor, picture 2'
    """
    if isinstance(source, str | Path):
        return _of_path(Path(source).expanduser(), column)
    if isinstance(source, Tensor):
        return _arrays("the tensor", {"x": source}, column)
    if isinstance(source, np.ndarray):
        return _arrays("the array", {"x": source}, column)
    if isinstance(source, Mapping):
        return _of_mapping(source, column)
    return _of_data_set(source, column)


def _of_path(path: Path, column: str) -> Source:
    if not path.exists():
        raise MissingFileError(f"there is no {path}; give {KINDS}")
    if path.is_dir():
        return _of_folder(path, column)
    if path.match(IDX):
        return _idx([path])
    if is_batch(path):
        return _cifar10([path])
    if path.suffix not in FILES:
        alone = f"its folder, {path.parent}" if path.suffix.lower() in SUFFIXES else KINDS
        raise InputError(f"{path} is one file of a kind that holds no pictures by index; give {alone}")
    return FILES[path.suffix](path, column)


def _of_folder(path: Path, column: str) -> Source:
    if (path / SAVED).is_file() or (path / PARTS).is_file():
        saved = hub(str(path)).load_from_disk(str(path))
        return opened(saved, column) if not isinstance(saved, Mapping) else _parts(path, saved)
    tables, idx, tars = sorted(path.rglob("*.parquet")), idx_files(path), sorted(path.rglob("*.tar"))
    if idx:
        return _idx(idx)
    if batches := sorted(file for file in path.glob(BATCH) if is_batch(file) and file.is_file()):
        return _cifar10(batches)
    if tables:
        return _parquet(tables, column)
    if tars:
        return Shards(tars, column)
    files = Files(path)
    if not len(files):
        held = sorted(file.name for file in path.iterdir())[:3]
        inside = f"only {', '.join(held)}" if held else "nothing"
        raise InputError(f"{path} holds {inside}, no {', '.join(SUFFIXES[:3])} or other pictures; give {KINDS}")
    if column:
        raise InputError(f"{path} holds files of one picture each, which have no column {column!r}: leave it out")
    return files


def _parts(path: Path | str, saved: Mapping[str, Any]) -> Source:
    names = sorted(saved)
    raise InputError(f"{path} holds the parts {', '.join(names)}: give one, as images('{Path(path) / names[0]}')")


def _npz(path: Path, column: str) -> Source:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _arrays(str(path), dict(archive), column)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged or no file of numpy's ({error}); write it anew with np.savez") from error


def _npy(path: Path, column: str) -> Source:
    try:
        return _arrays(str(path), {"x": np.load(path, mmap_mode="r", allow_pickle=False)}, column)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged or no file of numpy's ({error}); write it anew with np.save") from error


def _parquet(paths: Path | Iterable[Path], column: str) -> Source:
    files = [str(path) for path in ([paths] if isinstance(paths, Path) else paths)]
    return opened(hub(files[0]).Dataset.from_parquet(files), column)


#: Suffix of a file -> what opens it.
FILES: dict[str, Callable[[Path, str], Source]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".parquet": _parquet,
    ".tar": lambda path, column: Shards([path], column),
}


def _idx(files: list[Path]) -> Source:
    """All IDX files of pictures, one after the other, with the labels beside them where every one has some."""
    pixels, labels = read_idx(files)
    arrays = {"x": pixels} if labels is None else {"x": pixels, "label": labels}
    return _arrays(str(files[0].parent), arrays, "x")


def _cifar10(files: list[Path]) -> Source:
    return _arrays(str(files[0].parent), read_cifar10(files), "x")


def _of_mapping(source: Mapping[str, Any], column: str) -> Source:
    if any(hasattr(part, "column_names") for part in source.values()):  # parts, of `datasets`
        names = sorted(source)
        raise InputError(f"the data set has the parts {', '.join(names)}: give one, as images(dataset[{names[0]!r}])")
    return _arrays("the data", source, column)


def _arrays(name: str, arrays: Mapping[str, Any], column: str) -> Source:
    stacks = [key for key, x in arrays.items() if np.ndim(x) in (3, 4)]
    if not stacks:
        shapes = ", ".join(f"{key} {np.shape(x)}" for key, x in arrays.items()) or "nothing"
        raise InputError(f"{name} holds {shapes}, no pictures (n, height, width) or (n, channels, height, width)")
    return Arrays(name, arrays, _chosen(name, stacks, column))


def _of_data_set(source: Any, column: str) -> Source:
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise InputError(
            f"{type(source).__name__} has no length and no index: write it to a memory map first, as in"
            " images(cached(source, 'folder'))"
        )
    names = getattr(source, "column_names", None)
    if len(source) == 0:
        raise InputError("the data set is empty; check its path and split")
    if isinstance(names, list) or isinstance(source[0], Mapping):
        return _table(source, tuple(names or source[0]), column)
    return Items(source)


def _table(source: Any, names: tuple[str, ...], column: str) -> Source:
    features = getattr(source, "features", None) or {}
    pictured = [name for name in names if type(features.get(name)).__name__ == "Image"]
    return Table(source, _chosen("the data set", pictured if len(pictured) > 1 else pictured or list(names), column), names)


def _chosen(name: str, candidates: list[str], column: str) -> str:
    """The column of pictures: as named, the only one, or the usual one."""
    usual = [key for key in KEYS if key in candidates]
    chosen = column or (candidates[0] if len(candidates) == 1 else usual[0] if len(usual) == 1 else "")
    if chosen not in candidates:
        known = ", ".join(map(repr, candidates))
        raise InputError(f"which of {known} of {name} holds the pictures? name it, as in images(.., column={candidates[0]!r})")
    return chosen


def hub(user: str) -> Any:
    """Hugging Face's `datasets`.

    Raises:
        MissingExtraError: it is not installed.
    """
    return optional("datasets", extra="hub", user=f"reading {user}", package="datasets")
