"""The crash grid again, for what travels beside items and results: functions, and the errors of items."""

from __future__ import annotations

from functools import partial
from itertools import product
from operator import add
from typing import Any

import pytest
from checks import FORK_WARNING, counted, failed, is_caused_by, on_each_method

from parallelkit import Executor, RemoteError, SerializationError, WorkerDied
from programs import crashes
from programs.crashes import ENDINGS, WAYS

pytestmark = [pytest.mark.timeout(30), pytest.mark.filterwarnings(FORK_WARNING)]

FUNCTIONS = [("function pickle", way) for way in WAYS if way not in ENDINGS]
FUNCTIONS += [("function unpickle", way) for way in WAYS]


@pytest.mark.parametrize("call", ["submit", "map", "stream", "reduce"])
@pytest.mark.parametrize(
    ("method", "place", "way"), on_each_method(FUNCTIONS, daily=lambda place, way: way == "raise")
)
def test_a_function_fails_its_call(executor: Executor, place: str, way: str, call: str) -> None:
    function = crashes.CrashingFunction(place, way)
    results: list[Any]
    if call == "submit":
        results = [future.exception() for future in [executor.submit(function, item) for item in range(4)]]
    elif call == "reduce":
        with pytest.raises(Exception) as caught:
            executor.reduce(add, range(4), map=function)
        results = [caught.value]
    else:
        items: Any = range(4) if call == "map" else iter(range(4))
        results = list(executor.map(function, items, return_exceptions=True))

    assert failed(results) == list(range(len(results)))
    for error in results:
        if way in ENDINGS:
            assert isinstance(error, WorkerDied)
            assert error.exitcode == ENDINGS[way]
        else:
            name = "ArithmeticError" if way == "raise" else "SystemExit"
            assert isinstance(error, SerializationError)
            assert "function" in str(error)
            assert name in str(error)
            assert is_caused_by(error, name)


ERRORS = list(product(["error pickle", "error unpickle"], WAYS))


@pytest.mark.parametrize(
    ("method", "place", "way"), on_each_method(ERRORS, daily=lambda place, way: way in ("raise", "os._exit"))
)
def test_an_error_fails_its_item(executor: Executor, runs: str, place: str, way: str) -> None:
    function = partial(crashes.raise_at, 12, place, way, runs)

    results = list(executor.map(function, range(30), chunksize=10, return_exceptions=True))

    assert failed(results) == [12]
    check_error_of_item(results[12], way)
    if isinstance(results[12], WorkerDied):
        assert list(results[12].indices) == [12]
    assert [result for result in results if result is not results[12]] == [
        2 * item for item in range(30) if item != 12
    ]
    assert counted(runs) == dict.fromkeys(range(30), 1)


@pytest.mark.parametrize(("method", "place", "way"), on_each_method(ERRORS))
def test_an_error_fails_its_future(executor: Executor, runs: str, place: str, way: str) -> None:
    before, bad, after = (
        executor.submit(crashes.raise_at, 12, place, way, runs, item) for item in (11, 12, 13)
    )
    check_error_of_item(bad.exception(), way)
    assert (before.result(), after.result()) == (22, 26)


def check_error_of_item(error: Any, way: str) -> None:
    """A stand-in where the exception cannot be rebuilt; where trying that ends the worker, the end of it."""
    if way in ENDINGS:
        assert isinstance(error, WorkerDied), repr(error)
        assert error.exitcode == ENDINGS[way]
    else:
        assert type(error) is RemoteError
        assert error.type_name == "programs.crashes.CrashingError"
        assert error.message == "spam and eggs"
        assert "in raise_at" in str(error.__cause__), "the frames of the worker"
