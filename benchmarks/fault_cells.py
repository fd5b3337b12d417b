"""One cell of the table of faults: a program of its own, watched from outside, of which nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

PROGRAM = Path(__file__).parent / "programs" / "fault.py"

GRACE = 3.0
"""Seconds after the end of a program until its processes count as left."""

MARK = "FAULT_CELL"
"""In the environment of a program, and so of all that it starts."""

Fact = dict[str, Any]


@dataclass
class Seen:
    """What a program did.

    Attributes:
        facts: what it noted, in order; the keys are those of `programs/fault.py`.
        times: when each phase began.
        hung: the phase that took too long, and then the program was killed.
        code: its exit code, negative for a signal; None if it hung.
        gone: seconds from the signal that was sent to it, or from its last phase, to its end.
        left, files: what there still was of it `GRACE` seconds later: processes; temporary and shared files.
        runs_on: whether the item that was over its time limit still ran after the next call.
        errors: what it said on stderr.
    """

    facts: list[Fact] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    hung: str | None = None
    code: int | None = None
    gone: float = 0.0
    left: int = 0
    files: list[str] = field(default_factory=list)
    runs_on: bool = False
    errors: str = ""

    @property
    def call_seconds(self) -> float:
        """How long the call with the fault took, if it came to an end."""
        if not {"call", "next"} <= self.times.keys():
            return 0.0
        return self.times["next"] - self.times["call"]

    def all(self, key: str) -> list[Any]:
        """What was noted under this key."""
        return [fact[key] for fact in self.facts if key in fact]


class Cell:
    """A program that meets a fault.

    Args:
        send: what is done to it when two of its items are busy.
        closed: it starts without stdin, stdout and stderr.
    """

    def __init__(
        self,
        peer: str,
        fault: str,
        way: str,
        timeout: float,
        send: Callable[[int], None] | None = None,
        closed: bool = False,
    ):
        self.arguments = [sys.executable, str(PROGRAM), peer, fault, way, str(timeout)]
        if closed:
            self.arguments = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *self.arguments]
        self.timeout = timeout
        self.send = send
        self.seen = Seen()

    def run(self) -> Seen:
        mark = uuid.uuid4().hex
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            environment = {
                **os.environ,
                MARK: mark,
                "FAULT_FACTS": str(place / "facts"),
                "TMPDIR": str(place / "tmp"),
            }
            (place / "tmp").mkdir()
            (place / "facts").touch()
            with started(self.arguments, environment, place, mark) as program:
                self.watch(program, place / "facts")
                self.count_what_is_left(program.pid, mark, place / "tmp")
            self.seen.errors = (place / "errors").read_text(errors="replace")
        return self.seen

    def watch(self, program: subprocess.Popen[bytes], facts: Path) -> None:
        """Read facts as they come, act on them, until the program ends or a phase of it takes too long."""
        seen, last, sent = self.seen, monotonic(), None
        while program.poll() is None:
            for fact in new_facts(facts, len(seen.facts)):
                seen.facts.append(fact)
                if "phase" in fact:
                    last = seen.times[fact["phase"]] = monotonic()
                    if fact["phase"] == "close":
                        seen.runs_on = any(map(is_busy, seen.all("stays")))
                if "kill" in fact:
                    os.kill(fact["kill"], signal.SIGKILL)
                if len(seen.all("started")) == 2 and self.send is not None and sent is None:
                    self.send(program.pid)
                    last = sent = monotonic()
            if monotonic() > last + self.timeout + 5:  # the program has its own, shorter patience with items
                seen.hung = (seen.all("phase") or ["start"])[-1]
                return
            sleep(0.01)
        seen.gone = monotonic() - (sent or last)
        seen.code = program.returncode
        seen.facts += new_facts(facts, len(seen.facts))

    def count_what_is_left(self, session: int, mark: str, temporary: Path) -> None:
        if self.seen.hung is not None:
            return  # what is left of a program that is still there says nothing
        deadline = monotonic() + GRACE
        while monotonic() < deadline and (any(family(session, mark)) or files_of(session, temporary)):
            sleep(0.05)
        self.seen.left = len(list(family(session, mark)))
        self.seen.files = files_of(session, temporary)


@contextmanager
def started(
    arguments: list[str], environment: dict[str, str], folder: Path, mark: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own; at the end it is killed with all that is left of it."""
    with open(folder / "output", "wb") as output, open(folder / "errors", "wb") as errors:
        program = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield program
    finally:
        while left := list(family(program.pid, mark)):  # they may start others meanwhile
            for process in left:
                try:
                    process.kill()
                except psutil.Error:
                    pass
            sleep(0.01)
        program.wait()


def new_facts(path: Path, known: int) -> list[Fact]:
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines[known:]]


def family(session: int, mark: str) -> Iterator[psutil.Process]:
    """All that live of the session, or have the mark."""
    for process in psutil.process_iter():
        try:
            of_it = os.getsid(process.pid) == session or process.environ().get(MARK) == mark
            if of_it and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (OSError, psutil.Error):
            pass


def is_busy(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def files_of(program: int, temporary: Path) -> list[str]:
    """Temporary files, and shared memory that has the number of the program in its name."""
    shared, number = Path("/dev/shm"), re.compile(rf"\b{program}\b|_{program}_")
    named = [path for path in shared.iterdir() if number.search(path.name)] if shared.is_dir() else []
    return [path.name for path in [*temporary.iterdir(), *named]]


# ---------------------------------------------------------------- what is sent to a program


def interrupt_group(program: int) -> None:
    """Ctrl-C in a terminal: the signal goes to all of the program's group."""
    os.killpg(program, signal.SIGINT)


def terminate(program: int) -> None:
    os.kill(program, signal.SIGTERM)


def kill(program: int) -> None:
    os.kill(program, signal.SIGKILL)
