"""Packages that only some of this one needs: imported when first used, and named with their extra where they are absent.

And which versions of all of them decide the numbers.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from score_sde_analytic.errors import MissingExtraError

#: Packages whose versions belong to a result.
NUMERICAL = ("score_sde_analytic", "torch", "numpy", "scipy", "diffusers", "torchdiffeq", "torchsde")


def versions(packages: Iterable[str] = NUMERICAL) -> dict[str, str]:
    """Versions of Python and of those packages that are installed.

    >>> "python" in versions([])
    True
    """
    installed = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def installed(module: str) -> bool:
    """Whether a module can be imported.

    >>> installed("math"), installed("no_such_module")
    (True, False)
    """
    return find_spec(module) is not None


@contextmanager
def beside(folder: str | Path = "") -> Iterator[None]:
    """Modules of a folder, that of the moment by default, can be imported in the block, after all others.

    >>> with beside():
    ...     import math
    """
    sys.path.append(str(Path(folder).resolve()))
    try:
        yield
    finally:
        sys.path.pop()


def optional(module: str, *, extra: str, user: str, package: str = "") -> Any:
    """A module of a package that an extra installs.

    >>> optional("math", extra="ode", user="the flow").pi
    3.141592653589793

    Args:
        extra: of this package.
        user: what needs the module, for the message.
        package: its name where it is installed, if that is not the module's.

    Raises:
        MissingExtraError: the module, or something it imports, is absent.
    """
    try:
        return import_module(module)
    except ImportError as error:
        needed = package or module.partition(".")[0]
        raise MissingExtraError(f"{user} needs {needed} ({error}): pip install 'score_sde_analytic[{extra}]'") from error
