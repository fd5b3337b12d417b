"""Large arrays to worker processes and back: whole, private, not overwritten while somebody has them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelkit import (
    Executor,
    Pool,
    SerializationError,
    WorkerDied,
    pmap,
    share,
)
from parallelkit._wire import arena as arenas
from parallelkit._wire import packing
from parallelkit._wire.originals import LEAST_BYTES
from programs.arrays import (
    EACH_METHOD,
    ITEMS,
    WORKERS,
    CannotArrive,
    CannotLeave,
    all_come_back,
    backend_of,
    blocks_made,
    check_and_spoil,
    die_with,
    fail_with,
    in_use,
    is_writeable,
    keep,
    look_up,
    look_up_kept,
    look_up_shared,
)
from programs.watching import METHODS, wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(scope="module", params=EACH_METHOD)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor("process", WORKERS, mp_context=request.param) as made:
        backend_of(made).populate()  # who is forked has what there is then, and its blocks are not used again
        yield made


def give_back_what_came(array: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [array[1:], array]


# ---------------------------------------------------------------- items and results


class Kept:
    """An array of equal numbers, and which number."""

    def __init__(self, array: np.ndarray[Any, Any], number: int):
        self.array = array
        self.number = number

    def check(self) -> None:
        assert (self.array == self.number).all()


steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send what is held", "drop", "cut", "write", "map"]),
        st.integers(0, 5),
        st.sampled_from([ITEMS, ITEMS + 1, 3 * ITEMS]),
    ),
    max_size=20,
)


@given(steps)
@settings(max_examples=25)
def test_arrays_are_held_dropped_and_sent_again(executor: Executor, steps: Any) -> None:
    held: list[Kept] = []
    numbers = iter(range(1_000_000))
    for step, which, size in steps:
        number = next(numbers)
        one = held[which % len(held)] if held else Kept(np.full(size, number, float), number)
        if step == "send":
            one = Kept(np.full(size, number, float), number)
        if step in ("send", "send what is held"):
            result = executor.submit(check_and_spoil, one.array, one.number).result()
            held.append(Kept(result, one.number + 1))
        elif step == "map" and one.array.size >= ITEMS:
            arrays = [one.array, np.full(size, one.number, float), one.array]
            results = executor.map(check_and_spoil, arrays, [one.number] * 3, chunksize=1)
            held += [Kept(result, one.number + 1) for result in results]
        elif step == "drop" and held:
            held.pop(which % len(held))
        elif step == "cut":
            held.append(Kept(one.array[which : which + 1000].copy()[:10], one.number))
            held.append(Kept(one.array[which:].reshape(-1, 1)[::2], one.number))
            held.append(held.pop(0))
        elif step == "write":  # through one of the views that share it: all of them are of this step on
            one.array = one.array.copy()
            one.array[:] = one.number = number
        for kept in held:
            kept.check()


def test_blocks_come_back(executor: Executor) -> None:
    arrays = [np.full(ITEMS, number, float) for number in range(20)]
    results = list(executor.map(check_and_spoil, arrays, range(20)))
    assert [array[0] for array in arrays] == list(range(20)), "the caller's arrays are not written to"
    assert in_use(executor) >= 20
    kept = results[7][3:5]
    del results
    assert wait_until(lambda: executor.submit(abs, -1).result() and in_use(executor) <= 1 + WORKERS)
    assert (kept == 8).all()
    del kept
    assert all_come_back(executor)


def test_what_came_may_be_given_back(executor: Executor) -> None:
    array = np.arange(ITEMS, dtype=float)
    (most, whole), (most_again, _) = executor.map(give_back_what_came, [array, array])
    assert (whole == array).all()
    assert (most == array[1:]).all()
    most[:] = 0
    assert (most_again == array[1:]).all()


def test_memory_is_used_again(executor: Executor) -> None:
    for _ in range(3):
        list(executor.map(check_and_spoil, [np.zeros(ITEMS)] * 8, [0] * 8, chunksize=1, buffersize=4))
    before = blocks_made(executor)
    for _ in range(10):
        list(executor.map(check_and_spoil, [np.zeros(ITEMS)] * 8, [0] * 8, chunksize=1, buffersize=4))
    assert blocks_made(executor) - before <= 8, "each time about the same blocks"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["f8", "i4", "c16", "S7", "M8[s]", [("a", "f8"), ("b", "u1")]])
def test_kinds_of_arrays(executor: Executor, kind: Any, order: Any) -> None:
    array = np.asarray(np.zeros((700, 300), kind), order=order)
    (result,) = executor.map(np.copy, [array])
    assert result.dtype == array.dtype
    assert (result == array).all()


@pytest.mark.parametrize("cut", [np.s_[:, 100:], np.s_[::-1], np.s_[::2, ::3], np.s_[:0], np.s_[:]])
def test_views_of_arrays(executor: Executor, cut: Any) -> None:
    array = np.random.default_rng(1).random((600, 600))[cut]
    (result,) = executor.map(np.negative, [array])
    assert (result == -array).all()


def test_an_array_that_is_read_only_stays_so(executor: Executor) -> None:
    array = np.zeros(ITEMS)
    array.flags.writeable = False
    assert list(executor.map(is_writeable, [array, np.zeros(ITEMS)])) == [False, True]


class Bytes(bytearray):
    """Offers its memory to pickles, as the documentation of pickle shows it."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Bytes, (pickle.PickleBuffer(self),), None


