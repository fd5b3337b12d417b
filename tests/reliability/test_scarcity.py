"""What is short, closed, broken or full: a clear error for the call, nothing left, or no need of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from operator import add
from pathlib import Path
from typing import Any

import psutil
import pytest
from checks import (
    FORK_WARNING,
    check_usable,
    is_caused_by,
    new_executor,
    on_each_method,
    quickest_daily,
    start_services,
)

from parallelkit import Executor, InitializerFailed, TaskTimeout, _alarm
from programs import faults
from programs.watching import HERE, METHODS, descendants, finish, start, wait_until_gone

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings(FORK_WARNING)]

PROGRAM = HERE / "scarce.py"


def right(path: str) -> bool:
    return Path(path).read_text() == "right"


# ---------------------------------------------------------------- standard streams


@pytest.mark.parametrize(
    ("method", "closed"),
    on_each_method([("0",), ("1",), ("2",), ("012",)], daily=lambda closed: closed == "012"),
)
def test_closed_from_the_start(method: str, runs: str, closed: str) -> None:
    """As a daemon starts a program: its first files get these numbers."""
    program = start([PROGRAM, method, "everything", runs], preexec_fn=lambda: close(closed))
    _, err = finish(program)
    assert program.returncode == 0, err
    assert "Traceback" not in err
    assert right(runs)


def close(descriptors: str) -> None:
    for descriptor in map(int, descriptors):
        os.close(descriptor)


@pytest.mark.parametrize("method", METHODS)
def test_a_reader_who_goes_away(method: str, runs: str) -> None:
    """As in `program | head -1`."""
    program = start([PROGRAM, method, "print_a_stream", runs])
    assert program.stdout is not None
    assert program.stdout.readline() == "0\n"
    family = psutil.Process(program.pid).children(recursive=True)
    program.stdout.close()
    assert program.stderr is not None
    err = program.stderr.read()  # to its end: nobody has it open any more
    program.stderr.close()
    program.wait()
    assert "BrokenPipeError" in err
    assert program.returncode in (1, 120)  # 120: Python could not flush
    assert not wait_until_gone(family)


@pytest.mark.parametrize(
    ("method", "output"), on_each_method([("closed pipe",), ("/dev/full",)], daily=lambda output: True)
)
def test_workers_that_print_to_where_nothing_can_be_written(method: str, runs: str, output: str) -> None:
    if output == "/dev/full" and not os.path.exists(output):
        pytest.skip("there is no full device here")
    with open(os.devnull if output == "closed pipe" else output, "w") as full:
        options = {} if output == "closed pipe" else {"stdout": full}
        program = start([PROGRAM, method, "workers_print", runs], stdin=subprocess.PIPE, **options)
    if program.stdout is not None:
        program.stdout.close()
    assert program.stdin is not None
    program.stdin.write("go on\n")
    program.stdin.close()
    assert program.stderr is not None
    err = program.stderr.read()
    program.stderr.close()
    assert program.wait() == 0, err
    assert right(runs)


# ---------------------------------------------------------------- descriptors

needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="descriptors cannot be counted here"
)


@needs_proc
@quickest_daily
def test_no_descriptors_at_any_point(method: str, runs: str) -> None:
    """For each number of them: a clear error or the right results, and nothing left of the attempt."""
    program = start([PROGRAM, method, "few_descriptors", runs])
    _, err = finish(program, patience=50)
    assert program.returncode == 0, err
    assert "Traceback" not in err
    assert set(Path(runs).read_text().splitlines()) <= {
        "right",
        "OSError from NoneType",
        "InitializerFailed from OSError",
    }


@needs_proc
@quickest_daily
def test_no_descriptor_for_a_successor(method: str, runs: str) -> None:
    program = start([PROGRAM, method, "no_descriptor_for_a_successor", runs])
    out, err = finish(program)
    assert program.returncode == 0, err
    assert out == "InitializerFailed from OSError\n"
    assert right(runs)


# ---------------------------------------------------------------- processes and threads

CALLS: dict[str, Callable[[Executor], Any]] = {
    "submit": lambda executor: executor.submit(abs, -1).result(),
    "map": lambda executor: list(executor.map(abs, range(100))),
    "stream": lambda executor: list(executor.map(abs, iter(range(100)))),
    "reduce": lambda executor: executor.reduce(add, range(100)),
}


def refuse(*arguments: Any, **options: Any) -> None:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("call", CALLS)
def test_no_more_processes(method: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start_services(method)
    processes, descriptors = descendants(), len(os.listdir("/proc/self/fd"))
    with Executor("process", 2, method) as executor:
        with monkeypatch.context() as patch:
            patch.setattr("multiprocessing.process.BaseProcess.start", refuse)
            with pytest.raises(InitializerFailed, match="Resource temporarily unavailable") as caught:
                CALLS[call](executor)
        assert is_caused_by(caught.value, "BlockingIOError")
        check_usable(executor)  # there are processes again
    assert not wait_until_gone(descendants() - processes)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("method", METHODS)
def test_one_process_and_no_more(method: str, runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second worker cannot start: the first does what it can, and each item is accounted for."""
    with Executor("process", 2, method) as executor:
        assert executor.submit(abs, -1).result() == 1
        with monkeypatch.context() as patch:
            patch.setattr("multiprocessing.process.BaseProcess.start", refuse)
            results = list(executor.map(abs, range(100), return_exceptions=True))
        assert len(results) == 100
        assert all(results[item] == item or type(results[item]) is InitializerFailed for item in range(100))
        check_usable(executor)


