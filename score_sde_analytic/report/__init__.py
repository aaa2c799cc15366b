"""Pictures of curves, variances, bounds and samples; the HTML page of a comparison of solvers.

Tables need nothing; what draws and writes pages needs the extra "report".
"""

from importlib import import_module
from typing import Any

from score_sde_analytic.extras import optional

DRAWS_WITH = ("matplotlib", "contourpy", "jinja2")


def drawing(module: str, user: str) -> Any:
    """A module of this room, once all that it draws with is there.

    >>> drawing("figures", user="a picture").__name__
    'score_sde_analytic.report.figures'

    Raises:
        MissingExtraError: the extra "report" is not installed.
    """
    for package in DRAWS_WITH:
        optional(package, extra="report", user=user)
    return import_module(f"{__name__}.{module}")
