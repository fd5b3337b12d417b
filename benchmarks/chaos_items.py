"""What `chaos.py` has workers do: items that note when they begin and end, and some that end their worker.

All that an item does follows from the seed of its call and its index: how long it takes, what it returns,
whether it fails, whether it ends its worker, and where.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any, NamedTuple, NoReturn
from zlib import crc32

_RUN = struct.Struct("<IIB3x")  # index, process id, whether it has ended
_FAULT = struct.Struct("<I20s")  # process id, what was done to it

STUCK_SECONDS = 1000.0

AT_ONCE = ("kill", "exit", "segfault", "abort", "terminate")
"""Ways to end this process, which an item takes in its middle."""

TRAPS = ("later", "claiming", "holding", "claimed", "writing")
"""Ways that an item prepares, so that its worker ends some time later, in the middle of the engine."""

DEATHS = (*AT_ONCE, *TRAPS, "pickling", "arriving")
FAILURES = ("raise", "leave", "unpicklable", "unloadable")


class Runs(NamedTuple):
    """How often each item of a call was begun, and ended."""

    begun: Counter[int]
    ended: Counter[int]

    @classmethod
    def read(cls, path: str) -> Runs:
        runs = cls(Counter(), Counter())
        with open(path, "rb") as file:
            for index, _, ended in _RUN.iter_unpack(file.read()):
                runs[ended][index] += 1
        return runs


def read_faults(path: str) -> list[tuple[int, str]]:
    """What workers did to themselves: (process id, how)."""
    with open(path, "rb") as file:
        faults = file.read()
    whole = len(faults) - len(faults) % _FAULT.size
    return [(pid, how.rstrip(b"\0").decode()) for pid, how in _FAULT.iter_unpack(faults[:whole])]


def count_faults(path: str) -> int:
    return os.path.getsize(path) // _FAULT.size


def _append(path: str, record: bytes) -> None:
    """Append to a file that is there; records of several writers do not mix."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, record)
    finally:
        os.close(file)


class Trip(NamedTuple):
    """What the items of one call do.

    Attributes:
        seed: from which all is drawn, together with the index.
        log: the file in which items note that they began or ended.
        faults: the file in which workers note how they end themselves.
        parent: the process id of the caller, in which nothing is to end.
        seconds: the longest that an item takes.
        most_bytes: the largest result.
        peril: which part of the items ends its worker.
        failing: which part fails.
        once: what ends its worker does so the first time only.
        stuck: which part never ends.
    """

    seed: str
    log: str
    faults: str
    parent: int
    seconds: float = 0.0
    most_bytes: int = 0
    peril: float = 0.0
    failing: float = 0.0
    once: bool = False
    stuck: float = 0.0

    def draw(self, index: int, what: str) -> float:
        """A number from 0 to 1, always the same; another for another word, and not related to it."""
        mixed = crc32(f"{self.seed} {what} {index}".encode())
        for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # SplitMix64; a CRC alone is linear
            mixed = (mixed ^ mixed >> 15) * factor % 2**64
            mixed ^= mixed >> 32
        return mixed / 2**64

    def fate(self, index: int) -> str:
        """How the item ends its worker or fails; empty where it does neither."""
        if self.draw(index, "peril") < self.peril:
            return DEATHS[int(self.draw(index, "death") * len(DEATHS))]
        if self.draw(index, "failing") < self.failing:
            return FAILURES[int(self.draw(index, "failure") * len(FAILURES))]
        return "stuck" if self.draw(index, "stuck") < self.stuck else ""

    def duration(self, index: int) -> float:
        return self.seconds * self.draw(index, "seconds")

    def value(self, index: int) -> tuple[int, bytes | bytearray]:
        """What the item returns. Of four results one is as large as allowed, most are much smaller."""
        size = int(self.most_bytes * min(1.0, 1.3 * self.draw(index, "bytes") ** 4))
        return index, load(index, bytes([index % 256]) * size)

    def weight(self, index: int) -> float:
        """What the item is in a sum, whose bits depend on the order."""
        return self.draw(index, "weight") * 10.0 ** (index % 17)

    def item(self, index: int, most_bytes: int = 0) -> Any:
        """The item itself: its index, alone or in a thing that is large, or that ends who unpickles it."""
        if self.fate(index) == "arriving":
            return Poison(index, self.faults, self.parent)
        if most_bytes:
            return Parcel(index, load(index, b"x" * int(most_bytes * self.draw(index, "parcel") ** 3)))
        return index

    def note(self, index: int, *, ended: bool) -> None:
        _append(self.log, _RUN.pack(index, os.getpid(), ended))


@dataclass
class Parcel:
    """An item that is large."""

    index: int
    load: bytes | bytearray


