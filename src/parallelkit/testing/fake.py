"""A backend whose workers do what a test says."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from contextvars import Context, copy_context
from functools import partial
from itertools import count
from typing import Any

from .._core.chunks import Chunk, Cut
from .._core.outcome import Outcomes
from .._worker import LocalClaim, Work, Worker
from ..backends.base import Backend, Broken, Post, Rejected, Settled, WorkerJoined, WorkerLeft
from ..errors import WorkerDied

__all__ = ["FakeBackend", "FakeChunk"]

PATIENCE = 30.0
"""Seconds to wait for what must come, before a test fails instead of hanging."""


class FakeChunk:
    """A chunk that is with a worker of a `FakeBackend`.

    Attributes:
        chunk_id: its number.
        worker: the name of the worker that has it.
        work: what to do with the items.
        chunk: the items; `chunk.start` and `chunk.stop` are their positions in the input.
        settled: the position of the first item that has no outcome yet.
    """

    __slots__ = ("chunk", "chunk_id", "claim", "settled", "work", "worker")

    def __init__(self, chunk_id: int, worker: Hashable, work: Work, chunk: Chunk):
        self.chunk_id = chunk_id
        self.worker = worker
        self.work = work
        self.chunk = chunk
        self.settled = chunk.start
        self.claim = LocalClaim(len(chunk))

    @property
    def started(self) -> int:
        """The position of the first item that is not started."""
        return self.chunk.start + self.claim.started

    @property
    def stop(self) -> int:
        """The position behind the last item, after what was taken back."""
        return self.chunk.start + self.claim.stop

    @property
    def items(self) -> list[Any]:
        """The items without an outcome; of a `submit`, its (args, kwargs)."""
        return list(self.chunk.between(self.settled, max(self.settled, self.stop)).items)

    def __repr__(self) -> str:
        return f"<chunk {self.chunk_id}: items {self.settled} to {self.stop}, with worker {self.worker!r}>"


class FakeBackend(Backend):
    """Workers that do what a test says, when it says so, in the thread that says it.

    Args:
        workers: how many there are at first; they are named 0, 1, ...
        depth: chunks that a worker holds at once.
        can_give_back: the tail of a chunk can be taken back while it runs.

    Attributes:
        closed: the executor has let the workers go.
        killed: it ended them at once.
    """

    def __init__(self, workers: int = 2, depth: int = 1, can_give_back: bool = False):
        self.depth = depth
        self.can_give_back = can_give_back
        self.closed = self.killed = False
        self._first = range(workers)
        self._names: set[Hashable] = set()
        self._workers: dict[Hashable, tuple[Worker, Context]] = {}
        self._indices: dict[Hashable, int] = {}
        self._chunks: dict[int, FakeChunk] = {}
        self._changed = threading.Condition()

    # What a test sees

    def workers(self) -> list[Hashable]:
        """The names of the workers, in the order in which they joined."""
        return list(self._workers)

    def chunks(self, worker: Hashable = ...) -> list[FakeChunk]:
        """What is with the workers, or with one of them, in the order in which it came."""
        chunks = list(self._chunks.values())
        return chunks if worker is ... else [chunk for chunk in chunks if chunk.worker == worker]

    def wait(self, chunks: int = 1) -> list[FakeChunk]:
        """Wait until at least so many chunks are with the workers: for tests with several threads.

        Raises:
            TimeoutError: they do not come.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._chunks) >= chunks, PATIENCE):
                raise TimeoutError(f"{len(self._chunks)} chunks are with workers, {chunks} were waited for")
            return self.chunks()

    # What a test does

    def start_items(self, chunk: FakeChunk, items: int = 1) -> int:
        """The worker starts the next items, and says nothing of them yet; how many there were."""
        self._check(chunk)
        return chunk.claim.take(items)

    def advance(self, chunk: FakeChunk, items: int = 1, *, seconds: float = 0.0) -> None:
        """Run and report the next items, and those that were started; the chunk stays with its worker."""
        self._check(chunk)
        unsettled = chunk.started + chunk.claim.take(items) - chunk.settled
        if unsettled > 0:
            self._run(chunk, LocalClaim(unsettled), seconds, ends=False)

    def finish(self, chunk: FakeChunk, values: Sequence[Any] | None = None, *, seconds: float = 0.0) -> None:
        """Run all items of a chunk that have no outcome, and report them.

        Args:
            values: the results, instead of what running would give (of a reduce: the nodes of its fold).
            seconds: what the worker says that it took; 0 for not measured, so that sizes do not adapt.
        """
        self._check(chunk)
        if values is not None:
            chunk.claim.take(len(chunk.chunk))
            self._report(chunk, seconds, True, Outcomes(chunk.settled, chunk.stop, list(values)), 0.0, True)
            return
        if chunk.settled < chunk.started:
            self.advance(chunk, 0)
        self._run(chunk, chunk.claim, seconds, ends=True)

    def finish_all(self) -> None:
        """Finish what is with the workers, and what comes to them meanwhile, in the order of coming."""
        while self._chunks:
            self.finish(self.chunks()[0])

    def fail(self, chunk: FakeChunk, error: Exception) -> None:
        """All items of a chunk that have no outcome fail with `error`."""
        self._check(chunk)
        chunk.claim.take(len(chunk.chunk))
        failed = Outcomes.all_failed(chunk.settled, chunk.stop, error)
        self._report(chunk, 0.0, True, failed, 0.0, True)

    def reject(self, chunk: FakeChunk, error: Exception, indices: Iterable[int] = ()) -> None:
        """A chunk cannot travel because of the items at `indices` (none given: of all), which fail."""
        self._land(chunk)
        indices = indices or range(chunk.settled, chunk.stop)
        self._post(Rejected(chunk.chunk_id, dict.fromkeys(indices, error)))

    def give_back(self, chunk: FakeChunk) -> None:
        """The worker ends a chunk without having started the rest, which is handed out again."""
        self._check(chunk)
        self._report(chunk, 0.0, True, Outcomes(chunk.settled, chunk.settled, []), 0.0, True)

    def lose(self, worker: Hashable, error: Exception | None = None, *, known: bool = True) -> None:
        """A worker is gone: what it had started fails with `error`, its other items are handed out again.

        Args:
            known: it is known what it had started; if not, all that it had fails.
        """
        del self._workers[worker], self._indices[worker]
        lost = self.chunks(worker)
        for chunk in lost:
            self._land(chunk)
        claimed = {chunk.chunk_id: chunk.claim.started for chunk in lost} if known else None
        self._post(WorkerLeft(worker, error or WorkerDied(f"worker {worker!r} was lost"), claimed))

    def join_worker(self, name: Hashable) -> None:
        """A worker comes, under a name that none had before."""
        if name in self._names:
            raise ValueError(f"{name!r} is, or was, the name of another worker; take a new one")
        self._names.add(name)
        taken = self._indices.values()
        self._indices[name] = index = next(index for index in count() if index not in taken)
        # Without late reports, which come from a thread that no test has a hand on.
        self._workers[name] = Worker(index, late_reports=False), copy_context()
        self._post(WorkerJoined(name))

    def break_down(self, error: Exception) -> None:
        """No worker can be had any more."""
        self._post(Broken(error))

    # What an executor asks of it

    def start(self, post: Post) -> None:
        self._post = post
        for name in self._first:
            self.join_worker(name)

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        if worker in self._workers:
            with self._changed:
                self._chunks[chunk_id] = FakeChunk(chunk_id, worker, work, chunk)
                self._changed.notify_all()

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        chunk = self._chunks.get(chunk_id)
        return chunk.claim.take_back(cut) if chunk is not None and self.can_give_back else None

    def close(self, *, kill: bool = False) -> None:
        self.closed, self.killed = True, kill
        for worker, context in self._workers.values():
            context.run(worker.leave)

    # How it is done

    def _check(self, chunk: FakeChunk) -> None:
        if self._chunks.get(chunk.chunk_id) is not chunk:
            raise ValueError(f"{chunk!r} is no longer with its worker; take one of {self.chunks()}")

    def _land(self, chunk: FakeChunk) -> None:
        self._check(chunk)
        del self._chunks[chunk.chunk_id]

    def _run(self, chunk: FakeChunk, claim: LocalClaim, seconds: float, *, ends: bool) -> None:
        worker, context = self._workers[chunk.worker]
        items = chunk.chunk.between(chunk.settled, chunk.chunk.stop).items
        report = partial(self._report, chunk, seconds, ends)
        context.run(worker.enter, self)
        # A copy, for a chunk may be run from a callback, while another is.
        context.copy().run(worker.run, chunk.work, items, chunk.settled, claim, report)

    def _report(
        self, chunk: FakeChunk, seconds: float, ends: bool, outcomes: Outcomes, measured: float, last: bool
    ) -> None:
        chunk.settled = outcomes.stop
        if last and ends:
            self._land(chunk)
        self._post(Settled(chunk.chunk_id, outcomes, seconds if last else 0.0, last and ends))
