"""The `timeout` of a call: when it begins, what it ends, and what it leaves alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from parallelkit import Executor, pimap, pmap
from parallelkit._opening import open_map
from parallelkit.testing import Gate, Notes

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("items", [range(10**12), count()], ids=["range", "iterator"])
def test_a_serial_call_without_end_is_given_up(items: Any) -> None:
    with pytest.raises(TimeoutError, match=r"timeout=0\.1"):
        pmap(abs, items, backend="serial", timeout=0.1)


def test_a_serial_stream_without_end_is_given_up() -> None:
    with Executor("serial") as executor:
        results = executor.map(abs, count(), timeout=0.1)
        found = []
        with pytest.raises(TimeoutError, match=r"timeout=0\.1"):
            for result in results:
                found.append(result)
        assert found == list(range(len(found)))
        assert executor.submit(abs, -1).result() == 1


def test_it_may_be_over_before_the_call_is_open(tmp_path: Path) -> None:
    """Another thread has the lock of the driver for longer."""
    gate = Gate(tmp_path)
    held, raised = threading.Event(), threading.Event()
    with Executor("thread", max_workers=2) as executor:

        def hold() -> None:
            with executor._driver._lock:
                held.set()
                raised.wait(0.2)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(30)
        with pytest.raises(TimeoutError, match=r"timeout=0\.01"):
            executor._map_to_list(gate.pass_through, (range(8),), False, timeout=0.01)
        gate.open()
        holder.join(30)


def test_it_begins_before_the_input_is_looked_at() -> None:
    def source() -> Iterator[int]:
        looked_at.append(time.monotonic())
        yield 1

    looked_at: list[float] = []
    with Executor("process", 1) as executor:
        call = open_map(executor._driver, "process", abs, (source(),), timeout=100.0, whole=True)
        assert call._alarm is not None
        assert call._alarm.when <= looked_at[0] + 100.0
        assert [some.values for some in call.outcomes()] == [[1]]
        assert call._alarm.function is None, "it is not wanted any more, and keeps nothing"


def note_after(seconds: float, notes: Notes, item: int) -> int:
    time.sleep(seconds)
    notes.add(item)
    return item


@pytest.mark.parametrize("read", [True, False])
def test_what_is_run_for_its_effects_is_run_to_its_end(read: bool, tmp_path: Path) -> None:
    """Results that are ready when somebody comes to read them are not late."""
    notes = Notes(tmp_path)
    with Executor("thread", max_workers=2) as executor:
        results = executor.map(partial(note_after, 0.01, notes), range(40), timeout=0.05)
        if not read:
            del results
    assert sorted(map(int, notes.lines())) == list(range(40))
    if read:
        assert list(results) == list(range(40))


def test_who_comes_to_read_too_late_waits_for_nothing(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with Executor("thread", max_workers=1) as executor:
        results = executor.map(gate.pass_through, range(10), timeout=0.01)
        while not next(iter(executor._driver.calls))._late:
            time.sleep(0.001)
        with pytest.raises(TimeoutError):
            next(results)
        gate.open()
        assert executor.submit(abs, -1).result(30) == 1


def test_a_stream_that_nobody_reads_and_that_is_not_run_for_its_effects_is_ended(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    results = pimap(gate.pass_through, range(10), backend="thread", max_workers=1, timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()
