"""What is wrong is said at once, in words that say what to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import count
from operator import add
from pathlib import Path
from typing import Any

import pytest

from parallelkit import Executor, _alarm, chunked, pimap, pmap, pmap_reduce, preduce
from parallelkit.testing import FakeBackend, Gate

BACKENDS = ["serial", "thread", "process", "asyncio"]


def map_calls(executor: Executor) -> dict[str, Callable[..., Any]]:
    """Every call that maps, each as function(f, items, **options)."""
    return {
        "map": executor.map,
        "starmap": executor.starmap,
        "reduce": lambda f, items, **options: executor.reduce(add, items, map=f, **options),
        "map_reduce": lambda f, items, **options: executor.map_reduce(f, add, items, **options),
        "pmap": partial(pmap, backend="thread"),
        "pimap": partial(pimap, backend="thread"),
        "preduce": lambda f, items, **options: preduce(add, items, map=f, backend="thread", **options),
        "pmap_reduce": lambda f, items, **options: pmap_reduce(f, add, items, backend="thread", **options),
    }


MAP_CALLS = ["map", "starmap", "reduce", "map_reduce", "pmap", "pimap", "preduce", "pmap_reduce"]


@pytest.fixture(params=MAP_CALLS)
def call(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    with Executor("thread", max_workers=1) as executor:
        yield map_calls(executor)[request.param]


# Which backend, how many workers


@pytest.mark.parametrize("make", [Executor, partial(pmap, abs, [1]), partial(preduce, add, [1])])
def test_a_wrong_backend_name_lists_the_names(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"'proces'.*'serial', 'thread', 'process', 'asyncio'"):
        make(backend="proces")


@pytest.mark.parametrize("backend", [3, None, Executor, FakeBackend, ["thread"]])
def test_a_backend_that_is_no_name(backend: Any) -> None:
    with pytest.raises(TypeError, match="backend must be a name such as 'process' or 'thread', not "):
        Executor(backend)


def test_processes_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from parallelkit import backends

    monkeypatch.setattr(backends, "os", type("Windows", (), {"name": "nt"}))
    with pytest.raises(RuntimeError, match="does not run on Windows yet; choose 'thread'"):
        Executor("process")
    Executor("thread").shutdown()


def test_a_backend_that_is_no_name_in_a_helper() -> None:
    with pytest.raises(TypeError, match="backend must be a name such as 'process' or 'thread', not "):
        pmap(abs, [1], backend=["thread"])  # type: ignore[call-overload]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("number", [0, -1])
def test_too_few_workers(name: str, number: int) -> None:
    with pytest.raises(ValueError, match=f"max_workers must be at least 1, not {number}"):
        Executor(name, max_workers=number)
    with pytest.raises(ValueError, match=f"max_workers must be at least 1, not {number}"):
        pmap(abs, [1], backend=name, max_workers=number)


@pytest.mark.parametrize("number", ["4", 2.0, [1], 1j])
def test_a_number_of_workers_that_is_none(number: Any) -> None:
    with pytest.raises(TypeError, match="max_workers must be a whole number or None, not "):
        Executor("thread", max_workers=number)


def test_an_unknown_start_method_lists_the_methods() -> None:
    with pytest.raises(ValueError, match=r"'forks'.*'spawn'"):
        Executor("process", mp_context="forks")
    with pytest.raises(TypeError, match="mp_context must be a multiprocessing context or the name of one"):
        Executor("process", mp_context=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["serial", "thread", "asyncio"])
@pytest.mark.parametrize("option", [{"mp_context": "spawn"}, {"max_tasks_per_child": 3}])
def test_an_option_of_another_backend(name: str, option: dict[str, Any]) -> None:
    (spelling,) = option
    with pytest.raises(TypeError, match=f"the '{name}' backend takes no {spelling}; leave it out"):
        Executor(name, **option)


@pytest.mark.parametrize("option", ["initializer", "finalizer"])
def test_an_initializer_that_is_no_function(option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a function, not 'set up'"):
        Executor("thread", **{option: "set up"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "option", [{"max_workers": 3}, {"initializer": print}, {"finalizer": print}, {"max_tasks_per_child": 3}]
)
def test_a_backend_that_is_made_already_takes_no_options(option: dict[str, Any]) -> None:
    (spelling,) = option
    with pytest.raises(TypeError, match=spelling):
        Executor(FakeBackend(), **option)


# What is called, and with what


@pytest.mark.parametrize("function", [3, "abs", [abs]])
def test_what_cannot_be_called(call: Callable[..., Any], function: Any) -> None:
    with pytest.raises(TypeError, match="a function is needed, not "):
        call(function, [1])


@pytest.mark.parametrize("name", ["map", "starmap", "map_reduce", "pmap", "pimap", "pmap_reduce"])
def test_none_is_no_function(name: str) -> None:
    with Executor("thread", max_workers=1) as executor:
        with pytest.raises(TypeError, match="a function is needed, not None"):
            map_calls(executor)[name](None, [1])


def test_submit_what_cannot_be_called() -> None:
    with (
        Executor("thread", max_workers=1) as executor,
        pytest.raises(TypeError, match="a function is needed"),
    ):
        executor.submit(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", [Executor("serial").reduce, preduce])
def test_reduce_with_what_cannot_be_called(reduction: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="a function is needed, not '\\+'"):
        reduction("+", [1])


@pytest.mark.parametrize("items", [3, None, abs, 1.5])
def test_what_cannot_be_iterated_over(call: Callable[..., Any], items: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot iterate over .*; pass a list, a range, a generator"):
        call(abs, items)


class _LyingIterable:
    def __iter__(self) -> Any:
        return 3


def test_an_iterable_that_does_not_give_an_iterator() -> None:
    with pytest.raises(TypeError, match="iter"):
        pmap(abs, _LyingIterable(), backend="thread")


def test_nothing_to_map_over() -> None:
    with Executor("thread", max_workers=1) as executor:
        for call in (executor.map, partial(pmap, backend="thread"), partial(pimap, backend="thread")):
            with pytest.raises(TypeError, match="pass at least one iterable"):
                call(abs)


@pytest.mark.parametrize("option", ["chunksize", "buffersize"])
def test_a_size_below_one(call: Callable[..., Any], option: str) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"{option} must be at least 1, not {size}"):
            call(abs, [1], **{option: size})
    for text in ("3", 1.5):
        with pytest.raises(TypeError, match=f"{option} must be a whole number or None, not {text!r}"):
            call(abs, [1], **{option: text})


def test_retries_below_zero(call: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="retries must be at least 0, not -1"):
        call(abs, [1], retries=-1)
    with pytest.raises(TypeError, match="retries must be a whole number"):
        call(abs, [1], retries="1")


def test_no_retries_may_be_spelled_none() -> None:
    """Or it may be refused; but an item that fails must not be waited for in vain."""

    def refuse(item: int) -> None:
        raise LookupError(item)

    with pytest.raises((TypeError, LookupError)):
        pmap(refuse, [1], backend="serial", retries=None)  # type: ignore[call-overload]


@pytest.mark.parametrize("retry_on", [int, (ValueError, 3), "ValueError"])
def test_retry_on_what_is_no_exception(call: Callable[..., Any], retry_on: Any) -> None:
    with pytest.raises(TypeError, match=r"retry_on must be exception classes or a function|a function is"):
        call(abs, [1], retries=1, retry_on=retry_on)


@pytest.mark.parametrize("option", ["timeout", "task_timeout"])
def test_a_time_that_is_none(call: Callable[..., Any], option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must not be negative, not -1"):
        call(abs, [1], **{option: -1})
    for time in ("3", float("nan"), True):
        with pytest.raises(TypeError, match=f"{option} must be a number of seconds or None, not "):
            call(abs, [1], **{option: time})


@pytest.mark.parametrize("seconds", [float("inf"), 1e12, 10**30])
def test_a_very_long_time(seconds: float) -> None:
    assert pmap(abs, [-1], backend="thread", timeout=seconds) == [1]


def test_a_very_long_time_for_an_item_does_not_stop_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_alarm, "_clock", _alarm._Clock())
    gate = Gate(tmp_path)
    with Executor("thread", max_workers=2) as executor:
        assert list(executor.map(abs, [-1], task_timeout=float("inf"))) == [1]
        results = executor.map(gate.pass_through, [1], task_timeout=0.01)
        with pytest.raises(TimeoutError, match=r"task_timeout=0\.01"):
            next(results)
        gate.open()


def test_an_option_that_is_not_known(call: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="chunk_size"):
        call(abs, [1], chunk_size=3)


def test_chunked() -> None:
    with pytest.raises(ValueError, match="size must be at least 1 item, not 0"):
        chunked([1], 0)
    with pytest.raises(TypeError, match="size must be a whole number of items, not '3'"):
        chunked([1], "3")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="int"):
        chunked(3, 3)  # type: ignore[call-overload]


# Nothing, and too little


def test_an_empty_input(executor: Executor) -> None:
    for nothing in ([], (), range(0), "", iter([])):
        assert list(executor.map(abs, nothing)) == []
        assert list(executor.map(pow, nothing, [1, 2])) == []
        assert list(executor.starmap(pow, nothing)) == []
        assert executor.map_reduce(abs, add, nothing) == {}


def test_a_reduce_of_nothing_says_what_functools_says(executor: Executor) -> None:
    with pytest.raises(TypeError) as expected:
        reduce(add, [])
    for nothing in ([], range(0), iter([])):
        with pytest.raises(TypeError, match="no initial value; pass initial=") as caught:
            executor.reduce(add, nothing)
        assert str(caught.value).startswith(str(expected.value))
        assert executor.reduce(add, nothing, initial="") == ""
        assert executor.reduce(add, nothing, initial=None) is None


def test_a_generator_that_raises_midway(executor: Executor) -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    for options in ({}, {"chunksize": 2}, {"buffersize": 2}, {"ordered": False}):
        results = executor.map(abs, source(), **options)  # type: ignore[arg-type]
        assert sorted(next(results) for _ in range(5)) == list(range(5))
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)
    with pytest.raises(OSError, match="the disk is gone"):
        executor.reduce(add, source())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration])
def test_a_source_may_raise_what_it_likes(error: type[BaseException]) -> None:
    class Source:
        def __init__(self) -> None:
            self.left = 3

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise error
            return self.left

    with Executor("thread", max_workers=1) as executor:
        results = executor.map(abs, Source())
        assert [next(results) for _ in range(3)] == [2, 1, 0]
        with pytest.raises(error):
            next(results)
        assert executor.submit(abs, -1).result() == 1


# Too late


@pytest.mark.parametrize("name", BACKENDS)
def test_after_shutdown(name: str) -> None:
    executor = Executor(name, max_workers=1)
    assert executor.submit(abs, -1).result() == 1
    executor.shutdown()
    calls = [
        partial(executor.submit, abs, 1),
        partial(executor.map, abs, [1]),
        partial(executor.reduce, add, [1]),
    ]
    for call in calls:
        with pytest.raises(
            RuntimeError, match="cannot schedule new futures after shutdown; make a new Executor"
        ):
            call()
    assert "shut down" in repr(executor)


def test_an_input_that_shuts_down_its_executor_and_fails() -> None:
    """Its items were not all run, so its own error would say too much."""
    executor = Executor("thread", max_workers=1)

    def source() -> Iterator[int]:
        yield from (1, 2)
        executor.shutdown()
        raise LookupError

    with pytest.raises(RuntimeError, match="read to its end"):
        list(executor.map(abs, source()))


def test_an_input_that_shuts_down_its_executor(tmp_path: Path) -> None:
    """The thread that pulls the input is not the one that shuts down, and both come to an end."""
    executor = Executor("thread", max_workers=2)
    asked, closing = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield from range(20)
        asked.set()
        closing.wait(20)
        yield from count()

    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in executor.map(abs, source(), chunksize=2):
                pass
        except BaseException as error:
            errors.append(error)

    close = executor._driver.close

    def close_and_tell(**options: Any) -> None:
        close(**options)
        closing.set()

    executor._driver.close = close_and_tell  # type: ignore[method-assign]
    reader = threading.Thread(target=read)
    reader.start()
    assert asked.wait(20)
    executor.shutdown()
    reader.join(20)
    assert not reader.is_alive()
    assert [type(error) for error in errors] == [RuntimeError]
    assert "the executor was shut down before the input was read to its end" in str(errors[0])


# Out of place


def test_helpers_in_many_threads_at_once() -> None:
    wrong: list[Any] = []

    def call(number: int) -> None:
        for name in ("thread", "serial", "asyncio"):
            results = pmap(partial(add, number), range(100), backend=name, max_workers=2)
            if results != [number + item for item in range(100)]:
                wrong.append((number, name, results))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


FORK = """
import os
from parallelkit import Executor, pmap

executor = Executor({name!r}, max_workers=2)
assert pmap(abs, [-1, 2], backend={name!r}, max_workers=2) == [1, 2]
results = executor.map(abs, range(1000))
assert next(results) == 0

def expect_refusal(call, *args):
    try:
        call(*args)
    except RuntimeError as error:
        assert "belongs to the parent process" in str(error) and "make a new Executor" in str(error)
    else:
        raise AssertionError("not refused")

child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert list(results) == list(range(1, 1000))
    assert executor.submit(abs, -3).result() == 3
    executor.shutdown()
else:
    expect_refusal(executor.submit, abs, -3)
    expect_refusal(executor.map, abs, [-3])
    expect_refusal(list, results)
    executor.shutdown()
    del executor
    assert pmap(abs, [-1, 2], backend={name!r}, max_workers=2) == [1, 2]
    with Executor({name!r}, max_workers=1) as executor:
        assert executor.submit(abs, -3).result() == 3
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("name", BACKENDS)
def test_in_a_forked_child(run_program: Callable[[str], str], name: str) -> None:
    run_program(FORK.format(name=name))
