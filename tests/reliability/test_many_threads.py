"""Many threads at one executor, and callbacks that end it: no deadlock, and the standard library's meaning.

Programs that end with work pending, and executors that are dropped, are in tests/test_real_processes.py and
tests/test_endings.py.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, as_completed, wait
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import pytest
from checks import EVERYWHERE, FORK_WARNING, check_usable, counted, new_executor, on_each_method

from parallelkit import Executor, WorkerDied
from parallelkit.testing import Gate, Notes
from programs import faults, stuck
from programs.watching import METHODS, PATIENCE, wait_until

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings(FORK_WARNING)]

everywhere = pytest.mark.parametrize("method", EVERYWHERE)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.open()


class Threads:
    """Threads that are to come to an end, and what they raised."""

    def __init__(self, *functions: Callable[[], object]):
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=[call], daemon=True) for call in functions]
        for thread in self._threads:
            thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            self.errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "a call never ended"


ENDS: dict[str, Callable[[Executor], object]] = {
    "shutdown": lambda executor: executor.shutdown(),
    "shutdown without waiting": lambda executor: executor.shutdown(wait=False),
    "cancel": lambda executor: executor.shutdown(cancel_futures=True),
    "terminate": lambda executor: executor.terminate_workers(),
    "kill": lambda executor: executor.kill_workers(),
}

KINDS = [(method, end) for method in ("thread", "asyncio") for end in ENDS]


@pytest.mark.parametrize(
    ("method", "end"), [*KINDS, *on_each_method([(end,) for end in ENDS], daily=lambda end: end == "cancel")]
)
def test_threads_submit_map_and_cancel_while_one_ends_the_executor(method: str, end: str) -> None:
    """And workers die meanwhile. Each future has an end, and each result is the right one."""
    executor = new_executor(method)
    begun = threading.Barrier(7)
    futures: list[tuple[int, Future[Any]]] = []
    wrong: list[object] = []

    def submit() -> None:
        begun.wait()
        for item in range(10**6):
            futures.append((item, executor.submit(abs, -item)))
            if item % 50 == 49:
                wait([futures[-1][1]], PATIENCE)

    def map_all() -> None:
        begun.wait()
        while True:
            if list(executor.map(abs, range(300))) != list(range(300)):
                wrong.append("map")

    def reduce() -> None:
        begun.wait()
        while True:
            if executor.reduce(add, range(300)) != sum(range(300)):
                wrong.append("reduce")

    def die() -> None:
        begun.wait()
        while method in METHODS:
            executor.submit(faults.die_by_signal).exception(PATIENCE)

    def cancel() -> None:
        begun.wait()
        chosen = random.Random(4)
        while not executor._driver.closing:
            if futures:
                chosen.choice(futures[-50:])[1].cancel()
            threading.Event().wait(0.001)

    threads = Threads(submit, submit, map_all, reduce, die, cancel)
    begun.wait()
    while len(futures) < 200:
        threading.Event().wait(0.001)
    ENDS[end](executor)
    threads.join()
    executor.shutdown()

    assert not wrong
    assert {type(error) for error in threads.errors} <= {RuntimeError, WorkerDied, CancelledError}
    assert not wait([future for _, future in futures], PATIENCE).not_done
    for item, future in futures:
        if not future.cancelled() and future.exception(0) is None:
            assert future.result(0) == item
        elif not future.cancelled():
            assert isinstance(future.exception(0), WorkerDied)


@pytest.mark.parametrize("end", ENDS)
@everywhere
def test_a_callback_ends_the_executor(method: str, end: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    called = threading.Event()
    executor = new_executor(method)

    def end_it(future: Future[Any]) -> None:
        ENDS[end](executor)
        called.set()

    futures = [executor.submit(gate.pass_through, item) for item in range(10)]
    futures[0].add_done_callback(end_it)
    gate.open()
    assert called.wait(PATIENCE), "it waits for itself"
    executor.shutdown()
    assert not wait(futures, PATIENCE).not_done
    if end.startswith("shutdown"):
        assert [future.result(0) for future in futures] == list(range(10))
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)


@everywhere
def test_a_callback_submits_and_cancels(executor: Executor, tmp_path: Path) -> None:
    first_gate, gate, called = Gate(tmp_path, "first gate"), Gate(tmp_path), threading.Event()
    later: list[Future[int]] = []

    def go_on(future: Future[Any]) -> None:
        for waiting in futures[10:]:
            waiting.cancel()
        later.append(executor.submit(abs, -7))
        called.set()

    futures = [executor.submit((gate if item else first_gate).pass_through, item) for item in range(50)]
    futures[0].add_done_callback(go_on)
    first_gate.open()
    assert called.wait(PATIENCE)
    gate.open()
    assert later[0].result(PATIENCE) == 7
    assert [future.result(PATIENCE) for future in futures[:10]] == list(range(10))
    assert all(future.cancelled() for future in futures[10:])


@everywhere
def test_a_callback_that_raises_hurts_nobody(
    executor: Executor, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)

    def fail(future: Future[Any]) -> None:
        raise LookupError("no such thing")

    futures = [executor.submit(gate.pass_through, item) for item in range(10)]
    for future in futures:
        future.add_done_callback(fail)
    gate.open()
    assert [future.result(PATIENCE) for future in futures] == list(range(10))
    check_usable(executor)
    # The result is there before the callback is called.
    assert wait_until(lambda: caplog.text.count("exception calling callback") == 10)


@everywhere
def test_several_threads_shut_down_at_once(method: str, runs: str) -> None:
    executor = new_executor(method)
    futures = [executor.submit(faults.noted, runs, item) for item in range(100)]
    threads = Threads(*[executor.shutdown] * 4, *[partial(executor.shutdown, wait=False)] * 4)
    threads.join()
    assert not threads.errors
    assert [future.result(0) for future in futures] == list(range(100))
    assert counted(runs) == dict.fromkeys(range(100), 1)


@everywhere
@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_an_end_at_once_while_another_waits_for_the_work(
    method: str, tmp_path: Path, gate: Gate, end: str
) -> None:
    notes = Notes(tmp_path)
    executor = new_executor(method)
    futures = [executor.submit(stuck.wait_and_tell, gate, notes, item) for item in range(10)]
    threads = Threads(executor.shutdown)
    notes.wait_for(2)
    ENDS[end](executor)
    if method not in METHODS:
        gate.open()  # a thread that runs cannot be ended
    threads.join()
    assert not threads.errors
    assert all(isinstance(future.exception(PATIENCE), WorkerDied) for future in futures)


@everywhere
def test_whoever_waits_hears_of_what_is_cancelled(method: str, tmp_path: Path, gate: Gate) -> None:
    """CPython 136655: as_completed() that never ended after shutdown(cancel_futures=True)."""
    notes = Notes(tmp_path)
    executor = new_executor(method, 1)
    futures = [executor.submit(stuck.wait_and_tell, gate, notes, item) for item in range(20)]
    notes.wait_for(1)
    seen: list[Future[Any]] = []
    threads = Threads(lambda: seen.extend(as_completed(futures)), lambda: wait(futures))
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    threads.join()
    assert not threads.errors
    assert set(seen) == set(futures)
    assert Counter(future.cancelled() for future in futures)[True] >= 18
    assert all(future.cancelled() or future.result(0) == item for item, future in enumerate(futures))
    executor.shutdown()


@pytest.mark.parametrize("method", ["thread", "asyncio", *on_each_method([()])])
def test_executors_come_and_go_in_many_threads(method: str) -> None:
    def use() -> None:
        for _ in range(2):
            with new_executor(method) as executor:
                check_usable(executor)

    threads = Threads(*[use] * 6)
    threads.join()
    assert not threads.errors


@everywhere
def test_many_threads_read_and_leave_streams(executor: Executor) -> None:
    def read(number: int) -> None:
        for length in range(0, 60, number + 1):
            stream = executor.map(partial(add, number), iter(range(1000)), buffersize=20)
            found = [next(stream) for _ in range(length)]
            assert found == list(range(number, number + length))
            del stream

    threads = Threads(*[partial(read, number) for number in range(6)])
    threads.join()
    assert not threads.errors
