"""Other packages as far as tests need them: imported with stand-ins for what they import and this machine may lack."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import pytest


class _Anything(ModuleType):
    """A module in which every name is there, and is nothing."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def standing_in(*absent: str) -> Iterator[None]:
    """Stand-ins for those of these modules that are absent, for the time of the block."""
    parts = [".".join(name.split(".")[: i + 1]) for name in absent for i in range(name.count(".") + 1)]
    before = dict(sys.modules)
    missing = [name for name in parts if find_spec(name.partition(".")[0]) is None]
    try:
        for name in missing:
            sys.modules[name] = _Anything(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


def load(module: str, *absent: str) -> ModuleType:
    """A module of another package; the test is skipped where the package is absent.

    Args:
        absent: what it imports and does not need here.
    """
    package = module.partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with standing_in(*absent):
        return importlib.import_module(module)


def part(package: str, module: str, *absent: str) -> ModuleType:
    """A module of a package whose own __init__ would import more than can stand in: that of the package is passed by."""
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    whole = ModuleType(package)
    whole.__path__ = list(spec.submodule_search_locations or [])
    before = {name: sys.modules[name] for name in sys.modules if name.partition(".")[0] == package}
    try:
        sys.modules[package] = whole
        with standing_in(*absent):
            return importlib.import_module(f"{package}.{module}")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        sys.modules.update(before)
