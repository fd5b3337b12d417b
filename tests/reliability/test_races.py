"""What `benchmarks/chaos.py` found by chance, made to happen: two things at once that seldom meet."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import connection, resource_tracker, util
from pathlib import Path
from typing import Any

import pytest
from checks import FORK_WARNING, nobody_reads

from parallelkit import Executor, TaskTimeout, WorkerDied, _lifetime
from parallelkit._calls import MapCall
from parallelkit._wire import claims
from parallelkit._wire.peer import Peer
from parallelkit.backends.process import ProcessBackend
from parallelkit.testing import Gate, Notes
from parallelkit.testing.gates import PATIENCE
from programs import faults

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings(FORK_WARNING)]


def test_a_worker_may_die_before_who_starts_it_knows_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that hears of deaths was faster than the one that puts a new worker into the books."""
    make, on_death = Peer.__init__, ProcessBackend.on_death
    killed: list[int] = []
    heard, over = threading.Event(), threading.Event()

    def made_and_killed(self: Peer, worker: int, *rest: Any) -> None:
        make(self, worker, *rest)
        if not killed:
            killed.append(worker)
            self.process.kill()
            assert heard.wait(PATIENCE)
            over.wait(0.1)  # as long as it takes to go wrong; if all is well, who heard of it waits for us

    def noted(self: ProcessBackend, peer: Peer, exitcode: int | None) -> None:
        heard.set()
        try:
            on_death(self, peer, exitcode)
        finally:
            over.set()

    gate = Gate(tmp_path)
    monkeypatch.setattr(ProcessBackend, "on_death", noted)
    with Executor("process", 2, method) as executor:
        first = executor.submit(gate.pass_through, 1)  # now there is a thread that hears of deaths
        monkeypatch.setattr(Peer, "__init__", made_and_killed)
        second = executor.submit(abs, -2)
        assert second.result(PATIENCE) == 2
        gate.open()
        assert first.result(PATIENCE) == 1
    assert killed


class Slow:
    """An item that takes for ever to read, the first time."""

    def __init__(self, notes: Notes):
        self.notes = notes

    def __reduce__(self) -> tuple[Any, ...]:
        return read_slowly, (self.notes,)


def read_slowly(notes: Notes) -> int:
    notes.add("reads")
    if len(notes.lines()) == 1:
        threading.Event().wait()
    return -3


@pytest.mark.parametrize("for_a_reason", [True, False])
def test_a_worker_that_is_given_up_while_it_reads_the_next_item(
    method: str, tmp_path: Path, for_a_reason: bool
) -> None:
    """Its own item had ended, and nobody had read that; the one that it reads has not begun."""
    notes = Notes(tmp_path)
    with Executor("process", 1, method) as executor:
        backend: Any = executor._driver.backend
        with nobody_reads(executor, tmp_path) as begin:
            late = executor.submit(abs, -1)
            begin()  # and the next comes down after the late one
            after = executor.submit(abs, Slow(notes))
            notes.wait_for(1)
            chunk = min(backend._carriers)
            if for_a_reason:
                assert backend.abandon(chunk, 1, TimeoutError("it is late"))
            else:  # as when Ctrl-C comes while an answer is read
                backend._carriers[chunk].kill(None)
        assert late.result(PATIENCE) == 1
        assert after.result(PATIENCE) == 3
    assert len(notes.lines()) == 2


def test_an_exit_code_is_what_it_is_whoever_asks_for_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts a process elsewhere has multiprocessing look after ours, in the middle of our doing so."""
    wait = connection.wait
    over = threading.Event()

    def slow_wait(*arguments: Any) -> list[Any]:
        ready = wait(*arguments)
        if ready:
            over.wait(0.001)  # between seeing that there is a code and reading it
        return ready

    def ask() -> None:
        while not over.wait(0.0002):
            multiprocessing.active_children()

    monkeypatch.setattr(connection, "wait", slow_wait)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with Executor("process", 2, method) as executor:
            errors = [executor.submit(os._exit, 3).exception(PATIENCE) for _ in range(25)]
    finally:
        over.set()
        asking.join()
    assert Counter(getattr(error, "exitcode", error) for error in errors) == {3: 25}


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server here")
def test_a_worker_may_die_before_it_has_read_what_it_is_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    forkserver: Any = pytest.importorskip("multiprocessing.forkserver")
    connect = forkserver.connect_to_new_process
    killed: list[int] = []

    def connect_and_kill(fds: Any) -> tuple[int, int]:
        sentinel, to_child = connect(fds)
        if not killed:
            killed.append(forkserver.read_signed(sentinel))
            os.kill(killed[0], signal.SIGKILL)
            forkserver.read_signed(sentinel)  # its exit code: now it is gone, and its end of the pipe
        return sentinel, to_child

    monkeypatch.setattr(forkserver, "connect_to_new_process", connect_and_kill)
    with Executor("process", 1, "forkserver") as executor:
        assert list(executor.map(abs, range(5))) == list(range(5))
    assert killed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_the_journal_of_a_dead_worker_is_read(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has the memory that the other thread was reading, but not the thread, which lets go of it."""
    read = claims.read_journal
    reading, go_on = threading.Event(), threading.Event()

    def slow_read(*arguments: Any) -> Any:
        reading.set()
        assert go_on.wait(PATIENCE)
        return read(*arguments)

    with Executor("process", 1, method) as executor, Executor("thread", 1), Executor("process", 1, method):
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        monkeypatch.setattr(claims, "read_journal", slow_read)
        dying = executor.submit(faults.die_by_exit)
        assert reading.wait(PATIENCE)
        child = os.fork()
        if not child:
            os._exit(0 if all(driver.inherited for driver in list(_lifetime._all)) else 1)
        go_on.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert isinstance(dying.exception(PATIENCE), WorkerDied)


