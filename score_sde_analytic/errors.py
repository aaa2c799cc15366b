"""Mistakes that whoever calls the package can put right: each message names its cause and the way out.

The command line tells these in one line; any other exception is a defect of the package and keeps its traceback. Each kind is
also the built-in exception that stands for it, so that callers may catch either.
"""

from __future__ import annotations


class UserError(Exception):
    """Base of all expected mistakes."""


class InputError(UserError, ValueError):
    """An argument, a setting or the content of a file that cannot be right.

    >>> issubclass(InputError, ValueError)
    True
    """


class UnsupportedError(UserError, TypeError):
    """An object that cannot do what is asked of it, such as a covariance without a price."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that is not where it was looked for."""


class WriteError(UserError, OSError):
    """A file that cannot be written: no room, no permission, no such place."""


class MissingExtraError(UserError, ImportError):
    """A package of an optional extra that is not installed."""


class RunError(UserError, RuntimeError):
    """A run that cannot go on: a network that returns NaN, a loss or a solver that diverged, a limit that was reached."""


class PeerError(UserError, ConnectionError):
    """Another of the processes that share a run ended, and this one cannot go on alone."""
