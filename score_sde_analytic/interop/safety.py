"""What a pipeline's folder may hold before anything in it is opened: no code, no pickles, no way out of the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.files import read_plain_json

INDEX = "model_index.json"
#: Ends of files that run code when they are opened, or are code.
CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".msgpack", ".h5", ".py", ".pyc", ".so", ".npz")
LIBRARIES = ("diffusers", "transformers")
WITHOUT = "save it again with safetensors alone, pipe.save_pretrained(folder, safe_serialization=True)"
RESTORE = "get the folder anew from where it comes from"


def vetted(directory: str | Path) -> Path:
    """The folder, fit to be loaded.

    Raises:
        MissingFileError: there is no pipeline in it.
        InputError: pickled weights or code, links or names that lead out of it, or components of other packages.
    """
    folder = Path(directory)
    if not (folder / INDEX).is_file():
        raise MissingFileError(f"no {INDEX} in {folder}; name the folder that save_pipeline or save_pretrained wrote")
    for path in sorted(folder.rglob("*")):
        _require_harmless(path, folder)
    _require_known(read_plain_json(folder / INDEX, "index of a pipeline", {"_class_name": str, str: object}, RESTORE), folder)
    return folder


def _require_harmless(path: Path, folder: Path) -> None:
    if path.suffix.lower() in CODE:
        raise InputError(f"{path} is a pickle or code, which runs when it is opened; {WITHOUT}")
    if path.is_symlink() and not any(path.resolve().is_relative_to(root) for root in _roots(folder)):
        raise InputError(f"{path} is a link out of the folder, to {path.resolve()}; {RESTORE}")
    if path.name.endswith(".index.json"):
        shards = read_plain_json(path, "index of shards", {"weight_map": {str: str}, str: object}, RESTORE)["weight_map"]
        for shard in sorted(set(shards.values())):
            _require_name(shard, path)


def _roots(folder: Path) -> Iterator[Path]:
    """Where links may lead: within the folder, and from a snapshot of the hub to its blobs."""
    yield folder.resolve()
    if folder.resolve().parent.name == "snapshots":
        yield folder.resolve().parents[1] / "blobs"


def _require_name(name: str, path: Path) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name or ":" in name:
        raise InputError(f"{path} names the file {name!r}, which leads out of its folder; {RESTORE}")


def _require_mappings(component: Path) -> None:
    """A component's configs are mappings: diffusers takes a bare name for one on the hub."""
    for path in sorted(component.glob("*config.json")):
        read_plain_json(path, "config of a component", {str: object}, RESTORE)


def _require_known(index: dict[str, Any], folder: Path) -> None:
    """A pipeline of diffusers, of components of diffusers and transformers, each in a folder of its own name."""
    import diffusers
    from diffusers import pipelines

    kind = getattr(diffusers, index["_class_name"], None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise InputError(f"{folder / INDEX} names {index['_class_name']!r}, which is no pipeline of diffusers; {RESTORE}")
    for name, told in index.items():
        if not isinstance(told, list):
            continue
        library = told[0] if told else None
        if not name.isidentifier():
            raise InputError(f"{folder / INDEX} names the component {name!r}, which leads out of the folder; {RESTORE}")
        _require_mappings(folder / name)
        if library is not None and library not in LIBRARIES and not hasattr(pipelines, str(library)):
            raise InputError(f"{folder / INDEX} takes {name} from {library!r}, a package that is not loaded from; {RESTORE}")
