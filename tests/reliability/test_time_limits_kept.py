"""Time limits: of an item, a call, a shutdown. Whoever is inside of something long is not waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import psutil
import pytest
from checks import (
    EVERYWHERE,
    FORK_WARNING,
    check_usable,
    counted,
    failed,
    lines,
    new_executor,
    on_each_method,
    quickest_daily,
)

from parallelkit import Executor, ParallelError, TaskTimeout, WorkerDied, pmap, preduce
from parallelkit.testing import Gate, Notes
from programs import faults, stuck
from programs.methods import SPAWN_IS_SLOW
from programs.watching import METHODS, PATIENCE, wait_until_gone

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings(FORK_WARNING)]

everywhere = pytest.mark.parametrize("method", EVERYWHERE)
can_be_left = pytest.mark.parametrize("method", ["thread", *SPAWN_IS_SLOW])
"""Workers that are replaced while they are inside of a plain function."""

LIMIT = 0.5  # seconds; what is in time takes less than a millisecond


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Opened at the end, for threads that were abandoned at it."""
    gate = Gate(tmp_path)
    yield gate
    gate.open()


def workers(executor: Executor) -> set[Any]:
    return {getattr(handle, "pid", handle) for handle in executor._backend.handles()}


# ---------------------------------------------------------------- of an item


def check_timeouts(results: list[Any], places: list[int]) -> None:
    assert failed(results) == places
    for place in places:
        error = results[place]
        assert type(error) is TaskTimeout
        assert isinstance(error, TimeoutError)
        assert isinstance(error, ParallelError)
        assert f"item {place} " in str(error)
        assert f"task_timeout={LIMIT}" in str(error)
    assert [result for result in results if isinstance(result, int)] == [
        item for item in range(len(results)) if item not in places
    ]


@can_be_left
@pytest.mark.parametrize("call", ["map", "stream"])
def test_items_that_are_stuck_fail_alone(executor: Executor, gate: Gate, runs: str, call: str) -> None:
    """Two of them in one chunk, with neighbours before, between and behind, and two workers for them."""
    function = partial(stuck.wait_at, (2, 5), gate, runs)
    items: Any = range(24) if call == "map" else iter(range(24))
    before = workers(executor)

    results = list(executor.map(function, items, chunksize=8, task_timeout=LIMIT, return_exceptions=True))

    check_timeouts(results, [2, 5])
    assert counted(runs) == dict.fromkeys(range(24), 1), "each ran, none ran twice"
    check_both_work(executor, runs)
    assert len(before & workers(executor)) == 0, "both were replaced"


def check_both_work(executor: Executor, runs: str) -> None:
    notes = Notes(Path(runs).parent, "meeting")
    assert list(executor.map(partial(stuck.meet, notes), range(2), chunksize=1, timeout=PATIENCE)) == [0, 1]


@pytest.mark.parametrize(
    ("method", "what"),
    on_each_method([(name,) for name in stuck.ENDLESS], daily=lambda what: what == "sleep"),
)
def test_whatever_a_process_is_stuck_in(executor: Executor, runs: str, what: str) -> None:
    function = partial(stuck.stay_in, what, 3, runs)
    list(executor.map(abs, range(100), chunksize=1))
    before = workers(executor)
    results = list(executor.map(function, range(12), task_timeout=LIMIT, return_exceptions=True))
    check_timeouts(results, [3])
    assert counted(runs) == dict.fromkeys(range(12), 1)
    (gone,) = before - workers(executor)
    with suppress(psutil.NoSuchProcess):
        assert not wait_until_gone([psutil.Process(gone)])


@everywhere
def test_a_coroutine_that_is_stuck_is_cancelled(executor: Executor, tmp_path: Path, runs: str) -> None:
    ended = tmp_path / "ended"
    function = partial(stuck.await_at, (2, 5), str(ended), runs)
    results = list(executor.map(function, range(12), chunksize=6, task_timeout=LIMIT, return_exceptions=True))
    check_timeouts(results, [2, 5])
    assert counted(runs) == dict.fromkeys(range(12), 1)
    assert sorted(lines(str(ended))) == ["2", "5"]


@can_be_left
def test_what_waits_behind_it_goes_to_the_successor(method: str, gate: Gate, runs: str) -> None:
    """The only worker is stuck in the first chunk, and has another in its pipe; so has a submit."""
    with new_executor(method, 1) as executor:
        stream = executor.map(
            partial(stuck.wait_at, (0,), gate, runs),
            range(10),
            chunksize=2,
            task_timeout=LIMIT,
            return_exceptions=True,
        )
        future = executor.submit(faults.noted, runs, 99)
        check_timeouts(list(stream), [0])
        assert future.result() == 99
        check_usable(executor)
        gate.open()
    assert counted(runs) == dict.fromkeys([*range(10), 99], 1)


