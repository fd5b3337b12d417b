"""An arena as several processes have it, within one."""

from __future__ import annotations

import os
from pickle import PickleBuffer

from parallelkit._wire.arena import Arena
from parallelkit._wire.placing import OutOfBand, Writer

WORKERS = 2


def mapped_again(arena: Arena) -> Arena:
    """The arena as another process has it."""
    again = Arena.__new__(Arena)
    again._attach(os.dup(arena.fd), *arena.layout)
    return again


def written(writer: Writer, content: bytes) -> bytes:
    """The place of a buffer of this content."""
    buffers = OutOfBand(writer)
    assert not buffers(PickleBuffer(content))
    buffers.rest()
    return buffers.places.tobytes()


def free_blocks(writer: Writer) -> int:
    if writer._count < 0:
        return -1
    writer._collect()
    return sum(map(len, (*writer._idle.values(), *writer._bare.values())))


def address_of(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))
