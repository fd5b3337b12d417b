"""What the driver asks of a user's call; `_calls` has the kinds there are."""

from __future__ import annotations

from collections.abc import Mapping

from ._core.chunks import Chunk
from ._core.outcome import Outcomes
from ._core.scheduler import Fact, Flight, Scheduler
from ._work import Work

__all__ = ["Call"]


class Call:
    """One call of the user: its items, what to do with them, and where outcomes go.

    `deliver`, `finish` and `shut_down` are called with the driver's lock held: they must not wait nor run
    the user's code. What they owe to the user's code, they do in `resolve`.
    """

    work: Work
    scheduler: Scheduler

    def opened(self) -> None:
        """Called with the lock: from now on it may be stopped."""

    def carry(self, flight: Flight) -> tuple[Work, Chunk] | None:
        """What to send for this flight; None to leave its items out."""
        return self.work, flight.chunk

    def lift_window(self) -> None:
        """Called with the lock: let the rest of the input through, whether anybody reads or not."""
        self.scheduler.lift_window()

    def deliver(self, outcomes: list[Outcomes]) -> None:
        """Outcomes are ready, in the order to deliver them."""
        raise NotImplementedError

    def finish(self, error: BaseException | None) -> None:
        """Nothing more will be delivered; `error` tells why, where the call was ended before it was done."""
        raise NotImplementedError

    def shut_down(self, *, cancel: bool) -> list[Fact]:
        """The executor takes no new calls: what the scheduler should know of it."""
        raise NotImplementedError

    def close_input(self, *, leaving: bool = False) -> None:
        """Called without the lock, before shutting down, perhaps on `leaving` the interpreter."""

    def is_final(self, error: Exception) -> bool:
        """Called without the lock, before the scheduler hears of an error: is it not to be tried again?"""
        return False

    def note(self, error: Exception, index: int, chunk: Chunk) -> None:
        """Called without the lock with the error of one item, before it is delivered."""

    def note_all(self, chunk_id: int, failures: Mapping[int, Exception]) -> set[int]:
        """Note errors of items of a chunk; which are final. It may run the user's code: no lock."""
        flight = self.scheduler.flight(chunk_id)
        final: set[int] = set()
        if flight is None:
            return final
        for index, error in failures.items():
            self.note(error, index, flight.chunk)
            if self.is_final(error):
                final.add(index)
        return final

    def resolve(self) -> None:
        """Called without the lock after any of the above: the place for the user's callbacks."""
