"""What every backend keeps, as tests."""

from __future__ import annotations

import tempfile
from asyncio import sleep
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial, reduce
from itertools import count, islice
from operator import add
from threading import Thread
from typing import Any, ClassVar
from unittest import SkipTest

from .._core.chunks import Chunk
from .._place import current_item
from .._worker import Work, current_worker
from ..errors import InitializerFailed, RemoteError
from ..executor import Executor
from .gates import PATIENCE, Gate, Notes

__all__ = ["BackendContract"]


def double(item: Any) -> Any:
    return item + item


def fail_at_three(item: int) -> int:
    if item == 3:
        raise LookupError("three")
    return item


def noted(notes: Notes, item: Any) -> Any:
    notes.add(item)
    return item


def fail_until(notes: Notes, attempts: int, item: int) -> int:
    """Item 3 succeeds at the attempt of that number; `notes` has a line for each attempt."""
    notes.add(item)
    if item == 3 and notes.lines().count("3") < attempts:
        raise ConnectionError("try again")
    return item


class _Source:
    """An input that knows how far it is read ahead of `taken`, the number of results taken."""

    def __init__(self, length: int):
        self._length = length
        self.taken = self.most_ahead = 0

    def __iter__(self) -> Iterator[int]:
        for item in range(self._length):
            self.most_ahead = max(self.most_ahead, item + 1 - self.taken)
            yield item


