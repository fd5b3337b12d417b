"""How worker processes end: how that is asked for, what is said of it, and when it was too often."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import connection
from time import sleep
from typing import Any

from ..errors import InitializerFailed, WorkerDied

__all__ = [
    "ATTEMPTS",
    "TOO_MANY",
    "DeadlyFunctions",
    "died",
    "dies_at_start",
    "poll_one_at_a_time",
    "reap",
    "start_failed",
    "weight",
]

ATTEMPTS = 3
"""So many workers in a row may die before they are ready; then no more are started. So many may die of
reading one function; then it is not sent any more."""

KILLED_ATTEMPTS = 10
"""So many where they are killed from outside, which says little of what they were doing."""

REMEMBERED = 100
"""Of so many functions it is known that workers died of them; those that are sent once never come again."""


TOO_MANY = ATTEMPTS * KILLED_ATTEMPTS
"""Of deaths, each of which counts as `weight` says."""


def weight(exitcode: int | None) -> int:
    """How much a death counts."""
    return ATTEMPTS if exitcode in (-signal.SIGKILL, -signal.SIGTERM) else KILLED_ATTEMPTS


def poll_one_at_a_time(process: Any) -> None:
    """Have one thread at a time ask for the exit code of this process.

    Whoever starts a process with multiprocessing, in any thread, has it look after all children. With the
    fork server the code is read from a pipe. Of two that read at once, the later would find the end of it and
    note 255; or it would read what has that number by then: the id of a process that is being started.
    """
    if not hasattr(os, "WNOHANG"):  # not a system where codes are handed out once
        return
    popen = process._popen
    poll, polling = popen.poll, threading.RLock()

    def poll_alone(flag: int = os.WNOHANG) -> int | None:
        if flag != os.WNOHANG and popen.returncode is None:
            connection.wait([popen.sentinel])
        with polling:
            exitcode: int | None = poll(flag)
            return exitcode

    popen.poll = poll_alone


def reap(process: Any) -> int | None:
    """Wait for a process that has ended; its exit code, None where that is not to be had.

    Whoever starts a process with multiprocessing, in any thread, has it look after all children. It may take
    the exit code between two steps of ours, and is then about to write it down. Or other code took it.
    """
    for _ in range(1000):
        process.join()
        exitcode: int | None = process.exitcode
        if exitcode is not None:
            return exitcode
        sleep(0.001)
    return None


class DeadlyFunctions:
    """Functions of which workers died while they read them, without one that was through with it since then.

    They are known by their keys. No error is kept: one that a user has caught holds all that his frames hold.
    """

    def __init__(self) -> None:
        self._deaths: dict[int, tuple[int, int | None]] = {}  # how many, weighed; the last exit code

    def __bool__(self) -> bool:
        return bool(self._deaths)

    def note_death(self, key: int, exitcode: int | None) -> None:
        before, _ = self._deaths.pop(key, (0, None))
        self._deaths[key] = before + weight(exitcode), exitcode
        if len(self._deaths) > REMEMBERED:
            del self._deaths[next(iter(self._deaths))]

    def forget(self, key: int) -> None:
        """A worker has read it, or it will not be sent any more."""
        self._deaths.pop(key, None)

    def refusal(self, key: int, indices: Sequence[int]) -> WorkerDied | None:
        """The error of items that are not sent, because workers would die of their function."""
        deaths, exitcode = self._deaths.get(key, (0, None))
        if deaths < TOO_MANY:
            return None
        message = (
            f"several workers in a row ended while they read the function, the last one {_ending(exitcode)}; "
            "so it is not sent to any more of them"
        )
        return WorkerDied(message, exitcode, tuple(indices))


def start_failed(cause: BaseException) -> InitializerFailed:
    """The error of items for which no worker can be had."""
    error = InitializerFailed(f"no worker process can be started: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def dies_at_start(exitcode: int | None) -> InitializerFailed:
    """The error of an executor whose workers die before they are ready."""
    return InitializerFailed(
        f"several workers in a row ended before they were ready, the last one {_ending(exitcode)}; "
        "look at the initializer, if there is one, and at what the modules do that it needs"
    )


def died(worker: int, exitcode: int | None, indices: list[int]) -> WorkerDied:
    """The error of the items that a worker was running."""
    what = (
        "no item"
        if not indices
        else f"item {indices[0]}"
        if len(indices) == 1
        else f"items {_short(indices)}"
    )
    message = f"worker {worker} {_ending(exitcode)} while it was running {what}"
    return WorkerDied(message, exitcode, tuple(indices))


def _short(indices: list[int]) -> str:
    first = ", ".join(map(str, indices[:10]))
    return first if len(indices) <= 10 else f"{first}, … ({len(indices)} in all)"


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "ended"
    if exitcode < 0:
        try:
            return f"was killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"was killed by signal {-exitcode}"
    return f"ended with exit code {exitcode}"
