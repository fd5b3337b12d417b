"""One clock thread for the whole process: calls a function at a time, if it is still wanted then.

It sleeps until the earliest time that somebody asked for, and does not exist before somebody asks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from time import monotonic

__all__ = ["Alarm", "call_at"]


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
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._thread: threading.Thread | None = None

    def add(self, alarm: Alarm) -> None:
        with self._changed:
            heappush(self._due, (alarm.when, next(self._numbers), alarm))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="parallelkit-clock", daemon=True)
                self._thread.start()
            elif self._due[0][2] is alarm:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._due and self._due[0][2].function is None:
                    heappop(self._due)
                if not self._due:
                    self._thread = None
                    return
                wait = self._due[0][0] - monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                function = heappop(self._due)[2].function
            if function is not None:
                function()


_clock = _Clock()


def call_at(when: float, function: Callable[[], object]) -> Alarm:
    """Call `function` in the clock's thread at `when` (seconds of `time.monotonic`). It must not wait."""
    alarm = Alarm(when, function)
    _clock.add(alarm)
    return alarm


def _start_afresh() -> None:
    """A forked child has no clock thread, and must not ring the alarms of its parent."""
    global _clock
    _clock = _Clock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
