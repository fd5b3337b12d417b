"""pmap, pimap, preduce and pmap_reduce are the plain Python they stand for."""

from __future__ import annotations

import gc
import math
import operator
import weakref
from array import array
from collections import ChainMap, Counter, UserList, deque, namedtuple
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial, reduce
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit import (
    Executor,
    _calls,
    chunked,
    current_worker,
    functional,
    pimap,
    pmap,
    pmap_reduce,
    preduce,
)
from parallelkit._core.splitters import CHUNK_SECONDS
from parallelkit._opening import (
    FIRST_ITEMS,
    FIRST_NUMBERS,
    GIVES_BACK,
    PATIENCE_SECONDS,
    _begins_with_a_number,
    open_map,
    splitter,
)
from parallelkit._work import Work
from parallelkit.testing import Gate, Notes
from strategies import buffersizes, chunksizes, floats, integers, kinds

backends = st.sampled_from(["serial", "thread"])


BACKENDS = ["serial", "thread", "process", "asyncio"]


def same(item: Any) -> Any:
    return item


# Against plain Python


@given(items=integers, kind=kinds, chunksize=chunksizes, buffersize=buffersizes, backend=backends)
def test_pmap_is_map(
    items: list[int],
    kind: Callable[[list[int]], Iterable[int]],
    chunksize: int | None,
    buffersize: int | None,
    backend: str,
) -> None:
    options: Any = {"chunksize": chunksize, "buffersize": buffersize, "backend": backend}
    expected = list(map(operator.neg, items))
    assert pmap(operator.neg, kind(items), **options) == expected
    assert list(pimap(operator.neg, kind(items), **options)) == expected
    unordered = pimap(operator.neg, kind(items), ordered=False, **options)
    assert Counter(unordered) == Counter(expected)


@given(
    columns=st.lists(st.tuples(integers, kinds), min_size=1, max_size=4),
    chunksize=chunksizes,
    buffersize=buffersizes,
    backend=backends,
)
def test_several_iterables_of_unequal_lengths(
    columns: list[tuple[list[int], Callable[[list[int]], Iterable[int]]]],
    chunksize: int | None,
    buffersize: int | None,
    backend: str,
) -> None:
    def together(*arguments: int) -> tuple[int, ...]:
        return arguments

    def inputs() -> list[Iterable[int]]:
        return [kind(items) for items, kind in columns]

    options: Any = {"chunksize": chunksize, "buffersize": buffersize, "backend": backend}
    expected = list(map(together, *inputs()))
    assert pmap(together, *inputs(), **options) == expected
    assert list(pimap(together, *inputs(), **options)) == expected


@given(items=floats, kind=kinds, chunksize=chunksizes, backend=backends)
def test_preduce_of_floats_has_the_bits_of_any_other_way(
    items: list[float], kind: Callable[[list[float]], Iterable[float]], chunksize: int | None, backend: str
) -> None:
    with np.errstate(all="ignore"):
        expected = preduce(operator.add, items, backend="serial")
        reduced = preduce(operator.add, kind(items), chunksize=chunksize, backend=backend)
    assert np.float64(reduced).tobytes() == np.float64(expected).tobytes()


@given(items=st.lists(st.text(max_size=3), max_size=100), initial=st.text(max_size=3), chunksize=chunksizes)
def test_preduce_is_reduce_where_combine_is_associative(
    items: list[str], initial: str, chunksize: int | None
) -> None:
    options: Any = {"chunksize": chunksize, "backend": "thread"}
    assert preduce(operator.add, items, initial=initial, **options) == reduce(operator.add, items, initial)
    assert preduce(operator.add, items, map=str.upper, initial=initial, **options) == reduce(
        operator.add, map(str.upper, items), initial
    )
    fractions = [Fraction(len(item), 7) for item in items]
    assert preduce(operator.add, fractions, initial=0, **options) == sum(fractions)


@given(
    items=st.lists(st.text("abc", max_size=5), max_size=60),
    kind=kinds,
    chunksize=chunksizes,
    backend=backends,
)
def test_pmap_reduce_is_a_loop(
    items: list[str], kind: Callable[[list[str]], Iterable[str]], chunksize: int | None, backend: str
) -> None:
    def letters(word: str) -> Iterator[tuple[str, str]]:
        for letter in word:
            yield letter, word

    expected: dict[str, str] = {}
    for word in items:
        for letter, value in letters(word):
            expected[letter] = expected[letter] + value if letter in expected else value
    counted = pmap_reduce(letters, operator.add, kind(items), chunksize=chunksize, backend=backend)
    assert list(counted.items()) == list(expected.items())


