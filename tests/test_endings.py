"""How executors, calls and programs end: with many threads at it, in finalizers, by Ctrl-C, in the middle."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from itertools import count
from math import isqrt
from operator import add
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from parallelkit import Executor, RemoteError, SerializationError, WorkerDied, _calls, pimap
from parallelkit.backends.asyncio import AsyncioBackend
from parallelkit.testing import FakeBackend, Gate, Notes
from programs.watching import run

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]
BACKENDS = ["serial", "thread", "process", "asyncio"]


def program(text: str) -> str:
    """Run a program, which must end well; what it says on both outputs."""
    out, err = run(["-W", "ignore::DeprecationWarning", "-c", text])
    return out + err


# ---------------------------------------------------------------- programs that end


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("source", ["[1, 2, 3]", "count()", "iter([1, 2, 3])"])
def test_a_program_ends_with_a_stream_half_read(backend: str, source: str) -> None:
    said = program(
        f"""
from itertools import count
from parallelkit import pimap
stream = pimap(abs, {source}, backend={backend!r}, max_workers=2)
print(next(stream))
"""
    )
    assert said in ("0\n", "1\n")


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_what_a_thread_reads_whole_is_run_to_its_end(backend: str) -> None:
    said = program(
        f"""
import threading, time
from operator import add
from parallelkit import pmap, preduce
def slow(item):
    time.sleep(0.002)
    return item
def source(begun):
    begun.set()
    yield from range(200)
def read(begun):
    print(len(pmap(slow, source(begun), backend={backend!r}, max_workers=2)))
def fold(begun):
    print(preduce(add, source(begun), map=slow, backend={backend!r}, max_workers=3))
for workers in (2, 3):  # from 3.12 on none can be started any more when the main thread is at its end
    pmap(slow, range(20), backend={backend!r}, max_workers=workers, chunksize=1)
for target in (read, fold):
    begun = threading.Event()
    threading.Thread(target=target, args=[begun]).start()
    begun.wait()
"""
    )
    assert sorted(said.split()) == ["19900", "200"]


def test_a_stream_that_a_thread_reads_does_not_end_as_if_it_were_through() -> None:
    said = program(
        """
import threading
from itertools import count
from parallelkit import Executor
def read():
    try:
        for item in executor.map(abs, count()):
            begun.set()
        print("through")
    except RuntimeError as error:
        print(error)
executor, begun = Executor("thread", 2), threading.Event()
threading.Thread(target=read).start()
begun.wait()
"""
    )
    assert said == "the program ends, and with it this call\n"


def test_no_calls_are_taken_when_the_interpreter_ends() -> None:
    said = program(
        """
import atexit
from parallelkit import pmap
def late():
    try:
        pmap(abs, [1])
    except RuntimeError as error:
        print(error)
atexit.register(late)
print(pmap(abs, [-1]))
"""
    )
    assert said == "[1]\ncannot schedule new futures after interpreter shutdown\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_ends_whose_coroutines_used_threads(backend: str) -> None:
    said = program(
        f"""
import asyncio
from parallelkit import Executor
async def in_thread(x):
    return await asyncio.to_thread(abs, x)
