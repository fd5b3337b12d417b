"""Who kills workers from outside in `chaos.py`: at random moments, while they start, several at once."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from time import monotonic, sleep
from typing import Any

from chaos_calls import Arena

from parallelkit._wire.endings import TOO_MANY, weight

SIGNALS = {signal.SIGKILL: 85, signal.SIGSEGV: 5, signal.SIGABRT: 5, signal.SIGTERM: 5}

FAILED_START = weight(-signal.SIGKILL)
"""As so much of a failed start counts one that SIGKILL ended. TOO_MANY in a row break the executor."""

START_SECONDS = 0.3
"""How long to wait for a worker that starts, and for the news of its death."""


class Killer(threading.Thread):
    """Kills workers of the executors that are targets.

    Args:
        rate: kills in a second, on average.

    Attributes:
        faults: what was done, as (process id, how).
    """

    def __init__(self, arena: Arena, seed: str, rate: float, over: Callable[[], bool]):
        super().__init__(name="killer", daemon=True)
        self.faults: list[tuple[int, str]] = []
        self.crash: BaseException | None = None
        self._arena = arena
        self._random = random.Random(seed)
        self._rate = rate
        self._over = over
        self._starting: list[float] = []  # when workers of some executor were killed as they started

    def run(self) -> None:
        ways: list[tuple[Callable[[], None], int]] = [
            (self._kill_one, 75), (self._kill_a_starting_one, 15),
            (self._stop_and_kill, 5), (self._kill_all, 5),
        ]  # fmt: skip
        calls, weights = zip(*ways, strict=True)
        try:
            while not self._over():
                sleep(self._random.expovariate(self._rate))
                (way,) = self._random.choices(calls, weights)
                way()
        except BaseException as error:
            self.crash = error

    def _kill_one(self) -> None:
        target = self._pick()
        if target is not None:
            pid, ready = target
            (number,) = self._random.choices([*SIGNALS], [*SIGNALS.values()])
            number = number if ready else signal.SIGKILL
            self._strike(pid, number, signal.Signals(number).name)

    def _kill_all(self) -> None:
        for pid, _ in self._running():
            self._strike(pid, signal.SIGKILL, "all at once")

    def _stop_and_kill(self) -> None:
        """A worker that is stopped, perhaps with a lock in its hand, cannot answer; then it is gone."""
        target = self._pick()
        if target is not None and self._strike(target[0], signal.SIGSTOP, ""):
            sleep(0.05 * self._random.random())
            self._strike(target[0], signal.SIGKILL, "stopped")

    def _kill_a_starting_one(self) -> None:
        """The next process that appears, at once or in a moment."""
        if not self._may_kill_starting():
            return
        known = children(self._arena.method)
        delay = self._random.choice([0.0, 0.03 * self._random.random()])
        deadline = monotonic() + START_SECONDS
        while monotonic() < deadline and not self._over():
            new = children(self._arena.method) - known
            if new:
                sleep(delay)
                self._starting.append(monotonic())
                self._strike(min(new), signal.SIGKILL, "starting")
                return
            sleep(0.0005)

    def _pick(self) -> tuple[int, bool] | None:
        running = self._running()
        if not running:
            return None
        pid, ready = self._random.choice(running)
        if not ready:
            self._starting.append(monotonic())
        return pid, ready

    def _running(self) -> list[tuple[int, bool]]:
        """The targets' workers, and whether they are ready: those that start only if they may be killed."""
        spare = not self._may_kill_starting()
        peers = [peer for executor in list(self._arena.targets) for peer in peers_of(executor)]
        return [(peer.process.pid, peer.ready) for peer in peers if peer.ready or not spare]

    def _may_kill_starting(self) -> bool:
        """Whether four that start may be killed at once, without an executor giving up because of it."""
        now = monotonic()
        self._starting = [when for when in self._starting if now - when < START_SECONDS]
        failed = max((failed_starts(executor) for executor in list(self._arena.targets)), default=0)
        return failed + (len(self._starting) + 4) * FAILED_START < TOO_MANY

    def _strike(self, pid: int, number: int, how: str) -> bool:
        """Send a signal, if the number is still that of a worker that lives; whether it is."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if pid not in children(self._arena.method) or state(pid) in "ZX":
                return False
            signal.pidfd_send_signal(pidfd, number)
        except OSError:
            return False
        finally:
            os.close(pidfd)
        if how:
            self.faults.append((pid, how))
        return True


def peers_of(executor: Any) -> list[Any]:
    return [*executor._backend._peers.copy().values()]


def failed_starts(executor: Any) -> int:
    return int(executor._backend._failed_starts)


def children(method: str) -> set[int]:
    """The processes that this one, or its fork server, has started, and that were not waited for."""
    server: Any = forkserver._forkserver
    parent = server._forkserver_pid if method == "forkserver" else os.getpid()
    found: set[int] = set()
    for thread in os.listdir(f"/proc/{parent}/task"):
        found.update(map(int, read(f"/proc/{parent}/task/{thread}/children").split()))
    return found


def state(pid: int) -> str:
    """The state of a process, as the kernel names it; X if there is none."""
    return (read(f"/proc/{pid}/stat").rpartition(")")[2].split() or ["X"])[0]


def read(path: str) -> str:
    """A file of the kernel, empty where what it tells of is gone. (`Path` would keep all names in memory.)"""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
