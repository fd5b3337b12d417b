"""Putting large buffers into an area of the arena: which blocks, and when they are used again."""

from __future__ import annotations

import mmap
import threading
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pickle import PickleBuffer
from typing import Any

from .._work import owned
from .arena import BACKED, BEGIN, BLOCKS, FREE, FREED, SIZE, STATE, TABLE_WORDS, USED, Arena, at_of, triples
from .originals import LEAST_BYTES, Memory, Parts

__all__ = ["OutOfBand", "Writer", "blocks_of", "size_class", "whole"]

FEW = 256
"""So many blocks are looked through each time. Marks of several readers may be taken for one another."""

COPY_BYTES = 1 << 24
"""Copied at a stroke: some 2 ms, in which no other thread runs."""


class Writer:
    """Who owns an area, and puts buffers into it."""

    def __init__(self, arena: Arena, area: int) -> None:
        areas, area_bytes, budget = arena.layout
        self._arena = arena
        self._budget = budget
        self._backed = range(0, areas * TABLE_WORDS, TABLE_WORDS)  # where each area has its bytes with pages
        self._own = area * TABLE_WORDS
        self._area = area
        self._growing = threading.RLock()  # which knows who has it
        self._idle: defaultdict[int, list[int]] = defaultdict(list)  # free blocks, by size
        self._bare: defaultdict[int, list[int]] = defaultdict(list)  # those without pages
        self._lent: set[int] = set()  # blocks that were used, as far as is known
        self._seen = 0  # the last mark of something that became free
        self._count = -1  # it was not looked yet which blocks there are
        self._end = arena.begin_of(area)
        self.wait_for: Callable[[int], bool] = lambda size: False  # for a block to become free in a moment
        self._last = self._end + area_bytes

    def _begin(self) -> bool:
        """Have the arena mapped, and look which blocks a predecessor made; whether that can be done now."""
        if owned(self._growing):  # a signal handler, or a garbage collector, in the middle of this
            return False
        with self._growing:
            if self._count < 0 and self._arena.is_mapped():
                self._take_over()
        return self._count >= 0

    def _take_over(self) -> None:
        tables, count = self._arena.tables, 0
        for at in self._arena.blocks(self._area):
            self._lent.add(count)  # it is seen when one is needed whether they are free
            count += 1
            self._end = tables[at + BEGIN] + tables[at + SIZE]
        self._count = count

    def take(self, size: int) -> tuple[int, int] | None:
        """A block for so many bytes, and where it begins; None if there is no room."""
        block = self._take(size_class(size))
        return None if block is None else (block, self._arena.tables[at_of(self._area, block) + BEGIN])

    def fill(self, begin: int, *pieces: memoryview) -> None:
        """Copy into a block, one piece after the other."""
        memory = self._arena.bytes
        for piece in pieces:
            for start in range(0, piece.nbytes, COPY_BYTES):
                part = piece[start : start + COPY_BYTES]
                memory[begin : begin + part.nbytes] = part
                begin += part.nbytes

    def lend(self, blocks: Iterable[int], reader: int) -> None:
        """From now on these are a worker's, until it lets go of them."""
        for block in blocks:
            self._arena.tables[at_of(self._area, block) + STATE] = reader

    def give_back(self, blocks: Iterable[int]) -> None:
        """These were not sent."""
        with suppress(ValueError):  # the arena was closed meanwhile
            self.lend(blocks, FREE)
        self._seen = -1

    def trim(self) -> None:
        """Let the system have the pages of all free blocks."""
        if self._count < 0:
            return
        self._collect()
        tables = self._arena.tables
        for size, blocks in list(self._idle.items()):
            while blocks:
                block = blocks.pop()
                if not self._arena.give_up(tables[at_of(self._area, block) + BEGIN], size):
                    blocks.append(block)
                    return
                tables[self._own + BACKED] -= size
                self._bare[size].append(block)

    def _take(self, size: int) -> int | None:
        if self._count < 0 and not self._begin():
            return None
        block = self._pop(self._idle[size])
        if block is None:
            self._collect()
            block = self._pop(self._idle[size])
        if block is None and self.wait_for(size):
            self._collect()
            block = self._pop(self._idle[size])
        if block is None and self.has_room(size):
            block = self._pop(self._bare[size])
            if block is None:
                block = self._new(size)
            if block is not None:
                self._arena.tables[self._own + BACKED] += size
        if block is not None:
            self._arena.tables[at_of(self._area, block) + STATE] = USED
            self._lent.add(block)
        return block

    @staticmethod
    def _pop(blocks: list[int]) -> int | None:
        with suppress(IndexError):  # another thread was faster
            return blocks.pop()
        return None

    def _collect(self) -> None:
        """See which blocks have come back. Of many, only where there is a mark that some have."""
        tables = self._arena.tables
        freed = tables[self._own + FREED]
        if freed == self._seen and len(self._lent) > FEW:
            return
        self._seen = freed
        for block in list(self._lent):
            at = at_of(self._area, block)
            if tables[at + STATE] == FREE:
                with suppress(KeyError):  # another thread was faster
                    self._lent.remove(block)
                    self._idle[tables[at + SIZE]].append(block)

    def has_room(self, size: int) -> bool:
        """Whether so much more memory may be taken, if need be in the place of free blocks."""
        if self._count < 0 and not self._begin():
            return False
        if self._backed_bytes() + size > self._budget:
            self.trim()
        return self._backed_bytes() + size <= self._budget

    def _backed_bytes(self) -> int:
        return sum(self._arena.tables[at] for at in self._backed)

    def _new(self, size: int) -> int | None:
        if owned(self._growing):  # a signal handler, or a garbage collector, in the middle of this
            return None
        with self._growing:
            if self._count == BLOCKS or self._end + size > self._last:
                return None
            block, begin = self._count, self._end
            at = at_of(self._area, block)
            self._arena.tables[at + BEGIN], self._arena.tables[at + STATE] = begin, USED
            self._arena.tables[at + SIZE] = size
            self._count, self._end = block + 1, begin + size
            return block