@can_be_left
def test_it_is_tried_again_as_often_as_was_asked_for(executor: Executor, gate: Gate, runs: str) -> None:
    function = partial(stuck.wait_at, (3,), gate, runs)
    results = list(
        executor.map(function, range(8), chunksize=8, task_timeout=LIMIT, retries=2, return_exceptions=True)
    )
    check_timeouts(results, [3])
    assert counted(runs) == {**dict.fromkeys(range(8), 1), 3: 3}


@can_be_left
@pytest.mark.parametrize("call", ["map", "reduce"])
def test_another_try_may_be_in_time(
    executor: Executor, gate: Gate, marker: str, runs: str, call: str
) -> None:
    function = partial(stuck.wait_at_once, 3, gate, marker, runs)
    if call == "map":
        assert list(executor.map(function, range(8), task_timeout=LIMIT, retries=1)) == list(range(8))
        assert counted(runs) == {**dict.fromkeys(range(8), 1), 3: 2}
    else:
        assert executor.reduce(add, range(8), map=function, task_timeout=LIMIT, retries=1) == 28
        assert counted(runs)[3] == 2


@can_be_left
def test_it_costs_a_reduce(executor: Executor, gate: Gate, runs: str) -> None:
    with pytest.raises(TaskTimeout, match="item 3 "):
        executor.reduce(add, range(8), map=partial(stuck.wait_at, (3,), gate, runs), task_timeout=LIMIT)
    assert set(counted(runs).values()) == {1}


@everywhere
def test_what_is_in_time_is_left_alone(executor: Executor, runs: str) -> None:
    list(executor.map(abs, range(100), chunksize=1))
    before = workers(executor)
    function = partial(faults.noted, runs)
    if executor._backend.can_abandon:
        assert list(executor.map(function, range(500), task_timeout=PATIENCE)) == list(range(500))
        assert counted(runs) == dict.fromkeys(range(500), 1)
    else:
        with pytest.raises(ValueError, match="task_timeout"):  # a plain function cannot be ended there
            executor.map(function, range(500), task_timeout=PATIENCE)
    assert workers(executor) == before


# ---------------------------------------------------------------- of a call

Call = Callable[[Executor, Callable[[Any], Any]], Any]

CALLS: dict[str, Call] = {
    "map": lambda executor, function: list(executor.map(function, range(100), timeout=LIMIT)),
    "stream": lambda executor, function: list(executor.map(function, iter(range(100)), timeout=LIMIT)),
    "unordered": lambda executor, function: list(
        executor.map(function, range(100), timeout=LIMIT, ordered=False)
    ),
    "reduce": lambda executor, function: executor.reduce(add, range(100), map=function, timeout=LIMIT),
    "map_reduce": lambda executor, function: executor.map_reduce(
        lambda item: [(0, function(item))], add, range(100), timeout=LIMIT
    ),
}


@pytest.mark.parametrize("call", CALLS)
@can_be_left
def test_workers_are_usable_at_once(executor: Executor, gate: Gate, runs: str, call: str) -> None:
    """Although both are inside of items that do not end."""
    list(executor.map(abs, range(100), chunksize=1))
    with pytest.raises(TimeoutError, match=f"timeout={LIMIT}") as caught:
        CALLS[call](executor, partial(stuck.wait_at, tuple(range(100)), gate, runs))
    assert type(caught.value) is TimeoutError

    check_both_work(executor, runs)

    check_usable(executor)
    assert set(counted(runs).values()) <= {1}
    assert len(counted(runs)) <= 2, "what was not started is never started"


@pytest.mark.parametrize(
    ("method", "what"),
    on_each_method([(name,) for name in stuck.ENDLESS], daily=lambda what: what == "sleep"),
)
def test_whatever_processes_are_inside_of(executor: Executor, runs: str, what: str) -> None:
    list(executor.map(abs, range(100), chunksize=1))
    before = workers(executor)
    with pytest.raises(TimeoutError):
        list(executor.map(partial(stuck.stay_in, what, 0, runs), range(100), timeout=LIMIT))
    check_both_work(executor, runs)
    gone = before - workers(executor)
    assert len(gone) == 1, "the one that was inside of an item, and no other"
    with suppress(psutil.NoSuchProcess):
        assert not wait_until_gone([psutil.Process(*gone)])


@everywhere
@pytest.mark.parametrize("call", [call for call in CALLS if call != "map_reduce"])
def test_coroutines_are_cancelled(
    executor: Executor, method: str, tmp_path: Path, runs: str, call: str
) -> None:
    """Or their worker is replaced."""
    ended = str(tmp_path / "ended")
    with pytest.raises(TimeoutError, match=f"timeout={LIMIT}") as caught:
        CALLS[call](executor, partial(stuck.await_at, tuple(range(100)), ended, runs))
    assert type(caught.value) is TimeoutError
    check_both_work(executor, runs)
    if method == "asyncio":
        assert sorted(lines(ended)) == sorted(lines(runs))