@given(items=integers, bad=st.sets(st.integers(0, 99)), chunksize=chunksizes, backend=backends)
def test_exceptions_take_the_place_of_results(
    items: list[int], bad: set[int], chunksize: int | None, backend: str
) -> None:
    def refuse(position: int) -> int:
        if position in bad:
            raise LookupError(position)
        return items[position]

    positions = range(len(items))
    options: Any = {"chunksize": chunksize, "backend": backend}
    results = pmap(refuse, positions, return_exceptions=True, **options)
    for position, result in enumerate(results):
        if position in bad:
            assert isinstance(result, LookupError)
            assert result.args == (position,)
        else:
            assert result == items[position]
    stream = pimap(refuse, positions, **options)
    before = [position for position in positions if position < min(bad, default=len(items))]
    assert [next(stream) for _ in before] == [items[position] for position in before]
    if len(before) < len(items):
        with pytest.raises(LookupError, match=str(len(before))):
            next(stream)


# What may be iterated over


class LiesAboutItsLength:
    """A sequence, as far as one can see, of another length than it says."""

    def __init__(self, items: list[int], says: int):
        self._items = items
        self._says = says

    def __len__(self) -> int:
        return self._says

    def __getitem__(self, where: Any) -> Any:
        return self._items[where]

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)


class OnlyGetItem:
    """Iterated over in the old way: by number, until IndexError."""

    def __getitem__(self, where: int) -> int:
        if where >= 5:
            raise IndexError
        return where * 10


