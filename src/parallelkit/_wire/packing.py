"""What the parent sends: functions, items and shared values as frames, what is large of them in the arena.

A large buffer of an item goes into a block that one worker reads, and is its own. Those of a function, of a
shared value and of the initializer's arguments go into blocks that all workers read, each as if it had a
copy: such a thing travels alone, in a frame of the kind WORK, before the first chunk that needs it.
"""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, NamedTuple

from .._alarm import Alarm, call_at, call_soon
from .._core.chunks import Chunk
from .._lifetime import is_over
from .._sharing import Shared, any_shared, carrying
from .._work import Work, owned
from ..errors import SerializationError
from .arena import forking, new_arena, release, triples
from .frames import FUNCTION, ONCE, SHARED, Frame, Kind
from .heritage import Heritage
from .originals import Memory, Parts
from .outgoing import Outgoing
from .pickling import FunctionPickles, dumps, has_handles, unpicklable
from .placing import OutOfBand, Writer, blocks_of
from .sealed import Sealed
from .shared_blocks import SharedBlocks

__all__ = ["Packer", "Unpicklable"]

_NOTHING: AbstractContextManager[None] = nullcontext()

IDLE_SECONDS = 30.0
"""When no large buffer has come or gone for so long, free blocks give up their pages."""


class Unpicklable(Exception):
    """A chunk cannot travel; by index, what each item fails with."""

    def __init__(self, failures: dict[int, Exception]):
        super().__init__()
        self.failures = failures


class _Carried(NamedTuple):
    frame: Frame
    memory: Memory