@pytest.mark.parametrize("method", METHODS)
def test_no_successor_for_a_moment(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Executor("process", 1, method) as executor:
        assert executor.submit(abs, -1).result() == 1
        with monkeypatch.context() as patch:
            patch.setattr("multiprocessing.process.BaseProcess.start", refuse)
            executor.submit(faults.die_by_signal).exception()
            with pytest.raises(InitializerFailed, match="Resource temporarily unavailable"):
                executor.submit(abs, -1).result()
        check_usable(executor)


@pytest.mark.parametrize("method", ["thread", "asyncio", *METHODS])
@pytest.mark.parametrize("call", CALLS)
def test_no_more_threads(method: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if method in METHODS:
        start_services(method)
    processes = descendants()

    def cannot_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with new_executor(method) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            with pytest.raises(InitializerFailed, match="can't start new thread") as caught:
                CALLS[call](executor)
    assert is_caused_by(caught.value, "RuntimeError")
    assert not wait_until_gone(descendants() - processes)


@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.parametrize("call", CALLS)
def test_no_more_threads_beside_an_event_loop(call: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain functions run in threads there; one thread is enough for two workers."""
    started = []
    start_thread = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if thread.name.startswith("beside_"):
            if len(started) >= most:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start_thread(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with Executor("asyncio", 2, thread_name_prefix="beside") as executor:
        if most:
            CALLS[call](executor)
            check_usable(executor)
        else:
            with pytest.raises(InitializerFailed, match="can't start new thread"):
                CALLS[call](executor)
    assert len(started) == most


@pytest.mark.parametrize("method", ["thread", *METHODS])
def test_no_thread_for_the_clock(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one who needs the clock gets its thread, and the time limits before are kept too."""

    def cannot_start(*arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    with new_executor(method, 1) as executor:
        assert executor.submit(abs, -1).result() == 1
        monkeypatch.setattr(_alarm, "_clock", _alarm._Clock())  # whose thread does not run yet
        with monkeypatch.context() as patch:
            patch.setattr(_alarm._thread, "start_new_thread", cannot_start)
            stream = executor.map(faults.sleep_at, range(4), task_timeout=0.2, return_exceptions=True)
        _alarm.call_soon(bool)
        results = list(stream)
    assert [type(result) for result in results] == [int, TaskTimeout, int, int]


# ---------------------------------------------------------------- shared memory and temporary files


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", ["not in this Python", "not in this kernel"])
def test_no_memory_files(method: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if missing == "not in this Python":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    else:

        def unknown(*arguments: Any) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(os, "memfd_create", unknown, raising=False)
    with Executor("process", 2, method) as executor:
        check_usable(executor)
        error = executor.submit(faults.die_by_exit).exception()
        assert "exit code 3" in str(error)
        check_usable(executor)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_no_semaphores(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no /dev/shm, multiprocessing has no locks."""

    def unknown(*arguments: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("_multiprocessing.SemLock", unknown)
    with Executor("process", 2, method) as executor:
        check_usable(executor)


def can_mount() -> bool:
    """Whether this user may have a view of the file system of his own."""
    try:
        mounted = subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return mounted.returncode == 0


@pytest.mark.parametrize(
    ("method", "options"), on_each_method([("size=4k",), ("ro",)], daily=lambda options: options == "size=4k")
)
def test_shared_memory_that_is_full_or_cannot_be_written(method: str, runs: str, options: str) -> None:
    if not can_mount():
        pytest.skip("only root can take /dev/shm away")
    shell = f'mount -t tmpfs -o {options} none /dev/shm && exec "$@"'
    program = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", shell, "sh", sys.executable, PROGRAM, method, "large_messages", runs],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, err = finish(program)
    assert program.returncode == 0, err
    assert "Traceback" not in err
    assert right(runs)
