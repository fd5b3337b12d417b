"""At which item the code is that asks for it. It is looked up when somebody asks, and costs items nothing."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Protocol

from ._core.outcome import Outcomes
from ._work import Report

__all__ = ["Place", "Run", "current_item", "enter_item", "leave_items"]


class Run(Protocol):
    """The items of a chunk, as they are run."""

    @property
    def running(self) -> int:
        """The position in the input of the item that is being run."""
        ...


class Place:
    """Where a chunk is: at an item, or between two of them, or at its end."""

    __slots__ = ("_report", "_run")

    def __init__(self, report: Report):
        self._report = report
        self._run: Run | None = None

    @property
    def item(self) -> int | None:
        run = self._run  # another thread, that has a copy of the chunk's context, may ask at any time
        return None if run is None else run.running

    def enter(self, run: Run) -> None:
        """From now on, items are run by `run`."""
        self._run = run
        _place.set(self)

    def leave(self) -> None:
        """The chunk is over; so it is for those who have a copy of its context."""
        self._run = None

    def report(self, outcomes: Outcomes, seconds: float, last: bool) -> None:
        """Report; whatever that runs, it runs for no item."""
        inside = _place.set(None)
        try:
            self._report(outcomes, seconds, last)
        finally:
            _place.reset(inside)


_place: ContextVar[Place | int | None] = ContextVar("parallelkit_item", default=None)


def current_item() -> int | None:
    """The position in the input of the item that this code is run for; None outside of an item.

    It counts from 0, as `enumerate` does, whatever the chunks are. In a reduction it is the item that is
    mapped, or combined with those before it. The call of a `submit` has none. Code that an item has run in
    another thread knows its item if it runs in a copy of the item's context, as `asyncio.to_thread` does.

    In the parent it is also known while the handlers of `logging` deal with a record of a worker process.

    >>> current_item() is None
    True
    >>> from parallelkit import pmap
    >>> pmap(lambda letter: (current_item(), letter), "abc")
    [(0, 'a'), (1, 'b'), (2, 'c')]
    """
    place = _place.get()
    return place.item if isinstance(place, Place) else place


def enter_item(index: int | None) -> Token[Place | int | None]:
    """From now on, in this context, `current_item()` is `index`. What it returns is for `leave_items`."""
    return _place.set(index)


def leave_items(outside: Token[Place | int | None], place: Place | None) -> None:
    """The items that were run at `place` are done; this goes on with whatever they were run on top of."""
    _place.reset(outside)
    if place is not None:
        place.leave()
