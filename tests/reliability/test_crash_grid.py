"""CPython's crash grid: what crashes, how, where, in which call, on workers of each start method.

One item of many is bad. It crashes when it is pickled for its worker, when it is unpickled there, when it is
run, or its result does when that is pickled there, or when that is unpickled here: it raises, exits, or ends
the process. That item fails; all others are delivered, none runs twice, and the same executor goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from operator import add
from typing import Any

import pytest
from checks import FORK_WARNING, causes, counted, is_caused_by, on_each_method

from parallelkit import Executor, RemoteError, SerializationError, WorkerDied
from programs import crashes, crashing_parent
from programs.crashes import ENDINGS, EXITCODE, PLACES, WAYS
from programs.watching import HERE, finish, start

pytestmark = [pytest.mark.timeout(30), pytest.mark.filterwarnings(FORK_WARNING)]

LENGTH = 60
BAD = 37  # chunks of a generator begin with one item, and have grown when it comes

IN_THE_PARENT = ["task pickle", "result unpickle"]

SURVIVED = [
    (place, way) for place in PLACES for way in WAYS if not (place in IN_THE_PARENT and way in ENDINGS)
]
"""Cells in which the process that crashes is a worker, or does not end."""

Call = Callable[[Executor, Callable[[Any], Any], list[Any]], dict[int, Any]]


def by_submit(executor: Executor, function: Callable[[Any], Any], items: list[Any]) -> dict[int, Any]:
    futures = [executor.submit(function, item) for item in items]
    return {place: future.exception() or future.result() for place, future in enumerate(futures)}


def by_map(executor: Executor, function: Callable[[Any], Any], items: Iterable[Any]) -> dict[int, Any]:
    return dict(enumerate(executor.map(function, items, return_exceptions=True)))


def by_stream(executor: Executor, function: Callable[[Any], Any], items: list[Any]) -> dict[int, Any]:
    return by_map(executor, function, (item for item in items))


def by_unordered_stream(
    executor: Executor, function: Callable[[Any], Any], items: list[Any]
) -> dict[int, Any]:
    """Values tell of which item they are; only one error may be left, of the item that is missing."""
    source = (item for item in items)
    results = list(executor.map(function, source, ordered=False, return_exceptions=True))
    found = {result // 2: result for result in results if isinstance(result, int)}
    missing = [place for place in range(len(items)) if place not in found]
    errors = [result for result in results if not isinstance(result, int)]
    assert len(errors) == len(missing)
    return found | dict(zip(missing, errors, strict=True))


CALLS: dict[str, Call] = {
    "submit": by_submit,
    "map": by_map,
    "stream": by_stream,
    "unordered stream": by_unordered_stream,
}


@pytest.mark.parametrize(
    ("method", "place", "way", "call"),
    on_each_method(
        [(*cell, call) for cell, call in product(SURVIVED, CALLS)],
        daily=lambda place, way, call: call == "map" and way in ("raise", "os._exit"),
    ),
)
def test_one_item_fails(executor: Executor, runs: str, place: str, way: str, call: str) -> None:
    function = partial(crashes.double, BAD, place, way, runs, None)
    items = crashes.items_with(BAD, place, way, None, LENGTH)

    results = CALLS[call](executor, function, items)

    failures = {index: result for index, result in results.items() if isinstance(result, Exception)}
    assert list(failures) == [BAD]
    check_error(failures[BAD], place, way)
    if isinstance(failures[BAD], WorkerDied):
        # The submits of an executor are counted on from one to the next.
        assert len(failures[BAD].indices) == 1
        assert call == "submit" or list(failures[BAD].indices) == [BAD]
    assert [results[index] for index in range(LENGTH) if index != BAD] == [
        2 * index for index in range(LENGTH) if index != BAD
    ]
    check_runs(runs, place)


@pytest.mark.parametrize(("method", "place", "way"), on_each_method(SURVIVED))
def test_a_reduce_raises(executor: Executor, runs: str, place: str, way: str) -> None:
    function = partial(crashes.double, BAD, place, way, runs, None)
    items = crashes.items_with(BAD, place, way, None, LENGTH)

    with pytest.raises(Exception) as caught:
        executor.reduce(add, items, map=function)

    check_error(caught.value, place, way)
    if isinstance(caught.value, WorkerDied):
        assert BAD in caught.value.indices
    assert set(counted(runs).values()) <= {1}, "an item ran twice"


MENDED = [(place, way) for place, way in SURVIVED if place == "run" or way in ENDINGS]
"""Where an item that crashed may be tried again. What cannot travel would not travel the next time either."""


@pytest.mark.parametrize(("method", "place", "way"), on_each_method(MENDED))
def test_a_reduce_with_retries_mends_it(
    executor: Executor, runs: str, marker: str, place: str, way: str
) -> None:
    function = partial(crashes.double, BAD, place, way, runs, marker)
    items = crashes.items_with(BAD, place, way, marker, LENGTH)

    value = executor.reduce(add, items, map=function, retries=1)

    assert value == sum(2 * index for index in range(LENGTH))
    ran = counted(runs)
    assert set(ran) == set(range(LENGTH))
    assert max(ran.values()) <= 2
    assert ran[BAD] == (1 if place == "task unpickle" else 2)


def check_error(error: Exception, place: str, way: str) -> None:
    """It is of the class that is promised, and says what happened."""
    if way in ENDINGS:
        assert isinstance(error, WorkerDied), repr(error)
        assert error.exitcode == ENDINGS[way]
        assert ("exit code 7" if way == "os._exit" else "SIGSEGV") in str(error)
    elif place != "run":
        name = "ArithmeticError" if way == "raise" else "SystemExit"
        assert isinstance(error, SerializationError), repr(error)
        assert is_caused_by(error, name)
        assert name in str(error)
    elif way == "raise":
        assert type(error) is ArithmeticError
    else:
        assert type(error) is RemoteError
        assert error.type_name == "SystemExit"
        (original,) = [cause for cause in causes(error) if type(cause) is SystemExit]
        assert original.code == EXITCODE


def check_runs(runs: str, place: str) -> None:
    """Each item ran once; the one that did not arrive, not at all."""
    expected = dict.fromkeys(range(LENGTH), 1)
    if place.startswith("task"):
        del expected[BAD]
    assert counted(runs) == expected


# ---------------------------------------------------------------- the parent itself


_ended: dict[str, dict[tuple[str, ...], tuple[int, int]]] = {}


@pytest.fixture
def parents(method: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """How parents end that crash, as (exit code, processes left) of each cell; in a program of their own."""
    if method not in _ended:
        program = start([HERE / "crashing_parent.py", method])
        out, err = finish(program, patience=100)
        assert program.returncode == 0, err
        found = [line.split(",") for line in out.splitlines() if line.count(",") == 4]
        _ended[method] = {tuple(cell): (int(code), int(left)) for code, left, *cell in found}
    return _ended[method]


@pytest.mark.timeout(120)  # the first of them waits for the program that tries them all
@pytest.mark.parametrize(("method", "place", "way", "call"), on_each_method(crashing_parent.CELLS))
def test_a_parent_that_crashes_ends_and_leaves_nothing(
    parents: dict[tuple[str, ...], tuple[int, int]], place: str, way: str, call: str
) -> None:
    code, left = parents[place, way, call]
    assert code == ENDINGS[way]
    assert left == 0
