"""`max_memory_per_child`: who leaks is replaced between two items, and nothing is lost or run twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import add
from typing import Any

import pytest
from checks import FORK_WARNING, check_usable, counted, lines, quickest_daily

from parallelkit import Executor
from programs import faults, growing
from programs.growing import BYTES
from programs.watching import wait_until

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings(FORK_WARNING)]

LENGTH = 20


@pytest.fixture
def limit(method: str) -> int:
    """Half a leak more than a worker has that has run something."""
    with Executor("process", 1, method) as executor:
        return max(executor.map(growing.rss, range(10), chunksize=1)) + BYTES // 2


def limited(method: str, limit: int, max_workers: int = 1, **options: Any) -> Executor:
    return Executor("process", max_workers, method, max_memory_per_child=limit, **options)


def processes(executor: Executor) -> set[int]:
    return {process.pid for process in executor._backend.handles()}


def by_process(results: list[tuple[int, int]]) -> list[list[int]]:
    """The items that each process ran, one process after the other."""
    return [[item for item, _ in some] for _, some in groupby(results, key=lambda result: result[1])]


def check_runs(runs: str, leaks: tuple[int, ...] = (), length: int = LENGTH) -> None:
    """Each item ran once, to its end."""
    assert counted(runs) == dict.fromkeys([*range(length), *(place + 1000 for place in leaks)], 1)


def by_map(executor: Executor, function: Callable[[int], Any]) -> list[Any]:
    return list(executor.map(function, range(LENGTH), chunksize=1))


def by_stream(executor: Executor, function: Callable[[int], Any]) -> list[Any]:
    return list(executor.map(function, iter(range(LENGTH)), chunksize=1))


def by_submit(executor: Executor, function: Callable[[int], Any]) -> list[Any]:
    futures = [executor.submit(function, item) for item in range(LENGTH)]
    return [future.result() for future in futures]


@pytest.mark.parametrize("call", [by_map, by_stream, by_submit])
def test_a_worker_that_leaks_is_replaced_after_that_item(
    method: str, limit: int, runs: str, call: Callable[..., list[Any]]
) -> None:
    with limited(method, limit) as executor:
        results = call(executor, partial(growing.leak_at, (5, 11), runs))
        check_usable(executor)
    assert by_process(results) == [list(range(6)), list(range(6, 12)), list(range(12, LENGTH))]
    check_runs(runs, (5, 11))


@quickest_daily
@pytest.mark.parametrize("chunksize", [None, LENGTH])
def test_in_the_middle_of_a_chunk(method: str, limit: int, runs: str, chunksize: int | None) -> None:
    """Items of a run, 0.2 ms of work, are together."""
    with limited(method, limit) as executor:
        function = partial(growing.leak_at, (5,), runs)
        results = list(executor.map(function, range(LENGTH), chunksize=chunksize))
    first, second = by_process(results)
    assert 5 in first
    assert second[-1] == LENGTH - 1
    check_runs(runs, (5,))


@quickest_daily
def test_who_lets_go_of_memory_stays(method: str, limit: int, runs: str) -> None:
    with limited(method, limit) as executor:
        results = by_map(executor, partial(growing.use_and_free, runs))
    assert len(by_process(results)) == 1
    check_runs(runs)


@quickest_daily
def test_a_limit_that_each_worker_is_above(method: str, runs: str) -> None:
    """It is looked at between two items: each worker runs one, and the call comes to its end."""
    with limited(method, 1) as executor:
        results = list(executor.map(partial(growing.leak_at, (), runs), range(6), chunksize=1))
        check_usable(executor)
    assert by_process(results) == [[item] for item in range(6)]
    check_runs(runs, length=6)


@quickest_daily
def test_only_the_one_that_leaks_is_replaced(method: str, limit: int, runs: str) -> None:
    with limited(method, limit, 2) as executor:
        list(executor.map(abs, range(100), chunksize=1))
        before = processes(executor)
        results = list(executor.map(partial(growing.leak_at, (5,), runs), range(LENGTH), chunksize=1))
        (leaked,) = [pid for item, pid in results if item == 5]
        assert wait_until(lambda: leaked not in processes(executor))  # the result comes before it leaves
        list(executor.map(abs, range(100), chunksize=1))
        after = processes(executor)
    assert before - after == {leaked}
    assert len(after) == 2
    check_runs(runs, (5,))


@quickest_daily
def test_in_a_reduce(method: str, limit: int, runs: str) -> None:
    with limited(method, limit) as executor:
        value = executor.reduce(add, range(LENGTH), map=partial(growing.leak_and_add, (5, 11), runs))
        check_usable(executor)
    assert value == sum(range(LENGTH))
    check_runs(runs, (5, 11))


@quickest_daily
def test_together_with_a_number_of_tasks(method: str, limit: int, runs: str) -> None:
    with limited(method, limit, max_tasks_per_child=8) as executor:
        results = by_map(executor, partial(growing.leak_at, (3,), runs))
    assert by_process(results) == [list(range(4)), list(range(4, 12)), list(range(12, LENGTH))]
    check_runs(runs, (3,))


@quickest_daily
def test_the_finalizer_of_one_that_is_replaced_runs(method: str, limit: int, runs: str, marker: str) -> None:
    def finish() -> None:
        faults.note(marker, "finished")

    with limited(method, limit, finalizer=finish) as executor:
        by_map(executor, partial(growing.leak_at, (5,), runs))
    assert lines(marker) == ["finished"] * 2


@pytest.mark.parametrize("value", [0, -1])
def test_too_little_memory(value: int) -> None:
    with pytest.raises(ValueError, match="max_memory_per_child"):
        Executor("process", max_memory_per_child=value)


@pytest.mark.parametrize("value", [True, 1e9, "1 GB"])
def test_memory_is_a_whole_number(value: Any) -> None:
    with pytest.raises(TypeError, match="max_memory_per_child"):
        Executor("process", max_memory_per_child=value)


@pytest.mark.parametrize("backend", ["serial", "thread", "asyncio"])
def test_memory_is_that_of_a_process(backend: str) -> None:
    with pytest.raises(TypeError, match="max_memory_per_child"):
        Executor(backend, max_memory_per_child=1 << 30)
