"""Callers who leave: what has not started is never started, and the workers are free for the next."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from checks import EVERYWHERE, FORK_WARNING, check_usable, counted, new_executor

from parallelkit import Executor
from parallelkit.testing import Gate, Notes
from programs import stuck
from programs.watching import METHODS, PATIENCE

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings(FORK_WARNING),
    pytest.mark.parametrize("method", EVERYWHERE),
]

TAKEN = 5
FEW = 60
"""More than workers are inside of when a caller leaves: a run of cheap items is claimed at a time."""


def leave_by_break(stream: Iterator[int]) -> None:
    for item in stream:
        if item == TAKEN - 1:
            break


def leave_by_error(stream: Iterator[int]) -> None:
    with pytest.raises(LookupError):
        for item in stream:
            if item == TAKEN - 1:
                raise LookupError


def leave_by_close(stream: Any) -> None:
    assert [next(stream) for _ in range(TAKEN)] == list(range(TAKEN))
    stream.close()


def leave_by_next(stream: Iterator[int]) -> None:
    assert [next(stream) for _ in range(TAKEN)] == list(range(TAKEN))


def leave_in_a_ring(stream: Iterator[int]) -> None:
    """Only the garbage collector finds it."""
    ring: list[Any] = [stream]
    ring.append(ring)
    leave_by_next(stream)


WAYS = [leave_by_break, leave_by_error, leave_by_close, leave_by_next, leave_in_a_ring]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.open()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", ["list", "generator", "endless"])
def test_what_was_not_started_is_never_started(
    executor: Executor, gate: Gate, tmp_path: Path, runs: str, source: str, way: Callable[[Any], None]
) -> None:
    list(executor.map(abs, range(100), chunksize=1))  # so that all have started
    before = handles(executor)
    items: Any = {"list": list(range(1000)), "generator": iter(range(1000)), "endless": count()}[source]

    way(executor.map(partial(stuck.wait_from, TAKEN, gate, runs), items, chunksize=100))
    gc.collect()

    gate.open()
    meeting = partial(stuck.meet, Notes(tmp_path, "meeting"))
    assert list(executor.map(meeting, range(2), chunksize=1, timeout=PATIENCE)) == [0, 1]
    ran = counted(runs)
    assert set(ran.values()) == {1}
    assert TAKEN <= len(ran) < FEW
    check_usable(executor)
    assert counted(runs) == ran, "something was started later"
    assert handles(executor) == before, "who leaves does not end what runs"


def handles(executor: Executor) -> set[Any]:
    return {getattr(handle, "pid", handle) for handle in executor._backend.handles()}


def test_the_input_hears_of_it(executor: Executor) -> None:
    gone = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from count()
        finally:
            gone.set()

    leave_by_break(executor.map(abs, numbers()))
    gc.collect()
    assert gone.wait(PATIENCE)


def test_the_first_error_ends_the_call(executor: Executor, gate: Gate, tmp_path: Path, runs: str) -> None:
    function = partial(stuck.fail_or_wait_from, TAKEN, gate, runs)
    with pytest.raises(LookupError, match="5"):
        list(executor.map(function, range(1000), chunksize=100))
    gate.open()
    meeting = partial(stuck.meet, Notes(tmp_path, "meeting"))
    assert list(executor.map(meeting, range(2), chunksize=1, timeout=PATIENCE)) == [0, 1]
    ran = counted(runs)
    assert set(ran.values()) == {1}
    assert len(ran) < 2 * FEW
    check_usable(executor)
    assert counted(runs) == ran


def test_a_cancelled_future_is_never_started(method: str, gate: Gate, tmp_path: Path, runs: str) -> None:
    notes = Notes(tmp_path)
    with new_executor(method, 1) as executor:
        inside = executor.submit(stuck.wait_and_tell, gate, notes, "inside")
        notes.wait_for(1)
        futures = [executor.submit(stuck.wait_from, 100, gate, runs, item) for item in range(20)]
        cancelled = [item for item, future in enumerate(futures) if future.cancel()]
        gate.open()
        assert inside.result(PATIENCE) == "inside"
        others = [item for item in range(20) if item not in cancelled]
        assert [futures[item].result(PATIENCE) for item in others] == others
    assert len(cancelled) >= 19, "one may be with the worker already"
    assert counted(runs) == dict.fromkeys(others, 1)


def test_the_end_of_the_executor_does_not_wait_for_what_was_left(method: str, gate: Gate, runs: str) -> None:
    with new_executor(method) as executor:
        leave_by_next(executor.map(partial(stuck.wait_from, TAKEN, gate, runs), range(1000)))
        gc.collect()
        if method not in METHODS:
            gate.open()  # a thread that runs cannot be ended
    assert len(counted(runs)) < FEW
