"""What a pool has inside: the thread of its callbacks, how processes are made, what is asked of its queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ._calls import Task, TaskFuture
from ._driver import Driver
from ._opening import open_tasks
from ._work import Work
from .backends import new_backend

__all__ = ["CallbackThread", "TaskQueue", "Workshop"]


class CallbackThread:
    """Runs the callbacks of one pool, one at a time, in a thread that is started for the first.

    So a callback needs no lock, and may wait for the pool: nothing else waits for that thread.

    Attributes:
        muted: callbacks are not called any more.
    """

    def __init__(self) -> None:
        self.muted = False
        self._starting = threading.Lock()
        self._driver: Driver | None = None
        self._thread: int | None = None

    def run(self, function: Callable[[], object]) -> None:
        with self._starting:
            if self._driver is None:
                options = {"thread_name_prefix": "parallelkit-callbacks"}
                self._driver = Driver(new_backend("thread", 1, options), daemon=True)
                self._tasks = open_tasks(self._driver)
        work = Work(self._run, "call")
        try:
            self._tasks.submit(Task(work, (function,), {}, TaskFuture(self._driver.backend)))
        except RuntimeError:  # closed meanwhile, and muted: what is left to do does not wait
            function()

    def _run(self, function: Callable[[], object]) -> None:
        self._thread = threading.get_ident()
        function()

    def is_here(self) -> bool:
        """Whether the calling thread is the one that runs the callbacks."""
        return self._thread == threading.get_ident()

    def close(self) -> None:
        """Run what waits, and no more. May be called from anywhere."""
        if self._driver is not None:
            self._driver.close()

    def join(self) -> None:
        if self._driver is not None and not self.is_here():
            self._driver.join()


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
