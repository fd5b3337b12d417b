"""Where pools go wrong: workers that die, streams without an end, callbacks, dropped pools, odd uses."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import pickle
import queue
import signal
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import parallelkit
from parallelkit import InitializerFailed, Pool, RemoteError, SerializationError, ThreadPool, WorkerDied
from programs import faults
from programs.methods import SPAWN_IS_SLOW
from programs.watching import METHODS, PATIENCE, run, wait_until_gone

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(params=SPAWN_IS_SLOW)
def context(request: pytest.FixtureRequest) -> Any:
    return parallelkit.get_context(request.param)


@pytest.fixture
def pool(context: Any) -> Iterator[Pool]:
    """Two workers, which must be there and serve to the end, and leave nothing behind."""
    with context.Pool(2) as pool:
        yield pool
        assert pool.map(faults.same, range(100)) == list(range(100)), "the pool is not usable"
        workers = [psutil.Process(worker.pid) for worker in pool._pool]
        assert len(workers) == 2
    assert not wait_until_gone(workers)


def outcomes(iterator: Iterator[Any]) -> list[Any]:
    found = []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except Exception as error:
            found.append(type(error))


class TestWorkersThatDie:
    @pytest.mark.parametrize("death", faults.DEATHS)
    def test_the_call_gets_an_error_and_the_pool_goes_on(self, pool: Pool, death: str) -> None:
        die, exitcode, words = faults.DEATHS[death]
        with pytest.raises(WorkerDied, match=words) as died:
            pool.apply(die)
        assert died.value.exitcode == exitcode
        with pytest.raises(WorkerDied):
            pool.map(lambda item: die() if item == 7 else item, range(20))
        found = outcomes(pool.imap(lambda item: die() if item == 3 else item, range(6), 1))
        assert found == [0, 1, 2, WorkerDied, 4, 5]

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_what_would_end_a_program_ends_an_item(self, pool: Pool, kind: type[BaseException]) -> None:
        def leave(item: int) -> int:
            if item == 1:
                raise kind("enough")
            return item

        found = outcomes(pool.imap(leave, range(4)))
        assert found == [0, RemoteError, 2, 3]
        with pytest.raises(RemoteError, match=f"{kind.__name__}: enough"):
            pool.map(leave, range(4))

    def test_a_worker_killed_from_outside_is_replaced(self, pool: Pool) -> None:
        first = {worker.pid for worker in pool._pool}
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        found = outcomes(pool.imap(faults.same, range(50), 1))
        assert {one for one in found if one is not WorkerDied} <= set(range(50))
        assert not first & {worker.pid for worker in pool._pool}

    def test_an_error_callback_hears_of_it(self, pool: Pool) -> None:
        heard: list[BaseException] = []
        result = pool.apply_async(faults.die_by_exit, callback=heard.append, error_callback=heard.append)
        result.wait()
        assert not result.successful()
        assert [type(error) for error in heard] == [WorkerDied]


class TestInitializers:
    def test_it_runs_in_each_worker_without_a_task(self, context: Any) -> None:
        ran = context.Barrier(4)
        with context.Pool(3, ran.wait):
            ran.wait(30)

    def test_where_it_raises_each_call_says_so(self, context: Any) -> None:
        def fail(word: str) -> None:
            raise LookupError(word)

        with context.Pool(2, fail, ("nothing there",)) as pool:
            for call in (pool.apply_async(abs, (1,)), pool.map_async(abs, [1])):
                with pytest.raises(InitializerFailed, match="LookupError: nothing there"):
                    call.get(30)
            with pytest.raises(InitializerFailed):
                list(pool.imap(abs, [1]))

    def test_where_it_ends_the_process_there_is_an_end_to_starting(self, context: Any) -> None:
        with context.Pool(2, faults.die_by_exit) as pool:
            with pytest.raises(InitializerFailed, match="exit code 3"):
                pool.apply_async(abs, (1,)).get(30)
        pool.join()

    def test_a_forked_worker_needs_no_pickle_of_it(self) -> None:
        lock = threading.Lock()  # cannot be pickled

        def initialize() -> None:
            assert lock.acquire(blocking=False)

        with parallelkit.get_context("fork").Pool(1, initialize) as pool:
            assert pool.apply(abs, (-1,)) == 1

    def test_what_it_is_given_may_be_what_it_assigns(self, context: Any, tmp_path: Path) -> None:
        """The usual program: an initializer that gives its arguments the names that they have outside."""
        program = f"""
