"""Items and results that crash the process they are in, on the way there, there, or on the way back."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from typing import Any

from . import faults

EXITCODE = 7

ENDINGS = {"os._exit": EXITCODE, "segfault": -signal.SIGSEGV}
"""Ways to crash that end the process, and the exit code of each."""

PLACES = ["task pickle", "task unpickle", "run", "result pickle", "result unpickle"]
WAYS = ["raise", "sys.exit", *ENDINGS]


def crash(way: str, marker: str | None = None) -> None:
    """Crash in that way; where there is a `marker`, only if nobody did so with it before."""
    if marker is not None:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    if way == "raise":
        raise ArithmeticError("crashed")
    if way == "sys.exit":
        sys.exit(EXITCODE)
    if way == "os._exit":
        os._exit(EXITCODE)
    faults.die_by_segfault()


class Crashing:
    """A number that crashes the process in which it is pickled, or else the one in which it is unpickled.

    If it did so before (see `crash`), it arrives as a plain number. A sum with it crashes as it would.
    """

    def __init__(self, number: int, place: str, way: str, marker: str | None = None):
        self.number = number
        self.place = place
        self.way = way
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        if self.place.endswith("unpickle"):
            return arrive, (self.number, self.way, self.marker)
        crash(self.way, self.marker)
        return int, (self.number,)

    def __add__(self, other: int) -> Crashing:
        return Crashing(self.number + other, self.place, self.way, self.marker)

    __radd__ = __add__


def arrive(number: int, way: str, marker: str | None) -> int:
    crash(way, marker)
    return number


class CrashingFunction:
    """Crashes as `Crashing` does, and gives back what it is called with."""

    def __init__(self, place: str, way: str):
        self.place = place
        self.way = way

    def __call__(self, item: Any) -> Any:
        return item

    def __reduce__(self) -> tuple[Any, ...]:
        if self.place.endswith("unpickle"):
            return arrive_as_function, (self.way,)
        crash(self.way)
        return CrashingFunction, (self.place, self.way)


def arrive_as_function(way: str) -> CrashingFunction:
    crash(way)
    return CrashingFunction("function unpickle", way)


class CrashingError(Exception):
    """An exception that crashes as `Crashing` does."""

    def __init__(self, message: str, place: str, way: str):
        super().__init__(message)
        self.place = place
        self.way = way

    def __reduce__(self) -> tuple[Any, ...]:
        if self.place.endswith("unpickle"):
            return arrive_as_error, (self.args[0], self.place, self.way)
        crash(self.way)
        return CrashingError, (self.args[0], self.place, self.way)


def arrive_as_error(message: str, place: str, way: str) -> CrashingError:
    crash(way)
    return CrashingError(message, place, way)


def raise_at(bad: int, place: str, way: str, runs: str, item: int) -> int:
    """Twice the item; the one that is `bad` raises an exception that crashes at its place."""
    faults.note(runs, item)
    if item == bad:
        raise CrashingError("spam and eggs", place, way)
    return 2 * item


def double(bad: int, place: str, way: str, runs: str, marker: str | None, item: int) -> Any:
    """Twice the item; the one that is `bad` crashes at its place. Each one that is run is in the file."""
    faults.note(runs, item)
    if item == bad and place == "run":
        crash(way, marker)
    if item == bad and place.startswith("result"):
        return Crashing(2 * item, place, way, marker)
    return 2 * item


def items_with(bad: int, place: str, way: str, marker: str | None, length: int) -> list[Any]:
    """The numbers up to `length`, of which the `bad` one crashes where that place is on the way down."""
    items: list[Any] = list(range(length))
    if place.startswith("task"):
        items[bad] = Crashing(bad, place, way, marker)
    return items


def arm_alarm(seconds: int) -> None:
    """End this process by SIGALRM after so long, whatever it waits for; and print nothing on a crash."""
    faulthandler.disable()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
