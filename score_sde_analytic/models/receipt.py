"""What a piece of work costs in network calls: receipts, open while the work runs.

Counters that are read before and after go wrong where a model is shared; a receipt is told of the calls made in its own
context (`contextvars`): of its own thread, and of its own block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Receipt:
    """Network calls of a block of work.

    Attributes:
        calls: calls of the network.
        evaluations: samples evaluated in them.
        vector_products: products with the network's Jacobian, one per sample.
    """

    calls: int = 0
    evaluations: int = 0
    vector_products: int = 0

    def add(self, calls: int = 0, evaluations: int = 0, vector_products: int = 0) -> None:
        """Count some more."""
        self.calls += calls
        self.evaluations += evaluations
        self.vector_products += vector_products


_OPEN: ContextVar[tuple[tuple[object, Receipt], ...]] = ContextVar("open receipts", default=())


@contextmanager
def metered(source: object) -> Iterator[Receipt]:
    """A receipt of all that `source` does inside the block; blocks may nest, and each counts all of it."""
    receipt = Receipt()
    token = _OPEN.set((*_OPEN.get(), (source, receipt)))
    try:
        yield receipt
    finally:
        _OPEN.reset(token)


def charge(source: object, calls: int = 0, evaluations: int = 0, vector_products: int = 0) -> None:
    """Enter costs of `source` on every open receipt of it."""
    for metered_source, receipt in _OPEN.get():
        if metered_source is source:
            receipt.add(calls, evaluations, vector_products)
