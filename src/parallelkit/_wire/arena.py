"""Memory through which large buffers travel, in the place of a pipe.

One file without a name has an area for each process that writes: the parent, and each worker. The writer puts
a buffer into a block of its area and sends the number of the block; the reader has the file mapped too, and
makes a view of the block. When nobody holds that view any more, nor anything that was made of it, the block
is free for the next buffer.

    file      tables of all areas, areas
    table     bytes that have pages, and whether something became free; of each block: its state, where it
              begins, its size
    area      blocks; their sizes are of few classes, so that a free one fits the next buffer

Each word of a table has one writer at a time: who owns the area, while the block is free or being filled,
then its reader. So there is no lock that a process could take along when it dies. The parent alone sees to
what a dead worker was reading, and to what it had written and nobody reads.

A free block keeps its pages: for the system to find and clear new ones takes ten times as long as to copy
into them. `Writer.trim` gives them up.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from multiprocessing import reduction
from operator import add
from pickle import PickleBuffer
from typing import Any

from .._lifetime import closing_fds
from ..errors import SerializationError
from .maps import PRIVATE, bytes_type, map_again, nameless_memory

__all__ = ["Arena", "at_of", "forking", "new_arena", "release", "triples"]

BLOCKS = 16_383  # of an area, at most
_WORDS = 3
STATE, BEGIN, SIZE = range(_WORDS)
BACKED, FREED = range(2)  # of a whole area, in the place of a block
TABLE_WORDS = (BLOCKS + 1) * _WORDS  # the first three: bytes with pages, a mark of the last free, nothing

FREE = 0
USED = -1  # by who writes it, or by the parent that reads it; a worker that reads it has a number above zero
_HELD = -2  # by forked children, for ever

MOST_MAPS = 64
"""Each takes a descriptor. A worker that keeps more parts of a shared value has copies of the others."""

_MOST_ADDRESSES = 1 << 42  # for one arena; of all that are open, a process has a few at once


class Arena:
    """The file, as a process has it mapped. It travels to a worker when that is started.

    It is mapped when something large is to travel: many executors never have that.

    Args:
        workers: how many areas there are, besides the parent's, which is number 0.

    Raises:
        OSError: there is no such memory here, or there are not enough descriptors.
    """

    def __init__(self, workers: int) -> None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
        # Addresses cost nothing, and blocks of a size that is not used any more keep theirs.
        size = _whole_pages(min(4 * memory, _MOST_ADDRESSES // (workers + 1)))
        self._attach(nameless_memory(), workers + 1, size, memory // 2)

    def _attach(self, fd: int, areas: int, area_bytes: int, budget: int) -> None:
        self.fd = fd
        self.closed = False
        self.layout = areas, area_bytes, budget
        self._first = _whole_pages(areas * TABLE_WORDS * 8)
        self._map: mmap.mmap | None = None
        self._views: dict[int, weakref.finalize[Any, Any]] = {}  # by where the block is in the tables
        self._shared: dict[int, _Shared] = {}  # by key
        self._held: dict[int, set[object]] = {}  # by place, which forked workers have views of a block
        self._dropped: set[int] = set()  # those of them of which there is no other view any more
        self._for_ever: set[int] = set()  # places of which other forked children have views
        self._remapped: set[int] = set()  # places that this process, a forked child, has for itself
        self._pid = os.getpid()
        self._next_free = count(1).__next__
        self.when_freed: Callable[[], object] | None = None  # called as `_let_go` is
        self._mapping = threading.RLock()
        _all.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (reduction.DupFd(self.fd), *self.layout)

    def is_mapped(self) -> bool:
        """Map it, if that was not done yet; whether it is. There may be no addresses left."""
        if self._map is None:
            with self._mapping:
                if self._map is None:
                    self._open_map()
        return self._map is not None

    def _open_map(self) -> None:
        areas, area_bytes, _ = self.layout
        size = self._first + areas * area_bytes
        try:
            if os.fstat(self.fd).st_size < size:
                os.ftruncate(self.fd, size)
            mapped = mmap.mmap(self.fd, size)
        except (OSError, ValueError):
            return
        self.bytes = memoryview(mapped)
        self.tables = self.bytes[: areas * TABLE_WORDS * 8].cast("q")
        self._map = mapped

    def begin_of(self, area: int) -> int:
        return self._first + area * self.layout[1]

    def give_up(self, begin: int, size: int) -> bool:
        """Let the system have these pages; whether it can."""
        assert self._map is not None
        try:
            self._map.madvise(mmap.MADV_REMOVE, begin, size)
        except (AttributeError, OSError):  # not Linux
            return False
        return True

    # The reader

    def view(self, area: int, block: int, size: int) -> memoryview:
        """What is in a block, which becomes free when nothing is left of this view."""
        if not self.is_mapped():
            raise _unmappable()
        at = at_of(area, block)
        # Of the size of the block: there are few of these, and each takes a type, which is not small.
        exporter = bytes_type(self.tables[at + SIZE]).from_buffer(self._map, self.tables[at + BEGIN])
        self._views[at] = view = weakref.finalize(exporter, self._let_go, at)
        view.atexit = False
        return PickleBuffer(exporter).raw()[:size]

    def views(self, area: int, places: bytes) -> list[memoryview]:
        """Views of the buffers that came in a message, as `OutOfBand.places` has them.

        Raises:
            SerializationError: there are no addresses left, or no descriptors for parts of what is shared.
        """
        found: list[Any] = []
        parts: dict[int, list[tuple[int, int, int]]] = {}
        for owner, begin, size in triples(places):
            if owner < 0:
                parts.setdefault(owner, []).append((len(found), begin, size))
            found.append(None if owner < 0 else self.view(area, owner, size))
        for key, those in parts.items():
            numbers, begins, sizes = zip(*those, strict=True)
            for number, view in zip(numbers, self._private(key, begins, sizes), strict=True):
                found[number] = view
        return found

    def copy_on_write(self, key: int, places: bytes, let_go: Callable[[], object]) -> list[memoryview]:
        """Views of blocks that other processes have too; to each it seems as if nobody else wrote to them.

        Args:
            key: by which `views` gives parts of them, until it is forgotten.
            let_go: called when it is forgotten and nothing is left of all these views, and of the parts;
                anywhere, in any thread.

        Raises:
            SerializationError: there are no descriptors or addresses left.
        """
        _, begins, sizes = zip(*triples(places), strict=True)
        self.is_mapped()  # as long as there are descriptors for it
        self._shared[key] = _Shared(let_go)
        return self._private(key, begins, sizes)

    def _private(self, key: int, begins: Sequence[int], sizes: Sequence[int]) -> list[memoryview]:
        """Views of what is shared, which together take one descriptor."""
        if key not in self._shared:  # it would be read while it is written to
            raise SerializationError("a part came of a shared value that this worker does not have")
        first = min(begins) // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        size = max(map(add, begins, sizes)) - first
        alive = self._shared[key].alive
        if len(alive) > MOST_MAPS:
            return self._copies(begins, sizes)
        try:
            private = mmap.mmap(self.fd, size, PRIVATE, offset=first)
        except (OSError, ValueError, MemoryError):
            return self._copies(begins, sizes)
        alive.add(id(private))
        weakref.finalize(private, self._let_go_one, key, id(private)).atexit = False
        whole = memoryview(private)
        return [whole[begin - first :][:size] for begin, size in zip(begins, sizes, strict=True)]

    def _copies(self, begins: Sequence[int], sizes: Sequence[int]) -> list[memoryview]:
        """The same in memory of its own, where descriptors or addresses are scarce."""
        if not self.is_mapped():
            raise _unmappable()
        try:
            return [
                memoryview(bytearray(self.bytes[begin : begin + size]))
                for begin, size in zip(begins, sizes, strict=True)
            ]
        except MemoryError:
            raise _unmappable() from None

    def forget(self, key: int) -> None:
        """Nothing that comes will mention it any more."""
        self._let_go_one(key, None)

    def _let_go_one(self, key: int, one: object) -> None:
        if (shared := self._shared.get(key)) is not None:
            shared.alive.discard(one)
            if not shared.alive and self._shared.pop(key, None) is not None:
                shared.let_go()

    def _let_go(self, at: int) -> None:
        """Called anywhere, in any thread, in the middle of anything: it takes no lock."""
        if os.getpid() != self._pid or self._views.pop(at, None) is None:
            return  # in a forked child: the view is its parent's as well
        if at in self._held:
            self._dropped.add(at)
            if at in self._held:
                return
            self._dropped.discard(at)
        self._free(at)

    def _free(self, at: int) -> None:
        self._mark_free(at)
        if self.when_freed is not None:
            self.when_freed()
        if self.closed:
            self.give_up(self.tables[at + BEGIN], self.tables[at + SIZE])
            self._unmap()

    def _mark_free(self, at: int) -> None:
        self.tables[at + STATE] = FREE
        self.tables[at // TABLE_WORDS * TABLE_WORDS + FREED] = self._next_free()

    # Forks

    def hold_for(self, child: object | None) -> None:
        """A child is forked, which has all views too: their blocks are not used again.

        Args:
            child: a worker of this process, which will be released; None for a child of which nobody knows
                when it ends.
        """
        if child is not None:
            for at in list(self._views):
                self._held.setdefault(at, set()).add(child)
            for shared in list(self._shared.values()):
                shared.alive.add(child)
            return
        while self._views:
            at, view = self._views.popitem()
            self.tables[at + STATE] = _HELD
            self._for_ever.add(at)
            view.detach()
        for shared in list(self._shared.values()):
            shared.let_go = _never

    def release(self, child: object) -> None:
        """A worker that was forked is gone."""
        for at, children in list(self._held.items()):
            children.discard(child)
            if not children and self._held.pop(at, None) is not None and at in self._dropped:
                self._dropped.discard(at)
                self._free(at)
        for key in list(self._shared):
            self._let_go_one(key, child)
        if self.closed:
            self._unmap()

    def make_private(self) -> None:
        """In a forked child: what it writes to what it has from its parent is its own from now on.

        What the parent writes there later, it sees until it writes to the same page.
        """
        if self._pid == os.getpid() or self._map is None or self.fd < 0:
            return
        places = (self._views.keys() | self._for_ever) - self._remapped
        self._remapped |= places
        for at in places if sys.platform == "linux" else ():
            map_again(self._map, self.fd, self.tables[at + BEGIN], self.tables[at + SIZE])

    def adopt(self) -> None:
        """In a forked worker: from now on it has views of its own; those that it inherited are no concern."""
        self._pid = os.getpid()
        self._views.clear()
        self._held.clear()
        self._dropped.clear()

    # The parent, when a worker is dead, or all are

    def forget_reader(self, reader: int) -> None:
        """Free what a worker had been sent."""
        self._see_all()
        for at in self.blocks(0):
            if self.tables[at + STATE] == reader:
                self._mark_free(at)

    def forget_writer(self, area: int) -> None:
        """Free what a worker had written, and nobody reads."""
        self._see_all()
        for at in self.blocks(area):
            if self.tables[at + STATE] == USED and at not in self._views and at not in self._held:
                self._mark_free(at)

    def _see_all(self) -> None:
        """Map it, if anybody else has: it has a size since then."""
        if self._map is None and self.fd >= 0 and os.fstat(self.fd).st_size:
            self.is_mapped()

    def blocks(self, area: int) -> Iterable[int]:
        if self._map is None:
            return
        for at in range(at_of(area, 0), at_of(area, BLOCKS), _WORDS):
            if not self.tables[at + SIZE]:
                break
            yield at

    def disown(self) -> None:
        """In a forked child: it has no use for the file."""
        self.make_private()
        self.closed = True
        self._close()

    def close(self) -> None:
        """Give up the memory, but for what somebody still has views of."""
        if not self.closed:
            for area in range(self.layout[0]):
                for at in self.blocks(area):
                    viewed = at in self._views or at in self._held
                    if not viewed and self.tables[at + STATE] != _HELD:
                        self.give_up(self.tables[at + BEGIN], self.tables[at + SIZE])
            self.closed = True  # from now on, who lets go of the last view unmaps it
            self._unmap()

    def _unmap(self) -> None:
        """Let go of the file and the addresses, if nobody has a view; else the last one does."""
        if self._views or self._held:
            return
        self._close()
        mapped, self._map = self._map, None  # at a stroke: two may be the last
        if mapped is not None:
            self.tables.release()
            self.bytes.release()
            with suppress(BufferError):  # the last view is about to go
                mapped.close()

    def _close(self) -> None:
        with closing_fds:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


class _Shared:
    """What is alive of something that all workers have.

    Maps, by identity; forked children, which have these too; None, until it is forgotten.
    """

    def __init__(self, let_go: Callable[[], object]) -> None:
        self.let_go = let_go
        self.alive: set[object] = {None}


def _never() -> None:
    """There may always be somebody who has it."""


def _unmappable() -> SerializationError:
    return SerializationError(
        "the shared memory in which large data came could not be mapped: there are no addresses left in this "
        "process, or no file descriptors (`ulimit -v`, `ulimit -n`)"
    )


def new_arena(workers: int) -> Arena | None:
    """An arena; None where none can be had, and all goes through the pipe."""
    if find_spec("_ctypes") is None:
        return None
    try:
        return Arena(workers)
    except (OSError, ValueError, AttributeError):
        return None


def triples(places: bytes | array[int]) -> Iterator[tuple[int, int, int]]:
    """What the places in a message say of each buffer."""
    numbers = array("q", places) if isinstance(places, bytes) else places
    return zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)


def at_of(area: int, block: int) -> int:
    """Where a block is in the tables."""
    return area * TABLE_WORDS + (block + 1) * _WORDS


def _whole_pages(size: int) -> int:
    return -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def _attached(duplicate: Any, *layout: int) -> Arena:
    arena = Arena.__new__(Arena)
    arena._attach(duplicate.detach(), *layout)
    return arena


_all: weakref.WeakSet[Arena] = weakref.WeakSet()


_forking = threading.local()


@contextmanager
def forking(child: object) -> Iterator[None]:
    """What is forked here, in this thread, is a worker, which `release` will be told of."""
    _forking.child = child
    try:
        yield
    finally:
        _forking.child = None


def release(child: object) -> None:
    """A worker that was forked is gone."""
    for arena in list(_all):
        arena.release(child)


def _hold_for_children() -> None:
    child = getattr(_forking, "child", None)
    for arena in list(_all):
        arena.hold_for(child)


def _make_private_in_child() -> None:
    for arena in list(_all):
        arena.make_private()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_for_children, after_in_child=_make_private_in_child)