@can_be_left
def test_a_submit_behind_it_is_run(method: str, gate: Gate, runs: str) -> None:
    """It waits for the only worker, which is replaced."""
    with new_executor(method, 1) as executor:
        executor.submit(abs, -1).result()
        stream = executor.map(partial(stuck.wait_at, (0,), gate, runs), range(2), timeout=LIMIT)
        future = executor.submit(faults.noted, runs, 99)
        with pytest.raises(TimeoutError):
            next(stream)
        assert future.result(PATIENCE) == 99
        gate.open()
    assert counted(runs)[99] == 1


@everywhere
@pytest.mark.parametrize("max_workers", [1, 2])
def test_what_other_calls_are_inside_of_goes_on(
    method: str, tmp_path: Path, gate: Gate, runs: str, max_workers: int
) -> None:
    """With one worker, the chunk of the call that is over waits behind it."""
    notes, other_gate = Notes(tmp_path), Gate(tmp_path, "other gate")
    with new_executor(method, max_workers) as executor:
        future = executor.submit(stuck.wait_and_tell, other_gate, notes, "done")
        notes.wait_for(1)
        with pytest.raises(TimeoutError):
            list(executor.map(partial(stuck.wait_at, (0,), gate, runs), range(4), timeout=LIMIT))
        other_gate.open()
        assert future.result(PATIENCE) == "done"
        check_usable(executor)
        gate.open()
    assert len(notes.lines()) == 1, "it was not run again"


@pytest.mark.parametrize("backend", ["thread", "process"])
@pytest.mark.parametrize("function", [pmap, preduce])
def test_helpers_are_usable_at_once(
    backend: str, gate: Gate, runs: str, function: Callable[..., Any]
) -> None:
    notes = Notes(Path(runs).parent, "meeting")
    options: Any = {"backend": backend, "max_workers": 2, "chunksize": 1}
    wait = partial(stuck.wait_at, tuple(range(100)), gate, runs)
    with pytest.raises(TimeoutError) as caught:
        if function is pmap:
            pmap(wait, range(100), timeout=LIMIT, **options)
        else:
            preduce(add, range(100), map=wait, timeout=LIMIT, **options)
    assert type(caught.value) is TimeoutError
    assert pmap(partial(stuck.meet, notes), range(2), timeout=PATIENCE, **options) == [0, 1]


# ---------------------------------------------------------------- of a shutdown


@everywhere
@pytest.mark.parametrize("wait", [True, False])
def test_what_is_not_done_when_a_shutdown_is_over_its_time_fails(
    method: str, tmp_path: Path, gate: Gate, runs: str, wait: bool
) -> None:
    notes = Notes(tmp_path)
    executor = new_executor(method)
    done = executor.submit(abs, -1)
    assert done.result() == 1
    inside = [executor.submit(stuck.wait_and_tell, gate, notes, item) for item in range(2)]
    notes.wait_for(2)
    behind = [executor.submit(faults.noted, runs, item) for item in range(10)]
    stream = executor.map(partial(faults.noted, runs), range(10, 20))

    executor.shutdown(wait, timeout=LIMIT)

    for future in inside + behind:
        assert isinstance(future.exception(PATIENCE), WorkerDied)
    with pytest.raises(WorkerDied):
        list(stream)
    assert not lines(runs)
    if method in METHODS:
        assert not wait_until_gone(existing(notes))
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)


def existing(notes: Notes) -> list[psutil.Process]:
    found = []
    for line in notes.lines():
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(line)))
    return found


@everywhere
def test_a_shutdown_that_has_time_loses_nothing(method: str, runs: str) -> None:
    executor = new_executor(method)
    futures = [executor.submit(faults.noted, runs, item) for item in range(50)]
    executor.map(partial(faults.noted, runs), range(50, 100))
    executor.shutdown(timeout=PATIENCE)
    assert [future.result(0) for future in futures] == list(range(50))
    assert counted(runs) == dict.fromkeys(range(100), 1)


@quickest_daily
def test_a_shutdown_that_cancels_and_has_no_time(method: str, tmp_path: Path, gate: Gate, runs: str) -> None:
    notes = Notes(tmp_path)
    executor = new_executor(method, 1)
    inside = executor.submit(stuck.wait_and_tell, gate, notes, "inside")
    notes.wait_for(1)
    behind = [executor.submit(faults.noted, runs, item) for item in range(20)]
    executor.shutdown(cancel_futures=True, timeout=LIMIT)
    assert isinstance(inside.exception(0), WorkerDied)
    assert all(future.cancelled() or isinstance(future.exception(0), WorkerDied) for future in behind)
    assert behind[-1].cancelled()
    assert not lines(runs)
    assert not wait_until_gone(existing(notes))