executor = Executor({backend!r}, 2)
print(list(executor.map(in_thread, [-1, -2])))
"""
    )
    assert said == "[1, 2]\n"


# ---------------------------------------------------------------- under fire


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("end", ["shutdown", "kill", "cancel"])
def test_executors_end_while_threads_use_them(backend: str, end: str) -> None:
    seen: Counter[str] = Counter()

    def use(call: Callable[[], object]) -> None:
        try:
            while True:
                call()
        except (RuntimeError, WorkerDied, CancelledError) as error:
            seen[type(error).__name__] += 1

    for wait in range(8):
        executor = Executor(backend, None if backend == "serial" else 2)
        calls: list[Callable[[], object]] = [
            lambda executor=executor: list(executor.map(abs, range(300))),  # type: ignore[misc]
            lambda executor=executor: executor.submit(abs, -3).result(30),  # type: ignore[misc]
        ]
        threads = [threading.Thread(target=use, args=(call,), daemon=True) for call in calls * 2]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.004 * wait)
        if end == "kill":
            executor.kill_workers()
        executor.shutdown(cancel_futures=end == "cancel")
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "a call never ended"
    assert sum(seen.values()) == 8 * 4


@pytest.mark.parametrize("backend", ["serial", "thread", "asyncio"])
@pytest.mark.parametrize("kind", ["plain", "async", "in a thread"])
def test_an_item_may_shut_its_executor_down(backend: str, kind: str) -> None:
    """It would wait for its own end, so it does not wait."""
    executor = Executor(backend, None if backend == "serial" else 2)

    def plain(number: int) -> int:
        if number == 3:
            executor.shutdown()
        return number

    async def in_the_loop(number: int) -> int:
        return plain(number)

    async def in_a_thread(number: int) -> int:
        return await asyncio.to_thread(plain, number)

    function = {"plain": plain, "async": in_the_loop, "in a thread": in_a_thread}[kind]
    assert list(executor.map(function, range(6))) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)
    executor.shutdown()


def leave(*arguments: Any) -> Any:
    raise SystemExit("this would end the program")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_for_retries_that_wants_to_end_the_program(backend: str) -> None:
    with Executor(backend, None if backend == "serial" else 2) as executor:
        with pytest.raises(ValueError, match="nonnegative") as caught:
            list(executor.map(isqrt, [-1, -2, -3], retries=1, retry_on=leave))
        assert "retry_on raised RemoteError" in "".join(caught.value.__notes__)
        assert list(executor.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callback_that_wants_to_end_the_program(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    executor = Executor(backend, None if backend == "serial" else 2)
    future: Future[int] = executor.submit(abs, -1)
    future.add_done_callback(leave)
    assert future.result(20) == 1
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    executor.shutdown()
    assert "exception calling callback" in caplog.text
    assert "this would end the program" in caplog.text


@pytest.mark.parametrize("backend", ["thread", "asyncio", "process"])
def test_shutdown_waits_for_callbacks(backend: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def callback(future: Future[int]) -> None:
        begun.set()
        assert go_on.wait(20)
        ended.set()

    executor = Executor(backend, 2)
    executor.submit(gate.pass_through).add_done_callback(callback)
    gate.open()
    assert begun.wait(20)
    ending = threading.Thread(target=executor.shutdown)
    ending.start()
    ending.join(0.1)
    go_on.set()
    ending.join(20)
    assert not ending.is_alive()
    assert ended.is_set()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("initial", [{}, {"initial": 5}])
def test_a_combination_that_wants_to_end_the_program(backend: str, initial: dict[str, int]) -> None:
    """Wherever it is combined: three items may all be with the caller."""
    with Executor(backend, None if backend == "serial" else 2) as executor:
        for items in (range(2), range(3), range(5000)):
            with pytest.raises(RemoteError, match="this would end"):
                executor.reduce(leave, items, **initial)
        assert executor.reduce(max, range(9)) == 8


@pytest.mark.parametrize("backend", ["thread", "asyncio"])
def test_an_item_cancels_what_then_shuts_the_executor_down(backend: str) -> None:
    executor, begin = Executor(backend, 1), threading.Event()

    def cancel() -> None:
        begin.wait()
        executor.shutdown(wait=False, cancel_futures=True)

    futures = [executor.submit(cancel), *(executor.submit(abs, -1) for _ in range(3))]
    futures[-1].add_done_callback(lambda future: executor.shutdown())
    begin.set()
    assert futures[0].result(20) is None
    assert futures[-1].cancelled()
    executor.shutdown()


def test_an_item_may_shut_another_executor_down() -> None:
    with Executor("thread", 2) as executor:
        other = Executor("thread", 2)
        future = other.submit(threading.Event().wait, 0.05)
        executor.submit(other.shutdown).result(20)
        assert future.done()
        assert not other._driver.backend.handles(), "it was waited for"


def test_an_event_loop_is_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second end, begun when the first has stopped the loop, would never be awaited."""
    ends = []
    finish = AsyncioBackend._finish
    monkeypatch.setattr(AsyncioBackend, "_finish", lambda *args: ends.append(args) or finish(*args))
    executor = Executor("asyncio", 2)
    future = executor.submit(asyncio.sleep, 60)
    while not future.running():
        executor.submit(abs, -1).result(20)
    executor.shutdown(wait=False)
    executor.kill_workers()
    executor.shutdown()
    assert len(ends) == 1
    assert isinstance(future.exception(20), WorkerDied)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("read", [1, 100])
