"""Workers that are threads of this process: for work that waits, or that releases the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from queue import SimpleQueue

from .._core.chunks import Chunk, Cut, unstarted
from .._core.outcome import Outcomes
from .._core.scheduler import Settled
from .._work import LocalClaim, Work, thread_refused
from .._worker import Worker
from ..cpus import cpu_count
from ..errors import InitializerFailed
from .base import Broken, LazyBackend, WorkerLeft

__all__ = ["ThreadBackend"]

_Parcel = tuple[int, Work, Chunk, LocalClaim]


class ThreadBackend(LazyBackend):
    """Threads, each started by the first chunk it gets, each with an inbox of its own.

    A thread that is stuck in an item cannot be ended; it is abandoned, and another takes its index.
    """

    can_give_back = True
    can_abandon = True
    reports_in_worker = True

    def __init__(
        self,
        max_workers: int,
        *,
        initializer: Callable[[], object] | None = None,
        finalizer: Callable[[], object] | None = None,
        thread_name_prefix: str = "",
    ):
        super().__init__(max_workers)
        self._new_worker = partial(Worker, initialize=initializer, finalize=finalizer)
        self._name = thread_name_prefix or "parallelkit"
        self._inboxes: dict[int, SimpleQueue[_Parcel | None]] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._flights: dict[int, tuple[int, LocalClaim]] = {}
        self._closed = False

    @classmethod
    def default_workers(cls) -> int:
        return min(32, cpu_count() + 4)  # as ThreadPoolExecutor: threads mostly wait

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        assert isinstance(worker, int)
        claim = LocalClaim(len(chunk))
        self._flights[chunk_id] = worker, claim
        try:
            inbox = self._inboxes.get(worker) or self._start(worker)
        except RuntimeError as error:  # too many threads, or the interpreter is at its end
            self._post(Broken(thread_refused(error)))
            return
        if inbox is None:
            self._flights.pop(chunk_id, None)
        else:
            inbox.put((chunk_id, work, chunk, claim))

    def _start(self, worker: int) -> SimpleQueue[_Parcel | None] | None:
        """Start the thread of a worker; None if it was abandoned already."""
        if worker not in self._unstarted or self._closed:
            return None
        inbox: SimpleQueue[_Parcel | None] = SimpleQueue()
        # Not joined at interpreter exit, where one that is stuck would keep the process: close() and
        # join() are called there in time.
        name = f"{self._name}_{self._index(worker)}"
        thread = threading.Thread(target=self._serve, args=(worker, inbox), name=name, daemon=True)
        self._inboxes[worker] = inbox
        try:
            thread.start()
        except RuntimeError:
            del self._inboxes[worker]
            raise
        self._unstarted.discard(worker)
        self._threads[worker] = thread  # not before: Ctrl-C may fall in between
        return inbox

    def _serve(self, name: int, inbox: SimpleQueue[_Parcel | None]) -> None:
        """A worker thread, from its first chunk to its end."""
        worker = self._new_worker(self._index(name))
        try:
            worker.enter(self)
            while (parcel := inbox.get()) is not None:
                chunk_id, work, chunk, claim = parcel
                worker.run(work, chunk.items, chunk.start, claim, partial(self._report, name, chunk_id))
                del parcel, work, chunk, claim  # an idle worker keeps nothing of the user's alive
        except InitializerFailed as error:
            self._post(Broken(error))
        except Exception as error:  # a defect of ours; nobody is to wait for what it leaves undone
            self._post(Broken(error))
            raise
        finally:
            worker.leave()
            self._threads.pop(name, None)

    def handles(self) -> list[threading.Thread]:
        return [
            thread for _, thread in sorted(self._threads.items(), key=lambda entry: self._index(entry[0]))
        ]

    def _report(self, worker: int, chunk_id: int, outcomes: Outcomes, seconds: float, last: bool) -> None:
        if worker not in self._inboxes:
            return  # abandoned in the middle of an item, and back too late
        if last:
            self._flights.pop(chunk_id, None)
        self._post(Settled(chunk_id, outcomes, seconds, last))

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        flight = self._flights.get(chunk_id)
        return None if flight is None else flight[1].take_back(cut)

    def is_inside(self) -> bool:
        return any(claim.held for _, claim in list(self._flights.values()))

    def running(self, chunk_id: int) -> tuple[int, float] | None:
        flight = self._flights.get(chunk_id)
        return None if flight is None else (flight[1].started, flight[1].since)

    def abandon(self, chunk_id: int, started: int, error: Exception) -> bool:
        flight = self._flights.get(chunk_id)
        if flight is None or not flight[1].stop_at(started):
            return False
        worker = flight[0]
        inbox = self._inboxes.pop(worker, None)
        if inbox is None:
            return True
        inbox.put(None)
        claimed = {}
        for other_id, (holder, claim) in list(self._flights.items()):
            if holder == worker:
                claimed[other_id] = claim.take_back(unstarted)
                del self._flights[other_id]
        self._threads.pop(worker, None)
        self._post(WorkerLeft(worker, error, claimed))
        self._join_in_place_of(worker)
        return True

    def close(self, *, kill: bool = False) -> None:
        self._closed = True
        inboxes, self._inboxes = self._inboxes, {} if kill else self._inboxes
        for inbox in list(inboxes.values()):
            inbox.put(None)
        if kill:
            self._threads = {}

    def join(self, timeout: float | None = None) -> None:
        for thread in list(self._threads.values()):
            if thread is not threading.current_thread():
                thread.join(timeout)
