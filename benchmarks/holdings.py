"""What a process holds, to be compared before and after: for `chaos.py` and tests."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from statistics import median
from time import monotonic, sleep

import psutil

SETTLE_SECONDS = 10.0
"""Who was told to go may take a moment."""

MOST_GROWTH = 6 << 20
"""Bytes that a process may grow, from the first third of a run to the last.

With `steady_allocator` 3 MiB were seen, in steps of 1 MiB, which come to a stop: in such arenas Python keeps
its small objects, and one that lives on keeps an arena. What was allocated outside of Python and is kept for
each of 10,000 deaths, a buffer or a stack, is more.
"""

MOST_BLOCKS = 2000
"""By how many blocks of memory the objects of Python may become more: 500 were seen.

One object that is kept for each of 10,000 deaths makes 6,000 between the thirds.
"""

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # malloc.h


@dataclass
class Holdings:
    """Descriptors by what they are of, threads by name, processes below, maps and files of ours."""

    descriptors: Counter[str]
    threads: Counter[str]
    processes: Counter[str]
    mappings: Counter[str]
    shared: Counter[str]
    files: Counter[str]

    @classmethod
    def now(cls) -> Holdings:
        gc.collect()
        return cls(
            Counter(_descriptors()),
            Counter(thread.name for thread in threading.enumerate()),
            Counter(_processes()),
            Counter(_mappings()),
            Counter(_shared()),
            Counter(_files()),
        )

    def more_than(self, before: Holdings) -> dict[str, list[str]]:
        """What there is now and was not before, by kind."""
        return {kind: [*(now - getattr(before, kind)).elements()] for kind, now in vars(self).items()}


@contextmanager
def own_temporary_folder() -> Iterator[str]:
    """Have this process, and all that it starts, make temporary files where no other program makes any."""
    util.get_temp_dir()  # that of multiprocessing is removed at the very end, so it cannot be inside
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield folder
        finally:
            tempfile.tempdir = None
            del os.environ["TMPDIR"]


def left_behind(before: Holdings) -> dict[str, list[str]]:
    """What there is more than before, when all had time to go."""
    deadline = monotonic() + SETTLE_SECONDS
    while True:
        more = Holdings.now().more_than(before)
        if not any(more.values()) or monotonic() > deadline:
            return more
        sleep(0.05)


def _descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # that with which the folder was read
            continue
        numbered = target.startswith(("pipe:", "socket:", "anon_inode:"))
        yield re.sub(r"\d+", "N", target) if numbered else target


def _processes() -> Iterator[str]:
    for child in psutil.Process().children(recursive=True):
        try:
            # Not its status as it is: one that runs now may sleep when it is looked at again.
            ended = "ended" if child.status() == psutil.STATUS_ZOMBIE else "alive"
            yield f"{child.pid} {ended} {' '.join(child.cmdline())[:60]}"
        except psutil.NoSuchProcess:
            pass


def _mappings() -> Iterator[str]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "parallelkit" in line and ".so" not in line:
            yield line.split(maxsplit=5)[-1]


def _files() -> Iterator[str]:
    for top in (tempfile.gettempdir(), util.get_temp_dir()):
        for folder, folders, files in os.walk(top):
            yield from (os.path.join(folder, name) for name in (*folders, *files))


def _shared() -> Iterator[str]:
    """Shared memory with a name, as multiprocessing gives it. (Ours has none: it is a descriptor.)

    Semaphores are left out: other programs of this machine make and leave them. Nothing here needs one.
    """
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return (name for name in names if name.startswith(("psm_", "parallelkit")))


def steady_allocator() -> None:
    """Have glibc give large blocks back when they are freed, so that what a process has is what it uses.

    By itself it raises the size of what it calls large to whatever was freed last, up to 32 MiB, and makes an
    arena for each of many threads. Results of 4 MiB then leave holes that come to 70 MiB, and tell nothing.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, 1)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 16)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 16)


def allocated_blocks() -> int:
    """How many blocks of memory the objects of Python take."""
    gc.collect()
    return sys.getallocatedblocks()


def resident_bytes() -> int:
    """Of this process alone, without what the allocator keeps for later, as far as it can be asked to let go.

    Shared memory is kept warm, and given up when nothing has used it for some seconds.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


def growth(samples: Sequence[int]) -> float | None:
    """By how many bytes the last third of the samples is above the first; None if they are too few to say."""
    third = len(samples) // 3
    return None if third < 3 else median(samples[-third:]) - median(samples[:third])
