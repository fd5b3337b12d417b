"""Starting programs, and seeing what is left of them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic, sleep

import psutil

HERE = Path(__file__).parent

METHODS = [
    method for method in ("fork", "forkserver", "spawn") if method in multiprocessing.get_all_start_methods()
]

PATIENCE = 20.0
"""Seconds to wait for what must come. On an idle machine it comes in a fraction of one."""


def start(arguments: Iterable[object], **options: object) -> subprocess.Popen[str]:
    """Start Python with these arguments, in a session of its own, its output to be read."""
    popen: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        text=True,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[call-overload]
    )
    return popen


def finish(
    program: subprocess.Popen[str], stdin: str | None = None, patience: float = PATIENCE
) -> tuple[str, str]:
    """Wait until the program and all that has its output open are gone; what it said on stdout and stderr."""
    try:
        return program.communicate(stdin, timeout=patience)
    except subprocess.TimeoutExpired:
        kill_tree(program)
        out, err = program.communicate()
        raise AssertionError(f"the program does not end\n{out}\n{err}") from None


def run(arguments: Iterable[object], stdin: str | None = None, **options: object) -> tuple[str, str]:
    """Run Python with these arguments; it must end well and complain of nothing."""
    program = start(arguments, stdin=subprocess.PIPE, **options)
    out, err = finish(program, stdin)
    assert program.returncode == 0, f"{program.returncode}\n{out}\n{err}"
    return out, err


def wait_until_it_waits(pid: int) -> None:
    """Wait until the main thread of a program sleeps in a system call, and not for its turn.

    A signal that comes between the last look of the interpreter for one and the call that blocks does not
    end that call, in any Python program. When a worker says that it is busy, its parent may be just there,
    since threads run when it lets go of the interpreter in order to wait.
    """
    process = psutil.Process(pid)
    deadline = monotonic() + PATIENCE
    before = None
    while monotonic() < deadline:
        # Who waits for his turn looks every 5 ms, and each look is a switch.
        now = process.num_ctx_switches() if process.status() == psutil.STATUS_SLEEPING else None
        if now is not None and now == before:
            return
        before = now
        sleep(0.02)
    raise AssertionError("the program does not come to wait")


def kill_tree(program: subprocess.Popen[str]) -> None:
    """End a program that a test started, and all of its session."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == program.pid:
                process.kill()
        except (ProcessLookupError, PermissionError, psutil.Error):
            pass


def descendants() -> set[psutil.Process]:
    """The processes that this one has started, and theirs."""
    return set(psutil.Process().children(recursive=True))


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait until it holds; whether it does."""
    deadline = monotonic() + PATIENCE
    while not condition():
        if monotonic() > deadline:
            return False
        sleep(0.01)
    return True


def wait_until_gone(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Wait for these processes to end; return those that do not.

    It only looks: psutil's own wait would take the exit code of a child away from its parent.
    """
    deadline = monotonic() + PATIENCE
    alive = list(processes)
    while (alive := [process for process in alive if _is_alive(process)]) and monotonic() < deadline:
        sleep(0.01)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
