"""The parent's end of `side.py`: a child process that is asked, waited for with a limit, and ended whole."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from compileall import compile_dir
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

import parallelkit

from .works.base import Case, Plan

ROOT = Path(__file__).resolve().parents[1]
MARK = "PARALLELKIT_BENCHMARK"
"""In the environment of all children, and so of all that they start."""

LOOK_SECONDS = 0.05
"""How often it is looked whether a child still lives."""

MEMORY_SECONDS = 0.01
"""How often memory is looked at."""


class Trouble(Exception):
    """Why a side has no figure: too slow, or failed. The text goes into the table."""


class Child:
    """A process that runs `side.py`."""

    def __init__(self, side: str, work: str, plan: Plan, environment: dict[str, str], restless: bool = False):
        self.side = side
        self.fresh = True
        self._restless = restless
        self._began = monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child lives
        self._text = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.side", side, work, json.dumps(plan.as_json())],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )

    def wait_until_ready(self, seconds: float) -> None:
        """Raises: Trouble."""
        answer = self._answer(seconds - (monotonic() - self._began), seconds)
        if "error" in answer:
            raise Trouble(f"fails: {answer['error']}")
        self.pause()

    def ask(self, case: Case, round_number: int, seconds: float) -> dict[str, Any]:
        """One round.

        Raises:
            Trouble: it took longer than so many seconds, failed or died; the child is of no use any more.
        """
        assert self._process.stdin is not None
        self.fresh = False
        self.resume()
        before = peak = memory(self._process.pid) if case.watch else 0
        try:
            self._process.stdin.write(json.dumps([case.name, round_number]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Trouble(f"fails: {self._last_words()}") from None
        until = monotonic() + seconds
        while case.watch and not self._has_line(MEMORY_SECONDS) and monotonic() < until:
            peak = max(peak, memory(self._process.pid))
        answer = self._answer(until - monotonic(), seconds)
        self.pause()
        if "error" in answer:
            raise Trouble(f"fails: {answer['error']}")
        return {**answer, "values": [float(max(1, peak - before))]} if case.watch else answer

    def pause(self) -> None:
        """Stop a side that uses the processor while others have their turn."""
        if self._restless:
            for process in self._all():
                _try(process.suspend)

    def resume(self) -> None:
        if self._restless:
            for process in reversed(self._all()):
                _try(process.resume)

    def begin_to_end(self) -> None:
        """Let it leave in good order."""
        self.resume()
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass

    def end(self, patience: float = 0.0) -> None:
        """It, and all that it started, are gone after this."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        below = self._all()
        _try_kill_group(self._process.pid)
        for process in below:
            _try(process.kill)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            try:
                pipe.close()  # type: ignore[union-attr]
            except BrokenPipeError:
                pass

    # Inside

    def _all(self) -> list[psutil.Process]:
        """The child and all below it; empty if it is gone."""
        try:
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            return []

    def _answer(self, left: float, limit: float) -> dict[str, Any]:
        until = monotonic() + left
        while not self._has_line(LOOK_SECONDS):
            if self._process.poll() is not None and not self._has_line(0.0):
                raise Trouble(f"fails: {self._last_words()}")
            if monotonic() > until:
                raise Trouble(f"too slow (> {limit:g} s)")
        line, _, self._text = self._text.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _has_line(self, seconds: float) -> bool:
        """Whether there is a whole line, or one comes within so many seconds."""
        assert self._process.stdout is not None
        if b"\n" not in self._text and select.select([self._process.stdout], [], [], seconds)[0]:
            self._text += os.read(self._process.stdout.fileno(), 1 << 20)
        return b"\n" in self._text

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return (said[-1] if said else f"ended with exit code {code}")[:150]


def _try(step: Any) -> None:
    try:
        step()
    except psutil.Error:  # it is gone
        pass


def _try_kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def memory(pid: int) -> int:
    """Bytes that a process and those below it have for themselves: what is shared counts once."""
    total = 0
    try:
        process = psutil.Process(pid)
        below = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for one in below:
        try:
            rollup = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
            total += 1024 * int(rollup.partition("\nPss:")[2].split()[0])
        except (OSError, IndexError):
            try:
                total += one.memory_info().rss
            except psutil.Error:
                pass
    return total


@contextmanager
def surroundings() -> Iterator[tuple[str, dict[str, str]]]:
    """A folder for files and the environment of children; what is left of these at the end is killed.

    parallelkit is compiled to bytecode first, as pip does with what it installs.
    """
    for package in parallelkit.__path__:
        compile_dir(package, quiet=2)
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="pkb", ignore_cleanup_errors=True) as folder:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            MARK: mark,
            "TMPDIR": folder,
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONHASHSEED": "0",  # so that all children have the same proofs of results
            "PYTHONPATH": os.pathsep.join(paths),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            yield folder, environment
        finally:
            end_all_marked(mark)


def end_all_marked(mark: str) -> None:
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                process.kill()
        except psutil.Error:
            pass
