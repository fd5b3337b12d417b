"""Workers that are far away: they share no memory, give nothing back, and come and go as they like.

`RemoteBackend` below is what an adapter to a cluster would be. It keeps the whole contract, on the core as
it is. What only happens by bad luck, the tests with `FakeBackend` do by hand.
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from operator import add
from queue import SimpleQueue
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit import Executor, InitializerFailed, WorkerDied, current_worker
from parallelkit._core.chunks import Chunk
from parallelkit._core.outcome import Outcomes
from parallelkit._worker import LocalClaim, Work, Worker
from parallelkit.backends.base import Backend, Broken, Post, Settled, WorkerJoined
from parallelkit.testing import BackendContract, FakeBackend, FakeChunk


class RemoteBackend(Backend):
    """Threads that know nothing of each other but pickled bytes."""

    def __init__(
        self,
        names: list[Hashable],
        *,
        initializer: Callable[[], object] | None = None,
        finalizer: Callable[[], object] | None = None,
    ):
        self._names = names
        self._ends = initializer, finalizer
        self._inboxes: dict[Hashable, SimpleQueue[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._answers: SimpleQueue[bytes] = SimpleQueue()

    def start(self, post: Post) -> None:
        self._post = post
        for name in self._names:
            self.add_worker(name)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def add_worker(self, name: Hashable) -> None:
        self._inboxes[name] = inbox = SimpleQueue()
        thread = threading.Thread(target=self._serve, args=(len(self._threads), inbox))
        self._threads.append(thread)
        thread.start()
        self._post(WorkerJoined(name))

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        self._inboxes[worker].put(cloudpickle.dumps((chunk_id, work, chunk.items, chunk.start)))

    def close(self, *, kill: bool = False) -> None:
        for inbox in self._inboxes.values():
            inbox.put(b"")
        self._answers.put(b"")

    def join(self, timeout: float | None = None) -> None:
        for thread in [*self._threads, self._listener]:
            if thread is not threading.current_thread():
                thread.join(timeout)

    # On the far side

    def _serve(self, index: int, inbox: SimpleQueue[bytes]) -> None:
        worker = Worker(index, *self._ends)
        entered = False
        while parcel := inbox.get():
            try:
                worker.enter()
            except InitializerFailed as error:
                self._answers.put(pickle.dumps(Broken(error)))
                break
            entered = True
            chunk_id, work, items, start = pickle.loads(parcel)
            worker.run(work, items, start, LocalClaim(len(items)), partial(self._answer, chunk_id))
        if entered:
            worker.leave()

    def _answer(self, chunk_id: int, outcomes: Outcomes, seconds: float, last: bool) -> None:
        self._answers.put(cloudpickle.dumps(Settled(chunk_id, outcomes, seconds, last)))

    def _listen(self) -> None:
        while answer := self._answers.get():
            self._post(pickle.loads(answer))


class TestRemote(BackendContract):
    depth = 1

    def new_executor(
        self,
        *,
        max_workers: int = 2,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[], object] | None = None,
    ) -> Executor:
        names: list[Hashable] = [("tcp://worker", number) for number in range(max_workers)]
        begin = partial(initializer, *initargs) if initializer is not None else None
        backend = RemoteBackend(names, initializer=begin, finalizer=finalizer)
        backend.depth = self.depth
        return Executor(backend)


class TestRemoteThatQueues(TestRemote):
    depth = 3


# By hand


def negative(item: int) -> int:
    return -item


def lost_items(results: list[Any]) -> list[int]:
    return [position for position, result in enumerate(results) if isinstance(result, WorkerDied)]


@pytest.mark.parametrize("name", [None, "w", ("host", 4), frozenset({1}), 0.5, Ellipsis, Backend])
def test_any_hashable_names_a_worker(name: Hashable) -> None:
    backend = FakeBackend(workers=0)
    executor = Executor(backend)
    backend.join_worker(name)
    future = executor.submit(negative, 1)
    assert [chunk.worker for chunk in backend.chunks()] == [name]
    backend.finish_all()
    assert future.result(0) == -1


def test_work_waits_for_the_first_worker() -> None:
    backend = FakeBackend(workers=0)
    executor = Executor(backend)
    future, results = executor.submit(negative, 1), executor.map(negative, range(10))
    assert backend.chunks() == []
    backend.join_worker("late")
    backend.finish_all()
    assert future.result(0) == -1
    assert list(results) == [negative(item) for item in range(10)]


def test_who_comes_in_the_middle_gets_work() -> None:
    backend = FakeBackend(workers=1)
    executor = Executor(backend)
    results = executor.map(negative, range(10), chunksize=2)
    backend.join_worker("second")
    assert [(chunk.worker, chunk.items) for chunk in backend.chunks()] == [(0, [0, 1]), ("second", [2, 3])]
    backend.finish_all()
    assert list(results) == [negative(item) for item in range(10)]


def test_only_what_was_started_is_lost_with_a_worker() -> None:
    backend = FakeBackend()
    executor = Executor(backend)
    results = executor.map(negative, range(12), chunksize=6, return_exceptions=True)
    chunk = backend.chunks()[0]
    backend.advance(chunk, 2)
    backend.start_items(chunk, 1)
    backend.lose(chunk.worker, ConnectionResetError("the cable"))
    backend.finish_all()
    *before, lost = [next(results) for _ in range(3)]
    assert before == [0, -1]
    assert isinstance(lost, ConnectionResetError)
    assert list(results) == [negative(item) for item in range(3, 12)]


def test_a_chunk_of_which_nothing_is_known_counts_as_started() -> None:
    backend = FakeBackend()
    executor = Executor(backend)
    results = executor.map(negative, range(8), chunksize=4, return_exceptions=True)
    backend.advance(backend.chunks()[0], 1)
    backend.lose(backend.chunks()[0].worker, known=False)
    backend.finish_all()
    assert lost_items(list(results)) == [1, 2, 3]


def test_what_was_not_started_is_no_attempt() -> None:
    backend = FakeBackend(workers=1)
    executor = Executor(backend)
    results = executor.map(negative, [7], retries=1)
    for name in "abc":
        backend.lose(backend.workers()[0])
        backend.join_worker(name)
    assert [chunk.chunk.attempts for chunk in backend.chunks()] == [0]
    backend.start_items(backend.chunks()[0])
    backend.lose("c")
    backend.join_worker("d")
    assert [chunk.chunk.attempts for chunk in backend.chunks()] == [1]
    backend.start_items(backend.chunks()[0])
    backend.lose("d")
    with pytest.raises(WorkerDied, match="'d' was lost"):
        next(results)


def test_chunks_of_a_lost_worker_keep_their_order() -> None:
    backend = FakeBackend(workers=1, depth=3)
    executor = Executor(backend)
    results = executor.map(negative, range(12), chunksize=2)
    assert [chunk.items[0] for chunk in backend.chunks()] == [0, 2, 4]
    backend.lose(0)
    backend.join_worker(1)
    assert [chunk.items[0] for chunk in backend.chunks()] == [0, 2, 4]
    backend.finish_all()
    assert list(results) == [negative(item) for item in range(12)]


def test_an_answer_that_comes_too_late_is_not_heard() -> None:
    backend = FakeBackend()
    executor = Executor(backend)
    results = executor.map(negative, range(2), chunksize=1, return_exceptions=True)
    late = backend.chunks()[0]
    backend.start_items(late)
    backend.lose(late.worker)
    backend._post(Settled(late.chunk_id, Outcomes(0, 1, ["late"]), 0.0, last=True))
    backend.finish_all()
    assert lost_items(list(results)) == [0]


def test_a_name_is_of_one_worker() -> None:
    backend = FakeBackend(workers=1)
    executor = Executor(backend)
    future = executor.submit(negative, 5)
    backend.lose(0)
    with pytest.raises(ValueError, match="a new one"):
        backend.join_worker(0)
    backend.join_worker("in its place")
    backend.finish_all()
    assert future.result(0) == -5


def test_who_comes_takes_the_index_of_one_who_left() -> None:
    backend = FakeBackend(workers=3)
    executor = Executor(backend)
    backend.lose(0)
    backend.join_worker("in its place")
    results = executor.map(lambda item: (item, current_worker()), range(3), chunksize=1)
    indices = {chunk.worker: chunk.items[0] for chunk in backend.chunks()}
    backend.finish_all()
    assert dict(results) == {indices["in its place"]: 0, indices[1]: 1, indices[2]: 2}


def test_a_chunk_that_is_late_for_its_worker_runs_once() -> None:
    """It is on its way from one thread while another hears that the worker is gone."""
    backend = FakeBackend(workers=1)
    executor = Executor(backend)
    carried = []
    submit = backend.submit

    def slow(worker: Hashable, *parcel: Any) -> None:
        backend.submit = submit  # type: ignore[method-assign]
        backend.lose(worker)
        backend.join_worker("in its place")
        carried.append(backend.chunks())
        submit(worker, *parcel)

    backend.submit = slow  # type: ignore[method-assign]
    future = executor.submit(negative, 5)
    assert [chunk.worker for chunk in carried[0]] == ["in its place"]
    assert backend.chunks() == carried[0], "what comes late is not run"
    backend.finish_all()
    assert future.result(0) == -5


def in_the_middle_of_carrying(backend: FakeBackend, deed: Callable[[], object]) -> None:
    """Do this when the next chunk is on its way to its worker."""
    submit = backend.submit

    def slow(*parcel: Any) -> None:
        backend.submit = submit  # type: ignore[method-assign]
        deed()
        submit(*parcel)

    backend.submit = slow  # type: ignore[method-assign]


def test_what_nobody_carried_yet_was_not_started() -> None:
    """A worker gets two chunks at once, and is lost when one is on its way, and the other not yet."""
    backend = FakeBackend(workers=0, depth=2)
    executor = Executor(backend)
    futures = [executor.submit(negative, item) for item in range(2)]
    in_the_middle_of_carrying(backend, lambda: backend.lose("w", known=False))
    backend.join_worker("w")
    backend.join_worker("in its place")
    backend.finish_all()
    assert isinstance(futures[0].exception(0), WorkerDied), "it may have arrived"
    assert futures[1].result(0) == -1


def test_what_is_on_its_way_when_its_call_is_left_is_not_run() -> None:
    backend = FakeBackend(workers=1, can_give_back=True)
    executor = Executor(backend)
    results = executor.map(negative, range(6), chunksize=3)

    def leave() -> None:
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]

    in_the_middle_of_carrying(backend, leave)
    backend.finish(backend.chunks()[0])
    assert [chunk.items for chunk in backend.chunks()] == [[]]


class _LosesWhatItIsGiven(FakeBackend):
    """The first worker that is given something leaves before it has it."""

    lost = False

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        if not self.lost:
            self.lost = True
            self.lose(worker)
        super().submit(worker, chunk_id, work, chunk)


def test_a_worker_leaves_while_a_chunk_is_on_its_way() -> None:
    backend = _LosesWhatItIsGiven()
    executor = Executor(backend)
    results = executor.map(negative, range(6), chunksize=2, return_exceptions=True)
    backend.finish_all()
    assert list(results) == [negative(item) for item in range(6)], "what never arrived was not started"


def test_a_chunk_that_cannot_travel() -> None:
    backend = FakeBackend()
    executor = Executor(backend)
    results = executor.map(negative, range(6), chunksize=3, return_exceptions=True)
    backend.reject(backend.chunks()[0], pickle.PicklingError("no"), [1])
    assert sorted(chunk.items for chunk in backend.chunks()) == [[0], [3, 4, 5]]
    backend.finish_all()
    gathered = list(results)
    assert [position for position, result in enumerate(gathered) if isinstance(result, Exception)] == [1]
    assert "item 1: 1" in gathered[1].__notes__[0]


def test_a_chunk_cannot_travel_and_its_tail_was_taken_back() -> None:
    backend = FakeBackend(can_give_back=True)
    executor = Executor(backend)
    results = executor.map(negative, range(8), chunksize=4, ordered=False, return_exceptions=True)
    first, second = backend.chunks()
    backend.finish(second)
    assert [chunk.items for chunk in backend.chunks()] == [[0, 1], [2, 3]]
    backend.reject(first, pickle.PicklingError("no"), [1, 3])  # as the worker finds in what was sent to it
    backend.finish_all()
    gathered = list(results)
    assert len(gathered) == 8, "item 3 is no longer in this chunk"
    assert sum(isinstance(result, pickle.PicklingError) for result in gathered) == 1


def test_a_worker_ends_a_chunk_early() -> None:
    backend = FakeBackend(workers=1)
    executor = Executor(backend)
    results = executor.map(negative, range(4), chunksize=4)
    first = backend.chunks()[0]
    backend.advance(first, 3)
    backend.give_back(first)
    assert [chunk.items for chunk in backend.chunks()] == [[3]]
    backend.finish_all()
    assert list(results) == [0, -1, -2, -3]


def test_a_reduce_survives_losses() -> None:
    words = [chr(97 + item % 26) for item in range(600)]
    backend = FakeBackend(workers=3)
    executor = Executor(backend)
    reduced: list[str] = []
    thread = threading.Thread(
        target=lambda: reduced.append(executor.reduce(add, words, chunksize=50, retries=5))
    )
    thread.start()
    for loss in range(5):
        chunk = backend.wait()[-1]
        backend.advance(chunk, 10 * loss)
        backend.start_items(chunk, 5)
        backend.lose(chunk.worker)
        backend.join_worker(f"in its place {loss}")
    while thread.is_alive():
        backend.finish_all()
    assert reduced == ["".join(words)]


def test_who_shuts_down_without_workers_waits_for_one() -> None:
    backend = FakeBackend(workers=1)
    executor = Executor(backend)
    future = executor.submit(negative, 1)
    backend.lose(0)
    executor.shutdown(wait=False)
    assert not backend.closed
    backend.join_worker("late")
    backend.finish_all()
    assert future.result(0) == -1
    assert backend.closed
    assert not backend.killed


def test_killed_without_workers() -> None:
    backend = FakeBackend(workers=0)
    executor = Executor(backend)
    future = executor.submit(negative, 1)
    executor.kill_workers()
    assert isinstance(future.exception(0), WorkerDied)
    assert backend.killed


def test_no_worker_can_be_had_any_more() -> None:
    backend = FakeBackend()
    executor = Executor(backend)
    future, results = executor.submit(negative, 1), executor.map(negative, [1])
    backend.break_down(InitializerFailed("the cluster is gone"))
    assert isinstance(future.exception(0), InitializerFailed)
    with pytest.raises(InitializerFailed, match="the cluster is gone"):
        next(results)
    with pytest.raises(InitializerFailed, match="the cluster is gone"):
        executor.submit(negative, 1)


def test_the_window_bounds_what_is_with_workers_and_unread() -> None:
    backend = FakeBackend(workers=4, depth=2)
    executor = Executor(backend)
    results = executor.map(negative, range(100), buffersize=10, chunksize=3)
    assert sum(len(chunk.items) for chunk in backend.chunks()) == 10
    backend.finish_all()
    assert backend.chunks() == [], "ten results wait to be read"
    assert next(results) == 0
    assert sum(len(chunk.items) for chunk in backend.chunks()) <= 10
    del results


# Anything, at any time

STEPS = ["finish", "advance", "start", "give back", "reject", "lose", "lose", "join"]

steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 50), st.integers(0, 9)), max_size=40)


class _Refused(Exception):
    pass


def take_step(backend: FakeBackend, refused: set[int], step: tuple[str, int, int]) -> None:
    what, which, items = step
    if what == "join":
        backend.join_worker(("worker", len(backend.workers()), id(step)))
    elif what == "lose":
        if backend.workers():
            backend.lose(backend.workers()[which % len(backend.workers())])
    elif backend.chunks():
        chunk: FakeChunk = backend.chunks()[which % len(backend.chunks())]
        if what == "finish":
            backend.finish(chunk)
        elif what == "advance":
            backend.advance(chunk, items)
        elif what == "start":
            backend.start_items(chunk, items)
        elif what == "give back" and chunk.started == chunk.settled:
            backend.give_back(chunk)
        elif what == "reject" and chunk.started == chunk.chunk.start:
            # The worker has what was sent to it, and cannot know which part was taken back meanwhile.
            index = chunk.chunk.start + items % len(chunk.chunk)
            if index < chunk.stop:
                refused.add(index)
            backend.reject(chunk, _Refused(), [index])


@given(
    steps=steps,
    length=st.integers(0, 60),
    chunksize=st.one_of(st.none(), st.integers(1, 9)),
    depth=st.integers(1, 3),
    can_give_back=st.booleans(),
    ordered=st.booleans(),
    retries=st.integers(0, 2),
)
def test_every_item_is_accounted_for(
    steps: list[tuple[str, int, int]],
    length: int,
    chunksize: int | None,
    depth: int,
    can_give_back: bool,
    ordered: bool,
    retries: int,
) -> None:
    ran: Counter[int] = Counter()
    refused: set[int] = set()

    def run(item: int) -> int:
        ran[item] += 1
        return item

    backend = FakeBackend(depth=depth, can_give_back=can_give_back)
    executor = Executor(backend)
    results = executor.map(
        run, range(length), chunksize=chunksize, ordered=ordered, retries=retries, return_exceptions=True
    )
    for step in steps:
        take_step(backend, refused, step)
    backend.join_worker("the last")
    backend.finish_all()

    gathered = list(results)
    assert len(gathered) == length
    values = [result for result in gathered if isinstance(result, int)]
    assert set(Counter(values).values()) <= {1}, "nothing is delivered twice"
    assert all(isinstance(result, int | WorkerDied | _Refused) for result in gathered)
    assert set(values) | refused <= set(range(length))
    assert max(ran.values(), default=0) <= 1 + retries
    assert not any(ran[item] == 0 for item in values)
    if ordered:
        assert all(result == position for position, result in enumerate(gathered) if isinstance(result, int))
    if retries == 0:
        assert len([result for result in gathered if isinstance(result, _Refused)]) == len(refused)
