"""What the items of fault.py do, and what they cannot survive. Workers import this module by its name.

An item is a pair: its place among the six of a call, and its cargo: what happens there, by name, or a thing
that does not travel.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

ITEMS = 6
BAD = 3
"""The item that misbehaves: two have been through by then, one runs beside it, two wait."""

MANY = 40
"""Items of a loop that is left after the first result."""

LONG = 6.0
"""Seconds of an item that is interrupted: longer than any pool should wait, shorter than the time limit."""

FOR_EVER = 1000.0

FACTS = os.environ.get("FAULT_FACTS", os.devnull)


def note(**fact: Any) -> None:
    """Append a line to the facts of this cell; short lines of several processes do not mix."""
    line = json.dumps(fact).encode() + b"\n"
    facts = os.open(FACTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.write(facts, line)
    finally:
        os.close(facts)


def work(item: tuple[int, Any]) -> Any:
    """Twice the place, after 0.2 s; the bad item does at once what its cargo says."""
    place, cargo = item
    if isinstance(cargo, str) and place == BAD:
        return DEEDS[cargo]()
    time.sleep(0.2)
    return 2 * place


def same(item: tuple[int, Any]) -> int:
    return 2 * item[0]


def which_process(item: tuple[int, Any]) -> int:
    time.sleep(0.2)
    return os.getpid()


def slow(item: tuple[int, Any]) -> int:
    """Half a second, and a note that it was run."""
    time.sleep(0.5)
    note(ran=item[0])
    return 2 * item[0]


def short(item: tuple[int, Any]) -> int:
    """As `slow`, a tenth of a second."""
    time.sleep(0.1)
    note(ran=item[0])
    return 2 * item[0]


def prints(item: tuple[int, Any]) -> int:
    print("spam" * 1000, flush=True)
    print("eggs" * 1000, file=sys.stderr, flush=True)
    return 2 * item[0]


def logs(item: tuple[int, Any]) -> int:
    logging.getLogger("items").warning("item %d", item[0])
    return 2 * item[0]


# ---------------------------------------------------------------- busy until they are ended


def sleeps(item: tuple[int, Any]) -> int:
    note(started=os.getpid())
    time.sleep(LONG)
    return 2 * item[0]


def sleeps_on(item: tuple[int, Any]) -> None:
    note(started=os.getpid())
    time.sleep(FOR_EVER)


def loops_in_python(item: tuple[int, Any]) -> None:
    note(started=os.getpid())
    number = 0
    while True:
        number += 1


def loops_in_c(item: tuple[int, Any]) -> None:
    note(started=os.getpid())
    sum(range(10**13))  # never lets go of the GIL, never looks for signals


# ---------------------------------------------------------------- initializers


def init_raises() -> NoReturn:
    note(began=os.getpid())
    raise LookupError("no such configuration")


def init_exits() -> NoReturn:
    note(began=os.getpid())
    os._exit(3)


# ---------------------------------------------------------------- things that do not travel


def explode(*args: object) -> NoReturn:
    raise ArithmeticError("exploded on arrival")


class BreaksOnLeaving:
    """Raises when it is pickled."""

    def __reduce__(self) -> NoReturn:
        raise ArithmeticError("refuses to leave")


class BreaksOnArrival:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


class KillsOnArrival:
    """Ends the process in which it is unpickled; a function, and an item as well."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)

    def __call__(self, item: tuple[int, Any]) -> int:
        return same(item)


class KillsOnLeaving:
    """Ends the process in which it is pickled."""

    def __reduce__(self) -> NoReturn:
        os._exit(3)


class NeedsTwo(Exception):
    """Cannot be made again from its `args`, as many exceptions of libraries."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


class CannotLeave(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, message: str):
        super().__init__(message)
        self.lock = threading.Lock()


class Rich(Exception):
    """Has more to say than its `args`."""

    def __init__(self, message: str, code: int = 0):
        super().__init__(message)
        self.code = code


def what_is_kept(error: BaseException) -> list[str]:
    """Of a `Rich` error, which of its parts have come along."""
    causes = [error.__cause__, error.__context__]
    for cause in causes:
        if cause is not None:
            causes += [cause.__cause__, cause.__context__]
    return [
        *(["attributes"] if getattr(error, "code", 0) == 42 else []),
        *(["notes"] if "noted" in getattr(error, "__notes__", ()) else []),
        *(["cause"] if any(isinstance(cause, LookupError) for cause in causes) else []),
    ]


# ---------------------------------------------------------------- misdeeds


def die_by_kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_by_segfault() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


def die_by_exit() -> None:
    os._exit(3)


def die_by_abort() -> None:
    faulthandler.disable()
    os.abort()


def leave() -> None:
    sys.exit(7)


def interrupt() -> None:
    raise KeyboardInterrupt


def raise_needs_two() -> None:
    raise NeedsTwo("spam", "eggs")


def raise_rich() -> None:
    error = Rich("spam", 42)
    error.add_note("noted")
    raise error from LookupError("what led to it")


def raise_cannot_leave() -> None:
    raise CannotLeave("spam")


def wait_to_be_killed() -> None:
    note(kill=os.getpid())
    time.sleep(FOR_EVER)


def stay() -> None:
    note(stays=os.getpid())
    time.sleep(FOR_EVER)


DEEDS: dict[str, Callable[[], Any]] = {
    "kill": die_by_kill,
    "segfault": die_by_segfault,
    "exit": die_by_exit,
    "abort": die_by_abort,
    "sys.exit": leave,
    "interrupt": interrupt,
    "rich": raise_rich,
    "needs two": raise_needs_two,
    "cannot leave": raise_cannot_leave,
    "result breaks on leaving": BreaksOnLeaving,
    "result breaks on arrival": BreaksOnArrival,
    "result kills on leaving": KillsOnLeaving,
    "wait to be killed": wait_to_be_killed,
    "stay": stay,
}