import parallelkit
context = parallelkit.get_context({context.get_start_method()!r})
counter = lock = None
state = None

def setup(given_counter, given_lock, given_queue, given_state):
    global counter, lock, queue, state
    counter, lock, queue, state = given_counter, given_lock, given_queue, given_state

def work(item):
    with lock:
        counter.value += item
    queue.put(item)
    return state

counter, lock, queue = context.Value("i", 0), context.Lock(), context.Queue()
with context.Pool(2, setup, (counter, lock, queue, "ready")) as pool:
    assert pool.map(work, range(5)) == ["ready"] * 5
    assert sorted(queue.get(timeout=30) for _ in range(5)) == list(range(5))
    assert counter.value == 10
    assert pool.apply(setup, (counter.value, 1, 2, 3)) is None
"""
        path = tmp_path / "program.py"
        path.write_text(program)
        assert run([path]) == ("", "")


class TestStreams:
    def test_an_endless_input_is_read_some_way_ahead(self, pool: Pool) -> None:
        for read in (pool.imap, pool.imap_unordered):
            for chunksize in (None, 1, 10):
                numbers = itertools.count()
                stream = read(faults.same, (next(numbers) for _ in itertools.count()), chunksize)
                assert len({next(stream) for _ in range(1000)}) == 1000
                assert next(numbers) < 1000 + 10_000
                del stream

    def test_who_leaves_ends_it(self, pool: Pool) -> None:
        gone = threading.Event()

        def numbers() -> Iterator[int]:
            try:
                yield from itertools.count()
            finally:
                gone.set()

        for result in pool.imap(faults.same, numbers()):
            if result == 10:
                break
        assert gone.wait(30)
        assert not pool._cache

    def test_what_nobody_reads_is_run_to_its_end_when_the_pool_is_joined(self, context: Any) -> None:
        for keep in (True, False):
            count = context.Value("i", 0)
            pool = context.Pool(2, faults.keep, (count,))
            stream = pool.imap(faults.count_up, (i for i in range(5000)))
            if not keep:
                del stream
            pool.close()
            pool.join()
            assert count.value == 5000

    def test_what_is_read_after_close_still_comes(self, context: Any) -> None:
        for read in ("imap", "imap_unordered"):
            pool = context.Pool(2)
            stream = getattr(pool, read)(faults.same, iter(range(20_000)))
            pool.close()
            assert sum(stream) == sum(range(20_000))
            pool.join()

    def test_results_may_be_what_the_input_waits_for(self, pool: Pool) -> None:
        todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        todo.put(0)
        found = []
        for result in pool.imap_unordered(faults.same, iter(todo.get, None)):
            found.append(result)
            todo.put(result + 1 if result < 100 else None)
        assert found == list(range(101))

    def test_an_input_may_yield_the_same_object_changed(self, pool: Pool) -> None:
        def counting() -> Iterator[list[int]]:
            row = [0]
            for row[0] in range(200):
                yield row

        for chunksize in (None, 1, 3):
            assert list(pool.imap(sum, counting(), chunksize)) == list(range(200))

    def test_who_leaves_does_not_end_what_runs(self, context: Any) -> None:
        lock = context.Lock()
        pool = context.Pool(2, faults.keep, (lock,))
        for _ in pool.imap(faults.hold, range(50)):
            break
        pool.close()
        pool.join()
        assert lock.acquire(timeout=30), "a worker was killed while it had the lock"

    def test_many_threads_may_read_one(self, pool: Pool) -> None:
        stream = pool.imap_unordered(faults.same, iter(range(3000)))
        found: list[int] = []
        readers = [threading.Thread(target=lambda: found.extend(stream)) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert sorted(found) == list(range(3000))

    def test_an_input_that_raises_does_so_behind_its_items(self, pool: Pool) -> None:
        def failing(items: int) -> Iterator[int]:
            yield from range(items)
            raise OSError("no more")

        assert outcomes(pool.imap(faults.same, failing(7))) == [*range(7), OSError]
        assert outcomes(pool.imap(faults.same, failing(7), 3)) == [*range(6), OSError]  # as theirs
        assert outcomes(pool.imap(faults.same, failing(0))) == [OSError]

    def test_terminating_does_not_wait_for_an_input(self, context: Any) -> None:
        never = threading.Event()

        def blocked() -> Iterator[int]:
            yield 1
            never.wait()

        with context.Pool(1) as pool:
            stream = pool.imap(faults.same, blocked())
            assert next(stream) == 1
        pool.join()
        with pytest.raises(WorkerDied, match="terminated"):
            next(stream)
        assert outcomes(stream) == []
        never.set()


class TestChunks:
    def test_a_given_size_says_what_runs_together(self, pool: Pool) -> None:
        for size in (1, 3, 10):
            where = pool.map(faults.who, range(60), size)
            assert all(len({*where[i : i + size]}) == 1 for i in range(0, 60, size))
            where = list(pool.imap(faults.who, iter(range(60)), size))
            assert all(len({*where[i : i + size]}) == 1 for i in range(0, 60, size))

    @pytest.mark.parametrize("tasks", [1, 3])
    @pytest.mark.parametrize("chunksize", [None, 1, 4])
    def test_tasks_are_counted_as_theirs_does(self, tasks: int, chunksize: int | None) -> None:
        counts = []
        for make in (
            multiprocessing.get_context("forkserver").Pool,
            parallelkit.get_context("forkserver").Pool,
        ):
            with make(1, maxtasksperchild=tasks) as pool:
                mapped = pool.map(faults.process_id, range(22), chunksize)
                streamed = list(pool.imap(faults.process_id, range(9), chunksize or 1))
                applied = [pool.apply(faults.process_id, (0,)) for _ in range(4)]
                counts.append([sorted(Counter(pids).values()) for pids in (mapped, streamed, applied)])
        assert counts[0] == counts[1]


class TestCallbacks:
    def test_one_that_raises_hurts_nobody(self, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
        def fail(value: int) -> None:
            raise ArithmeticError(f"with {value}")

        assert pool.apply_async(abs, (-5,), callback=fail).get(30) == 5
        assert "ArithmeticError: with 5" in capsys.readouterr().err
        assert pool.apply_async(abs, (-6,), callback=id).get(30) == 6

    def test_one_may_wait_for_the_pool(self, pool: Pool) -> None:
        found: list[Any] = []

        def more(value: int) -> None:
            found.append(pool.apply(abs, (-value,)))
            found.append(pool.map(abs, [-value]))
            found.append(pool.apply_async(abs, (value + 1,), callback=found.append).get(30))

        pool.apply_async(abs, (1,), callback=more).wait(30)
        assert found == [1, [1], 2, 2]

    def test_they_come_one_by_one(self, pool: Pool) -> None:
        inside = threading.Lock()
        found: list[int] = []

        def once(value: int) -> None:
            assert inside.acquire(blocking=False)
            found.append(value)
            inside.release()

        results = [pool.apply_async(faults.same, (i,), callback=once) for i in range(50)]
        assert [result.get(30) for result in results] == list(range(50))
        assert sorted(found) == list(range(50))

    def test_one_that_blocks_stops_only_the_others(self, pool: Pool) -> None:
        go = threading.Event()
        blocked = pool.apply_async(abs, (1,), callback=lambda value: go.wait())
        assert pool.apply(abs, (-2,)) == 2
        assert pool.map(abs, range(10)) == list(range(10))
        assert not blocked.ready()
        go.set()
        assert blocked.get(30) == 1

    def test_joining_waits_for_them(self, context: Any) -> None:
        found: list[int] = []
        pool = context.Pool(2)
        for item in range(20):
            pool.apply_async(faults.same, (item,), callback=found.append)
        pool.close()
        pool.join()
        assert sorted(found) == list(range(20))

    def test_one_may_terminate_the_pool_and_then_there_are_no_more(self, context: Any) -> None:
        found: list[Any] = []
        asked = threading.Event()
        pool = context.Pool(2)

        def stop(value: int) -> None:
            asked.wait()
            found.append(value)
            pool.terminate()

        results = [
            pool.apply_async(faults.same, (i,), callback=stop, error_callback=found.append) for i in range(50)
        ]
        asked.set()
        for result in results:
            result.wait(30)
        pool.join()
        assert len(found) == 1
        assert all(result.ready() for result in results)


class TestWhatCannotTravel:
    def test_a_result_is_a_maybe_encoding_error(self, pool: Pool) -> None:
        with pytest.raises(multiprocessing.pool.MaybeEncodingError) as raised:
            pool.apply(lambda: (item for item in ()))
        assert "generator object" in raised.value.value
        assert "cannot pickle 'generator' object" in raised.value.exc
        found = outcomes(pool.imap(lambda item: threading.Lock() if item == 1 else item, range(3)))
        assert found == [0, multiprocessing.pool.MaybeEncodingError, 2]

    def test_an_argument_or_a_function_raises_what_pickling_it_raises(self, pool: Pool) -> None:
        class Stubborn:
            def __reduce__(self) -> str:
                raise RuntimeError("not me")

        for call in (
            lambda: pool.apply(abs, (Stubborn(),)),
            lambda: pool.map(abs, [Stubborn()]),
            lambda: list(pool.imap(abs, [Stubborn()])),
            lambda: pool.apply(Stubborn().__init__),
        ):
            with pytest.raises(RuntimeError, match="not me"):
                call()

    def test_what_breaks_in_the_worker_says_so(self, pool: Pool) -> None:
        with pytest.raises(ArithmeticError, match="exploded on arrival"):
            pool.apply(faults.same, (faults.BreaksOnArrival(),))

    def test_the_traceback_of_the_worker_is_the_cause(self, pool: Pool) -> None:
        def fail(item: int) -> float:
            return item / 0  # here

        for call in (
            lambda: pool.apply(fail, (1,)),
            lambda: pool.map(fail, [1]),
            lambda: next(pool.imap(fail, [1])),
        ):
            with pytest.raises(ZeroDivisionError) as raised:
                call()
            assert type(raised.value.__cause__) is multiprocessing.pool.RemoteTraceback
            assert "return item / 0  # here" in raised.value.__cause__.tb

    def test_the_pool_itself(self, pool: Pool) -> None:
        with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
            pickle.dumps(pool)


class TestConnections:
    def test_they_travel_as_arguments_and_results(self, pool: Pool, context: Any) -> None:
        ours, theirs = context.Pipe()
        assert pool.apply(faults.send_and_return, (theirs, 5)) is None
        assert ours.recv() == 5
        back = pool.map(faults.same, [theirs])[0]
        back.send(6)
        assert ours.recv() == 6
        for connection in (ours, theirs, back):
            connection.close()


class TestExceptionsOfSignalHandlers:
    @pytest.mark.parametrize("error", [TimeoutError, queue.Empty, LookupError])
    def test_they_pass_through(self, context: Any, error: type[Exception]) -> None:
        def handle(*about: object) -> None:
            raise error("of the handler")

        before = signal.signal(signal.SIGALRM, handle)
        try:
            with context.Pool(2, faults.keep, (context.Event(),)) as pool:
                slow = pool.apply_async(faults.wait_for_gate, (1,))
                stream = pool.imap(faults.wait_for_gate, [1])
                for wait in (slow.wait, slow.get, lambda: slow.get(20), lambda: next(stream)):
                    with pytest.raises(error, match="of the handler") as raised:
                        signal.setitimer(signal.ITIMER_REAL, 0.05)
                        wait()
                    assert type(raised.value) is error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class Held:
    """An argument, or a result, that a weak reference can be made to."""


def tracked(references: list[weakref.ref[Held]]) -> Held:
    held = Held()
    references.append(weakref.ref(held))
    return held


@pytest.mark.parametrize("make", [ThreadPool, Pool])
def test_none_is_not_a_function(make: Callable[..., Any]) -> None:
    with make(1) as pool:
        for call in (
            lambda: pool.map(None, [1]),
            lambda: pool.apply(None),
            lambda: pool.starmap(None, [(1,)]),
            lambda: next(pool.imap(None, [1])),
        ):
            with pytest.raises(TypeError, match="'NoneType' object is not callable"):
                call()


@pytest.mark.parametrize("make", [ThreadPool, Pool])
def test_nothing_is_kept_alive(make: Callable[..., Any]) -> None:
    references: list[weakref.ref[Held]] = []
    with make(1) as pool:
        result = pool.apply_async(type, (tracked(references),))
        result.get()
        mapped = pool.map_async(type, [tracked(references) for _ in range(3)])
        mapped.get()
        stream = pool.imap(type, (tracked(references) for _ in range(3)))
        for _ in stream:
            pass
        kept = pool.apply_async(Held)
        references.append(weakref.ref(kept.get()))
        del kept
        pool.apply(abs, (1,))  # the worker has let go of what came before
        pool.map(abs, [1])
        assert [reference() for reference in references] == [None] * len(references)
    assert result.ready()
    assert mapped.ready()


class TestDroppedPools:
    def test_one_that_nobody_closed_warns_and_ends(self, context: Any) -> None:
        pool = context.Pool(2)
        workers = [psutil.Process(worker.pid) for worker in pool._pool]
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            del pool
            gc.collect()
        expected = "unclosed running multiprocessing pool <parallelkit.pool.Pool state=RUN pool_size=2>"
        assert [str(warning.message) for warning in heard] == [expected]
        del heard  # which held it
        gc.collect()
        assert not wait_until_gone(workers)

    def test_results_keep_it_until_they_have_come(self, context: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            assert context.Pool(2).map(abs, range(10)) == list(range(10))
            assert list(context.Pool(2).imap(abs, iter(range(10)))) == list(range(10))
            result = context.Pool(1).map_async(abs, range(10))
            gc.collect()
            assert result.get(30) == list(range(10))

    def test_what_its_streams_are_to_do_is_done(self, context: Any) -> None:
        count = context.Value("i", 0)

        def begin() -> None:
            pool = context.Pool(2, faults.keep, (count,))
            pool.imap(faults.count_up, iter(range(500)))
            pool.close()

        begin()
        gc.collect()
        deadline = time.monotonic() + PATIENCE
        while count.value < 500 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert count.value == 500

    def test_results_that_do_not_come_any_more_say_so(self, context: Any) -> None:
        with context.Pool(1) as pool:
            late = pool.map_async(time.sleep, [60])
            queued = pool.apply_async(abs, (1,))
        for result in (late, queued):
            with pytest.raises(WorkerDied, match="the pool was terminated"):
                result.get(30)
        pool.join()
        assert not pool._pool

    @pytest.mark.parametrize("ending", ["", "pool.close()", "pool.terminate()", "raise SystemExit(0)"])
    def test_a_program_ends_with_its_pool_open(self, run_program: Any, ending: str) -> None:
        program = f"""