_NO_PLACES = array("q")


class OutOfBand:
    """Takes the large buffers out of a pickle, as its `buffer_callback`; then the pickle, if that is large.

    They are copied at the end: what is pickled in one way may have to be pickled in another.

    Args:
        parts: finds what does not need to be copied.

    Attributes:
        places: three numbers of each buffer that was taken, in turn: the block, or the key of the value that
            it is a part of; where it begins in the arena; its size.
    """

    __slots__ = ("_parts", "_sources", "_writer", "places")

    def __init__(self, writer: Writer, parts: Parts | None = None) -> None:
        self._writer = writer
        self._parts = parts
        self.places = _NO_PLACES
        self._sources: list[tuple[memoryview, int]] = []  # and where each is to be copied to

    def __call__(self, buffer: PickleBuffer) -> bool:
        """Whether the buffer stays in the pickle."""
        try:
            raw = buffer.raw()
        except BufferError:  # in pieces: the pickler says what it makes of that
            return True
        if raw.nbytes < LEAST_BYTES:
            return True
        if self._parts is not None and (part := self._parts.find(raw)) is not None:
            self._add(*part, raw.nbytes)
            return False
        if (taken := self._writer.take(raw.nbytes)) is None:
            return True
        self._add(*taken, raw.nbytes)
        self._sources.append((raw, taken[1]))
        return False

    def _add(self, owner: int, begin: int, size: int) -> None:
        if self.places is _NO_PLACES:
            self.places = array("q")
        self.places.extend((owner, begin, size))

    def rest(self, *pieces: bytes) -> bytes:
        """Copy what was taken; what is left to be sent of the pickle.

        That is nothing where the pickle was taken too, as the last buffer.
        """
        try:
            for source, begin in self._sources:
                self._writer.fill(begin, source)
            size = sum(map(len, pieces))
            if size < LEAST_BYTES or (taken := self._writer.take(size)) is None:
                return b"".join(pieces)
            self._add(*taken, size)
            self._writer.fill(taken[1], *[memoryview(piece) for piece in pieces])
            return b""
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """What was pickled is not sent."""
        if self.places:
            self._writer.give_back(blocks_of(self.places))
            self.places = _NO_PLACES
            self._sources.clear()
        if self._parts is not None:
            self._parts.forget()

    def copied(self) -> Memory:
        """The buffers that are copied, and where to."""
        return Memory(self._sources)


def whole(pickled: bytes, buffers: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """A pickle as it was before `OutOfBand.rest`, and the buffers that are outside of it."""
    return (pickled, buffers) if pickled or not buffers else (buffers[-1], buffers[:-1])


def blocks_of(places: bytes | array[int]) -> Iterable[int]:
    """The blocks in a message, where nobody is to see what is in them."""
    return [owner for owner, *_ in triples(places) if owner >= 0]


def size_class(size: int) -> int:
    """The size of a block for so many bytes: an eighth more at the most, or to the end of a page."""
    step = max(mmap.PAGESIZE, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step
