"""A scheduler on a desk: short words for what is told to it and asked of it."""

from __future__ import annotations

from itertools import count

from parallelkit._core.outcome import Outcomes
from parallelkit._core.scheduler import Ended, GivenBack, Lost, Pulled, Rejected, Scheduler, Settled
from parallelkit._core.splitters import Fixed


class Desk:
    """A call with two workers and chunks of four items, unless told otherwise.

    What is told returns what was delivered, as `stretches` writes it.
    """

    def __init__(self, items=None, splitter=None, **options):
        self.scheduler = Scheduler(splitter or Fixed(4), count(1).__next__, **{"workers": 2} | options)
        self.now = 0.0
        if items is not None:
            self.pull(items)
            self.tell(Ended())

    def tell(self, fact):
        return stretches(self.scheduler.receive(fact, self.now))

    def pull(self, items):
        return self.tell(Pulled(items))

    def hand_out(self, worker="w", **options):
        return self.scheduler.next_chunk(worker, self.now, **options)

    def settle(self, flight, stop=None, *, failures=None, final=(), last=True, seconds=0.0, **options):
        """The items of the flight up to `stop` have ended."""
        stop = flight.chunk.stop if stop is None else stop
        values = [index * 10 for index in range(flight.settled, stop)]
        outcomes = Outcomes(flight.settled, stop, values, failures, **options)
        outcomes.final = set(final)
        return self.tell(Settled(flight.chunk_id, outcomes, seconds, last))

    def give_back(self, flight, stop):
        return self.tell(GivenBack(flight.chunk_id, stop))

    def lose(self, flight, claimed, error=None):
        return self.tell(Lost(flight.chunk_id, claimed, error or OSError("gone")))

    def reject(self, flight, *indices):
        return self.tell(Rejected(flight.chunk_id, {index: ValueError(index) for index in indices}))


def stretches(delivered):
    """What was delivered, as (first, behind the last) or, where items failed, (first, behind, errors)."""
    return [
        (some.start, some.stop, [type(error) for error in some.failures.values()])
        if some.failures
        else (some.start, some.stop)
        for some in delivered
    ]


def span(flight):
    return flight.chunk.start, flight.chunk.stop


def rest(desk):
    """Hand out all that is pending, and settle it: the spans, in the order in which they were handed out."""
    spans = []
    while (flight := desk.hand_out()) is not None:
        spans.append(span(flight))
        desk.settle(flight)
    return spans