import parallelkit, time
pool = parallelkit.Pool(2)
waits = pool.map_async(time.sleep, [60, 60])
unread = pool.imap(abs, iter(int, 1))
print(pool.apply_async(abs, (-1,), callback=print) is not None)
{ending}
"""
        assert "True\n" in run_program(program)  # the callback may print before it

    def test_threads_go_on_with_it_at_the_end_of_a_program(self, run_program: Any) -> None:
        program = """
import parallelkit, threading, time
pool = parallelkit.Pool(1)
def later():
    time.sleep(0.3)
    print(pool.map(abs, [-1, -2]))
threading.Thread(target=later).start()
"""
        assert run_program(program) == "[1, 2]\n"


class TestOddUses:
    def test_it_is_a_pool_of_multiprocessing(self, pool: Pool) -> None:
        assert isinstance(pool, multiprocessing.pool.Pool)
        with ThreadPool(1) as threads:
            assert isinstance(threads, multiprocessing.pool.ThreadPool)
            assert isinstance(threads, Pool)
            assert isinstance(threads.apply_async(abs, (1,)), multiprocessing.pool.AsyncResult)
            assert isinstance(threads.map_async(abs, [1]), multiprocessing.pool.MapResult)
            assert isinstance(threads.imap(abs, [1]), multiprocessing.pool.IMapIterator)
            assert isinstance(threads.imap_unordered(abs, [1]), multiprocessing.pool.IMapUnorderedIterator)

    def test_all_that_theirs_can_do_is_ours(self) -> None:
        for kind in (multiprocessing.pool.Pool, multiprocessing.pool.ThreadPool):
            public = {name for name in dir(kind) if not name.startswith("_")} - {"Process"}
            assert public <= set(vars(Pool))
        for name in ("ApplyResult", "MapResult", "IMapIterator", "IMapUnorderedIterator"):
            ours = getattr(parallelkit.pool, name)
            for method in (n for n in dir(getattr(multiprocessing.pool, name)) if not n.startswith("_")):
                assert getattr(ours, method).__module__.startswith("parallelkit")

    def test_a_subclass(self, context: Any) -> None:
        class Mine(Pool):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.calls = 0

            def apply(self, func: Any, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006
                self.calls += 1
                return super().apply(func, args, kwds)

        with Mine(1, context=context) as mine:
            assert mine.apply(abs, (-1,)) == 1
            assert mine.calls == 1
            assert repr(mine).endswith("Mine state=RUN pool_size=1>")

    def test_a_subclass_that_makes_its_own_processes(self, context: Any) -> None:
        class Mine(Pool):
            def Process(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802
                process = super().Process(*arguments, **options)
                made.append(process)
                return process

        made: list[Any] = []
        with Mine(2, context=context) as mine:
            assert mine.map(abs, [-1]) == [1]
            assert [process.pid for process in made] == [worker.pid for worker in mine._pool]

    def test_a_process_class_of_the_script(self, context: Any, tmp_path: Path) -> None:
        method = context.get_start_method()
        program = f"""
