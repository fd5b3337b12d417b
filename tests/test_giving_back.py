"""A worker that takes too long for a chunk gives back the rest of it, and nothing is lost or run twice."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import pytest

from parallelkit import Executor, _runs, _worker
from parallelkit._core.outcome import Outcomes
from parallelkit._opening import FIRST_ITEMS
from parallelkit._work import LocalClaim, Work
from parallelkit.testing import Gate, Notes

pytestmark = pytest.mark.timeout(60)


class Clock:
    """A time in which nothing takes any, but what says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        for module in (_worker, _runs):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)

    def pass_(self, seconds: float) -> float:
        self.now += seconds
        return seconds


def chunk(work: Work, items: list[float]) -> list[tuple[Outcomes, bool]]:
    reports: list[tuple[Outcomes, bool]] = []
    _worker.run_chunk(
        work, items, 100, LocalClaim(len(items)), lambda some, seconds, last: reports.append((some, last))
    )
    return reports


def test_the_rest_of_a_chunk_is_left_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    reports = chunk(Work(clock.pass_, chunk_seconds=0.04), [0.015] * 1000)
    assert [(some.start, some.stop, last) for some, last in reports] == [(100, 103, True)]


def test_an_item_that_takes_longer_is_run_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    reports = chunk(Work(clock.pass_, chunk_seconds=0.04), [60.0, 0.1])
    assert [(some.stop, last) for some, last in reports][-1] == (101, True)
    assert [value for some, _ in reports for value in some.values] == [60.0]


def test_who_has_time_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for seconds in (0.04, float("inf")):
        reports = chunk(Work(clock.pass_, chunk_seconds=seconds), [0.00001] * 1000)
        assert reports[-1][0].stop == 1100
        assert reports[-1][1]


def wait_then_note(gate: Gate, notes: Notes, item: int) -> int:
    if item == 0:
        notes.add("begun")
        gate.pass_through()
    time.sleep(0.01)
    notes.add(item)
    return item


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_another_call_does_not_wait_for_a_whole_chunk(backend: str, tmp_path: Path) -> None:
    """There is one worker, and the first chunk, of `FIRST_ITEMS` or more, has begun when the other comes."""
    notes, gate = Notes(tmp_path), Gate(tmp_path)
    items = range(200)
    found: list[list[int]] = []
    with Executor(backend, max_workers=1) as executor:
        function = partial(wait_then_note, gate, notes)
        thread = threading.Thread(
            target=lambda: found.append(executor._map_to_list(function, (items,), False))
        )
        thread.start()
        notes.wait_for(1)
        run_before = executor.submit(notes.lines)
        gate.open()
        assert len(run_before.result(30)) < FIRST_ITEMS
        thread.join(30)
    assert found == [list(items)]
    assert sorted(map(int, notes.lines()[1:])) == list(items), "each was run once"
