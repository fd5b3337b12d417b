"""Which large buffers are parts of a shared value: those do not travel, as all workers have it mapped."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from pickle import PickleBuffer
from typing import Any

from .._sharing import Shared, living

__all__ = ["LEAST_BYTES", "Memory", "Parts"]

LEAST_BYTES = 1 << 16  # benchmarks/constants.py
"""Smaller buffers stay in the pickle."""


class Memory:
    """Pieces of this process's memory, and where each begins in the arena.

    As long as this is there, nothing else can come to be at their addresses.
    """

    def __init__(self, pieces: Iterable[tuple[memoryview, int]]) -> None:
        self._pieces = sorted(
            (_address(piece), begin, piece.nbytes, id(piece), piece) for piece, begin in pieces
        )
        self._addresses = [address for address, *_ in self._pieces]
        self.nbytes = sum(piece.nbytes for *_, piece in self._pieces)

    def find(self, address: int, size: int) -> int | None:
        """Where so many bytes are in the arena; None if they are not all in one piece."""
        number = bisect_right(self._addresses, address) - 1
        if number < 0:
            return None
        first, begin, length, *_ = self._pieces[number]
        offset = address - first
        return begin + offset if offset + size <= length else None


class Parts:
    """Finds parts of shared values among the buffers of a message.

    Args:
        place: has a value placed, of so many bytes; its key, and where it is. None if that cannot be done.

    Attributes:
        values: those of which there are parts.
    """

    def __init__(self, place: Callable[[Shared[Any], int], tuple[int, Memory] | None]) -> None:
        self.values: list[Shared[Any]] = []
        self._place = place
        self._taken: list[tuple[int, int]] = []  # from, to, in the arena

    def find(self, buffer: memoryview) -> tuple[int, int] | None:
        """The key of the value, and where the part begins in the arena."""
        address, size = _address(buffer), buffer.nbytes
        for shared in living():
            memory = _memory_of(shared)
            if memory.find(address, size) is not None:
                placed = self._place(shared, memory.nbytes)
                break
        else:
            return None
        if placed is None:
            return None
        key, there = placed
        begin = there.find(address, size)
        # The parts in a message share a view. What overlaps is to be apart.
        if begin is None or not self._takes(begin, begin + size):
            return None
        self.values.append(shared)
        return key, begin

    def _takes(self, begin: int, end: int) -> bool:
        number = bisect_right(self._taken, (begin, end))
        if number and self._taken[number - 1][1] > begin:
            return False
        if number < len(self._taken) and self._taken[number][0] < end:
            return False
        self._taken.insert(number, (begin, end))
        return True

    def forget(self) -> None:
        """The message is made in another way."""
        self.values.clear()
        self._taken.clear()


def _memory_of(shared: Shared[Any]) -> Memory:
    """Of an array, or of those in a list, a tuple or a dictionary. To look deeper would be to pickle it."""
    memory = _memories.get(shared)
    if memory is None:
        value = shared.value
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, (list, tuple)):
            value = (value,)
        found = (_large_buffer(part) for part in value)
        _memories[shared] = memory = Memory((buffer, 0) for buffer in found if buffer is not None)
    return memory


_memories: weakref.WeakKeyDictionary[Shared[Any], Memory] = weakref.WeakKeyDictionary()


def _large_buffer(value: Any) -> memoryview | None:
    try:
        buffer = PickleBuffer(value).raw()
    except (TypeError, ValueError, BufferError):  # it has none, or none that is in one piece
        return None
    return buffer if buffer.nbytes >= LEAST_BYTES else None


def _address(buffer: memoryview) -> int:
    import ctypes  # 10 ms

    asked, api = _buffer_type()(), ctypes.pythonapi
    api.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(asked), 0)
    api.PyBuffer_Release(ctypes.byref(asked))
    return int(asked.address or 0)


@lru_cache
def _buffer_type() -> Any:
    """`Py_buffer`, of which the address is the first word, as of CPython's stable interface."""
    import ctypes

    class Buffer(ctypes.Structure):
        _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_char * 120))

    return Buffer
