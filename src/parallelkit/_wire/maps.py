"""What Python does not give of the system's memory: files without names, and maps as they are needed here."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from functools import lru_cache
from typing import Any

__all__ = ["PRIVATE", "bytes_type", "map_again", "nameless_memory"]

PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_NORESERVE", 0)
_FIXED = 0x10  # on Linux; Python does not have it


def nameless_memory() -> int:
    """A file in memory, of which nothing is left when the last process that has it is gone.

    Raises:
        OSError: there is none, or there are no more descriptors.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            fd = os.memfd_create("parallelkit-arena", os.MFD_CLOEXEC)
            os.fchmod(fd, 0o600)
            return fd
    from multiprocessing.shared_memory import SharedMemory

    named = SharedMemory(create=True, size=mmap.PAGESIZE)
    try:
        return os.dup(named._fd)  # type: ignore[attr-defined]
    finally:
        named.unlink()
        named.close()


@lru_cache(maxsize=64)
def bytes_type(size: int) -> Any:
    """What exports so many bytes of a map, and is known to be gone when nobody has a view of it any more."""
    import ctypes  # 10 ms

    return ctypes.c_char * size


def map_again(mapped: mmap.mmap, fd: int, begin: int, size: int) -> None:
    """Map a part of a file once more, at the same addresses, with copy on write."""
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped)) + begin
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, PRIVATE | _FIXED
    _system_mmap()(address, size, protection, flags, fd, begin)


@lru_cache
def _system_mmap() -> Any:
    import ctypes

    function = ctypes.CDLL(None).mmap
    number = ctypes.c_int
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_int64)
    function.restype = ctypes.c_void_p
    return function
