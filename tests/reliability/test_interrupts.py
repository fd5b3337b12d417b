"""Programs that end in the middle: by signals, by exceptions, by the hand of their user. Nothing is left.

Ctrl-C once, from wherever, is in tests/test_real_processes.py; so is SIGKILL, whatever the workers do.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from checks import lines, on_each_method, quickest_daily

from parallelkit.testing import Notes
from programs.watching import (
    HERE,
    METHODS,
    finish,
    kill_tree,
    start,
    wait_until,
    wait_until_gone,
    wait_until_it_waits,
)

pytestmark = pytest.mark.timeout(60)

FINITE = sorted(map(str, range(20)))

ENDS = {
    "exit_in_with": 3,
    "exit_in_with_and_map": 3,
    "interrupt_in_with": -signal.SIGINT,
    "error_in_with": 1,
    "error_without_with": 1,
    "exit_without_with": 3,
    "exit_with_a_message": 1,
    "exit_at_once": 5,
    "abort": -signal.SIGABRT,
    "terminate_itself": -signal.SIGTERM,
    "exit_in_a_handler": 4,
}
"""Ways to end, and the exit code of a program that has no workers and ends like that."""


def workers_of(notes: str) -> list[psutil.Process]:
    """Those that stay for ever, and say so."""
    found = []
    for line in lines(notes):
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(line)))
    return found


@pytest.mark.parametrize(
    ("method", "way"), on_each_method([(way,) for way in ENDS], daily=lambda way: way == "exit_in_with")
)
def test_the_exit_code_is_that_of_a_program_without_us(method: str, runs: str, way: str) -> None:
    program = start([HERE / "ending.py", method, way, runs])
    _, err = finish(program)  # which also waits for all that have its output open
    assert program.returncode == ENDS[way], err
    if way in ("error_in_with", "error_without_with", "exit_without_with", "exit_with_a_message"):
        assert sorted(lines(runs)) == FINITE, "what was asked for is done"
    else:
        assert not wait_until_gone(workers_of(runs))
    assert err.count("Traceback") == (1 if way.startswith(("error", "interrupt")) else 0), err
    if way == "exit_with_a_message":
        assert err == "that is all\n"
    elif way.startswith(("exit", "terminate")):
        assert not err


TWICE = ["caught_and_left", "caught_and_shut_down", "caught_and_waiting_again", "caught_in_a_map"]


@pytest.mark.parametrize(
    ("method", "way"), on_each_method([(way,) for way in TWICE], daily=lambda way: way == "caught_and_left")
)
def test_a_second_ctrl_c_ends_a_program_that_caught_the_first(method: str, runs: str, way: str) -> None:
    program = start([HERE / "ending.py", method, way, runs])
    interrupt(program, "waiting")
    interrupt(program, "interrupted")
    out, err = finish(program)
    assert program.returncode == -signal.SIGINT, err
    assert not out
    assert err.count("Traceback") == 1, err
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not wait_until_gone(workers_of(runs))


def interrupt(program: subprocess.Popen[str], when: str) -> None:
    """Ctrl-C in a terminal, when the program has said that and waits: the signal reaches the whole group."""
    assert program.stdout is not None
    assert program.stdout.readline() == f"{when}\n"
    wait_until_it_waits(program.pid)
    os.killpg(program.pid, signal.SIGINT)


@quickest_daily
def test_a_second_ctrl_c_while_the_program_waits_at_its_end(method: str, runs: str) -> None:
    """The interpreter has the last word here, and says what it says of other threads too."""
    program = start([HERE / "ending.py", method, "caught_and_at_an_end", runs])
    interrupt(program, "waiting")
    interrupt(program, "interrupted")
    _, err = finish(program)
    assert "KeyboardInterrupt" in err
    assert not wait_until_gone(workers_of(runs))


@pytest.mark.parametrize(("method", "times"), on_each_method([(2,), (5,)]))
def test_ctrl_c_again_and_again_at_once(method: str, runs: str, times: int) -> None:
    """Whoever holds the key down: the signals come while the first is being heard."""
    program = start([HERE / "ending.py", method, "not_caught", runs])
    interrupt(program, "waiting")
    for _ in range(times - 1):
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGINT)
    _, err = finish(program)
    assert program.returncode == -signal.SIGINT, err
    # Where the second comes while Python prints the first, it writes a colon behind it, or where it is.
    assert err.rstrip(": \n").endswith("KeyboardInterrupt") or "object type name: KeyboardInterrupt" in err
    assert not wait_until_gone(workers_of(runs))


@quickest_daily
def test_a_shutdown_with_a_time_after_ctrl_c(method: str, runs: str) -> None:
    program = start([HERE / "ending.py", method, "caught_and_given_a_time", runs])
    interrupt(program, "waiting")
    out, err = finish(program)
    assert program.returncode == 0, err
    assert out == "interrupted\nWorkerDied\n"
    assert not err
    assert not wait_until_gone(workers_of(runs))


@pytest.mark.parametrize(
    ("method", "work"),
    on_each_method(
        [(work,) for work in ("sleep", "loop_in_python", "compute_in_c", "ignore_signals")],
        daily=lambda work: work == "sleep",
    ),
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_workers_go_when_their_parent_is_told_to(method: str, work: str, number: signal.Signals) -> None:
    program = start([HERE / "busy.py", method, work])
    assert program.stdout is not None
    try:
        workers = [psutil.Process(int(program.stdout.readline())) for _ in range(2)]
        family = [*workers, *psutil.Process(program.pid).children(recursive=True)]
        program.send_signal(number)
        assert not wait_until_gone(family)
    finally:
        kill_tree(program)
        _, err = program.communicate()
    assert program.returncode == -number
    assert not err


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_file_is_left_by_a_parent_that_is_killed(
    method: str, runs: str, tmp_path: Path, number: signal.Signals
) -> None:
    """In the middle of large messages: no process, nothing in shared memory, no temporary file."""
    temporary = Path(tempfile.mkdtemp(prefix="pk"))  # short: the name of a socket has at most 107 characters
    environment = {**os.environ, "TMPDIR": str(temporary)}
    program = start([HERE / "streaming_large.py", method, runs], env=environment)
    try:
        Notes(tmp_path, "runs").wait_for(20)
        family = [*workers_of(runs), *psutil.Process(program.pid).children(recursive=True)]
        shared = shared_memory([program.pid, *(process.pid for process in family)])
        program.send_signal(number)
        assert not wait_until_gone(family)
    finally:
        kill_tree(program)
        program.communicate()
    assert program.returncode == -number
    temporary.rmdir()  # it is empty
    assert wait_until(lambda: not any(map(os.path.exists, shared))), shared


def shared_memory(processes: list[int]) -> set[str]:
    """The names in shared memory of what these processes have mapped."""
    maps = ""
    for process in processes:
        with suppress(OSError):  # not Linux, or it is gone
            maps += Path(f"/proc/{process}/maps").read_text()
    return set(re.findall(r"/dev/shm/\S+", maps))