# ---------------------------------------------------------------- functions that workers die of


class DiesBeingRead:
    """Ends workers that read it: the first, the third, the fifth. Every odd item ends its worker, too."""

    def __init__(self, reads: str, parent: int):
        self.reads, self.parent = reads, parent

    def __reduce__(self) -> tuple[Any, ...]:
        return read_or_die, (self.reads, self.parent)

    def __call__(self, item: int) -> int:
        if item % 2:
            faults.die_by_segfault()
        return item


def read_or_die(reads: str, parent: int) -> DiesBeingRead:
    if os.getpid() != parent:
        faults.note(reads, os.getpid())
        if len(Path(reads).read_text().split()) in (1, 3, 5):
            faults.die_by_segfault()
    return DiesBeingRead(reads, parent)


def test_a_function_that_others_have_read_is_not_given_up(method: str, runs: str) -> None:
    function = DiesBeingRead(runs, os.getpid())
    with Executor("process", 1, method) as executor:
        results = list(executor.map(function, range(10), chunksize=1, return_exceptions=True))
    named = {index: result.indices for index, result in enumerate(results) if isinstance(result, WorkerDied)}
    assert named == {index: (index,) for index in (0, 2, 4, *range(1, 10, 2))}
    assert [result for result in results if not isinstance(result, WorkerDied)] == [6, 8]


def test_items_of_a_function_that_is_given_up_are_named(method: str, runs: str) -> None:
    with Executor("process", 1, method) as executor:
        function = faults.KillsOnArrival(runs)
        results = list(executor.map(function, range(40), chunksize=1, return_exceptions=True))
    assert all(isinstance(result, WorkerDied) for result in results)
    assert [index for index, result in enumerate(results) if index not in result.indices] == []
    assert len(Path(runs).read_text().split()) == 10, "as often as workers may be killed while they start"


def test_an_error_that_was_caught_is_not_kept(method: str, runs: str) -> None:
    """It holds the frames of who caught it, and all that is in them."""
    with Executor("process", 1, method) as executor:
        error = executor.submit(faults.KillsOnArrival(runs), 1).exception(PATIENCE)
        assert isinstance(error, WorkerDied)
        kept = weakref.ref(error)
        del error
        gc.collect()
        assert kept() is None


# ---------------------------------------------------------------- items that make it at the last moment


@pytest.fixture
def giving_up_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Who is over its time makes it to its end before it is ended, and nobody has read that it did.

    Gives functions: for the item with a time limit, and for the one behind it.
    """
    gates = [Gate(tmp_path, name) for name in ("limited", "behind")]
    notes = [Notes(tmp_path, f"begun {name}") for name in ("limited", "behind")]
    kill = Peer.kill_inside

    def late(self: Peer, *arguments: Any) -> bool:
        with self._reading:
            gates[0].open()
            notes[1].wait_for(1)
            return kill(self, *arguments)

    monkeypatch.setattr(Peer, "kill_inside", late)
    yield lambda place: partial(faults.note_and_wait, gates[place], notes[place])
    assert notes[0].lines() == notes[1].lines() == ["1"]


def test_a_call_that_is_over_its_time_does_not_end_an_item_of_another(
    method: str, tmp_path: Path, giving_up_late: Callable[..., Any]
) -> None:
    with Executor("process", 1, method) as executor:
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        stream = executor.map(giving_up_late(0), [1], timeout=3600)
        (call,) = [call for call in executor._driver.calls if isinstance(call, MapCall)]
        behind = executor.submit(giving_up_late(1), 1)
        Notes(tmp_path, "begun limited").wait_for(1)
        call._be_late()  # as its alarm does
        with pytest.raises(TimeoutError):
            list(stream)
        Gate(tmp_path, "behind").open()
        assert behind.result(PATIENCE) == 1


def test_an_item_that_makes_it_after_all_does_not_end_the_one_behind_it(
    method: str, tmp_path: Path, giving_up_late: Callable[..., Any]
) -> None:
    with Executor("process", 1, method) as executor:
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        stream = executor.map(giving_up_late(0), [1], task_timeout=0.3, return_exceptions=True)
        behind = executor.submit(giving_up_late(1), 1)
        (result,) = stream
        assert result == 1 or isinstance(result, TaskTimeout)
        Gate(tmp_path, "behind").open()
        assert behind.result(PATIENCE) == 1


def test_a_spawned_worker_may_die_before_it_has_read_large_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """multiprocessing writes them into a pipe that it holds open itself: it would wait for ever."""
    resource_tracker.ensure_running()
    spawn = util.spawnv_passfds
    killed: list[int] = []

    def spawn_and_kill(*arguments: Any) -> int:
        pid: int = spawn(*arguments)
        if not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    monkeypatch.setattr(util, "spawnv_passfds", spawn_and_kill)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with Executor("process", 1, "spawn", faults.keep, (b"x" * 1_000_000,)) as executor:
        assert executor.submit(faults.kept_length).result(PATIENCE) == 1_000_000
    assert killed
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
