"""Results do not wait for the item behind them."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest

from parallelkit import Executor, ThreadPool, _late_reports
from parallelkit._core.outcome import Outcomes
from parallelkit._late_reports import LateReports
from parallelkit._runs import MapRun
from parallelkit._work import Work
from programs import faults
from programs.watching import METHODS

pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


class Run:
    def __init__(self) -> None:
        self.ended = 0
        self.reports = 0

    def report_late(self) -> None:
        self.reports += 1


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """The looks that are due, instead of a clock."""
    due: list[Callable[[], object]] = []
    monkeypatch.setattr(_late_reports, "call_at", lambda when, function: due.append(function))
    return due


class TestLooking:
    def test_a_run_that_moves_is_left_alone(self, looks: list[Callable[[], object]]) -> None:
        late, run = LateReports(), Run()
        late.begin(run)
        for run.ended in range(5):
            looks.pop()()
        assert run.reports == 0

    def test_one_that_is_where_it_was_reports(self, looks: list[Callable[[], object]]) -> None:
        late, run = LateReports(), Run()
        late.begin(run)
        looks.pop()()
        assert run.reports == 0
        looks.pop()()
        assert run.reports == 1

    def test_another_run_is_not_taken_for_the_one_before(self, looks: list[Callable[[], object]]) -> None:
        late, first, second = LateReports(), Run(), Run()
        late.begin(first)
        looks.pop()()
        late.end()
        late.begin(second)
        looks.pop()()
        assert (first.reports, second.reports) == (0, 0)

    def test_it_looks_while_there_is_a_run_and_no_longer(self, looks: list[Callable[[], object]]) -> None:
        late = LateReports()
        late.begin(Run())
        late.end()
        late.begin(Run())
        assert len(looks) == 1
        late.end()
        looks.pop()()
        assert not looks
        late.begin(Run())
        assert len(looks) == 1


class TestARun:
    def test_what_was_reported_late_is_not_reported_again(self) -> None:
        reported: list[Any] = []

        def keep(outcomes: Outcomes, seconds: float, last: bool) -> None:
            reported.append((outcomes.start, outcomes.stop, outcomes.values, outcomes.failures))

        run = MapRun(Work(lambda item: run.report_late() or item), 10, keep)
        run.over("abc")
        run.report()
        assert reported == [(10, 11, ["a"], {}), (11, 12, ["b"], {}), (12, 13, ["c"], {})]
        run.over("d")
        run.report()
        assert reported[3:] == [(13, 14, ["d"], {})]

    def test_failures_are_reported_where_they_are(self) -> None:
        reported: list[Any] = []

        def keep(outcomes: Outcomes, seconds: float, last: bool) -> None:
            reported.append((outcomes.start, outcomes.stop, sorted(outcomes.failures)))

        def fail(item: str) -> str:
            run.report_late()
            if item == "b":
                raise ValueError(item)
            return item

        run = MapRun(Work(fail), 0, keep)
        run.over("abc")
        run.report()
        assert reported == [(0, 1, []), (1, 2, [1]), (2, 3, [])]

    def test_a_failure_that_does_not_count_yet_is_not_reported_yet(self) -> None:
        """The other thread comes in between noting a failure and counting it."""
        reported: list[Outcomes] = []

        def keep(outcomes: Outcomes, seconds: float, last: bool) -> None:
            reported.append(outcomes)

        class Counted(list):  # type: ignore[type-arg]
            def append(self, value: object) -> None:
                run.report_late()
                super().append(value)

        run = MapRun(Work(int), 0, keep)
        run._values = Counted()
        run.over(["1", "two", "3"])
        run.report()
        assert [(some.start, some.stop, [*some.failures]) for some in reported] == [
            (0, 1, []),
            (1, 2, [1]),
            (2, 3, []),
        ]


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_waits_for_what_the_caller_does_with_results(method: str) -> None:
    gate = multiprocessing.get_context(method).Event()
    with Executor("process", 1, method, faults.keep, (gate,)) as executor:
        stream = executor.map(faults.wait_for_gate_at_one, range(20))
        assert next(stream) == 0
        gate.set()
        assert list(stream) == list(range(1, 20))


def test_a_thread_that_waits_for_what_the_caller_does_with_results() -> None:
    gate = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            gate.wait()
        return item

    with ThreadPool(1) as pool:
        stream = pool.imap_unordered(work, range(20))
        assert next(stream) == 0
        gate.set()
        assert list(stream) == list(range(1, 20))
    for backend in ("thread", "asyncio"):
        gate.clear()
        with Executor(backend, 1) as executor:
            results = executor.map(work, range(20))
            assert next(results) == 0
            gate.set()
            assert list(results) == list(range(1, 20))


@pytest.mark.parametrize("backend", ["thread", "asyncio"])
def test_a_coroutine_that_waits_for_what_the_caller_does_with_results(backend: str) -> None:
    gate = threading.Event()

    async def work(item: int) -> int:
        while item == 1 and not gate.is_set():
            await asyncio.sleep(0.01)
        return item

    with Executor(backend, 1) as executor:
        results = executor.map(work, range(20))
        assert next(results) == 0
        gate.set()
        assert list(results) == list(range(1, 20))
