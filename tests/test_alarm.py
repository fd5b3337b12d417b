"""The clock: rings in order, whatever those do that it calls, and keeps nothing that is cancelled."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from time import monotonic, sleep

import pytest

from parallelkit import _alarm
from parallelkit._alarm import Alarm, call_at, call_soon

pytestmark = pytest.mark.timeout(30)


class Clock(_alarm._Clock):
    """One of the test's own: whoever else in this process asks for a call asks the one of the module."""

    def at(self, when: float, function: Callable[[], object]) -> Alarm:
        alarm = Alarm(when, function)
        self.add(alarm)
        return alarm

    def soon(self, function: Callable[[], object]) -> Alarm:
        return self.at(0.0, function)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gone(clock: Clock) -> bool:
    """Wait until the thread has ended."""
    until = monotonic() + 20
    while clock._running.locked() or not clock._asked.empty():
        if monotonic() > until:
            return False
        sleep(0.001)
    return True


def test_it_calls_in_the_order_of_time_and_ends(clock: Clock) -> None:
    rung: list[str] = []
    hold = threading.Event()
    clock.soon(hold.wait)  # so that all are known before the first of them is due
    now = monotonic()
    for name, when in (("c", now + 0.003), ("a", now + 0.001), ("b", now + 0.002)):
        clock.at(when, lambda name=name: rung.append(name))  # type: ignore[misc]
    hold.set()
    assert gone(clock)
    assert rung == ["a", "b", "c"]


def test_what_is_cancelled_does_not_ring_and_is_not_kept(clock: Clock) -> None:
    class Thing:
        def ring(self) -> None:
            raise AssertionError("it was cancelled")

    thing = Thing()
    seen = weakref.ref(thing)
    clock.at(monotonic() + 3600, thing.ring).cancel()
    del thing
    assert seen() is None
    rung = threading.Event()
    clock.soon(rung.set)
    assert rung.wait(20)
    assert gone(clock), "it does not wait for what is cancelled"


def test_who_raises_does_not_stop_it(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    rung = threading.Event()
    clock.soon(lambda: 1 / 0)
    clock.soon(rung.set)
    assert rung.wait(20)
    assert gone(clock)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_many_that_are_cancelled_are_swept_out(clock: Clock) -> None:
    hold, held = threading.Event(), threading.Event()
    clock.soon(lambda: (held.set(), hold.wait()))
    assert held.wait(20)
    later = monotonic() + 3600
    last = [clock.at(later, print) for _ in range(10)]
    for _ in range(5000):
        clock.at(later, print).cancel()
    hold.set()
    rung = threading.Event()
    clock.soon(rung.set)
    assert rung.wait(20)
    assert len(clock._due) < 200
    for alarm in last:
        alarm.cancel()
    clock.soon(print)
    assert gone(clock)


def test_it_may_be_asked_while_it_calls(clock: Clock) -> None:
    left = [5]

    def again() -> None:
        left[0] -= 1
        if left[0]:
            clock.soon(again)

    clock.soon(again)
    assert gone(clock)
    assert left == [0]


def test_many_threads_ask_and_all_ring(clock: Clock) -> None:
    rung: list[int] = []

    def ask(add: Callable[[int], object], number: int) -> None:
        for _ in range(200):
            clock.soon(lambda: add(number))

    threads = [threading.Thread(target=ask, args=(rung.append, number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert gone(clock)
    assert len(rung) == 1600


def test_there_is_one_for_all() -> None:
    rung = threading.Event()
    late = call_at(monotonic() + 3600, print)
    call_soon(rung.set)
    assert rung.wait(20)
    late.cancel()
    late_enough = threading.Event()
    call_at(monotonic() + 0.001, late_enough.set)
    assert late_enough.wait(20)
