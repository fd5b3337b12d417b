"""Time limits of items that are plain functions: who runs too long is given up with his worker.

Coroutines need none of this: the worker itself cancels them.
"""

from __future__ import annotations

from collections.abc import Container
from functools import partial
from time import monotonic

from ._alarm import Alarm, call_at
from ._core.scheduler import Flight
from ._work import Work, task_timeout_error
from .backends.base import Backend

__all__ = ["watch"]

LEAST_SECONDS = 0.001
"""A flight is looked at no more often than this, however short the time of its items."""


def watch(
    flight: Flight, work: Work, in_flight: Container[int], alarms: dict[int, Alarm], backend: Backend
) -> None:
    """Give up the worker of this flight when one of its items is over its time.

    Args:
        in_flight: the numbers of the chunks that have not landed.
        alarms: where the alarm is left, by the number of the chunk, to be cancelled when that lands.
    """
    assert work.task_timeout is not None
    now = monotonic()
    running = backend.running(flight.chunk_id)
    started, since = (0, now) if running is None or not running[0] else running
    if started and since + work.task_timeout <= now:
        error = task_timeout_error(work, flight.chunk.start + started - 1)
        if backend.abandon(flight.chunk_id, started, error):
            return
        since = now  # it was through with that item after all
    when = since + max(work.task_timeout, LEAST_SECONDS)
    look_again = partial(_look_again, flight, work, in_flight, alarms, backend)
    alarms[flight.chunk_id] = call_at(when, look_again)


def _look_again(
    flight: Flight, work: Work, in_flight: Container[int], alarms: dict[int, Alarm], backend: Backend
) -> None:
    alarms.pop(flight.chunk_id, None)
    if flight.chunk_id in in_flight:
        watch(flight, work, in_flight, alarms, backend)
