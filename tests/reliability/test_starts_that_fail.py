"""Workers that cannot start: the call ends with the reason, soon, and nobody starts workers without end."""

from __future__ import annotations

import os
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib import import_module, invalidate_caches
from operator import add
from pathlib import Path
from typing import Any

import pytest
from checks import (
    FORK_WARNING,
    causes,
    check_usable,
    counted,
    failed,
    is_caused_by,
    lines,
    on_each_method,
    quickest_daily,
    start_services,
)

from parallelkit import Executor, InitializerFailed, RemoteTraceback, SerializationError
from programs import crashes, faults, starts
from programs.watching import METHODS, descendants, wait_until_gone

pytestmark = [pytest.mark.timeout(30), pytest.mark.filterwarnings(FORK_WARNING)]

CALLS = {
    "submit": lambda executor: executor.submit(abs, -1).result(),
    "map": lambda executor: list(executor.map(abs, range(10))),
    "stream": lambda executor: list(executor.map(abs, iter(range(10)))),
    "reduce": lambda executor: executor.reduce(add, range(10)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("method", "way"),
    on_each_method([(way,) for way in starts.WAYS], daily=lambda way: way in ("LookupError", "os._exit")),
)
def test_each_call_says_why(method: str, runs: str, way: str, call: str) -> None:
    start_services(method)
    before = descendants()
    with Executor("process", 2, method, starts.fail, (way, runs)) as executor:
        for _ in range(2):  # the second meets an executor that cannot work any more
            with pytest.raises(InitializerFailed) as caught:
                CALLS[call](executor)
            check_reason(caught.value, way)
    assert len(lines(runs)) < 20, "workers are started without end"
    assert not wait_until_gone(descendants() - before)


def check_reason(error: InitializerFailed, way: str) -> None:
    assert isinstance(error, BrokenProcessPool)
    if way in starts.ENDINGS:
        assert starts.ENDINGS[way] in str(error)
        return
    assert way in str(error)
    assert is_caused_by(error, way)
    (text,) = [str(cause) for cause in causes(error) if isinstance(cause, RemoteTraceback)]
    assert "in fail" in text, "the frames of the worker"


@pytest.mark.parametrize(
    ("method", "way"), on_each_method([(way,) for way in crashes.WAYS], daily=lambda way: way == "os._exit")
)
def test_an_initializer_that_crashes_when_it_is_unpickled(method: str, way: str) -> None:
    initializer: Any = crashes.CrashingFunction("function unpickle", way)
    with Executor("process", 2, method, initializer, (1,)) as executor:
        for call in CALLS.values():
            with pytest.raises(InitializerFailed) as caught:
                call(executor)
    if way in crashes.ENDINGS:
        assert ("exit code 7" if way == "os._exit" else "SIGSEGV") in str(caught.value)
    else:
        assert is_caused_by(caught.value, "ArithmeticError" if way == "raise" else "SystemExit")


@quickest_daily
def test_an_initializer_that_cannot_be_pickled(method: str) -> None:
    """A forked worker has it without."""
    initializer: Any = crashes.CrashingFunction("function pickle", "raise")
    with Executor("process", 2, method, initializer, (1,)) as executor:
        if method == "fork":
            check_usable(executor)
        else:
            with pytest.raises(InitializerFailed) as caught:
                executor.submit(abs, -1).result()
            assert is_caused_by(caught.value, "ArithmeticError")


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that no other process can import."""
    (tmp_path / "only_here.py").write_text(
        f"import os\n"
        f"if os.getpid() != {os.getpid()}:\n"
        f"    raise ImportError('a library is missing')\n"
        f"def begin(*args): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    yield import_module("only_here")
    del sys.modules["only_here"]


NOT_FORKED = [method for method in METHODS if method != "fork"]  # a fork has what its parent has


@pytest.mark.parametrize("method", NOT_FORKED)
def test_a_module_that_the_initializer_needs_cannot_be_imported(method: str, only_here: Any) -> None:
    with Executor("process", 2, method, only_here.begin) as executor:
        for call in CALLS.values():
            with pytest.raises(InitializerFailed, match="a library is missing") as caught:
                call(executor)
            assert is_caused_by(caught.value, "ImportError")


@pytest.mark.parametrize("method", NOT_FORKED)
def test_a_module_that_the_function_needs_cannot_be_imported(method: str, only_here: Any) -> None:
    """Workers can start, so that only this call fails."""
    with Executor("process", 2, method) as executor:
        results = list(executor.map(only_here.begin, range(10), return_exceptions=True))
        assert failed(results) == list(range(10))
        for error in [*results, executor.submit(only_here.begin).exception()]:
            assert isinstance(error, SerializationError)
            assert "a library is missing" in str(error)
            assert is_caused_by(error, "ImportError")
        check_usable(executor)


@quickest_daily
def test_one_that_dies_at_its_first_start_is_started_again(method: str, runs: str, marker: str) -> None:
    with Executor("process", 2, method, starts.die_once, (marker,)) as executor:
        assert list(executor.map(partial(faults.noted, runs), range(30))) == list(range(30))
        assert executor.submit(abs, -1).result() == 1
        assert executor.reduce(add, range(30)) == sum(range(30))
    assert counted(runs) == dict.fromkeys(range(30), 1)


@quickest_daily
@pytest.mark.parametrize("way", ["LookupError", "os._exit"])
def test_successors_that_cannot_start(method: str, runs: str, way: str) -> None:
    """The first workers could; the one that takes the place of a dead one cannot."""
    with Executor("process", 1, method, starts.fail_from, (2, way, runs)) as executor:
        assert executor.submit(abs, -1).result() == 1
        executor.submit(faults.die_by_signal).exception()
        with pytest.raises(InitializerFailed) as caught:
            list(executor.map(abs, range(10)))
        with pytest.raises(InitializerFailed):
            executor.submit(abs, -1).result()
    check_reason(caught.value, way)
    assert len(lines(runs)) < 10


@quickest_daily
def test_what_was_done_before_successors_cannot_start_is_delivered(method: str, runs: str) -> None:
    def work(item: int) -> int:
        if item == 20:
            faults.die_by_signal()
        return item

    found = []
    with Executor("process", 1, method, starts.fail_from, (2, "LookupError", runs)) as executor:
        with pytest.raises(InitializerFailed, match="no such configuration"):
            for result in executor.map(work, range(40), chunksize=10, return_exceptions=True):
                found.append(result)
    assert found[:10] == list(range(10))


@pytest.mark.parametrize("backend", ["thread", "asyncio"])
@pytest.mark.parametrize("way", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "MemoryError"])
@pytest.mark.parametrize("call", CALLS)
def test_threads_and_coroutines(backend: str, runs: str, way: str, call: str) -> None:
    with Executor(backend, 2, initializer=starts.fail, initargs=(way, runs)) as executor:
        for _ in range(2):
            with pytest.raises(InitializerFailed) as caught:
                CALLS[call](executor)
            assert way in str(caught.value)
            assert is_caused_by(caught.value, way)
    assert len(lines(runs)) <= 2
