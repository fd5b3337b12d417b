"""What a pool has inside: the thread of its callbacks, how processes are made, what is asked of its queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, TypeVar

from ._driver import Driver
from .errors import WorkerDied

__all__ = ["CallbackThread", "TaskQueue", "Workshop", "callee", "end", "read"]

T = TypeVar("T")


class CallbackThread:
    """Runs the callbacks of one pool, one at a time, in a thread that is started for the first.

    So a callback needs no lock, and may wait for the pool: nothing else waits for that thread.

    Attributes:
        muted: callbacks are not called any more.
    """

    def __init__(self) -> None:
        self.muted = False
        self._closed = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def run(self, function: Callable[[], object]) -> None:
        """Have a function called, which does not raise."""
        self._queue.put(function)
        with self._starting:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._serve, name="parallelkit-callbacks", daemon=True)
                thread.start()
                self._thread = thread
        if self._closed:
            self._call_what_waits()

    def is_here(self) -> bool:
        """Whether the calling thread is the one that runs the callbacks."""
        return self._thread is threading.current_thread()

    def close(self) -> None:
        """Run what waits, and no more. May be called from anywhere."""
        self._closed = True
        self._queue.put(None)

    def join(self) -> None:
        if self._thread is not None and not self.is_here():
            self._thread.join()

    def _serve(self) -> None:
        while (function := self._queue.get()) is not None:
            function()
            del function
        self._call_what_waits()

    def _call_what_waits(self) -> None:
        """Nobody else calls it any more."""
        while True:
            try:
                function = self._queue.get_nowait()
            except Empty:
                return
            if function is not None:
                function()


class TaskQueue:
    """What is asked of the queue of tasks by programs that look at it."""

    def __init__(self, driver: Driver):
        self._driver = driver

    def qsize(self) -> int:
        """The number of calls that have items which are with no worker yet."""
        return sum(call.scheduler.waiting > 0 for call in self._driver.calls)

    def empty(self) -> bool:
        return not self.qsize()


class Workshop:
    """A context whose processes the pool makes: a subclass may have them made otherwise."""

    def __init__(self, context: Any, make: Callable[..., Any]):
        self._context = context
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def Process(self, *, name: str, **options: Any) -> Any:  # noqa: N802 - as theirs
        process = self._make(self._context, **options)
        process.name = type(name)(process.name.replace("Process", "PoolWorker"))
        return process


def end(driver: Driver, callbacks: CallbackThread) -> None:
    """End all there is. May be called from anywhere: in the middle of a garbage collection, too."""
    callbacks.muted = True
    callbacks.close()
    driver.close(kill=WorkerDied("the pool was terminated"))


def callee(function: Any) -> Any:
    """The function to call. None is no function for a pool, while for the core it is the identity."""
    return _call_none if function is None else function


def _call_none(*_: object, **__: object) -> NoReturn:
    raise TypeError("'NoneType' object is not callable")


def read(iterable: Iterable[T]) -> Iterator[T]:
    yield from iterable  # not before the first item is wanted: what is not iterable says so then
