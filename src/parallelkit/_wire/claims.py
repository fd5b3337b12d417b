"""Claims in memory that the parent and one worker share.

A worker process has a table of claims, one slot for each chunk it may hold; the tables of all workers are in
one file, each with the worker's journal behind it. The worker takes items from
the front of a slot, the parent takes the tail back, at once, even while the worker is inside a long item.
The table also tells the parent, when the worker died, which items it had started.

The lock of a slot is a record lock on the shared file. The kernel lets go of it when its holder dies, so a
worker that is killed with the lock in its hand stops nobody.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import reduction
from time import monotonic, sleep
from typing import Any, Literal

from .._core.chunks import Cut
from .._lifetime import closing_fds
from .journal import HEAD_WORDS, JOURNAL_BYTES, Ended, Journal, read_journal

__all__ = ["Allowance", "ClaimFile", "ClaimTable", "SharedClaim", "anonymous_file"]

SLOTS = 16
_WORDS = 3  # started, stop, since (microseconds)
_TABLE_WORDS = SLOTS * _WORDS
_AREA_BYTES = (_TABLE_WORDS + HEAD_WORDS) * 8 + JOURNAL_BYTES  # of one worker

MEMORY_SECONDS = 0.005
"""The memory of a worker is measured no more often; it takes some 20 µs."""

_READS_FUNCTION, _READS_ITEMS = 1, 2  # where times stand when something was started


def _lock(fd: int, slot: int) -> None:
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, slot)


def _try_lock(fd: int, slot: int) -> None:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)


def _unlock(fd: int, slot: int) -> None:
    fcntl.lockf(fd, fcntl.LOCK_UN, 1, slot)


class ClaimFile:
    """The memory that the areas of all workers are in. It travels to a worker when that is started.

    One descriptor in each process, which stays open as long as anybody needs it: to close any descriptor of a
    file lets go of all record locks that the process has on it.

    Attributes:
        lent: a worker is being started, which may be a fork of this process that goes on using the file.
    """

    lent = False

    def __init__(self, tables: int) -> None:
        self._attach(anonymous_file(tables * _AREA_BYTES))

    def _attach(self, fd: int) -> None:
        try:
            self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("q")

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (reduction.DupFd(self.fd),)

    def disown(self) -> None:
        """In a forked child: it has no use for the file, unless it is a worker."""
        if not self.lent:
            self.close()

    def close(self) -> None:
        with closing_fds:
            if self.fd >= 0:
                self.words.release()
                self.bytes.release()
                with suppress(BufferError):  # in a forked child: a thread that is not here was reading
                    self._map.close()
                os.close(self.fd)
                self.fd = -1


class ClaimTable:
    """The claims of one worker process: table number `index` in the file."""

    def __init__(self, file: ClaimFile, index: int) -> None:
        self._file = file
        self._index = index
        self._words = file.words
        self._table = index * _AREA_BYTES // 8
        self._journal = self._table + _TABLE_WORDS

    def __reduce__(self) -> tuple[Any, ...]:
        return ClaimTable, (self._file, self._index)

    # In the parent

    def open(self, slot: int, items: int) -> None:
        """Put a chunk into a slot, before it is sent."""
        at = self._at(slot)
        self._words[at], self._words[at + 1], self._words[at + 2] = 0, items, 0

    def started(self, slot: int) -> int:
        """How many items of the chunk were started."""
        return self._words[self._at(slot)]

    def stop(self, slot: int) -> int:
        """How many items the chunk has, without those that were taken back."""
        return self._words[self._at(slot) + 1]

    def died_reading(self, slot: int) -> Literal["function", "items"] | None:
        """What the worker, if it is dead, was reading of the chunk: that killed it. None where it was not."""
        if self.started(slot):
            return None
        stage = self._words[self._at(slot) + 2]
        return "function" if stage == _READS_FUNCTION else "items" if stage == _READS_ITEMS else None

    def ended(self) -> Ended:
        """What the worker, if it is dead, had run and not reported."""
        with self._room() as room:  # let go of at once: an exception in it may keep this frame alive
            return read_journal(self._words, self._journal, room)

    def since(self, slot: int) -> float:
        """When the last were started (`time.monotonic` of this machine, seconds)."""
        return self._words[self._at(slot) + 2] / 1e6

    def take_back(self, slot: int, cut: Cut) -> int | None:
        """Shorten the chunk as `cut` says; return the number of items that stay.

        None: the worker has the lock and does not give it back in time (it may have been stopped).
        """
        at = self._at(slot)
        with self._held(slot) as held:
            if not held:
                return None
            started, stop = self._words[at], self._words[at + 1]
            self._words[at + 1] = stop = cut(started, stop)
            return stop

    def while_at(self, slot: int, started: int, later: Iterable[int], do: Callable[[], object]) -> bool:
        """Do something while no item can be started, unless more were already; whether it was done.

        Nor of the chunks in the slots `later`: the worker is through with this one when it takes up another.
        """
        with ExitStack() as locks:
            locks.enter_context(self._held(slot))
            for other in later:
                if not locks.enter_context(self._held(other)):
                    return False
            if self.started(slot) != started or any(map(self.started, later)):
                return False
            do()
            return True

    @contextmanager
    def _held(self, slot: int) -> Iterator[bool]:
        """The lock of a slot; False where the worker has it and does not give it back in time."""
        fd, byte = self._file.fd, self._byte(slot)
        for _ in range(50):
            try:
                _try_lock(fd, byte)
                break
            except OSError:
                sleep(0.0001)
        else:
            yield False
            return
        try:
            yield True
        finally:
            _unlock(fd, byte)

    # In the worker

    def note_reading(self, slot: int, what: Literal["function", "items"]) -> None:
        """Note that the chunk is being read, which may run code of the user's, and end the process."""
        self._words[self._at(slot) + 2] = _READS_FUNCTION if what == "function" else _READS_ITEMS

    def claim(self, slot: int, allowance: Allowance) -> SharedClaim:
        return SharedClaim(self._file.fd, self._byte(slot), self._words, self._at(slot), allowance)

    def journal(self) -> Journal:
        return Journal(self._words, self._journal, self._room())

    def _at(self, slot: int) -> int:
        return self._table + slot * _WORDS

    def _byte(self, slot: int) -> int:
        """Which byte of the file is locked for the slot; what is there does not matter."""
        return self._index * SLOTS + slot

    def _room(self) -> memoryview:
        begin = (self._journal + HEAD_WORDS) * 8
        return self._file.bytes[begin : begin + JOURNAL_BYTES]