def test_an_input_that_shuts_the_executor_down(backend: str, read: int) -> None:
    """It is cut off there, as it begins or while it is read: within it, its end cannot be waited for."""
    for call in (
        lambda executor, source: list(executor.map(abs, source)),
        lambda executor, source: executor.reduce(add, source),
    ):
        executor = Executor(backend, max_workers=2)

        def source(executor: Executor = executor) -> Iterator[int]:
            yield from range(read)
            executor.shutdown()
            yield from count()

        with pytest.raises(RuntimeError, match="shut down before the input was read to its end"):
            call(executor, source())


def test_a_future_that_is_settled_is_not_run() -> None:
    """It failed with its executor, after it had been decided that it goes to a worker."""
    backend = FakeBackend(workers=1)
    executor = Executor(backend)
    task = _calls.Task(_calls.Work(abs, "call"), (-1,), {}, _calls.TaskFuture(backend))
    task.future.set_exception(OSError())
    assert not _calls._begin(task.future)
    cancelled: Future[Any] = Future()
    cancelled.cancel()
    assert not _calls._begin(cancelled)
    assert _calls._begin(Future())
    executor.shutdown(wait=False)


# ---------------------------------------------------------------- finalizers


class Collects:
    """Has the garbage collected while it is pickled, in the middle of the engine."""

    def __reduce__(self) -> tuple[Any, ...]:
        gc.collect()
        return Collects, ()


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_an_iterator_that_a_collector_drops_in_the_middle_of_the_engine(backend: str) -> None:
    with Executor(backend, 2) as executor:
        for _ in range(20):
            ring: list[Any] = [executor.map(abs, count(), buffersize=4)]
            next(ring[0])
            ring.append(ring)
            del ring
            assert len(list(executor.map(lambda item: item, [Collects()] * 3))) == 3


def test_a_stream_of_which_the_input_has_failed_can_be_dropped() -> None:
    """The error waits for who reads, with the frame that made the stream in its traceback."""

    def failing() -> Iterator[int]:
        yield -1
        raise OSError

    released = []

    def leave(dropped: list[weakref.ref[Any]]) -> None:
        first = executor.map(abs, failing())
        dropped.append(weakref.ref(first))
        dropped.append(weakref.ref(executor._map_to_stream(abs, (failing(),), lambda: released.append(1))))

    backend = FakeBackend(workers=2)
    executor = Executor(backend)
    dropped: list[weakref.ref[Any]] = []
    leave(dropped)
    backend.finish_all()
    gc.collect()
    assert [stream() for stream in dropped] == [None, None]
    assert released
    executor.shutdown()


# ---------------------------------------------------------------- Ctrl-C in the middle


class Interrupts:
    """Ctrl-C comes while it is pickled for the first time."""

    def __init__(self) -> None:
        self.left = 1

    def __reduce__(self) -> tuple[Any, ...]:
        self.left -= 1
        if self.left >= 0:
            raise KeyboardInterrupt
        return int, ()


def test_ctrl_c_while_a_call_is_pickled() -> None:
    with Executor("process", 1) as executor:
        assert executor.submit(abs, -1).result() == 1
        for _ in range(3):  # more often than a worker holds chunks
            with pytest.raises(KeyboardInterrupt):
                executor.submit(abs, Interrupts())
            with pytest.raises(KeyboardInterrupt):
                list(executor.map(abs, [Interrupts()]))
            assert list(executor.map(abs, [-1, -2])) == [1, 2]
            assert executor.submit(abs, -5).result() == 5