class BackendContract:
    """What every backend keeps, as tests for pytest: results, order, errors, limits, the end.

    A subclass says how an executor is made; it may leave tests out by setting them to None.
    """

    def new_executor(self, **options: Any) -> Executor:
        """An executor on the backend under test; `options` are those of `Executor` that all backends take."""
        raise NotImplementedError

    executor: ClassVar[Executor]

    @classmethod
    def setup_class(cls) -> None:
        cls.executor = cls().new_executor(max_workers=2)

    @classmethod
    def teardown_class(cls) -> None:
        cls.executor.shutdown()

    def setup_method(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.notes, self.gate = Notes(self._folder.name), Gate(self._folder.name)

    def teardown_method(self) -> None:
        self._folder.cleanup()

    # Results

    def test_map_equals_the_built_in_map(self) -> None:
        for length in (0, 1, 2, 100, 1000):
            for items in (range(length), list(range(length)), iter(range(length))):
                assert list(self.executor.map(double, items)) == [2 * item for item in range(length)]
        assert list(self.executor.map(pow, range(9), count(1))) == [item ** (item + 1) for item in range(9)]
        pairs = [(item, 2) for item in range(50)]
        assert list(self.executor.starmap(pow, pairs)) == [item**2 for item in range(50)]

    def test_chunksize_is_obeyed(self) -> None:
        lengths = []
        with self.new_executor(max_workers=2) as executor:
            submit = executor._backend.submit

            def spy(worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
                lengths.append(len(chunk))
                submit(worker, chunk_id, work, chunk)

            executor._backend.submit = spy  # type: ignore[method-assign]
            assert list(executor.map(double, range(100), chunksize=7)) == list(range(0, 200, 2))
        assert lengths[0] == max(lengths) == 7

    def test_unordered_gives_every_result_once(self) -> None:
        for items in (range(500), iter(range(500))):
            assert Counter(self.executor.map(double, items, ordered=False)) == Counter(range(0, 1000, 2))

    def test_any_callable(self) -> None:
        offset = 1
        callables: list[Callable[[int], Any]] = [
            abs, double, lambda item: item + offset, partial(pow, 2), [3, 1, 4, 1, 5, 9].count, str,
        ]  # fmt: skip
        for function in callables:
            assert list(self.executor.map(function, range(20))) == [function(item) for item in range(20)]
            assert self.executor.submit(function, 4).result(PATIENCE) == function(4)

        async def add_async(a: int, b: int) -> int:
            return a + b + offset

        assert list(self.executor.map(add_async, range(50), range(50))) == [2 * i + 1 for i in range(50)]
        assert list(self.executor.map(partial(add_async, 5), range(50))) == [i + 6 for i in range(50)]
        future: Future[Any] = self.executor.submit(add_async, 1, b=2)
        assert future.result(PATIENCE) == 4

    def test_submit(self) -> None:
        def arguments(*args: object, **kwargs: object) -> object:
            return args, kwargs

        future = self.executor.submit(arguments, 1, self=2, fn=3)
        assert isinstance(future, Future)
        assert future.result(PATIENCE) == ((1,), {"self": 2, "fn": 3})
        futures = [self.executor.submit(double, item) for item in range(100)]
        assert [future.result(PATIENCE) for future in futures] == list(range(0, 200, 2))

    def test_reduce_is_a_function_of_its_input(self) -> None:
        words = [chr(97 + item % 26) * (item % 5) for item in range(2000)]
        floats = [(-1.1) ** (item % 300) / (item + 1) for item in range(3000)]
        with Executor("serial") as serial:
            expected = serial.reduce(add, floats).hex()
        for chunksize in (None, 1, 37, 10_000):
            assert self.executor.reduce(add, words, initial=".", chunksize=chunksize) == "." + "".join(words)
            for items in (floats, iter(floats)):
                assert self.executor.reduce(add, items, chunksize=chunksize).hex() == expected
        assert self.executor.reduce(max, range(-9, 9), map=abs) == reduce(max, map(abs, range(-9, 9)))
        lists = self.executor.reduce(list.__iadd__, range(999), map=lambda item: [item])
        assert lists == list(range(999)), "combine may change its left argument"

    def test_map_reduce(self) -> None:
        def letters(word: str) -> Iterator[tuple[str, int]]:
            for letter in word:
                yield letter, 1

        words = ["spam", "eggs", "ham"] * 200
        counted = self.executor.map_reduce(letters, add, words)
        assert list(counted.items()) == list(Counter("".join(words)).items())

    def test_nothing_in_nothing_out(self) -> None:
        nothing: Any
        for nothing in ([], range(0), iter(())):
            assert list(self.executor.map(double, nothing)) == []
            assert self.executor.reduce(add, nothing, initial=None) is None
            assert self.executor.map_reduce(lambda item: [item], add, nothing) == {}
            with _raises(TypeError, "initial"):
                self.executor.reduce(add, nothing)

    # Streams

    def test_endless_input(self) -> None:
        for ordered in (True, False):
            results = self.executor.map(double, count(), ordered=ordered)
            some = list(islice(results, 300))
            assert len(set(some)) == 300 and (not ordered or some == list(range(0, 600, 2)))

    def test_leaving_early_ends_the_work(self) -> None:
        with self.new_executor(max_workers=1) as executor:
            results = executor.map(partial(noted, self.notes), range(1000), chunksize=1, buffersize=4)
            assert list(islice(results, 2)) == [0, 1]
            del results
            assert executor.submit(double, 1).result(PATIENCE) == 2
            assert len(self.notes.lines()) <= 6

    def test_buffersize_bounds_what_is_pulled_and_not_taken(self) -> None:
        for ordered in (True, False):
            for chunksize in (None, 1, 3, 100):
                source = _Source(150)
                options: Any = {"chunksize": chunksize, "buffersize": 7, "ordered": ordered}
                results, seen = self.executor.map(double, source, **options), set()
                for source.taken, result in enumerate(results, 1):
                    seen.add(result)
                assert seen == set(range(0, 300, 2)) and source.most_ahead <= 7

    def test_input_that_raises(self) -> None:
        def source() -> Iterator[int]:
            yield from range(10)
            raise OSError("the disk is gone")

        for ordered in (True, False):
            results = self.executor.map(double, source(), ordered=ordered)
            assert sorted(islice(results, 10)) == list(range(0, 20, 2))
            with _raises(OSError, "the disk is gone"):
                next(results)

    # Errors

    def test_an_exception_keeps_its_type_and_names_its_item(self) -> None:
        class Refused(Exception):
            pass

        def refuse(item: int) -> None:
            raise Refused(item, "no")

        for call in (lambda: list(self.executor.map(refuse, [70])), self.executor.submit(refuse, 70).result):
            with _raises(Refused, "(70, 'no')"):
                call()
        results = self.executor.map(fail_at_three, range(10), chunksize=2)
        assert list(islice(results, 3)) == [0, 1, 2]
        with _raises(LookupError, "three") as caught:
            next(results)
        assert "item 3" in "".join(caught[0].__notes__)

    def test_one_result_may_be_an_exception(self) -> None:
        for options in ({"ordered": True}, {"chunksize": 1}, {"buffersize": 3}):
            results = list(self.executor.map(fail_at_three, range(10), return_exceptions=True, **options))
            assert [type(result) for result in results] == [LookupError if i == 3 else int for i in range(10)]

    def test_what_is_not_an_exception_of_the_caller(self) -> None:
        def leave(item: int) -> int:
            raise SystemExit(item) if item else StopIteration(item)

        stopped, left = self.executor.map(leave, range(2), return_exceptions=True)
        assert isinstance(stopped, RuntimeError) and "StopIteration" in str(stopped)
        assert isinstance(left, RemoteError) and "SystemExit" in str(left)

    def test_reduce_raises_what_an_item_raises(self) -> None:
        def refuse(a: int, b: int) -> int:
            raise ArithmeticError(f"not {a} and {b}")

        with _raises(LookupError, "three"):
            self.executor.reduce(add, range(10), map=fail_at_three)
        for place in (0, 9, 2000, 2999):  # what map() takes for the end must not shorten a sum
            with _raises(RuntimeError, "StopIteration"):
                self.executor.reduce(add, range(3000), map=partial(_stop_at, place))
        with _raises(ArithmeticError, "not 0 and 1"):
            self.executor.reduce(refuse, range(2))

    def test_only_what_failed_is_tried_again(self) -> None:
        function = partial(fail_until, self.notes, 3)
        assert list(self.executor.map(function, range(10), retries=2)) == list(range(10))
        assert Counter(self.notes.lines()) == {**dict.fromkeys(map(str, range(10)), 1), "3": 3}

    def test_tried_again_in_a_reduce(self) -> None:
        function = partial(fail_until, self.notes, 2)
        assert self.executor.reduce(add, range(10), map=function, retries=1) == 45
        assert Counter(self.notes.lines()) == {**dict.fromkeys(map(str, range(10)), 1), "3": 2}

    def test_tried_again_only_so_often_and_only_where_it_helps(self) -> None:
        function = partial(fail_until, self.notes, 9)
        for options, attempts in (({"retries": 2}, 3), ({"retries": 2, "retry_on": KeyError}, 1), ({}, 1)):
            before = len(self.notes.lines())
            results = list(self.executor.map(function, [3], return_exceptions=True, **options))
            assert type(results[0]) is ConnectionError and len(self.notes.lines()) - before == attempts

    # Several at once

    def test_calls_from_many_threads(self) -> None:
        wrong: list[object] = []

        def call(number: int) -> None:
            expected = [item + number for item in range(200)]
            if list(self.executor.map(partial(add, number), range(200))) != expected:
                wrong.append(number)
            if self.executor.reduce(add, range(200), map=partial(add, number)) != sum(expected):
                wrong.append(number)
            if self.executor.submit(add, number, 1).result(PATIENCE) != number + 1:
                wrong.append(number)

        threads = [Thread(target=call, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not wrong and not any(thread.is_alive() for thread in threads)

    def test_maps_are_read_side_by_side(self) -> None:
        maps = [self.executor.map(partial(add, n), count(), ordered=True) for n in range(5)]
        for item in range(30):
            assert [next(results) for results in maps] == [item + n for n in range(5)]

    def test_a_slow_item_holds_up_only_what_is_ordered(self) -> None:
        self._needs_workers_of_its_own()
        with self.new_executor(max_workers=2) as executor:
            function = partial(_wait_at_zero, self.gate)
            results = executor.map(function, range(20), ordered=False, chunksize=1)
            assert 0 not in list(islice(results, 5))
            self.gate.open()
            assert 0 in list(results)

    # Workers

    def test_workers_are_numbered(self) -> None:
        assert current_worker() is None
        with self.new_executor(max_workers=2) as executor:
            seen = set(executor.map(lambda item: current_worker(), range(100), chunksize=1))
            assert seen and seen <= {0, 1}
            assert executor.submit(current_worker).result(PATIENCE) in {0, 1}
        assert current_worker() is None

    def test_items_know_their_position(self) -> None:
        for options in ({}, {"chunksize": 7}, {"buffersize": 5}, {"ordered": False}):
            items: Any = iter(range(300)) if "buffersize" in options else range(300)
            pairs = self.executor.map(lambda item: (item, current_item()), items, **options)
            assert sorted(pairs) == [(item, item) for item in range(300)]
        failed = self.executor.map(_fail_and_say_where, range(9), return_exceptions=True, retries=1)
        assert [result.args for result in failed] == [(item, item) for item in range(9)]
        for retries in (0, 1):
            mapped = self.executor.reduce(add, range(3000), map=lambda _: [current_item()], retries=retries)
            assert mapped == list(range(3000))
            combined = self.executor.reduce(_say_where, [[]] * 50, retries=retries)
            assert set(combined) <= {None, *range(50)}  # None: what is combined in this thread
        assert self.executor.submit(current_item).result(PATIENCE) is None
        assert current_item() is None

    def test_coroutines_know_their_position(self) -> None:
        async def where(item: int) -> tuple[int, int | None]:
            await sleep(0)
            return item, current_item()

        assert list(self.executor.map(where, range(50))) == [(item, item) for item in range(50)]
        future: Future[Any] = self.executor.submit(where, 0)
        assert future.result(PATIENCE) == (0, None)

    def test_initializer_and_finalizer(self) -> None:
        notes = self.notes
        begin, end = partial(notes.add, "begin"), partial(notes.add, "end")
        with self.new_executor(max_workers=2, initializer=begin, finalizer=end) as executor:
            before = list(executor.map(lambda item: notes.lines()[:1], range(20), chunksize=1))
            assert before == [["begin"]] * 20
        noted = Counter(notes.lines())
        assert 1 <= noted["begin"] == noted["end"] <= 2

    def test_initializer_that_fails(self) -> None:
        def begin(path: str) -> None:
            raise FileNotFoundError(path)

        executor = self.new_executor(max_workers=2, initializer=begin, initargs=("settings.ini",))
        with executor:
            for _ in range(2):
                with _raises(InitializerFailed, "settings.ini"):
                    executor.submit(double, 1).result(PATIENCE)
            with _raises(InitializerFailed, "settings.ini"):
                list(executor.map(double, range(10)))

    # The end

    def test_shutdown(self) -> None:
        with self.new_executor(max_workers=2) as executor:
            futures = [executor.submit(double, item) for item in range(20)]
            executor.shutdown(wait=False)
            calls: list[Callable[..., Any]] = [executor.submit, executor.map, executor.reduce]
            for call in calls:
                with _raises(RuntimeError, "after shutdown"):
                    call(double, [1])
            assert [future.result(PATIENCE) for future in futures] == list(range(0, 40, 2))
        executor.shutdown()

    def test_what_nobody_reads_is_still_run(self) -> None:
        with self.new_executor(max_workers=2) as executor:
            for items in (range(40), iter(range(40, 80))):
                executor.map(partial(noted, self.notes), items)
        assert Counter(self.notes.lines()) == Counter(map(str, range(80)))

    def test_cancel_a_future(self) -> None:
        self._needs_workers_of_its_own()
        with self.new_executor(max_workers=1) as executor:
            executor.submit(self.gate.pass_through)
            futures = [executor.submit(noted, self.notes, item) for item in range(10)]
            assert futures[9].cancel() and futures[9].cancelled()
            self.gate.open()
            assert not wait(futures, PATIENCE).not_done
        assert self.notes.lines() == list(map(str, range(9)))

    def test_cancel_futures_finds_most_waiting(self) -> None:
        self._needs_workers_of_its_own()
        executor = self.new_executor(max_workers=1)
        futures = [executor.submit(self.gate.pass_through, item) for item in range(20)]
        executor.shutdown(wait=False, cancel_futures=True)
        self.gate.open()
        executor.shutdown()
        assert [future.cancelled() for future in futures].count(False) <= executor._backend.depth
        assert all(future.cancelled() or future.result(0) == item for item, future in enumerate(futures))

    def test_timeout(self) -> None:
        self._needs_workers_of_its_own()
        with self.new_executor(max_workers=2) as executor:
            with _raises(TimeoutError, "timeout=0.01"):
                list(executor.map(self.gate.pass_through, range(100), timeout=0.01))
            self.gate.open()
            assert executor.submit(double, 1).result(PATIENCE) == 2

    def _needs_workers_of_its_own(self) -> None:
        if not self.executor._backend.eager:
            raise SkipTest(
                "this backend runs chunks in the thread that asks for them, which cannot wait for itself"
            )


def _fail_and_say_where(item: int) -> None:
    raise LookupError(item, current_item())


def _say_where(a: list[int | None], b: list[int | None]) -> list[int | None]:
    return [*a, *b, current_item()]


def _stop_at(place: int, item: int) -> int:
    if item == place:
        raise StopIteration
    return item


def _wait_at_zero(gate: Gate, item: int) -> int:
    return item if item else gate.pass_through(item)


@contextmanager
def _raises(kind: type[BaseException], text: str) -> Iterator[list[Any]]:
    caught: list[Any] = []
    try:
        yield caught
    except kind as error:
        assert text in str(error), f"{error!r} does not say {text!r}"
        caught.append(error)
    else:
        raise AssertionError(f"no {kind.__name__} was raised")
