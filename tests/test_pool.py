"""Our pools and those of multiprocessing, side by side: the same calls, compared."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parallelkit

pytestmark = pytest.mark.timeout(60)


class Pair(NamedTuple):
    theirs: Any
    ours: Any


@pytest.fixture(scope="module", params=["threads", "processes"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """One worker of theirs, so that which error comes first does not change from run to run; two of ours."""
    if request.param == "threads":
        theirs, ours = multiprocessing.pool.ThreadPool(1), parallelkit.ThreadPool(2)
    else:
        context = multiprocessing.get_context("forkserver")
        theirs, ours = context.Pool(1), parallelkit.Pool(2, context=context)
    with theirs, ours:
        yield Pair(theirs, ours)


# What workers do.


def double(item: int) -> int:
    return 2 * item


def odd_ones_fail(item: int) -> int:
    if item % 2:
        raise ValueError(item)
    return item


def most_fail(item: int) -> int:
    if item % 5:
        raise KeyError(item)
    return item


def join(*arguments: object, **named: object) -> tuple[object, ...]:
    return arguments, tuple(sorted(named.items()))


FUNCTIONS: list[Callable[[int], int]] = [double, odd_ones_fail, most_fail, abs]


# Inputs that are not lists.


class Lying:
    """Says that it has more or fewer items than it has, or fails on the way."""

    def __init__(self, length: int, items: int, fails: bool = False):
        self.length, self.items, self.fails = length, items, fails

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        yield from range(self.items)
        if self.fails:
            raise OSError("no more")


def failing(items: list[int]) -> Iterator[int]:
    yield from items
    raise OSError("no more")


SHAPES: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "deque": deque,
    "dictionary": dict.fromkeys,
    "raises at its end": failing,
    "not iterable": len,
}


# What came of a call, to be compared.


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return "returned", call()
    except Exception as error:
        return "raised", type(error), error.args


def outcomes(iterator: Iterator[Any]) -> list[Any]:
    """All that an iterator gives, also behind what it raises."""
    found = []
    while (one := outcome(lambda: next(iterator)))[:2] != ("raised", StopIteration):
        found.append(one)
    return found


def calls(items: st.SearchStrategy[list[int]]) -> st.SearchStrategy[Callable[[Any], Any]]:
    functions, shapes = st.sampled_from(FUNCTIONS), st.sampled_from([*SHAPES])
    sizes = st.one_of(st.none(), st.integers(1, 12))
    return st.one_of(
        st.builds(Apply, functions, st.integers()),
        st.builds(Map, functions, shapes, items, sizes),
        st.builds(Starmap, items, sizes),
        st.builds(Imap, functions, shapes, items, sizes),
        st.builds(Unordered, functions, shapes, items, sizes),
    )


class Apply(NamedTuple):
    function: Callable[[int], int]
    item: int

    def __call__(self, pool: Any) -> Any:
        called: list[Any] = []
        result = pool.apply_async(self.function, (self.item,), {}, called.append, called.append)
        value = outcome(result.get)
        return value, outcome(lambda: pool.apply(self.function, (self.item,))), list(map(repr, called))


class Map(NamedTuple):
    function: Callable[[int], int]
    shape: str
    items: list[int]
    chunksize: int | None

    def __call__(self, pool: Any) -> Any:
        called: list[Any] = []

        def begin() -> Any:
            return pool.map_async(
                self.function, SHAPES[self.shape](self.items), self.chunksize, called.append, called.append
            )

        begun = outcome(begin)
        if begun[0] == "raised":
            return begun
        return outcome(begun[1].get), begun[1].successful(), list(map(repr, called))


class Starmap(NamedTuple):
    items: list[int]
    chunksize: int | None

    def __call__(self, pool: Any) -> Any:
        arguments = [(item, str(item)) for item in self.items]
        result = pool.starmap_async(join, iter(arguments), self.chunksize)
        return outcome(result.get), outcome(lambda: pool.starmap(join, arguments, self.chunksize))


class Imap(NamedTuple):
    function: Callable[[int], int]
    shape: str
    items: list[int]
    chunksize: int | None

    def __call__(self, pool: Any) -> Any:
        # Theirs loses what is behind an error in a chunk, so it is asked for single items. But when the input
        # raises, an incomplete chunk is lost.
        lossless = self.shape != "raises at its end"
        size = {} if self.chunksize is None else {"chunksize": self.chunksize}
        if isinstance(pool, parallelkit.Pool) and lossless:
            return outcomes(iter(pool.imap(self.function, SHAPES[self.shape](self.items), **size)))
        if lossless:
            return outcomes(iter(pool.imap(self.function, SHAPES[self.shape](self.items))))
        return outcomes(iter(pool.imap(double, SHAPES[self.shape](self.items), **size)))


class Unordered(Imap):
    def __call__(self, pool: Any) -> Any:
        size = {"chunksize": self.chunksize} if isinstance(pool, parallelkit.Pool) and self.chunksize else {}
        if self.shape == "raises at its end":
            size = {}
        found = outcomes(iter(pool.imap_unordered(self.function, SHAPES[self.shape](self.items), **size)))
        return Counter(map(repr, found))


@given(st.lists(calls(st.lists(st.integers(0, 99), max_size=30)), max_size=5))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_calls_end_in_the_same_way(pair: Pair, calls: list[Callable[[Any], Any]]) -> None:
    for call in calls:
        if getattr(call, "shape", "") == "not iterable":
            call = call._replace(items=list(range(4)))  # type: ignore[attr-defined]
        assert call(pair.ours) == call(pair.theirs), call


@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_chunksize_that_is_none(pair: Pair, chunksize: int) -> None:
    for name in ("imap", "imap_unordered"):
        ours, theirs = (outcome(partial(getattr(pool, name), double, [1], chunksize)) for pool in pair)
        assert ours == theirs
    with pytest.raises(ValueError, match="chunksize"):  # theirs returns [None]
        pair.ours.map(double, [1], chunksize)


@pytest.mark.parametrize("call", ["apply_async", "map_async"])
def test_what_cannot_be_called_says_so_when_the_result_is_asked_for(pair: Pair, call: str) -> None:
    ours, theirs = (outcome(getattr(pool, call)(5, [1]).get) for pool in pair)
    assert ours == theirs
    assert ours[1] is TypeError


def test_arguments_that_are_none(pair: Pair) -> None:
    ours, theirs = (outcome(pool.apply_async(double, 5).get) for pool in pair)
    assert ours == theirs
    assert ours[1] is TypeError


def test_keywords(pair: Pair) -> None:
    for pool in pair:
        assert pool.apply(join, [1, "a"], {"b": 2}) == ((1, "a"), (("b", 2),))
        assert pool.apply_async(join, kwds={"b": 2}).get() == ((), (("b", 2),))


def test_a_length_that_lies(pair: Pair) -> None:
    """Theirs waits for ever for items that do not come, and loses some that do."""
    for length, items in [(5, 3), (3, 5), (0, 2)]:
        assert pair.ours.map(double, Lying(length, items)) == [2 * item for item in range(items)]
    with pytest.raises(OSError, match="no more"):
        pair.ours.map(double, Lying(9, 3, fails=True))
    found = outcomes(pair.ours.imap(double, Lying(9, 3, fails=True)))
    assert found == [("returned", 0), ("returned", 2), ("returned", 4), ("raised", OSError, ("no more",))]


def test_the_first_error_of_a_map_is_that_of_the_first_item(pair: Pair) -> None:
    def late(item: int) -> None:
        if item == 0:
            time.sleep(0.1)
        raise ValueError(item)

    with pytest.raises(ValueError) as raised:
        pair.ours.map(late, range(2), 1)
    assert raised.value.args == (0,)


def test_an_empty_input_calls_nobody_back(pair: Pair) -> None:
    called: list[object] = []
    for pool in pair:
        result = pool.map_async(double, [], callback=called.append, error_callback=called.append)
        assert result.get(10) == []
        assert result.ready()
        assert result.successful()
    assert not called


def test_a_result_that_is_not_ready(pair: Pair) -> None:
    for pool in pair:
        result = pool.apply_async(time.sleep, (0.3,))
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(0.001)
        iterator = pool.imap(time.sleep, [0.2])
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(0.001)
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(timeout=0)
        assert result.wait() is None
        assert result.ready()
        assert result.successful()
        assert iterator.next(10) is None
        with pytest.raises(StopIteration):
            iterator.next(10)
        with pytest.raises(StopIteration):
            next(iterator)


def test_a_pool_that_is_closed() -> None:
    for pool in (multiprocessing.pool.ThreadPool(1), parallelkit.ThreadPool(1)):
        with pytest.raises(ValueError, match="Pool is still running"):
            pool.join()
        late = pool.apply_async(time.sleep, (0.05,))
        pool.close()
        pool.close()
        for call in (
            lambda p: p.apply(double, (1,)),
            lambda p: p.map(double, [1]),
            lambda p: p.imap(double, [1]),
            lambda p: p.imap_unordered(double, [1], 2),
            lambda p: p.starmap_async(join, []),
            lambda p: p.__enter__(),
        ):
            with pytest.raises(ValueError, match="Pool not running"):
                call(pool)
        pool.join()
        assert late.get(0) is None
        pool.join()
        pool.terminate()
        pool.join()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": -1}, ValueError),
        ({"processes": 1.5}, TypeError),
        ({"processes": 1, "maxtasksperchild": 0}, ValueError),
        ({"processes": 1, "maxtasksperchild": 0.5}, ValueError),
        ({"processes": 1, "initializer": 1}, TypeError),
    ],
)
def test_arguments_that_make_no_pool(options: dict[str, Any], error: type[Exception]) -> None:
    for kind in (multiprocessing.Pool, parallelkit.Pool):
        with pytest.raises(error):
            kind(**options)
