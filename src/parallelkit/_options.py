"""What callers may say of a call, and the checks that tell them early what is wrong with it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypedDict

from ._core.chunks import Sliceable, Zipped, sliceable
from ._work import add_note, harmless

__all__ = [
    "CallOptions",
    "MapOptions",
    "RetryOn",
    "check_callable",
    "check_count",
    "check_options",
    "check_seconds",
    "finite",
    "retry_rule",
    "source",
]

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


class CallOptions(TypedDict, total=False):
    """What every call takes; all of it optional.

    chunksize: items that travel together; None lets the core size chunks by time.
    buffersize: items that may be pulled from the input and whose result is not yet taken; None for
        a few chunks per worker.
    timeout: seconds for the whole call, then TimeoutError.
    task_timeout: seconds for one item, then TaskTimeout for that item.
    retries: how often a failed item is tried again.
    retry_on: which errors are worth it: exception classes, or a function of the exception.
    """

    chunksize: int | None
    buffersize: int | None
    timeout: float | None
    task_timeout: float | None
    retries: int
    retry_on: RetryOn


class MapOptions(CallOptions, total=False):
    """What every map takes beside `CallOptions`.

    return_exceptions: put an item's exception where its result would be, as `asyncio.gather` does.
    """

    return_exceptions: bool


def source(iterables: tuple[Iterable[Any], ...]) -> tuple[Sliceable | None, Iterator[Any] | None]:
    """The input as something to slice, or else as an iterator."""
    if not iterables:
        raise TypeError("there is nothing to map over: pass at least one iterable")
    for iterable in iterables:
        if not hasattr(type(iterable), "__iter__") and not hasattr(type(iterable), "__getitem__"):
            raise TypeError(
                f"cannot iterate over {iterable!r}; pass a list, a range, a generator or the like"
            )
    if all(sliceable(iterable) for iterable in iterables):
        return (Zipped(iterables) if len(iterables) > 1 else iterables[0]), None  # type: ignore[return-value]
    return None, iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)


def retry_rule(retry_on: RetryOn) -> Callable[[Exception], bool]:
    """Whether an error is worth another try. A rule that raises says no, and leaves a note on the error."""
    holds = harmless(_predicate(retry_on))

    def rule(error: Exception) -> bool:
        try:
            return bool(holds(error))
        except Exception as failure:
            add_note(error, f"parallelkit: not tried again, because retry_on raised {failure!r}")
            return False

    return rule


def _predicate(retry_on: RetryOn) -> Callable[[Exception], bool]:
    if isinstance(retry_on, type | tuple):
        kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        anything: tuple[Any, ...] = kinds
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in anything):
            raise TypeError(f"retry_on must be exception classes or a function, not {retry_on!r}")
        return lambda error: isinstance(error, kinds)
    check_callable(retry_on)
    return retry_on


def check_options(given: Iterable[str], kind: type[CallOptions], caller: str) -> None:
    """See that all options are known, and say whose they are not.

    Raises:
        TypeError: one is not known.
    """
    for name in given:
        if name not in kind.__annotations__:
            known = ", ".join(sorted(kind.__annotations__))
            raise TypeError(f"{caller}() takes no option {name!r}; it takes {known}")


def check_callable(function: object) -> None:
    if not callable(function):
        raise TypeError(f"a function is needed, not {function!r}")


def check_count(name: str, value: object, least: int = 1) -> None:
    if value is None:
        return
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number or None, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")


def finite(seconds: float | None) -> float | None:
    """A time limit, or None where it is longer than clocks and locks can count: thirty years."""
    return None if seconds is None or seconds > 1e9 else seconds


def check_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
