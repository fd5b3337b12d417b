"""What all workers have: functions, shared values and their parts, initializer arguments; placed once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import psutil
import pytest

from parallelkit import (
    Executor,
    SerializationError,
    Shared,
    WorkerDied,
    _sharing,
    chunked,
    share,
)
from parallelkit._wire import arena as arenas
from parallelkit._wire import placing
from parallelkit._wire.originals import LEAST_BYTES
from parallelkit.testing import Notes
from programs.arrays import (
    EACH_METHOD,
    ITEMS,
    WORKERS,
    CannotArrive,
    CannotLeave,
    all_come_back,
    backend_of,
    blocks_made,
    die_with,
    in_use,
    is_writeable,
    keep,
    kept,
    look_up,
    look_up_kept,
    look_up_shared,
)
from programs.watching import wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(scope="module", params=EACH_METHOD)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor("process", WORKERS, mp_context=request.param) as made:
        backend_of(made).populate()  # who is forked has what there is then, and its blocks are not used again
        yield made


# ---------------------------------------------------------------- parts of shared values


def sum_and_spoil(array: np.ndarray[Any, Any]) -> float:
    found = float(array.sum())
    array[:] = -1
    return found


def test_a_part_of_a_shared_array_is_not_copied(executor: Executor) -> None:
    handle = share(np.arange(64 * ITEMS, dtype=float).reshape(64, -1))
    right = [float(plane.sum()) for plane in handle.value]
    before = executor.stats()
    for _ in range(2):  # what an item writes to it nobody else sees
        assert list(executor.map(sum_and_spoil, handle.value)) == right
        assert list(executor.map(sum_and_spoil, list(handle.value), chunksize=7)) == right
        assert list(executor.map(sum_and_spoil, chunked(handle.value, 1))) == right
        assert [executor.submit(sum_and_spoil, plane).result() for plane in handle.value[:3]] == right[:3]
    after = executor.stats()
    assert after.copies == before.copies + 1
    assert after.sent_through_memory == before.sent_through_memory + handle.value.nbytes
    assert [float(plane.sum()) for plane in handle.value] == right
    del handle
    assert all_come_back(executor)


def test_parts_that_overlap_are_apart(executor: Executor) -> None:
    handle = share(np.ones(4 * ITEMS))
    windows = [handle.value[start : start + ITEMS] for start in (0, 10, 5, 0, ITEMS, ITEMS, 2 * ITEMS)]
    assert list(executor.map(sum_and_spoil, windows, chunksize=7)) == [ITEMS] * 7


@pytest.mark.parametrize("make", [list, tuple, lambda those: dict(enumerate(those))])
def test_parts_of_arrays_in_a_shared_value(executor: Executor, make: Any) -> None:
    arrays = [np.full(2 * ITEMS, number, float) for number in range(5)]
    handle = share(make([*arrays, "text", np.zeros(3), np.zeros((100, 2))[:, 0]]))
    before = executor.stats()
    assert list(executor.map(np.max, [array[5 : 5 + ITEMS] for array in arrays])) == [0, 1, 2, 3, 4]
    assert list(executor.map(np.max, arrays)) == [0, 1, 2, 3, 4]
    assert executor.stats().copies == before.copies + 5
    gone = weakref.ref(handle)
    del handle
    assert wait_until(lambda: gone() is None), "chunks that are under way may need it"
    assert list(executor.map(np.max, arrays, chunksize=1)) == [0, 1, 2, 3, 4]
    assert executor.stats().copies >= before.copies + 10


def test_a_part_that_is_read_only_stays_so(executor: Executor) -> None:
    array = np.zeros(4 * ITEMS)
    array.flags.writeable = False
    handle = share(array)
    assert list(executor.map(is_writeable, [handle.value[ITEMS:], np.zeros(ITEMS)])) == [False, True]


def keep_part(array: np.ndarray[Any, Any]) -> None:
    kept[:] = [array]


def test_a_part_that_a_worker_keeps_is_not_overwritten() -> None:
    with Executor("process", 1) as executor:
        handle = share(np.full(4 * ITEMS, 7.0))
        executor.submit(keep_part, handle.value[ITEMS : 3 * ITEMS]).result()
        del handle
        for number in range(10):
            assert list(executor.map(np.sum, [np.full(4 * ITEMS, number, float)])) == [number * 4 * ITEMS]
        assert in_use(executor) >= 1
        assert executor.submit(look_up_kept, 5).result() == 7
        executor.submit(keep, None).result()
        assert all_come_back(executor)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_worker_dies_among_parts(method: str) -> None:
    handle = share(np.repeat(np.arange(12.0), ITEMS).reshape(12, -1))
    with Executor("process", WORKERS, mp_context=method) as executor:
        for _ in range(3):
            results = list(executor.map(die_with, handle.value, range(12), return_exceptions=True))
            assert isinstance(results[5], WorkerDied)
            for number in {*range(12)} - {5}:
                assert (results[number] == 2 * number).all()
        del handle, results
        if method == "fork":  # who was forked in the place of a dead one has what there was
            for worker in backend_of(executor).handles():
                os.kill(worker.pid, signal.SIGKILL)
        assert all_come_back(executor)


def test_a_value_that_cannot_be_placed_has_parts_that_can() -> None:
    handle = share([np.ones(2 * ITEMS), CannotLeave()])
    with Executor("process", WORKERS) as executor:
        assert list(executor.map(np.sum, [handle.value[0][:ITEMS]] * 2)) == [ITEMS] * 2


def test_what_has_no_room_as_a_whole_has_parts_that_are_copied() -> None:
    with Executor("process", WORKERS) as executor:
        arena = backend_of(executor)._packer.arena
        backend_of(executor)._packer._items._budget = 8 * LEAST_BYTES
        handle = share(np.ones((20, ITEMS)))
        assert list(executor.map(np.sum, handle.value, chunksize=1)) == [ITEMS] * 20
        assert sum(arena.tables[at + arenas.SIZE] for at in arena.blocks(0)) <= 8 * LEAST_BYTES
        assert executor.stats().copies >= 8


nested: list[Any] = []


def keep_in_a_nested_worker(part: np.ndarray[Any, Any]) -> float:
    """Whose worker is forked while this one has the part."""
    kept[:] = [part]
    nested[:] = [Executor("process", 1, mp_context="fork")]
    return look_up_in_the_nested_worker(0)


def look_up_in_the_nested_worker(index: int) -> float:
    return float(nested[0].submit(look_up_kept, index).result())


def look_up_when_it_is_gone_here(index: int) -> float:
    kept.clear()
    return look_up_in_the_nested_worker(index)


def end_nested() -> None:
    nested.pop().shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_a_forked_worker_of_a_worker_has_is_not_overwritten() -> None:
    with Executor("process", 1) as executor:
        handle = share(np.ones(4 * ITEMS))
        assert executor.submit(keep_in_a_nested_worker, handle.value[ITEMS:]).result() == 1
        assert executor.submit(look_up_when_it_is_gone_here, 1).result() == 1
        gone = weakref.ref(handle)
        del handle
        assert wait_until(lambda: gone() is None)
        for number in range(4):
            other = share(np.full(4 * ITEMS, 9.0))
            assert executor.submit(look_up_shared, other, number).result() == 9
        assert executor.submit(look_up_in_the_nested_worker, 2 * ITEMS).result() == 1
        executor.submit(end_nested).result()
        del other
        assert all_come_back(executor)


# ---------------------------------------------------------------- functions


def test_the_array_of_a_function_is_placed_once_for_a_call(executor: Executor) -> None:
    assert all_come_back(executor)
    table = np.arange(8 * ITEMS, dtype=float)
    stream = executor.map(partial(look_up, table), range(1000), chunksize=1, buffersize=10)
    assert [next(stream) for _ in range(100)] == list(range(100))
    assert in_use(executor) == 1
    assert list(stream) == list(range(100, 1000))
    assert all_come_back(executor)


@pytest.mark.parametrize("by_value", [False, True])
def test_the_array_of_a_function_that_is_submitted(executor: Executor, by_value: bool) -> None:
    table = np.arange(ITEMS, dtype=float)
    for index in range(5):
        function = (lambda index: float(table[index])) if by_value else partial(look_up, table)
        assert executor.submit(function, index).result() == index
    assert all_come_back(executor)


def test_what_goes_by_value_is_copied_once(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is pickled twice: first it is tried whether names will do."""
    filled: list[int] = []
    fill = placing.Writer.fill

    def count(self: Any, begin: int, *pieces: memoryview) -> None:
        filled.append(sum(piece.nbytes for piece in pieces))
        fill(self, begin, *pieces)

    monkeypatch.setattr(placing.Writer, "fill", count)
    table = np.arange(ITEMS, dtype=float)
    assert list(executor.map(lambda index: float(table[index]), range(50))) == list(range(50))
    assert filled == [table.nbytes]