def test_ctrl_c_in_an_item_of_the_serial_backend() -> None:
    def interrupt(item: int) -> int:
        if item == 1:
            raise KeyboardInterrupt
        return item

    with Executor("serial") as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.submit(interrupt, 1)
        with pytest.raises(KeyboardInterrupt):
            list(executor.map(interrupt, range(3)))
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        assert executor.submit(abs, -5).result() == 5


@pytest.mark.parametrize("way", ["map", "shutdown"])
def test_ctrl_c_in_an_input_is_not_swallowed(way: str) -> None:
    pulled = threading.Event()

    def source() -> Any:
        yield from range(3)
        pulled.set()
        if way == "map":
            raise KeyboardInterrupt
        yield from range(100)
        raise KeyboardInterrupt

    executor = Executor("thread", 1)
    with pytest.raises(KeyboardInterrupt):
        executor.map(abs, source(), chunksize=4)
        executor.shutdown()
    executor.shutdown(cancel_futures=True)


# ---------------------------------------------------------------- results that are late


def test_a_timeout_of_a_future_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(_calls, "monotonic", lambda: now)

    class Helps(FakeBackend):
        def help(self, chunk_id: int, timeout: float | None) -> bool:
            nonlocal now
            now += timeout or 0
            return True

    backend = Helps()
    executor = Executor(backend)
    future = executor.submit(abs, -1)
    assert isinstance(future, _calls.TaskFuture)
    assert future._help(2.0) == 0.0
    assert future._help(None) is None
    executor.kill_workers()


def test_a_timeout_longer_than_clocks_count() -> None:
    with Executor("process", 1) as executor:
        assert executor.submit(abs, -1).result(timeout=1e9) == 1


def test_alarms_go_with_their_chunks() -> None:
    with Executor("thread", 2) as executor:
        stream = executor.map(abs, count(), task_timeout=3600)
        for _ in range(500):
            next(stream)
        assert len(executor._driver._in_flight.alarms) <= 4
        del stream


def test_a_callback_may_wait_for_another_worker() -> None:
    with Executor("thread", 4) as executor:
        for _ in range(20):
            results: list[int] = []
            done = threading.Event()

            def call_again(future: Future[int], results: list[int] = results, done: Any = done) -> None:
                results.append(executor.submit(abs, -7).result(20))
                done.set()

            executor.submit(abs, -1).add_done_callback(call_again)
            assert done.wait(20)
            assert results == [7]


# ---------------------------------------------------------------- what users' code does


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses a note."""

    number: int


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_that_takes_no_note(backend: str) -> None:
    def refuse(item: int) -> int:
        raise Frozen(item)

    with Executor(backend, 1) as executor:
        results = list(executor.map(refuse, range(3), return_exceptions=True, retries=1))
        # Nor can pickle rebuild it, so that from a process a stand-in comes.
        kind = RemoteError if backend == "process" else Frozen
        assert [type(error) for error in results] == [kind] * 3
        assert executor.submit(abs, -1).result() == 1


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_however_many_fail_in_one_report_all_are_tried_again(backend: str, tmp_path: Any) -> None:
    gate, notes = Gate(tmp_path), Notes(tmp_path)

    async def work(item: int) -> int:
        if item == 0:
            while not gate._path.exists():
                await asyncio.sleep(0.001)
            return 0
        notes.add(item)
        if notes.lines().count(str(item)) == 1:
            if item == 599:
                gate.open()
            raise ConnectionError(item)
        return item

    with Executor(backend, 1) as executor:
        assert list(executor.map(work, range(600), chunksize=600, retries=1)) == list(range(600))


def test_coroutines_on_the_serial_backend_within_a_running_loop() -> None:
    async def double(item: int) -> int:
        await asyncio.sleep(0)
        return 2 * item

    async def main() -> list[int]:
        with Executor("serial") as executor:
            return [executor.submit(double, 21).result(), *executor.map(double, range(3))]

    assert asyncio.run(main()) == [42, 0, 2, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_finalizer_that_raises_is_told_and_does_no_harm(backend: str) -> None:
    said = program(
        f"""
from parallelkit import Executor
def fail():
    raise LookupError("the log is gone")
