"""The results of a map as its caller reads them: one by one, all of them, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ._calls import MapCall
from ._core.outcome import Outcomes

__all__ = ["raise_first", "released", "results", "unread", "values"]


def unread(of: Callable[[], MapCall | None], release: Callable[[], object] | None = None) -> None:
    """The results were dropped. Before the first next(), a generator runs none of its own code at that.

    `of` is a weak reference: what the input raised may have the user's frame in its traceback, and that the
    stream, which must not be kept from being dropped by it.
    """
    call = of()
    if call is not None and not call.started:
        call.abandon()
    if release is not None:
        release()


def results(call: MapCall, return_exceptions: bool) -> Iterator[Any]:
    for outcomes in call.outcomes():
        if outcomes.failures and not return_exceptions:
            first = min(outcomes.failures)
            yield from outcomes.values[: first - outcomes.start]
            raise outcomes.failures[first]
        waiting = values(outcomes)
        del outcomes
        waiting.reverse()
        while waiting:  # what was yielded is not kept
            yield waiting.pop()


def values(outcomes: Outcomes) -> list[Any]:
    """The values, each failed item's exception in its place."""
    for index, error in outcomes.failures.items():
        outcomes.values[index - outcomes.start] = error
    return outcomes.values


def raise_first(outcomes: Outcomes) -> None:
    if outcomes.failures:
        raise outcomes.failures[min(outcomes.failures)]


def released(stream: Iterator[Any], release: Callable[[], object]) -> Iterator[Any]:
    """The stream, and `release` at its end, which may come long before it is dropped."""
    try:
        yield from stream
    finally:
        release()