def test_calls_one_after_the_other_use_the_same_memory() -> None:
    with Executor("process", WORKERS) as executor:
        for _ in range(10):
            table = np.arange(64 * ITEMS, dtype=float)  # for which it is worth to wait a moment
            list(executor.map(partial(look_up, table), range(20)))
        assert blocks_made(executor) < 10


# ---------------------------------------------------------------- handles


HANDLE_OUTLIVES = """
import gc
import numpy as np
from parallelkit import Executor, share

def total(index):
    return table.value.sum() + index

table = share(np.ones(100_000))
for _ in range(2):
    with Executor("process", 2) as executor:
        assert list(executor.map(total, range(3))) == [100_000, 100_001, 100_002]
table = None
gc.collect()
with Executor("process", 2) as executor:
    assert executor.submit(abs, -1).result() == 1
"""


def test_a_handle_may_outlive_executors() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANDLE_OUTLIVES], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def count_calls(table: np.ndarray[Any, Any], _: int) -> tuple[int, float]:
    table[0] += 1
    return os.getpid(), float(table[0])


def test_what_a_worker_writes_to_the_array_of_a_function_it_alone_sees(executor: Executor) -> None:
    table = np.zeros(ITEMS)
    found: dict[int, list[float]] = {}
    for pid, count in executor.map(partial(count_calls, table), range(200), chunksize=5):
        found.setdefault(pid, []).append(count)
    for counts in found.values():
        assert sorted(counts) == list(range(1, len(counts) + 1))
    assert not table[0]


