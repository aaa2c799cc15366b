"""Packages that only some of this one needs: imported when first used, and named with their extra where they are absent."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from score_sde_analytic.errors import MissingExtraError


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
