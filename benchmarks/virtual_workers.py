"""A backend whose workers and clock are played by a heap of events: for `simulation.py`.

They do what `parallelkit._worker.run_chunk` does: a chunk costs something to carry, its items are claimed in
short runs, what has ended is reported every 50 ms, and what is not claimed can be taken back at any moment.
Only the 1 to 2 us that a claim takes are not played.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np

from parallelkit._core.chunks import Chunk, Cut
from parallelkit._core.outcome import Outcomes
from parallelkit._core.scheduler import Settled
from parallelkit._work import Work
from parallelkit._worker import REPORT_SECONDS, next_run
from parallelkit.backends.base import Backend, Post, WorkerJoined

Costs = np.ndarray
"""Seconds of each item."""


class VirtualChunk:
    """A chunk with its worker: what `_worker.run_chunk` knows of it, and the claim.

    Positions are those in the whole input, times are in seconds.

    Attributes:
        claimed: the items of the run that goes on, and all before them; they cannot be taken back.
        run_ends: when that run does; infinite before the chunk begins.
        ends: when the chunk does, as long as nobody shortens it.
    """

    __slots__ = (
        "arrives", "begun", "chunk_id", "claimed", "ends", "reported", "reported_at", "run_ends", "run_items",
        "start", "stop", "worker",
    )  # fmt: skip

    def __init__(self, chunk_id: int, worker: int, chunk: Chunk, arrives: float):
        self.chunk_id = chunk_id
        self.worker = worker
        self.arrives = arrives
        self.start = self.claimed = self.reported = chunk.start
        self.stop = chunk.stop
        self.run_items = 1
        self.reported_at = 0.0
        self.run_ends = self.ends = math.inf


class VirtualWorkers(Backend):
    """A backend whose workers and clock are played by a heap of events.

    Args:
        carry: seconds that a chunk costs its worker besides its items.
        latency: seconds that a chunk or a report travels.

    Attributes:
        now: the time, in seconds.
        chunks, empty: how many came; how many of these were taken back whole.
        asked, given: how often a tail was asked for; how often one was given.
        stretches: what was reported, as (first, behind the last), in the order of arrival.
        driver_seconds: what the driver took for reports, by the clock of this machine.
    """

    def __init__(
        self, costs: Costs, workers: int, *, depth: int, can_give_back: bool, carry: float, latency: float
    ):
        self.depth = depth
        self.can_give_back = can_give_back
        self.now = 0.0
        self.chunks = self.empty = self.asked = self.given = 0
        self.stretches: list[tuple[int, int]] = []
        self.driver_seconds = 0.0
        self._own_seconds = 0.0  # what playing takes while the driver waits for it
        self._until = [0.0, *np.cumsum(costs).tolist()]  # seconds of all items before this one
        self._carry = carry
        self._latency = latency
        self._queues: list[deque[VirtualChunk]] = [deque() for _ in range(workers)]
        self._chunks: dict[int, VirtualChunk] = {}
        self._events: list[tuple[float, int, Callable[..., None], Any]] = []
        self._event_ids = count()

    # For the driver

    def start(self, post: Post) -> None:
        self._post = post
        for worker in range(len(self._queues)):
            post(WorkerJoined(worker))

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        began = perf_counter()
        assert isinstance(worker, int)
        virtual = VirtualChunk(chunk_id, worker, chunk, self.now + self._latency)
        self.chunks += 1
        self._chunks[chunk_id] = virtual
        queue = self._queues[worker]
        queue.append(virtual)
        if len(queue) == 1:
            self._read(virtual)
        self._own_seconds += perf_counter() - began

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        began = perf_counter()
        self.asked += 1
        virtual = self._chunks.get(chunk_id)
        keeps = None
        if virtual is not None:
            self._run_until(virtual, self.now)
            keeps = cut(virtual.claimed - virtual.start, virtual.stop - virtual.start)
            if virtual.start + keeps < virtual.stop:
                self.given += 1
                virtual.stop = virtual.start + keeps
                if virtual.ends < math.inf:
                    self._expect_end(virtual)
        self._own_seconds += perf_counter() - began
        return keeps

    def close(self, *, kill: bool = False) -> None:
        pass

    # The workers

    def play(self) -> None:
        """Let the next thing happen."""
        self.now, _, happens, subject = heappop(self._events)
        happens(subject)

    @property
    def busy(self) -> bool:
        return bool(self._events)

    def _at(self, when: float, happens: Callable[..., None], subject: object) -> None:
        heappush(self._events, (when, next(self._event_ids), happens, subject))

    def _read(self, virtual: VirtualChunk) -> None:
        """Its worker has nothing else before this chunk."""
        self._at(max(self.now, virtual.arrives) + self._carry, self._begin, virtual)

    def _begin(self, virtual: VirtualChunk) -> None:
        virtual.begun = virtual.reported_at = virtual.run_ends = self.now
        self._claim_run(virtual)
        self._expect_end(virtual)
        self._expect_report(virtual)

    def _claim_run(self, virtual: VirtualChunk) -> None:
        """Claim the run that follows the present one."""
        first, until = virtual.claimed, self._until
        taken = min(virtual.run_items, virtual.stop - first)
        if not taken:
            return
        seconds = until[first + taken] - until[first]
        virtual.claimed = first + taken
        virtual.run_ends += seconds
        virtual.run_items = next_run(taken, seconds, virtual.run_ends - virtual.begun)

    def _run_until(self, virtual: VirtualChunk, now: float) -> None:
        while virtual.run_ends <= now and virtual.claimed < virtual.stop:
            self._claim_run(virtual)

    def _expect_end(self, virtual: VirtualChunk) -> None:
        virtual.ends = virtual.run_ends + self._until[virtual.stop] - self._until[virtual.claimed]
        self._at(virtual.ends, self._end, virtual)

    def _expect_report(self, virtual: VirtualChunk) -> None:
        """If the chunk is long: the run that goes on when 50 ms are over ends with a report."""
        when = virtual.reported_at + REPORT_SECONDS
        if virtual.ends > when:
            self._at(when, self._find_run, virtual)

    def _find_run(self, virtual: VirtualChunk) -> None:
        if virtual.ends > self.now:
            self._run_until(virtual, self.now)
            if virtual.run_ends < virtual.ends:
                self._at(virtual.run_ends, self._report, virtual)

    def _report(self, virtual: VirtualChunk) -> None:
        if virtual.ends > self.now:
            self._send(virtual, virtual.claimed, last=False)
            self._expect_report(virtual)

    def _end(self, virtual: VirtualChunk) -> None:
        if virtual.ends != self.now:
            return  # it was shortened after this was foreseen
        virtual.ends = -1.0
        queue = self._queues[virtual.worker]
        queue.popleft()
        if queue:
            self._read(queue[0])
        if self.now - virtual.reported_at > REPORT_SECONDS:
            self._send(virtual, virtual.stop, last=False)
        self._send(virtual, virtual.stop, last=True)

    def _send(self, virtual: VirtualChunk, stop: int, *, last: bool) -> None:
        outcomes = Outcomes(virtual.reported, stop, [])
        settled = Settled(virtual.chunk_id, outcomes, self.now - virtual.reported_at, last)
        virtual.reported, virtual.reported_at = stop, self.now
        if last:
            self.empty += virtual.start == virtual.stop
        if self._latency:
            self._at(self.now + self._latency, self._deliver, settled)
        else:
            self._deliver(settled)

    def _deliver(self, settled: Settled) -> None:
        self.stretches.append((settled.outcomes.start, settled.outcomes.stop))
        if settled.last:
            del self._chunks[settled.chunk_id]
        own = self._own_seconds
        began = perf_counter()
        self._post(settled)
        self.driver_seconds += perf_counter() - began - (self._own_seconds - own)