def test_a_handle_is_placed_once_for_all_calls(executor: Executor) -> None:
    assert all_come_back(executor)
    handle = share(np.arange(8 * ITEMS, dtype=float))

    def in_closure(handle: Shared[np.ndarray[Any, Any]]) -> Callable[[int], float]:
        return lambda index: float(handle.value[index])

    for _ in range(3):
        assert list(executor.map(partial(look_up_shared, handle), range(50))) == list(range(50))
        assert list(executor.map(in_closure(handle), range(50))) == list(range(50))
        assert [executor.submit(look_up_shared, handle, index).result() for index in (3, 4)] == [3, 4]
        assert list(executor.map(look_up_shared, [handle] * 3, range(3))) == [0, 1, 2]
        assert in_use(executor) == 1
    del handle
    assert all_come_back(executor)
    assert wait_until(lambda: not any(executor.map(arrived, range(20), chunksize=1)))


def arrived(_: int) -> int:
    return len(_sharing._arrivals)


def identity_of(handle: Shared[Any], _: int) -> tuple[int, int]:
    return os.getpid(), id(handle.value)


def test_a_worker_makes_a_shared_value_once(executor: Executor) -> None:
    handle = share({"table": np.zeros(ITEMS), "name": "zeros"})
    found = {*executor.map(partial(identity_of, handle), range(50), chunksize=1)}
    found |= {*executor.map(partial(identity_of, handle), range(50), chunksize=1)}
    assert len(found) == len({pid for pid, _ in found})


