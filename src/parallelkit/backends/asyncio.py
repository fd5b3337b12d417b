"""Workers that are coroutines of one event loop, which runs in a thread of its own: for work that awaits.

Each worker awaits the items of its chunk one after the other, so max_workers is the number of coroutines
in flight. Plain functions run in threads and do not block the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, cast

from .._core.chunks import Chunk, Cut, unstarted
from .._core.outcome import Outcomes
from .._core.scheduler import Settled
from .._late_reports import LateReports
from .._work import LocalClaim, Work, as_item_error, initializer_failed, owned, thread_refused
from .._worker import enter_worker, finalizer_failed, run_chunk, run_chunk_async
from .base import Backend, Broken, Post, WorkerJoined

__all__ = ["AsyncioBackend"]

MOST_THREADS = 32
"""Threads for plain functions, at the most; as many as `ThreadPoolExecutor` takes by default."""


class AsyncioBackend(Backend):
    """Coroutines in flight, in an event loop that the first chunk starts.

    The initializer and the finalizer are called once, in the thread of the loop; they may be `async def`.
    """

    can_give_back = True
    lanes = 1

    def __init__(
        self,
        max_workers: int,
        *,
        initializer: Callable[[], object] | None = None,
        finalizer: Callable[[], object] | None = None,
        thread_name_prefix: str = "",
    ):
        self._max_workers = max_workers
        self._initialize = initializer
        self._finalize = finalizer
        self._name = thread_name_prefix or "parallelkit-asyncio"
        self._lock = threading.RLock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready: asyncio.Future[bool] | None = None
        self._claims: dict[int, LocalClaim] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._threads: _Threads | None = None
        self._late_reports: dict[Hashable, LateReports] = {}
        self._leaving: asyncio.Task[None] | None = None
        self._killed = False

    @classmethod
    def default_workers(cls) -> int:
        return 100

    def start(self, post: Post) -> None:
        self._post = post
        for index in range(self._max_workers):
            post(WorkerJoined(index))

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        self._claims[chunk_id] = LocalClaim(len(chunk))
        failed: Exception | None = None
        with self._lock:
            if self._closed:
                return  # every call has ended
            if self._loop is None:
                try:
                    self._start_loop()
                except (RuntimeError, OSError) as error:
                    # Too many threads or descriptors, or the interpreter is at its end.
                    failed = error
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._begin, worker, chunk_id, work, chunk)
        if failed is not None:
            self._post(Broken(thread_refused(failed)))

    def _start_loop(self) -> None:
        loop = asyncio.new_event_loop()
        # Not joined at interpreter exit, where a plain function may be stuck: close() and join() are
        # called there in time.
        thread = threading.Thread(target=self._run_loop, args=(loop,), name=self._name, daemon=True)
        try:
            thread.start()
        finally:  # Ctrl-C may come when it runs already
            if thread.ident is not None:
                self._loop, self._thread = loop, thread
            else:
                loop.close()

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._ready = loop.create_future()
        loop.create_task(self._enter(self._ready))
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            if self._threads is not None:
                self._threads.leave()
            with self._lock:  # nobody asks anything of a loop while it is closed
                loop.close()

    async def _enter(self, ready: asyncio.Future[bool]) -> None:
        try:
            await _call(self._initialize)
            ready.set_result(True)
        except BaseException as error:
            ready.set_result(False)
            failure = initializer_failed(as_item_error(error))
            failure.__cause__ = error
            self._post(Broken(failure))

    def _begin(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        assert self._loop is not None
        task = self._tasks[chunk_id] = self._loop.create_task(self._run(worker, chunk_id, work, chunk))
        task.add_done_callback(partial(self._ended, chunk_id, chunk.start))

    def _ended(self, chunk_id: int, start: int, task: asyncio.Task[None]) -> None:
        """A chunk's task is over. One that was cancelled, perhaps before it began, has not said so itself."""
        self._tasks.pop(chunk_id, None)
        if task.cancelled():
            self._report(chunk_id, Outcomes(start, start, []), 0.0, True)
        elif (error := task.exception()) is not None:  # a defect of ours; nobody must wait for the chunk
            self._post(Broken(as_item_error(error)))

    async def _run(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        """One chunk on one worker."""
        claim = self._claims[chunk_id]
        report = partial(self._report, chunk_id)
        enter_worker(cast(int, worker), self)
        assert self._ready is not None
        if not self._ready.done():
            await asyncio.wait([self._ready])
        if not self._ready.result():
            return
        if work.is_async:
            await run_chunk_async(work, chunk.items, chunk.start, claim, report, lanes=1)
        else:
            late = self._late_reports.setdefault(worker, LateReports())
            run = partial(run_chunk, work, chunk.items, chunk.start, claim, report, late_reports=late)
            await self._in_thread(worker, run)

    async def _in_thread(self, worker: Hashable, function: Callable[[], None]) -> None:
        assert self._loop is not None
        if self._threads is None:
            self._threads = _Threads(min(MOST_THREADS, self._max_workers), self._name)
        loop, ended = self._loop, self._loop.create_future()

        def run() -> None:
            enter_worker(cast(int, worker), self)
            try:
                function()
            finally:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(end)

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        self._threads.run(run)
        await ended

    def _report(self, chunk_id: int, outcomes: Outcomes, seconds: float, last: bool) -> None:
        if last and self._claims.pop(chunk_id, None) is None:
            return  # cancelled, and said so, while it still ran in a thread
        self._post(Settled(chunk_id, outcomes, seconds, last))

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        claim = self._claims.get(chunk_id)
        if claim is None:
            return None
        stop = claim.take_back(cut)
        if cut is unstarted:  # its call is over: nobody waits for what is in flight
            self._in_loop(lambda: self._cancel(chunk_id))
        return stop

    def running(self, chunk_id: int) -> tuple[int, float] | None:
        claim = self._claims.get(chunk_id)
        return None if claim is None else (claim.started, claim.since)

    def is_inside(self) -> bool:
        return owned(self._lock) or any(claim.held for claim in list(self._claims.values()))

    def close(self, *, kill: bool = False) -> None:
        with self._lock:
            self._closed = True
        self._in_loop(lambda: self._leave(kill))

    def join(self, timeout: float | None = None) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _in_loop(self, function: Callable[[], object]) -> None:
        with self._lock:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(function)

    def _cancel(self, chunk_id: int) -> None:
        task = self._tasks.get(chunk_id)
        if task is not None:
            task.cancel()

    def _leave(self, kill: bool) -> None:
        tasks = list(self._tasks.values())
        for chunk_id, task in self._tasks.items():
            if kill or chunk_id in self._claims:  # else it has reported, and is in the callbacks of that
                task.cancel()
        self._killed |= kill
        if self._leaving is None:  # a second one might be begun when the first has stopped the loop
            assert self._loop is not None
            self._leaving = self._loop.create_task(self._finish(tasks))

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        assert self._loop is not None and self._ready is not None
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            if not self._killed and self._ready.done() and self._ready.result():
                try:
                    await _call(self._finalize)
                except Exception:
                    finalizer_failed()
        finally:
            self._loop.stop()


class _Threads:
    """Threads for plain functions, started as they are needed, which do not keep the interpreter from ending.

    Those of `concurrent.futures` do: one stuck function would hold up an exit by Ctrl-C.
    """

    def __init__(self, most: int, name: str):
        self._most = most
        self._name = name
        self._count = 0
        self._idle = threading.Semaphore(0)
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self, function: Callable[[], None]) -> None:
        """Call a function, which does not raise, in the next free thread. For the loop's thread only."""
        self._queue.put(function)
        if not self._idle.acquire(blocking=False) and self._count < self._most:
            name = f"{self._name}_{self._count + 1}"
            try:
                threading.Thread(target=self._serve, name=name, daemon=True).start()
            except RuntimeError as error:
                if not self._count:  # nobody else will ever call it
                    raise thread_refused(error) from error
            else:
                self._count += 1

    def leave(self) -> None:
        """Let the threads end when they have done what waits."""
        for _ in range(self._count):
            self._queue.put(None)

    def _serve(self) -> None:
        while (function := self._queue.get()) is not None:
            function()
            del function
            self._idle.release()


async def _call(function: Callable[[], Any] | None) -> None:
    """Call a function of the user's that may or may not be `async def`."""
    if function is not None:
        result = function()
        if inspect.isawaitable(result):
            await result
