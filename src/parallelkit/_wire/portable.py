"""What travels to a worker while it is started: its name, and its initializer."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from multiprocessing import reduction
from typing import Any

from .claims import anonymous_file
from .frames import Frame
from .pickling import loads

__all__ = ["Portable", "WorkerName"]

MOST_IN_PIPE = 16_384
"""Bytes with which a process may be started. Of more than a pipe holds, spawn waits for ever to write the
rest if the process ends before it has read them; so they go in a file."""

_LEAVE_MAIN_ALONE = (
    "vars(__import__('multiprocessing.spawn', fromlist=['*']))"
    ".update(_fixup_main_from_name=id, _fixup_main_from_path=id) or name"
)

Receive = Callable[[Frame], tuple[Any, Sequence[Any]] | None]


class WorkerName(str):
    """The name of a worker process, which keeps that process from importing the user's main module.

    multiprocessing imports the main module in a process that it did not fork, which runs a script again
    that has no main guard. The name is the first thing of ours that such a process reads. Reading it makes
    the import do nothing; in that process alone, and whether or not parallelkit can be imported yet.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (_LEAVE_MAIN_ALONE, {"name": str(self)})


class Portable:
    """An object that travels to a worker as the worker starts, by value if need be.

    Only then may locks, queues and shared arrays of multiprocessing travel. It is unpickled when it is asked
    for: what the script defines then meets the `__main__` that the worker keeps.

    Args:
        pack: pickles the object; and gives frames that the worker takes in before, the last of which is the
            object itself where that has large buffers.
    """

    def __init__(self, value: Any, pack: Callable[[Any], tuple[bytes, list[Frame]]]):
        self._value = value
        self._pack = pack
        self._fd = -1

    def __reduce__(self) -> tuple[Any, ...]:
        packed = pickle.dumps(self._pack(self._value), 5)
        if len(packed) <= MOST_IN_PIPE:
            return _Arrived, (packed,)
        self._fd = anonymous_file(len(packed))
        with os.fdopen(os.dup(self._fd), "wb") as file:
            file.write(packed)
        return _arrived_in_file, (reduction.DupFd(self._fd),)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def load(self, receive: Receive) -> Any:
        return self._value  # in a forked worker


class _Arrived:
    """A `Portable` in the worker: `receive` takes a frame in, and gives what to unpickle."""

    def __init__(self, packed: bytes):
        self._packed = packed

    def load(self, receive: Receive) -> Any:
        pickled, frames = pickle.loads(self._packed)
        buffers: Sequence[Any] = ()
        for frame in frames:
            if (received := receive(frame)) is not None:
                pickled, buffers = received
        return loads(pickled, buffers=buffers)


def _arrived_in_file(duplicate: Any) -> _Arrived:
    with os.fdopen(duplicate.detach(), "rb") as file:
        file.seek(0)
        return _Arrived(file.read())