class Packer:
    """Makes frames of what is to be sent, and keeps account of the memory that it takes.

    Args:
        workers: how many there are at a time.
        forget: a method that has all workers forget what has a key.
        trim: a method that has all workers give up the pages of free blocks.

    Attributes:
        arena: None where all goes through the pipes.
    """

    def __init__(
        self,
        workers: int,
        heritage: Heritage | None,
        forget: Callable[[int], None],
        trim: Callable[[], None],
    ):
        self.arena = new_arena(workers)
        if self.arena is not None:
            self.arena.when_freed = _weakly(self._note_use)
        self._trim_everywhere = _weakly(trim)
        self._last_use = 0.0
        self._alarm: Alarm | None = None
        self._forget = weakref.WeakMethod(forget)
        self._heritage = heritage
        self._pickling = threading.RLock()
        self._functions = FunctionPickles(heritage=heritage)
        self._outgoing = Outgoing(False, heritage)
        self._keys = count(-1, -1).__next__  # below zero: those above are of functions
        self._items = None if self.arena is None else Writer(self.arena, 0)
        self._together = None if self._items is None else SharedBlocks(self._items)
        if self._items is not None and self._together is not None:
            self._items.wait_for = self._together.wait_for
        self._handles: weakref.WeakKeyDictionary[Shared[Any], _Carried] = weakref.WeakKeyDictionary()
        self._in_parts: weakref.WeakSet[Shared[Any]] = weakref.WeakSet()  # what cannot be pickled as a whole
        self._lone: dict[int, int] = {}  # by number of chunk, keys of functions that came for it alone
        self._needed: dict[int, list[Shared[Any]]] = {}  # by number of chunk, of what it has parts
        self._initializer_is_placed = False
        self._sent = self._received = self._copies = 0
        self.with_initializer: list[Frame] = []

    # Chunks

    def function(self, chunk_id: int, work: Work, chunk: Chunk) -> tuple[int, int, bytes, list[Frame]]:
        """The function of a chunk: flags, key, pickle, and what has to be sent before.

        Raises:
            Unpicklable: it cannot be pickled.
        """
        before: list[Frame] = []
        try:
            with self._pickling, self._carrying(before):
                if work.style == "call":
                    flags, key, body = self._task(chunk_id, work, before)
                else:
                    flags, key, body = 0, *self._work(work, before)
                retired = self._functions.retired()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failure = SerializationError(
                f"the function cannot be pickled: {type(error).__name__}: {error}", part="function"
            )
            failure.__cause__ = error
            raise Unpicklable(dict.fromkeys(range(chunk.start, chunk.stop), failure)) from error
        for old in retired:
            self.forget_everywhere(old)
        return flags, key, body, before

    def items(self, chunk_id: int, chunk: Chunk, before: list[Frame]) -> tuple[bytes, bytes]:
        """The items of a chunk: pickle, and places of their large buffers.

        Raises:
            Unpicklable: some of them cannot be pickled.
        """
        items, parts = chunk.items, Parts(partial(self._carry_whole, before)) if any_shared() else None
        buffers = self._out_of_band(parts)
        try:
            with self._carrying(before):
                pickled = self._outgoing.dumps(items, buffers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failures = {chunk.start + offset: cause for offset, cause in unpicklable(items).items()}
            raise Unpicklable(
                {index: _item_failed(cause) for index, cause in failures.items()}
                or dict.fromkeys(range(chunk.start, chunk.stop), _item_failed(error))
            ) from error
        if buffers is None:
            return pickled, b""
        if parts is not None and parts.values:
            self._needed[chunk_id] = parts.values
        return pickled, self._count(buffers.places) if buffers.places else b""

    def _task(self, chunk_id: int, work: Work, before: list[Frame]) -> tuple[int, int, bytes]:
        """The function of a `submit`, which may come often, or only once."""
        assert work.function is not None
        if (known := self._functions.known(work.function)) is not None:
            return FUNCTION, *known
        buffers = self._out_of_band()
        try:
            key, body = self._functions.of(work.function, buffers)
        except BaseException:
            if buffers is not None:
                buffers.undo()
            raise
        if self._functions.keeps(key):
            return FUNCTION, key, body
        alone = self._alone(key, body, buffers)
        if alone is None:
            return FUNCTION | ONCE, key, body
        self._lone[chunk_id] = key
        before.append(alone)
        return FUNCTION, key, b""

    def _work(self, work: Work, before: list[Frame]) -> tuple[int, bytes]:
        if work.packed is None:
            key, buffers = self._keys(), self._out_of_band()
            body = self._dumps(work, buffers)
            if (alone := self._alone(key, body, buffers)) is not None:
                body = b""
                before.append(alone)
            work.packed = key, body, before[:]
        key, body, before[:] = work.packed
        return key, body

    def sealed(self, item: Any) -> Sealed:
        """An item that may be changed before it is sent."""
        return Sealed(item, self._heritage)

    # What all workers have

    def _carrying(self, before: list[Frame]) -> AbstractContextManager[None]:
        """Shared values that are pickled here are mentioned by their keys, and put into `before`."""
        return carrying(lambda shared: self._carry(before, shared)[0]) if any_shared() else _NOTHING

    def _carry(self, before: list[Frame], shared: Shared[Any]) -> tuple[int, Memory]:
        """Have a shared value sent before what mentions it: its key, and where its large buffers are."""
        with self._pickling:
            carried = self._handles.get(shared)
            if carried is None:
                key, buffers = self._keys(), self._out_of_band()
                body = self._dumps(shared.value, buffers)
                memory = Memory(()) if buffers is None else buffers.copied()
                frame = self._alone(key, body, buffers) or Frame(Kind.WORK, first=key, body=body)
                self._handles[shared] = carried = _Carried(frame._replace(flags=SHARED), memory)
                weakref.finalize(shared, _forget_soon, weakref.ref(self), key).atexit = False
        before.append(carried.frame)
        return carried.frame.first, carried.memory

    def _carry_whole(self, before: list[Frame], shared: Shared[Any], size: int) -> tuple[int, Memory] | None:
        """The same, for parts of it to travel as places; None if it would not be placed."""
        if shared not in self._handles:
            if shared in self._in_parts or self._items is None or not self._items.has_room(size):
                return None
            try:
                return self._carry(before, shared)
            except Exception:  # its parts may travel all the same
                self._in_parts.add(shared)
                return None
        return self._carry(before, shared)

    def forget_everywhere(self, key: int) -> None:
        """Have all workers forget something."""
        if (forget := self._forget()) is not None:
            forget(key)

    def initializer(self, worker: int, initial: Any) -> tuple[bytes, list[Frame]]:
        """The initializer and its arguments. Large buffers are placed when the first worker is started."""
        pickled = b""
        if not self._initializer_is_placed:
            before: list[Frame] = []
            key, buffers = self._keys(), self._out_of_band()
            with self._pickling, self._carrying(before):
                pickled = self._dumps(initial, buffers)
                if buffers is not None and buffers.places and has_handles(pickled):
                    buffers.undo()  # each worker is to have a pickle of its own
                    before.clear()
                    pickled = self._dumps(initial, None)
            alone = self._alone(key, pickled, None if has_handles(pickled) else buffers)
            self.with_initializer = before
            if alone is not None:
                pickled = b""
                self._initializer_is_placed = True
                self.with_initializer.append(alone)
        for frame in self.with_initializer:
            self.note_sent(worker, frame)
        return pickled, self.with_initializer

    def _alone(self, key: int, body: bytes, buffers: OutOfBand | None) -> Frame | None:
        """The frame of something that is large, which all workers will share."""
        if buffers is None or self._together is None:
            return None
        body = buffers.rest(body)
        if not buffers.places:
            return None
        places = self._count(buffers.places)
        self._together.add(key, places)
        return Frame(Kind.WORK, first=key, body=body, places=places)

    def _note_use(self) -> None:
        """Large buffers come or go. This may be called anywhere."""
        self._last_use = monotonic()
        if self._alarm is None and not is_over():
            self._alarm = call_at(self._last_use + IDLE_SECONDS, _weakly(self._trim_if_idle))

    def _trim_if_idle(self) -> None:
        idle_from = self._last_use + IDLE_SECONDS
        if monotonic() < idle_from:
            self._alarm = call_at(idle_from, _weakly(self._trim_if_idle))
            return
        self._alarm = None
        if self._items is not None and self.arena is not None and not self.arena.closed:
            self._items.trim()
            self._trim_everywhere()

    def _count(self, places: array[int]) -> bytes:
        self._note_use()
        copied = [size for owner, _, size in triples(places) if owner >= 0]
        self._sent += sum(copied)
        self._copies += len(copied)
        return places.tobytes()

    def _out_of_band(self, parts: Parts | None = None) -> OutOfBand | None:
        return None if self._items is None else OutOfBand(self._items, parts)

    def _dumps(self, obj: object, buffers: OutOfBand | None) -> bytes:
        try:
            return dumps(obj, False, self._heritage, buffers)
        except BaseException:
            if buffers is not None:
                buffers.undo()
            raise

    # What became of it

    def note_sent(self, worker: int, frame: Frame) -> bool:
        """A frame is about to be sent to a worker that lives; whether it still may be."""
        if frame.places and self._items is not None and self._together is not None:
            if frame.kind == Kind.WORK:
                return self._together.note_sent(frame.first, worker)
            self._items.lend(blocks_of(frame.places), worker + 1)
        return True

    def note_not_sent(self, chunk_id: int, places: bytes = b"") -> None:
        """A chunk was not sent: free what was put in the arena for it."""
        if places and self._items is not None:
            self._items.give_back(blocks_of(places))
        self.note_landed(chunk_id)

    def note_landed(self, chunk_id: int) -> None:
        """A chunk is over, and with it what was needed for it alone."""
        self._needed.pop(chunk_id, None)
        if self._lone and (key := self._lone.pop(chunk_id, None)) is not None:
            self.forget_everywhere(key)

    def note_let_go(self, worker: int, key: int) -> None:
        """A worker has nothing left of what has this key."""
        if self._together is not None:
            self._together.note_let_go(key, worker)

    def starting(self, worker: int) -> AbstractContextManager[None]:
        """A worker is started here, perhaps by a fork."""
        return forking((id(self), worker))

    def note_gone(self, worker: int, index: int) -> None:
        """A worker is dead, or could not be started; it had the index."""
        release((id(self), worker))
        if self.arena is not None and self._together is not None:
            self._together.forget_reader(worker)
            self.arena.forget_reader(worker + 1)
            self.arena.forget_writer(index + 1)

    def forget(self, key: int) -> None:
        """It will not be sent any more."""
        if self._together is not None:
            self._together.forget(key)

    def buffers(self, index: int, frame: Frame) -> Sequence[Any]:
        """The large buffers of an answer of the worker with this index."""
        if not frame.places or self.arena is None:
            return ()
        buffers = self.arena.views(index + 1, frame.places)
        self._note_use()
        self._received += sum(buffer.nbytes for buffer in buffers)
        self._copies += len(buffers)
        return buffers

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Bytes of large buffers that were sent and received, and how many were copied."""
        return self._sent, self._received, self._copies

    def is_inside(self) -> bool:
        """Whether the calling thread holds a lock of this."""
        return owned(self._pickling) or (self._together is not None and self._together.is_inside())

    def disown(self) -> None:
        if self.arena is not None:
            self.arena.disown()

    def close(self) -> None:
        if self.arena is not None and self._together is not None:
            self._together.close()
            self.arena.close()


def _forget_soon(packer: weakref.ref[Packer], key: int) -> None:
    """The handle of a shared value is gone, which a garbage collector notices in the middle of anything."""
    if (known := packer()) is not None and not is_over():
        call_soon(partial(known.forget_everywhere, key))


def _weakly(method: Callable[[], object]) -> Callable[[], object]:
    """Calls a method, as long as what it belongs to is there."""
    known = weakref.WeakMethod(method)

    def call() -> None:
        if (found := known()) is not None:
            found()

    return call


def _item_failed(cause: BaseException) -> SerializationError:
    error = SerializationError(f"the item cannot be pickled: {type(cause).__name__}: {cause}", part="item")
    error.__cause__ = cause
    return error
