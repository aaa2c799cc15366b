"""The runtime checker of the test run: beartype on every function that declares jaxtyping shapes.

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
    """The function, checked if one of its annotations has a shape; all others are left as they are, at no cost."""
    shaped = any(SHAPED.search(str(annotation)) for annotation in inspect.get_annotations(function).values())
    return _beartype(function) if shaped else function
