"""A chunk that comes for a worker that is gone is not run: the driver hands it out again.

It comes late from one thread when another has heard of the end of the worker, and of who takes its place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import count
from queue import SimpleQueue
from typing import Any

import pytest

from parallelkit._core.chunks import Chunk
from parallelkit._core.outcome import Outcomes
from parallelkit._core.scheduler import Settled
from parallelkit._work import Work
from parallelkit.backends.base import Backend, Broken, Event, WorkerJoined, WorkerLeft
from parallelkit.backends.process import ProcessBackend
from parallelkit.backends.thread import ThreadBackend

pytestmark = pytest.mark.timeout(30)


class Stage:
    """A backend, and what it has posted."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._chunk_ids = count(1)
        backend.start(self.events.put)

    def next(self, kind: type[Any]) -> Any:
        event = self.events.get(timeout=20)
        assert isinstance(event, kind)
        return event

    def submit(self, worker: Any, work: Work, *items: Any) -> int:
        chunk_id = next(self._chunk_ids)
        self.backend.submit(worker, chunk_id, work, Chunk(list(items), 0, 0, len(items)))
        return chunk_id

    def result(self, chunk_id: int) -> Outcomes:
        settled = self.next(Settled)
        assert settled.chunk_id == chunk_id
        outcomes: Outcomes = settled.outcomes
        return outcomes

    def give_up(self, worker: Any) -> None:
        """Give up the worker in the middle of an item."""
        chunk_id = self.submit(worker, Work(wait_for_ever), None)
        while not (self.backend.running(chunk_id) or (0, 0.0))[0]:
            os.sched_yield()
        assert not self.backend.abandon(chunk_id, 2, TimeoutError("not this one"))
        assert self.backend.abandon(chunk_id, 1, TimeoutError("too long"))


@pytest.fixture(params=["process", "thread"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(ProcessBackend(1) if request.param == "process" else ThreadBackend(1))
    yield stage
    stage.backend.close(kill=True)
    stage.backend.join()


def test_a_chunk_for_a_worker_that_was_given_up(stage: Stage) -> None:
    first = stage.next(WorkerJoined).worker
    chunk_id = stage.submit(first, Work(abs), -1)
    assert stage.result(chunk_id).values == [1]
    stage.give_up(first)
    assert stage.next(WorkerLeft).worker == first
    second = stage.next(WorkerJoined).worker
    assert second != first

    late = stage.submit(first, Work(abs), -2)
    chunk_id = stage.submit(second, Work(abs), -3)

    assert stage.result(chunk_id).values == [3], "and nothing of the one that came late"
    assert stage.backend.take_back(late, lambda started, stop: started) is None
    assert stage.events.empty()


def test_the_index_of_a_worker_is_that_of_the_one_before(stage: Stage) -> None:
    for _ in range(3):
        worker = stage.next(WorkerJoined).worker
        chunk_id = stage.submit(worker, Work(which_worker), None)
        assert stage.result(chunk_id).values == [0]
        stage.give_up(worker)
        stage.next(WorkerLeft)


def wait_for_ever(item: object) -> None:
    threading.Event().wait()


def which_worker(item: object) -> int | None:
    from parallelkit import current_worker

    return current_worker()


def test_threads_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(ThreadBackend(1))
    worker = stage.next(WorkerJoined).worker

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        stage.submit(worker, Work(abs), -1)
        assert "no worker thread can be started: can't start new thread" in str(stage.next(Broken).error)
    chunk_id = stage.submit(worker, Work(abs), -1)
    assert stage.result(chunk_id).values == [1], "later there may be room for one"
    stage.backend.close()
    stage.backend.join()
