"""Workers that are killed, that crash or that end: one item fails, with its true cause; the rest goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import pytest
from checks import FORK_WARNING, check_usable, counted, failed, on_each_method, quickest_daily

from parallelkit import Executor, ParallelError, WorkerDied
from parallelkit.testing import Gate, Notes
from programs import deaths, faults

pytestmark = [pytest.mark.timeout(30), pytest.mark.filterwarnings(FORK_WARNING)]

EVERY_DEATH = on_each_method([(death,) for death in faults.DEATHS])

CALLS = ["map", "stream", "unordered map"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("method", "death"), EVERY_DEATH)
def test_a_death_in_the_middle_of_a_chunk_costs_one_item(
    executor: Executor, runs: str, death: str, call: str
) -> None:
    die, exitcode, name = faults.DEATHS[death]
    function = partial(faults.double_or_die, die, 12, runs)
    items: Any = iter(range(50)) if call == "stream" else range(50)

    results = list(
        executor.map(function, items, chunksize=25, return_exceptions=True, ordered=call != "unordered map")
    )

    (error,) = [result for result in results if isinstance(result, Exception)]
    assert type(error) is WorkerDied
    assert isinstance(error, BrokenProcessPool)
    assert isinstance(error, BrokenExecutor)
    assert isinstance(error, ParallelError)
    assert (error.exitcode, list(error.indices)) == (exitcode, [12])
    assert name in str(error)
    assert "item 12" in str(error)
    results.remove(error)
    assert sorted(results) == [2 * item for item in range(50) if item != 12]
    assert counted(runs) == dict.fromkeys(range(50), 1), "each ran, none ran twice"


@quickest_daily
def test_each_of_several_deaths_in_a_chunk_costs_its_item(executor: Executor, runs: str) -> None:
    function = partial(deaths.double_or_die_at, (0, 3, 4, 17, 29), runs)

    results = list(executor.map(function, range(30), chunksize=30, return_exceptions=True))

    assert failed(results) == [0, 3, 4, 17, 29]
    assert all(list(results[place].indices) == [place] for place in failed(results))
    assert [result for result in results if isinstance(result, int)] == [
        2 * item for item in range(30) if item not in (0, 3, 4, 17, 29)
    ]
    assert counted(runs) == dict.fromkeys(range(30), 1)


@quickest_daily
def test_all_items_of_a_chunk_may_die(executor: Executor, runs: str) -> None:
    function = partial(deaths.double_or_die_at, tuple(range(12)), runs)
    results = list(executor.map(function, range(12), chunksize=12, return_exceptions=True))
    assert [list(error.indices) for error in results] == [[item] for item in range(12)]
    assert counted(runs) == dict.fromkeys(range(12), 1)


def test_what_was_ready_before_comes_before_the_error(executor: Executor, runs: str) -> None:
    function = partial(faults.double_or_die, faults.die_by_signal, 12, runs)
    stream = executor.map(function, range(50), chunksize=25)
    found = []
    with pytest.raises(WorkerDied) as caught:
        for result in stream:
            found.append(result)
    assert found == [2 * item for item in range(12)]
    assert list(caught.value.indices) == [12]


@pytest.mark.parametrize("place", [150_000, 299_999])
def test_a_death_among_cheap_items_costs_a_run_of_them(executor: Executor, place: int) -> None:
    """They are claimed by the run, of which it is not known how far a worker came: about 0.2 ms of work."""
    function = partial(deaths.cheap_or_die, place)

    results = list(executor.map(function, range(300_000), return_exceptions=True))

    lost = failed(results)
    assert place in lost
    assert lost == list(range(lost[0], lost[-1] + 1)), "they are neighbours"
    assert list(results[place].indices) == lost
    assert len(lost) < 10_000, "a function of Python takes 0.03 us at the least"
    assert all(results[item] == item for item in set(range(300_000)).difference(lost))


def test_a_death_among_the_first_of_short_items_costs_one(executor: Executor) -> None:
    results = list(executor.map(partial(deaths.short_or_die, 90), range(100), return_exceptions=True))
    assert failed(results) == [90]
    assert list(results[90].indices) == [90]


@pytest.mark.parametrize("call", ["map", "submit"])
def test_killed_from_outside_as_the_kernel_does_when_memory_is_short(
    method: str, tmp_path: Path, runs: str, call: str
) -> None:
    gate, notes = Gate(tmp_path), Notes(tmp_path)
    with Executor("process", 1, method) as executor:
        function = partial(deaths.wait_at_place, 3, gate, notes, runs)
        results: Any
        if call == "map":
            results = executor.map(function, range(8), chunksize=8, return_exceptions=True)
        else:
            results = [executor.submit(function, item) for item in range(8)]
        (worker,) = notes.wait_for(1)
        os.kill(int(worker), signal.SIGKILL)
        if call == "submit":
            results = [future.exception() or future.result() for future in results]
        results = list(results)
        check_usable(executor)
    assert failed(results) == [3]
    assert results[3].exitcode == -signal.SIGKILL
    assert "SIGKILL" in str(results[3])
    assert [result for result in results if isinstance(result, int)] == [0, 1, 2, 4, 5, 6, 7]
    assert counted(runs) == dict.fromkeys(range(8), 1)


def test_a_death_costs_a_reduce(executor: Executor, runs: str) -> None:
    function = partial(faults.double_or_die, faults.die_by_abort, 12, runs)
    with pytest.raises(WorkerDied, match="SIGABRT") as caught:
        executor.reduce(add, range(50), map=function, chunksize=25)
    assert 12 in caught.value.indices
    assert set(counted(runs).values()) == {1}


@quickest_daily
def test_a_death_costs_a_map_reduce(executor: Executor, runs: str) -> None:
    function = partial(deaths.pairs_or_die, 12, runs)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        executor.map_reduce(function, add, range(50))
    assert set(counted(runs).values()) == {1}


@quickest_daily
def test_the_pool_refills_itself(method: str, runs: str) -> None:
    """As many workers as before, at the same time, after more deaths than there are workers."""
    context = multiprocessing.get_context(method)
    with Executor("process", 2, context, faults.keep, (context.Barrier(2),)) as executor:
        before = dict(executor.map(faults.meet, range(2), chunksize=1))
        function = partial(deaths.double_or_die_at, (1, 2, 3, 5, 8), runs)
        assert failed(list(executor.map(function, range(10), return_exceptions=True))) == [1, 2, 3, 5, 8]
        after = dict(executor.map(faults.meet, range(2), chunksize=1))
    assert set(before) == set(after) == {0, 1}
    assert not set(before.values()) & set(after.values())


@quickest_daily
def test_a_death_in_one_call_does_not_touch_another(executor: Executor, runs: str, tmp_path: Path) -> None:
    """Chunks of both are with the same worker when it dies."""
    other = executor.map(partial(faults.noted, runs), range(1000, 1200), chunksize=5)
    function = partial(deaths.double_or_die_at, tuple(range(0, 40, 4)), runs)
    results = list(executor.map(function, range(40), chunksize=5, return_exceptions=True))
    assert list(other) == list(range(1000, 1200))
    assert failed(results) == list(range(0, 40, 4))
    assert counted(runs) == dict.fromkeys([*range(40), *range(1000, 1200)], 1)


# ---------------------------------------------------------------- tried again


@pytest.fixture
def chunks(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The chunks that go to workers, by their first item and the one after their last."""
    sent: list[tuple[int, int]] = []
    submit = executor._backend.submit

    def spy(worker: Any, chunk_id: int, work: Any, chunk: Any) -> None:
        sent.append((chunk.start, chunk.stop))
        submit(worker, chunk_id, work, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(executor._backend, "submit", spy)
        yield sent


@pytest.mark.parametrize(("method", "death"), EVERY_DEATH)
@pytest.mark.parametrize("retries", [1, 3])
def test_what_kills_each_time_is_tried_alone_and_then_fails_alone(
    executor: Executor, chunks: list[tuple[int, int]], runs: str, death: str, retries: int
) -> None:
    die, exitcode, _ = faults.DEATHS[death]
    function = partial(faults.double_or_die, die, 12, runs)

    results = list(executor.map(function, range(30), chunksize=15, return_exceptions=True, retries=retries))

    assert failed(results) == [12]
    assert (results[12].exitcode, list(results[12].indices)) == (exitcode, [12])
    assert counted(runs) == {**dict.fromkeys(range(30), 1), 12: 1 + retries}
    with_it = [chunk for chunk in chunks if chunk[0] <= 12 < chunk[1]]
    assert with_it[-retries:] == [(12, 13)] * retries


@quickest_daily
def test_two_that_kill_side_by_side_are_told_apart(executor: Executor, runs: str) -> None:
    function = partial(deaths.double_or_die_at, (6, 7), runs)
    results = list(executor.map(function, range(15), chunksize=15, return_exceptions=True, retries=2))
    assert failed(results) == [6, 7]
    assert [list(results[place].indices) for place in (6, 7)] == [[6], [7]]
    assert counted(runs) == {**dict.fromkeys(range(15), 1), 6: 3, 7: 3}


@quickest_daily
def test_what_kills_each_time_costs_a_reduce(executor: Executor, runs: str) -> None:
    function = partial(faults.double_or_die, faults.die_by_exit, 12, runs)
    with pytest.raises(WorkerDied) as caught:
        executor.reduce(add, range(30), map=function, retries=2)
    assert list(caught.value.indices) == [12]
    assert counted(runs)[12] == 3


@pytest.mark.parametrize("call", ["map", "stream", "reduce", "map_reduce"])
def test_what_kills_once_costs_nothing_with_retries(
    executor: Executor, runs: str, marker: str, call: str
) -> None:
    function = partial(deaths.double_or_die_once, 7, marker, runs)
    doubles = [2 * item for item in range(20)]
    if call == "reduce":
        assert executor.reduce(add, range(20), map=function, retries=1) == sum(doubles)
    elif call == "map_reduce":
        pairs = partial(deaths.as_pairs, function)
        expected = {0: sum(doubles[::2]), 1: sum(doubles[1::2])}
        assert executor.map_reduce(pairs, add, range(20), retries=1) == expected
    else:
        items: Any = range(20) if call == "map" else iter(range(20))
        assert list(executor.map(function, items, retries=1)) == doubles
    ran = counted(runs)
    assert ran[7] == 2
    assert max(ran.values()) == 2 or "reduce" in call
    if "reduce" not in call:
        assert ran == {**dict.fromkeys(range(20), 1), 7: 2}


@quickest_daily
def test_without_retries_nothing_is_tried_again_even_what_was_lost_unstarted_runs_once(
    method: str, runs: str
) -> None:
    """One worker, whose chunks all come back to it: what it was in, and what it had not begun."""
    function = partial(deaths.double_or_die_at, tuple(range(0, 60, 7)), runs)
    with Executor("process", 1, method) as executor:
        results = list(executor.map(function, range(60), chunksize=10, return_exceptions=True))
    assert failed(results) == list(range(0, 60, 7))
    assert counted(runs) == dict.fromkeys(range(60), 1)


@pytest.mark.parametrize(("method", "death"), EVERY_DEATH)
def test_submits_around_a_death(executor: Executor, death: str) -> None:
    die, exitcode, name = faults.DEATHS[death]
    futures = [executor.submit(die if item == 20 else abs, *[item] * (item != 20)) for item in range(40)]
    error = futures[20].exception()
    assert isinstance(error, WorkerDied)
    assert error.exitcode == exitcode
    assert name in str(error)
    assert [future.result() for future in futures if future is not futures[20]] == [
        item for item in range(40) if item != 20
    ]