class Allowance:
    """What a worker may start before it is replaced; None for any number of tasks, or any amount of memory.

    What a task is, each work says: so many of its items, or a chunk. Memory is asked for between two items,
    and never before the first.

    Args:
        memory: bytes.
        measure: how many bytes there are in use now.
    """

    __slots__ = ("_asked", "_items", "_measure", "_memory", "_rest", "_tasks", "_too_large", "_work")

    def __init__(
        self, tasks: int | None, memory: int | None = None, measure: Callable[[], int] | None = None
    ):
        self._tasks = tasks
        self._memory = memory
        self._measure = measure
        self._asked = math.inf  # when it was measured last; not before the first item
        self._too_large = False
        self._items = 1  # of a task
        self._rest = 0  # of these, how many are left in the task that was begun
        self._work: int | None = None

    def begin(self, work: int, task_items: int | None, items: int) -> None:
        """From now on, items of a chunk are taken: of which work, how many make a task, how many it has."""
        if task_items is None or work != self._work:
            self._rest = 0
        self._work, self._items = work, task_items or items

    def take(self, items: int) -> int:
        """Take so many items, or as many as are allowed: how many."""
        if self._memory is not None:
            self._look_at_memory(self._memory)
            if self._too_large:
                return 0
        if self._tasks is None:
            return items
        taken = min(items, self._rest + self._tasks * self._items)
        begun = -(-max(0, taken - self._rest) // self._items)
        self._tasks -= begun
        self._rest += begun * self._items - taken
        return taken

    def _look_at_memory(self, most: int) -> None:
        now = monotonic()
        if self._asked == math.inf:
            self._asked = 0.0
        elif now - self._asked >= MEMORY_SECONDS and self._measure is not None:
            self._asked = now
            self._too_large = self._measure() > most

    @property
    def spent(self) -> bool:
        """Whether it is to be replaced. Between two chunks, memory is looked at once more."""
        if self._memory is not None and self._asked != math.inf:
            self._look_at_memory(self._memory)
        return self._too_large or (self._tasks == 0 and self._rest == 0)


class SharedClaim:
    """The worker's side of one slot, see `parallelkit._work.Claim`: `at` its words, `byte` its lock."""

    __slots__ = ("_allowance", "_at", "_byte", "_fd", "_words")

    def __init__(self, fd: int, byte: int, words: memoryview[int], at: int, allowance: Allowance):
        self._fd = fd
        self._byte = byte
        self._words = words
        self._at = at
        self._allowance = allowance

    def take(self, items: int) -> int:
        words, at = self._words, self._at
        _lock(self._fd, self._byte)
        try:
            started, stop = words[at], words[at + 1]
            taken = self._allowance.take(min(items, stop - started))
            words[at] = started + taken
            words[at + 2] = int(monotonic() * 1e6)
            return taken
        finally:
            _unlock(self._fd, self._byte)


def _attached(duplicate: Any) -> ClaimFile:
    file = ClaimFile.__new__(ClaimFile)
    file._attach(duplicate.detach())
    return file


def anonymous_file(size: int) -> int:
    """A file without a name: nothing is left of it when the last process that has it open is gone."""
    try:
        fd = os.memfd_create("parallelkit-claims", os.MFD_CLOEXEC)
    except (AttributeError, OSError) as error:  # not on Linux, or not in this kernel, or not allowed
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd
