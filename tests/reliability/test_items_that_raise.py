"""What an item raises is that item's error, whatever it is, and comes back whole; the worker lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from operator import add
from typing import Any

import pytest
from checks import EVERYWHERE, FORK_WARNING, causes, failed

from parallelkit import Executor, RemoteError, RemoteTraceback
from programs import raising
from programs.raising import BAD, Ending, Rich
from programs.watching import METHODS

pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.filterwarnings(FORK_WARNING),
    pytest.mark.parametrize("method", EVERYWHERE),
]

LENGTH = 20


@pytest.fixture(autouse=True)
def _the_same_workers(executor: Executor) -> Iterator[None]:
    """The workers at the end are those of the beginning."""
    list(executor.map(abs, range(100), chunksize=1))  # so that all have started
    before = names(executor)
    yield
    assert names(executor) >= before


def names(executor: Executor) -> set[Any]:
    """One for each worker that there is."""
    return {getattr(handle, "pid", handle) for handle in executor._backend.handles()}


# ---------------------------------------------------------------- what would end a program


def in_map(executor: Executor, function: Callable[[int], int]) -> Any:
    results = list(executor.map(function, range(LENGTH), return_exceptions=True))
    assert failed(results) == [BAD]
    assert [result for result in results if isinstance(result, int)] == others()
    return results[BAD]


def in_stream(executor: Executor, function: Callable[[int], int]) -> Any:
    items = iter(range(LENGTH))
    results = list(executor.map(function, items, ordered=False, return_exceptions=True))
    (error,) = [result for result in results if not isinstance(result, int)]
    results.remove(error)
    assert sorted(results) == others()
    return error


def in_loop(executor: Executor, function: Callable[[int], int]) -> Any:
    found = []
    with pytest.raises(Exception) as caught:
        for result in executor.map(function, range(LENGTH)):
            found.append(result)
    assert found == list(range(BAD))
    return caught.value


def in_submit(executor: Executor, function: Callable[[int], int]) -> Any:
    futures = [executor.submit(function, item) for item in range(LENGTH)]
    errors = [future.exception() for future in futures]
    assert failed(errors) == [BAD]
    assert [future.result() for future in futures if future is not futures[BAD]] == others()
    return errors[BAD]


def in_reduce(executor: Executor, function: Callable[[int], int]) -> Any:
    with pytest.raises(Exception) as caught:
        executor.reduce(add, range(LENGTH), map=function)
    return caught.value


def others() -> list[int]:
    return [item for item in range(LENGTH) if item != BAD]


CALLS = [in_map, in_stream, in_loop, in_submit, in_reduce]
ORIGINALS = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "Ending": Ending,
    "BaseExceptionGroup": BaseExceptionGroup,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["function", "coroutine"])
@pytest.mark.parametrize("name", raising.ENDINGS)
def test_what_would_end_a_program_ends_an_item(
    executor: Executor, method: str, name: str, kind: str, call: Callable[..., Any]
) -> None:
    function = raising.end if kind == "function" else raising.end_async

    error = call(executor, partial(function, name))

    assert type(error) is RemoteError
    assert error.type_name.endswith(name)
    original = error.__cause__
    assert type(original) is ORIGINALS[name]
    assert str(original) == str(raising.ENDINGS[name]())
    if name == "SystemExit":
        assert original.code == 7
    assert [type(cause) for cause in causes(original.__cause__)] == end_of_chain(method)
    if call is not in_submit:
        assert any(f"item {BAD}" in note for note in error.__notes__)


def end_of_chain(method: str) -> list[type[Exception]]:
    """Behind the last cause: where it came from, if that is another process."""
    return [RemoteTraceback] if method in METHODS else []


# ---------------------------------------------------------------- what comes back whole


def error_of(executor: Executor, name: str) -> Any:
    """As the item's error in a map; and in a submit, where it must be the same."""
    error = in_map(executor, partial(raising.call_raiser, name))
    again = executor.submit(raising.call_raiser, name, BAD).exception()
    assert type(error) is type(again)
    return error


@pytest.mark.parametrize("kind", [RecursionError, MemoryError])
def test_what_a_program_seldom_survives(executor: Executor, method: str, kind: type[Exception]) -> None:
    name = "recursion_error" if kind is RecursionError else "memory_error"
    for call in CALLS:
        error = call(executor, partial(raising.call_raiser, name))
        assert type(error) is kind
        assert [type(cause) for cause in causes(error.__cause__)] == end_of_chain(method)


def check_rich(error: Any, message: str, code: int) -> None:
    assert type(error) is Rich
    assert (error.args, error.code, error.extra) == ((message,), code, {"tried": [1, 2, 3]})
    assert f"noted of {message}" in error.__notes__


def test_a_group(executor: Executor, method: str) -> None:
    group = error_of(executor, "group")
    assert type(group) is ExceptionGroup
    one, two, inner = group.exceptions
    assert (type(one), one.args) == (ValueError, ("one",))
    check_rich(two, "two", 2)
    assert (type(inner), inner.message, inner.__notes__) == (ExceptionGroup, "inner", ["noted inside"])
    assert [(type(error), error.args) for error in inner.exceptions] == [(KeyError, ("three",))]
    assert [type(cause) for cause in causes(group.__cause__)] == end_of_chain(method)


def test_the_causes_in_a_group(executor: Executor) -> None:
    one, two = error_of(executor, "group_with_causes").exceptions
    check_rich(one, "one", 1)
    check_rich(two, "two", 2)
    assert (type(one.__cause__), one.__cause__.args) == (LookupError, ("the cause of one",))
    assert two.__cause__ is None


def test_an_error_with_a_cause(executor: Executor, method: str) -> None:
    error = error_of(executor, "from_cause")
    check_rich(error, "outer", 42)
    check_rich(error.__cause__, "inner", 43)
    assert (type(error.__context__), error.__context__.args) == (KeyError, ("spam",))
    assert error.__suppress_context__
    assert [type(cause) for cause in causes(error.__cause__.__cause__)] == end_of_chain(method)


def test_an_error_with_causes_of_causes(executor: Executor, method: str) -> None:
    error = error_of(executor, "from_causes")
    *found, end = [*causes(error), None] if method not in METHODS else causes(error)
    for cause, message, code in zip(found, ("third", "second", "first"), (3, 2, 1), strict=True):
        check_rich(cause, message, code)
    assert end is None or "in raise_from_causes" in str(end)
    assert error.__context__ is error.__cause__


def test_an_error_in_the_context_of_another(executor: Executor, method: str) -> None:
    error = error_of(executor, "in_context")
    check_rich(error, "outer", 42)
    assert (type(error.__context__), error.__context__.args) == (KeyError, ("spam",))
    assert [type(cause) for cause in causes(error.__cause__)] == end_of_chain(method)


def test_an_error_that_hides_its_context(executor: Executor, method: str) -> None:
    error = error_of(executor, "from_none")
    check_rich(error, "outer", 42)
    assert error.__suppress_context__
    assert [type(cause) for cause in causes(error.__cause__)] == end_of_chain(method)


def test_causes_that_go_in_a_circle(executor: Executor) -> None:
    check_rich(error_of(executor, "in_a_circle"), "one", 1)


def test_more_causes_than_pickle_can_follow(executor: Executor) -> None:
    error = error_of(executor, "for_many_causes")
    assert isinstance(error, Rich | RemoteError)
    assert "cause 2999" in str(error)


def test_a_long_message(executor: Executor) -> None:
    check_rich(error_of(executor, "long_message"), "spam" * (1 << 20), 42)


def test_threads_hand_over_the_object_itself(executor: Executor, method: str) -> None:
    rich = raising.rich("spam", 1)

    def fail(item: int) -> None:
        raise rich

    error = executor.submit(fail, 1).exception()
    check_rich(error, "spam", 1)
    assert (error is rich) == (method not in METHODS)