with Executor({backend!r}, 1, finalizer=fail) as executor:
    print(executor.submit(abs, -1).result())
print("through")
"""
    )
    assert said.startswith("1\nthrough\n")
    assert said.count("the finalizer of a worker failed") == said.count("LookupError: the log is gone") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here")
def test_a_child_that_an_item_forks_does_not_go_on_as_a_worker() -> None:
    def fork() -> str:
        return "parent" if os.fork() else "child"

    with Executor("process", 1) as executor:
        futures = [executor.submit(fork), *(executor.submit(abs, -item) for item in range(20))]
        assert [future.result(30) for future in futures] == ["parent", *range(20)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here")
def test_a_stream_of_the_parent_in_a_forked_child() -> None:
    said = program(
        """
import os
from parallelkit import pimap
stream = pimap(abs, range(100), max_workers=1)
next(stream)
child = os.fork()
if not child:
    try:
        list(stream)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
assert list(stream) == list(range(1, 100))
"""
    )
    assert said.startswith("this Executor (or Pool) belongs to the parent process")


lock = threading.Lock()  # a global of a module travels by reference; of a script, it cannot travel


def test_what_could_not_travel_does_not_come_back_in_its_place() -> None:
    said = program(
        """
import threading
from parallelkit import Executor, SerializationError
lock = threading.Lock()
with Executor("process", 1) as executor:
    for function in (lambda: lock, lambda: [lock], lambda: {"lock": lock}):
        try:
            print(executor.submit(function).result())
        except SerializationError as error:
            print("lock" in str(error))
"""
    )
    assert said == "True\n" * 3


@pytest.mark.parametrize(("option", "value"), [("max_workers", True), ("max_tasks_per_child", True)])
def test_a_truth_value_is_no_number(option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a whole number or None, not True"):
        Executor("process", **{option: value})


def test_initargs_are_a_tuple() -> None:
    with pytest.raises(TypeError, match="initargs must be a tuple of arguments, not 5"):
        Executor("thread", initializer=abs, initargs=5)  # type: ignore[arg-type]


def test_a_worker_may_be_killed_twice() -> None:
    """It has ended by itself, and nobody has heard of it."""
    with Executor("process", 1) as executor:
        executor.submit(abs, -1).result()
        (peer,) = executor._backend._peers.values()  # type: ignore[attr-defined]
        peer.process.kill()
        multiprocessing.connection.wait([peer._death], 20)
        for _ in range(1000):
            peer.kill(None)
        assert executor.submit(abs, -1).result() == 1


def test_dropping_and_shutting_down_meanwhile() -> None:
    began = monotonic()
    for _ in range(50):
        stream = pimap(abs, range(1000), backend="thread", max_workers=2)
        next(stream)
        thread = threading.Thread(target=stream.close)  # type: ignore[attr-defined]
        thread.start()
        thread.join(20)
    assert monotonic() > began  # it came to an end


def test_serialization_error_is_what_pickle_raises() -> None:
    with Executor("process", 1) as executor, pytest.raises(SerializationError):
        executor.submit(abs, threading.Lock()).result()


class Interrupted:
    """A lock in whose taking Ctrl-C comes, once: it is taken then."""

    def __init__(self, lock: Any):
        self._lock = lock
        self.interrupts = 0

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def acquire(self, blocking: bool = True) -> bool:
        taken = self._lock.acquire(blocking)
        if not blocking and not self.interrupts:
            self.interrupts += 1
            raise KeyboardInterrupt
        return bool(taken)


def test_ctrl_c_while_it_is_looked_whether_a_lock_is_free() -> None:
    executor = Executor("thread", 1)
    driver: Any = executor._driver
    lock = driver._lock
    driver._lock = interrupted = Interrupted(lock)
    with pytest.raises(KeyboardInterrupt):
        executor.shutdown(wait=False)
    assert interrupted.interrupts == 1
    free: list[bool] = []

    def look() -> None:
        if lock.acquire(blocking=False):
            lock.release()
            free.append(True)

    other = threading.Thread(target=look)
    other.start()
    other.join()
    assert free, "the lock was kept"
    executor.shutdown()
