"""Networks that are not ours to describe: built by a function of yours, or written whole as TorchScript."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from score_sde_analytic.checks import hint
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.extras import beside
from score_sde_analytic.models.checkpoints import checkpoint_file, first_line


def load_torchscript(path: str | Path) -> nn.Module:
    """A network of TorchScript, architecture and weights, on the host and in eval mode.

    Raises:
        MissingFileError: there is none.
        InputError: it is damaged, or not TorchScript.
    """
    file = checkpoint_file(Path(path).expanduser())
    try:
        return torch.jit.load(str(file), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{file} is no network of TorchScript ({first_line(error)}); read weights with load_weights"
        ) from error


def network_from(name: str, **settings: Any) -> Any:
    """What a function of yours builds: "module:FUNCTION", or "path/to/file.py:FUNCTION", called with the settings.

    >>> network_from("torch.nn:Linear", in_features=2, out_features=3).weight.shape
    torch.Size([3, 2])

    Raises:
        InputError: there is no such module or function, or it builds nothing that can be called.
    """
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise InputError(f"{name!r} is not of the form module:FUNCTION or file.py:FUNCTION")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    if not hasattr(module, function):
        near = hint(function, (known for known in dir(module) if not known.startswith("_")))
        raise InputError(f"{place} has no {function!r}{near}; give the function that builds the network")
    build: Callable[..., Any] = getattr(module, function)
    _require_call(name, build, settings)
    built = build(**settings)
    if not callable(built):
        raise InputError(f"{name} returned {type(built).__name__}, not a network; return a torch.nn.Module")
    return built


def _require_call(name: str, build: Any, settings: dict[str, Any]) -> None:
    if not callable(build):
        raise InputError(f"{name} is {type(build).__name__}, which cannot be called; give the function that builds the network")
    try:
        signature(build).bind(**settings)
    except TypeError as error:
        raise InputError(f"{name} cannot be called so ({error}); write a function of no arguments around it") from error
    except ValueError:  # of C, without a signature
        return


def _module(name: str) -> Any:
    try:
        with beside():
            return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"there is no module {name!r}; start where it lies, or give file.py:FUNCTION") from error


def _module_of_file(path: Path) -> Any:
    file = path.expanduser()
    if not file.is_file():
        raise MissingFileError(f"there is no {file}; check the path of file.py:FUNCTION")
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no file of Python")
    module = module_from_spec(spec)
    try:
        with beside(file.parent):
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(f"{file} is not Python (line {error.lineno}: {error.msg})") from error
    return module