class Table:
    """As a data frame: iterates over its columns, has the length of its rows, which slices take."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, where: Any) -> Any:
        raise AssertionError("rows were asked for")

    def __iter__(self) -> Iterator[str]:
        return iter(["first", "second"])


class BackwardList(list[int]):
    def __iter__(self) -> Iterator[int]:
        return reversed(self)


class ListThatLies(list[int]):
    def __len__(self) -> int:
        return 3


class CountingTuple(tuple[int, ...]):
    def __getitem__(self, where: Any) -> Any:
        raise AssertionError("only to be iterated over")


Point = namedtuple("Point", "x y z")

ITERABLES: dict[str, Callable[[], Iterable[Any]]] = {
    "str": lambda: "spam" * 30,
    "bytes": lambda: b"spam" * 30,
    "bytearray": lambda: bytearray(range(100)),
    "memoryview": lambda: memoryview(b"spam"),
    "range": lambda: range(100, -100, -7),
    "huge range": lambda: range(10**30, 10**30 + 50),
    "deque": lambda: deque(range(100), maxlen=60),
    "set": lambda: set(range(100)),
    "frozenset": lambda: frozenset("spam"),
    "dict": lambda: dict.fromkeys("spam", 1),
    "items of a dict": lambda: dict.fromkeys("spam", 1).items(),
    "ChainMap": lambda: ChainMap({"a": 1}, {"b": 2}),
    "array": lambda: array("d", range(100)),
    "namedtuple": lambda: Point(1, 2, 3),
    "UserList": lambda: UserList(range(100)),
    "a file": lambda: Path(__file__).open(),  # noqa: SIM115 - who iterates closes it, sooner or later
    "longer than it says": lambda: LiesAboutItsLength(list(range(50)), 10),
    "shorter than it says": lambda: LiesAboutItsLength(list(range(50)), 100),
    "says nothing is there": lambda: LiesAboutItsLength(list(range(50)), 0),
    "only __getitem__": OnlyGetItem,
    "like a data frame": Table,
    "a list that iterates backward": lambda: BackwardList(range(100)),
    "a list that lies about its length": lambda: ListThatLies(range(100)),
    "a tuple that is not indexed": lambda: CountingTuple(range(100)),
    "zip": lambda: zip("spam", range(4), strict=True),
    "map": lambda: map(str, range(100)),
    "numpy, one dimension": lambda: np.arange(100),
    "numpy, records": lambda: np.array([(1, 2.0)] * 50, dtype=[("a", int), ("b", float)]),
    "numpy, every second": lambda: np.arange(100)[::-2],
    "numpy, empty": lambda: np.arange(0),
    "numpy, objects": lambda: np.array([{}, [], None] * 9, dtype=object),
    "numpy, masked": lambda: np.ma.masked_greater(np.arange(100), 50),
}


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
@pytest.mark.parametrize("kind", ITERABLES)
@pytest.mark.filterwarnings("ignore:.*unclosed file:ResourceWarning")
def test_what_is_iterated_over_is_mapped(kind: str, backend: str) -> None:
    expected = [repr(item) for item in ITERABLES[kind]()]
    assert pmap(repr, ITERABLES[kind](), backend=backend, max_workers=2) == expected
    assert list(pimap(repr, ITERABLES[kind](), backend=backend, max_workers=2, chunksize=3)) == expected
    joined = preduce(operator.add, ITERABLES[kind](), map=repr, initial="", backend=backend, max_workers=2)
    assert joined == "".join(expected)


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_rows_of_an_array(backend: str) -> None:
    matrix = np.arange(600.0).reshape(60, 2, 5)
    rows = pmap(same, matrix, backend=backend, max_workers=2, chunksize=7)
    assert np.array_equal(np.stack(rows), matrix)
    assert rows[0].shape == (2, 5)
    total = preduce(np.add, matrix, backend=backend, max_workers=2)
    assert np.array_equal(total, matrix.sum(axis=0))
    pairs = pmap(lambda row, item: row.sum() + item, matrix, range(60), backend=backend, max_workers=2)
    assert pairs == [row.sum() + item for item, row in enumerate(matrix)]


def test_threads_are_given_views_of_an_array() -> None:
    matrix = np.zeros((50, 3))

    def fill(row: np.ndarray[Any, Any]) -> None:
        row += 1

    pmap(fill, matrix, backend="thread", chunksize=4)
    assert np.array_equal(matrix, np.ones((50, 3)))


def test_an_array_without_dimensions_is_no_input() -> None:
    with pytest.raises(TypeError, match="0-d"):
        pmap(same, np.array(3), backend="thread")


def test_numbers_of_numpy_are_numbers() -> None:
    options: Any = {"max_workers": np.int64(2), "chunksize": np.int32(3), "buffersize": np.uint8(5)}
    for backend in ("thread", "process"):
        assert pmap(abs, range(-20, 0), backend=backend, retries=np.int8(1), **options) == list(
            range(20, 0, -1)
        )


def test_an_input_that_grows_while_it_is_read() -> None:
    """As with the built-in map: what is added while it is iterated over is seen."""
    names = iter(todo := deque([1]))
    todo.pop()
    todo.append(2)
    with pytest.raises(RuntimeError, match="mutated"):
        pmap(abs, names, backend="thread")


# Streams


def test_pimap_is_lazy() -> None:
    pulled = []

    def source() -> Iterator[int]:
        for item in count():
            pulled.append(item)
            yield item

    stream = pimap(abs, source(), backend="thread", max_workers=1, buffersize=3)
    assert len(pulled) <= 3
    for taken in range(100):
        assert next(stream) == taken
        assert len(pulled) <= taken + 1 + 3


@pytest.mark.parametrize("leave", ["close", "drop unread", "drop in the middle", "error"])
def test_leaving_a_stream_ends_it(leave: str, tmp_path: Path) -> None:
    notes, gate = Notes(tmp_path), Gate(tmp_path)

    def work(item: int) -> int:
        notes.add(item)
        if item >= 3:
            gate.pass_through()
        if leave == "error":
            raise LookupError(item)
        return item

    stream = pimap(work, count(), backend="thread", max_workers=1, chunksize=1, buffersize=5)
    if leave == "close":
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    elif leave == "drop in the middle":
        next(stream)
    elif leave == "error":
        with pytest.raises(LookupError):
            next(stream)
    del stream
    gate.open()
    pmap(abs, [1], backend="thread", max_workers=1)  # its only worker has nothing of the stream left
    assert len(notes.lines()) <= 6


def test_dropped_streams_let_go_of_everything() -> None:
    class Item:
        pass

    items = [Item() for _ in range(20)]
    alive = [weakref.ref(item) for item in items]

    def work(item: Item) -> Item:
        return item

    function = weakref.ref(work)
    for taken in (0, 1, 20):
        stream = pimap(work, iter(items), backend="thread", max_workers=2)
        assert len(list(islice(stream, taken))) == taken
        del stream
    del items, work
    pmap(abs, range(10), backend="thread", max_workers=2, chunksize=1)
    gc.collect()
    assert function() is None
    assert not any(reference() for reference in alive)


def test_results_that_were_taken_are_not_kept() -> None:
    class Result:
        pass

    def make(item: int) -> Result:
        return Result()

    for result in pimap(make, range(100), backend="thread", max_workers=2):
        reference = weakref.ref(result)
        del result
        assert reference() is None


def test_endless_streams_side_by_side() -> None:
    streams = [pimap(partial(operator.add, n), count(), backend="thread", max_workers=2) for n in range(6)]
    for item in range(50):
        assert [next(stream) for stream in streams] == [item + n for n in range(6)]


# Warm workers


def test_the_second_call_meets_the_same_workers() -> None:
    first = set(pmap(lambda _: current_worker(), range(20), backend="thread", max_workers=1))
    executor = functional._executors["thread", 1].executor
    assert first == {0}
    assert pmap(abs, [-1], backend="thread", max_workers=1) == [1]
    assert functional._executors["thread", 1].executor is executor


def test_a_warm_executor_that_broke_is_replaced() -> None:
    pmap(abs, [1], backend="thread", max_workers=3)
    broken = functional._executors["thread", 3].executor
    broken.kill_workers()
    assert pmap(abs, [-1], backend="thread", max_workers=3) == [1]
    assert functional._executors["thread", 3].executor is not broken


def test_a_warm_executor_has_one_alarm_and_is_closed_when_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[tuple[float, Callable[[], object]]] = []
    now = 1000.0
    monkeypatch.setattr(functional, "call_at", lambda *alarm: alarms.append(alarm) or alarms)
    monkeypatch.setattr(functional, "monotonic", lambda: now)
    key = ("thread", 5)
    for _ in range(3):
        assert pmap(abs, [-1], backend="thread", max_workers=5) == [1]
    executor = functional._executors[key].executor
    (when, ring) = alarms.pop()
    assert when == 1000.0 + functional.IDLE_SECONDS
    assert not alarms, "one for all calls"

    now = when
    stream = pimap(abs, [-1, -2], backend="thread", max_workers=5)
    ring()
    assert functional._executors[key].executor is executor, "it is in use"
    assert list(stream) == [1, 2]
    (when, ring) = alarms.pop()
    assert when == now + functional.IDLE_SECONDS

    now += 1.0
    assert pmap(abs, [-1], backend="thread", max_workers=5) == [1]
    ring()
    assert functional._executors[key].executor is executor, "it was used since"
    (when, ring) = alarms.pop()
    assert when == now + functional.IDLE_SECONDS

    now = when
    ring()
    assert key not in functional._executors
    assert not executor.usable


def test_many_numbers_are_sent_before_it_is_known_what_they_take() -> None:
    """A worker gives back those that it has no time for, so no other call waits for all of them."""
    with Executor("process", 2) as executor:
        sizes = splitter(executor._driver.backend, Work(abs), None, sized=True, most=None, cheap=True)
    assert sizes.size(10**6, 2) == FIRST_NUMBERS
    assert sizes.size(100, 2) == 25, "but not more than an even share of half of them"


@pytest.mark.parametrize(
    ("items", "numbers"),
    [
        (range(10), True),
        ([1.5, 2], True),
        (["a"], False),
        ([], False),
        (iter([1, 2]), True),
        (iter(["a"]), False),
        (iter([]), False),
    ],
)
def test_what_counts_as_numbers(items: Any, numbers: bool) -> None:
    with Executor("process", 1) as executor:
        call = open_map(executor._driver, "process", str, (items,), whole=True)
        assert (call.scheduler._splitter.size(None, 1) == FIRST_NUMBERS) is numbers
        assert call.work.chunk_seconds == (GIVES_BACK * CHUNK_SECONDS if numbers else PATIENCE_SECONDS)


def test_a_chunk_of_a_given_size_is_not_given_back() -> None:
    with Executor("process", 1) as executor:
        call = open_map(executor._driver, "process", abs, (range(10),), chunksize=5, whole=True)
        assert call.work.chunk_seconds == math.inf


def test_of_an_iterator_whose_first_item_was_looked_at_nothing_is_kept() -> None:
    class Thing:
        pass

    things = [Thing(), Thing()]
    seen = weakref.ref(things[0])
    items, numbers = _begins_with_a_number(None, map(things.pop, [0, 0]))
    assert items is not None
    assert not numbers
    assert next(items) is seen()
    assert seen() is None
    assert len(list(items)) == 1


class Remaining:
    """An iterator that says how many items it has left, and never more than that it has none."""

    def __init__(self, items: Iterable[int]) -> None:
        self.items = iter(items)

    def __iter__(self) -> Remaining:
        return self

    def __next__(self) -> int:
        return next(self.items)

    def __len__(self) -> int:
        return 0


def test_an_iterator_that_is_false_is_read_all_the_same() -> None:
    assert pmap(abs, Remaining([-1, -2, -3]), max_workers=2) == [1, 2, 3]
    assert preduce(operator.add, Remaining([1, 2, 3]), max_workers=2) == 6


def test_an_iterator_whose_first_item_fails_is_read_to_that() -> None:
    def source() -> Iterator[int]:
        raise LookupError("the first")
        yield 1

    with pytest.raises(LookupError, match="the first"):
        pmap(abs, source(), max_workers=2)


def test_of_an_iterator_that_goes_on_a_map_begins_with_one_item() -> None:
    """However much was pulled ahead, each worker gets one, and what is pulled next is little."""
    with Executor("thread", 2) as executor:
        sizes = splitter(executor._driver.backend, Work(abs), None, sized=False, most=None)
    assert sizes.size(None, 2) == 1
    assert sizes.size(1000, 2) == FIRST_ITEMS, "it has ended"


def test_an_iterator_that_becomes_slow_does_not_hold_up_what_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    pulled: list[int] = []
    known_at_first: list[int] = []
    monkeypatch.setattr(_calls, "monotonic", lambda: now)

    def slow_after_a_hundred() -> Iterator[int]:
        nonlocal now
        for item in range(300):
            now += 1.0 if item >= 100 else 0.0
            pulled.append(item)
            yield item

    def look(item: int) -> int:
        known_at_first.append(len(pulled))
        return item

    assert pmap(look, slow_after_a_hundred(), backend="serial") == list(range(300))
    assert 100 <= known_at_first[0] <= 100 + 16


def test_chunked_pieces_are_mapped() -> None:
    assert pmap(sum, chunked(range(1000), 64), backend="thread") == [sum(p) for p in chunked(range(1000), 64)]
    assert preduce(operator.add, chunked(range(1000), 64), map=sum, backend="thread") == sum(range(1000))


# Inside a worker

NESTED = """
from operator import add
from parallelkit import Executor, pimap, pmap, pmap_reduce, preduce

