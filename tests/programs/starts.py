"""Initializers that fail, each in its own way."""

from __future__ import annotations

import builtins
import os
from pathlib import Path

from . import faults

ENDINGS = {"os._exit": "exit code 3", "SIGKILL": "SIGKILL", "segfault": "SIGSEGV", "abort": "SIGABRT"}
"""Ways to end a worker before it is ready, and what the error must say."""

WAYS = ["LookupError", "RecursionError", "SystemExit", "KeyboardInterrupt", *ENDINGS]


def fail(way: str, runs: str) -> None:
    faults.note(runs, os.getpid())
    endings = {
        "os._exit": faults.die_by_exit,
        "SIGKILL": faults.die_by_signal,
        "segfault": faults.die_by_segfault,
        "abort": faults.die_by_abort,
    }
    if way in endings:
        endings[way]()
    raise getattr(builtins, way)("no such configuration")


def fail_from(number: int, way: str, runs: str) -> None:
    """The start of that number fails, and each one after it."""
    if len(Path(runs).read_text().split()) + 1 < number:
        faults.note(runs, os.getpid())
    else:
        fail(way, runs)


def die_once(marker: str) -> None:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    faults.die_by_signal()
