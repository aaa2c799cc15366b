"""The runtime checker of the test run: beartype on every function that declares jaxtyping shapes.

Other annotations are mypy's business: at run time a numpy scalar is no `NDArray`, and a wrong option must reach the
package's own error message.
"""

import inspect
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    shaped = any("Float[" in str(annotation) for annotation in inspect.get_annotations(function).values())
    return _beartype(function) if shaped else function
