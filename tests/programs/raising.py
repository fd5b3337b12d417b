"""Functions that raise what an ordinary program does not, and errors that carry more than a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

BAD = 7
"""The item that raises."""


class Ending(BaseException):
    """Of a program's own: it would end more than an item."""


class Rich(Exception):
    """Carries more than its arguments."""

    def __init__(self, message: str, code: int = 0):
        super().__init__(message)
        self.code = code
        self.extra: dict[str, Any] = {}


def rich(message: str, code: int) -> Rich:
    error = Rich(message, code)
    error.extra = {"tried": [1, 2, 3]}
    error.add_note(f"noted of {message}")
    return error


# ---------------------------------------------------------------- what would end a program

ENDINGS: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(7),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("stop"),
    "GeneratorExit": lambda: GeneratorExit("left"),
    "CancelledError": lambda: asyncio.CancelledError("cancelled"),
    "Ending": lambda: Ending("of all"),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError("one")]),
}


def end(name: str, item: int) -> int:
    if item == BAD:
        raise ENDINGS[name]()
    return item


async def end_async(name: str, item: int) -> int:
    await asyncio.sleep(0)
    return end(name, item)


# ---------------------------------------------------------------- what comes back whole


def recurse(item: int) -> int:
    return recurse(item) + 1


def raise_recursion_error() -> NoReturn:
    recurse(0)
    raise AssertionError("no end")


def raise_memory_error() -> NoReturn:
    bytearray(1 << 60)
    raise AssertionError("so much memory?")


def raise_group() -> NoReturn:
    inner = ExceptionGroup("inner", [KeyError("three")])
    inner.add_note("noted inside")
    raise ExceptionGroup("several", [ValueError("one"), rich("two", 2), inner])


def raise_group_with_causes() -> NoReturn:
    one, two = rich("one", 1), rich("two", 2)
    one.__cause__ = LookupError("the cause of one")
    raise ExceptionGroup("several", [one, two])


def raise_from_cause() -> NoReturn:
    try:
        {}["spam"]
    except KeyError:
        raise rich("outer", 42) from rich("inner", 43)


def raise_from_causes() -> NoReturn:
    try:
        try:
            raise rich("first", 1)
        except Rich as first:
            raise rich("second", 2) from first
    except Rich as second:
        raise rich("third", 3) from second


def raise_in_context() -> NoReturn:
    try:
        {}["spam"]
    except KeyError:
        raise rich("outer", 42)  # noqa: B904 - without a cause, on purpose


def raise_from_none() -> NoReturn:
    try:
        {}["spam"]
    except KeyError:
        raise rich("outer", 42) from None


def raise_in_a_circle() -> NoReturn:
    one, two = rich("one", 1), rich("two", 2)
    one.__cause__, two.__cause__ = two, one
    raise one


def raise_for_many_causes() -> NoReturn:
    error = Rich("cause 0")
    for number in range(1, 3000):
        cause, error = error, Rich(f"cause {number}")
        error.__cause__ = cause
    raise error


def raise_long_message() -> NoReturn:
    raise rich("spam" * (1 << 20), 42)


RAISERS: dict[str, Callable[[], NoReturn]] = {
    function.__name__.removeprefix("raise_"): function
    for function in (
        raise_recursion_error,
        raise_memory_error,
        raise_group,
        raise_group_with_causes,
        raise_from_cause,
        raise_from_causes,
        raise_in_context,
        raise_from_none,
        raise_in_a_circle,
        raise_for_many_causes,
        raise_long_message,
    )
}


def call_raiser(name: str, item: int) -> int:
    if item == BAD:
        RAISERS[name]()
    return item
