"""No worker but the caller: every chunk runs in the thread that asks for it. For tests and debuggers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextvars import copy_context

from .._alarm import call_soon
from .._core.chunks import Chunk, Cut
from .._core.outcome import Outcomes
from .._core.scheduler import Settled
from .._work import LocalClaim, Work, as_item_error, owned
from .._worker import Worker
from ..errors import InitializerFailed
from .base import Backend, Broken, Post, WorkerJoined

__all__ = ["SerialBackend"]


class SerialBackend(Backend):
    """Runs chunks at once, one after the other, in the thread that submits them."""

    can_give_back = True
    eager = False

    def __init__(
        self,
        max_workers: int,
        *,
        initializer: Callable[[], object] | None = None,
        finalizer: Callable[[], object] | None = None,
    ):
        self._worker = Worker(0, initializer, finalizer, let_through=KeyboardInterrupt, late_reports=False)
        self._context = copy_context()
        self._waiting: deque[tuple[int, Work, Chunk]] = deque()
        self._claims: dict[int, LocalClaim] = {}
        self._turn = threading.RLock()
        self._reporting = self._leaves_later = False

    @classmethod
    def default_workers(cls) -> int:
        return 1

    def start(self, post: Post) -> None:
        self._post = post
        post(WorkerJoined(0))

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        self._claims[chunk_id] = LocalClaim(len(chunk))
        self._waiting.append((chunk_id, work, chunk))
        self._run_what_waits()

    def _run_what_waits(self) -> None:
        # A call within an item runs there, on top of it. What comes of a report waits until the report is
        # through, lest each chunk run on top of the one before; and what comes from another thread, until
        # this one is done.
        while self._waiting and not self._reporting and self._turn.acquire(blocking=False):
            try:
                self._run(*self._waiting.popleft())
            except BaseException:  # Ctrl-C; whose call is over by the time the clock comes to it, is not run
                call_soon(self._run_what_waits)
                raise
            finally:
                self._turn.release()
                if self._leaves_later and not owned(self._turn):
                    self._leaves_later = False
                    self._context.run(self._worker.leave)

    def _run(self, chunk_id: int, work: Work, chunk: Chunk) -> None:
        ended, settled = False, chunk.start

        def report(outcomes: Outcomes, seconds: float, last: bool) -> None:
            nonlocal ended, settled
            ended, settled = last, outcomes.stop
            if last:
                del self._claims[chunk_id]
            self._reporting = True
            try:
                self._post(Settled(chunk_id, outcomes, seconds, last))
            finally:
                self._reporting = False

        try:
            # A copy, for a chunk may be run while another is: `post` wakes callers, who may submit.
            self._context.run(self._worker.enter, self)
            self._context.copy().run(
                self._worker.run, work, chunk.items, chunk.start, self._claims[chunk_id], report
            )
        except InitializerFailed as error:
            self._claims.pop(chunk_id, None)
            self._post(Broken(error))
        except BaseException as error:  # Ctrl-C: the item that it hit has failed, the others wait
            if not ended:
                started = chunk.start + self._claims[chunk_id].started
                report(Outcomes.all_failed(settled, started, as_item_error(error)), 0.0, True)
            raise

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        claim = self._claims.get(chunk_id)
        return None if claim is None else claim.take_back(cut)

    def is_inside(self) -> bool:
        return any(claim.held for claim in list(self._claims.values()))

    def close(self, *, kill: bool = False) -> None:
        if not kill and owned(self._turn):  # the worker, whose event loop may run, is in the middle of this
            self._leaves_later = True
        elif not kill:
            self._context.run(self._worker.leave)
