"""One clock thread for the whole process: calls a function at a time, if it is still wanted then.

It sleeps until the earliest time that somebody asked for, and does not exist before somebody asks. Asking
takes no lock and waits for nothing, so a finalizer or a signal handler may ask in the middle of anything.
"""

from __future__ import annotations

import _thread
import os
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from heapq import heapify, heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic

__all__ = ["Alarm", "call_at", "call_soon"]


class Alarm:
    """A call that is due at `when` (seconds of `time.monotonic`), unless it is cancelled before."""

    __slots__ = ("function", "when")

    def __init__(self, when: float, function: Callable[[], object]):
        self.when = when
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        self.function = None


class _Clock:
    def __init__(self) -> None:
        self._asked: SimpleQueue[Alarm] = SimpleQueue()
        self._running = threading.Lock()  # held by the thread
        # The thread's own:
        self._due: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._most = 64  # so many may be due before the cancelled ones are swept out

    def add(self, alarm: Alarm) -> None:
        self._asked.put(alarm)
        if not self._running.locked():
            with suppress(RuntimeError):  # the interpreter is going down, and with it all that could be late
                # Not threading.Thread, whose start() waits for the new thread: for ever, in a finalizer.
                _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        # Of threads that were started at once, all but one end here. And who asked just before the release
        # did not start one. It is the thread that takes the lock, and not who starts it, because Ctrl-C may
        # come to him in between.
        while not self._asked.empty() and self._running.acquire(blocking=False):
            self._ring()
            self._running.release()

    def _ring(self) -> None:
        """Wait and call until nothing is due any more."""
        due = self._due
        while True:
            while not self._asked.empty():  # all: one that is late is not to ring before an earlier one
                self._take_in(self._asked.get())
            while due and due[0][2].function is None:
                heappop(due)
            if not due:
                return
            wait = due[0][0] - monotonic()
            if wait <= 0:
                _call(heappop(due)[2])
                continue
            try:
                self._take_in(self._asked.get(timeout=min(wait, threading.TIMEOUT_MAX)))
            except Empty:
                pass

    def _take_in(self, alarm: Alarm) -> None:
        due = self._due
        heappush(due, (alarm.when, next(self._numbers), alarm))
        if len(due) > self._most:
            due[:] = [entry for entry in due if entry[2].function is not None]
            heapify(due)
            self._most = 2 * len(due) + 64


def _call(alarm: Alarm) -> None:
    function = alarm.function
    if function is not None:
        try:
            function()
        except BaseException:  # the others must ring all the same
            traceback.print_exc()


_clock = _Clock()


def call_at(when: float, function: Callable[[], object]) -> Alarm:
    """Call `function` in the clock's thread at `when` (seconds of `time.monotonic`). It must not wait."""
    alarm = Alarm(when, function)
    _clock.add(alarm)
    return alarm


def call_soon(function: Callable[[], object]) -> Alarm:
    """Call `function` in the clock's thread, as soon as that comes to it."""
    return call_at(0.0, function)


def _start_afresh() -> None:
    """A forked child has no clock thread, and must not ring the alarms of its parent."""
    global _clock
    _clock = _Clock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
