"""The runtime checker of the test run: beartype on every argument and result that declares a jaxtyping shape.

Other annotations are mypy's business: at run time a numpy scalar is no `NDArray`, and a wrong option must reach the
package's own error message.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

#: Float[, Int64[, Shaped[, ..: whatever kind of elements an array is declared to hold.
DTYPES = [name for name, kind in vars(jaxtyping).items() if issubclass(type(kind), type(jaxtyping.AbstractDtype))]
SHAPED = re.compile(rf"\b(?:{'|'.join(DTYPES)})\[")

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, checked in those of its annotations that have a shape; one without any is left as it is, at no cost."""
    shaped = {name: hint for name, hint in inspect.get_annotations(function).items() if SHAPED.search(str(hint))}
    if not shaped:
        return function
    function.__annotations__ = shaped
    return _beartype(function)
