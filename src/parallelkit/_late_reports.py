"""Reports of what has ended, while the worker is held up by the item that comes after it.

A worker reports between two runs of items. When it is inside of an item that takes an hour, or that waits for
what the caller does with the results before it, those must not wait with it. The clock's thread looks after
them: a few times in a second while the worker is busy, and never when it is not.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Protocol

from ._alarm import call_at

__all__ = ["LateReports"]

LOOK_SECONDS = 0.05
"""Whoever is at the same item when this has passed twice is held up."""


class Run(Protocol):
    """The items of a chunk, as they are run."""

    @property
    def ended(self) -> int:
        """How many have ended."""
        ...

    def report_late(self) -> None:
        """Report what has ended and was not reported. Called in another thread."""
        ...


class LateReports:
    """Looks after the runs of one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._ended = -1  # at the last look
        self._looking = False

    def begin(self, run: Run) -> None:
        with self._lock:
            self._run = run
            if not self._looking:
                self._look_later()

    def end(self) -> None:
        with self._lock:
            self._run = None
            self._ended = -1

    def _look_later(self) -> None:
        self._looking = True
        call_at(monotonic() + LOOK_SECONDS, self._look)

    def _look(self) -> None:
        with self._lock:
            run = self._run
            if run is None:
                self._looking = False
                return
            held_up = run.ended == self._ended
            self._ended = run.ended
        try:
            if held_up:
                run.report_late()
        finally:
            with self._lock:
                self._look_later()