class Buffer(bytearray):
    """Bytes that offer their memory to pickles, as an array does."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Buffer, (PickleBuffer(self),)


def load(index: int, content: bytes) -> bytes | bytearray:
    """Bytes, which go through a pipe, or a buffer, which goes through shared memory if it is large."""
    return content if index % 2 else Buffer(content)


@dataclass
class Poison:
    """An item that ends the worker in which it is unpickled."""

    index: int
    faults: str
    parent: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _swallow, (self.index, self.faults, self.parent)


def _swallow(index: int, faults: str, parent: int) -> Poison:
    if os.getpid() != parent:
        die(faults, "arriving", "kill")
    return Poison(index, faults, parent)


class Fuse:
    """A result that ends the worker that pickles it."""

    def __init__(self, faults: str):
        self._faults = faults

    def __reduce__(self) -> NoReturn:
        die(self._faults, "pickling", "exit")


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise ArithmeticError("refuses to leave")


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, ()


def _explode() -> NoReturn:
    raise ArithmeticError("exploded on arrival")


# ---------------------------------------------------------------- how a worker ends


def die(faults: str, how: str, way: str = "kill") -> NoReturn:
    """Note it, and end this process."""
    _append(faults, _FAULT.pack(os.getpid(), how.encode()))
    if way == "exit":
        os._exit(3)
    if way == "segfault":
        import ctypes

        ctypes.string_at(0)
    if way == "abort":
        os.abort()
    os.kill(os.getpid(), signal.SIGTERM if way == "terminate" else signal.SIGKILL)
    time.sleep(STUCK_SECONDS)  # the signal may be a moment in coming
    raise AssertionError("this process should have ended")


def set_trap(trip: Trip, index: int, trap: str) -> None:
    """Have this process end some time later: in any place, with the lock of a claim, in a large write."""
    count = 1 + int(4 * trip.draw(index, "count"))
    delay = 0.03 * trip.draw(index, "delay")
    if trap == "later":
        timer = threading.Timer(delay, die, (trip.faults, trap))
        timer.daemon = True
        timer.start()
    elif trap == "writing":
        _trap_writing(trip.faults, trip.draw(index, "cut"))
    else:
        _trap_claims(trip.faults, trap, count, delay)


def _trap_claims(faults: str, trap: str, count: int, delay: float) -> None:
    """End at a later claim: when the lock was taken, after having held it, or before it is given back."""
    lockf: Callable[..., object] = fcntl.lockf
    left = count

    def trapped(fd: int, command: int, *rest: int) -> object:
        nonlocal left
        if command & fcntl.LOCK_UN:
            if trap == "claimed" and left <= 0:
                die(faults, trap)
            return lockf(fd, command, *rest)
        locked = lockf(fd, command, *rest)
        left -= 1
        if left <= 0 and trap != "claimed":
            if trap == "holding":
                time.sleep(delay)
            die(faults, trap)
        return locked

    fcntl.lockf = trapped  # type: ignore[assignment]


def _trap_writing(faults: str, part: float) -> None:
    """End in the middle of the next answer, of which a part was written."""

    def trapped(fd: int, parts: list[bytes]) -> int:
        whole = memoryview(b"".join(parts))
        cut = whole[: int(part * len(whole))]
        while len(cut):
            cut = cut[os.write(fd, cut) :]
        die(faults, "writing")

    os.writev = trapped  # type: ignore[assignment]


# ---------------------------------------------------------------- the functions


def enter() -> None:
    """An initializer: a worker says where it is when `chaos.py` finds that something hangs."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def run_item(trip: Trip, item: Any) -> Any:
    """An item of a map."""
    index = _begin(trip, item)
    _spend(trip.duration(index), spin=trip.draw(index, "spin") < 0.2)
    return _end(trip, index)


async def run_item_async(trip: Trip, item: Any) -> Any:
    import asyncio  # only here: most workers live for a moment

    index = _begin(trip, item)
    await asyncio.sleep(trip.duration(index))
    return _end(trip, index)


def run_span(trip: Trip, item: Any) -> Span:
    """An item of a reduce."""
    index, load = run_item(trip, item)
    return Span(index, index + 1, trip.weight(index), load)


def run_pairs(trip: Trip, item: Any) -> list[tuple[int, int]]:
    """An item of a map_reduce: its index, under one of ten keys."""
    index, _ = run_item(trip, item)
    return [(index % 10, index), (-1, 1)]


class Span(NamedTuple):
    """Consecutive items of a reduce, combined."""

    start: int
    stop: int
    weight: float
    load: bytes


@dataclass
class Join:
    """Combines neighbours, and nothing else. Some combinations end the worker they are made in."""

    trip: Trip

    def __call__(self, left: Span, right: Span) -> Span:
        if left.stop != right.start:
            raise AssertionError(f"{left[:2]} and {right[:2]} are not neighbours")
        trip = self.trip
        if trip.draw(left.stop, "join") < trip.peril / 4 and os.getpid() != trip.parent:
            die(trip.faults, "combining")
        return Span(left.start, right.stop, left.weight + right.weight, left.load)


def _begin(trip: Trip, item: Any) -> int:
    index = item if isinstance(item, int) else item.index
    fate = trip.fate(index)
    again = trip.once and fate in DEATHS and bool(Runs.read(trip.log).begun[index])
    trip.note(index, ended=False)
    if fate == "stuck":
        time.sleep(STUCK_SECONDS)
    if again:
        return int(index)
    if fate in AT_ONCE:
        die(trip.faults, fate, fate)
    if fate in TRAPS:
        set_trap(trip, index, fate)
    return int(index)


def _end(trip: Trip, index: int) -> Any:
    fate = trip.fate(index)
    again = trip.once and fate == "pickling" and Runs.read(trip.log).begun[index] > 1
    trip.note(index, ended=True)
    if fate == "raise":
        raise ValueError(index)
    if fate == "leave":
        sys.exit(index)
    if fate == "pickling" and not again:
        return index, Fuse(trip.faults)
    if fate == "unpicklable":
        return index, Unpicklable()
    if fate == "unloadable":
        return index, Unloadable()
    return trip.value(index)


def _spend(seconds: float, *, spin: bool) -> None:
    if not spin:
        time.sleep(seconds)
        return
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
