"""Signals inside `save_points`: nothing is torn, what is whole is kept, and each signal then does what it does elsewhere."""

from __future__ import annotations

import signal
import threading

import pytest

from score_sde_analytic.interruption import SIGNALS, Stopped, ended_by_signals, ignored, noted, save_points


class Work:
    """Two sums that are equal wherever the state is whole."""

    def __init__(self, signals=(), in_save=(), raising=None):
        self.signals = dict(signals)
        self.in_save = list(in_save)
        self.raising = raising
        self.first = self.second = 0
        self.kept = []

    def save(self):
        if self.in_save:
            signal.raise_signal(self.in_save.pop())
        self.kept.append((self.first, self.second))

    def run(self, steps=6, seconds=1e9):
        with save_points(self.save, lambda: f"{self.first} steps are kept", seconds) as point:
            for step in range(steps):
                if step == self.raising:
                    raise KeyboardInterrupt
                self.first += 1
                for number in self.signals.get(step, ()):
                    signal.raise_signal(number)
                self.second += 1
                point()


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_signals_nothing_is_kept_before_its_time():
    before = [signal.getsignal(number) for number in SIGNALS]
    work = Work()
    work.run()
    assert work.kept == []
    work.run(seconds=-1.0)
    assert len(work.kept) == 6
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_waits_until_the_state_is_whole():
    work = Work({3: [signal.SIGINT]})
    with pytest.raises(KeyboardInterrupt) as caught:
        work.run()
    assert work.kept == [(4, 4)]
    assert caught.value.__notes__ == ["4 steps are kept"]


def test_a_second_signal_ends_the_work_at_once_and_keeps_no_torn_state():
    work = Work({3: [signal.SIGINT, signal.SIGINT]})
    with pytest.raises(KeyboardInterrupt):
        work.run()
    assert (work.first, work.second) == (4, 3)
    assert work.kept == []


def test_a_second_signal_waits_while_the_state_is_written():
    work = Work({3: [signal.SIGINT]}, in_save=[signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        work.run()
    assert work.kept == [(4, 4)]


def test_an_interruption_raised_by_the_work_keeps_what_is_whole():
    work = Work(raising=2)
    with pytest.raises(KeyboardInterrupt):
        work.run()
    assert work.kept == [(2, 2)]


def test_a_handler_that_lets_the_work_go_on_does():
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    work = Work({1: [signal.SIGTERM], 4: [signal.SIGTERM]})
    work.run()
    assert heard == [signal.SIGTERM] * 2
    assert work.kept == [(2, 2), (5, 5)]


def test_work_in_another_thread_hears_no_signal():
    work = Work()
    thread = threading.Thread(target=work.run)
    thread.start()
    thread.join()
    assert work.second == 6


@pytest.mark.parametrize("number", SIGNALS)
def test_a_programme_is_ended_once(number):
    work = Work({2: [number]})
    with pytest.raises(Stopped) as caught, ended_by_signals(), noted(lambda: "and cells"):
        work.run()
    assert caught.value.number == number
    assert caught.value.__notes__ == ["3 steps are kept", "and cells"]
    assert signal.getsignal(number) is ignored  # the programme is ending


@pytest.mark.parametrize("number", SIGNALS)
def test_what_others_make_of_an_interruption_is_one(number):
    """pybind11 raises ImportError where a module that it imports is interrupted."""
    with pytest.raises(Stopped) as caught, ended_by_signals():
        try:
            signal.raise_signal(number)
        except Stopped:
            raise ImportError("initialization") from None
    assert caught.value.number == number
    assert str(caught.value.__cause__) == "initialization"


def test_an_error_of_a_programme_stays_what_it_is():
    with pytest.raises(ImportError, match="of its own"), ended_by_signals():
        raise ImportError("of its own")


def test_a_programme_that_ends_by_itself_leaves_the_handlers():
    before = [signal.getsignal(number) for number in SIGNALS]
    with ended_by_signals():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before
