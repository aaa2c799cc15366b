"""Ctrl-C and SIGTERM as save points: work goes on to where its state is whole, is kept, and then ends.

A signal may arrive between any two lines, in the middle of a sum. Inside `save_points` it is only noted; at the next point it
takes effect as it would have anywhere else, after the state was kept. A second signal ends the work at once, and what was kept
before stands; while a state is being written it waits for that.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from score_sde_analytic.errors import PeerError

#: What ends a programme politely.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal ended the work; without a handler that raises it, SIGTERM ends a process without a word.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Stop:
    """A handler of signals: raises `Stopped`, and lets the programme end in peace: later signals are ignored.

    Attributes:
        number: of the signal that came.
    """

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        for name in SIGNALS:
            signal.signal(name, ignored)
        self.number = number
        raise Stopped(number)


def ignored(number: int, frame: FrameType | None = None) -> None:
    """A handler that does nothing: SIG_IGN would be told of a signal that is on its way already by an error."""


@dataclass
class _Points:
    """Signals that are noted until the state is whole.

    Attributes:
        noted: one that came.
        busy: while a state is written.
        ended: whether nothing can be kept any more: it was, or a second signal ended the work anywhere.
    """

    save: Callable[[], None]
    seconds: float
    noted: int | None = None
    busy: bool = False
    ended: bool = False
    saved: float = field(default_factory=time.monotonic)
    before: dict[int, Any] = field(default_factory=dict)

    def hold(self) -> None:
        """Note signals from now on; only the main thread receives any."""
        if not self.before and threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) or signal.SIG_DFL for number in SIGNALS}

    def release(self) -> None:
        """Let signals do what they did before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is None or self.busy:
            self.noted = number
        else:
            self.take_effect(number)

    def take_effect(self, number: int) -> None:
        """What the signal does elsewhere; on where its handler lets the work go on."""
        self.ended = True
        self.release()
        signal.raise_signal(number)
        self.ended, self.noted = False, None
        self.hold()

    def keep(self) -> None:
        """Write the state; a signal waits."""
        self.busy = True
        try:
            self.save()
        finally:
            self.busy = False
        self.saved = time.monotonic()

    def __call__(self) -> None:
        """The state is whole here: keep it where that is due, and end where a signal asked for it."""
        if self.noted is not None or time.monotonic() - self.saved > self.seconds:
            self.keep()
        if self.noted is not None:
            self.take_effect(self.noted)


@contextmanager
def save_points(
    save: Callable[[], None], kept: Callable[[], str], seconds: float = 30.0, dealt: bool = False
) -> Iterator[Callable[[], None]]:
    """Yields a function to call wherever the state is whole; an interruption takes effect there, after `save()`.

    Args:
        kept: what is kept and where, in words; a note of the interruption.
        seconds: how often the state is kept besides.
        dealt: whether the state is whole wherever results of other processes are waited for, and kept where one of them ended.

    >>> with save_points(lambda: None, lambda: "nothing") as point:
    ...     for step in range(3):
    ...         point()
    """
    points = _Points(save, seconds)
    points.hold()
    try:
        yield points
        if points.noted is not None:
            points()
    except PeerError:
        if dealt:
            points.keep()
        if dealt and points.noted is not None:  # told to stop as well, the other was the first to
            points.take_effect(points.noted)
        raise
    except KeyboardInterrupt as error:
        if not points.ended:
            points.hold()
            points.keep()
        error.add_note(kept())
        raise
    finally:
        points.release()


@contextmanager
def noted(kept: Callable[[], str], save: Callable[[], None] = lambda: None) -> Iterator[None]:
    """For work whose finished parts are whole at any line: an interruption takes effect at once, and says what is kept.

    >>> with noted(lambda: "finished cells are in compare/cells"):
    ...     pass
    """
    try:
        yield
    except KeyboardInterrupt as error:
        save()
        error.add_note(kept())
        raise


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise `Stopped` in the block of a programme; after that they are ignored, for it is ending.

    Where others turn it into an error of their own, as the import of a compiled module does, it is raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = Stop()
    before = {number: signal.signal(number, stop) or signal.SIG_DFL for number in SIGNALS}
    try:
        yield
    except Exception as error:
        if stop.number is not None:
            raise Stopped(stop.number) from error
        raise
    finally:
        if all(signal.getsignal(number) is stop for number in SIGNALS):
            for number, handler in before.items():
                signal.signal(number, handler)
