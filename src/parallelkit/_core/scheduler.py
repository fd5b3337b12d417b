"""The state machine of one call: facts in, steps out.

A call is its items, from the moment they are pulled from the input until their outcomes are
delivered. Each item is in exactly one place:

        pulled            handed out           settled             delivered
    input ---> pending chunks ---> flights ---> reorder buffer ---> the caller
                     ^                |
                     +----------------+
             given back, lost unstarted, to be tried again

`receive(fact, now)` moves items to the right, or back, and returns the outcomes that are ready to
deliver. `next_chunk(worker, now)` hands out items to a worker that has room. `next_victim()` names the
chunk whose tail should come back, when a worker is idle and nothing is pending.

Every step is of constant cost (a heap's logarithm aside), however many workers and items there are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Set
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from .chunks import Chunk, Cut, Sliceable, all_of_it, half, half_but_first, if_unstarted, leaving
from .outcome import Outcomes
from .reorder import Reorder
from .splitters import Splitter

__all__ = ["Ended", "Fact", "Flight", "GivenBack", "Lost", "Pulled", "Rejected", "Scheduler", "Settled"]

LOOKAHEAD = 3
"""Chunks per worker that may be pulled and not yet consumed: one runs, one waits, one is being read."""


class Pulled(NamedTuple):
    """Items came from the input, in its order."""

    items: Sliceable


class Ended(NamedTuple):
    """The input has no more items."""


class Settled(NamedTuple):
    """A worker ran the next items of its chunk, in `seconds` (0 where not measured).

    With `last`, it is done with the chunk.
    What a last report leaves out was not started: the chunk was shortened while the report travelled.
    """

    chunk_id: int
    outcomes: Outcomes
    seconds: float
    last: bool


class GivenBack(NamedTuple):
    """The chunk now ends at `stop`: its worker will not start what comes after."""

    chunk_id: int
    stop: int


class Rejected(NamedTuple):
    """The chunk could not travel because of these items (by index); none of it was started."""

    chunk_id: int
    failures: dict[int, Exception]


class Lost(NamedTuple):
    """The worker of the chunk is gone. It had started the items before `claimed`; they fail with `error`.

    `final`: they are not to be tried again. But those that had `ended` have their values, and those that
    `failed` their own errors, by index. `one_by_one`: none was started, but one of them is to blame, so those
    that are handed out again travel alone.
    """

    chunk_id: int
    claimed: int
    error: Exception
    final: bool = False
    ended: Mapping[int, Any] = {}
    failed: Mapping[int, Exception] = {}
    one_by_one: bool = False


Fact = Pulled | Ended | Settled | GivenBack | Rejected | Lost


class Flight:
    """A chunk in flight. Items before `settled` have their outcomes; `expected_end` is a guess.

    `behind`: the number of the chunk that its worker had before it. `asked`: its tail was asked for, and
    there was no answer yet. `carried`: its worker may have it.
    """

    __slots__ = ("asked", "behind", "carried", "chunk", "chunk_id", "expected_end", "settled", "worker")

    def __init__(
        self, chunk_id: int, worker: Hashable, chunk: Chunk, behind: int | None, expected_end: float
    ):
        self.chunk_id = chunk_id
        self.worker = worker
        self.chunk = chunk
        self.settled = chunk.start
        self.behind = behind
        self.expected_end = expected_end
        self.asked = self.carried = False


class Scheduler:
    """Decides, for one call, what travels where.

    Args:
        splitter: how many items the next chunk takes.
        chunk_ids: gives a new number at each call; flights of all calls are told apart by it.
        workers: how many workers share the work. The driver keeps it true when workers come and go.
        window: the number of items that may be pulled and not yet consumed; None for LOOKAHEAD chunks
            per worker, `math.inf` for no bound.
        least_window: where `window` is None, it is never smaller than this.
        ordered: deliver in input order, else as outcomes come.
        retries: how often an item may be tried again after an error that is not final.
        align: end chunks at multiples of this where they are longer than it; leaves of a fold stay whole.
        divisible: chunks may be shortened. If not, one comes back whole or not at all: it runs as a whole.
    """

    def __init__(
        self,
        splitter: Splitter,
        chunk_ids: Callable[[], int],
        *,
        workers: int = 1,
        window: float | None = None,
        least_window: int = 0,
        ordered: bool = True,
        retries: int = 0,
        align: int = 1,
        divisible: bool = True,
    ) -> None:
        self.workers = workers
        self._splitter = splitter
        self._chunk_ids = chunk_ids
        self._window = window
        self._least_window = least_window
        self._reorder = Reorder() if ordered else None
        self._retries = retries
        self._align = align
        self._divisible = divisible
        self._unit = 1 if divisible else splitter.size(None, workers)  # what a worker needs to have work
        self._pending: deque[Chunk] = deque()
        self.waiting = 0  # items in pending chunks
        self._flights: dict[int, Flight] = {}
        self._victims: list[tuple[float, int]] = []  # heap: whose end is expected last comes first
        self._busy_until: dict[Hashable, float] = {}
        self._latest: dict[Hashable, int] = {}  # the chunk that each worker had last
        self._pulled = self._handed_out = self._delivered = self._consumed = 0
        self._ended = False
        self._stopped = False
        self._facts: dict[type, Callable[[Any, float], list[Outcomes]]] = {
            Pulled: self._on_pulled,
            Ended: self._on_ended,
            Settled: self._on_settled,
            GivenBack: self._on_given_back,
            Rejected: self._on_rejected,
            Lost: self._on_lost,
        }

    # What is asked of it

    @property
    def done(self) -> bool:
        """Nothing more will be delivered."""
        return self._stopped or (self._ended and not self._pending and not self._flights)

    @property
    def stopped(self) -> bool:
        """It was ended before it was done."""
        return self._stopped

    @property
    def has_work(self) -> bool:
        """There may be something for a worker to do: to take, or to take back from another."""
        return bool(self.waiting or self._victims)

    @property
    def length(self) -> int:
        """How many items were pulled so far."""
        return self._pulled

    @property
    def hungry(self) -> bool:
        """Workers may run dry before the items that are pulled are spent."""
        return self.waiting < self.workers * self._unit and not self._ended

    @property
    def window_is_open(self) -> bool:
        """The window has no bound: nobody needs to say what was consumed."""
        return self._window == math.inf

    @property
    def wanted(self) -> int:
        """How many items to pull now: as many as the window has room for."""
        if self._ended or self._stopped:
            return 0
        size = self._splitter.size(None, self.workers)
        ahead = min(self._window_items(), LOOKAHEAD * self.workers * size)
        return max(0, int(min(ahead - self.waiting, self._window_items() - (self._pulled - self._consumed))))

    def next_chunk(
        self, worker: Hashable, now: float, *, can_give_back: bool = True, waits: bool = True
    ) -> Flight | None:
        """The next chunk for a worker that has room; None where there is nothing to hand out.

        With `waits` the worker has another chunk before this one. Without, it begins at once, and a single
        item is never taken back.
        """
        if not self._pending or self._stopped:
            return None
        chunk = self._pending[0]
        size = 1 if chunk.attempts or chunk.one_by_one else self._next_size()
        if self._window != math.inf and chunk.stop > self._handed_out:
            # new items; what was handed out before is in the window already
            room = self._window_items() - (self._handed_out - self._consumed)
            if room < (1 if self._divisible else min(size, len(chunk))):
                return None
            size = int(min(size, room))
        chunk = self._take(self._aligned(chunk.start, size))
        size = len(chunk)
        chunk_id = self._chunk_ids()
        begin = max(now, self._busy_until.get(worker, now))
        flight = Flight(
            chunk_id, worker, chunk, self._latest.get(worker), begin + self._splitter.seconds(size)
        )
        self._latest[worker] = chunk_id
        self._busy_until[worker] = flight.expected_end
        self._flights[chunk_id] = flight
        if can_give_back and (waits or (size > 1 and self._divisible)):
            self._add_victim(flight)
        return flight

    def next_victim(self) -> Flight | None:
        """The flight that is expected to end last; its tail should be asked for, and `GivenBack` said.

        It is named again only if it gave something back, so that asking comes to an end; or if it was
        asked too early, see `name_again`.
        """
        while self._victims:
            flight = self._flights.get(heappop(self._victims)[1])
            if flight is not None:
                return flight
        return None

    def cut(self, flight: Flight, *, alone: bool) -> Cut:
        """How to shorten a chunk in flight; `alone`: its worker has no other, and is in it or about to be."""
        if not self._divisible:
            return all_of_it if alone else if_unstarted
        if alone:
            return half_but_first
        before = self._flights.get(-1 if flight.behind is None else flight.behind)
        if before is None:
            return half
        # It waits behind another: what that has left, as far as is known, and this, are for two workers.
        left = before.chunk.stop - before.settled
        return leaving(max(0, (len(flight.chunk) - left) // 2))

    def name_again(self, flight: Flight) -> None:
        """The tail of this flight was asked for before it could answer; now it can."""
        flight.asked = False
        if flight.chunk_id in self._flights:
            self._add_victim(flight)

    def flight(self, chunk_id: int) -> Flight | None:
        """The chunk in flight with that number, None where it has ended."""
        return self._flights.get(chunk_id)

    # What it is told

    def receive(self, fact: Fact, now: float) -> list[Outcomes]:
        """Take in a fact; return the outcomes to deliver, in the order to deliver them."""
        return self._facts[type(fact)](fact, now)

    def consumed(self, items: int) -> None:
        """The caller took this many delivered outcomes: the window has room for as many new items."""
        self._consumed += items

    def lift_window(self) -> None:
        """Nobody will read: let all the rest of the input through."""
        self._window = math.inf

    def drop_pending(self) -> list[Chunk]:
        """Hand out nothing more; return what was waiting. What is in flight is still delivered."""
        dropped = list(self._pending)
        self._pending.clear()
        self.waiting = 0
        self._ended = True
        return dropped

    def stop(self) -> list[Flight]:
        """Hand out and deliver nothing more; return what is in flight, to be taken back."""
        self._stopped = True
        flights = list(self._flights.values())
        self._flights.clear()
        self._pending.clear()
        self._victims.clear()
        self.waiting = 0
        return flights

    # Facts, one by one

    def _on_pulled(self, fact: Pulled, now: float) -> list[Outcomes]:
        length = len(fact.items)
        if length and not self._stopped:
            self._pending.append(Chunk(fact.items, self._pulled, self._pulled, self._pulled + length))
            self._pulled += length
            self.waiting += length
        return []

    def _on_ended(self, fact: Ended, now: float) -> list[Outcomes]:
        self._ended = True
        return []

    def _on_settled(self, fact: Settled, now: float) -> list[Outcomes]:
        flight = self._flights.get(fact.chunk_id)
        if flight is None:
            return []
        if fact.seconds:
            self._splitter.learn(len(fact.outcomes), fact.seconds)
        flight.settled = fact.outcomes.stop
        if fact.last:
            self._land(flight)
            self._put_back(flight.chunk, flight.settled)
        return self._settle(fact.outcomes, flight.chunk)

    def _on_given_back(self, fact: GivenBack, now: float) -> list[Outcomes]:
        flight = self._flights.get(fact.chunk_id)
        if flight is None or fact.stop >= flight.chunk.stop:
            return []
        returned = flight.chunk.stop - fact.stop
        self._put_back(flight.chunk, fact.stop)
        flight.chunk = flight.chunk.between(flight.chunk.start, fact.stop)
        if fact.stop <= flight.settled:
            self._land(flight)  # nothing is left of it; its worker's answer will be one to nobody
        else:
            end = max(now, flight.expected_end - self._splitter.seconds(returned))
            if self._busy_until.get(flight.worker) == flight.expected_end:
                self._busy_until[flight.worker] = end
            flight.expected_end = end
            self._add_victim(flight)
        return []

    def _on_rejected(self, fact: Rejected, now: float) -> list[Outcomes]:
        flight = self._flights.get(fact.chunk_id)
        if flight is None:
            return []
        self._land(flight)
        deliveries = []
        stop = flight.chunk.stop
        failed = [index for index in fact.failures if flight.settled <= index < stop]
        for index in sorted(failed, reverse=True):  # from the end, so that the first is pending first
            self._put_back(flight.chunk.between(index, stop), index + 1)
            stop = index
            deliveries += self._deliver(Outcomes.all_failed(index, index + 1, fact.failures[index]))
        self._put_back(flight.chunk.between(flight.settled, stop), flight.settled)
        return deliveries

    def _on_lost(self, fact: Lost, now: float) -> list[Outcomes]:
        flight = self._flights.get(fact.chunk_id)
        if flight is None:
            return []
        self._land(flight)
        self._busy_until.pop(flight.worker, None)
        self._latest.pop(flight.worker, None)
        claimed = min(max(fact.claimed, flight.settled), flight.chunk.stop)
        flight.chunk.one_by_one |= fact.one_by_one
        self._put_back(flight.chunk, claimed)
        if claimed == flight.settled:
            return []
        lost = Outcomes.all_failed(flight.settled, claimed, fact.error)
        lost.failures.update((i, e) for i, e in fact.failed.items() if i in lost.failures)
        for index in lost.failures.keys() & fact.ended.keys():
            lost.values[index - lost.start] = fact.ended[index]
            del lost.failures[index]
        lost.retriable = not fact.final
        return self._settle(lost, flight.chunk)

    # The moves

    def _add_victim(self, flight: Flight) -> None:
        heappush(self._victims, (-flight.expected_end, flight.chunk_id))
        if len(self._victims) > 2 * len(self._flights) + 64:  # most are of chunks that have landed
            self._victims = [entry for entry in self._victims if entry[1] in self._flights]
            heapify(self._victims)

    def _land(self, flight: Flight) -> None:
        del self._flights[flight.chunk_id]
        if self._busy_until.get(flight.worker) == flight.expected_end:
            del self._busy_until[flight.worker]

    def _take(self, size: int) -> Chunk:
        chunk = self._pending.popleft()
        cut = chunk.start + size
        if cut < chunk.stop:
            self._pending.appendleft(chunk.between(cut, chunk.stop))
            chunk = chunk.between(chunk.start, cut)
        self.waiting -= chunk.stop - chunk.start
        self._handed_out = max(self._handed_out, chunk.stop)
        return chunk

    def _put_back(self, chunk: Chunk, start: int) -> None:
        """The items of the chunk from `start` on are pending again, before all others."""
        if start < chunk.stop:
            self._pending.appendleft(chunk.between(start, chunk.stop))
            self.waiting += chunk.stop - start

    def _settle(self, outcomes: Outcomes, chunk: Chunk) -> list[Outcomes]:
        again: Set[int] = frozenset()
        if outcomes.failures and outcomes.retriable and chunk.attempts < self._retries:
            again = outcomes.failures.keys() - outcomes.final
        for index in sorted(again, reverse=True):
            self._put_back(chunk.between(index, index + 1, chunk.attempts + 1), index)
        pieces = outcomes.without(again) if again else [outcomes]
        return [ready for piece in pieces for ready in self._deliver(piece)]

    def _deliver(self, outcomes: Outcomes) -> list[Outcomes]:
        if not len(outcomes):
            return []
        self._delivered += len(outcomes)
        return [outcomes] if self._reorder is None else self._reorder.add(outcomes)

    # Sizes

    def _next_size(self) -> int:
        running = self._pulled - self._delivered - self.waiting
        return self._splitter.size(self.waiting if self._ended else None, self.workers, running)

    def _window_items(self) -> float:
        if self._window is None:
            ahead = LOOKAHEAD * self.workers * self._splitter.size(None, self.workers)
            return max(ahead, self._least_window)
        return self._window

    def _aligned(self, start: int, size: int) -> int:
        """The size, cut so that the chunk ends at a multiple of `align`, where it is longer than that."""
        return size - (start + size) % self._align if size > self._align else size
