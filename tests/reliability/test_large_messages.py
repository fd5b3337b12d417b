"""Workers that are killed in the middle of a large message, which they write, or which is written to them.

A message is larger than a pipe, so that whoever writes waits for the one who reads, who is held here. That is
so without shared memory ("pipe"); with it ("memory"), what is large goes there, and the message is short.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checks import FORK_WARNING, check_usable, counted, failed, nobody_reads, on_each_method, quickest_daily

from parallelkit import Executor, WorkerDied
from parallelkit._wire import packing
from parallelkit.testing import Gate, Notes
from programs import large
from programs.watching import wait_until_it_waits

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings(FORK_WARNING)]

EACH_KIND = pytest.mark.parametrize(
    ("method", "kind"), on_each_method([("pipe",), ("memory",)], daily=lambda kind: kind == "memory")
)


@pytest.fixture(autouse=True)
def without_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through pipes has no other way."""
    if "kind" not in request.fixturenames or request.getfixturevalue("kind") == "pipe":
        monkeypatch.setattr(packing, "new_arena", lambda workers: None)


@quickest_daily
def test_killed_while_it_writes_the_result_of_a_submit(method: str, tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    with Executor("process", 1, method) as executor:
        worker = executor.submit(os.getpid).result()
        with nobody_reads(executor, tmp_path) as begin:
            bad = executor.submit(large.make, "pipe", notes)
            after = executor.submit(abs, -1)
            begin()
            notes.wait_for(1)
            wait_until_it_waits(worker)  # in the middle of writing: the pipe is full
            os.kill(worker, signal.SIGKILL)
        error = bad.exception()
        assert isinstance(error, WorkerDied)
        assert error.exitcode == -signal.SIGKILL
        assert after.result() == 1
        check_usable(executor)
    assert len(notes.lines()) == 1, "it ran twice"


@quickest_daily
def test_killed_while_it_writes_a_result_of_a_map(method: str, tmp_path: Path, runs: str) -> None:
    notes = Notes(tmp_path)
    function = partial(large.make_at, 4, "pipe", notes, runs)
    with Executor("process", 1, method) as executor:
        worker = executor.submit(os.getpid).result()
        with nobody_reads(executor, tmp_path) as begin:
            stream = executor.map(function, range(12), chunksize=6, return_exceptions=True)
            begin()
            notes.wait_for(1)
            wait_until_it_waits(worker)
            os.kill(worker, signal.SIGKILL)
        results = list(stream)
        check_usable(executor)
    assert failed(results) == [4]
    assert isinstance(results[4], WorkerDied)
    assert list(results[4].indices) == [4]
    assert [result for result in results if result is not results[4]] == [i for i in range(12) if i != 4]
    assert counted(runs) == dict.fromkeys(range(12), 1)


@quickest_daily
@pytest.mark.parametrize("kind", ["memory"])
def test_killed_when_it_has_written_an_array(method: str, tmp_path: Path, kind: str) -> None:
    """Nobody has read it yet: it is there all the same, and stays."""
    notes = Notes(tmp_path)
    with Executor("process", 1, method) as executor:
        worker = executor.submit(os.getpid).result()
        with nobody_reads(executor, tmp_path) as begin:
            array = executor.submit(large.make, kind, notes)
            begin()
            notes.wait_for(1)
            wait_until_it_waits(worker)  # for something to do
            os.kill(worker, signal.SIGKILL)
        result = array.result()
        others = [executor.submit(large.make, kind, notes).result() + 1 for _ in range(3)]
        assert len(result) == large.BYTES
        assert not result.any()
        assert all(other.all() for other in others)
        check_usable(executor)


@EACH_KIND
def test_killed_while_it_is_sent_a_large_argument(method: str, tmp_path: Path, kind: str) -> None:
    """The worker is in the item before it, and has not begun to read."""
    gate, notes = Gate(tmp_path), Notes(tmp_path)
    with Executor("process", 1, method) as executor:
        before = executor.submit(large.wait_at, gate, notes, "before")
        (line,) = notes.wait_for(1)
        large_one = executor.submit(large.size_of, notes, large.new(kind))
        os.kill(int(line), signal.SIGKILL)
        assert isinstance(before.exception(), WorkerDied)
        assert large_one.result() == large.BYTES, "it was not started, so it is not lost"
        check_usable(executor)
    assert len(notes.lines()) == 2, "the large one ran once"


@EACH_KIND
@pytest.mark.parametrize("call", ["submit", "map", "function"])
def test_killed_while_it_reads(method: str, tmp_path: Path, kind: str, call: str) -> None:
    """It is stopped while it has nothing to do, and killed with half of the message in its pipe."""
    notes = Notes(tmp_path)
    with Executor("process", 1, method) as executor:
        worker = executor.submit(os.getpid).result()
        os.kill(worker, signal.SIGSTOP)
        results: Any
        if call == "submit":
            results = [executor.submit(large.size_of, notes, large.new(kind))]
        elif call == "map":
            results = executor.map(partial(large.size_of, notes), [large.new(kind)] * 3, chunksize=2)
        else:
            results = executor.map(partial(large.with_size_of, notes, large.new(kind)), range(3), chunksize=2)
        os.kill(worker, signal.SIGKILL)
        if call == "submit":
            results = [future.result() for future in results]
        results = list(results)
        check_usable(executor)
    assert results == [large.BYTES] * len(results)
    assert len(notes.lines()) == len(results), "each ran once"
