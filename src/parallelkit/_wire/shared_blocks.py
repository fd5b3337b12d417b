"""Blocks that several workers read: the large buffers of functions, placed once for all of them."""

from __future__ import annotations

import threading
from time import monotonic

from .._work import owned
from .arena import triples
from .placing import Writer, blocks_of, size_class

__all__ = ["SharedBlocks"]

PATIENCE = 2.5e-11
"""Seconds for each byte. New pages take 20 times as long as this, to find and to clear."""


class _Shared:
    def __init__(self, places: bytes):
        self.places = places
        self.readers: set[int] = set()
        self.wanted = True


class SharedBlocks:
    """Which workers have which of them: they are free when they are not wanted any more, and nobody has them.

    A key stands for all blocks of a work.
    """

    def __init__(self, writer: Writer):
        self._writer = writer
        self._lock = threading.RLock()  # which knows who has it
        self._freed = threading.Condition(self._lock)
        self._shared: dict[int, _Shared] = {}
        self._listener = 0  # the thread that hears of it when workers let go

    def add(self, key: int, places: bytes) -> None:
        with self._lock:
            self._shared[key] = _Shared(places)

    def note_sent(self, key: int, worker: int) -> bool:
        """It is about to be sent to a worker; whether it still may be.

        What is not wanted any more is not sent again: the worker may just be saying that it has let go of it.
        """
        with self._lock:
            shared = self._shared.get(key)
            if shared is None or not shared.wanted:
                return False
            shared.readers.add(worker)
            return True

    def note_let_go(self, key: int, worker: int) -> None:
        with self._lock:
            self._listener = threading.get_ident()
            if (shared := self._shared.get(key)) is not None:
                shared.readers.discard(worker)
                self._free(key, shared)

    def forget(self, key: int) -> None:
        """It will not be sent any more."""
        with self._lock:
            if (shared := self._shared.get(key)) is not None:
                shared.wanted = False
                self._free(key, shared)

    def forget_reader(self, worker: int) -> None:
        with self._lock:
            for key, shared in list(self._shared.items()):
                shared.readers.discard(worker)
                self._free(key, shared)

    def _free(self, key: int, shared: _Shared) -> None:
        if not shared.wanted and not shared.readers and self._shared.pop(key, None) is not None:
            self._writer.give_back(blocks_of(shared.places))
            self._freed.notify_all()

    def wait_for(self, size: int) -> bool:
        """Wait a moment for a block of this size class that workers are just letting go of; whether one came.

        Who calls again and again with the same large array has two blocks for it otherwise, and new pages.
        """
        if owned(self._lock) or threading.get_ident() == self._listener:
            return False
        until = monotonic() + PATIENCE * size
        with self._freed:
            before = self._leaving(size)
            while before and self._leaving(size) == before:
                if not self._freed.wait(max(0.0, until - monotonic())):
                    return False
        return bool(before)

    def _leaving(self, size: int) -> int:
        """How many blocks of this size class are not wanted any more."""
        leaving = (shared.places for shared in self._shared.values() if not shared.wanted)
        return sum(size_class(each) == size for places in leaving for *_, each in triples(places))

    def close(self) -> None:
        """The arena is closed: what is let go of later is of no use any more."""
        with self._lock:
            self._shared.clear()

    def is_inside(self) -> bool:
        """Whether the calling thread holds the lock."""
        return owned(self._lock)