def reverse(bytes_: Bytes) -> Bytes:
    return Bytes(bytes_[::-1])


def test_any_buffer_will_do(executor: Executor) -> None:
    array = Bytes(os.urandom(1 << 20))
    (result,) = executor.map(reverse, [array])
    assert result == array[::-1]


def test_a_chunk_of_an_array_is_sent_as_one_buffer(executor: Executor) -> None:
    array = np.random.default_rng(1).random((64, 64, 64))
    assert pmap(np.sum, array, chunksize=16) == [plane.sum() for plane in array]
    results = list(executor.map(np.sort, array, chunksize=16))
    assert all((result == np.sort(plane)).all() for result, plane in zip(results, array, strict=True))


def test_what_goes_by_value_has_its_arrays_with_it(executor: Executor) -> None:
    class Local:
        def __init__(self, array: np.ndarray[Any, Any]):
            self.array = array

    (result,) = executor.map(lambda local: Local(local.array + 1), [Local(np.zeros(ITEMS))])
    assert (result.array == 1).all()
    assert in_use(executor)
    del result
    assert all_come_back(executor)


ODD = [
    pytest.param(bytes(range(256)) * 1000, id="bytes"),
    pytest.param("ä" * LEAST_BYTES, id="str"),
    pytest.param([float(number) for number in range(50_000)], id="list"),
    pytest.param({number: str(number) for number in range(50_000)}, id="dict"),
]


def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize("value", ODD)
def test_what_has_no_buffers_does_not_go_through_the_pipe_either(executor: Executor, value: Any) -> None:
    assert all_come_back(executor)
    before = executor.stats()
    assert list(executor.map(same, [value, 1, value])) == [value, 1, value]
    assert executor.submit(partial(same, value)).result() == value
    assert list(executor.map(partial(large_and, partial(len, value)), range(5))) == [
        (number, len(value)) for number in range(5)
    ]
    after = executor.stats()
    assert after.sent_through_pipes < before.sent_through_pipes + LEAST_BYTES
    assert after.received_through_pipes < before.received_through_pipes + LEAST_BYTES
    assert after.received_through_memory > before.received_through_memory + LEAST_BYTES
    assert all_come_back(executor)


# ---------------------------------------------------------------- things that go wrong


def large_and(thing: Callable[[], Any], array: np.ndarray[Any, Any]) -> Any:
    return array, thing()


@pytest.mark.parametrize(
    ("function", "item", "error"),
    [
        (fail_with, np.ones(ITEMS), ValueError),
        (partial(large_and, CannotLeave), np.ones(ITEMS), SerializationError),
        (partial(large_and, CannotArrive), np.ones(ITEMS), SerializationError),
        (abs, (np.ones(ITEMS), CannotLeave()), SerializationError),
        (abs, (np.ones(ITEMS), CannotArrive()), SerializationError),
        (partial(large_and, CannotArrive()), np.ones(ITEMS), SerializationError),
        (partial(large_and, CannotLeave()), np.ones(ITEMS), SerializationError),
    ],
)
def test_blocks_of_what_fails_come_back(executor: Executor, function: Any, item: Any, error: Any) -> None:
    outcomes = list(executor.map(function, [item] * 4, return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [error] * 4
    del outcomes
    assert all_come_back(executor)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_worker_dies_among_arrays(method: str) -> None:
    with Executor("process", WORKERS, mp_context=method) as executor:
        for _ in range(3):
            items = [np.full(ITEMS, number, float) for number in range(12)]
            results = list(executor.map(die_with, items, range(12), return_exceptions=True))
            assert isinstance(results[5], WorkerDied)
            for number in {*range(12)} - {5}:
                assert (results[number] == 2 * number).all()
        kept = results[6]
        del results
        list(executor.map(check_and_spoil, [np.zeros(ITEMS) for _ in range(12)], [0] * 12))
        assert (kept == 12).all()
        del kept
        if method == "fork":  # who was forked in the place of a dead one has what there was
            list(executor.map(abs, range(50), chunksize=1))
            assert in_use(executor)
            for worker in backend_of(executor).handles():
                os.kill(worker.pid, signal.SIGKILL)
        assert all_come_back(executor)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_what_its_parent_had() -> None:
    with Executor("process", WORKERS) as executor:
        (array,) = executor.map(np.copy, [np.full(ITEMS, 7.0)])
        to_read, to_write = os.pipe()
        child = os.fork()
        if not child:
            os.read(to_read, 1)
            os._exit(int(array[3]))
        del array
        for number in range(4):
            list(
                executor.map(check_and_spoil, [np.full(ITEMS, number, float)] * 4, [number] * 4, chunksize=1)
            )
        os.write(to_write, b"x")
        os.close(to_read)
        os.close(to_write)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_results_outlive_their_executor() -> None:
    with Executor("process", WORKERS) as executor:
        results = list(executor.map(check_and_spoil, [np.zeros(ITEMS)] * 4, [0] * 4, chunksize=1))
    del executor
    gc.collect()
    del results[1:]
    results[0][5] = 9
    assert results[0].sum() == ITEMS + 8


def test_without_ctypes_there_is_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some builds of Python lack it."""
    monkeypatch.setattr(arenas, "find_spec", lambda name: None)
    with Executor("process", WORKERS) as executor:
        assert list(executor.map(np.sum, [np.ones(ITEMS)] * 2)) == [ITEMS] * 2
        assert executor.stats().copies == 0


LITTLE_ROOM = """
import resource, sys
import numpy as np
from parallelkit import Executor, share

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
table = share(np.ones(100_000))
with Executor("process", 2) as executor:
    assert list(executor.map(np.sum, [np.ones(100_000)] * 4)) == [100_000] * 4
    assert list(executor.map(np.sum, table.value.reshape(2, -1))) == [50_000] * 2
    assert list(executor.map(lambda i: table.value[i], range(4))) == [1] * 4
    assert all((result == 2).all() for result in executor.map(np.add, [np.ones(100_000)] * 4, [1] * 4))
    assert executor.stats().copies == 0
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
def test_without_addresses_all_goes_through_the_pipes() -> None:
    subprocess.run([sys.executable, "-c", LITTLE_ROOM], check=True, timeout=60)


def test_without_shared_memory_all_goes_through_the_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "new_arena", lambda workers: None)
    table = np.arange(ITEMS, dtype=float)
    with Executor("process", WORKERS, initializer=keep, initargs=(table,)) as executor:
        assert backend_of(executor)._packer.arena is None
        results = list(executor.map(check_and_spoil, [np.zeros(ITEMS)] * 4, [0] * 4, chunksize=1))
        assert all((result == 1).all() for result in results)
        assert list(executor.map(partial(look_up, table), range(5))) == [0, 1, 2, 3, 4]
        handle = share(table)
        assert list(executor.map(partial(look_up_shared, handle), range(5))) == [0, 1, 2, 3, 4]
        assert list(executor.map(look_up_kept, range(5))) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize("method", EACH_METHOD)
def test_statistics(method: str) -> None:
    with Executor("process", WORKERS, mp_context=method) as executor:
        assert executor.stats() == (0, 0, 0, 0, 0)
        assert executor.submit(abs, -1).result() == 1
        before = executor.stats()
        assert 0 < before.sent_through_pipes < 2000
        assert 0 < before.received_through_pipes < 2000
        assert before[2:] == (0, 0, 0)
        list(executor.map(check_and_spoil, [np.zeros(ITEMS)] * 4, [0] * 4, chunksize=1))
        list(executor.map(partial(look_up, np.zeros(ITEMS)), range(20), chunksize=1))
        with pytest.raises(WorkerDied):
            executor.submit(os._exit, 3).result()
        after = executor.stats()
        # What is taken back from one worker, for another that has nothing to do, travels once more.
        assert 5 <= after.sent_through_memory / LEAST_BYTES <= 9
        assert after.received_through_memory == 4 * LEAST_BYTES
        assert after.copies == (after.sent_through_memory + after.received_through_memory) / LEAST_BYTES
        assert after.sent_through_pipes < before.sent_through_pipes + 20_000
        assert list(executor.map(len, [bytes(LEAST_BYTES - 1000)])) == [LEAST_BYTES - 1000]
        piped = executor.stats()
        assert piped.sent_through_pipes > after.sent_through_pipes + LEAST_BYTES - 1000
        assert list(executor.map(len, [bytes(LEAST_BYTES)])) == [LEAST_BYTES]
        assert executor.stats().sent_through_pipes < piped.sent_through_pipes + 1000


def test_where_nothing_travels_all_is_zero() -> None:
    with Executor("thread", 2) as executor:
        list(executor.map(np.sum, [np.zeros(ITEMS)] * 4))
        assert executor.stats() == (0, 0, 0, 0, 0)


# ---------------------------------------------------------------- real work


def blurred(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A filter: each pixel the mean of five."""
    padded = np.pad(frame, 1, mode="edge")
    return (
        padded[1:-1, 1:-1] + padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    ) / 5


def test_a_film(executor: Executor) -> None:
    """Frames that are filtered one by one, kept, and filtered again: the same bits as in a loop."""
    film = np.random.default_rng(1).random((24, 240, 320))
    once = list(executor.map(blurred, film))
    twice = list(executor.map(blurred, once))
    assert all((result == blurred(blurred(frame))).all() for result, frame in zip(twice, film, strict=True))
    assert all((result == blurred(frame)).all() for result, frame in zip(once, film, strict=True))


def threads_of_libraries(_: int) -> list[str | None]:
    return [os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")]


@pytest.mark.parametrize("method", EACH_METHOD)
@pytest.mark.parametrize(
    ("workers", "cores", "threads"), [(2, 8, "4"), (3, 8, "2"), (2, 1, "1"), (1, 6, "6")]
)
def test_libraries_have_their_share_of_the_cores(
    method: str, workers: int, cores: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLELKIT_CPU_COUNT", str(cores))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with Executor("process", workers, mp_context=method) as executor:
        assert executor.submit(threads_of_libraries, 0).result() == [threads] * 3
        product = executor.submit(np.matmul, np.eye(300), np.full((300, 300), 2.0)).result()
    assert (product == 2).all()
    assert "OMP_NUM_THREADS" not in os.environ


def test_who_says_how_many_threads_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for method in METHODS:  # a fork server was started long ago
        with Executor("process", 2, mp_context=method) as executor:
            assert executor.submit(threads_of_libraries, 0).result()[0] == "3"


# ---------------------------------------------------------------- memory that is not needed


def pages(executor: Executor) -> int:
    """Bytes of memory that the arena takes."""
    return os.fstat(backend_of(executor)._packer.arena.fd).st_blocks * 512


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
@pytest.mark.parametrize("method", EACH_METHOD)
def test_free_memory_is_given_up_when_nothing_comes_any_more(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "IDLE_SECONDS", 0.05)
    with Executor("process", WORKERS, mp_context=method) as executor:
        backend_of(executor).populate()
        for _ in range(2):
            items = [np.full(8 * ITEMS, 1.0) for _ in range(6)]
            results = list(executor.map(check_and_spoil, items, [1] * 6, chunksize=1))
            assert pages(executor) >= 6 * 8 * LEAST_BYTES
            kept = results[2]
            del results
            # A worker keeps what came last until something else comes.
            most = (2 + WORKERS) * 8 * LEAST_BYTES
            assert wait_until(lambda: bool(executor.submit(abs, -1).result()) and pages(executor) < most)  # noqa: B023 - it is called here
            assert (kept == 2).all()
            del kept
            assert wait_until(lambda: bool(executor.submit(abs, -1).result()) and pages(executor) < 1 << 19)


inherited: list[Any] = []


def inherit(array: np.ndarray[Any, Any]) -> None:
    inherited[:] = [array]


def write_and_look(number: int) -> bool:
    array = inherited[0]
    array[:] = number
    return bool((array == number).all())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_forked_workers_have_results_for_themselves() -> None:
    """As they have all else that they inherit."""
    with Pool(WORKERS, context=multiprocessing.get_context("fork")) as pool:
        (result,) = pool.map(np.zeros, [ITEMS])
        with Pool(WORKERS, inherit, (result,), context=multiprocessing.get_context("fork")) as other:
            assert other.map(write_and_look, range(1, 20), 1) == [True] * 19
    assert not result.any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_results_of_a_pool_that_has_ended_go_to_another() -> None:
    """Whose workers are forked while there are results, and replaced."""
    arrays = [np.zeros(ITEMS)] * 4
    for _ in range(3):
        with Pool(WORKERS, maxtasksperchild=1, context=multiprocessing.get_context("fork")) as pool:
            arrays = pool.map(partial(np.add, 1), arrays, chunksize=1)
            arrays = pool.map(partial(np.add, 1), arrays, chunksize=1)
    assert all((array == 6).all() for array in arrays)


def test_a_pool_gets_items_as_they_are_when_they_are_read() -> None:
    """Its input is read ahead, and may use the same array again."""

    def frames() -> Iterator[np.ndarray[Any, Any]]:
        frame = np.zeros(ITEMS)
        for number in range(20):
            frame[:] = number
            yield frame

    with Pool(WORKERS) as pool:
        assert list(pool.imap(np.max, frames(), chunksize=3)) == list(range(20))
        assert all((result == 5).all() for result in pool.map(np.copy, [np.full(ITEMS, 5.0)] * 4))
