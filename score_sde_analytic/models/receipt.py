"""What a block of work asks of a network: receipts of its cost, and observers of its answers, open while the block runs.

Counters that are read before and after go wrong where a model is shared. A receipt is told of what happens in its own context
(`contextvars`): in its own thread, and inside its own block. A thread that works for a block, as one of a pool's, joins it by
running in a copy of its context: `pool.submit(contextvars.copy_context().run, work)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

from score_sde_analytic import processes

T = TypeVar("T")

#: Threads that share a block may count at the same moment.
_LOCK = Lock()


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
        """Count some more.

        >>> receipt = Receipt(calls=1)
        >>> receipt.add(calls=1, evaluations=64)
        >>> receipt
        Receipt(calls=2, evaluations=64, vector_products=0)
        """
        with _LOCK:
            self.calls += calls
            self.evaluations += evaluations
            self.vector_products += vector_products


class _Listeners(Generic[T]):
    """Who listens to a source, each for a block of its own."""

    def __init__(self, name: str) -> None:
        self._open: ContextVar[tuple[tuple[object, T], ...]] = ContextVar(name, default=())

    @contextmanager
    def listening(self, source: object, listener: T) -> Iterator[T]:
        """Listen while the block runs, however it ends."""
        token = self._open.set((*self._open.get(), (source, listener)))
        try:
            yield listener
        finally:
            self._open.reset(token)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let nobody listen while the block runs."""
        token = self._open.set(())
        try:
            yield
        finally:
            self._open.reset(token)

    def of(self, source: object) -> list[T]:
        """Those that listen to this very object, or to one that it is a view of, the outermost first."""
        listening = self._open.get()
        return [listener for one, listener in listening if _sees(one, source)] if listening else []


def _sees(one: object, source: object) -> bool:
    """Whether `source` is this object, or a view of it, directly or in turn."""
    while source is not one and source is not None:
        source = getattr(source, "viewed", None)
    return source is not None


_RECEIPTS: _Listeners[Receipt] = _Listeners("open receipts")
_OBSERVERS: _Listeners[Callable[[Any], object]] = _Listeners("observers")


@contextmanager
def metered(source: object) -> Iterator[Receipt]:
    """A receipt of all that `source` does inside the block; blocks may nest, and each counts all of it.

    A receipt is complete when its block ends, by an exception too: work that was charged before it stays charged.
    """
    with _RECEIPTS.listening(source, Receipt()) as receipt:
        yield receipt


def charge(source: object, calls: int = 0, evaluations: int = 0, vector_products: int = 0) -> None:
    """Enter costs of `source` on every open receipt of it."""
    for receipt in _RECEIPTS.of(source):
        receipt.add(calls, evaluations, vector_products)


def dealt(
    source: object,
    work: Callable[[T], Any],
    items: Iterable[T],
    stream: Callable[[Callable[[T], Any], Iterable[T]], Iterable[Any]] = map,
) -> Iterator[Any]:
    """`processes.dealt`; receipts of `source` count what all processes asked of it, so that costs are the same everywhere."""
    if processes.count() == 1:
        yield from stream(work, items)
        return

    def metered_stream(work: Callable[[T], Any], mine: Iterable[T]) -> Iterator[tuple[Any, Receipt, int]]:
        results = iter(stream(work, mine))
        for _ in mine:
            with metered(source) as cost:
                result = next(results)
            yield result, Receipt(**vars(cost)), processes.number()

    for result, cost, process in processes.dealt(work, items, metered_stream):
        if process != processes.number():
            charge(source, **vars(cost))
        yield result


@contextmanager
def watched(source: object, observer: Callable[[Any], object]) -> Iterator[None]:
    """`observer(answer)` for each answer of `source` inside the block, in order; what it raises ends the work."""
    with _OBSERVERS.listening(source, observer):
        yield


@contextmanager
def unheard() -> Iterator[None]:
    """A block of which no receipt and no observer outside it hears, as of work that is recorded and not done."""
    with _RECEIPTS.closed(), _OBSERVERS.closed():
        yield


def show(source: object, answer: Any) -> None:
    """Show an answer of `source` to all who watch it."""
    for observer in _OBSERVERS.of(source):
        observer(answer)