import multiprocessing, parallelkit
context = multiprocessing.get_context({method!r})

class Mine(context.Process):
    def run(self):
        self.mark = 1
        super().run()

class Context(type(context)):
    Process = Mine

def kind(item):
    return type(multiprocessing.current_process()).__name__

if __name__ == "__main__":
    with parallelkit.Pool(1, context=Context()) as pool:
        assert pool.map(kind, [1]) == ["Mine"]
"""
        path = tmp_path / "program.py"
        path.write_text(program)
        assert run([path]) == ("", "")

    def test_one_that_another_thread_closes_says_so(self) -> None:
        for _ in range(20):
            pool = ThreadPool(1)
            closer = threading.Thread(target=pool.close)
            with pytest.raises(ValueError, match="Pool not running"):
                closer.start()
                while True:
                    pool.apply_async(abs, (1,))
                    pool.map_async(abs, [1])
                    pool.imap(abs, iter([1]))
            closer.join()
            pool.join()
            assert not pool._cache

    def test_arguments_that_no_pool_takes_leave_nothing_to_complain_of(self, run_program: Any) -> None:
        assert (
            run_program("import parallelkit\ntry: parallelkit.Pool(1, bogus=1)\nexcept TypeError: pass") == ""
        )
        with pytest.raises(TypeError, match="initargs"):
            Pool(1, abs, 5)  # type: ignore[arg-type]

    def test_pickling_that_raises_systemexit_ends_an_item(self, pool: Pool) -> None:
        class Leaves:
            def __reduce__(self) -> str:
                raise SystemExit(3)

        for call in (lambda: pool.apply(abs, (Leaves(),)), lambda: pool.map(abs, [Leaves()])):
            with pytest.raises(SerializationError, match="SystemExit"):
                call()

    def test_names_and_numbers_of_workers(self, context: Any) -> None:
        with context.Pool(2) as pool:
            names = {name for name, _ in pool.map(faults.process_name, range(50), 1)}
            assert all("PoolWorker-" in name for name in names)
            assert names <= {worker.name for worker in pool._pool}
            assert len({number for _, number in pool.map(faults.process_name, range(50), 1)}) <= 2

    def test_what_programs_look_at(self) -> None:
        go = threading.Event()
        with ThreadPool(2) as pool:
            assert (pool._processes, len(pool._pool), pool._state) == (2, 2, "RUN")
            waits = pool.map_async(lambda item: go.wait(), range(10), chunksize=3)
            assert (waits._success, waits._value) == (True, None)  # a manager looks at all there is
            more = pool.apply_async(abs, (-1,))
            assert pool._cache[waits._job] is waits
            assert len(pool._cache) == 2
            assert (waits._number_left, waits._chunksize) == (4, 3)
            assert pool._taskqueue.qsize() == 2
            go.set()
            waits.wait()
            assert more.get() == 1
            assert waits._number_left == 0
            assert not pool._cache
            assert pool._taskqueue.qsize() == 0
            assert (more._value, more._success) == (1, True)

    def test_contexts_of_ours_are_theirs(self) -> None:
        for method in METHODS:
            context = parallelkit.get_context(method)
            assert isinstance(context, multiprocessing.context.BaseContext)
            assert context.get_start_method() == method
        with parallelkit.get_context().Pool(1) as pool:
            assert type(pool) is Pool
            assert pool._ctx.get_start_method() == multiprocessing.get_start_method()

    def test_a_pool_within_a_pool(self, pool: Pool) -> None:
        assert pool.map(faults.in_a_pool_of_ours, range(2), 1) == [[0], [1]]

    def test_processes_that_cannot_be_started_leave_none_behind(self, context: Any) -> None:
        class Failing(Pool):
            def Process(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802
                process = super().Process(*arguments, **options)
                made.append(process)
                if len(made) == 3:
                    process.start = self.refuse
                return process

            def refuse(self) -> None:
                raise BlockingIOError("no more processes")

        made: list[Any] = []
        with pytest.raises(BlockingIOError, match="no more processes"):
            Failing(5, context=context)
        assert [process.exitcode for process in made[:2]] == [-signal.SIGKILL] * 2

    def test_a_successor_that_cannot_be_started_is_tried_again(self, context: Any) -> None:
        class Failing(Pool):
            def Process(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802
                process = super().Process(*arguments, **options)
                made.append(process)
                if len(made) in (2, 3, 5):
                    process.start = self.refuse
                return process

            def refuse(self) -> None:
                raise OSError("too many open files")

        made: list[Any] = []
        with Failing(1, maxtasksperchild=1, context=context) as pool:
            found, failed = [], []
            for item in range(8):
                try:
                    found.append(pool.apply(abs, (item,)))
                except InitializerFailed as error:
                    failed.append(type(error.__cause__))
        assert set(found) <= set(range(8))
        assert found[-1] == 7
        assert failed == [OSError] * (8 - len(found))
        assert len(failed) <= 3

    @pytest.mark.slow
    def test_two_hundred_workers_fit_in_the_usual_limit_of_descriptors(self, run_program: Any) -> None:
        program = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
import parallelkit
with parallelkit.get_context("forkserver").Pool(200) as pool:
    print(sum(pool.map(lambda x: x * x, range(1000))))
"""
        assert run_program(program) == "332833500\n"


class TestThreads:
    def test_a_local_initializer_and_lambdas(self) -> None:
        local = threading.local()

        def initialize(value: int) -> None:
            local.value = value

        with ThreadPool(2, initialize, (5,)) as pool:
            assert pool.map(lambda item: local.value + item, range(3)) == [5, 6, 7]

    def test_joining_waits_for_what_runs_after_terminate(self) -> None:
        began, go, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            go.wait()
            ended.set()

        pool = ThreadPool(1)
        pool.apply_async(work)
        began.wait()
        pool.terminate()
        threading.Timer(0.05, go.set).start()
        pool.join()
        assert ended.is_set()

    def test_exceptions_are_the_same_objects(self) -> None:
        error = ValueError("mine")

        def fail() -> None:
            raise error

        with ThreadPool(1) as pool:
            with pytest.raises(ValueError) as raised:
                pool.apply(fail)
        assert raised.value is error
        assert error.__cause__ is None