def inside(n):
    return [
        pmap(abs, range(-n, 0){options}),
        list(pimap(abs, iter(range(-n, 0)){options})),
        preduce(add, range(n + 1){options}),
        pmap_reduce(lambda item: [(0, item)], add, range(n + 1){options}),
        pmap(lambda m: pmap(abs, [m]{options}), [-n]{options}),
    ]

expected = [inside(n) for n in range(12)]
assert pmap(inside, range(12), chunksize=1, backend={backend!r}, max_workers=2) == expected
"""


@pytest.mark.parametrize("name", BACKENDS)
def test_helpers_inside_a_worker(run_program: Callable[[str], str], name: str) -> None:
    run_program(NESTED.format(backend=name, options=""))


def test_nested_serial_calls_do_not_wait_for_each_other(run_program: Callable[[str], str]) -> None:
    program = """
import threading
from parallelkit import pmap
barrier = threading.Barrier(2)

def outer(item):
    return pmap(lambda _: barrier.wait(15) >= 0, [item])

assert pmap(outer, range(2), backend="thread", max_workers=2, chunksize=1) == [[True], [True]]
"""
    run_program(program)


OWN_WORKERS = """
from parallelkit import Executor
with Executor({name!r}, max_workers=1) as executor:
    def inside(item):
        return executor.submit(abs, item).result(), list(executor.map(abs, [item]))
    assert executor.submit(inside, -1).result() == (1, [1])
    assert list(executor.map(inside, [-2, -3])) == [(2, [2]), (3, [3])]
"""
