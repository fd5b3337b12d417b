"""Functions that leak, and say in which process."""

from __future__ import annotations

import os
from typing import Any

import psutil

from . import faults

BYTES = 64 << 20
"""What one leak is; far more than a worker grows by itself."""

_leaked: list[Any] = []


def rss(item: object = None) -> int:
    """The resident memory of this process, in bytes."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


def leak_at(places: tuple[int, ...], runs: str, item: int) -> tuple[int, int]:
    """The item and the process; at these places, memory is kept."""
    faults.note(runs, item)
    if item in places:
        _leaked.append(b"x" * BYTES)
        faults.note(runs, item + 1000)  # it was not ended in the middle
    return item, os.getpid()


def leak_and_add(places: tuple[int, ...], runs: str, item: int) -> int:
    return leak_at(places, runs, item)[0]


def use_and_free(runs: str, item: int) -> tuple[int, int]:
    faults.note(runs, item)
    len(b"x" * BYTES)
    return item, os.getpid()
