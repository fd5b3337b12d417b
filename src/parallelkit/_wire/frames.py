"""Frames on a byte stream: a fixed head that can always be read, and two payloads that may not.

    head     kind, flags, slot, number, first, second, seconds, sizes of what follows
    places   where the large buffers of the values or items are, which do not come through the pipe
    body     pickled work or values
    extra    pickled items or failures

What belongs to whom (the number of the chunk) stands in the head, outside of any pickle, so that a frame
whose payload cannot be read still has an owner.

One end does not wait: the parent's. What a pipe does not take at once it keeps, and writes when there is
room. The worker's end waits.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections import deque
from enum import IntEnum
from typing import NamedTuple

from .._work import owned

__all__ = [
    "FUNCTION",
    "LAST",
    "MORE",
    "ONCE",
    "PIECE_BYTES",
    "RECORDS",
    "SHARED",
    "UNRETRIABLE",
    "Frame",
    "FrameReader",
    "FrameWriter",
    "Kind",
    "SharedWriter",
    "is_readable",
]

_HEAD = struct.Struct("=BBHIqqqdQQ")
_READ_BYTES = 65536
_JOIN_BYTES = 4096  # up to here copying is cheaper than writing in parts

PIECE_BYTES = min(getattr(select, "PIPE_BUF", 512), _JOIN_BYTES) - _HEAD.size
"""A frame with no more payload than this is written at a stroke: whole, or not at all."""


class Kind(IntEnum):
    """What a frame says. First from the parent to a worker, then from a worker to the parent."""

    CHUNK = 1  # number: chunk, first: key of the work, second: index of the first item; work?, items
    FORGET = 2  # first: key of a work that will not be used any more
    LEAVE = 3  # end in good order
    RULES = 4  # extra: levels of loggers and filters of warnings, from now on
    WORK = 5  # first: key of a work, or of a shared value, that chunks name from now on; body: it
    TRIM = 6  # let the system have the pages of free blocks
    READY = 10  # the initializer is through
    BROKEN = 11  # the initializer raised; extra: the exception
    SETTLED = 12  # number: chunk, first, second: items from, to; values, failures
    REJECTED = 13  # number: chunk; extra: failures, on unpickling its work or items
    TOLD = 14  # number: of a record or a warning; extra: a piece of it
    LET_GO = 15  # first: key of a work whose large buffers nobody has any more


LAST = 1
"""SETTLED: the worker is done with the chunk."""
UNRETRIABLE = 2
"""SETTLED: what failed cannot be tried again."""
RECORDS = 4
"""SETTLED: the values are records of a journal."""
MORE = 1
"""TOLD: another piece of it comes."""
ONCE = 1
"""CHUNK: the work comes with this chunk and for it alone."""
SHARED = 1
"""WORK: it is a shared value."""
FUNCTION = 2
"""CHUNK: the work is a plain function, to be called with (args, kwargs)."""


class Frame(NamedTuple):
    kind: int
    flags: int = 0
    slot: int = 0
    number: int = 0
    first: int = 0
    second: int = 0
    seconds: float = 0.0
    body: bytes = b""
    extra: bytes = b""
    places: bytes = b""

    def parts(self, slot: int, with_body: bool) -> list[bytes]:
        """The bytes to write, one after the other; the slot is known last, and whether the body is needed."""
        kind, flags, _, number, first, second, seconds, body, extra, places = self
        if not with_body:
            body = b""
        body_size, extra_size = len(body), len(extra)
        head = _HEAD.pack(
            kind, flags, slot, len(places), number, first, second, seconds, body_size, extra_size
        )
        if places:
            head += places
        return [head + body + extra] if body_size + extra_size < _JOIN_BYTES else [head, body, extra]


def is_readable(fd: int) -> bool:
    """Whether there is something to read from a file descriptor, or its end, right now."""
    if hasattr(select, "poll"):  # select() takes no number above 1,023
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([fd], [], [], 0)[0])


class FrameReader:
    """Reads frames from a file descriptor, which may be blocking or not."""

    def __init__(self, fd: int):
        self._fd = fd
        self._buffer = bytearray()
        self._rest: memoryview | None = None  # the unfilled end of a large frame's own buffer
        self.bytes_read = 0

    def read(self) -> list[Frame]:
        """Read once; return the frames that are complete now.

        Raises:
            EOFError: the other end is closed.
            BlockingIOError: there is nothing to read, on a descriptor that does not wait.
        """
        if self._rest is not None:
            got = os.readv(self._fd, [self._rest])
            if not got:
                raise EOFError
            self.bytes_read += got
            self._rest = self._rest[got:]
            if len(self._rest):
                return []
            self._rest = None
        else:
            data = os.read(self._fd, _READ_BYTES)
            if not data:
                raise EOFError
            self.bytes_read += len(data)
            if not self._buffer and (frame := _only_frame(data)) is not None:
                return [frame]
            self._buffer += data
        return self._split()

    def _split(self) -> list[Frame]:
        frames: list[Frame] = []
        buffer, start = self._buffer, 0
        while len(buffer) - start >= _HEAD.size:
            head = _HEAD.unpack_from(buffer, start)
            places_size, body_size, extra_size = head[3], head[8], head[9]
            places = start + _HEAD.size
            body = places + places_size
            extra = body + body_size
            end = extra + extra_size
            if len(buffer) < end:
                if end - start > _READ_BYTES:
                    self._make_room(start, end - start)
                    return frames
                break
            view = memoryview(buffer)
            payloads = bytes(view[body:extra]), bytes(view[extra:end]), bytes(view[places:body])
            frames.append(Frame._make((*head[:3], *head[4:8], *payloads)))
            view.release()
            start = end
        del buffer[:start]
        return frames

    def _make_room(self, start: int, size: int) -> None:
        """Read the rest of a large frame straight into its place."""
        whole = bytearray(size)
        have = len(self._buffer) - start
        whole[:have] = memoryview(self._buffer)[start:]
        self._buffer = whole
        self._rest = memoryview(whole)[have:]


def _only_frame(data: bytes) -> Frame | None:
    """The frame that these bytes are, as in most round trips; None where they are more or less than one."""
    if len(data) < _HEAD.size:
        return None
    kind, flags, slot, places_size, number, first, second, seconds, body_size, extra_size = _HEAD.unpack_from(
        data
    )
    body = _HEAD.size + places_size
    extra = body + body_size
    if len(data) != extra + extra_size:
        return None
    places = data[_HEAD.size : body] if places_size else b""
    return Frame(kind, flags, slot, number, first, second, seconds, data[body:extra], data[extra:], places)


class FrameWriter:
    """Writes frames to a file descriptor; one that does not wait may leave a backlog."""

    def __init__(self, fd: int):
        self._fd = fd
        self._backlog: deque[memoryview] = deque()
        self.bytes_written = 0  # or to be written

    def write(self, frame: Frame, slot: int = 0, *, with_body: bool = True) -> bool:
        """Write a frame, or put it behind those that wait; whether nothing waits now."""
        parts = frame.parts(slot, with_body)
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        self.bytes_written += size
        if self._backlog:
            self._backlog.extend(memoryview(part) for part in parts)
            return False
        try:
            written = os.writev(self._fd, parts)
        except BlockingIOError:
            written = 0
        if written == size:
            return True
        self._backlog.extend(memoryview(part) for part in parts)
        self._drop(written)
        return self.flush()

    @property
    def waits(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._backlog)

    def flush(self) -> bool:
        """Write what waits, as far as there is room; whether nothing waits now."""
        while self._backlog:
            try:
                self._drop(os.writev(self._fd, [*self._backlog][:16]))
            except BlockingIOError:
                return False
        return True

    def _drop(self, written: int) -> None:
        while written:
            part = self._backlog.popleft()
            if written < len(part):
                self._backlog.appendleft(part[written:])
                return
            written -= len(part)


class SharedWriter:
    """Writes frames of several threads to a file descriptor that waits: each whole, one after the other.

    A signal handler or a garbage collector may come between in the middle of a write, and write itself. What
    is written there waits until that write is done.
    """

    def __init__(self, fd: int):
        self._writer = FrameWriter(fd)
        self._lock = threading.RLock()  # which knows who has it
        self._from_inside: deque[Frame] = deque()

    def write(self, frame: Frame) -> None:
        lock = self._lock
        if owned(lock):
            self._from_inside.append(frame)
            return
        with lock:
            self._writer.write(frame)
            if self._from_inside:
                self._write_what_waits()
        while self._from_inside:  # it came in between the last look and the end of the lock
            with lock:
                self._write_what_waits()

    def _write_what_waits(self) -> None:
        while self._from_inside:
            self._writer.write(self._from_inside.popleft())