def test_a_shared_value_within_another(executor: Executor) -> None:
    inner = share(np.arange(ITEMS, dtype=float))
    outer = share({"inner": inner})
    assert list(executor.map(lambda i: outer.value["inner"].value[i], range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["serial", "thread", "asyncio"])
def test_where_nothing_travels_a_shared_value_is_itself(backend: str) -> None:
    value = object()
    handle = share(value)
    with Executor(backend) as executor:
        assert list(executor.map(lambda _: handle.value is value, range(3))) == [True] * 3


def test_a_handle_that_somebody_else_pickles_has_its_value() -> None:
    handle = share([1, 2])
    assert pickle.loads(pickle.dumps(handle)).value == [1, 2]
    assert repr(handle) == "<parallelkit.Shared list>"


def test_a_shared_value_that_cannot_be_pickled(executor: Executor) -> None:
    handle = share(CannotLeave())
    with pytest.raises(SerializationError, match="does not leave"):
        list(executor.map(partial(look_up_shared, handle), [1]))


def test_a_shared_value_that_cannot_be_rebuilt(executor: Executor) -> None:
    handle = share(CannotArrive())
    with pytest.raises(ValueError, match=str(ITEMS)):
        list(executor.map(partial(look_up_shared, handle), [1]))


# ---------------------------------------------------------------- initializer arguments


@pytest.mark.parametrize("method", EACH_METHOD)
@pytest.mark.parametrize("wrap", [lambda table: table, share], ids=["plain", "shared"])
@pytest.mark.parametrize("lock", [False, True])
def test_initargs_are_placed_once(method: str, wrap: Any, lock: bool) -> None:
    arguments = [wrap(np.arange(ITEMS, dtype=float))]
    if lock:
        arguments.append(multiprocessing.get_context(method).Lock())
    with Executor(
        "process", WORKERS, mp_context=method, initializer=keep, initargs=tuple(arguments)
    ) as executor:
        for _ in range(2):
            assert list(executor.map(look_up_kept, range(40), chunksize=1)) == list(range(40))
            if method != "fork" and not lock:
                assert in_use(executor) == 1
            with pytest.raises(WorkerDied):
                executor.submit(os._exit, 3).result()


def test_a_handle_in_initargs_and_in_items() -> None:
    handle = share(np.arange(ITEMS, dtype=float))
    with Executor("process", WORKERS, initializer=keep, initargs=(handle,)) as executor:
        for _ in range(3):
            assert list(executor.map(look_up_shared, [handle] * 10, range(10))) == list(range(10))
            assert list(executor.map(look_up_kept, range(10))) == list(range(10))
            assert in_use(executor) == 1


def touch(table: np.ndarray[Any, Any], notes: Notes, _: int) -> float:
    notes.add(os.getpid())
    return float(table.sum())


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux only")
@pytest.mark.parametrize("method", EACH_METHOD)
def test_all_workers_have_one_copy(method: str, tmp_path: Any) -> None:
    """In proportional set size: a page that several processes have counts once in their sum."""
    size = 64 << 20
    with Executor("process", WORKERS, mp_context=method) as executor:
        table, notes = np.ones(size // 8), Notes(tmp_path, "before")
        stream = executor.map(partial(touch, np.ones(10), notes), range(10_000), chunksize=1, buffersize=10)
        while len({*notes.lines()}) < WORKERS:  # they have imported what they need
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        family = [psutil.Process(), *(psutil.Process(p.pid) for p in backend_of(executor).handles())]
        before = sum(member.memory_full_info().pss for member in family)
        notes = Notes(tmp_path, "runs")
        stream = executor.map(partial(touch, table, notes), range(10_000), chunksize=1, buffersize=10)
        assert next(stream) == size // 8
        while len({*notes.lines()}) < WORKERS:
            next(stream)
        grown = sum(member.memory_full_info().pss for member in family) - before
        stream.close()  # type: ignore[attr-defined]
    assert 0.9 * size < grown < 1.3 * size
